"""What a worker holds and offers, in transcripts: read tests/scenarios/worker/*.txt, they need no Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import transcripts
from tests.support.worker_stage import WorkerStage

SCENARIOS = sorted((Path(__file__).parent / "worker").glob("*.txt"))
REWRITE = bool(os.environ.get("REWRITE_TRANSCRIPTS"))
"""REWRITE_TRANSCRIPTS=1 writes down what is seen; the difference is then reviewed like code."""


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    transcripts.play(path, WorkerStage().run, REWRITE)
