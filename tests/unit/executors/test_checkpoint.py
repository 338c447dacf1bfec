"""Checkpoint folders: written completely, believed never."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from executors import checkpoint, snapshot
from executors.checkpoint import Snapshot
from mesh import codec
from mesh.errors import ArtifactCorrupt


def made() -> Snapshot:
    tensors = {"model.a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "step.a": torch.tensor(4.0)}
    return Snapshot(tensors, {"run": {"step": 4}, "generators": checkpoint.generators()})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    before = made()
    found = checkpoint.load(snapshot.save(tmp_path / "000001", before))
    assert found.state == before.state
    assert found.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in before.tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def test_generators_continue_where_they_stood() -> None:
    checkpoint.seed_generators(2**63 + 17)
    np.random.standard_normal()  # leaves half a pair behind, which is part of the state
    saved = checkpoint.generators()
    drawn = [random.random(), np.random.standard_normal(), torch.rand(1).item()]
    assert checkpoint.restore_generators(saved) == []
    assert drawn == [random.random(), np.random.standard_normal(), torch.rand(1).item()]


@pytest.mark.parametrize(
    "change",
    [
        {"python": [3, [1, 2], None]}, {"python": [3, ["x"] * 625, None]}, {"numpy": ["MT19937", b"short", 1, 0, 0.0]},
        {"numpy": 5}, {"torch": b"short"}, {"torch": None}, {"python": []}, {"cuda": 3, "torch": b""},
    ],
)  # fmt: skip
def test_generators_that_were_made_up_move_none(change: dict[str, Any]) -> None:
    checkpoint.seed_generators(3)
    saved = {**checkpoint.generators(), **change}
    checkpoint.seed_generators(4)
    before = checkpoint.generators()
    with pytest.raises(ArtifactCorrupt, match="generators"):
        checkpoint.restore_generators(saved)
    assert checkpoint.generators() == before


def test_generators_of_devices_that_are_not_here_are_named() -> None:
    saved = {**checkpoint.generators(), "cuda": [b"state"] * (torch.cuda.device_count() + 1)}
    assert checkpoint.restore_generators(saved) == ["cuda"]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty", "longer"])
def test_damage_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    path = snapshot.save(tmp_path / "000001", made()) / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        data[20] ^= 1
        path.write_bytes(data)
    else:
        changed = {"cut": bytes(data[: len(data) // 2]), "empty": b"", "longer": bytes(data) + b"\0"}
        path.write_bytes(changed[damage])
    with pytest.raises(ArtifactCorrupt):
        checkpoint.load(path.parent)


def test_files_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    one = snapshot.save(tmp_path / "1", made())
    other = snapshot.save(tmp_path / "2", Snapshot({"model.a": torch.zeros(2, 3)}, {"run": {"step": 5}}))
    (one / checkpoint.TENSORS).write_bytes((other / checkpoint.TENSORS).read_bytes())
    with pytest.raises(ArtifactCorrupt, match="torn"):
        checkpoint.load(one)


@pytest.mark.parametrize(
    "outer",
    [
        b"", b"\xc1", codec.pack(7), codec.pack({"digest": "x"}),
        codec.pack({"digest": codec.digest(b"a"), "body": "a"}),
        codec.pack({"digest": codec.digest(codec.pack([1])), "body": codec.pack([1])}),
        codec.pack({"digest": codec.digest(b"\xc1"), "body": b"\xc1"}),
        msgspec.msgpack.encode({"digest": 5, "body": None}),
        b"\0" * (checkpoint.STATE_BYTES_MAX + 1),
    ],
)  # fmt: skip
def test_a_small_half_that_was_made_up_is_refused(tmp_path: Path, outer: bytes) -> None:
    folder = snapshot.save(tmp_path / "1", made())
    (folder / checkpoint.STATE).write_bytes(outer)
    with pytest.raises(ArtifactCorrupt):
        checkpoint.load(folder)


@pytest.mark.parametrize("prefix", [b"\xff" * 8, b"\0" * 8, b"\x05"])
def test_a_tensor_file_without_a_header_is_refused(tmp_path: Path, prefix: bytes) -> None:
    folder = snapshot.save(tmp_path / "1", made())
    path = folder / checkpoint.TENSORS
    path.write_bytes(prefix + path.read_bytes()[8:] if len(prefix) == 8 else prefix)
    with pytest.raises(ArtifactCorrupt):
        checkpoint.load(folder)


def test_a_half_written_folder_has_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("executors.checkpoint.os.fsync", broken)
    with pytest.raises(OSError, match="No space"):
        snapshot.save(tmp_path / "1", made())
    assert not (tmp_path / "1").exists()
