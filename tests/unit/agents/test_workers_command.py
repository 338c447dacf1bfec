"""`bin/agent workers`: a worker's streaks, and a sentence when its claims have failed a check."""

from __future__ import annotations

from agents.commands import workers
from mesh.messages.services import WorkerRow
from mesh.messages.trust import Streak, Trust
from tests.support.samples import sample


def row(name: str) -> WorkerRow:
    found: WorkerRow = sample(WorkerRow, full=False)
    return WorkerRow(**{**{field: getattr(found, field) for field in found.__struct_fields__}, "name": name})


def test_streaks_stand_beside_the_worker_and_failures_below() -> None:
    why = "30 of 60 claims were reproduced"
    trust = {
        "w1": Trust(worker="w1", streaks=(Streak(executor="lora", streak=2), Streak(executor="classify", streak=12))),
        "w2": Trust(worker="w2", streaks=(Streak(executor="classify", clean=3, failed=1, why=why),)),
        "gone": Trust(worker="gone", streaks=(Streak(executor="classify", failed=9, why="x"),)),
    }
    told = workers.picture((row("w1"), row("w2"), row("w3")), 0, trust).splitlines()
    assert "classify 12 lora 2" in next(line for line in told if line.startswith("w1"))
    assert told[-1] == f"w2: 1 of 4 checks of its classify claims failed, the last: {why}"
    assert not any("gone" in line for line in told)


def test_nobody_was_checked_yet() -> None:
    assert "failed" not in workers.picture((row("w1"),), 0, {})
