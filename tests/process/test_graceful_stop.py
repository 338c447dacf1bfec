"""A worker that is told to leave hands its training on at once, from the very step at which it stopped.

How it is told: SIGTERM to the supervisor, SIGUSR1 and SIGTERM to all its processes as batch
systems and systemd do, a notice file.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from executors.kinds.noop import STEP_S
from mesh.messages.results import TaskMoved
from mesh.messages.tasks import OnDisconnect, TaskState
from tests.support.fleet import Fleet, fleet

pytestmark = [pytest.mark.process, pytest.mark.server]

MOVED_S = 8.0
"""Far more than the move takes (well under a second), for a machine that others use as well; far less than waiting for
silence, under `wait`, would."""

SECONDS = 4.0


@pytest.mark.parametrize("how", ["signal", "whole group", "notice file"])
async def test_the_next_worker_goes_on_where_the_last_one_stopped(tmp_path: Path, how: str) -> None:
    notice = tmp_path / "leave"
    async with fleet(tmp_path) as mesh:
        first = await mesh.start_worker("w1", RAMIFY_WORKER_NOTICE_FILE=str(notice))
        settings = {"seconds": SECONDS}  # no checkpoint but the one at the stop
        await mesh.submit("long", settings, on_disconnect=OnDisconnect.WAIT, wait_s=3_600.0)
        await mesh.leased("long", "w1")
        await mesh.start_worker("w2")
        told = time.monotonic()
        _tell_to_leave(mesh, how, notice)
        moved_s = await mesh.leased("long", "w2") - told
        kept = await mesh.checkpointed("long")
        given_back, _ = await mesh.first("long", lambda one: one.reason.startswith("the worker stops"))
        ended = await mesh.ended("long")

        assert moved_s < MOVED_S, f"the lease moved after {moved_s:.2f} s"
        assert await first.ended() == 0
        assert isinstance(given_back, TaskMoved)
        assert given_back.state is TaskState.READY
        assert (str(notice) in given_back.reason) == (how == "notice file")
        assert await mesh.lost_leases("long") == ["given-back"]
        assert ended.incarnation.startswith("w2.")
        assert ended.outcome is not None
        assert ended.outcome.kpis["attempts"] == 2.0
        # What the second life slept is what the first left: the checkpoint of the stop lost nothing.
        assert kept.checkpoint_step is not None
        before_s = kept.checkpoint_step * STEP_S
        assert 0 < before_s < SECONDS
        assert SECONDS <= ended.outcome.kpis["seconds"] < SECONDS + 0.5
        print(f"{how}: the lease moved after {moved_s:.2f} s, with {before_s:.1f} of {SECONDS} s kept")


def _tell_to_leave(mesh: Fleet, how: str, notice: Path) -> None:
    if how == "notice file":
        notice.touch()
    elif how == "signal":
        mesh.workers["w1"].process.send_signal(signal.SIGTERM)
    else:
        supervisor = psutil.Process(mesh.workers["w1"].pid)
        processes = (supervisor, *supervisor.children(recursive=True))
        for number in (signal.SIGUSR1, signal.SIGTERM):
            for process in processes:
                os.kill(process.pid, number)
