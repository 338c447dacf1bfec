"""The leader's search for artifacts that somebody needs and could not get: really missing? who made it?

    wanted digest -> in the store after all?                      nothing
                  -> the topic's results that name it as output   the newest one: its task may be reopened
                  -> none                                         nobody makes it (a user's data)

Beside the turns, one at a time, so that a slow store holds nothing up; what is found goes into the next turn like any
other input. Nothing here is lost by a crash: who still needs it tells the next leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from agents.runtime import Agent
from mesh import codec
from mesh.errors import BusUnavailable, Malformed, NotFound
from mesh.messages.results import TaskEnded
from mesh.packed import split
from planner.reopening import WANTED_MAX, Maker

PAGE = 500
"""Results that are read at once."""

RESULTS_MAX = 20_000
"""Ended tasks of one topic that are looked through, as consensus does; a topic is some ten tasks."""

AGAIN_S = 1.0
"""Pause before another attempt while the broker does not answer."""


class Search:
    """What is searched for in one term."""

    def __init__(self, agent: Agent, tell: Callable[[Maker], None]) -> None:
        self._agent, self._tell = agent, tell
        self._wanted: dict[str, str] = {}
        self._changed = asyncio.Event()

    def want(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Look for these (digest, topic)."""
        for digest, topic in wanted:
            if len(self._wanted) < WANTED_MAX:
                self._wanted[digest] = topic
                self._changed.set()

    async def run(self) -> None:
        """Search until cancelled."""
        while True:
            while not self._wanted:
                self._changed.clear()
                await self._changed.wait()
            digest, topic = next(iter(self._wanted.items()))
            try:
                await self._look_for(digest, topic)
            except (BusUnavailable, NotFound) as error:
                self._agent.log.info("the artifact %s can not be looked for now: %s", digest[:16], error)
                await asyncio.sleep(AGAIN_S)
            else:
                self._wanted.pop(digest, None)

    async def _look_for(self, digest: str, topic: str) -> None:
        store = self._agent.store()
        store.forget_stored()
        if not await store.missing(digest):
            self._agent.log.info("the artifact %s is in the store", digest[:16])
            return
        maker = Maker(digest, topic, None)
        async for ended in self._results(topic):
            if ended.outcome is not None and digest in ended.outcome.outputs.values() and ended.epoch is not None:
                maker = Maker(digest, topic, ended.task, ended.epoch, ended.incarnation)
        made_by = maker.spec.id if maker.spec is not None else "no task that is known"
        self._agent.log.warning("the artifact %s of %s is lost; it was made by %s", digest[:16], topic, made_by)
        self._tell(maker)

    async def _results(self, topic: str) -> AsyncIterator[TaskEnded]:
        """The topic's ended tasks, oldest first."""
        agent, from_seq, seen = self._agent, 1, 0
        subject = agent.subjects.results(topic, TaskEnded.kind)
        while seen < RESULTS_MAX:
            page = await agent.broker.read(agent.stream("RESULTS"), subject, from_seq=from_seq, messages_max=PAGE)
            for stored in page:
                for row in split(stored):
                    seen += 1
                    try:
                        yield codec.decode(row.data, TaskEnded)
                    except Malformed:
                        continue
            if len(page) < PAGE:
                return
            from_seq = page[-1].seq + 1
