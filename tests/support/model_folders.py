"""Small model folders as other programs save them, written by hand: no library is needed, and every byte is chosen."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

FILES = {
    "config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"]}),
    "tokenizer.json": json.dumps({"version": "1.0"}),
    "tokenizer_config.json": "{}",
    "vocab.txt": "[PAD]\nhello\n",
    "README.md": "---\nlicense: mit\ntags:\n- x\n---\n# A model\n",
    "LICENSE": "do what you like\n",
}


def tensor_bytes(*tensors: tuple[str, list[int]], start: int = 0) -> bytes:
    """A safetensors file of float32 tensors (name, shape); their bytes count up from `start`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, shape in tensors:
        count = 4
        for side in shape:
            count *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + count]}
        body += bytes((start + index) % 64 for index in range(count))
    return with_header(header, body)


def with_header(header: Any, body: bytes) -> bytes:
    """A safetensors file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def transformers_folder(folder: Path) -> Path:
    """As save_pretrained writes it, weights in one file."""
    weights = tensor_bytes(("embeddings.weight", [16, 8]), ("pooler.bias", [8]))
    return write(folder, {**FILES, "model.safetensors": weights})


def sharded_folder(folder: Path) -> Path:
    """The same in two shards with an index."""
    index = {
        "metadata": {"total_size": 544},
        "weight_map": {
            "embeddings.weight": "model-00001-of-00002.safetensors",
            "pooler.bias": "model-00002-of-00002.safetensors",
        },
    }
    return write(
        folder,
        {
            **FILES,
            "model.safetensors.index.json": json.dumps(index),
            "model-00001-of-00002.safetensors": tensor_bytes(("embeddings.weight", [16, 8])),
            "model-00002-of-00002.safetensors": tensor_bytes(("pooler.bias", [8]), start=5),
        },
    )


def adapter_folder(folder: Path, base: str = "bert-base-uncased") -> Path:
    """A peft adapter."""
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 4}
    weights = tensor_bytes(("base_model.model.x.lora_A.weight", [4, 8]), ("base_model.model.x.lora_B.weight", [8, 4]))
    return write(folder, {"adapter_config.json": json.dumps(config), "adapter_model.safetensors": weights})


def ramify_folder(folder: Path, labels: list[str] | None = None, **inner: Any) -> Path:
    """A classifier of this program, as far as its folder tells."""
    part = {
        "format": 2, "kind": "classify", "architecture": "wide-deep", "modality": "text",
        "labels": labels if labels is not None else ["no", "yes"], "features": {"modality": "text", "ngrams": {}},
        "settings": {"hidden": [64], "learning_rate": None, "dropout": 0.5}, **inner,
    }  # fmt: skip
    config = {"model_type": "ramify-classifier", "ramify": part}
    weights = tensor_bytes(("features.idf", [12]), ("network.bias", [2]))
    return write(folder, {"config.json": json.dumps(config), "model.safetensors": weights, "README.md": "# A card\n"})
