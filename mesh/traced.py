"""Which trace a record belongs to, and how what follows from it gets the same one.

    Topic.trace ──planner──> TaskSpec.trace ──ledger, lease──> worker ──ledger──> TaskEnded.task ──consensus──>
    Recommendation.trace ──ledger──> gate ──> Verdict.recommendation

A message's headers end with the message; a task waits for hours, is leased again after a restart of everything, and is
told in packs with others. So the span that asked for it stands in the record, as the text of the header `traceparent`
(mesh/tracing.py). A topic that names none gets one that follows from its id. A text that is no span is passed over: a
trace refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mesh import tracing
from mesh.messages.base import Epoch, Record
from mesh.messages.commands import Recommend, Submit
from mesh.messages.judgement import Verdict
from mesh.messages.results import Planned, RecommendationMade, TaskEnded, TaskMoved
from mesh.messages.tasks import TaskSpec
from mesh.messages.topics import Topic
from mesh.tracing import Trace


def of(record: Record) -> Trace | None:
    """The span from which a record comes; None when it names none."""
    match record:
        case Topic():
            return tracing.read(record.trace) or tracing.derived("topic", record.id)
        case TaskSpec():
            return tracing.read(record.trace)
        case TaskEnded():
            return tracing.read(record.task.trace)
        case Planned() | Submit():
            return _first(record.tasks)
        case Recommend() | RecommendationMade() | Verdict():
            return tracing.read(record.recommendation.trace)
    return None


def attempt(spec: TaskSpec, epoch: Epoch) -> Trace | None:
    """The span of one lease of a task: scheduler, worker and whoever reads of it find the same one."""
    asked = tracing.read(spec.trace)
    return None if asked is None else asked.named(spec.id, str(epoch))


def stamped(record: Record) -> Record:
    """The record with the present span in it, where it has room for one and names none yet."""
    present = tracing.current()
    if present is None:
        return record
    match record:
        case Topic():
            return record if record.trace else record.evolve(trace=present.parent)
        case Submit():
            return record.evolve(
                tasks=tuple(task if task.trace else task.evolve(trace=present.parent) for task in record.tasks)
            )
        case Recommend():
            made = record.recommendation
            named = made if made.trace else msgspec.structs.replace(made, trace=present.parent)
            return record.evolve(recommendation=named)
    return record


def about(record: Record) -> dict[str, str]:
    """What log lines are about while a record is handled: topic, task, epoch, as far as it names them."""
    fields: dict[str, object] = {}
    match record:
        case Topic():
            fields = {"topic": record.id}
        case TaskEnded():
            fields = {"topic": record.topic, "task": record.task.id, "epoch": record.epoch}
        case TaskMoved():
            fields = {"topic": record.topic, "task": record.task, "epoch": record.epoch}
        case _:
            fields = {"topic": getattr(record, "topic", None)}
    return {name: str(value) for name, value in fields.items() if value}


def _first(tasks: Iterable[TaskSpec]) -> Trace | None:
    return next((found for task in tasks if (found := tracing.read(task.trace)) is not None), None)
