"""Split folders for tests, in the format that the kind `profile` writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

SHARES = (("train", 0.70), ("validation", 0.85), ("holdout", 0.95), ("audit", 1.0))


def write_text_split(
    folder: Path, texts: Sequence[str], y: Sequence[int], labels: Sequence[str], **schema: Any
) -> Path:
    """A split of texts; y indexes labels."""
    data = [text.encode() for text in texts]
    arrays = _common([text.encode() for text in texts], y)
    arrays["text"] = np.frombuffer(b"".join(data), np.uint8)
    arrays["text_offsets"] = np.concatenate([[0], np.cumsum([len(item) for item in data])]).astype(np.int64)
    return _write(folder, arrays, {"modality": "text", "labels": list(labels), "features": [], **schema})


def write_table_split(
    folder: Path, x: NDArray[Any], y: Sequence[int], labels: Sequence[str], features: Sequence[str], **schema: Any
) -> Path:
    """A split of numbers [n, d]; NaN is missing."""
    table = np.asarray(x, np.float32)
    arrays = _common([row.tobytes() for row in table], y)
    arrays["x"] = np.ascontiguousarray(table)
    return _write(folder, arrays, {"modality": "tabular", "labels": list(labels), "features": list(features), **schema})


def write_four(
    folder: Path, inputs: Any, y: Sequence[int], labels: Sequence[str], features: Sequence[str] = ()
) -> Path:
    """train, validation, holdout and audit below `folder`, by the SHA-256 of the input. Texts when there are no
    features, else a table."""
    chosen: dict[str, list[int]] = {name: [] for name, _ in SHARES}
    for number in range(len(y)):
        raw = inputs[number].encode() if not features else np.asarray(inputs[number], np.float32).tobytes()
        place = int.from_bytes(hashlib.sha256(b"salt" + raw).digest()[:8], "little") / 2**64
        chosen[next(name for name, share in SHARES if place < share)].append(number)
    for name, rows in chosen.items():
        part_y = [int(y[row]) for row in rows]
        if features:
            write_table_split(folder / name, np.asarray(inputs)[rows], part_y, labels, features, split=name)
        else:
            write_text_split(folder / name, [inputs[row] for row in rows], part_y, labels, split=name)
    return folder


def _common(raw: Sequence[bytes], y: Sequence[int]) -> dict[str, NDArray[Any]]:
    ids = [int.from_bytes(hashlib.sha256(item).digest()[:8], "little") for item in raw]
    unsigned = np.array(ids, np.uint64)
    return {
        "y": np.array(y, np.int64),
        "id": unsigned.view(np.int64),
        "cluster": np.unique(unsigned, return_inverse=True)[1].astype(np.int32),
    }


def _write(folder: Path, arrays: Mapping[str, NDArray[Any]], schema: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    whole = {"task": "classify", "salt": "salt", "split": folder.name, **schema}
    (folder / "schema.json").write_text(json.dumps(whole), encoding="utf-8")
    save_file(dict(arrays), folder / "examples.safetensors")
    return folder
