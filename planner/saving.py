"""The ledger's state as records, and back: what a snapshot holds. The same state, whether folded or read.

Not saved, because it follows: what a task waits for (from `after` and the ended tasks), who holds what, the topics.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.messages.ledger import SavedCheckpoint, SavedLine, SavedTask, SnapshotHead, WorkerDrained
from mesh.messages.tasks import TaskState
from planner.ledger import Checkpoint, Ended, EndedIndex, Ledger, Task


def head_of(ledger: Ledger, seq: int, digest: str) -> SnapshotHead:
    """The state's head after the entry `seq`."""
    return SnapshotHead(
        seq=seq,
        digest=digest,
        commands_seq=ledger.commands_seq,
        term=ledger.term,
        leader=ledger.leader,
        generation=ledger.generation,
        restored_from=ledger.restored_from,
        order=ledger.order,
        counts={str(state): count for state, count in ledger.counts.items()},
    )


def saved(task: Task) -> SavedTask:
    """A task as a record."""
    return SavedTask(
        spec=task.spec,
        order=task.order,
        state=task.state,
        epoch=task.epoch,
        incarnation=task.incarnation,
        attempts=task.attempts,
        failures=task.failures,
        memory_failures=task.memory_failures,
        deaths=task.deaths,
        failed_on=task.failed_on,
        again_after_s=task.again_after_s,
        checkpoint=None if task.checkpoint is None else _saved_checkpoint(task.checkpoint),
        older=tuple(map(_saved_checkpoint, task.older)),
        holders=tuple(task.holders.items()),
        recorded=tuple(task.recorded),
        reason=task.reason,
        awaits=task.awaits,
        input_failures=task.input_failures,
    )


def task_of(saved: SavedTask) -> Task:
    """The task of a record; what it waits for is not known yet."""
    return Task(
        spec=saved.spec,
        order=saved.order,
        state=saved.state,
        epoch=saved.epoch,
        incarnation=saved.incarnation,
        attempts=saved.attempts,
        failures=saved.failures,
        memory_failures=saved.memory_failures,
        deaths=saved.deaths,
        failed_on=saved.failed_on,
        again_after_s=saved.again_after_s,
        checkpoint=None if saved.checkpoint is None else _checkpoint_of(saved.checkpoint),
        older=tuple(map(_checkpoint_of, saved.older)),
        holders=dict(saved.holders),
        recorded=dict.fromkeys(saved.recorded),
        reason=saved.reason,
        awaits=saved.awaits,
        input_failures=saved.input_failures,
    )


def _saved_checkpoint(one: Checkpoint) -> SavedCheckpoint:
    return SavedCheckpoint(
        number=one.number, manifest=one.manifest, step=one.step, trained_s=one.trained_s, best=one.best
    )


def _checkpoint_of(one: SavedCheckpoint) -> Checkpoint:
    return Checkpoint(one.number, one.manifest, one.step, one.trained_s, one.best)


def line_of(line: SavedLine) -> Ended:
    """The last line of an ended task."""
    return Ended(line.task, line.topic, line.state, line.epoch, line.key, line.reason, line.recorded)


def saved_line(line: Ended) -> SavedLine:
    """The same as a record."""
    return SavedLine(
        task=line.task,
        topic=line.topic,
        state=line.state,
        epoch=line.epoch,
        key=line.key,
        reason=line.reason,
        recorded=line.recorded,
    )


def ledger_of(
    head: SnapshotHead,
    tasks: Iterable[SavedTask],
    drained: Iterable[WorkerDrained],
    said: Iterable[str],
    ended: EndedIndex,
) -> Ledger:
    """The state again. `tasks`: the parked ones in the order in which they were parked; `ended` holds every line."""
    ledger = Ledger(ended)
    ledger.term, ledger.leader, ledger.generation = head.term, head.leader, head.generation
    ledger.restored_from, ledger.commands_seq, ledger.order = head.restored_from, head.commands_seq, head.order
    for one in tasks:
        ledger.take_over(task_of(one))
    for event in drained:
        ledger.drained[event.worker] = event
    ledger.said_before(said)
    ledger.counts = {state: head.counts.get(str(state), 0) for state in TaskState}
    return ledger
