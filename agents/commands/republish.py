"""`bin/agent republish`: puts what was published from here and lost since, with a broker that came back older.

Topics of the last day, under their ids, with their data from where they were read.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output, published, publishing
from agents.commands.reach import found, reach
from mesh.errors import NotFound
from mesh.setting_tree import Settings

EXAMPLE = "bin/agent republish"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "the ids of the topics")


def run(given: argparse.Namespace) -> int:
    """0, also when nothing was lost; 4 without a mesh, 6 when a topic's data can not be had any more."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        await publishing.check_streams(there)
        lost = await published.lost(there)
        again = [one.topic.id for one in lost if await published.publish_again(there, one, output.note)]
    if given.json:
        output.write_json(given.json, {"published": again, "lost": [one.topic.id for one in lost]})
    if given.json != "-":
        output.say("\n".join(again) if lost else "nothing that was published from here in the last day is lost.")
    return 0 if len(again) == len(lost) else NotFound.exit_code
