"""The stand-ins keep what the real parts promise: the simulated outbox against the real one, and processes that die."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from benchmarks.simulation import process as processes
from benchmarks.simulation.clocks import SimulationLoop, WallClock, bent_clocks
from benchmarks.simulation.parts import Disk, DiskOutbox
from benchmarks.simulation.process import Process
from mesh.messages.base import Epoch, Key
from mesh.messages.leases import Receipt
from mesh.outbox import Outbox

STEPS = 120


def random_key(chance: random.Random) -> Key:
    kind = chance.choice(("checkpoint", "result"))
    return Key(f"t{chance.randint(1, 3)}", Epoch(1, chance.randint(1, 2)), kind, chance.randint(1, 3))


def contents(outbox: Outbox | DiskOutbox) -> tuple[list[tuple[Key, str, bytes]], list[Key], tuple[int, int]]:
    pending = [(row.key, row.subject, row.data) for row in outbox.pending()]
    return pending, [row.key for row in outbox.kept()], outbox.measure()[:2]


def kept_by_parts(outbox: Outbox | DiskOutbox) -> list[Key]:
    found, place = list[Key](), 0
    while part := outbox.kept_beyond(place, 2):
        found += [row.key for _, row in part]
        place = part[-1][0]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_simulated_outbox_does_what_the_real_one_does(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    disk = Disk()
    real, simulated = Outbox(tmp_path), DiskOutbox(disk)
    for step in range(STEPS):
        key, roll = random_key(chance), chance.random()
        if roll < 0.5:
            rows = [(key, "s", b"%d" % step)] + [(random_key(chance), "s", b"+")] * chance.randint(0, 2)
            assert real.record_all(rows) == simulated.record_all(rows)
        elif roll < 0.85:
            receipt = Receipt(key=key, recorded=chance.random() < 0.7, reason="stale")
            assert real.settle(receipt) == simulated.settle(receipt)
        elif roll < 0.92:
            real.close()  # the next life
            real, simulated = Outbox(tmp_path), DiskOutbox(disk)
        elif roll < 0.97:
            assert real.reopen((key,)) == simulated.reopen((key,))
        else:
            besides = {f"t{chance.randint(1, 3)}"}
            assert real.reopen(besides=besides) == simulated.reopen(besides=besides)
        assert kept_by_parts(real) == kept_by_parts(simulated)
        assert contents(real) == contents(simulated)
    assert len(list((tmp_path / "refused").iterdir())) == len(disk.refused)
    real.close()


def run(main: object) -> None:
    loop = SimulationLoop()
    loop.set_task_factory(processes.task_factory)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main)  # type: ignore[call-overload]
    finally:
        processes.bury(loop)
        loop.close()
        asyncio.set_event_loop(None)


def test_a_killed_process_takes_no_further_step_and_no_finally_runs() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            while True:
                seen.append("step")
                await asyncio.sleep(1.0)
        finally:
            if not over:
                seen.append("finally")

    over = False

    async def main() -> None:
        nonlocal over
        process = Process("p")
        process.start(work(), "work")
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(5.0)
        over = True

    run(main())
    assert seen == ["step"] * 3


def test_a_process_dies_at_the_step_that_was_chosen() -> None:
    seen: list[int] = []

    async def main() -> None:
        process = Process("p")
        process.dies_at = 3

        async def work() -> None:
            for number in range(10):
                seen.append(number)
                await asyncio.sleep(0.0)

        process.start(work(), "work")
        await asyncio.sleep(1.0)
        assert process.killed

    run(main())
    assert seen == [0, 1]


def test_a_stopped_process_goes_on_later_and_sees_then_what_came_meanwhile() -> None:
    seen: list[tuple[str, float]] = []

    async def main() -> None:
        loop, process = asyncio.get_running_loop(), Process("p")

        async def work() -> None:
            try:
                await asyncio.sleep(100.0)
            except asyncio.CancelledError:
                seen.append(("cancelled", loop.time()))

        task = process.start(work(), "work")
        await asyncio.sleep(1.0)
        process.stop()
        task.cancel()
        await asyncio.sleep(4.0)
        assert not seen
        process.go_on()
        await asyncio.wait({task})

    run(main())
    assert seen == [("cancelled", 5.0)]


def test_the_wall_clock_of_one_machine_jumps_and_others_do_not() -> None:
    async def main() -> None:
        seen: dict[str, float] = {}
        wall = WallClock(processes.machine_now)

        async def look() -> None:
            seen[processes.machine_now()] = time.time()

        with bent_clocks(asyncio.get_running_loop(), wall):
            wall.jump(3_600.0, "w1")
            for name in ("w1.1", "w2.1"):
                Process(name).start(look(), name)
            await asyncio.sleep(1.0)
        assert seen["w1"] - seen["w2"] == pytest.approx(3_600.0)

    run(main())


def test_the_wall_clock_jumps_and_durations_do_not() -> None:

    async def main() -> None:
        wall = WallClock()
        with bent_clocks(asyncio.get_running_loop(), wall):
            date, began = time.time(), time.monotonic()
            wall.jump(-3_600.0)
            await asyncio.sleep(10.0)
            assert time.time() - date == pytest.approx(10.0 - 3_600.0)
            assert time.monotonic() - began == pytest.approx(10.0)

    run(main())
