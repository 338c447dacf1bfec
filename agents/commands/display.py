"""How a topic's life looks: bars in a terminal, plain lines elsewhere.

    Lines   one line per event; progress of a task at most every LINE_EVERY_S
    Bars    the same events above one bar per running task: line, share done, loss, throughput

Both write to one stream (stdout, or stderr when stdout carries a JSON document). What belongs to a branch begins with
the branch's name in brackets. `rich` is imported by Bars only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

from agents.commands.output import number, plain
from mesh.messages.base import Record
from mesh.messages.judgement import Audit, Choice, Verdict
from mesh.messages.results import (
    Planned,
    Progress,
    RecommendationMade,
    TaskEnded,
    TaskMoved,
    TopicSettled,
    TopicTurnedDown,
)
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from planner import branches, tree_plans

LINE_EVERY_S = 5.0
"""Plain progress lines of one task: often enough to see life, seldom enough for a log."""

TASKS_SHOWN_MAX = 32
"""Bars at a time; a topic has far fewer tasks, `watch` without a topic may have more."""

LABEL_CHARS_MAX = 24
"""A bar's label."""

BRANCH_CHARS_MAX = 28
"""What of a branch's name stands before each of its lines."""

SHOWN_METRICS = (("loss", "loss"), ("validation_loss", "validation loss"), ("examples_per_s", "examples/s"))


NARROW_COLUMNS = 72
"""A terminal below this width shows the share done as a number only: label and figures are worth more than the bar."""


class Display(Protocol):
    """What a follower tells."""

    def record(self, record: Record) -> None:
        """A record of the result stream."""

    def progress(self, progress: Progress) -> None:
        """Where a running task stands."""

    def call(self, topic: str, label: str) -> None:
        """From now on say `label` before what is about this topic; '' for the topic that is followed itself."""

    def note(self, text: str) -> None:
        """A sentence about what the command does."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def display_for(stream: IO[str], *, bars: bool | None = None) -> Display:
    """Bars when `stream` is a terminal (or as said), else plain lines."""
    return Bars(stream) if (stream.isatty() if bars is None else bars) else Lines(stream)


def task_name(task: TaskSpec) -> str:
    """What people call a task: its line and purpose."""
    return task_label(task.line, task.purpose, task.executor)


def task_label(line: Line | None, purpose: str, executor: str) -> str:
    """The same of its parts."""
    purpose = purpose or executor
    return f"{line.value} {purpose}" if line is not None and line.value not in purpose else purpose


def sentence(record: Record) -> str:
    """A record in one line; '' for records that only move a bar."""
    match record:
        case Planned() if record.submit == branches.task_id(record.topic):
            return f"looks for branches: {record.facts.get('why', '')}"
        case Planned() if record.submit == tree_plans.tree_id(record.topic):
            return f"puts together {record.facts.get('changed', {}).get(Line.MERGE.value, 'a tree')}"
        case Planned() if "lines" in record.facts:
            what = f"{record.facts.get('name') or record.topic} ({record.specialization})"
            changed = record.facts.get("changed", {})
            more = f"; evolver: {changed['evolver']}" if changed.get("evolver") else ""
            shares = record.facts.get("shares", {})
            more += f"; budgets: {shares.get('why')}" if shares.get(Line.EVOLVER.value, 0.5) != 0.5 else ""
            return f"planned {what}: {record.facts.get('examples')} examples, {record.facts.get('why', '')}{more}"
        case TaskMoved(state=TaskState.LEASED, checkpoint_step=None):
            return f"{_task(record)} runs on {record.incarnation}"
        case TaskMoved(checkpoint_step=int(step)):
            return f"{_task(record)} has a checkpoint at step {step}"
        case TaskMoved(state=TaskState.READY | TaskState.WAITING) if record.reason:
            return f"{_task(record)} goes back to the queue: {record.reason}"
        case TaskEnded(state=TaskState.SUCCEEDED):
            return f"{task_name(record.task)} done{_outcome(record)}{_branches(record)}"
        case TaskEnded():
            return f"{task_name(record.task)} {record.state.value}: {record.reason}"
        case TopicTurnedDown():
            return f"turned down: {record.reason}"
        case TopicSettled():
            return f"settled: {record.why}"
        case Audit():
            return f"after the promotion: {record.why}"
        case RecommendationMade():
            found = record.recommendation
            return f"consensus recommends {found.choice.value}: {found.why}"
        case Verdict():
            failed = ", ".join(check.name for check in record.checks if not check.passed)
            choice = "to keep the champion" if record.choice is Choice.KEEP else f"the {record.choice.value}"
            return f"the gate accepts {choice}" if record.accepted else f"the gate rejects {choice}: {failed}"
    return ""


def _branches(ended: TaskEnded) -> str:
    """The branches that a search has found."""
    if ended.task.id != branches.task_id(ended.topic):
        return ""
    found = branches.found_by(ended)
    named = ", ".join(f"{branch.name} ({branch.examples:,})" for branch in found.branches)
    return f": {len(found.branches)} branches: {named}" if named else f": no branches, {found.why}"


class Labels:
    """What the topics of branches are called."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def call(self, topic: str, label: str) -> None:
        """Say `label` before what is about this topic."""
        self._labels[topic] = plain(label)

    def before(self, record: Record) -> str:
        """What stands before a line about this record."""
        label = self._labels.get(str(getattr(record, "topic", "")), "")
        return f"[{label if len(label) <= BRANCH_CHARS_MAX else label[: BRANCH_CHARS_MAX - 1] + '…'}] " if label else ""

    def short(self, record: Record) -> str:
        """The same for a bar: the branch's number."""
        label = self._labels.get(str(getattr(record, "topic", "")), "")
        return f"{label.partition(' ')[0]} " if label else ""


def _task(moved: TaskMoved) -> str:
    line = moved.line.value if moved.line is not None else ""
    purpose = moved.purpose or moved.task
    return purpose if not line or line in purpose else f"{line} {purpose}"


def _outcome(ended: TaskEnded) -> str:
    if ended.outcome is None:
        return ""
    kpis = ended.outcome.kpis
    shown = [f"{words} {number(kpis[key])}" for key, words in _KPIS if key in kpis]
    tail = f" ({', '.join(shown)})" if shown else ""
    return f" in {ended.outcome.seconds:.1f} s, stopped by {ended.outcome.stopped_by}{tail}{_resumed(ended.outcome)}"


def _resumed(outcome: Outcome) -> str:
    """That it is not to the last bit what an undisturbed training would have made, and why; '' when it is."""
    why = "; ".join(differed(outcome)) or "the machines differ"
    return "" if outcome.exact else f"; resumed elsewhere, not exact: {why}"


def differed(outcome: Outcome) -> list[str]:
    """What was different between the machines of a training that is not exact."""
    found = outcome.facts.get("fingerprint")
    return [str(row) for row in found] if isinstance(found, list | tuple) else []


_KPIS = (
    ("validation_accuracy", "validation accuracy"),
    ("validation_loss", "validation loss"),
    ("accuracy", "accuracy"),
    ("loss", "loss"),
)


def progress_text(metrics: Mapping[str, float]) -> str:
    """The metrics that people look at while a task runs."""
    return "  ".join(f"{words} {number(metrics[key])}" for key, words in SHOWN_METRICS if key in metrics)


def short_text(metrics: Mapping[str, float]) -> str:
    """The same for a bar: together with its label it has to fit into 80 columns."""
    shown = [
        f"{words} {metrics[key]:.3g}" for key, words in (("loss", "loss"), ("validation_loss", "val")) if key in metrics
    ]
    if "examples_per_s" in metrics:
        shown.append(f"{metrics['examples_per_s']:,.0f}/s")
    return "  ".join(shown)


class Lines:
    """Plain lines."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._shown_at: dict[str, float] = {}
        self._labels = Labels()
        self.call = self._labels.call

    def record(self, record: Record) -> None:
        """One line, or none."""
        if isinstance(record, TaskEnded):
            self._shown_at.pop(record.task.id, None)
        if text := sentence(record):
            self.note(self._labels.before(record) + text)

    def progress(self, progress: Progress) -> None:
        """One line now and then."""
        now = self._clock()
        if now - self._shown_at.get(progress.task, float("-inf")) < LINE_EVERY_S:
            return
        self._shown_at[progress.task] = now
        before = self._labels.before(progress)
        self.note(f"{before}{_label(progress)} {progress.done:>4.0%}  {progress_text(progress.metrics)}".rstrip())

    def note(self, text: str) -> None:
        """One line."""
        print(plain(text), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to leave."""


class Bars:
    """Bars below the lines, drawn by rich."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskID, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(file=stream, highlight=False)
        narrow = self._console.width < NARROW_COLUMNS
        self._bars: Any = RichProgress(
            TextColumn("{task.description}", markup=False),
            *([] if narrow else [BarColumn(bar_width=14)]),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._ids: dict[str, TaskID] = {}
        self._labels = Labels()
        self.call = self._labels.call
        self._bars.start()

    def record(self, record: Record) -> None:
        """A line above the bars; an ended task's bar goes."""
        gone = record.task.id if isinstance(record, TaskEnded) else ""
        if isinstance(record, TaskMoved) and record.state is not TaskState.LEASED:
            gone = record.task
        if gone in self._ids:
            self._bars.remove_task(self._ids.pop(gone))
        if text := sentence(record):
            self.note(self._labels.before(record) + text)

    def progress(self, progress: Progress) -> None:
        """Move or make the task's bar."""
        if progress.task not in self._ids:
            if len(self._ids) >= TASKS_SHOWN_MAX:
                return
            label = _short_label(progress, self._labels.short(progress))
            self._ids[progress.task] = self._bars.add_task(label, total=1.0, metrics="")
        self._bars.update(
            self._ids[progress.task],
            completed=progress.done,
            description=_short_label(progress, self._labels.short(progress)),
            metrics=short_text(progress.metrics),
        )

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(plain(text), markup=False)

    def close(self) -> None:
        """Remove the bars."""
        self._bars.stop()


def _short_label(progress: Progress, before: str = "") -> str:
    """A task's name for a bar; what it does besides training in place of its purpose."""
    words = before + plain(_label(progress).replace(" train", ""))
    return words if len(words) <= LABEL_CHARS_MAX else words[: LABEL_CHARS_MAX - 1] + "…"


def _label(progress: Progress) -> str:
    line = progress.line.value if progress.line is not None else ""
    words = [line] if line and line not in progress.purpose else []
    words += [progress.purpose or progress.task]
    if progress.phase and progress.phase != "training":
        words.append(f"({progress.phase})")
    return " ".join(words)
