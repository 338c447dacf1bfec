"""The HTTP gateway: what a request through it costs, and what its watchers cost the mesh.

    bare       one aiohttp handler with a fixed answer, in a process of its own: the floor
    status     the same client asks GET /api/v1/network/status, which asks the leader each time
    claim      hands over HTTP take leases that wait for them, and say that they are done: `complete` answers when the
    complete   ledger has recorded the result, its outbox row synced before
    watchers   tasks a second of one NATS worker, without and with 100 readers of /api/v1/events, by turns

One client process, AT_ONCE requests at a time over connections that are kept; a 99th percentile is over all requests of
a round. Watchers are the cheapest possible ones, in a process of their own on the same machine: with few cores, part of
what they cost is their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from agents.gateway_tokens import TokenRole, Tokens
from benchmarks import tasks
from benchmarks.driver import Driver, driven
from benchmarks.frame import Frame
from benchmarks.parts import HOST, Part, free_port, running
from mesh import broker as mesh_broker
from mesh import codec, limits
from mesh.errors import BusUnavailable
from mesh.messages.commands import Submit
from mesh.messages.tasks import Needs, TaskSpec
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects

NAME = "gateway"
WHY = "What a request through the HTTP gateway costs, beside a bare handler, and what a hundred watchers cost the mesh."

AT_ONCE = 8
"""Requests at a time, and hands that claim."""

REQUESTS, TASKS, FLOOD, WATCHERS = 4_000, 800, 10_000, 100
QUICK_REQUESTS, QUICK_TASKS, QUICK_FLOOD, QUICK_WATCHERS = 80, 16, 60, 20

READY_S, PHASE_S = 60.0, 300.0

KIND = "bench-http"
"""Executor kind that only the hands over HTTP offer."""

RATE, P50, P99 = "requests a second", "median", "99th percentile"

Ask = Callable[[], Awaitable[None]]


def run(frame: Frame) -> None:
    """Requests first, then the watchers, each on a mesh of its own."""
    with frame.home() as home, tasks.mesh(home, sync_always=True, workers=0) as url:
        door = Gateway(home, url)
        bare = Part("bare", [sys.executable, "-P", "-m", "benchmarks.gateway_bare", str(free := free_port())], home,
                    port=free)  # fmt: skip
        with running(door.part, bare):
            asyncio.run(_requests(frame, door, url, f"http://{HOST}:{free}/"))
    with frame.home() as home, tasks.mesh(home, sync_always=True) as url:
        door = Gateway(home, url)
        with running(door.part):
            _watchers(frame, home, door, url)


class Gateway:
    """The gateway under test, and tokens for it."""

    def __init__(self, home: Path, url: str) -> None:
        self._tokens, self.port = Tokens(home), free_port()
        argv = [sys.executable, "-P", "-m", "agents", "gateway", "--listen", f"{HOST}:{self.port}"]
        bounds = ["--requests-per-s", "1000000"]
        self.part = Part("gateway", [*argv, *bounds], home, env={"NATS_URL": url}, port=self.port)
        self.url = f"http://{HOST}:{self.port}/api/v1/network/"

    def token(self, name: str, role: TokenRole) -> str:
        """A new token."""
        return self._tokens.issue(role, name, 86_400.0)[0]


# -- requests ---------------------------------------------------------------------------------------------------------


async def _requests(frame: Frame, door: Gateway, url: str, bare: str) -> None:
    count = QUICK_REQUESTS if frame.quick else REQUESTS
    reader = {"Authorization": f"Bearer {door.token('reader', TokenRole.OBSERVER)}"}
    connector = aiohttp.TCPConnector(limit=4 * AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as http:

        def get(address: str, headers: dict[str, str]) -> Ask:
            async def ask() -> None:
                async with http.get(address, headers=headers) as answer:
                    await answer.read()
                    _check(answer)

            return ask

        who = {"bare aiohttp handler": get(bare, {}), "status": get(f"{door.url}status", reader)}
        await _until_ready(who["status"])
        found: dict[str, list[list[float]]] = {name: [] for name in who}
        rates: dict[str, list[float]] = {name: [] for name in who}
        for _ in range(frame.runs(3)):
            for name, ask in who.items():
                seconds, took_s = await _load(ask, count)
                found[name].append(seconds)
                rates[name].append(len(seconds) / took_s)
        for name in who:
            _rows(frame, name, rates[name], found[name])
        await _claims(frame, door, url, http)


async def _load(ask: Ask, count: int) -> tuple[list[float], float]:
    """(seconds of each request, seconds in all): AT_ONCE callers, one request after the other each."""
    seconds: list[float] = []

    async def caller() -> None:
        for _ in range(count // AT_ONCE):
            begun = time.perf_counter()
            await ask()
            seconds.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with asyncio.timeout(PHASE_S), asyncio.TaskGroup() as callers:
        for _ in range(AT_ONCE):
            callers.create_task(caller())
    return seconds, time.perf_counter() - begun


async def _claims(frame: Frame, door: Gateway, url: str, http: aiohttp.ClientSession) -> None:
    """Hands that do nothing but claim and complete, while tasks wait."""
    count = frame.tasks or (QUICK_TASKS if frame.quick else TASKS)
    hands = [Hands(http, door, f"hands-{number}") for number in range(AT_ONCE)]
    await asyncio.gather(*(one.register() for one in hands))
    rates, claims, completes = [], [], []
    for number in range(frame.runs(3)):
        await _submit(url, f"round-{number}", count)
        begun = time.perf_counter()
        async with asyncio.timeout(frame.timeout_s(PHASE_S)):
            left = [count]
            parts = await asyncio.gather(*(one.work(left) for one in hands))
        rates.append(count / (max(one.done_at for one in hands) - begun))
        claims.append([seconds for part in parts for seconds in part[0]])
        completes.append([seconds for part in parts for seconds in part[1]])
    remark = f"{AT_ONCE} hands, one task each at a time; the leader matches, the broker syncs, the ledger records"
    frame.row("whole tasks over HTTP", "tasks a second", rates, "tasks/s", remark)
    _rows(frame, "claim, with work waiting", [], claims)
    _rows(frame, "complete, until it is recorded", [], completes)


class Hands:
    """One worker over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, door: Gateway, name: str) -> None:
        self._http, self._url = http, door.url
        self.done_at = 0.0
        """When the last task was recorded."""
        self._headers = {"Authorization": f"Bearer {door.token(name, TokenRole.WORKER)}"}

    async def register(self) -> None:
        """Take a seat."""
        await self._post("workers/register", kinds={KIND: 1})

    async def work(self, left: list[int]) -> tuple[list[float], list[float]]:
        """Do tasks until none of all is left, as a worker that waits for more; seconds of each claim that brought one,
        and of each complete."""
        claims, completes = [], []
        while left[0]:
            begun = time.perf_counter()
            leases = (await self._post("training/claim", wait_s=0.5))["leases"]
            if not leases:
                continue
            claimed = time.perf_counter()
            lease = leases[0]
            noted = await self._post(
                "training/complete", task=lease["task"]["id"], epoch=lease["epoch"], outcome={}, wait_s=20
            )
            if not noted["recorded"]:
                raise BusUnavailable(f"{lease['task']['id']} was not recorded within 20 s")
            left[0] -= 1
            claims.append(claimed - begun)
            self.done_at = time.perf_counter()
            completes.append(self.done_at - claimed)
        return claims, completes

    async def _post(self, path: str, **body: Any) -> Any:
        async with self._http.post(self._url + path, json=body, headers=self._headers) as answer:
            _check(answer)
            return await answer.json()


async def _submit(url: str, name: str, count: int) -> None:
    """Tasks for the hands, straight onto the mesh."""
    subjects, needs = Subjects(), Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0)
    broker = await mesh_broker.connect(NatsOptions(servers=(url,)), subjects, name="bench")
    try:
        for begin in range(0, count, limits.TASKS_PER_PLAN_MAX):
            names = [f"{name}-{number}" for number in range(begin, min(count, begin + limits.TASKS_PER_PLAN_MAX))]
            specs = tuple(TaskSpec(id=one, topic=name, executor=KIND, needs=needs) for one in names)
            submit = Submit(id=f"{name}-{begin}", topic=name, tasks=specs)
            subject = subjects.command("bench", Submit.kind, submit.id)
            await broker.append(subject, codec.encode(submit), subject_seq=0)
    finally:
        await broker.close()


def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status != 200:
        raise BusUnavailable(f"{answer.url.path} answered with {answer.status}")


async def _until_ready(ask: Ask) -> None:
    """The leader may still be on its way."""
    give_up_at = time.monotonic() + READY_S
    while True:
        try:
            await ask()
        except (BusUnavailable, aiohttp.ClientError):
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def _rows(frame: Frame, who: str, rates: list[float], rounds: list[list[float]]) -> None:
    if rates:
        frame.row(who, RATE, rates, "requests/s", f"{AT_ONCE} at a time")
    frame.row(who, P50, [1_000 * statistics.median(seconds) for seconds in rounds], "ms")
    frame.row(who, P99, [1_000 * sorted(seconds)[int(0.99 * (len(seconds) - 1))] for seconds in rounds], "ms")


# -- watchers ---------------------------------------------------------------------------------------------------------


def _watchers(frame: Frame, home: Path, door: Gateway, url: str) -> None:
    """By turns without and with them, so that a busy minute does not fall on one side alone."""
    many, count = (QUICK_FLOOD, QUICK_WATCHERS) if frame.quick else (frame.tasks or FLOOD, WATCHERS)
    token = door.token("watchers", TokenRole.OBSERVER)
    alone, watched = [], []
    flood = Part("driver", [sys.executable, "-P", "-m", "benchmarks.flood", url], home)
    with driven(flood, frame.timeout_s(READY_S)) as driver:
        _flood(frame, driver, many // 10)
        for _ in range(frame.runs(5)):
            alone.append(_flood(frame, driver, many))
            with _watching(frame, home, door.port, token, count):
                watched.append(_flood(frame, driver, many))
    frame.row("tasks of a NATS worker", "without watchers", alone, "tasks/s")
    frame.row("tasks of a NATS worker", f"with {count} watchers of all events", watched, "tasks/s")
    ratios = [one / other for one, other in zip(watched, alone, strict=True)]
    frame.at_least(f"task rate with {count} watchers, against without", 0.9, "1", ratios)


def _flood(frame: Frame, driver: Driver, count: int) -> float:
    """Tasks a second."""
    return count / float(driver.ask("many", frame.timeout_s(PHASE_S), count=max(1, count))["seconds"])


@contextlib.contextmanager
def _watching(frame: Frame, home: Path, port: int, token: str, count: int) -> Iterator[None]:
    part = Part("watchers", [sys.executable, "-P", "-m", "benchmarks.gateway_watchers", str(port), token, str(count)],
                home)  # fmt: skip
    with driven(part, frame.timeout_s(READY_S)):
        yield
