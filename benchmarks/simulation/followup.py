"""A planner in small: when a task has succeeded, it submits another one that takes the output as an input.

What it submits follows from the result alone, as all of the real planner's output follows from its input: the same
result gives the same command again. After the broker came back older it starts anew from the history that is there, so
that nothing of a lost one is submitted any more, but for what was on its way at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from benchmarks.simulation.parts import KIND, Fate
from benchmarks.simulation.work import CommandLine
from mesh.messages.commands import Submit
from mesh.messages.tasks import Needs, Outcome, TaskSpec

LOOK_S = 1.0

DELAY_S = 8.0
"""Longest time until something follows: meanwhile the output may be lost."""

SHARE = 4
"""One output in so many is not followed: an artifact that nobody needs."""


class FollowUps:
    """Follows results with one task each."""

    def __init__(
        self,
        commands: CommandLine,
        succeeded: Callable[[], Iterable[tuple[TaskSpec, Outcome]]],
        faults_over: Callable[[], bool],
    ) -> None:
        """succeeded: tasks with what they made, as the ledger was a moment ago; faults_over: nothing is lost any more,
        so there is nothing to wait for."""
        self._faults_over = faults_over
        self._commands, self._succeeded = commands, succeeded
        self._followed: dict[str, Submit] = {}
        self._seen_at: dict[str, float] = {}
        self._rewinds = 0

    async def run(self) -> None:
        """As long as the seed lasts."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = asyncio.get_running_loop().time()
            for submit in self.open():
                seen_at = self._seen_at.setdefault(submit.id, now)
                if not self._faults_over() and now < seen_at + delay_s(submit):
                    continue
                rewinds = self._rewinds
                with self._commands.at_work():
                    await self._commands.put(submit)
                self._followed[submit.id] = submit
                if self._rewinds != rewinds:  # it may stand before the topic that it belongs to, and count for nothing
                    del self._commands.stored[submit.id]

    def open(self) -> list[Submit]:
        """What is to be submitted, sooner or later."""
        found = (following(spec, digest) for spec, made in self._succeeded() for digest in made.outputs.values())
        return [submit for submit in found if submit is not None and submit.id not in self._followed]

    def rewound(self) -> None:
        """Another history comes."""
        self._rewinds += 1
        for id_ in self._followed:
            self._commands.stored.pop(id_, None)
        self._followed.clear()
        self._seen_at.clear()


def following(spec: TaskSpec, digest: str) -> Submit | None:
    """The task that follows; None for those that follow themselves, and for some."""
    if spec.inputs or int(digest[:8], 16) % SHARE == 0:
        return None
    task = TaskSpec(
        id=f"{spec.id}-{digest[:8]}",
        topic=spec.topic,
        executor=KIND,
        settings=msgspec.to_builtins(Fate(seconds=2.0)),
        needs=Needs(cores=0.5, memory_bytes=1 << 20, disk_bytes=1 << 20),
        stall_s=5.0,
        after=(spec.id,) if int(digest[8:10], 16) % 2 else (),
        inputs={"model": digest},
    )
    return Submit(id=f"f-{task.id}", topic=spec.topic, tasks=(task,))


def delay_s(submit: Submit) -> float:
    """How long after the result it is submitted."""
    digest = submit.tasks[0].inputs["model"]
    return DELAY_S * int(digest[10:12], 16) / 255
