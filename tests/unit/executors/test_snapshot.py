"""The buffer: a valid safetensors file in memory that others read, filled at any rate, grown when the state grows."""

from __future__ import annotations

import itertools
import json
import os
import struct
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file
from safetensors.torch import save as safetensors_save
from torch import Tensor

from executors import checkpoint, snapshot
from executors.checkpoint import STATE, TENSORS, Snapshot
from executors.snapshot import Buffer
from mesh import platform


def read_by_path(buffer: Buffer, files: tuple[tuple[str, int, int], ...]) -> dict[str, bytes]:
    """What another process reads: by path, each file at its offset."""
    found = {}
    with Path(buffer.path).open("rb") as file:
        for name, offset, size in files:
            file.seek(offset)
            found[name] = file.read(size)
    return found


def some(**tensors: Tensor) -> Snapshot:
    return Snapshot(tensors, {"run": {"step": 1}})


MIXED = {
    "f32": torch.randn(3, 5), "bf16": torch.randn(7).bfloat16(), "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "u8": torch.arange(3, dtype=torch.uint8), "bool": torch.tensor([True, False, True]), "f64": torch.randn(2).double(),
    "i64": torch.arange(5), "f16": torch.randn(3, 3).half(), "strided": torch.randn(4, 6).t(),
    "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "naïve": torch.ones(1),
}  # fmt: skip


def test_others_read_a_valid_file(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path)
    files = buffer.fill(some(**MIXED))
    found = read_by_path(buffer, files)
    tensors = load(found[TENSORS])
    assert tensors.keys() == MIXED.keys()
    for name, tensor in MIXED.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert [name for name, _, _ in files] == [TENSORS, STATE]
    assert files[0][1] + files[0][2] == files[1][1]
    assert found == {name: bytes(part) for name, part in buffer.parts().items()}
    buffer.close()


def test_tensors_begin_where_any_item_may() -> None:
    layout = snapshot.laid_out(MIXED)
    (length,) = struct.unpack("<Q", layout.head[:8])
    assert (8 + length) % snapshot.ALIGN_BYTES == 0
    for name, tensor in MIXED.items():
        assert layout.places[name] % tensor.element_size() == 0
    entries = json.loads(layout.header)
    ends = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
    assert ends[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        NAMES.filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(list(snapshot.DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=8,
    )
)
def test_every_layout_is_what_the_format_allows(shapes: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    """Compared with the library's own writer: the same names, types, shapes and bytes."""
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    buffer = Buffer(Path())
    buffer.fill(Snapshot(tensors, {}))
    found, known = load(bytes(buffer.parts()[TENSORS])), load(safetensors_save(tensors))
    buffer.close()
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        name: (one.dtype, one.shape) for name, one in known.items()
    }


def test_it_is_filled_anew_in_the_same_place(tmp_path: Path) -> None:
    buffer, weights = Buffer(tmp_path), torch.zeros(1000)
    buffer.fill(some(weights=weights))
    path = buffer.path
    for value in (1.0, 2.0):
        weights.fill_(value)
        files = buffer.fill(some(weights=weights))
        assert torch.equal(load(read_by_path(buffer, files)[TENSORS])["weights"], weights)
    assert buffer.path == path
    buffer.close()


def test_memory_is_reserved_beside_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` does not wait, `fill` does; the room is enough, so nothing is reserved a second time."""
    go, reserved, reserve = threading.Event(), list[int](), platform.reserve

    def slow(fd: int, size_bytes: int) -> None:
        assert go.wait(20)
        reserved.append(size_bytes)
        reserve(fd, size_bytes)

    monkeypatch.setattr("mesh.platform.reserve", slow)
    buffer, tensors = Buffer(tmp_path), {"a": torch.arange(100_000.0)}
    buffer.prepare(tensors)
    buffer.prepare(tensors)
    assert reserved == []
    go.set()
    files = buffer.fill(some(**tensors))
    assert len(reserved) == 1
    assert torch.equal(load(read_by_path(buffer, files)[TENSORS])["a"], tensors["a"])
    buffer.prepare({"a": torch.zeros(10_000_000)})
    assert len(reserved) == 1
    buffer.close()


def test_room_that_is_lacking_is_told_to_who_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, size_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mesh.platform.reserve", full)
    buffer = Buffer(tmp_path)
    buffer.prepare({"a": torch.ones(3)})
    with pytest.raises(OSError, match="No space"):
        buffer.fill(some(a=torch.ones(3)))
    buffer.close()


def test_it_grows_when_the_state_grows_and_keeps_its_path(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path)
    buffer.fill(some(a=torch.ones(10)))
    path, before = buffer.path, os.stat(buffer.path).st_size
    big = {"a": torch.ones(10), "b": torch.arange(1_000_000, dtype=torch.float32)}
    files = buffer.fill(some(**big))
    assert (buffer.path, os.stat(path).st_size > before) == (path, True)
    assert torch.equal(load(read_by_path(buffer, files)[TENSORS])["b"], big["b"])
    long = Snapshot(big, {"run": {"history": list(range(200_000))}})
    (tmp_path / "1").mkdir()
    files = buffer.fill(long)
    for name, data in read_by_path(buffer, files).items():
        (tmp_path / "1" / name).write_bytes(data)
    assert checkpoint.load(tmp_path / "1").state == long.state
    buffer.close()


def test_what_stands_still_is_copied_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    buffer, copied = Buffer(tmp_path), list[str]()
    frozen, moving = torch.ones(4), torch.zeros(4)

    class Watched(dict[str, Tensor]):
        """Tells which places were asked for, that is written."""

        def __getitem__(self, name: str) -> Tensor:
            copied.append(name)
            return super().__getitem__(name)

    def fill(**tensors: Tensor) -> list[str]:
        copied.clear()
        files = buffer.fill(some(**tensors), still={"frozen"})
        buffer._views = Watched(buffer._views)
        found = load(read_by_path(buffer, files)[TENSORS])
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        return list(copied)

    fill(frozen=frozen, moving=moving)
    moving += 1
    assert fill(frozen=frozen, moving=moving) == ["moving"]
    other = frozen + 1
    assert fill(frozen=other, moving=moving) == ["frozen", "moving"]
    other += 1  # against its word
    assert fill(frozen=other, moving=moving) == ["frozen", "moving"]
    assert fill(frozen=other, moving=moving) == ["moving"]
    address = other.data_ptr()
    del other
    again = torch.full((4,), 7.0)
    assert fill(frozen=again, moving=moving) == ["frozen", "moving"], address
    buffer.close()


def test_closed_memory_is_gone_for_who_comes_later_and_stays_for_who_has_it(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path)
    files = buffer.fill(some(a=torch.arange(5)))
    expected = read_by_path(buffer, files)
    with Path(buffer.path).open("rb") as held:
        path = buffer.path
        buffer.close()
        with pytest.raises(OSError, match="No such file"):
            os.stat(path)
        assert held.read()[: files[0][2]] == expected[TENSORS]


def test_without_files_in_memory_it_is_a_file_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.platform.sys.platform", "darwin")
    one, other = Buffer(tmp_path / "scratch"), Buffer(tmp_path / "scratch")
    for buffer in (one, other):
        files = buffer.fill(some(a=torch.arange(5)))
        assert Path(buffer.path).parent == tmp_path / "scratch"
        assert torch.equal(load(read_by_path(buffer, files)[TENSORS])["a"], torch.arange(5))
    assert one.path != other.path
    one.close()
    other.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_no_room_is_an_error_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, size_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mesh.platform.reserve", full)
    buffer = Buffer(tmp_path)
    with pytest.raises(OSError, match="No space"):
        buffer.fill(some(a=torch.ones(3)))
    buffer.close()


def test_a_saved_folder_is_read_by_the_library(tmp_path: Path) -> None:
    folder = snapshot.save(tmp_path / "1", some(**MIXED))
    assert load_file(folder / TENSORS).keys() == MIXED.keys()
