"""`bin/agent resubmit`: parked tasks start again as they were, from their newest checkpoint, with full budgets.

A task brings along the parked ones that it needs and those that were parked because it was.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.commanding import command, new_id
from agents.commands.reach import Reach, found, reach
from mesh import limits
from mesh.errors import NotFound, SettingsInvalid
from mesh.messages.commands import Resubmit
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent resubmit handwritten-digits-3fa1c20b-reinventor
bin/agent resubmit handwritten-digits-3fa1c20b
bin/agent resubmit --all"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which, and why."""
    parser.add_argument(
        "name", metavar="TASK|TOPIC", nargs="?", type=flags.name, help="a parked task, or a topic: all that are parked"
    )
    parser.add_argument("--all", action="store_true", help="all parked tasks of the mesh")
    parser.add_argument("--reason", metavar="TEXT", default="resubmitted by a person", help="why, for the record")
    flags.add_json(parser, "what starts again")


def run(given: argparse.Namespace) -> int:
    """Exit code 2 without a name, 4 without a mesh, 6 when nothing of that name is parked."""
    if bool(given.name) == given.all:
        raise SettingsInvalid(
            "resubmit expects a TASK, a TOPIC or --all; `bin/agent dead-letters` lists what is parked."
        )
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        what, topic = await _which(there, given.name or "")
        before, count = await _parked(there, topic)
        id_ = new_id()
        await command(there, Resubmit(id=id_, reason=given.reason.strip() or "resubmitted by a person", **what), id_)
        after, left = await _parked(there, topic)
    again = sorted(before - after)
    if given.json:
        output.write_json(given.json, {"resubmitted": again, "count": count - left})
    if given.json != "-":
        output.say(told(again, count - left))
    return 0


def told(again: list[str], count: int) -> str:
    """One line per task, as far as they were listed."""
    if not again:
        return "nothing starts again: what is parked needs tasks that ended without success."
    more = f"\n… and {count - len(again)} more" if count > len(again) else ""
    return "\n".join(f"{name} starts again" for name in again) + more


async def _which(there: Reach, name: str) -> tuple[dict[str, str], str]:
    """(the command's fields, the topic it is about: '' for all). NotFound when nothing that is parked goes by it."""
    if name and (rows := (await ask(there, "dead-letters", task=name, rows_max=1)).tasks):
        return {"task": name}, rows[0].topic
    if not (await ask(there, "dead-letters", topic=name, rows_max=1)).tasks:
        raise NotFound(
            f"nothing that is parked is called {name!r}; `bin/agent dead-letters` lists what is."
            if name
            else "no task is parked."
        )
    return ({"topic": name}, name) if name else ({}, "")


async def _parked(there: Reach, topic: str) -> tuple[set[str], int]:
    """Parked tasks, as many as an answer holds, and how many there are."""
    status = await ask(there, "dead-letters", topic=topic, rows_max=limits.SERVICE_ANSWER_ROWS_MAX)
    return {row.id for row in status.tasks}, len(status.tasks) + status.left_out
