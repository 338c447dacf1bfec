"""What subscribers are told of an event: the projection of the ledger onto the RESULTS stream.

    event + the task as it is after it  ->  one record (or none)  ->  stamped with the ledger's sequence after the
    commit

Pure: the same ledger gives the same records with the same ids, so that projecting an entry twice changes nothing.
"""

from __future__ import annotations

import dataclasses

from mesh.errors import InvariantBroken
from mesh.messages import results
from mesh.messages.base import DIGEST
from mesh.messages.ledger import (
    AnyEvent,
    CheckpointRecorded,
    LeaseEnded,
    Recommended,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskReopened,
    TaskResubmitted,
    TaskSucceeded,
    TopicPlanned,
    TopicRefused,
    TopicSettled,
)
from mesh.messages.results import Kept, Planned, Projected, RecommendationMade, TaskEnded, TaskMoved, TopicTurnedDown
from planner.collecting import KEPT_AFTER
from planner.ledger import Task


@dataclasses.dataclass(frozen=True, slots=True)
class Decided:
    """An event that was folded into the state, and what subscribers will be told once it is committed."""

    event: AnyEvent
    record: Projected | None


def project(event: AnyEvent, task: Task | None) -> Projected | None:
    """The record for subscribers of this event, still without its sequence and time; None when they need not know."""
    match event:
        case TopicPlanned():
            return Planned(
                topic=event.topic,
                specialization=event.specialization,
                submit=event.submit,
                tasks=event.tasks,
                facts=event.facts,
                ledger_seq=0,
                at_ms=0,
            )
        case TopicRefused():
            return TopicTurnedDown(topic=event.topic, reason=event.reason, ledger_seq=0, at_ms=0)
        case TopicSettled():
            return results.TopicSettled(
                topic=event.topic,
                specialization=event.specialization,
                why=event.why,
                facts=event.facts,
                ledger_seq=0,
                at_ms=0,
            )
        case Recommended():
            made = event.recommendation
            return RecommendationMade(
                topic=made.topic, specialization=made.specialization, recommendation=made, ledger_seq=0, at_ms=0
            )
        case TaskLeased() | LeaseEnded() | CheckpointRecorded():
            return _moved(event, _given(task))
        case TaskResubmitted() | TaskReopened():
            return _back(event, _given(task))
        case TaskSucceeded() | TaskParked() | TaskCanceled():
            return _ended(event, _given(task))
    return None


def _moved(event: TaskLeased | LeaseEnded | CheckpointRecorded, task: Task) -> TaskMoved:
    return TaskMoved(
        topic=task.spec.topic,
        task=task.spec.id,
        state=task.state,
        epoch=event.epoch,
        incarnation=task.incarnation,
        line=task.spec.line,
        purpose=task.spec.purpose,
        reason=event.reason if isinstance(event, LeaseEnded) else "",
        checkpoint_step=event.step if isinstance(event, CheckpointRecorded) else None,
        ledger_seq=0,
        at_ms=0,
    )


def _back(event: TaskResubmitted | TaskReopened, task: Task) -> TaskMoved:
    return TaskMoved(
        topic=task.spec.topic,
        task=task.spec.id,
        state=task.state,
        epoch=task.epoch if task.attempts else None,
        line=task.spec.line,
        purpose=task.spec.purpose,
        reason=event.reason,
        ledger_seq=0,
        at_ms=0,
    )


def _ended(event: TaskSucceeded | TaskParked | TaskCanceled, task: Task) -> TaskEnded:
    return TaskEnded(
        topic=task.spec.topic,
        specialization=task.spec.specialization,
        task=task.spec,
        state=task.state,
        epoch=task.epoch if task.attempts else None,
        incarnation=task.incarnation,
        outcome=event.outcome if isinstance(event, TaskSucceeded) else None,
        reason="" if isinstance(event, TaskSucceeded) else event.reason,
        attempts=task.attempts,
        checkpoints=_kept(task) if isinstance(event, TaskSucceeded) else (),
        ledger_seq=0,
        at_ms=0,
    )


def _kept(task: Task) -> tuple[Kept, ...]:
    """Its last checkpoints, as many as the collector keeps; one that no artifact can have is left out."""
    last = (task.checkpoint, *task.older)[:KEPT_AFTER]
    known = [one for one in last if one is not None and DIGEST.match(one.manifest)]
    return tuple(Kept(number=one.number, step=one.step, manifest=bytes.fromhex(one.manifest)) for one in known)


def _given(task: Task | None) -> Task:
    if task is None:
        raise InvariantBroken("an event about a task was projected without the task")
    return task
