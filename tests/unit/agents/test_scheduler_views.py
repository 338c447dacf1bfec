"""What the leader shows of its tasks: a ready one says why it waits, for as many rows as are returned."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.scheduler_views import Views
from mesh.memory import MemoryServer
from mesh.messages.services import Ask, Status
from planner.ledger import Task
from planner.waiting import Waits
from tests.support import agents
from tests.support.scheduler_stage import Stage


def shown(stage: Stage, folder: Path, ask: Ask) -> Status:
    return Views(agents.make(MemoryServer(), "scheduler", folder), stage.mind).status(ask, 1)


async def test_a_ready_task_says_why_it_waits_a_waiting_one_for_what_and_a_running_one_nothing(tmp_path: Path) -> None:
    stage = Stage()
    stage.run("offer w1 leases=4 cores=1 disk=96")
    stage.run("plan t1 runs")
    stage.run("plan t1 big disk=200")
    stage.run("plan t1 follows after=big")
    reasons = {row.id: row.reason for row in shown(stage, tmp_path, Ask(what="tasks")).tasks}
    assert reasons == {
        "runs": "",
        "big": "no worker can take it: w1 offers 96 MiB of disk, 200 MiB needed",
        "follows": "waits for big",
    }
    assert shown(stage, tmp_path, Ask(what="status")).tasks == shown(stage, tmp_path, Ask(what="tasks")).tasks


async def test_dead_letters_keep_the_reason_for_which_they_were_parked(tmp_path: Path) -> None:
    stage = Stage()
    stage.run("offer w1 leases=4")
    stage.run("plan t1 a")
    stage.run("failure w1 a class=reject reason=broken")
    assert [row.reason for row in shown(stage, tmp_path, Ask(what="dead-letters")).tasks] == ["broken"]


async def test_only_rows_that_are_returned_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    for size in range(5):
        stage.run(f"plan t1 a{size} memory={size + 100}")
    asked: list[str] = []
    why = stage.mind.why_waits

    def counted(task: Task, now: float, waits: Waits | None = None) -> str:
        asked.append(task.spec.id)
        return why(task, now, waits)

    monkeypatch.setattr(stage.mind, "why_waits", counted)
    status = shown(stage, tmp_path, Ask(what="tasks", rows_max=2))
    assert (asked, status.left_out) == (["a0", "a1"], 3)
