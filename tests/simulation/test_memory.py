"""A worker says in its first beat what its earlier lives have seen of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from agents.beats import Beats, Report
from agents.runtime import Agent
from benchmarks.simulation import process as processes
from benchmarks.simulation.clocks import SimulationLoop, WallClock, bent_clocks
from benchmarks.simulation.lives import SimulatedWorker
from benchmarks.simulation.parts import Disk, Nature, Pool
from benchmarks.simulation.process import Process
from benchmarks.simulation.trace import Trace
from mesh import codec
from mesh.memory import MemoryServer
from mesh.messages.leases import Answer
from tests.support import agents


def run(case: Coroutine[Any, Any, None]) -> None:
    """In the simulation's time, in which threads answer at once."""
    loop = SimulationLoop()
    loop.set_task_factory(processes.task_factory)
    asyncio.set_event_loop(loop)
    try:
        with bent_clocks(loop, WallClock()):
            loop.run_until_complete(case)
    finally:
        processes.bury(loop)
        loop.close()
        asyncio.set_event_loop(None)


class NoBeats:
    """Beats that nobody sends."""

    told = 1

    def start(self) -> None:
        """Nothing to start."""

    def nudge(self) -> None:
        """Nobody beats."""

    def heard(self) -> None:
        """Nobody waits."""

    async def stop(self) -> None:
        """Nothing to stop."""


async def life(server: MemoryServer, home: Path, *answers: Answer, prefix: str = "mesh") -> tuple[Report, Report]:
    """One life of a worker that hears these answers; what its beats report at first and at last."""
    agent = agents.make(server, "worker", home, name="w1", prefix=prefix)
    agent.incarnation = "w1.1"

    def make(agent: Agent, make: Callable[[], Beats]) -> NoBeats:
        return NoBeats()

    pool = Pool(Nature(Trace(10)), Process("w1"))
    worker = SimulatedWorker(agent, home / "workers" / "w1", Disk(), make, pool, 1.0, lambda *_: None)
    mesh = server.connect("leader")
    async with agents.running(agent, lambda _: worker.live()):
        await asyncio.sleep(10.0)
        first = worker._current()
        for answer in answers:
            await mesh.publish(agent.subjects.answer("w1"), codec.encode(answer))
            await asyncio.sleep(0.1)
        return first, worker._current()


def answer(seq: int, *, generation: int = 1, term: int = 1) -> Answer:
    return Answer(
        incarnation="w1.1", offer=1, ledger_seq=seq, term=term, generation=generation, ledger_digest=f"{seq:016x}"
    )


def said(report: Report) -> tuple[int, int, str]:
    return report.generation, report.ledger_seq, report.ledger_digest


def test_what_a_life_has_heard_stands_in_the_first_beat_of_the_next(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        first, last = await life(server, tmp_path, answer(7), answer(9))
        assert said(first) == (0, 0, "")
        assert said(last) == (1, 9, f"{9:016x}")
        first, last = await life(server, tmp_path, answer(3, generation=2, term=2))
        assert said(first) == (1, 9, f"{9:016x}")
        assert said(last) == (2, 3, f"{3:016x}")
        assert said((await life(server, tmp_path))[0]) == (2, 3, f"{3:016x}")

    run(case())


def test_what_was_heard_in_another_mesh_is_not_said_here(tmp_path: Path) -> None:
    async def case() -> None:
        await life(MemoryServer(), tmp_path, answer(7))
        agent = agents.make(MemoryServer(), "worker", tmp_path, prefix="lab")
        assert said((await life(MemoryServer(agent.subjects), tmp_path, prefix="lab"))[0]) == (0, 0, "")

    run(case())
