"""`bin/agent dead-letters`: tasks that were parked, with the reason; `bin/agent resubmit` starts them again.

The leader knows them all (the newest 10,000 are at hand); when each was parked is read from the result stream, which
remembers a week.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from collections.abc import Sequence

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.reach import Reach, found, reach
from agents.commands.stored import records
from mesh import limits
from mesh.messages.results import TaskEnded
from mesh.messages.services import TaskRow
from mesh.messages.tasks import TaskState
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent dead-letters
bin/agent dead-letters handwritten-digits-3fa1c20b --json -"""


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """One parked task."""

    task: str
    topic: str
    kind: str
    purpose: str
    reason: str
    attempts: int
    """Leases ever given."""
    parked_at_ms: int | None
    """The leader's wall clock; None when the result stream no longer knows."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A topic, or all."""
    parser.add_argument("topic", metavar="TOPIC", nargs="?", type=flags.name, help="parked tasks of this topic only")
    flags.add_json(parser, "the parked tasks")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        status = await ask(there, "dead-letters", topic=given.topic or "", rows_max=limits.SERVICE_ANSWER_ROWS_MAX)
        times = await _times(there, given.topic or "*") if status.tasks else {}
    letters = [letter(row, times.get(row.id)) for row in status.tasks]
    if given.json:
        output.write_json(given.json, {"dead_letters": [dataclasses.asdict(one) for one in letters],
                                       "left_out": status.left_out})  # fmt: skip
    if given.json != "-":
        output.say(picture(letters, status.left_out, given.topic or ""))
    return 0


async def _times(there: Reach, topic: str) -> dict[str, int]:
    """Task to the time at which it was parked last."""
    subject = there.subjects.results(topic, TaskEnded.kind)
    ended = await records(there, there.stream("RESULTS"), subject, TaskEnded)
    return {one.task.id: one.at_ms for one in ended if one.state is TaskState.PARKED}


def letter(row: TaskRow, parked_at_ms: int | None) -> DeadLetter:
    """What is told of one parked task."""
    return DeadLetter(row.id, row.topic, row.executor, row.purpose, row.reason, row.attempts, parked_at_ms)


def picture(letters: Sequence[DeadLetter], left_out: int, topic: str = "") -> str:
    """One row each, the newest first. topic: the one that was asked for, if any."""
    if not letters:
        return f"no task of a topic {topic} is parked." if topic else "no task is parked."
    rows = [(one.task, one.topic, one.kind, one.attempts, _when(one.parked_at_ms), one.reason) for one in letters]
    more = f"\n… and {left_out} more" if left_out else ""
    return output.table(("task", "topic", "kind", "tries", "parked", "reason"), rows) + more


def _when(at_ms: int | None) -> str:
    return "-" if at_ms is None else dt.datetime.fromtimestamp(at_ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
