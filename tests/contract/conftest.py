"""What the contract suite stands on: two worlds with the same face, and a check that nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh import broker as real
from mesh import bus
from mesh.memory import MemoryServer
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects
from tests.support.nats_server import NatsServer
from tests.support.s3_server import S3Server

DEADLINE_S = 15.0
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """moto's server, with one bucket."""
    server = S3Server().start()
    yield server
    server.stop()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition. It is looked at, never hoped for: the deadline is far beyond what it takes."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the condition may lie in another process
            await asyncio.sleep(0.005)


async def within(work: Awaitable[object]) -> object:
    """The result of something that must come in time."""
    return await asyncio.wait_for(work, DEADLINE_S)


class World:
    """Connections to one broker, under a prefix that no other test uses."""

    def __init__(self, dial: Callable[[Subjects, str], Awaitable[bus.Broker]], *, is_real: bool) -> None:
        self.subjects = Subjects(f"t{next(_numbers)}")
        self.is_real = is_real
        self._dial = dial
        self._brokers: list[bus.Broker] = []

    async def connect(self, name: str = "a") -> bus.Broker:
        """One more connection."""
        broker = await self._dial(self.subjects, name)
        self._brokers.append(broker)
        return broker

    def name(self, text: str) -> str:
        """A subject of this test's own."""
        return f"{self.subjects.prefix}.{text}"

    def spec(self, name: str = "S", subject: str = "s.>", **more: Any) -> bus.StreamSpec:
        """A stream of this test's own."""
        return bus.StreamSpec(
            name=f"{self.subjects.prefix}_{name}", subjects=(self.name(subject),), why="test", **more
        )  # fmt: skip

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(broker.close() for broker in self._brokers))


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.server)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A broker in memory, and a real one: every test that takes it runs on both."""
    if request.param == "memory":
        memory = MemoryServer()

        async def dial(subjects: Subjects, name: str) -> bus.Broker:
            memory.subjects = subjects
            return memory.connect(name)

        made = World(dial, is_real=False)
    else:
        made = _real_world(request.getfixturevalue("shared_server").options)
    yield made
    await made.close()


@pytest.fixture
async def own_world(own_server: NatsServer) -> AsyncIterator[World]:
    """A real broker that this test may kill."""
    made = _real_world(own_server.options)
    yield made
    await made.close()


def _real_world(options: NatsOptions) -> World:
    async def dial(subjects: Subjects, name: str) -> bus.Broker:
        return await real.connect(options, subjects, name=name)

    return World(dial, is_real=True)


@pytest.fixture(autouse=True)
async def _nothing_is_left_behind() -> AsyncIterator[None]:
    """Every task and thread that a test started has ended when it ends (the loop's own helper threads aside)."""
    threads = set(threading.enumerate())
    before = asyncio.all_tasks()
    yield
    try:
        await until(lambda: not (asyncio.all_tasks() - before - {asyncio.current_task()}))
    except TimeoutError:
        left_over = asyncio.all_tasks() - before - {asyncio.current_task()}
        raise AssertionError(f"still running: {[(task, task.get_stack()) for task in left_over]}") from None
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")} - threads
    assert not left
