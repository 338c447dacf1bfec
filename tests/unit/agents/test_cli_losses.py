"""What `doctor` says is lost with an older store: by id, so many of them, and with what to do."""

from __future__ import annotations

from pathlib import Path

from agents.commands import losses, published
from agents.commands.doctor import history
from agents.commands.losses import LISTED_MAX, Loss
from mesh.messages.results import TaskEnded
from mesh.messages.services import Status
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from tests.support import rounds
from tests.support.memory_mesh import MemoryMesh
from tests.support.outcomes import first, outcomes
from tests.unit.agents.test_cli_following import reached
from tests.unit.agents.test_cli_published import topic

LOST = "ab" * 32


def status(generation: int = 2, *unplanned: str) -> Status:
    return Status(
        leader="s", term=3, generation=generation, ledger_seq=9, commands_seq=9, counts={}, restored_from=7,
        unplanned=unplanned,
    )  # fmt: skip


def ended(name: str, seq: int, **outputs: str) -> TaskEnded:
    return TaskEnded(
        topic="t-1", specialization="", task=TaskSpec(id=name, topic="t-1", executor="noop"),
        state=TaskState.SUCCEEDED, outcome=Outcome(outputs=outputs), ledger_seq=seq, at_ms=1,
    )  # fmt: skip


async def test_everything_that_is_lost_is_named_by_its_id(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there = reached(mesh)
    whole = await mesh.artifact(outcomes(first(5, 10)))
    await mesh.result(ended("t-1-a", 1, model=LOST))
    await mesh.result(ended("t-1-b", 2, outcomes=whole))
    await mesh.result(ended("t-1-c", 3, outcomes=LOST))
    await mesh.result(ended("t-1-c", 4, outcomes=whole))  # done once more
    await mesh.promote(rounds.champion(model=LOST))
    published.keep(there.settings, topic("t-9"), "")
    found = {loss.what: loss.ids for loss in await losses.find(there, status(2, "t-7-evolver"))}
    assert found == {
        "topics": ("t-9",),
        "plans": ("t-7-evolver",),
        "champions": (rounds.SPECIALIZATION,),
        "outputs": ("t-1-a (model)",),
    }
    findings = await history(there, status(3, "t-7-evolver"))
    assert [(one.what, one.state) for one in findings] == [
        ("history", "note"), ("lost topics", "wrong"), ("lost plans", "wrong"), ("lost champions", "wrong"),
        ("lost outputs", "note"),
    ]  # fmt: skip
    assert "2 times, lastly at ledger entry 7" in findings[0].says
    assert "bin/agent republish" in findings[1].says
    await there.broker.close()


async def test_without_an_older_store_nothing_is_looked_for_and_nothing_said(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there = reached(mesh)
    await mesh.result(ended("t-1-a", 1, model=LOST))
    assert await history(there, status(1)) == []
    assert await history(there, None) == []
    await there.broker.close()


def test_long_lists_are_cut_and_counted() -> None:
    loss = Loss("outputs", tuple(f"t{number}" for number in range(LISTED_MAX + 5)), "gone")
    assert loss.sentence == f"{', '.join(f't{number}' for number in range(LISTED_MAX))} and 5 more: gone"
