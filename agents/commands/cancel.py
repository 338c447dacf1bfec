"""`bin/agent cancel`: withdraw a task, or everything that is still open of a topic.

A worker that runs such a task is told to stop with its next beat. Tasks that need a canceled one are parked. A topic
that was divided ends as a whole: it is settled, and its planner withdraws what is open of its branches.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.commanding import command, new_id
from agents.commands.reach import Reach, found, reach
from agents.commands.stored import records
from mesh import limits
from mesh.errors import NotFound
from mesh.messages.commands import Cancel, Settle
from mesh.messages.results import TopicSettled
from mesh.setting_tree import Settings
from planner.branches import child_id
from planner.trees import ENDED, NOTHING

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
        reason = given.reason.strip() or "canceled by a person"
        divided = await _is_divided(there, given.name)
        of_topic = await _open(there, topic=given.name)
        before = of_topic or (set() if divided else await _open(there, task=given.name))
        if not before and not divided:
            raise NotFound(f"no open task or topic is called {given.name!r}; `bin/agent tasks --open` lists them.")
        if divided:
            await command(there, Settle(topic=given.name, why=reason, facts={**NOTHING, ENDED: True}), new_id())
        what = {"topic": given.name} if of_topic or divided else {"task": given.name}
        if before:
            id_ = new_id()
            await command(there, Cancel(id=id_, reason=reason, **what), id_)
        after = await _open(there, **what)
    canceled = sorted(before - after)
    if given.json:
        output.write_json(given.json, {"canceled": canceled})
    if given.json != "-":
        told = [f"canceled {name}" for name in canceled]
        told += [f"ended {given.name}; its planner withdraws what is open of its branches"] if divided else []
        output.say("\n".join(told) or "nothing was open any more.")
    return 0


async def _is_divided(there: Reach, topic: str) -> bool:
    """Does a topic have branches, and is it not over?"""
    if await there.broker.last(there.stream("TOPICS"), there.subjects.topic(child_id(topic, 0))) is None:
        return False
    return not await records(
        there, there.stream("RESULTS"), there.subjects.results(topic, TopicSettled.kind), TopicSettled
    )


async def _open(there: Reach, topic: str = "", task: str = "") -> set[str]:
    rows_max = limits.SERVICE_ANSWER_ROWS_MAX
    status = await ask(there, "tasks", topic=topic, task=task, open_only=True, rows_max=rows_max)
    return {row.id for row in status.tasks}
