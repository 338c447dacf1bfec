"""What subscribers are told of a training's end: with it, the checkpoints between which it can be trained again."""

from __future__ import annotations

from mesh.messages.base import Epoch
from mesh.messages.ledger import CheckpointRecorded, TaskCanceled, TaskLeased, TaskSucceeded
from mesh.messages.results import Kept, TaskEnded
from mesh.messages.tasks import Outcome, TaskSpec
from planner.ledger import Ledger
from planner.projection import project

EPOCH = Epoch(1, 1)


def ended(*manifests: str, canceled: bool = False) -> TaskEnded:
    ledger = Ledger()
    ledger._plan(TaskSpec(id="t1-evolver", topic="t1", executor="classify"))
    ledger.apply(TaskLeased(task="t1-evolver", epoch=EPOCH, incarnation="w1.aa", attempt=1))
    for number, manifest in enumerate(manifests, start=1):
        best = number == 1
        ledger.apply(
            CheckpointRecorded(
                task="t1-evolver", epoch=EPOCH, number=number, manifest=manifest, step=10 * number, best=best
            )
        )
    event = (
        TaskCanceled(task="t1-evolver", reason="enough")
        if canceled
        else TaskSucceeded(task="t1-evolver", epoch=EPOCH, number=1, incarnation="w1.aa", outcome=Outcome())
    )
    record = project(event, ledger.apply(event))
    assert isinstance(record, TaskEnded)
    return record


def test_the_last_two_checkpoints_are_told_newest_first() -> None:
    told = ended(*(f"{number:064x}" for number in (1, 2, 3))).checkpoints
    assert told == (
        Kept(number=3, step=30, manifest=bytes.fromhex(f"{3:064x}")),
        Kept(number=2, step=20, manifest=bytes.fromhex(f"{2:064x}")),
    )


def test_one_that_no_artifact_can_have_is_left_out_and_a_canceled_training_tells_of_none() -> None:
    assert [one.number for one in ended("m", f"{2:064x}").checkpoints] == [2]
    assert ended(f"{1:064x}", canceled=True).checkpoints == ()
