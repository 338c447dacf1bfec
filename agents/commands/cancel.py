"""`bin/agent cancel`: withdraw a task, or everything that is still open of a topic.

A worker that runs such a task is told to stop with its next beat. Tasks that need a canceled one are parked.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.commanding import command, new_id
from agents.commands.reach import Reach, found, reach
from mesh import limits
from mesh.errors import NotFound
from mesh.messages.commands import Cancel
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent cancel handwritten-digits-3fa1c20b
bin/agent cancel handwritten-digits-3fa1c20b-reinventor --reason "the data was wrong" """.rstrip()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What, and why."""
    parser.add_argument("name", metavar="TASK|TOPIC", type=flags.name, help="a task, or a topic: all its open tasks")
    parser.add_argument("--reason", metavar="TEXT", default="canceled by a person", help="why, for those who follow it")
    flags.add_json(parser, "what was canceled")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 without a mesh, 6 when nothing of that name is open."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        of_topic = await _open(there, topic=given.name)
        before = of_topic or await _open(there, task=given.name)
        if not before:
            raise NotFound(f"no open task or topic is called {given.name!r}; `bin/agent tasks --open` lists them.")
        id_ = new_id()
        what = {"topic": given.name} if of_topic else {"task": given.name}
        await command(there, Cancel(id=id_, reason=given.reason.strip() or "canceled by a person", **what), id_)
        after = await _open(there, **what)
    canceled = sorted(before - after)
    if given.json:
        output.write_json(given.json, {"canceled": canceled})
    if given.json != "-":
        output.say("\n".join(f"canceled {name}" for name in canceled) or "nothing was open any more.")
    return 0


async def _open(there: Reach, topic: str = "", task: str = "") -> set[str]:
    rows_max = limits.SERVICE_ANSWER_ROWS_MAX
    status = await ask(there, "tasks", topic=topic, task=task, open_only=True, rows_max=rows_max)
    return {row.id for row in status.tasks}
