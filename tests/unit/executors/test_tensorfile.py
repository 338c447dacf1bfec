"""Headers of safetensors files: what is whole is told, what is torn or lies is refused."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from executors import tensorfile
from executors.tensorfile import Tensor
from mesh.errors import ModelRefused
from tests.support.model_folders import tensor_bytes, with_header

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_a_whole_file_tells_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tensor_bytes(("a", [2, 3]), ("empty", [0, 4]), ("number", [])))
    found = tensorfile.tensors(path)
    assert found == {"a": Tensor("F32", (2, 3)), "empty": Tensor("F32", (0, 4)), "number": Tensor("F32", ())}
    assert [tensor.numbers for tensor in found.values()] == [6, 0, 1]


def test_what_the_library_writes_is_whole(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    kinds = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint64, np.bool_]
    save_file({kind.__name__: np.ones((3, 5), kind) for kind in kinds}, path, metadata={"format": "pt"})
    assert {tensor.shape for tensor in tensorfile.tensors(path).values()} == {(3, 5)}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "does not fit"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00", "does not fit"),
        (b"PK\x03\x04" + bytes(100), "does not fit"),
        (struct.pack("<Q", 1 << 62) + b"{}", "does not fit"),
        (with_header(b"not json", b""), "no JSON map"),
        (with_header([], b""), "no JSON map"),
        (with_header(b"[" * 100_000, b""), "no JSON map"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": {}}', bytes(8)), "twice"),
        (with_header({"a": 3}, b""), "not described"),
        (with_header({"a": {**ONE, "dtype": "OBJECT"}}, bytes(8)), "not described"),
        (with_header({"a": {**ONE, "shape": [-2]}}, bytes(8)), "not described"),
        (with_header({"a": {**ONE, "shape": [True]}}, bytes(8)), "not described"),
        (with_header({"a": {**ONE, "shape": [3]}}, bytes(8)), "does not fit into 8 bytes"),
        (with_header({"a": {**ONE, "data_offsets": [8, 16]}}, bytes(16)), "begins at byte 8"),
        (with_header({"a": ONE, "b": ONE}, bytes(8)), "begins at byte 0 instead of 8"),
        (with_header({"a": ONE}, bytes(7)), "torn"),
        (with_header({"a": ONE}, bytes(9)), "torn"),
    ],
)
def test_what_is_no_whole_file_is_refused_in_a_sentence(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelRefused, match=word) as refused:
        tensorfile.tensors(path)
    assert "model.safetensors" in str(refused.value)


def test_it_never_accepts_what_the_library_refuses(tmp_path: Path) -> None:
    """Bytes of a header changed at random: whatever passes here, safetensors opens."""
    from safetensors import safe_open

    whole = tensor_bytes(("first", [4, 3]), ("second", [7]), ("third", [2, 2, 2]))
    path, drawn, accepted = tmp_path / "model.safetensors", random.Random(7), 0
    for _ in range(1_500):
        data = bytearray(whole)
        for _ in range(drawn.randint(1, 3)):
            data[drawn.randrange(8 + struct.unpack("<Q", whole[:8])[0])] = drawn.choice(b'0123456789{}[],:"F32 ')
        path.write_bytes(data)
        try:
            found = tensorfile.tensors(path)
        except ModelRefused:
            continue
        accepted += 1
        with safe_open(path, "numpy") as opened:
            assert set(opened.keys()) == set(found), json.dumps(sorted(found))
    assert accepted > 20, "nearly nothing passed: the test shows nothing"
