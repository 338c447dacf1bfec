"""A state that was saved and read is the state that was folded, over random lives."""

from __future__ import annotations

import pytest

from mesh import codec
from mesh.messages.judgement import Recommendation
from mesh.messages.ledger import Recommended, SnapshotPart, TopicRefused, TopicSettled
from planner.ledger import Ledger
from planner.saving import head_of, ledger_of, saved
from tests.support.samples import sample
from tests.unit.planner.test_scheduling import live


def read_back(ledger: Ledger) -> Ledger:
    """The state by way of bytes."""
    parts = [SnapshotPart(tasks=(saved(task),)) for task in (*ledger.tasks.values(), *ledger.dead_letters.values())]
    parts += [SnapshotPart(drained=tuple(ledger.drained.values()), said=ledger.all_said)]
    again = [codec.decode(codec.encode(part), SnapshotPart) for part in parts]
    return ledger_of(
        head_of(ledger, 7, "ab" * 32),
        (task for part in again for task in part.tasks),
        (event for part in again for event in part.drained),
        (what for part in again for what in part.said),
        ledger.ended,
    )


@pytest.mark.parametrize("seed", range(30))
def test_what_is_read_is_what_was_folded(seed: int) -> None:
    stage = live(seed)
    for command in ("drain w1", "drain w2 now=1"):
        stage.run(command)
    ledger = stage.mind.ledger
    ledger.apply(TopicRefused(topic="t9", reason="no"))
    ledger.apply(TopicSettled(topic="t8", why="over"))
    ledger.apply(Recommended(recommendation=sample(Recommendation, full=True)))
    again = read_back(ledger)
    for name in ("tasks", "dead_letters", "counts", "by_topic", "by_incarnation", "dependents", "drained", "all_said"):
        assert getattr(again, name) == getattr(ledger, name), name
    assert list(again.dead_letters) == list(ledger.dead_letters)
    for name in ("term", "leader", "generation", "restored_from", "commands_seq", "order"):
        assert getattr(again, name) == getattr(ledger, name), name
