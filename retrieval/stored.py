"""An index on disk, and back.

    index.faiss          FAISS's own bytes
    ids.safetensors      ids int64[n]: of each row
    index.json           format, spec, rows, seed, threads, facts; size and SHA-256 of the other two

FAISS's reader is C++ that trusts its input: bytes made to break it could. So nothing reaches it that was not first read
into memory whole, within a bound, and found to have the digest that index.json names; and an artifact's own digest
covers index.json. That proves that the bytes are those of whoever made the index, not that their maker was honest: load
indexes of mesh members only, and in a child, where a crash harms one task. After reading, what FAISS built is compared
with the spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mesh.errors import ArtifactCorrupt
from retrieval.choices import Spec
from retrieval.vectors import VectorIndex

FORMAT = 1
MANIFEST, BODY, IDS = "index.json", "index.faiss", "ids.safetensors"

MANIFEST_BYTES_MAX = 1024 * 1024

BODY_BYTES_MAX = 64 * 1024**3
"""Largest index that is read; a caller with less memory says less."""

CLASSES = {
    "flat": ("IndexFlat", "IndexFlatIP", "IndexFlatL2"),
    "ivf": ("IndexIVFFlat",),
    "pq": ("IndexPQ",),
    "ivf-pq": ("IndexIVFPQ",),
    "hnsw": ("IndexHNSWFlat",),
}
"""What FAISS calls each family."""


def save(index: VectorIndex, folder: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Write an index into a new folder. facts: kept in index.json as they are (JSON)."""
    import faiss
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=False)
    faiss.write_index(index.inner, str(folder / BODY))
    save_file({"ids": index.ids}, folder / IDS)
    manifest = {
        "format": FORMAT,
        "spec": asdict(index.spec),
        "rows": len(index),
        "seed": index.seed,
        "threads": index.threads,
        "files": {name: _described(folder / name) for name in (BODY, IDS)},
        "facts": dict(facts or {}),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return folder


def load(folder: Path, *, threads: int = 1, bytes_max: int = BODY_BYTES_MAX) -> VectorIndex:
    """The index in `folder`. ArtifactCorrupt with a sentence when it is none, is larger than `bytes_max`, or is not
    what its manifest says."""
    import faiss
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    manifest = read_manifest(folder)
    spec, rows = _spec(manifest), int(manifest["rows"])
    body, ids = (_verified(folder / name, manifest["files"].get(name), bytes_max) for name in (BODY, IDS))
    try:
        numbers = load_tensors(ids)["ids"]
        inner = faiss.deserialize_index(np.frombuffer(body, np.uint8))
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ArtifactCorrupt(f"{folder.name} holds no index that this FAISS reads: {str(error)[-160:]}") from None
    metric = faiss.METRIC_L2 if spec.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    found = (type(inner).__name__ in CLASSES[spec.family], inner.d, inner.ntotal, inner.metric_type)
    if found != (True, spec.dimension, rows, metric) or numbers.dtype != np.int64 or numbers.shape != (rows,):
        raise ArtifactCorrupt(
            f"expected a {spec.family} index of {rows} vectors of {spec.dimension} numbers, found a "
            f"{type(inner).__name__} of {inner.ntotal} of {inner.d} and {numbers.dtype} ids {list(numbers.shape)}"
        )
    index = VectorIndex(spec, seed=int(manifest.get("seed", 0)), threads=threads)
    index.inner, index.ids = inner, numbers
    index.search_width(spec.probes if spec.has_cells else spec.breadth)
    return index


def read_manifest(folder: Path) -> dict[str, Any]:
    """index.json. ArtifactCorrupt when it is none."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise ArtifactCorrupt(f"an index's {MANIFEST} has at most {MANIFEST_BYTES_MAX} bytes, this one has more")
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ArtifactCorrupt(
                f"this program reads indexes of format {FORMAT}, got {manifest['format']}: update the older side"
            )
        if type(manifest["rows"]) is not int or not isinstance(manifest["files"], dict):
            raise TypeError("rows and files are a number and a map")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactCorrupt(
            f"expected {MANIFEST} of an index in {folder.name}: {type(error).__name__} {str(error)[:160]}"
        ) from None
    found: dict[str, Any] = manifest
    return found


def _spec(manifest: Mapping[str, Any]) -> Spec:
    try:
        return Spec(**manifest["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{MANIFEST} describes no index that there is: {str(error)[:160]}") from None


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size_bytes": path.stat().st_size}


def _verified(path: Path, wanted: Any, bytes_max: int) -> bytes:
    """A file's bytes, once they are known to be the ones that the manifest names."""
    try:
        size, digest = int(wanted["size_bytes"]), str(wanted["sha256"])
        actual = path.stat().st_size
        if actual != size or size > bytes_max:
            raise ArtifactCorrupt(f"{path.name} has {actual} bytes, expected {size} and at most {bytes_max}")
        data = path.read_bytes()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path.name} of an index can not be read: {str(error)[:160]}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactCorrupt(f"{path.name} does not have the digest that {MANIFEST} names: fetch the index again")
    return data
