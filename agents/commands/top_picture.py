"""What `bin/agent top` shows, as lines of text that fit so many columns and rows. Pure: no clock, no terminal.

    head      leader, broker, time      queue, rates      store, ledger, workers by state
    workers   cores, memory and GPUs in use of what the worker has; tasks held; age of its beat
    tasks     where each running one stands; below them those that are ready, and why they wait

Narrow: columns go in the order of their importance, the name stays. Low: the head stays, workers and tasks share what
is left, and what does not fit is counted. Use is what leases have reserved (their needs), and all is that plus what the
worker offers: the mesh knows no other. One that offers nothing (drained, crowded) shows what it has reserved alone.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from agents.commands import output
from agents.commands.display import task_label
from mesh.messages.collecting import StoreUse
from mesh.messages.results import Progress
from mesh.messages.services import Status, TaskRow, WorkerRow
from mesh.messages.tasks import TaskState

ROWS_LEAST = 3
"""Rows that a table gets at least, its headers included, before the other one takes them."""

COLUMN_LEAST = 8
"""A column of words that would be narrower goes."""

BAR_COLUMNS = 12
"""Of the bar before a share done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What moves, over the last minute at most."""

    ended_per_s: float = 0.0
    entries_per_s: float = 0.0
    commands_per_s: float = 0.0
    seconds: float = 0.0
    """Over which they were taken; 0: not known yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """Everything that is shown."""

    status: Status | None = None
    store: StoreUse | None = None
    progress: Mapping[str, Progress] = dataclasses.field(default_factory=dict)
    rates: Rates = Rates()
    where: str = ""
    clock: str = ""
    complaint: str = ""
    """Why what is shown is not of now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """How rows are sorted."""

    workers: str = "name"
    tasks: str = "age"
    backwards: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What a worker's leases have reserved, and what it has in all."""

    cores: float
    cores_all: float
    memory_bytes: int
    memory_all_bytes: int
    gpus: int
    gpus_all: int


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column: its header, the text of a row, and when it goes (highest first; 0 never)."""

    header: str
    goes: int
    right: bool = False


WORKER_KEYS = {"n": "name", "c": "cores", "m": "memory", "g": "gpus", "h": "held"}
TASK_KEYS = {"a": "age", "p": "progress", "k": "kind", "w": "worker"}
"""Keys that sort; `r` turns both around."""


def use_of(worker: WorkerRow, tasks: Sequence[TaskRow]) -> Use:
    """From the needs of the tasks that it holds, and what it offers beside."""
    held = [task.needs for task in tasks if task.incarnation == worker.incarnation]
    cores, memory = sum(needs.cores for needs in held), sum(needs.memory_bytes for needs in held)
    gpus = sum(needs.gpus for needs in held)
    return Use(
        cores, cores + worker.cores_free, memory, memory + worker.memory_free_bytes, gpus, gpus + worker.gpus_free
    )


def draw(view: View, order: Order, columns: int, rows: int) -> list[str]:
    """At most `rows` lines, none wider than `columns`."""
    lines = _head(view)
    if view.status is not None and rows > len(lines) + 1:
        lines.append("")
        left = rows - len(lines)
        workers, tasks = _worker_rows(view.status, order), _task_rows(view, order)
        for_workers = min(len(workers) + 1, max(ROWS_LEAST, left - 1 - min(len(tasks) + 1, max(ROWS_LEAST, left // 2))))
        lines += _table(WORKERS, workers, columns, for_workers)
        if left - for_workers > 1 and tasks:
            lines += ["", *_table(TASKS, tasks, columns, left - for_workers - 1)]
    return [cut(line, columns) for line in lines[:rows]]


def document(view: View) -> dict[str, object]:
    """The same for programs."""
    status = view.status
    assert status is not None
    return {
        "leader": status.leader,
        "term": status.term,
        "generation": status.generation,
        "ledger_seq": status.ledger_seq,
        "tasks_by_state": status.counts,
        "rates": dataclasses.asdict(view.rates),
        "workers": [
            {**output.builtin(worker), "use": dataclasses.asdict(use_of(worker, status.tasks))}
            for worker in status.workers
        ],
        "tasks": [{**output.builtin(task), "progress": view.progress.get(task.id)} for task in status.tasks],
        "agents": status.agents,
        "left_out": status.left_out,
        "store": view.store,
    }


# -- the head ---------------------------------------------------------------------------------------------------------


def _head(view: View) -> list[str]:
    status = view.status
    if status is None:
        return [f"ramify  {view.where}  {view.clock}", view.complaint or "asking …"]
    first = (
        f"ramify  {view.where}  leader {status.leader}, term {status.term}, entry {status.ledger_seq:,}  {view.clock}"
    )
    order = [state.value for state in TaskState]
    counts = "  ".join(f"{status.counts.get(state, 0):,} {state}" for state in order)
    stands = Counter("drained" if worker.drained else worker.state for worker in status.workers)
    workers = "  ".join(f"{count} {state}" for state, count in sorted(stands.items())) or "none"
    lines = [first, f"tasks    {counts}", f"rates    {_rates(view.rates)}", f"workers  {workers}"]
    if view.store is not None:
        lines[-1] += f"    store  {_store(view.store)}"
    return [*lines, f"!  {view.complaint}"] if view.complaint else lines


def _rates(rates: Rates) -> str:
    if not rates.seconds:
        return "…"
    ended, entries, commands = rates.ended_per_s, rates.entries_per_s, rates.commands_per_s
    return f"{ended:.1f} tasks ended/s  {entries:.1f} ledger entries/s  {commands:.1f} commands/s"


def _store(use: StoreUse) -> str:
    if use.size_bytes < 0:
        return use.where
    limit = (
        f" of {output.size(use.limit_bytes)} ({use.size_bytes / use.limit_bytes:.0%})" if use.limit_bytes > 0 else ""
    )
    return f"{output.size(use.size_bytes)}{limit}"


# -- the tables -------------------------------------------------------------------------------------------------------

WORKERS = (
    Column("worker", 0), Column("state", 1), Column("cores", 2, right=True), Column("memory", 4, right=True),
    Column("gpus", 5, right=True), Column("tasks", 3, right=True), Column("beat", 6, right=True), Column("host", 7),
    Column("note", 8),
)  # fmt: skip

TASKS = (
    Column("task", 0), Column("what", 3), Column("state", 4), Column("worker", 2), Column("done", 1),
    Column("step", 5, right=True), Column("loss", 6, right=True), Column("per s", 7, right=True), Column("phase", 8),
)  # fmt: skip

Row = tuple[str, ...]


def _worker_rows(status: Status, order: Order) -> list[Row]:
    uses = {worker.incarnation: use_of(worker, status.tasks) for worker in status.workers}
    sorts: dict[str, Callable[[WorkerRow], float]] = {
        "cores": lambda one: -uses[one.incarnation].cores,
        "memory": lambda one: -uses[one.incarnation].memory_bytes,
        "gpus": lambda one: -uses[one.incarnation].gpus,
        "held": lambda one: -len(one.held),
    }
    found = sorted(status.workers, key=lambda one: one.name)
    if order.workers in sorts:
        found.sort(key=sorts[order.workers])
    rows = [_worker_row(worker, uses[worker.incarnation]) for worker in found]
    return rows[::-1] if order.backwards else rows


def _worker_row(worker: WorkerRow, use: Use) -> Row:
    state = "drained" if worker.drained and worker.state == "live" else worker.state
    return (
        worker.name,
        state,
        f"{use.cores:g}/{use.cores_all:g}",
        f"{output.size(use.memory_bytes)}/{output.size(use.memory_all_bytes)}",
        f"{use.gpus}/{use.gpus_all}",
        str(len(worker.held)),
        output.age(worker.beat_age_s),
        worker.host,
        worker.note,
    )


def _task_rows(view: View, order: Order) -> list[Row]:
    """Running ones first; a state's tasks in the chosen order."""
    assert view.status is not None
    sorts: dict[str, Callable[[TaskRow], object]] = {
        "progress": lambda one: -_done(view.progress.get(one.id)),
        "kind": lambda one: (one.executor, one.purpose),
        "worker": lambda one: one.incarnation,
    }
    found = list(view.status.tasks)  # as the leader tells them: by age
    if order.tasks in sorts:
        found.sort(key=sorts[order.tasks])  # type: ignore[arg-type]
    if order.backwards:
        found.reverse()
    found.sort(key=lambda one: one.state is not TaskState.LEASED)
    return [_task_row(task, view.progress.get(task.id)) for task in found]


def _done(progress: Progress | None) -> float:
    return progress.done if progress is not None else -1.0


def _task_row(task: TaskRow, progress: Progress | None) -> Row:
    metrics = progress.metrics if progress is not None else {}
    running = task.state is TaskState.LEASED
    step = progress.step if progress is not None else task.step
    return (
        task.id,
        task_label(task.line, task.purpose, task.executor),
        task.state.value,
        task.incarnation.partition(".")[0] if running else "",
        bar(progress.done) if running and progress is not None else "",
        f"{step:,}" if step else "",
        output.number(metrics["loss"]) if "loss" in metrics else "",
        output.number(metrics["examples_per_s"]) if "examples_per_s" in metrics else "",
        progress.phase if progress is not None and running else task.reason,
    )


def bar(done: float) -> str:
    """A share as a bar and a number."""
    done = min(1.0, max(0.0, done))
    full = round(done * BAR_COLUMNS)
    return f"{'█' * full}{'░' * (BAR_COLUMNS - full)} {done:>4.0%}"


def _table(columns: Sequence[Column], rows: Sequence[Row], width: int, height: int) -> list[str]:
    """Headers and rows; columns that do not fit go, and rows that do not fit are counted in the last line."""
    shown = rows if len(rows) < height else rows[: max(0, height - 2)]
    cells = [[output.plain(cell) for cell in row] for row in shown]
    widths = [max(map(wide, [column.header, *(row[at] for row in cells)])) for at, column in enumerate(columns)]
    kept = _fit(columns, widths, width)
    lines = [[column.header.upper() for column in columns], *cells]
    texts = ["  ".join(_pad(line[at], widths[at], columns[at].right) for at in sorted(kept)).rstrip() for line in lines]
    more = len(rows) - len(shown)
    return [*texts, f"… and {more:,} more"] if more and height > 1 else texts[:height]


def _fit(columns: Sequence[Column], widths: list[int], width: int) -> set[int]:
    """Which columns stay; the last of them may become narrower, if it holds words."""
    kept = set(range(len(columns)))
    while (over := sum(widths[at] + 2 for at in kept) - 2 - width) > 0:
        least = max(kept, key=lambda at: columns[at].goes)
        if widths[least] - over >= COLUMN_LEAST and not columns[least].right:
            widths[least] -= over
            break
        if not columns[least].goes:
            break
        kept.discard(least)
    return kept


def _pad(text: str, columns: int, right: bool) -> str:
    text = cut(text, columns)
    space = " " * (columns - wide(text))
    return space + text if right else text + space


def wide(text: str) -> int:
    """Columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def cut(text: str, columns: int) -> str:
    """A text that takes at most so many columns; one that was longer ends in an ellipsis."""
    if wide(text) <= columns:
        return text
    kept, used = "", 1
    for letter in text:
        used += wide(letter)
        if used > columns:
            break
        kept += letter
    return kept + "…" if columns > 0 else ""
