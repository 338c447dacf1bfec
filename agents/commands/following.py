"""Follow a topic: its records from the result stream, in order and without gaps, and the lossy progress beside them.

It ends with the topic (verdict, turned down, no line left), when it is told to stop, or with a sentence when every task
has ended and nobody goes on: then an agent is missing, and waiting longer would not say which.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from agents.commands import published
from agents.commands.display import Display
from agents.commands.reach import Reach
from agents.commands.story import RECORDS, Ending, Story
from agents.commands.waiting import Reasons
from mesh import codec
from mesh.bus import Message, Stored, Subscription
from mesh.errors import BusUnavailable, Conflict, Malformed
from mesh.messages.base import Record
from mesh.messages.results import Progress, TopicTurnedDown
from mesh.packed import Each

QUIET_S = 120.0
"""Silence after which a topic without open tasks counts as left alone: checks are planned within seconds."""

WAITING_S = 20.0
"""Silence after which people are told who should go on. Why a planned task waits is told apart (waiting.py)."""

LOOK_EVERY_S = 1.0
"""How often a helper process that died is noticed while nothing else happens."""


async def follow(
    reach: Reach,
    story: Story,
    display: Display,
    *,
    from_seq: int,
    stop: asyncio.Event,
    watch: Callable[[], None] = lambda: None,
    ask_again: Callable[[], Awaitable[None]] | None = None,
    quiet_s: float = QUIET_S,
    look_every_s: float = LOOK_EVERY_S,
) -> Ending:
    """Follow one topic to its end. `watch` is called every second and may raise (a helper has died). ask_again: what is
    to be done when the broker came back with an older store; by default the topic is published again if it is lost."""
    while True:
        try:
            return await _follow(reach, story, display, from_seq, stop, watch, quiet_s, look_every_s)
        except Conflict:
            display.note("the broker came back with an older store: what is known of the topic is read anew")
        await (ask_again() if ask_again is not None else _publish_again(reach, story, display))
        story.forget()
        from_seq = 1


async def _publish_again(reach: Reach, story: Story, display: Display) -> None:
    for one in await published.lost(reach):
        if one.topic.id == story.topic:
            await published.publish_again(reach, one, display.note)


async def _follow(
    reach: Reach,
    story: Story,
    display: Display,
    from_seq: int,
    stop: asyncio.Event,
    watch: Callable[[], None],
    quiet_s: float,
    look_every_s: float,
) -> Ending:
    """The same, in one history: Conflict when the stream is not the one that was read so far."""
    loop = asyncio.get_running_loop()
    heard_at, told = loop.time(), False
    reasons = Reasons(reach, story, display.note)

    async def on_progress(message: Message) -> None:
        nonlocal heard_at
        heard_at = loop.time()
        try:
            display.progress(codec.decode(message.data, Progress))
        except Malformed:
            return  # lossy by its nature: the next one follows

    hearing = Hearing(reach, on_progress)
    await hearing.cover(story)
    try:
        async with records(reach, story, from_seq, stop, look_every_s) as items:
            async for record in items:
                watch()
                if record is None:
                    if not story.open_tasks() and loop.time() - heard_at > quiet_s:
                        raise BusUnavailable(left_alone(story, quiet_s))
                    if not told and not story.open_tasks() and loop.time() - heard_at > WAITING_S:
                        told = True
                        display.note(f"nothing moves: {story.topic} waits for the {story.next_hand()[0]}")
                    await reasons.look(loop.time())
                    continue
                heard_at, told = loop.time(), False
                for one in story.all():
                    display.call(one.topic, one.label)
                if not isinstance(record, TopicTurnedDown) or record.topic != story.topic:
                    display.record(record)  # of a topic that was turned down the command's own last sentence says it
                if ending := story.ending():
                    return ending
                await hearing.cover(story)
        return Ending.INTERRUPTED
    finally:
        await hearing.close()


class Hearing:
    """Progress of a topic's tasks and of its branches', from when they are known."""

    def __init__(self, reach: Reach, handler: Callable[[Message], Awaitable[None]]) -> None:
        self._reach, self._handler = reach, handler
        self._subscriptions: dict[str, Subscription] = {}

    async def cover(self, story: Story) -> None:
        """Hear every topic of the story."""
        for one in story.all():
            if one.topic not in self._subscriptions:
                subject = self._reach.subjects.all_progress(one.topic)
                self._subscriptions[one.topic] = await self._reach.broker.subscribe(subject, self._handler)

    async def close(self) -> None:
        """Hear no more."""
        while self._subscriptions:
            await self._subscriptions.popitem()[1].close()


def records(
    reach: Reach, story: Story, from_seq: int, stop: asyncio.Event, every_s: float
) -> AbstractAsyncContextManager[AsyncIterator[Record | None]]:
    """The records of a topic and of its branches as they come, added to the story, None after every `every_s` without
    one; ends when `stop` is set. A context, as `paced` is."""
    return contextlib.aclosing(_records(reach, story, from_seq, stop, every_s))


async def _records(
    reach: Reach, story: Story, from_seq: int, stop: asyncio.Event, every_s: float
) -> AsyncGenerator[Record | None, None]:
    """A topic's own subject is followed until it has branches; then all results, from the next message on, in the
    stream's order. Others' are passed over."""
    while True:
        everything, grown_at = bool(story.children), 0
        subject = reach.subjects.results("*" if everything else story.topic)
        async with (
            reach.broker.tail(reach.stream("RESULTS"), subject, from_seq=from_seq) as stored,
            paced(Each(stored), stop, every_s) as items,
        ):
            async for item in items:
                if grown_at and (item is None or item.seq > grown_at):
                    break
                record = record_of(item) if item is not None else None
                if item is None or (record is not None and story.add(record)):
                    yield record
                if item is not None and story.children and not everything:
                    grown_at = item.seq
            else:
                return
        from_seq = grown_at + 1


def record_of(stored: Stored) -> Record | None:
    """The record of a result, None for a kind that this program does not know."""
    try:
        return codec.decode(stored.data, *RECORDS)
    except Malformed:
        return None


def left_alone(story: Story, quiet_s: float) -> str:
    """Who should have gone on."""
    who, what = story.next_hand()
    return (
        f"no {who} has {what} of {story.topic} within {quiet_s:.0f} s: check `bin/agent status`, "
        f"start what is missing and go on with `bin/agent watch {story.topic}`."
    )


def paced(
    items: AsyncIterator[Stored], stop: asyncio.Event, every_s: float
) -> AbstractAsyncContextManager[AsyncIterator[Stored | None]]:
    """The items as they come, None after every `every_s` without one; ends when `stop` is set.

    A context, so that no question to `items` is left open when the caller leaves in the middle.
    """
    return contextlib.aclosing(_paced(items, stop, every_s))


async def _paced(
    items: AsyncIterator[Stored], stop: asyncio.Event, every_s: float
) -> AsyncGenerator[Stored | None, None]:
    stopping = asyncio.ensure_future(stop.wait())
    following: asyncio.Future[Stored] | None = None
    try:
        while not stopping.done():
            following = following or asyncio.ensure_future(_next(items))
            await asyncio.wait((following, stopping), timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                yield None
                continue
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield item
    finally:
        stopping.cancel()
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _next(items: AsyncIterator[Stored]) -> Stored:
    return await anext(items)
