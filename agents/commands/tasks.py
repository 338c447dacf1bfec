"""`bin/agent tasks`: where each task stands: the open ones from the leader, the ended ones from the result stream.

Without a leader the ended ones are listed, and a note on stderr says that the open ones wait for `bin/agent up`.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output, waiting
from agents.commands.asking import ask
from agents.commands.reach import Reach, reach_stored
from agents.commands.stored import records
from mesh import limits
from mesh.errors import BusUnavailable
from mesh.messages.results import TaskEnded
from mesh.messages.services import TaskRow

EXAMPLE = """bin/agent tasks --open
bin/agent tasks --topic handwritten-digits-3fa1c20b"""


ONLY_ENDED = "no scheduler answers, so these are the ended tasks only; open ones go on with `bin/agent up`."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Filters."""
    parser.add_argument("--topic", metavar="TOPIC", type=flags.name, help="tasks of this topic only")
    parser.add_argument("--open", action="store_true", help="tasks that have not ended only")
    parser.add_argument("--rows", metavar="N", type=_rows, default=200, help="most rows (default 200)")
    flags.add_json(parser, "the tasks")


def _rows(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= limits.SERVICE_ANSWER_ROWS_MAX:
        raise argparse.ArgumentTypeError(f"expected 1 to {limits.SERVICE_ANSWER_ROWS_MAX} rows, got {text!r}")
    return int(text)


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs here and none ever did."""
    output.check_target(given.json)
    return loop.run_simply(_run(given))


async def _run(given: argparse.Namespace) -> int:
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        live, left_out, answered = await _live(there, given)
        ended = [] if given.open else await ended_rows(there, given.topic or "*")
    known = {row.id for row in live}
    rows = (*live, *(row for row in ended if row.id not in known))
    shown, left_out = rows[: given.rows], left_out + len(rows[given.rows :])
    if not answered:
        output.note(f"bin/agent tasks: {ONLY_ENDED}")
    if given.json:
        output.write_json(given.json, {"tasks": shown, "left_out": left_out, "open_listed": answered})
    if given.json != "-":
        output.say(picture(shown, left_out))
    return 0


async def _live(there: Reach, given: argparse.Namespace) -> tuple[tuple[TaskRow, ...], int, bool]:
    """(the leader's rows, how many it left out, did it answer). Only it knows the open ones: `--open` needs it."""
    try:
        status = await ask(there, "tasks", topic=given.topic or "", open_only=given.open, rows_max=given.rows)
    except BusUnavailable:
        if given.open:
            raise
        return (), 0, False
    return status.tasks, status.left_out, True


async def ended_rows(there: Reach, topic: str) -> list[TaskRow]:
    """Tasks that have ended, the newest first, as far back as results are kept."""
    subject = there.subjects.results(topic, TaskEnded.kind)
    found = await records(there, there.stream("RESULTS"), subject, TaskEnded)
    return [_row(ended) for ended in reversed(found)]


def _row(ended: TaskEnded) -> TaskRow:
    task = ended.task
    return TaskRow(
        id=task.id, topic=ended.topic, specialization=ended.specialization, executor=task.executor,
        purpose=task.purpose, line=task.line, state=ended.state, epoch=ended.epoch, incarnation=ended.incarnation,
        attempts=ended.attempts, priority=task.priority, reason=ended.reason, needs=task.needs,
    )  # fmt: skip


def picture(tasks: tuple[TaskRow, ...], left_out: int) -> str:
    """One row per task, then why the ready ones wait."""
    if not tasks:
        return "no such tasks."
    rows = [
        (
            one.id,
            one.executor,
            one.line.value if one.line is not None else "-",
            one.state.value,
            str(one.epoch) if one.epoch is not None else "-",
            one.attempts,
            one.priority,
            one.step,
            one.incarnation or "-",
            one.reason or "-",
        )
        for one in tasks
    ]
    headers = ("task", "kind", "line", "state", "epoch", "tries", "priority", "step", "worker", "reason")
    more = f"\n… and {left_out} more; --rows and --topic choose." if left_out else ""
    return "\n".join([output.table(headers, rows) + more, *waiting.lines(tasks)])
