"""The benchmarks still work: quick runs on real meshes make documents and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.frame import CHECKOUT, environment

pytestmark = [pytest.mark.process, pytest.mark.server]


def quick(tmp_path: Path, name: str, *more: str) -> dict[str, Any]:
    """The document of a quick run, which left nothing behind."""
    target = tmp_path / "document.json"
    env = {**environment(tmp_path / "unused"), "TMPDIR": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agents", "bench", name, "--quick", "--json", str(target), *more],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(target.read_text())
    assert (document["name"], document["conditions"]["quick"]) == (name, True)
    assert list(tmp_path.glob("ramify-*")) == [], "a home that is kept holds something to object to"
    assert [one.pid for one in psutil.process_iter() if mentions(one, str(tmp_path))] == []
    return document


@pytest.mark.timeout(180)
def test_a_quick_run_gives_a_document_and_leaves_nothing(tmp_path):
    document = quick(tmp_path, "main-job")
    measured = {row["who"] for row in document["rows"] if not row["skipped"]}
    assert {"up", "status", "idle mesh", "noop task", "scheduler", "planner", "consensus", "gate"} <= measured
    assert len(document["aims"]) == 3


@pytest.mark.timeout(180)
def test_nothing_is_lost_or_counted_twice_in_a_short_storm(tmp_path):
    document = quick(tmp_path, "durability", "--seed", "11")
    assert [(aim["aim"], aim["got"]) for aim in document["aims"] if not aim["met"]] == []
    values = {row["metric"]: row["value"] for row in document["rows"] if row["who"] == "Ramify"}
    struck = sum(count for metric, count in values.items() if metric.startswith("struck"))
    assert struck >= 3, "a storm that hits nobody proves nothing"
    assert values["other objections of the auditor"] == 0
    assert values["outbox rows without a receipt at the end"] == 0


@pytest.mark.timeout(180)
def test_a_training_changes_hands_and_nobody_is_disturbed(tmp_path):
    document = quick(tmp_path, "failover")
    assert [row["why"] for row in document["rows"] if row["skipped"]] == ["a quick run kills one machine only"]
    unmet = {aim["aim"] for aim in document["aims"] if not aim["met"]}
    assert not [aim for aim in unmet if "ended before" in aim or "beyond the first" in aim]


def mentions(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in argument for argument in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.timeout(180)
def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path):
    """Child, worker and machine, once each: state, trace and weights are those of an undisturbed training."""
    document = quick(tmp_path, "resume")
    assert [(aim["aim"], aim["got"]) for aim in document["aims"] if not aim["met"]] == []
    killed = [row["value"] for row in document["rows"] if row["metric"].startswith("kill -9")]
    assert killed == [1, 1, 1]


@pytest.mark.timeout(180)
def test_checkpoints_are_smaller_than_the_state_and_are_stored(tmp_path):
    document = quick(tmp_path, "checkpoints")
    assert [row["why"] for row in document["rows"] if row["skipped"]] == []
    values = {(row["who"], row["metric"]): row["value"] for row in document["rows"]}
    assert values["float32, weights and moments", "next, 1 step apart"] < 0.8
    assert values["LoRA with its moments, on a frozen network", "next, 1 step apart"] < 0.05
    assert values["training loop", "checkpoints stored"] >= 1


@pytest.mark.timeout(180)
def test_a_file_is_moved_in_every_way_and_comes_back(tmp_path):
    document = quick(tmp_path, "artifacts")
    assert [row["why"] for row in document["rows"] if row["skipped"]] == []
    moved = {row["who"] for row in document["rows"] if row["metric"] == "get"}
    assert moved >= {"Ramify", "Ramify, in a folder", "chunks by hand", "nats-py object store", "HTTP upload server"}
    memory = [aim for aim in document["aims"] if aim["aim"].startswith("memory")]
    assert [aim["met"] for aim in memory] == [True]


def test_seeds_are_lived_through_and_counted(tmp_path):
    document = quick(tmp_path, "simulation")
    values = {(row["who"], row["metric"]): row["value"] for row in document["rows"]}
    assert values["as always", "seeds"] == 40
    assert values["as always", "faults"] > values["as always", "seeds"]
    assert [values[who, "seeds that broke a promise"] for who in ("as always", "older broker")] == [0, 0]


@pytest.mark.timeout(180)
def test_specialists_are_trained_routed_and_compared(tmp_path):
    document = quick(tmp_path, "specialists")
    skipped = {row["who"] for row in document["rows"] if row["skipped"]}
    assert skipped <= {"weak seed", "python docs", "manual pages", "change logs"}, "a machine may lack some texts"
    measured = {row["who"] for row in document["rows"] if row["metric"] == "loss"}
    assert {"specialists, top-2 routing", "(c) dense, batch times 4", "(e) specialists' mean weights"} <= measured
    assert len(document["aims"]) == 10


@pytest.mark.timeout(180)
def test_requests_and_whole_tasks_go_through_the_gateway_while_others_watch(tmp_path):
    document = quick(tmp_path, "gateway")
    assert not [row["why"] for row in document["rows"] if row["skipped"]]
    measured = {row["who"] for row in document["rows"]}
    assert {"bare aiohttp handler", "status", "claim, with work waiting", "complete, until it is recorded"} <= measured
