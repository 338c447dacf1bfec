"""The auditor objects to every kind of ledger that breaks a promise, and to none that keeps them."""

from __future__ import annotations

import pytest

from benchmarks.chaos_books import Books
from mesh import codec
from mesh.messages.base import Epoch
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    CheckpointRecorded,
    Entry,
    LeaderChosen,
    LeaseEnded,
    TaskLeased,
    TaskParked,
    TaskResubmitted,
    TaskSucceeded,
    TopicPlanned,
)
from mesh.messages.tasks import Outcome, TaskSpec

PLANNED = TopicPlanned(submit="s", topic="t", tasks=(TaskSpec(id="a", topic="t", executor="noop"),))


def leased(count: int, who: str = "w1.1") -> TaskLeased:
    return TaskLeased(task="a", epoch=Epoch(1, count), incarnation=who, attempt=count)


def succeeded(count: int, who: str = "w1.1", earned: int = 0) -> TaskSucceeded:
    under = Epoch(1, earned) if earned else None
    return TaskSucceeded(
        task="a", epoch=Epoch(1, count), number=1, incarnation=who, outcome=Outcome(), earned_under=under
    )


def lost(count: int) -> LeaseEnded:
    return LeaseEnded(task="a", epoch=Epoch(1, count), cause=Cause.LOST, reason="no beat")


def checkpoint(count: int) -> CheckpointRecorded:
    return CheckpointRecorded(task="a", epoch=Epoch(1, count), number=1, manifest="0" * 64, step=1)


def audit(*events: AnyEvent) -> Books:
    books = Books()
    books.follow((PLANNED, *events))
    return books


@pytest.mark.parametrize(
    "events",
    [
        (leased(1), checkpoint(1), succeeded(1)),
        (leased(1), lost(1), leased(2, "w2.1"), succeeded(2, "w2.1")),
        (leased(1), lost(1), leased(2, "w2.1"), lost(2), leased(3), succeeded(3, earned=1)),
        (leased(1), TaskParked(task="a", epoch=Epoch(1, 1), reason="poison"), TaskResubmitted(task="a", reason="x")),
    ],
)
def test_a_sound_ledger_meets_no_objection(events):
    books = audit(*events)
    assert (books.objections, books.stale_accepted) == ([], 0)


@pytest.mark.parametrize(
    ("events", "stale", "words"),
    [
        ((leased(1), lost(1), leased(2, "w2.1"), succeeded(1)), 2, "accepted under 1-1 while 1-2 is live"),
        ((leased(1), lost(1), succeeded(1)), 1, "while no lease is live"),
        ((leased(1), lost(1), leased(2), checkpoint(1)), 1, "a checkpoint of a was accepted under 1-1"),
        ((leased(1), succeeded(1), checkpoint(1)), 1, "while it has succeeded"),
        ((leased(1), succeeded(1, "w2.1")), 1, "came from w2.1, the lease is w1.1's"),
        ((leased(1), leased(2)), 0, "leased under 1-2 while 1-1 is live"),
        ((leased(2), lost(2), leased(2)), 0, "gets the epoch 1-2 after 1-2"),
        ((leased(1), succeeded(1), leased(2)), 0, "leased under 1-2 after it has succeeded"),
        ((leased(1), lost(1), TaskResubmitted(task="a", reason="x")), 0, "was not parked"),
        ((PLANNED,), 0, "planned twice"),
    ],
)
def test_a_broken_promise_is_named(events, stale, words):
    books = audit(*events)
    assert books.stale_accepted == stale
    assert any(words in sentence for sentence in books.objections), books.objections


def test_a_second_success_is_counted():
    books = audit(leased(1), succeeded(1), succeeded(1))
    assert books.lines["a"].successes == 2
    assert any("after it had succeeded" in sentence for sentence in books.objections)


def test_entries_have_to_form_one_chain():
    def entry(previous: str, term: int) -> bytes:
        event = LeaderChosen(name="s", term=term)
        return codec.encode(Entry(term=term, generation=1, commands_seq=0, previous=previous, at_ms=0, events=(event,)))

    first = entry("0" * 64, 1)
    books = Books()
    books.read(first)
    books.read(entry(codec.digest(first), 2))
    assert (books.objections, books.terms) == ([], 2)
    books.read(entry(codec.digest(first), 3))
    assert "does not follow" in books.objections[0]
