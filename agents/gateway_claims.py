"""What a worker over HTTP asks: a seat, work, and that what it found is recorded.

    register    a seat under the name of the token; heartbeat keeps it, and brings orders
    claim       waits for a lease; a newer claim of the same worker ends an older one
    complete    a row of the outbox (result, failure, give-back): 200 when the ledger has recorded it, 409 with the
                ledger's reason when it never will, 202 when it has not spoken yet: the row is on disk and will be sent
                until it does; the same request again asks what became of it
    checkpoint  likewise, and the work goes on; progress is for whoever watches

The name is always the token's: nobody can claim or complete for another. A lease that this worker was never given is
404; whether an epoch is over is for the ledger to say.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
from aiohttp import web

from agents.gateway_claim_bodies import (
    RECEIPT_S_MAX,
    Claim,
    Claimed,
    Complete,
    Heartbeat,
    HeldLease,
    LeaseAnswer,
    MakeCheckpoint,
    Noted,
    OrderAnswer,
    Orders,
    Register,
    Registered,
    ReportProgress,
)
from agents.gateway_problems import refuse
from agents.gateway_routes import JSON, Call, Part, Route
from agents.gateway_seat import HEARTBEAT_S, SILENT_S, InHand, Seat
from agents.gateway_seat_file import Offering
from agents.gateway_seats import Seats
from agents.gateway_tokens import WORKERS
from agents.holdings import Name
from agents.runtime import Agent
from mesh import codec
from mesh.errors import ArtifactMissing, StaleWrite
from mesh.messages.artifacts import Manifest
from mesh.messages.base import Key
from mesh.messages.commands import CheckpointMade, FailureFound, GiveBack, Owed, ResultFound
from mesh.messages.leases import Order
from mesh.messages.results import Progress

WORKERS_AT, TRAINING_AT = "/api/v1/network/workers", "/api/v1/network/training"


class Claims(Part):
    """The routes of workers."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._store = agent.store()
        self._seats = Seats(agent, self._store)

    def routes(self) -> tuple[Route, ...]:
        """For workers alone."""
        row = functools.partial(Route, roles=WORKERS)
        owed = functools.partial(
            row, answer=Noted, statuses=(202, 404, 409, 507), deadline_s=RECEIPT_S_MAX + 5.0, about=OWED_ABOUT
        )
        at = WORKERS_AT, TRAINING_AT
        return (
            row(
                "POST", f"{at[0]}/register", self.register, "Take a seat, or come back to it",
                body=Register, answer=Registered, statuses=(409, 507),
                about="Without the incarnation of an earlier answer a new life begins, and the leases of the one "
                "before are over.",
            ),
            row(
                "POST", f"{at[0]}/heartbeat", self.heartbeat, "Say that the worker lives and what it holds",
                body=Heartbeat, answer=Orders, statuses=(409, 507),
            ),
            row(
                "POST", f"{at[1]}/claim", self.claim, "Wait for work", long=True,
                body=Claim, answer=Claimed, statuses=(409, 507),
                about="Answers as soon as there is a lease, at the latest after `wait_s`. A newer claim of the same "
                "worker ends an older one, which then brings nothing.",
            ),
            owed(
                "POST", f"{at[1]}/complete", self.complete, "End a lease: result, failure or give-back", body=Complete
            ),
            owed(
                "POST", f"{at[1]}/checkpoint", self.checkpoint, "Have an uploaded checkpoint recorded",
                body=MakeCheckpoint,
            ),
            row(
                "POST", f"{at[1]}/progress", self.progress, "Tell watchers how far a task is",
                body=ReportProgress, answer=OrderAnswer, statuses=(404, 409),
            ),
        )  # fmt: skip

    async def run(self) -> None:
        """The seats' own life."""
        await self._seats.run()

    async def close(self) -> None:
        """Seats fall silent; the next gateway on this home opens them again."""
        await self._seats.close()

    # -- the seat -----------------------------------------------------------------------------------------------------

    async def register(self, call: Call) -> Registered:
        """Take a seat, or come back to it."""
        asked = call.body(Register)
        offering = Offering(
            kinds=asked.kinds,
            cores=asked.cores,
            memory_bytes=asked.memory_bytes,
            disk_bytes=asked.disk_bytes,
            leases_max=asked.leases_max,
            gpu_memory_bytes=asked.gpu_memory_bytes,
            labels=asked.labels,
        )
        seat = await self._seats.register(call.identity.name, offering, asked.incarnation)
        return Registered(
            name=seat.name,
            incarnation=seat.incarnation,
            heartbeat_s=HEARTBEAT_S,
            silent_s=SILENT_S,
            leases=_leases(seat.leases),
        )

    async def heartbeat(self, call: Call) -> Orders:
        """The worker lives, and hears what to do with what it holds."""
        asked, seat = call.body(Heartbeat), await self._seats.of(call.identity.name)
        orders = seat.named(_held(asked.held))
        if asked.leaving:
            await seat.leave()
            return Orders(orders=())
        return Orders(orders=_orders(orders), waiting=seat.waiting)

    async def claim(self, call: Call) -> Claimed:
        """Wait for leases."""
        asked, seat = call.body(Claim), await self._seats.of(call.identity.name)
        held = _held(asked.held)
        orders = seat.named(held)
        leases = await seat.claim(held, asked.leases_max, asked.wait_s)
        return Claimed(leases=_leases(leases), orders=_orders(orders))

    # -- rows ---------------------------------------------------------------------------------------------------------

    async def complete(self, call: Call) -> web.Response:
        """The end of a lease."""
        asked, seat = call.body(Complete), await self._seats.of(call.identity.name)
        life = seat.life_of(*asked.lease)
        record: Owed
        if asked.outcome is not None:
            for name, digest in asked.outcome.outputs.items():
                await self._stored(digest, f"output {name[:64]!r}")
            record = ResultFound(key=Key(*asked.lease, ResultFound.kind, 1), incarnation=life, outcome=asked.outcome)
        elif asked.failure is not None:
            record = FailureFound(
                key=Key(*asked.lease, FailureFound.kind, 1),
                incarnation=life,
                failure=asked.failure.failure,
                reason=asked.failure.reason,
                missing=asked.failure.missing,
            )
        else:
            record = GiveBack(
                key=Key(*asked.lease, GiveBack.kind, 1), incarnation=life, reason=asked.give_back or "given back"
            )
        return await _noted(seat, record, asked.wait_s)

    async def checkpoint(self, call: Call) -> web.Response:
        """A checkpoint of a lease, whose work goes on."""
        asked, seat = call.body(MakeCheckpoint), await self._seats.of(call.identity.name)
        life = seat.life_of(*asked.lease)
        manifest = await self._stored(asked.manifest, "the checkpoint")
        wanted = {"task": asked.task, "epoch": asked.epoch, "number": asked.number}
        if manifest.media != "checkpoint" or any(manifest.facts.get(name) != value for name, value in wanted.items()):
            raise refuse(
                "invalid", f"the artifact of a checkpoint has the media 'checkpoint' and the facts {wanted}, by which "
                "it is collected when a newer one is recorded: upload it with them."
            )  # fmt: skip
        record = CheckpointMade(
            key=Key(*asked.lease, CheckpointMade.kind, asked.number),
            incarnation=life,
            manifest=asked.manifest,
            step=asked.step,
            best=asked.best,
            trained_s=asked.trained_s,
        )
        return await _noted(seat, record, asked.wait_s)

    async def progress(self, call: Call) -> OrderAnswer:
        """How far a task is; the answer is the order for its lease."""
        asked, seat = call.body(ReportProgress), await self._seats.of(call.identity.name)
        seat.life_of(*asked.lease)
        lease = seat.lease(*asked.lease)
        if lease is None:
            raise StaleWrite(seat.why_not(*asked.lease))
        await seat.progress(
            Progress(
                topic=lease.task.topic,
                task=lease.task.id,
                epoch=lease.epoch,
                worker=seat.name,
                line=lease.task.line,
                purpose=lease.task.purpose,
                step=asked.step,
                done=asked.done,
                metrics=asked.metrics,
                phase=asked.phase,
            )
        )
        return _order(seat.order(*asked.lease))

    async def _stored(self, digest: str, what: str) -> Manifest:
        """The manifest of an artifact that a row names: everything that a row names is stored before."""
        try:
            return await self._store.manifest(digest)
        except ArtifactMissing:
            raise refuse("invalid", f"{what} is the artifact {digest[:16]}, which is not stored: upload it.") from None


OWED_ABOUT = """
200: the ledger has recorded it. 202: it is written down here and will be sent until the ledger speaks; ask again with
the same request. 409: the ledger will never record it, and says why. Task, epoch and kind (and a checkpoint's number)
name the row: the same request again changes nothing, another content under the same name is a conflict.
"""


async def _noted(seat: Seat, record: Owed, wait_s: float) -> web.Response:
    """Write a row down and say what the ledger says. Malformed for what no reader of the mesh would take."""
    codec.decode(codec.encode(record), type(record))
    receipt = await seat.owe(record, wait_s)
    if receipt is not None and not receipt.recorded:
        raise StaleWrite(receipt.reason)
    key = record.key
    noted = Noted(task=key.task, epoch=str(key.epoch), kind=key.kind, number=key.number, recorded=receipt is not None)
    return web.Response(status=202 if receipt is None else 200, body=msgspec.json.encode(noted), content_type=JSON)


def _held(held: Iterable[HeldLease]) -> dict[Name, tuple[int, float]]:
    return {one.lease: (one.step, one.silent_s) for one in held}


def _leases(found: Iterable[InHand]) -> tuple[LeaseAnswer, ...]:
    return tuple(
        LeaseAnswer(
            task=one.begin.lease.task,
            epoch=str(one.begin.lease.epoch),
            attempt=one.begin.lease.attempt,
            resume=one.begin.lease.resume,
            checkpoint_number=one.begin.lease.checkpoint_number,
            trained_s=one.begin.lease.trained_s,
            older=one.begin.lease.older,
            memory_attempts=one.begin.lease.memory_attempts,
            gpus=one.begin.gpus,
            gpu_memory_bytes=one.begin.gpu_memory_bytes,
        )
        for one in found
    )


def _orders(orders: Iterable[Order]) -> tuple[OrderAnswer, ...]:
    return tuple(_order(order) for order in orders)


def _order(order: Order) -> OrderAnswer:
    return OrderAnswer(task=order.task, epoch=str(order.epoch), order=order.order, reason=order.reason)
