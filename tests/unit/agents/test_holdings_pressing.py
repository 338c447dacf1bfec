"""When a worker's news can wait a moment: while the leader knows of room enough, told or granted."""

from __future__ import annotations

import pytest

from agents.holdings import Capacity, Holdings
from mesh.messages.base import Epoch
from mesh.messages.leases import Answer, Lease
from mesh.messages.tasks import Needs, TaskSpec

ME = "w1.00000001"
LIGHT, CORE = Needs(cores=0.0, memory_bytes=0), Needs(cores=1.0, memory_bytes=0)


class Told:
    """Holdings whose first offer was told; answers grant on it."""

    def __init__(self, *, cores: float = 1.0, leases_max: int = 8) -> None:
        self.holdings = Holdings(ME, Capacity(cores=cores, memory_bytes=0, disk_bytes=0, leases_max=leases_max))
        self.seq = 0
        self.tell()

    def tell(self) -> None:
        self.holdings.told(self.holdings.offer.number)

    def lease(self, task: str, needs: Needs) -> None:
        self.seq += 1
        spec = TaskSpec(id=task, topic="t", executor="noop", needs=needs)
        lease = Lease(task=spec, epoch=Epoch(1, 1), attempt=1)
        answer = Answer(incarnation=ME, offer=self.holdings.offer.number, ledger_seq=self.seq, leases=(lease,), term=1)
        self.holdings.hear(answer)

    def end(self, task: str) -> None:
        self.holdings.ended(task, Epoch(1, 1))


def test_what_no_beat_has_carried_is_pressing() -> None:
    assert Holdings(ME, Capacity(cores=1, memory_bytes=0, disk_bytes=0, leases_max=1)).pressing


def test_a_few_short_tasks_of_many_places_can_wait() -> None:
    worker = Told()
    for number in range(4):  # granted on one offer, which is never told to be free again
        worker.lease(f"a{number}", LIGHT)
        worker.end(f"a{number}")
        assert not worker.holdings.pressing
    worker.lease("b", LIGHT)
    worker.end("b")
    assert worker.holdings.pressing  # the leader believes that three of eight places are free
    worker.holdings.cached(["0" * 64])  # whatever changes the offer gives it a new number
    worker.tell()
    assert not worker.holdings.pressing


@pytest.mark.parametrize(("cores", "leases_max"), [(1.0, 8), (8.0, 1)])
def test_the_end_of_a_task_that_filled_the_worker_is_pressing_its_begin_is_not(cores: float, leases_max: int) -> None:
    worker = Told(cores=cores, leases_max=leases_max)
    worker.lease("a", CORE)
    assert not worker.holdings.pressing  # who granted it knows
    worker.tell()
    assert not worker.holdings.pressing
    worker.end("a")
    assert worker.holdings.pressing


def test_a_withdrawn_offer_hides_nothing() -> None:
    worker = Told()
    worker.lease("a", CORE)
    worker.holdings.suspend(True)
    worker.tell()
    worker.end("a")
    assert worker.holdings.pressing  # the core, for what comes after
    worker.tell()
    assert not worker.holdings.pressing
