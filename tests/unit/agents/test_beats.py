"""Beats: on time, at once for news, never faster than answers come, and from a thread that reports its own failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from agents.beats import Beats, BeatThread, Report
from mesh import codec, limits, virtual_time
from mesh.bus import Bus, Message
from mesh.errors import BrokerRefused
from mesh.memory import MemoryServer
from mesh.messages.base import Epoch
from mesh.messages.leases import Beat, Held, Offer
from mesh.subjects import Subjects

SUBJECTS = Subjects()


def offer(number: int) -> Offer:
    return Offer(number=number, leases_max=1, cores=1, memory_bytes=0, disk_bytes=0)


def beats(report: Callable[[], Report]) -> Beats:
    return Beats("w1", "w1.0001", SUBJECTS, beat_s=2.0, report=report, loop_turned=lambda: 0.0)


class Ear:
    """Hears beats with the time at which they came."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, Beat]] = []

    async def __call__(self, message: Message) -> None:
        at = round(asyncio.get_running_loop().time(), 2)
        self.heard.append((at, codec.decode(message.data, Beat)))

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.heard]


async def _scene(act: Callable[[Beats], None], until_s: float) -> Ear:
    server, ear, now = MemoryServer(SUBJECTS), Ear(), {"offer": 1}
    await server.connect("leader").subscribe(SUBJECTS.beats(), ear)
    held = (Held(task="t", epoch=Epoch(1, 1), silent_s=0.5, step=7),)
    sender = beats(lambda: Report(offer=offer(now["offer"]), held=lambda: held))
    sending = asyncio.create_task(sender.send(server.connect("w1")))
    loop = asyncio.get_running_loop()
    start = loop.time()
    act(sender)
    await asyncio.sleep(until_s)
    sender.end()
    await sending
    ear.heard = [(round(at - start, 2), beat) for at, beat in ear.heard]
    return ear


def test_a_beat_comes_every_two_seconds_and_says_what_is_held() -> None:
    ear = virtual_time.run(_scene(lambda sender: None, 7.0))
    assert ear.times == [0.0, 2.02, 4.04, 6.06]
    assert [beat.number for _, beat in ear.heard] == [1, 2, 3, 4]
    assert ear.heard[0][1].held[0].step == 7
    assert ear.heard[0][1].reply == SUBJECTS.answer("w1")


def test_news_travel_at_once_when_the_last_beat_was_answered() -> None:
    def act(sender: Beats) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, sender.heard)
        for at in (1.0, 1.001, 1.002):
            loop.call_later(at, sender.nudge)

    assert virtual_time.run(_scene(act, 1.5)).times == [0.0, 1.0, 1.32], "the later two travel together"


def test_news_wait_for_the_answer_but_not_for_ever() -> None:
    def act(sender: Beats) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, sender.nudge)
        loop.call_later(0.2, sender.heard)
        loop.call_later(0.5, sender.nudge)

    assert virtual_time.run(_scene(act, 1.0)).times == [0.0, 0.2, 0.8]


async def test_the_thread_reports_what_ended_it() -> None:
    failed, said = threading.Event(), list[BaseException]()

    async def refused() -> Bus:
        raise BrokerRefused("no entry")

    def hear(error: BaseException) -> None:
        said.append(error)
        failed.set()

    thread = BeatThread(lambda: beats(lambda: Report(offer=offer(1), held=tuple)), refused, hear)
    thread.start()
    assert await asyncio.to_thread(failed.wait, 10)
    await thread.stop()
    assert isinstance(said[0], BrokerRefused)


def test_what_a_beat_carries_counts_as_told() -> None:
    sender = beats(lambda: Report(offer=offer(5), held=tuple))
    assert sender.told == 0
    assert sender.next().offer.number == 5
    assert sender.told == 5


@pytest.mark.parametrize("count", [limits.HELD_PER_BEAT_MAX + 44])
def test_no_more_is_named_than_a_beat_may_carry(count: int) -> None:
    held = tuple(Held(task=f"t{i}", epoch=Epoch(1, 1)) for i in range(count))
    assert len(beats(lambda: Report(offer=offer(1), held=lambda: held)).next().held) == limits.HELD_PER_BEAT_MAX


def test_the_numbers_of_an_incarnation_go_on_in_another_process() -> None:
    report = lambda: Report(offer=offer(1), held=tuple)  # noqa: E731
    later = Beats("w1", "w1.0001", SUBJECTS, beat_s=2.0, report=report, loop_turned=lambda: 0.0, after=1 << 32)
    assert [later.next().number, later.next().number] == [(1 << 32) + 1, (1 << 32) + 2]
