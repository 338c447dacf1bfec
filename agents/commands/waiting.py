"""Why tasks wait, in whole sentences: a table's cell is too narrow for what a worker lacks and a task needs.

Below a table, tasks with the same reason share a line. While a topic is followed, the leader is asked every
LOOK_EVERY_S as long as a planned task is without a worker; a task that was ready for READY_S is told with its reason,
and again when the reason changes. Figures of the moment stand in brackets and are no change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from agents.commands import output
from agents.commands.asking import ask
from agents.commands.display import task_name
from agents.commands.reach import Reach
from agents.commands.story import Story
from mesh.errors import BusUnavailable, Reject
from mesh.messages.services import TaskRow
from mesh.messages.tasks import TaskSpec, TaskState

LINES_MAX = 10
"""Reasons below a table; `--json` has them all."""

LOOK_EVERY_S = 5.0
"""How often a follower asks: one small question."""

READY_S = 10.0
"""How long a task may be without a worker before people are told: leases come within two seconds where one fits, and
a task waits up to five for a worker that it prefers."""

NOTES_MAX = 3
"""Reasons told at a time; the next look tells the others."""

TOPICS_MAX = 4
"""Topics of a tree that are asked about in one look; the next look asks about those that still wait."""

ASK_S = 1.0
"""Patience with the leader: the follower shows nothing else meanwhile."""

MOMENTARY = re.compile(r" \([^)]*\)")


def lines(tasks: Iterable[TaskRow]) -> list[str]:
    """A headline and a line for each reason for which tasks wait, for a worker or for one that is silent; nothing when
    none waits."""
    by_reason: dict[str, list[str]] = {}
    for one in tasks:
        if one.state in (TaskState.READY, TaskState.LEASED) and one.reason:
            by_reason.setdefault(one.reason, []).append(one.id)
    found = [f"  {_names(names)}: {output.plain(reason)}" for reason, names in by_reason.items()]
    more = [f"  … and {len(found) - LINES_MAX} more reasons"] if len(found) > LINES_MAX else []
    return ["", "waiting", *found[:LINES_MAX], *more] if found else []


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


class Reasons:
    """Why the tasks of one topic and of its branches wait, told once each."""

    def __init__(self, reach: Reach, story: Story, note: Callable[[str], None]) -> None:
        self._reach = reach
        self._story = story
        self._note = note
        self._next_at = float("-inf")
        self._ready_since: dict[tuple[str, int], float] = {}
        """By task and attempts."""
        self._told: dict[str, str] = {}
        self._unanswered = 0

    async def look(self, now: float) -> None:
        """Ask when it is time to, and tell what is new. `now`: seconds, monotonic."""
        if now < self._next_at:
            return
        self._next_at = now + LOOK_EVERY_S
        topics = dict.fromkeys(task.topic for task in self._story.open_tasks() if self._without_worker(task))
        if not topics:
            return
        rows: list[TaskRow] = []
        try:
            for topic in list(topics)[:TOPICS_MAX]:
                status = await ask(self._reach, "tasks", topic=topic, open_only=True, timeout_s=ASK_S)
                rows += status.tasks
        except (BusUnavailable, Reject) as error:
            self._unanswered += 1
            if self._unanswered == 2:  # once may be a take-over
                self._note(f"{self._story.topic} waits: {error}")
            return
        self._unanswered = 0
        self.hear(rows, now)

    def hear(self, rows: Iterable[TaskRow], now: float) -> None:
        """The leader's rows of the topic's open tasks."""
        ready = [row for row in rows if row.state is TaskState.READY]
        self._ready_since = {
            (row.id, row.attempts): self._ready_since.get((row.id, row.attempts), now) for row in ready
        }
        news: dict[str, list[TaskRow]] = {}
        for row in ready:
            waited_s = now - self._ready_since[row.id, row.attempts]
            if waited_s >= READY_S and row.reason and self._told.get(row.id) != _lasting(row.reason):
                news.setdefault(_lasting(row.reason), []).append(row)
        for reason, waiting in list(news.items())[:NOTES_MAX]:
            self._told |= {row.id: reason for row in waiting}
            self._note(f"{_names([self._name(row) for row in waiting])} waits: {waiting[0].reason}")

    def _without_worker(self, task: TaskSpec) -> bool:
        story = self._story.of(task.topic)
        moved = story.moved.get(task.id) if story is not None else None
        return moved is None or moved.state is not TaskState.LEASED

    def _name(self, row: TaskRow) -> str:
        """What people call the task, and the branch that it belongs to."""
        found = ((story, story.tasks[row.id]) for story in self._story.all() if row.id in story.tasks)
        story, task = next(found, (self._story, None))
        name = task_name(task) if task is not None else row.purpose or row.id
        return f"[{story.label.partition(' ')[0]}] {name}" if story.label else name


def _lasting(reason: str) -> str:
    return MOMENTARY.sub("", reason)
