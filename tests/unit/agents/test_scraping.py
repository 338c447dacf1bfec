"""Files for Prometheus' discovery: what stands in them, when they come and go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from agents.scraping import ScrapeNote, target


def test_a_note_says_where_to_ask_and_goes_with_its_agent(tmp_path: Path) -> None:
    note = ScrapeNote(tmp_path, "worker", "desk-1")
    note.write("0.0.0.0", 8123)
    (path,) = (tmp_path / "run" / "scrape").iterdir()
    assert path.name == f"worker-{os.getpid()}.json"
    assert json.loads(path.read_text()) == [
        {"targets": ["127.0.0.1:8123"], "labels": {"role": "worker", "agent": "desk-1"}}
    ]
    note.remove()
    note.remove()
    assert not path.exists()


def test_what_a_killed_agent_left_goes_with_the_next_start(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    folder = tmp_path / "run" / "scrape"
    folder.mkdir(parents=True)
    left, other = folder / f"gate-{gone.pid}.json", folder / "mine-by-hand.json"
    left.write_text("[]")
    other.write_text("[]")
    ScrapeNote(tmp_path, "gate", "gate").write("127.0.0.1", 1)
    assert not left.exists()
    assert other.exists()


def test_a_home_that_can_not_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    note = ScrapeNote(tmp_path, "gate", "gate")
    note.write("127.0.0.1", 1)
    note.remove()


def test_addresses_are_written_as_prometheus_wants_them() -> None:
    assert target("10.0.0.7", 80) == "10.0.0.7:80"
    assert target("::", 80) == "[::1]:80"
    assert target("fd00::7", 80) == "[fd00::7]:80"
