"""Loads a dual encoder that Ramify trained, without Ramify. Copy this file and load_model.py beside it.

model = DualEncoder("the/pulled/folder")
left = model.vectors("left", ["resize an image"])        # [texts, width], each of length one
right = model.vectors("right", pool)
best = (left @ right.T).argmax(dim=1)                    # the likeliest partner of each
odds = torch.softmax(left @ right.T / model.temperature, dim=1)

Needs torch and safetensors; where the model has a folder `encoder`, transformers, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from load_model import Classifier, Encoder, _product
from safetensors.torch import load_file


class DualEncoder(Classifier):
    """A model folder: config.json, model.safetensors, perhaps encoder/. Reads n-grams as a classifier does."""

    def __init__(self, folder: str | Path) -> None:
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))["ramify"]
        if config["format"] != 2:
            raise ValueError(f"this loader reads format 2, the model has format {config['format']}")
        self.config = {**config, "features": config["reader"]}
        self.tensors = load_file(str(Path(folder) / "model.safetensors"))
        self.temperature: float = config["temperature"]
        self.encoder: Any = None
        if config["reader"]["reads"] != "n-grams":
            self.encoder = Encoder(Path(folder) / "encoder", config["reader"]["tokens_max"])
            return
        hashes, numbers = (self.tensors[f"features.{name}"].tolist() for name in ("hashes", "numbers"))
        self.numbers = {value & ((1 << 64) - 1): number for value, number in zip(hashes, numbers, strict=True)}
        self.idf, self.is_word = (self.tensors[f"features.{name}"].tolist() for name in ("idf", "is_word"))

    def vectors(self, side: str, texts: Sequence[str]) -> torch.Tensor:
        """[texts, width] of one side, 'left' or 'right'."""
        if self.config["towers"]["shared"]:
            side = "left"
        part = {name.split(".", 2)[2]: one for name, one in self.tensors.items() if name.startswith(f"towers.{side}.")}
        return torch.stack([self._tower(part, text) for text in texts])

    def _tower(self, part: dict[str, torch.Tensor], text: str) -> torch.Tensor:
        row: Any = torch.nn.functional.normalize(self.encoder(text), dim=0) if self.encoder else self._text(text)
        hidden = _product(row, part["entry.weight"])
        if "wider.weight" in part:
            inner = torch.nn.functional.gelu(part["wider.weight"] @ hidden + part["wider.bias"])
            hidden = hidden + part["narrower.weight"] @ inner + part["narrower.bias"]
        return hidden / max(1e-12, math.sqrt(float(hidden @ hidden)))
