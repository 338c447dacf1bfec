"""The scheduler's mind in transcripts: read tests/scenarios/scheduler/*.txt, they need no Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh import codec
from mesh.messages.ledger import Entry
from planner.ledger import Ledger
from tests.support import transcripts
from tests.support.scheduler_stage import Stage

SCENARIOS = sorted((Path(__file__).parent / "scheduler").glob("*.txt"))
REWRITE = bool(os.environ.get("REWRITE_TRANSCRIPTS"))
"""REWRITE_TRANSCRIPTS=1 writes down what is seen; the difference is then reviewed like code."""


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    transcripts.play(path, Stage().run, REWRITE)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_replaying_the_events_gives_the_same_state(path: Path) -> None:
    stage = Stage()
    for block in transcripts.read(path):
        for command in block.head:
            if command.strip() and not command.startswith("#"):
                stage.run(command)
    entry = Entry(term=1, generation=1, commands_seq=0, previous="0" * 64, at_ms=0, events=tuple(stage.events))
    again = Ledger()
    for event in codec.decode(codec.encode(entry, bytes_max=1 << 22), Entry, bytes_max=1 << 22).events:
        again.apply(event)
    first = stage.mind.ledger
    assert again.tasks == first.tasks
    assert again.counts == first.counts
    assert again.by_incarnation == first.by_incarnation
    assert again.by_topic == first.by_topic
    assert again.dependents == first.dependents
