"""Scheduler and worker count GPUs alike: whatever the one leases by an offer, the other has room for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.holdings import Begin, Capacity, Holdings
from mesh import limits
from mesh.messages.base import Epoch
from mesh.messages.leases import Answer, Lease
from mesh.messages.tasks import Needs, TaskSpec
from planner.workers import Room

GB = 1_000_000_000
NEEDS = st.one_of(
    st.builds(Needs, cores=st.just(0.0), memory_bytes=st.just(0), disk_bytes=st.just(0), gpus=st.integers(0, 2)),
    st.builds(
        Needs, cores=st.just(0.0), memory_bytes=st.just(0), disk_bytes=st.just(0), gpus=st.just(1),
        gpu_memory_bytes=st.integers(1, 24).map(lambda size: size * GB),
    ),
    st.builds(
        Needs, cores=st.just(0.0), memory_bytes=st.just(0), disk_bytes=st.just(0),
        gpu_wish_bytes=st.integers(1, 30).map(lambda size: size * GB),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    gpus=st.lists(st.sampled_from([8 * GB, 24 * GB, 24 * GB + 1]), min_size=1, max_size=4),
    rounds=st.lists(st.tuples(st.lists(NEEDS, max_size=6), st.integers(0, 4)), max_size=6),
)
def test_whatever_fits_an_offer_is_taken(gpus: list[int], rounds: list[tuple[list[Needs], int]]) -> None:
    holdings = Holdings("w.1", Capacity(0.0, 0, 0, 1_000, tuple(gpus)))
    number = 0
    for wanted, ending in rounds:
        room, leases = Room.of(holdings.offer), []
        for needs in wanted:
            if room.fits(needs):
                room.take(needs)
                number += 1
                spec = TaskSpec(id=f"t{number}", topic="t", executor="noop", needs=needs)
                leases.append(Lease(task=spec, epoch=Epoch(1, 1), attempt=1))
        offer = holdings.offer.number
        answer = Answer(incarnation="w.1", offer=offer, ledger_seq=number + 1, term=1, leases=tuple(leases))
        begun = [action for action in holdings.hear(answer) if isinstance(action, Begin)]
        assert [action.lease for action in begun] == leases
        after = holdings.offer
        assert after.gpus >= room.gpus
        assert sum(room.gpu_rooms) <= sum(after.gpu_room_bytes), "the scheduler never counts on more than there is"
        for name in holdings.held[:ending]:
            holdings.ended(*name)


def test_a_gpu_never_holds_more_than_it_has() -> None:
    holdings = Holdings("w.1", Capacity(0.0, 0, 0, 1_000, (24 * GB,)))
    needs = Needs(cores=0.0, memory_bytes=0, disk_bytes=0, gpus=1, gpu_memory_bytes=5 * GB)
    leases = tuple(
        Lease(task=TaskSpec(id=f"t{number}", topic="t", executor="noop", needs=needs), epoch=Epoch(1, 1), attempt=1)
        for number in range(9)
    )
    actions = holdings.hear(Answer(incarnation="w.1", offer=1, ledger_seq=1, term=1, leases=leases))
    begun = [action for action in actions if isinstance(action, Begin)]
    assert len(begun) == 24 * GB // (5 * GB + limits.GPU_CONTEXT_BYTES) == 4
    assert {action.gpu_memory_bytes for action in begun} == {5 * GB}
    alone = Holdings("w.1", Capacity(0.0, 0, 0, 1_000, (24 * GB,), share_gpus=False))
    actions = alone.hear(Answer(incarnation="w.1", offer=1, ledger_seq=1, term=1, leases=leases))
    assert [action.gpu_memory_bytes for action in actions if isinstance(action, Begin)] == [0]
    assert alone.offer.gpu_room_bytes == ()


def test_a_wish_for_a_gpu_is_granted_where_there_is_one_and_is_never_in_the_way() -> None:
    needs = Needs(cores=0.0, memory_bytes=0, disk_bytes=0, gpu_wish_bytes=10 * GB)
    leases = tuple(
        Lease(task=TaskSpec(id=f"t{number}", topic="t", executor="noop", needs=needs), epoch=Epoch(1, 1), attempt=1)
        for number in range(3)
    )
    holdings = Holdings("w.1", Capacity(0.0, 0, 0, 1_000, (24 * GB,)))
    room = Room.of(holdings.offer)
    assert room.grants(needs)
    actions = holdings.hear(Answer(incarnation="w.1", offer=1, ledger_seq=1, term=1, leases=leases))
    begun = [action for action in actions if isinstance(action, Begin)]
    assert [(action.gpus, action.gpu_memory_bytes) for action in begun] == [((0,), 10 * GB)] * 2 + [((), 0)]
    bare = Holdings("w.2", Capacity(0.0, 0, 0, 1_000, ()))
    assert not Room.of(bare.offer).grants(needs)
    assert Room.of(bare.offer).fits(needs)
    actions = bare.hear(Answer(incarnation="w.2", offer=1, ledger_seq=1, term=1, leases=leases))
    assert [action.gpus for action in actions if isinstance(action, Begin)] == [()] * 3
