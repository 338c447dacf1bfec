"""What a worker is asked directly, by a person's command: to take a checkpoint of a task that it runs.

    save -> the child that runs the task is asked -> save-answer, at once       (the checkpoint comes as a row)
            no such lease here, or nothing to ask -> save-answer, with why not

Nothing is decided here and nothing is recorded: a lost question or answer costs the asker a repetition.
"""

from __future__ import annotations

from collections.abc import Iterable

from agents.runtime import Agent
from agents.worker_task import Running
from mesh import codec
from mesh.bus import Message
from mesh.errors import BusUnavailable, Malformed
from mesh.messages.base import Record
from mesh.messages.services import Problem, SaveAnswer, SaveQuestion


async def answer(agent: Agent, message: Message, running: Iterable[Running]) -> None:
    """Answer one question about the leases that run here."""
    if not agent.subjects.may_answer(message.reply, agent.subjects.asker(message.subject)):
        return
    found: Record
    try:
        found = saved(codec.decode(message.data, SaveQuestion).task, running)
    except Malformed as error:
        found = Problem(reason=str(error))
    try:
        await agent.broker.publish(message.reply, codec.encode(found))
    except BusUnavailable:
        return  # the asker has a deadline of his own


def saved(task: str, running: Iterable[Running]) -> SaveAnswer:
    """Ask the lease of this task for a checkpoint."""
    for one in running:
        if one.lease.task.id == task:
            return one.save()
    return SaveAnswer(task=task, asked=False, reason="this worker does not run it")
