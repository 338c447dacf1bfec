"""A model on disk: what `evaluate`, a later run and other programs read. numpy only; nothing is unpickled.

model.safetensors   features.*   what the features need (hashes and weights of n-grams, or column statistics)
                    network.*    the weights, float32
                    linear.*     those of the linear path beside the network, where there is one
config.json         model_type, id2label … as transformers names them, and under "ramify" everything to rebuild it
README.md           the model card
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executors.modelfolder import CONFIG_BYTES_MAX, FORMAT
from mesh.errors import ArtifactCorrupt

Arrays = dict[str, NDArray[Any]]


def write_model(folder: Path, arrays: Mapping[str, NDArray[Any]], ramify: Mapping[str, Any], card: str) -> Path:
    """Write a model folder. `ramify`: kind, architecture, modality, labels, and what rebuilding takes."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=False)
    labels = list(ramify["labels"])
    config = {
        "model_type": "ramify-classifier",
        "num_labels": len(labels),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "ramify": {"format": FORMAT, **ramify},
    }
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read_model(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """(arrays, the config's "ramify" part). ArtifactCorrupt when the folder is no model that this program reads."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / "config.json"
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ArtifactCorrupt(f"a model's config.json has at most {CONFIG_BYTES_MAX} bytes, this one has more")
        config = json.loads(path.read_bytes())["ramify"]
        arrays = dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactCorrupt(
            f"expected config.json and model.safetensors of a Ramify model in {folder.name}: "
            f"{type(error).__name__} {str(error)[:160]}"
        ) from None
    _check(arrays, config)
    return arrays, config


def _check(arrays: Arrays, config: Any) -> None:
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ArtifactCorrupt(f"this program reads models of format {FORMAT}, got {found}: update the older side")
    labels = config.get("labels")
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
        raise ArtifactCorrupt("a classifier's config names at least two labels, this one does not")
    if len(set(labels)) != len(labels):
        raise ArtifactCorrupt("a classifier's labels are all different, this config repeats one")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactCorrupt(f"the model's tensor {name} holds values that are not finite")


def part(arrays: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    """The arrays under `name.`, without that prefix."""
    return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(name + ".")}


def size_bytes(folder: Path) -> int:
    """Bytes of all files of a model."""
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())
