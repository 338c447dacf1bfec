"""The main job's benchmark still works: a quick run on a real mesh makes a document and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

from benchmarks.frame import CHECKOUT, environment

pytestmark = [pytest.mark.process, pytest.mark.server]


@pytest.mark.timeout(180)
def test_a_quick_run_gives_a_document_and_leaves_nothing(tmp_path):
    target = tmp_path / "document.json"
    env = {**environment(tmp_path / "unused"), "TMPDIR": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agents", "bench", "main-job", "--quick", "--json", str(target)],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(target.read_text())
    assert (document["name"], document["conditions"]["quick"]) == ("main-job", True)
    measured = {row["who"] for row in document["rows"] if not row["skipped"]}
    assert {"up", "status", "idle mesh", "noop task", "scheduler", "planner", "consensus", "gate"} <= measured
    assert len(document["aims"]) == 3
    assert list(tmp_path.glob("ramify-bench-*")) == []
    assert [one.pid for one in psutil.process_iter() if mentions(one, str(tmp_path))] == []


def mentions(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in argument for argument in process.cmdline())
    except psutil.Error:
        return False
