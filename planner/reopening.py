"""Ended tasks that are done once more, because an output that somebody needs is lost.

    a task can not be given an input          -> tried again, a few times: perhaps it is just being sent again
    still not there                           -> `wanted`: the agent looks whether it is really missing, and who made it
    its maker has succeeded, and nothing since -> the maker is reopened; open tasks that need the output wait for it
    its maker has made another one since      -> who needs the lost one can never run, and is set aside
    nobody made it (a user's data)            -> tried on for some minutes, then set aside

So what nobody needs is not done again. An ended task is reopened at most until it had LEASES_MAX leases.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

from mesh import limits
from mesh.messages.base import Epoch
from mesh.messages.ledger import TaskReopened
from mesh.messages.tasks import TaskSpec, TaskState
from planner.ledger import Ledger

TRIES = 3
"""Attempts at an input before its maker is looked for: after a restore, workers are putting again what they have."""

ATTEMPTS_MAX = 12
"""Attempts at an input that nobody makes: with the pauses between them some eight minutes."""

PAUSE_S_FIRST, PAUSE_S_MAX = 2.0, 60.0
"""Pauses between these attempts, doubled each time."""

LEASES_MAX = 50
"""Leases after which a task is not reopened: something else is wrong than one lost store."""

WANTED_MAX = 1_000
"""Missing artifacts that are looked for, and known makers; those that come later are told of again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Maker:
    """What the agent found out about a missing artifact: the newest result that names it."""

    digest: str
    topic: str
    spec: TaskSpec | None
    """The task that made it; None when none is known."""
    epoch: Epoch = Epoch(0, 0)  # noqa: RUF009 - immutable
    incarnation: str = ""


class Reopening:
    """What is missing, and who makes it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._wanted: OrderedDict[str, str] = OrderedDict()
        self._makers: OrderedDict[str, str] = OrderedDict()

    def want(self, digest: str, topic: str) -> None:
        """Somebody of this topic needs an artifact that he could not get."""
        if len(self._wanted) < WANTED_MAX:
            self._wanted[digest] = topic

    def take(self) -> list[tuple[str, str]]:
        """(digest, topic) of what is to be looked for, once."""
        wanted = list(self._wanted.items())
        self._wanted.clear()
        return wanted

    def maker_of(self, digest: str, task: str) -> str:
        """The open task that makes this artifact anew for another one; '' when none is known, or when it waits for that
        one itself: equal bytes may have several makers, and two tasks must not wait for each other."""
        name = self._makers.get(digest, "")
        return name if name in self._ledger.tasks and task not in self._ledger.before([name]) else ""

    def waiting_for(self, maker: Maker) -> tuple[str, ...]:
        """Open tasks of the topic that can not run without it and do not run."""
        names = sorted(self._ledger.by_topic.get(maker.topic, ()))
        tasks = (self._ledger.tasks[name] for name in names)
        return tuple(
            task.spec.id
            for task in tasks
            if task.state is not TaskState.LEASED and maker.digest in task.spec.inputs.values()
        )

    def made_again(self, maker: Maker) -> bool:
        """Has the maker ended another time since, so that this artifact will never come again?"""
        line = self._ledger.ended.get(maker.spec.id) if maker.spec is not None else None
        return line is not None and (line.state is not TaskState.SUCCEEDED or line.epoch != maker.epoch)

    def event(self, maker: Maker) -> TaskReopened | None:
        """What is to be decided; None when nothing is."""
        if maker.spec is None:
            return None
        name, line = maker.spec.id, self._ledger.ended.get(maker.spec.id)
        self._makers[maker.digest] = name
        while len(self._makers) > WANTED_MAX:
            self._makers.popitem(last=False)
        if line is None or self.made_again(maker) or line.epoch.count >= LEASES_MAX:
            return None
        before = self._ledger.before(maker.spec.after)
        if any(name in (*self._ledger.tasks[one].spec.after, *self._ledger.tasks[one].awaits) for one in before):
            return None  # it would wait for who waits for it
        waiting = [one for one in self.waiting_for(maker) if one not in before]
        reason = f"its output {maker.digest[:16]} is not in the store any more, and is needed"
        return TaskReopened(
            task=name,
            spec=maker.spec,
            incarnation=maker.incarnation,
            reason=reason[: limits.TEXT_CHARS_MAX],
            waiting=tuple(waiting[: limits.TASKS_PER_PLAN_MAX]),
        )


def pause_s(failures: int) -> float:
    """The pause after so many attempts at an input before this one."""
    return float(min(PAUSE_S_MAX, PAUSE_S_FIRST * 2 ** min(failures, 30)))
