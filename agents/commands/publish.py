"""`bin/agent publish`: a topic for a running mesh; its id is the answer."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from functools import partial

from agents.commands import flags, loop, output, publishing
from agents.commands.display import display_for
from agents.commands.following import follow
from agents.commands.reach import found, reach
from agents.commands.report import tell
from agents.commands.result_document import build
from agents.commands.story import Story
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent publish "customers' questions" --data questions.csv
bin/agent publish "coin flips" --data flips.csv --specialization stats-bayesian --priority 8 --wait"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The topic's options, and whether to stay."""
    publishing.add_flags(parser)
    parser.add_argument("--wait", action="store_true", help="stay until the verdict")
    flags.add_json(parser, "the topic's id, or with --wait the result document,")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 without a mesh; with --wait that of the topic's ending."""
    output.check_target(given.json)
    publishing.look(given)
    settings = found(flags.settings_of(given), flags.selected_of(given))
    return loop.run_stoppable(lambda stop: _run(given, settings, stop))


async def _run(given: argparse.Namespace, settings: Settings, stop: asyncio.Event) -> int:
    started = time.monotonic()
    async with reach(settings) as there:
        await publishing.check_streams(there)
        base = await publishing.base_of(there, given.base, given.task)
        encoder = await publishing.encoder_of(there, given.encoder, output.note)
        data = await publishing.store_data(there, given.data, output.note)
        topic = publishing.topic_of(given, data, base, encoder)
        from_seq = await publishing.publish(there, topic, given.data)
        if not given.wait:
            if given.json:
                output.write_json(given.json, {"topic": topic.id, "text": topic.text})
            if given.json != "-":
                output.say(topic.id)
            return 0
        output.note(f"published {topic.id}")
        story = Story(topic.id)
        display = display_for(sys.stderr if given.json == "-" else sys.stdout)
        try:
            ending = await follow(there, story, display, from_seq=from_seq, stop=stop)
        finally:
            display.close()
    if given.json:
        output.write_json(given.json, build(topic, story, seconds=time.monotonic() - started, ending=ending))
    return tell("publish", story, ending, partial(flags.again, given), quiet=given.json == "-")
