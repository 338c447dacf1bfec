"""`bin/agent run`: the main job with one command.

    look at the data -> broker -> missing agents -> store the data -> publish -> follow -> verdict -> stop in order

Nothing is started for data or options that can not be used. Ctrl-C stops what this command started, in order; the topic
stays in the mesh and goes on with the next `run` or `up` of the same home folder.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from functools import partial

from agents.commands import flags, loop, output, publishing, worker_flags
from agents.commands.display import display_for
from agents.commands.following import follow
from agents.commands.report import Next, exit_code, plainly, tell
from agents.commands.result_document import build
from agents.commands.starting import started
from agents.commands.story import Ending, Story
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent run "handwritten digits" --data builtin:digits
bin/agent run "customers' questions" --data questions.csv --text question --label intent --json result.json"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The topic's options, the worker's, and --json."""
    publishing.add_flags(parser)
    worker_flags.add_flags(parser)
    flags.add_json(parser, "the result document (docs/result.md)")


def run(given: argparse.Namespace) -> int:
    """0 with a verdict, 5 when the topic is turned down, 7 when no line produced a model, 130 after Ctrl-C."""
    begun = time.monotonic()
    output.check_target(given.json)
    publishing.look(given)
    settings = flags.settings_of(given, worker_flags.settings(given))
    return loop.run_stoppable(lambda stop: _run(given, settings, stop, begun))


async def _run(given: argparse.Namespace, settings: Settings, stop: asyncio.Event, begun: float) -> int:
    display = display_for(sys.stderr if given.json == "-" else sys.stdout)
    topic, story = None, Story("")
    ending = Ending.INTERRUPTED
    try:
        async with started(settings, stop, display.note) as mesh:
            if not stop.is_set():
                base = await publishing.base_of(mesh.reach, given.base, given.task)
                encoder = await publishing.encoder_of(mesh.reach, given.encoder, display.note)
                data = await publishing.store_data(mesh.reach, given.data, display.note)
                topic = publishing.topic_of(given, data, base, encoder)
                story = Story(topic.id)
                from_seq = await publishing.publish(mesh.reach, topic, given.data)
                display.note(f"published {topic.id}")
                ending = await follow(mesh.reach, story, display, from_seq=from_seq, stop=stop, watch=mesh.check)
            seconds = time.monotonic() - begun
            if stop.is_set():
                display.note("stopping what was started …")
    finally:
        display.close()
    if topic is not None and given.json:
        output.write_json(given.json, build(topic, story, seconds=seconds, ending=ending))
    if ending is Ending.INTERRUPTED:
        output.note("bin/agent run: " + how_to_continue(story.topic, settings.nats.named, partial(flags.again, given)))
        return exit_code(ending)
    return tell("run", story, ending, partial(flags.again, given), quiet=given.json == "-")


def how_to_continue(topic: str, named: bool, following: Next = plainly) -> str:
    """What a person who pressed Ctrl-C can do now."""
    if not topic:
        return "stopped before anything was published; the same command starts again."
    if named:
        return f"stopped; {topic} stays in the mesh: follow it with `{following('watch', topic)}`."
    return (
        f"stopped; {topic} stays in the mesh and goes on from its last checkpoint: `{following('up')}`, "
        f"and in another terminal `{following('watch', topic)}`."
    )
