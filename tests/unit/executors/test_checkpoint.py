"""Checkpoint folders: written completely, believed never."""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from executors import checkpoint
from executors.checkpoint import Saver, Snapshot
from mesh.errors import ArtifactCorrupt, DiskFull


def snapshot() -> Snapshot:
    tensors = {"model.a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "step.a": torch.tensor(4.0)}
    return Snapshot(tensors, {"run": {"step": 4}, "generators": checkpoint.generators()})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    before = snapshot()
    found = checkpoint.load(checkpoint.save(tmp_path / "000001", before))
    assert found.state == before.state
    assert found.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in before.tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def test_generators_continue_where_they_stood() -> None:
    checkpoint.seed_generators(2**63 + 17)
    np.random.standard_normal()  # leaves half a pair behind, which is part of the state
    saved = checkpoint.generators()
    drawn = [random.random(), np.random.standard_normal(), torch.rand(1).item()]
    checkpoint.restore_generators(saved)
    assert drawn == [random.random(), np.random.standard_normal(), torch.rand(1).item()]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_damage_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    folder = checkpoint.save(tmp_path / "000001", snapshot())
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(ArtifactCorrupt):
        checkpoint.load(folder)


def test_files_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    one = checkpoint.save(tmp_path / "1", snapshot())
    other = checkpoint.save(tmp_path / "2", Snapshot({"model.a": torch.zeros(2, 3)}, {"run": {"step": 5}}))
    (one / checkpoint.TENSORS).write_bytes((other / checkpoint.TENSORS).read_bytes())
    with pytest.raises(ArtifactCorrupt, match="torn"):
        checkpoint.load(one)


def test_a_busy_saver_skips_and_counts(tmp_path: Path) -> None:
    saver, go, done = Saver(), threading.Event(), []

    def slow(folder: Path) -> None:
        go.wait(20)
        done.append(folder.name)

    assert saver.offer(tmp_path / "1", snapshot, slow)
    assert not saver.offer(tmp_path / "2", snapshot, slow)
    go.set()
    saver.wait()
    assert (saver.skipped, saver.saved, done) == (1, 1, ["1"])
    assert saver.offer(tmp_path / "3", snapshot, slow)
    saver.wait()


def test_a_failed_save_is_raised_and_a_full_disk_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, taken: Snapshot) -> Path:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    saver = Saver()
    saver.offer(tmp_path / "1", snapshot, lambda folder: None)
    with pytest.raises(DiskFull, match="free some space"):
        saver.wait()
    saver.wait()
