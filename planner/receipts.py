"""The ledger's word to workers: receipts for their outbox rows, leases and orders in answer to their beats.

    key  ->  recorded     the ledger has it: the outbox may let go
             refused      it never will, with the reason: the worker sets it aside under `refused/`
             None         not heard of: send it again

A refusal is derived from the state (the epoch is over, the task has ended), so it needs no event of its own: after a
restart the row is sent again and refused again.
"""

from __future__ import annotations

from collections import OrderedDict

from mesh import limits
from mesh.messages.base import Key
from mesh.messages.leases import Answer, Held, Lease, OlderCheckpoint, Order, OrderKind, Receipt
from mesh.messages.tasks import TaskState
from planner.ledger import Ledger, Task
from planner.workers import Worker

REFUSED_KEYS_MAX = 20_000
"""Refusals remembered; a forgotten one is decided again, the same way, when the row is sent again."""


DIGEST_CHARS = 16
"""Of an entry's digest, in answers and beats: enough to tell two histories apart."""


class Receipts:
    """What the ledger says of outbox rows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._refused: OrderedDict[Key, tuple[str, str]] = OrderedDict()

    def refuse(self, key: Key, incarnation: str, reason: str) -> None:
        """The row that this incarnation sent under `key` will never be recorded. It binds nobody else: a foreign row
        must not take the word away from the lease's holder, who may still owe the same key."""
        self._refused[key] = incarnation, reason
        while len(self._refused) > REFUSED_KEYS_MAX:
            self._refused.popitem(last=False)

    def of(self, key: Key) -> Receipt | None:
        """The receipt of a row, or None when there is none yet."""
        task = self._ledger.tasks.get(key.task)
        if task is not None and key in task.recorded:
            return Receipt(key=key, recorded=True)
        line = self._ledger.ended.get(key.task) if task is None else None  # it may have to look on the disk
        if line is not None:
            if line.records(key):
                return Receipt(key=key, recorded=True)
            return Receipt(key=key, recorded=False, reason=self.why_stale(key))
        incarnation, reason = self._refused.get(key, ("", ""))
        holder = task.holders.get(key.epoch, incarnation) if task is not None else incarnation
        return Receipt(key=key, recorded=False, reason=reason) if reason and holder == incarnation else None

    def why_stale(self, key: Key) -> str:
        """Why a write under this key's epoch can not be recorded, for people."""
        line = self._ledger.ended.get(key.task)
        if line is not None:
            how = f" under epoch {line.epoch}" if line.state is TaskState.SUCCEEDED else f": {line.reason}"
            return f"task {key.task} has ended as {line.state}{how}"
        task = self._ledger.tasks.get(key.task)
        if task is None:
            return f"task {key.task} is not known"
        holder = f", held by {task.incarnation}" if task.state is TaskState.LEASED else ""
        return f"epoch {key.epoch} of {key.task} is over or not yours: it is {task.state} at {task.epoch}{holder}"


def answer_to(worker: Worker, ledger: Ledger, receipts: Receipts, ledger_seq: int, ledger_digest: str = "") -> Answer:
    """The answer to a worker's last beat: leases of its offer, orders for what it holds, receipts for what it owes."""
    offer = worker.beat.offer.number
    leases = [
        _lease(ledger.tasks[name])
        for (name, epoch), granted_for in worker.granted.items()
        if granted_for == offer and ledger.holds(name, epoch, worker.incarnation)
    ]
    known = [receipt for key in worker.beat.owed if (receipt := receipts.of(key)) is not None]
    return Answer(
        incarnation=worker.incarnation,
        offer=offer,
        ledger_seq=ledger_seq,
        term=ledger.term,
        leases=tuple(leases[: limits.LEASES_PER_ANSWER_MAX]),
        orders=tuple(
            _order(held, worker, ledger, receipts) for held in worker.beat.held if not _finished(ledger, held)
        ),
        receipts=tuple(known),
        generation=ledger.generation,
        ledger_digest=ledger_digest[:DIGEST_CHARS],
        restored_from=ledger.restored_from,
        renew=len(worker.spent) > len(leases),
    )


def _finished(ledger: Ledger, held: Held) -> bool:
    """True when the task ended by this very lease: the receipt says so, an order would only repeat it."""
    line = ledger.ended.get(held.task) if held.task not in ledger.tasks else None
    return line is not None and line.key is not None and line.key.epoch == held.epoch


def _order(held: Held, worker: Worker, ledger: Ledger, receipts: Receipts) -> Order:
    if ledger.holds(held.task, held.epoch, worker.incarnation):
        drain = ledger.drained.get(worker.name)
        if drain is not None and drain.now:
            return Order(task=held.task, epoch=held.epoch, order=OrderKind.CHECKPOINT, reason=drain.reason)
        return Order(task=held.task, epoch=held.epoch, order=OrderKind.KEEP)
    reason = receipts.why_stale(Key(held.task, held.epoch, "lease", 0))
    return Order(task=held.task, epoch=held.epoch, order=OrderKind.STOP, reason=reason)


def _lease(task: Task) -> Lease:
    checkpoint = task.checkpoint
    return Lease(
        task=task.spec,
        epoch=task.epoch,
        attempt=task.attempts,
        resume=checkpoint.manifest if checkpoint else "",
        checkpoint_number=checkpoint.number if checkpoint else 0,
        trained_s=checkpoint.trained_s if checkpoint else 0.0,
        older=tuple(
            OlderCheckpoint(manifest=one.manifest, number=one.number, trained_s=one.trained_s) for one in task.older
        ),
        memory_attempts=task.memory_failures,
    )
