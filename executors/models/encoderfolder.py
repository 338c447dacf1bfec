"""The folder of a sentence encoder, looked at without loading it: which files decide its answers, what they ask for.

`1_Pooling/config.json`, `modules.json` and `sentence_bert_config.json` are those of sentence-transformers; a folder
without them is pooled by the mean. Light: no torch, no transformers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from executors import modelfolder
from mesh.errors import ModelRefused


def copied(source: Path, folder: Path, *, weights: bool = True) -> Path:
    """The files of an encoder that travel, copied to `folder`, which is made."""
    folder.mkdir(parents=True)
    for name in modelfolder.look(source).files:
        if weights or not name.endswith((".safetensors", ".safetensors.index.json")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    return folder


def digest_of(folder: Path) -> str:
    """SHA-256 (hex) over the files that decide an encoder's answers, by name: the same wherever the folder lies."""
    total = hashlib.sha256()
    for name in _relevant(folder):
        with (folder / name).open("rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _relevant(folder: Path) -> list[str]:
    """Files that decide the answers: all that travels but cards, licences and what was told of the training."""
    files = modelfolder.look(folder).files
    told = ("readme", "data_config", *modelfolder.NAMES)
    return [name for name in files if not Path(name).name.lower().startswith(told)]


def pooling_of(folder: Path) -> str:
    """mean or cls. ModelRefused when the folder asks for anything else."""
    for step in _steps(folder):
        kind = str(step.get("type", "")).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ModelRefused(
                f"the encoder in {folder.name!r} has a step {kind[:40]!r}: only pooling is computed here"
            )
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    said = _read(path)
    if isinstance(said.get("pooling_mode"), str):
        asked = [said["pooling_mode"]]
    else:
        asked = [name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                 for name, on in said.items() if name.startswith("pooling_mode_") and on]  # fmt: skip
    if asked not in (["mean"], ["cls"]):
        raise ModelRefused(
            f"the encoder in {folder.name!r} pools by {asked or 'nothing'}: mean or cls is computed here"
        )
    return str(asked[0])


def _steps(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    steps = json.loads(path.read_bytes())
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def sentence_length(folder: Path) -> int:
    """Places that the folder's author allows; 0 when he does not say."""
    path = folder / "sentence_bert_config.json"
    length = _read(path).get("max_seq_length") if path.is_file() else 0
    return length if isinstance(length, int) and 0 < length <= 1_000_000 else 0


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    return found if isinstance(found, dict) else {}
