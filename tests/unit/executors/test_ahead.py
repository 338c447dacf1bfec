"""Batches are built while the reader is busy, in order, never more than a few, and nothing is left behind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from executors.data import BATCHES_AHEAD, Ahead, Ints, batches
from executors.pace import Pace

PATIENCE_S = 20.0


def numbers() -> Iterator[Ints]:
    return (np.array([number]) for number in itertools.count())


def test_loading_goes_on_while_the_reader_computes() -> None:
    """The reader takes one batch and asks for no other: the next ones are built all the same, as many as have room."""
    built, full = [0], threading.Event()

    def build(rows: Ints) -> int:
        built[0] += 1
        if built[0] == BATCHES_AHEAD:  # no room is left
            full.set()
        return int(rows[0])

    with Ahead(numbers(), build) as ahead:
        assert ahead.next() == 0
        assert full.wait(PATIENCE_S)
        assert [ahead.next() for _ in range(20)] == list(range(1, 21))
    assert built[0] <= 21 + BATCHES_AHEAD


def test_the_two_threads_wake_each_other_rarely() -> None:
    """The thread goes on when half of what waits is gone, with as many at once."""
    builds: list[int] = []
    rested = threading.Event()

    def build(rows: Ints) -> int:
        builds.append(int(rows[0]))
        if len(builds) == BATCHES_AHEAD + BATCHES_AHEAD // 2:
            rested.set()
        return int(rows[0])

    with Ahead(numbers(), build) as ahead:
        waiting(ahead)
        for number in range(BATCHES_AHEAD // 2 - 1):
            assert ahead.next() == number
        assert len(builds) == BATCHES_AHEAD
        assert ahead.next() == BATCHES_AHEAD // 2 - 1
        assert rested.wait(PATIENCE_S)


def waiting(ahead: Ahead[int]) -> None:
    """Until the thread waits for room."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not ahead._full and time.monotonic() < give_up_at:
        time.sleep(0.001)
    assert ahead._full


def test_an_end_waits_for_no_reader() -> None:
    """A thread that waits for room with a built batch ends at once, not after a poll."""
    full = threading.Event()
    ahead = Ahead(numbers(), lambda rows: full.set() if rows[0] == BATCHES_AHEAD - 1 else None)
    assert full.wait(PATIENCE_S)
    began = time.monotonic()
    ahead.close()
    assert not ahead._thread.is_alive()
    assert time.monotonic() - began < PATIENCE_S


def test_an_error_of_the_thread_reaches_the_reader() -> None:
    def build(rows: Ints) -> int:
        if rows[0] == 2:
            raise OSError("gone")
        return int(rows[0])

    with Ahead(numbers(), build) as ahead:
        assert [ahead.next(), ahead.next()] == [0, 1]
        with pytest.raises(OSError, match="gone"):
            ahead.next()


def test_batches_begin_anywhere() -> None:
    """From step n on they are those that come after n ones: nothing of the way there is needed."""
    whole = list(itertools.islice(batches(7, 23, 5, 0), 20))
    for step in (1, 4, 5, 12):
        again = list(itertools.islice(batches(7, 23, 5, step), 20 - step))
        assert all(np.array_equal(one, other) for one, other in zip(whole[step:], again, strict=True))
    assert sorted(np.concatenate(whole[:5]).tolist()) == list(range(23))


def test_the_wait_for_batches_is_told_apart() -> None:
    pace = Pace()
    for number in range(12):
        counted = pace.stepped(0.3, 0.1, 8)
        assert counted is (number >= 2)
        if pace.warm:
            pace.begin(100.0, 10.0)
    pace.end(105.0, 14.0)
    assert pace.seconds_per_step == pytest.approx(0.4)
    assert pace.batch_s == pytest.approx(0.4)
    assert pace.waiting_share == pytest.approx(0.25)
    assert pace.targets_per_s == pytest.approx(20.0)
    assert pace.targets == 96
    assert pace.step_s == pytest.approx(0.5)
    assert pace.step_cpu_s == pytest.approx(0.4)
