"""What a worker offers: the settings, or what the machine has; GPUs from nvidia-smi, however it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents import worker_resources
from agents.worker_resources import capacity, gpu_memory
from mesh import platform
from mesh.settings import WorkerSettings


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program named nvidia-smi, alone on PATH with the shell."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "nvidia-smi"


def answers(smi: Path, script: str) -> None:
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)


def test_without_the_program_there_is_no_gpu(smi: Path) -> None:
    assert gpu_memory() == []


def test_each_gpu_has_a_number_and_its_memory(smi: Path) -> None:
    answers(smi, "echo '0, 24576'; echo '1, 81559'")
    assert gpu_memory() == [(0, 24576 << 20), (1, 81559 << 20)]
    assert gpu_memory({"CUDA_VISIBLE_DEVICES": "1"}) == [(1, 81559 << 20)]
    assert gpu_memory({"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo"])
def test_a_driver_that_answers_nonsense_offers_none(smi: Path, script: str) -> None:
    answers(smi, script)
    assert gpu_memory() == []


def test_a_driver_that_hangs_offers_none(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_resources, "SMI_S", 0.1)
    answers(smi, "while :; do :; done")
    assert gpu_memory() == []


def test_settings_win_and_auto_leaves_room_for_the_owner(tmp_path: Path) -> None:
    gpus = [(0, 10), (3, 20)]
    given = WorkerSettings(
        name="w", cores=1.5, memory_bytes=7 << 30, disk_bytes=1 << 30, gpus=1, max_tasks=3, labels=("x",)
    )
    found = capacity(given, tmp_path, gpus, {"noop": 1})
    assert (found.cores, found.memory_bytes, found.disk_bytes, found.leases_max) == (1.5, 7 << 30, 1 << 30, 3)
    assert (found.gpu_memory_bytes, found.labels, found.kinds) == ((10,), ("x",), {"noop": 1})
    auto = capacity(WorkerSettings(), tmp_path, gpus, {})
    assert auto.cores >= 0.1
    assert 0 < auto.memory_bytes < platform.memory_available()
    assert 0 < auto.disk_bytes < platform.disk_free(tmp_path)
    assert auto.gpu_memory_bytes == (10, 20)
    assert auto.leases_max > auto.cores
