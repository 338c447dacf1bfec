"""What a worker holds and offers: a state machine without clock, disk or network. The agent performs what it answers.

    in:  capacity, answers of the leader, "this lease is settled here", "draining"
    out: the offer, what the next beat says, and actions: Begin, Void, Yield, Settle, Rewound

Rules (DESIGN.md 4.2 to 4.5)
    1. The offer's number rises whenever its content changes, and when the leader asks for it because leases on it got
       lost on the way; the same number is the same offer.
    2. An answer to another incarnation is not ours. One that is true at an older point of the ledger than one already
       heard changes nothing; a higher generation, or REWOUND_ANSWERS of them in a row, mean that the store itself is
       older: all is heard anew.
    3. Leases count for any offer that is not withdrawn: one that a newer offer overtook is charged to that one by the
       leader. For a withdrawn offer they are declined, in the beats until DECLINE_ANSWERS answers were heard. The same
       lease twice is one lease, and one that this life has ended is not begun again.
    4. STOP voids a lease: its child is killed and nothing of it is recorded. CHECKPOINT asks once for a last checkpoint
       and for giving back.
    5. A lease is held from Begin until its last row (result, failure, give-back) is in the outbox or it is voided.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

from mesh import limits
from mesh.messages.base import Epoch
from mesh.messages.leases import Answer, Lease, Offer, Order, OrderKind, Receipt
from mesh.messages.tasks import Needs
from planner.workers import Room

DECLINE_ANSWERS = 3
"""A declined lease is named until so many answers were heard: one beat may be lost, three in a row hardly."""

ENDED_MAX = 4_096
"""Ended leases remembered, so that a repeated answer begins none of them again."""

REWOUND_ANSWERS = 5
"""Older answers in a row that are believed: a late one comes alone, a leader on an older store goes on and on."""

CACHED_MAX = 32
"""Artifacts named in an offer."""

Name = tuple[str, Epoch]
"""A lease: task and epoch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """What this worker has in all."""

    cores: float
    memory_bytes: int
    disk_bytes: int
    leases_max: int
    gpu_memory_bytes: tuple[int, ...] = ()
    """Memory of each GPU; its place is the GPU's number."""
    labels: tuple[str, ...] = ()
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    share_gpus: bool = True
    """Tasks that say how much memory of one GPU they take may share it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Begin:
    """Run this lease on these GPUs."""

    lease: Lease
    gpus: tuple[int, ...]
    gpu_memory_bytes: int = 0
    """What it may take of its GPU, which others share; 0: all of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Void:
    """Kill what runs for this lease; it counts no more."""

    task: str
    epoch: Epoch
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Yield:
    """Ask for a last checkpoint, then give this lease back."""

    task: str
    epoch: Epoch
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Settle:
    """Let the outbox go of these rows."""

    receipts: tuple[Receipt, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Rewound:
    """The leader's history is older than what was heard: owe again what was receipted."""

    heard: int
    now: int


Action = Begin | Void | Yield | Settle | Rewound


@dataclasses.dataclass(slots=True)
class _Holding:
    """One lease that is held."""

    lease: Lease
    needs: Needs
    """What it takes here: its wish for a GPU is granted in it, or not."""
    gpus: tuple[int, ...]
    yielding: bool = False


class Holdings:
    """The leases, the offer and the answers of one worker life."""

    def __init__(self, incarnation: str, capacity: Capacity, *, after: int = 0) -> None:
        """after: number of the newest offer of this life, where an earlier process has made some."""
        self._incarnation = incarnation
        self._capacity = capacity
        self._held: dict[Name, _Holding] = {}
        self._ended: OrderedDict[Name, None] = OrderedDict()
        self._declined: dict[Name, int] = {}
        self._cached: tuple[str, ...] = ()
        self._draining = self._suspended = False
        self._changed = False
        self._depth = capacity.leases_max
        self._told = 0
        self._known: Offer | None = None
        """The offer that the newest beat carried."""
        self._since: list[Needs] = []
        """What was leased since; the leader knows of it."""
        self._heard = (0, 0)
        self._generation, self._digest = 0, ""
        self._older = 0
        self._offer = self._content(number=after + 1)

    # -- what others see ----------------------------------------------------------------------------------------------

    @property
    def ledger_seq(self) -> int:
        """Highest ledger sequence heard of."""
        return self._heard[1]

    @property
    def generation(self) -> int:
        """Generation of the ledger at that sequence."""
        return self._generation

    @property
    def ledger_digest(self) -> str:
        """How the digest of that entry begins."""
        return self._digest

    @property
    def offer(self) -> Offer:
        """The standing offer. What is free is summed up when somebody looks, not with every lease that ends."""
        if self._changed:
            self._changed = False
            if self._content(self._offer.number) != self._offer:
                self._offer = self._content(self._offer.number + 1)
        return self._offer

    @property
    def held(self) -> tuple[Name, ...]:
        """Names of the leases that are held, oldest first."""
        return tuple(self._held)

    def holds(self, task: str, epoch: Epoch) -> bool:
        """True while this lease is held."""
        return (task, epoch) in self._held

    @property
    def declined(self) -> tuple[Name, ...]:
        """Leases to name as declined in the next beat."""
        return tuple(self._declined)

    def lease(self, task: str, epoch: Epoch) -> Lease | None:
        """A lease that is held."""
        holding = self._held.get((task, epoch))
        return None if holding is None else holding.lease

    # -- what happens -------------------------------------------------------------------------------------------------

    def told(self, number: int) -> None:
        """A beat has carried the offer of this number."""
        if number > self._told:
            self._told = number
            self._known = self._offer if number == self._offer.number else None
            self._since.clear()

    @property
    def pressing(self) -> bool:
        """Does the leader know of less than half of what is free? Then work may wait somewhere for our next beat."""
        known, free, since = self._known, self.offer, self._since
        if known is None:
            return True
        return any(
            2 * (had - taken) < has
            for had, taken, has in (
                (known.leases_max, len(since), free.leases_max),
                (known.cores, sum(needs.cores for needs in since), free.cores),
                (known.memory_bytes, sum(needs.memory_bytes for needs in since), free.memory_bytes),
                (known.disk_bytes, sum(needs.disk_bytes for needs in since), free.disk_bytes),
                (known.gpus, sum(needs.gpus for needs in since), free.gpus),
            )
            if has > 0
        )

    def hear(self, answer: Answer) -> list[Action]:
        """An answer of the leader."""
        if answer.incarnation != self._incarnation:
            return []
        actions: list[Action] = []
        if answer.generation < self._generation:
            return []
        if self._generation < answer.generation > 1:  # at a life's start too: what was receipted before may be lost
            actions.append(Rewound(heard=self.ledger_seq, now=answer.ledger_seq))
        elif (answer.term, answer.ledger_seq) < self._heard:
            self._older += 1
            if self._older < REWOUND_ANSWERS:
                return []
            actions.append(Rewound(heard=self.ledger_seq, now=answer.ledger_seq))
        self._older, self._heard = 0, (answer.term, answer.ledger_seq)
        self._generation, self._digest = answer.generation, answer.ledger_digest
        self._declined = {name: left - 1 for name, left in self._declined.items() if left > 1}
        if answer.receipts:
            actions.append(Settle(answer.receipts))
        for order in answer.orders:
            actions.extend(self._obey(order))
        room = Room.of(self._offer)
        for lease in answer.leases:
            actions.extend(self._take(lease, answer.offer, room))
        self._renew()
        if answer.renew and answer.offer == self._offer.number:
            self._offer = self._content(self._offer.number + 1)
        return actions

    def keep(self, lease: Lease, gpus: tuple[int, ...] = ()) -> None:
        """A lease that this life holds since before this process, on these GPUs."""
        wish = gpus and not lease.task.needs.gpus
        needs = lease.task.needs.fulfilled if wish else lease.task.needs
        self._held[(lease.task.id, lease.epoch)] = _Holding(lease, needs, gpus)
        self._renew()

    def ended(self, task: str, epoch: Epoch) -> None:
        """The last row of a lease is in the outbox, or what ran for it is dead: its resources are free."""
        if self._held.pop((task, epoch), None) is not None:
            self._remember((task, epoch))
        self._renew()

    def deepen(self, leases: int) -> None:
        """Hold so many leases at most from now on, within the capacity."""
        if leases != self._depth:
            self._depth = leases
            self._renew()

    def drain(self, reason: str) -> list[Action]:
        """Withdraw the offer and give back what is held, for good."""
        self._draining = True
        self._renew()
        return [action for name in self._held for action in self._yield(name, reason)]

    def suspend(self, on: bool) -> None:
        """Withdraw the offer for a while, or renew it; what is held goes on."""
        self._suspended = on
        self._renew()

    def cached(self, digests: list[str]) -> None:
        """What the local cache holds now, newest first."""
        self._cached = tuple(digest[:16] for digest in digests[:CACHED_MAX])
        self._renew()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _obey(self, order: Order) -> list[Action]:
        name = (order.task, order.epoch)
        if name not in self._held or order.order is OrderKind.KEEP:
            return []
        if order.order is OrderKind.CHECKPOINT:
            return self._yield(name, order.reason)
        # Its resources are free only when its child is dead: the agent says so with `ended`.
        return [Void(order.task, order.epoch, order.reason)]

    def _yield(self, name: Name, reason: str) -> list[Action]:
        holding = self._held[name]
        if holding.yielding:
            return []
        holding.yielding = True
        return [Yield(*name, reason)]

    def _take(self, lease: Lease, offer: int, room: Room) -> list[Action]:
        """Begin a lease, or decline it. room: what the scheduler believes to be left of the offer. A wish for a GPU is
        granted where it counts on that, and nowhere else: so it takes nothing that was leased to somebody else."""
        name = (lease.task.id, lease.epoch)
        if name in self._held or name in self._ended:
            return []
        needs = lease.task.needs.fulfilled if room.grants(lease.task.needs) else lease.task.needs
        room.take(lease.task.needs)
        gpus = self._free_gpus(needs)
        withdrawn = self._draining or (self._suspended and offer < self._told)
        if withdrawn or gpus is None:
            if len(self._declined) < limits.LEASES_PER_ANSWER_MAX:
                self._declined[name] = DECLINE_ANSWERS
            return []
        self._declined.pop(name, None)
        self._since.append(needs)
        self._held[name] = _Holding(lease, needs, gpus)
        shares = self._share_bytes(needs) and gpus
        return [Begin(lease, gpus, needs.gpu_memory_bytes if shares else 0)]

    def _free_gpus(self, needs: Needs) -> tuple[int, ...] | None:
        """GPUs for a task, those with the least memory that is enough; None when there are too few. One that others
        share already comes before an unused one (planner/workers.py counts in the same way)."""
        if needs.gpus == 0:
            return ()
        if share := self._share_bytes(needs):
            rooms = [(room, number) for number, room in self._gpu_rooms().items() if room >= share]
            if rooms:
                return (min(rooms)[1],)
        free = [
            number
            for number in self._unused_gpus()
            if self._capacity.gpu_memory_bytes[number] >= needs.gpu_memory_bytes
        ]
        free.sort(key=lambda number: (self._capacity.gpu_memory_bytes[number], number))
        return None if len(free) < needs.gpus else tuple(free[: needs.gpus])

    def _unused_gpus(self) -> list[int]:
        used = {number for holding in self._held.values() for number in holding.gpus}
        return [number for number in range(len(self._capacity.gpu_memory_bytes)) if number not in used]

    def _share_bytes(self, needs: Needs) -> int:
        """What a task takes of a GPU that it shares; 0 when it does not share one."""
        return needs.gpu_share_bytes if self._capacity.share_gpus else 0

    def _gpu_rooms(self) -> dict[int, int]:
        """Memory left on each GPU that is shared."""
        rooms: dict[int, int] = {}
        for holding in self._held.values():
            if share := self._share_bytes(holding.needs):
                (number,) = holding.gpus
                rooms[number] = rooms.get(number, self._capacity.gpu_memory_bytes[number]) - share
        return {number: max(0, room) for number, room in rooms.items()}

    def _remember(self, name: Name) -> None:
        self._ended[name] = None
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    def _renew(self) -> None:
        """Make the offer say what is free now; a change raises its number."""
        self._changed = True

    def _content(self, number: int) -> Offer:
        capacity, needs = self._capacity, [holding.needs for holding in self._held.values()]
        gpus = [capacity.gpu_memory_bytes[gpu] for gpu in self._unused_gpus()]
        leases_max = min(min(capacity.leases_max, self._depth) - len(needs), limits.LEASES_PER_ANSWER_MAX)
        return Offer(
            number=number,
            leases_max=0 if self._draining or self._suspended else max(0, leases_max),
            cores=max(0.0, round(capacity.cores - sum(need.cores for need in needs), 6)),
            memory_bytes=max(0, capacity.memory_bytes - sum(need.memory_bytes for need in needs)),
            disk_bytes=max(0, capacity.disk_bytes - sum(need.disk_bytes for need in needs)),
            gpus=len(gpus),
            gpu_memory_bytes=min(gpus, default=0),
            share_gpus=capacity.share_gpus and bool(capacity.gpu_memory_bytes),
            gpu_room_bytes=tuple(self._gpu_rooms().values()),
            labels=capacity.labels,
            kinds=capacity.kinds,
            cached=self._cached,
        )
