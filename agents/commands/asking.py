"""Questions to the leading scheduler: one request, one answer, a sentence when nobody answers."""

from __future__ import annotations

import time
from typing import TypeVar

from agents.commands.reach import Reach
from mesh import codec
from mesh.errors import BusUnavailable, NotFound, Reject
from mesh.messages.base import Record
from mesh.messages.services import Ask, Problem, Status

R = TypeVar("R", bound=Record)

ANSWER_S = 3.0
"""Patience with the leader; it answers in milliseconds or it is not there."""


async def ask(
    reach: Reach,
    what: str,
    *,
    topic: str = "",
    task: str = "",
    open_only: bool = False,
    rows_max: int = 200,
    timeout_s: float = ANSWER_S,
) -> Status:
    """The leader's answer. BusUnavailable when no scheduler answers, Reject with its reason when it can not."""
    deadline_ms = int((time.time() + timeout_s) * 1_000)
    question = Ask(what=what, topic=topic, task=task, open_only=open_only, rows_max=rows_max, deadline_ms=deadline_ms)
    return await answer_of(reach, "scheduler", question, Status, timeout_s=timeout_s)


async def answer_of(reach: Reach, role: str, question: Record, wanted: type[R], *, timeout_s: float) -> R:
    """What an agent of this role answers. BusUnavailable when none does, Reject with its reason when it can not."""
    try:
        subject = reach.subjects.ask(role, reach.broker.name)
        answer = await reach.broker.request(subject, codec.encode(question), timeout_s=timeout_s)
    except (NotFound, BusUnavailable):
        raise BusUnavailable(
            f"the broker at {reach.where} runs, and no {role} of the mesh {reach.subjects.prefix!r} answered: "
            f"start one with `bin/agent up` or `bin/agent {role}`."
        ) from None
    found: Record = codec.decode(answer.data, wanted, Problem)
    if not isinstance(found, wanted):
        raise Reject(found.reason if isinstance(found, Problem) else f"the {role} answered with another record.")
    return found


async def ask_if_any(reach: Reach, what: str, *, timeout_s: float = 1.0) -> Status | None:
    """The same, None when no scheduler answers."""
    try:
        return await ask(reach, what, timeout_s=timeout_s)
    except BusUnavailable:
        return None
