"""`bin/agent watch [TOPIC]`: the result stream as it comes; `--json` writes one record per line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from agents.commands import flags, loop, output
from agents.commands.asking import ask, ask_if_any
from agents.commands.display import display_for
from agents.commands.following import Hearing, follow, paced, record_of, records
from agents.commands.reach import Reach, found, reach, reach_stored
from agents.commands.report import Next, exit_code, tell
from agents.commands.stored import read_all
from agents.commands.story import Story
from mesh import codec
from mesh.bus import Message
from mesh.errors import BusUnavailable, Malformed, NotFound
from mesh.messages.base import Record
from mesh.messages.results import Progress
from mesh.packed import Each

EXAMPLE = """bin/agent watch
bin/agent watch handwritten-digits-3fa1c20b --json -"""

LOOK_EVERY_S = 1.0
"""How soon a stop is noticed while nothing else happens."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Whom to watch."""
    parser.add_argument(
        "topic", metavar="TOPIC", nargs="?", type=flags.name, help="a topic's id; else everything from now on"
    )
    flags.add_json(parser, "each record, one per line,")


def run(given: argparse.Namespace) -> int:
    """With a topic: from its beginning to its end. Without: until Ctrl-C."""
    output.check_target(given.json)
    return loop.run_stoppable(lambda stop: _run(given, stop))


async def _run(given: argparse.Namespace, stop: asyncio.Event) -> int:
    settings, selected = flags.settings_of(given), flags.selected_of(given)
    async with reach_stored(settings, selected) if given.topic else reach(found(settings, selected)) as there:
        if given.topic:
            await check_topic(there, given.topic)
        if not settings.nats.named:
            await (check_goes_on(there, given.topic) if given.topic else ask(there, "status"))
        if given.json:
            return await _lines(there, given.topic or "*", given.json, stop)
        return await (
            _topic(there, given.topic, stop, partial(flags.again, given)) if given.topic else _all(there, stop)
        )


async def check_topic(there: Reach, topic: str) -> None:
    """NotFound with a sentence when no such topic was published to this mesh."""
    stored = await there.broker.last(there.stream("TOPICS"), there.subjects.topic(topic))
    if stored is None:
        raise NotFound(
            f"no topic {topic!r} was published to the mesh {there.subjects.prefix!r} at {there.where}: "
            "`bin/agent tasks` shows the topics of its tasks."
        )


async def check_goes_on(there: Reach, topic: str) -> None:
    """BusUnavailable when the topic has not ended and no scheduler is there to go on with it: nothing would come."""
    if await ask_if_any(there, "status") is not None:
        return
    story = Story(topic)
    for stored in await read_all(there, there.stream("RESULTS"), there.subjects.results(topic)):
        if (record := record_of(stored)) is not None:
            story.add(record)
    if story.ending() is None:
        raise BusUnavailable(
            f"the topic {topic!r} has not ended, and no scheduler answers: `bin/agent up` goes on with it, "
            "then watch it again."
        )


async def _topic(there: Reach, topic: str, stop: asyncio.Event, following: Next) -> int:
    story, display = Story(topic), display_for(sys.stdout)
    try:
        ending = await follow(there, story, display, from_seq=1, stop=stop)
    finally:
        display.close()
    return tell("watch", story, ending, following)


async def _all(there: Reach, stop: asyncio.Event) -> int:
    display = display_for(sys.stdout)

    async def on_progress(message: Message) -> None:
        if (progress := _progress(message)) is not None:
            display.progress(progress)

    subscription = await there.broker.subscribe(there.subjects.all_progress(), on_progress)
    try:
        await _everything(there, display.record, stop)
    finally:
        await subscription.close()
        display.close()
    return 0


async def _lines(there: Reach, topic: str, target: str, stop: asyncio.Event) -> int:
    """One JSON value per line: results in order, progress between them as it comes."""
    story, file = Story(topic), _opened(target)

    def write(record: Record) -> None:
        line = output.json_line({"record": record.kind, **output.builtin(record)})
        try:
            print(line, file=file, flush=True)
        except OSError as error:
            if file is sys.stdout:
                raise
            raise output.unwritten(f"--json {target!r}", error) from None

    async def on_progress(message: Message) -> None:
        if (progress := _progress(message)) is not None:
            write(progress)

    hearing = Hearing(there, on_progress)
    await hearing.cover(story)
    try:
        if topic == "*":
            await _everything(there, write, stop)
            return 0
        async with records(there, story, 1, stop, LOOK_EVERY_S) as items:
            async for record in items:
                if record is not None:
                    write(record)
                    await hearing.cover(story)
                if ending := story.ending():
                    return exit_code(ending)
    finally:
        await hearing.close()
        if file is not sys.stdout:
            with contextlib.suppress(OSError):  # what was not written was complained about
                file.close()
    return 0


async def _everything(there: Reach, tell: Callable[[Record], None], stop: asyncio.Event) -> None:
    """Every record of the mesh from now on."""
    state = await there.broker.state(there.stream("RESULTS"))
    async with (
        there.broker.tail(there.stream("RESULTS"), there.subjects.results(), from_seq=state.last_seq + 1) as stored,
        paced(Each(stored), stop, LOOK_EVERY_S) as items,
    ):
        async for item in items:
            record = record_of(item) if item is not None else None
            if record is not None:
                tell(record)


def _opened(target: str) -> IO[str]:
    if target == "-":
        return sys.stdout
    try:
        return Path(target).open("w", encoding="utf-8")
    except OSError as error:
        raise output.unwritten(f"--json {target!r}", error) from None


def _progress(message: Message) -> Progress | None:
    try:
        return codec.decode(message.data, Progress)
    except Malformed:
        return None
