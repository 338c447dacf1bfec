"""Listing a stream's subjects from a server that tells a page at a time and changes meanwhile: what stays is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from mesh import broker_log, codec, limits
from mesh.broker_api import JetStream
from mesh.broker_link import Link
from mesh.broker_log import NatsLog
from mesh.bus import Log
from mesh.errors import BusUnavailable, Conflict
from mesh.messages import object_names
from mesh.objects import JetStreamBackend
from mesh.subjects import Subjects


class Server:
    """Answers STREAM.INFO as nats-server does: all subjects sorted, so many from an offset on."""

    def __init__(self, subjects: set[str], at_once: int, between: Callable[[], None] = lambda: None) -> None:
        self.subjects, self.at_once, self.between = subjects, at_once, between
        self.asked: list[int] = []
        self.largest = 0

    async def call(self, what: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        assert what == "STREAM.INFO.S"
        assert timeout_s > limits.CALL_TIMEOUT_S
        if self.asked:
            self.between()
        self.asked.append(body["offset"])
        page = sorted(self.subjects)[body["offset"] : body["offset"] + self.at_once]
        self.largest = max(self.largest, len(page))
        return {"state": {"subjects": dict.fromkeys(page, 1)} if page else {}, "total": len(self.subjects)}


def log_of(server: Server) -> NatsLog:
    return NatsLog(cast(Link, None), cast(JetStream, server))


async def told(server: Server) -> list[str]:
    return [subject async for page in log_of(server).subjects("S", "s.>") for subject in page]


def names(count: int) -> set[str]:
    return {f"s.{number:06}" for number in range(count)}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_log, "SUBJECTS_OVERLAP", 4)
    monkeypatch.setattr(broker_log, "SUBJECTS_STEP_BACK", 30)


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 36, 500])
async def test_all_are_told_once_in_order(count: int) -> None:
    server = Server(names(count), 20)
    assert await told(server) == sorted(names(count))
    assert server.largest <= 20


async def test_a_page_is_all_that_is_held() -> None:
    server = Server(names(350_000), 100_000)
    count = 0
    async for page in log_of(server).subjects("S", "s.>"):
        assert len(page) <= 100_000
        count += len(page)
    assert count == 350_000
    assert len(server.asked) == 4


@pytest.mark.parametrize("seed", range(20))
async def test_what_stays_is_told_whatever_comes_and_goes(seed: int) -> None:
    chance = random.Random(seed)
    present = names(400)
    staying = set(chance.sample(sorted(present), 150))
    server = Server(present, 20)

    def change() -> None:
        going = sorted(server.subjects - staying)
        server.subjects -= set(chance.sample(going, min(len(going), chance.choice((0, 1, 3, 40, 90)))))
        server.subjects |= {f"s.{chance.randrange(400):06}x" for _ in range(chance.choice((0, 0, 2, 10)))}

    server.between = change
    found = await told(server)
    assert found == sorted(set(found))
    assert staying <= set(found)


async def test_a_stream_that_is_emptied_meanwhile_ends_the_list() -> None:
    server = Server(names(100), 20)
    server.between = server.subjects.clear
    assert await told(server) == sorted(names(20))


async def test_a_server_that_makes_no_sense_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_log, "SUBJECTS_STEPS_MAX", 5)
    with pytest.raises(BusUnavailable, match="faster than they are listed"):
        await told(Server(names(10), 1))


class Stream:
    """What the backend asks of a log: who may not list what is stored asks for each name that it knows."""

    def __init__(self, stored: set[str]) -> None:
        self.stored = stored
        self.questions: list[str] = []

    async def append(self, subject: str, data: bytes, *, subject_seq: int) -> int:
        self.questions.append(subject)
        raise Conflict(last_seq=7 if subject in self.stored else 0)


async def test_of_a_store_only_what_matters_is_asked_for() -> None:
    subjects = Subjects()
    wanted = [object_names.whole(codec.digest(b"%d" % number)) for number in range(100)]
    stream = Stream({subjects.stored(name) for name in wanted[3:]})
    backend = JetStreamBackend(cast(Log, stream), subjects)
    assert await backend.absent(wanted) == set(wanted[:3])
    assert sorted(stream.questions) == sorted(map(subjects.stored, wanted))
