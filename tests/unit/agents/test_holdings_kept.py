"""A life that goes on in another process: its leases and its offers' numbers go on with it."""

from __future__ import annotations

from agents.holdings import Capacity, Holdings
from mesh.messages.base import Epoch
from mesh.messages.leases import Lease
from mesh.messages.tasks import Needs, TaskSpec

CAPACITY = Capacity(cores=2, memory_bytes=100, disk_bytes=0, leases_max=2, kinds={"noop": 1})


def test_a_kept_lease_takes_its_part_of_the_offer_and_is_given_up_like_any_other() -> None:
    needs = Needs(cores=1.5, memory_bytes=40, disk_bytes=0)
    lease = Lease(task=TaskSpec(id="t", topic="topic", executor="noop", needs=needs), epoch=Epoch(1, 3), attempt=1)
    holdings = Holdings("w1.0001", CAPACITY, after=7)
    first = holdings.offer
    holdings.keep(lease)
    kept = holdings.offer
    assert (first.number, kept.number) == (8, 9)
    assert (kept.cores, kept.memory_bytes, kept.leases_max) == (0.5, 60, 1)
    assert holdings.lease("t", Epoch(1, 3)) is lease
    assert holdings.lease("t", Epoch(1, 2)) is None
    holdings.ended("t", Epoch(1, 3))
    assert (holdings.offer.number, holdings.offer.cores) == (10, 2)
