"""Workers that seem dead and are not: they come back late and change nothing, or were never cut off at all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from agents import worker_spool
from mesh import codec
from mesh.messages.ledger import Entry, TaskSucceeded
from mesh.messages.results import TaskMoved
from mesh.messages.tasks import OnDisconnect, TaskState
from mesh.refused import refused_rows
from tests.support import unruly
from tests.support.fleet import SUBJECTS, Fleet, fleet

pytestmark = [pytest.mark.process, pytest.mark.server]

PATIENCE_S = 30.0


async def _successes(mesh: Fleet) -> list[TaskSucceeded]:
    stored = await mesh.broker.read("MESH_LEDGER", SUBJECTS.ledger())
    events = [event for one in stored for event in codec.decode(one.data, Entry).events]
    return [event for event in events if isinstance(event, TaskSucceeded)]


async def test_a_worker_that_stood_still_past_its_lease_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    """It is stopped with its finished result in its hands: nothing keeps it from sending that, and nobody takes it."""
    async with fleet(tmp_path) as mesh:
        await mesh.start_worker("w1")
        settings = {"seconds": 6.0, "checkpoint_s": 0.5, "payload_bytes": 40_000_000}
        await mesh.submit("long", settings, on_disconnect=OnDisconnect.REPLACE)
        await mesh.leased("long", "w1")
        await mesh.start_worker("w2")
        zombie, folder = mesh.life("w1").pid, mesh.folder / "w1" / "workers" / "w1"
        _until_there(folder / "scratch" / "long.1-1" / worker_spool.NAME)
        os.kill(zombie, signal.SIGSTOP)
        try:
            ended = await mesh.ended("long")
            assert ended.incarnation.startswith("w2.")
            assert await mesh.lost_leases("long") == ["lost"]
            before = await mesh.scheduler.metric("mesh_stale_writes_total")
        finally:
            os.kill(zombie, signal.SIGCONT)

        async with asyncio.timeout(PATIENCE_S):
            while not any("/result/" in row.key for row in refused_rows(folder)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            rows = [row for row in refused_rows(folder) if "/result/" in row.key]
            assert "task long has ended as succeeded" in rows[0].reason
            # Counted, too; the metric follows with the scheduler's next tick.
            while (refused := await mesh.scheduler.metric("mesh_stale_writes_total") - before) < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert [one.incarnation for one in await _successes(mesh)] == [ended.incarnation], "accepted 0"
        # It is a worker again, not a ghost: what comes next is its own.
        await mesh.workers["w2"].stop()
        await mesh.submit("next", {})
        assert (await mesh.ended("next")).incarnation.startswith("w1.")
        print(f"refused writes {refused:.0f}, accepted 0")


def _until_there(path: Path) -> None:
    """Look for a file so often that what follows its appearance has hardly begun."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.002)


async def test_c_code_that_holds_the_interpreter_in_the_child_costs_no_lease(tmp_path: Path) -> None:
    """Thirteen times `lost_s` of silence in the child: beats come from the worker, so nothing expires."""
    site = unruly.install(tmp_path / "site")
    async with fleet(tmp_path) as mesh:
        await mesh.start_worker("w1", PYTHONPATH=os.pathsep.join((str(site), str(Path(__file__).parents[2]))))
        await mesh.submit("held", {"how": "gil"}, executor="unruly", version=3)
        ended = await mesh.ended("held")
        assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 1)
        assert await mesh.lost_leases("held") == []


async def test_a_broker_that_is_long_away_wastes_no_work_under_wait(tmp_path: Path) -> None:
    """Thirteen times `lost_s` without a broker: the training goes on, ends, and is recorded in its first attempt."""
    async with fleet(tmp_path) as mesh:
        await mesh.start_worker("w1")
        await mesh.start_worker("w2")
        settings = {"seconds": 8.0, "checkpoint_s": 1.0}
        await mesh.submit("long", settings, on_disconnect=OnDisconnect.WAIT, wait_s=600.0)
        moved, _ = await mesh.first("long", lambda one: isinstance(one, TaskMoved) and one.state is TaskState.LEASED)
        assert isinstance(moved, TaskMoved)
        mesh.server.stop()
        await asyncio.sleep(20.0)  # the outage itself
        mesh.server.start()
        await mesh.answering()
        ended = await mesh.ended("long")
        assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 1)
        assert ended.incarnation == moved.incarnation
        assert await mesh.lost_leases("long") == []
        assert ended.outcome is not None
        assert ended.outcome.kpis["attempts"] == 1.0


async def test_what_a_killed_life_owed_is_sent_by_the_next_one_on_its_folder(tmp_path: Path) -> None:
    """Finished while the broker was away, killed before anything was sent: nothing is done twice, nothing is lost."""
    async with fleet(tmp_path) as mesh:
        await mesh.start_worker("w1")
        journal = mesh.folder / "w1" / "workers" / "w1" / "outbox.db-wal"
        await mesh.submit("long", {"seconds": 2.0}, on_disconnect=OnDisconnect.WAIT, wait_s=600.0)
        await mesh.leased("long", "w1")
        before = journal.stat().st_size if journal.exists() else 0
        mesh.server.stop()
        async with asyncio.timeout(PATIENCE_S):
            while not journal.exists() or journal.stat().st_size <= before:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        first = mesh.life("w1")
        await mesh.workers["w1"].kill()  # the supervisor; the worker dies with it, at once
        first.wait(PATIENCE_S)
        mesh.server.start()
        await mesh.answering()
        await mesh.start_worker("w1")
        ended = await mesh.ended("long")
        assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 1)
        assert ended.incarnation != ""
        assert await mesh.lost_leases("long") == []
        lives = {row.incarnation for row in (await mesh.ask("workers")).workers if row.name == "w1"}
        assert ended.incarnation not in lives, "it was earned by the life that was killed"
