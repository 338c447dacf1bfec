"""The leader's search for artifacts that somebody needs and could not get: really missing? who made it?

    wanted digest -> in the store after all?                      nothing
                  -> all workers are asked for it, who put it again from their caches; some beats later:
                  -> in the store?                                nothing
                  -> the topic's results that name it as output   the newest one: its task may be reopened
                  -> none                                         nobody makes it (a user's data)

Beside the turns, so that a slow store holds nothing up; what is found goes into the next turn like any other input.
Nothing here is lost by a crash: who still needs it tells the next leader.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Iterable

from agents.runtime import Agent, now_s, within
from mesh import codec
from mesh.errors import BusUnavailable, Malformed, NotFound
from mesh.messages import object_names
from mesh.messages.collecting import Wanted
from mesh.messages.results import TaskEnded
from mesh.packed import split
from planner.reopening import WANTED_MAX, Maker

PAGE = 500
"""Results that are read at once."""

RESULTS_MAX = 20_000
"""Ended tasks of one topic that are looked through, as consensus does; a topic is some ten tasks."""

AGAIN_S = 1.0
"""Pause before another attempt while the broker does not answer."""

LOOK_S = 60.0
"""Longest wait while nothing is due."""

ASKED_BEATS = 5
"""How long workers that are asked for an artifact have time to put it again, in beats: ten seconds."""


@dataclasses.dataclass(slots=True)
class _Wanted:
    topic: str
    due: float = 0.0
    """When to look again, after the workers were asked; 0: they were not."""


class Search:
    """What is searched for in one term."""

    def __init__(self, agent: Agent, tell: Callable[[Maker], None]) -> None:
        self._agent, self._tell = agent, tell
        self._wanted: dict[str, _Wanted] = {}
        self._changed = asyncio.Event()

    def want(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Look for these (digest, topic)."""
        for digest, topic in wanted:
            if len(self._wanted) < WANTED_MAX and digest not in self._wanted:
                self._wanted[digest] = _Wanted(topic)
                self._changed.set()

    async def run(self) -> None:
        """Search until cancelled."""
        while True:
            due_s = min((one.due for one in self._wanted.values()), default=math.inf) - now_s()
            if due_s > 0:
                self._changed.clear()
                await within(min(due_s, LOOK_S), self._changed)
                continue
            digest = min(self._wanted, key=lambda name: self._wanted[name].due)
            try:
                if await self._is_settled(digest, self._wanted[digest]):
                    del self._wanted[digest]
            except (BusUnavailable, NotFound) as error:
                self._agent.log.info("the artifact %s can not be looked for now: %s", digest[:16], error)
                await asyncio.sleep(AGAIN_S)

    async def _is_settled(self, digest: str, wanted: _Wanted) -> bool:
        """Is nothing more to be done about it here?"""
        store = self._agent.store()
        store.forget_stored()
        if not await store.missing(digest):
            self._agent.log.info("the artifact %s is in the store", digest[:16])
            return True
        if not wanted.due:
            asked = Wanted(names=(str(object_names.manifest(digest)),))
            await self._agent.broker.publish(self._agent.subjects.wanted(), codec.encode(asked))
            wanted.due = now_s() + ASKED_BEATS * self._agent.settings.scheduler.beat_s
            return False
        await self._look_for(digest, wanted.topic)
        return True

    async def _look_for(self, digest: str, topic: str) -> None:
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
