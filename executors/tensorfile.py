"""What a safetensors file holds, from its header alone: nothing is loaded, nothing can run.

    | 8 bytes: length of the header, little-endian | header: JSON | the tensors' bytes, without gaps |

Everything that the header claims is checked against the file: known number types, shapes whose bytes are exactly the
ranges that they name, ranges that follow one another without a gap up to the file's last byte, no name twice.
(The format: huggingface.co/docs/safetensors.) Not covered: whether the numbers are finite; that takes reading them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from mesh.errors import ModelRefused

HEADER_BYTES_MAX = 100_000_000
"""Longest header of a safetensors file; the format's own bound."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Number types and the bits of one number."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. ModelRefused with a sentence when it is no whole safetensors file."""
    try:
        size_bytes = os.path.getsize(path)
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size_bytes
            if length > min(HEADER_BYTES_MAX, size_bytes - 8):
                raise _refused(path, f"it begins with {prefix[:4]!r}, and a header of that length does not fit into it")
            text = file.read(length)
    except OSError as error:
        raise ModelRefused(f"{path.name} can not be read ({error.strerror}): check its permissions.") from None
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"its header is no JSON map ({str(error)[:100]})") from None
    if not isinstance(header, dict):
        raise _refused(path, "its header is no JSON map")
    header.pop("__metadata__", None)
    return _checked(path, header, size_bytes - 8 - length)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _checked(path: Path, header: dict[str, Any], body_bytes: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
            plain = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
            if not plain or dtype not in BITS:
                raise ValueError(f"type {str(dtype)[:20]!r}, shape {str(shape)[:60]}")
        except (KeyError, TypeError, ValueError) as error:
            raise _refused(path, f"its tensor {name[:80]!r} is not described as the format asks ({error})") from None
        tensor = found[name] = Tensor(dtype, tuple(shape))
        if 8 * (end - begin) != tensor.numbers * BITS[dtype]:
            raise _refused(path, f"its tensor {name[:80]!r} of {dtype} {shape} does not fit into {end - begin} bytes")
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise _refused(path, f"its tensor {name[:80]!r} begins at byte {begin} instead of {reached}")
        reached = end
    if reached != body_bytes:
        raise _refused(path, f"its tensors take {reached} bytes, {body_bytes} follow its header: it was cut or torn")
    return found


def _refused(path: Path, why: str) -> ModelRefused:
    return ModelRefused(f"{path.name} is no whole safetensors file: {why}.")
