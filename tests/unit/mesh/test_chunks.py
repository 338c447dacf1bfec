"""Where files are cut: without gaps, per tensor, and refusing what is no object."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mesh import chunks, limits


def safetensors(path: Path, tensors: dict[str, bytes]) -> int:
    """Write a safetensors file of uint8 tensors; its size."""
    header, offset = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
    return path.stat().st_size


def without_gaps(pieces: list[chunks.Piece], size: int) -> bool:
    ends = [0, *(piece.offset + piece.size for piece in pieces)]
    return [piece.offset for piece in pieces] == ends[:-1] and ends[-1] == size


@pytest.mark.parametrize("size", [0, 1, limits.CHUNK_BYTES - 1, limits.CHUNK_BYTES, 3 * limits.CHUNK_BYTES + 7])
def test_any_file_is_cut_by_size_without_gaps(tmp_path: Path, size: int) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"x" * size)
    pieces = chunks.cut(path, size)
    assert without_gaps(pieces, size)
    assert all(0 < piece.size <= limits.CHUNK_BYTES for piece in pieces)
    assert len(pieces) == -(-size // limits.CHUNK_BYTES)


def test_header_and_each_large_tensor_are_their_own_objects(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = safetensors(path, {"a": b"a" * 40_000, "b": b"b" * (limits.CHUNK_BYTES + 5), "c": b"c" * 30_000})
    pieces = chunks.cut(path, size)
    base = size - 40_000 - 30_000 - limits.CHUNK_BYTES - 5
    assert without_gaps(pieces, size)
    assert [piece.size for piece in pieces] == [base, 40_000, limits.CHUNK_BYTES, 5, 30_000]


def test_neighbouring_small_tensors_share_an_object_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    small = {f"s{i:03}": bytes([i]) * 1_000 for i in range(200)}
    size = safetensors(path, {"big": b"b" * 50_000, **small, "zbig": b"z" * 50_000})
    pieces = chunks.cut(path, size)
    assert without_gaps(pieces, size)
    runs = [piece.size for piece in pieces[2:-1]]
    assert sum(runs) == 200_000
    assert max(runs) <= chunks.SMALL_RUN_BYTES
    assert len(runs) == 4


def test_an_unchanged_tensor_keeps_its_piece_when_another_one_grows(tmp_path: Path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    same = bytes(range(256)) * 400
    size_one = safetensors(one, {"a": b"a" * 20_000, "same": same})
    size_two = safetensors(two, {"a": b"a" * 90_000, "same": same})

    def bodies(path: Path, size: int) -> set[bytes]:
        data = path.read_bytes()
        return {data[piece.offset : piece.offset + piece.size] for piece in chunks.cut(path, size)}

    assert same in bodies(one, size_one) & bodies(two, size_two)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 10**12) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b"not json" + b"x" * 90_000,
        struct.pack("<Q", 34) + b'{"a":{"data_offsets":[0,99999999]}}'[:34] + b"x",
        struct.pack("<Q", 35) + b'{"a":{"data_offsets":[0,99999999]}}' + b"x" * 20,
        struct.pack("<Q", 30) + b'{"a":{"data_offsets":[-40,9]}}' + b"x" * 20,
        struct.pack("<Q", 26) + b'{"a":{"data_offsets":[0]}}' + b"x" * 20,
        struct.pack("<Q", 44) + b'{"a":{"data_offsets":[0,9],"dtype":["F32"]}}' + b"x" * 20,
        struct.pack("<Q", 54) + b'{"a":{"data_offsets":[0,9]},"b":{"data_offsets":[3,5]}}'[:54] + b"x" * 20,
    ],
)
def test_a_file_that_only_claims_to_be_safetensors_is_cut_by_size(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(data)
    assert without_gaps(chunks.cut(path, len(data)), len(data))


def tensors_file(path: Path, tensors: dict[str, tuple[str, int]]) -> int:
    """Write a safetensors file of zeros: (type, bytes) by name; its size."""
    header, offset = {}, 0
    for name, (dtype, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
    return path.stat().st_size


def test_a_piece_knows_the_width_of_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    types = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "NEW": 1}
    size = tensors_file(path, {f"{name} tensor": (name, 40_000) for name in types})
    assert [piece.item_bytes for piece in chunks.cut(path, size)] == [1, *types.values()]


def test_a_run_of_small_tensors_has_a_width_when_all_agree(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = tensors_file(
        path, {"a": ("F32", 100), "b": ("F32", 200), "c": ("F32", 50_000), "d": ("F32", 8), "e": ("I64", 8)}
    )
    assert [piece.item_bytes for piece in chunks.cut(path, size)] == [1, 4, 4, 1]


def test_a_width_that_does_not_divide_the_tensor_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert [piece.item_bytes for piece in chunks.cut(path, tensors_file(path, {"a": ("F32", 40_001)}))] == [1, 1]


def test_a_tensors_pieces_are_called_the_same_wherever_it_lies(tmp_path: Path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    large = ("F32", limits.CHUNK_BYTES + 40_000)
    first = chunks.cut(one, tensors_file(one, {"w": large}))
    second = chunks.cut(two, tensors_file(two, {"new": ("BF16", 50_000), "w": large}))
    names = {piece.name for piece in first}
    assert len(names) == len(first) == 3
    assert {(p.name, p.size) for p in first[1:]} <= {(p.name, p.size) for p in second}
    assert len({piece.name for piece in second}) == len(second)


def test_what_lies_between_and_behind_tensors_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    text = b'{"a":{"dtype":"F32","data_offsets":[10,40010]}}'
    data = struct.pack("<Q", len(text)) + text + bytes(40_030)
    path.write_bytes(data)
    pieces = chunks.cut(path, len(data))
    assert without_gaps(pieces, len(data))
    assert [piece.item_bytes for piece in pieces] == [1, 1, 1]
