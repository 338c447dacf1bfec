"""Loads a classifier that Ramify trained, without Ramify: torch and safetensors are all it needs. Copy this file.

model = Classifier("the/pulled/folder")
model.predict(["where is my card?", "cancel it"])        # texts, for a model of texts
model.predict([[5.1, 3.5, None, 0.2]])                   # rows in the order of model.columns; None is missing
model.probabilities(inputs)                              # a tensor [inputs, labels]; model.labels names its columns

Text becomes TF-IDF of hashed word and character n-grams, or, where the model has a folder `encoder`, that encoder's
vector (then transformers is needed, too); a table becomes standardised columns. A linear and a deep path read them,
side by side (config.json says which there are), and a temperature makes probabilities of what they say.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

MASK, MULTIPLIER = (1 << 64) - 1, 0x9E3779B97F4A7C15
WORD = re.compile(r"\w\w+")


class Classifier:
    """A model folder: config.json and model.safetensors."""

    def __init__(self, folder: str | Path) -> None:
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))["ramify"]
        if config["format"] != 2:
            raise ValueError(f"this loader reads format 2, the model has format {config['format']}")
        self.config, self.tensors = config, load_file(str(Path(folder) / "model.safetensors"))
        self.labels: list[str] = config["labels"]
        self.columns: list[str] = config["features"].get("columns", [])
        self.encoder: Any = None
        if "encoder" in config["features"]:
            self.encoder = Encoder(Path(folder) / "encoder", config["features"]["tokens_max"])
        elif config["modality"] == "text":
            hashes, numbers = (self.tensors[f"features.{name}"].tolist() for name in ("hashes", "numbers"))
            self.numbers = {value & MASK: number for value, number in zip(hashes, numbers, strict=True)}
            self.idf, self.is_word = (self.tensors[f"features.{name}"].tolist() for name in ("idf", "is_word"))

    def predict(self, inputs: Sequence[str] | Sequence[Sequence[float | None]]) -> list[str]:
        """The likeliest label of each input."""
        return [self.labels[index] for index in self.probabilities(inputs).argmax(dim=1).tolist()]

    def probabilities(self, inputs: Sequence[str] | Sequence[Sequence[float | None]]) -> torch.Tensor:
        """[inputs, labels]; each row adds up to 1."""
        read: Any = self.encoder or (self._text if self.config["modality"] == "text" else self._row)
        rows = [read(one) for one in inputs]
        if not rows:
            return torch.zeros(0, len(self.labels))
        return torch.softmax(torch.stack([self._logits(row) for row in rows]) / self.config["temperature"], dim=1)

    # -- features -----------------------------------------------------------------------------------------------------

    def _text(self, text: str) -> dict[int, float]:
        """Feature to value: (1 + ln count) * idf, words and characters each scaled to length 1."""
        words = unicodedata.normalize("NFKC", text[: self.config["features"]["ngrams"]["characters_max"]]).lower()
        grams = self._ngrams(f" {' '.join(words.split())} " if words.split() else " ")
        counts = Counter(self.numbers[gram] for gram in grams if gram in self.numbers)
        return self._scaled({number: (1 + math.log(n)) * self.idf[number] for number, n in counts.items()})

    def _scaled(self, row: dict[int, float]) -> dict[int, float]:
        length = [0.0, 0.0]
        for number, value in row.items():
            length[self.is_word[number]] += value * value
        return {number: value / math.sqrt(length[self.is_word[number]]) for number, value in sorted(row.items())}

    def _ngrams(self, text: str) -> Iterator[int]:
        settings = self.config["features"]["ngrams"]
        if settings["char_max"]:
            for n in range(settings["char_min"], settings["char_max"] + 1):
                for start in range(len(text) - n + 1):
                    gram = text[start : start + n]
                    if " " not in (gram if n == 1 else gram[1:-1]):  # never across a space
                        yield _mixed(_polynomial(map(ord, gram)), n)
        if settings["word_max"]:
            words = [_word(found) for found in WORD.findall(text)]
            for n in range(settings["word_min"], settings["word_max"] + 1):
                for start in range(len(words) - n + 1):
                    yield _mixed(_polynomial(words[start : start + n]), 100 + n)

    def _row(self, row: Sequence[float | None]) -> torch.Tensor:
        """Standardised columns, gaps filled, and one more column per column that had gaps in training."""
        if len(row) != len(self.columns):
            raise ValueError(f"a row has {len(self.columns)} numbers ({', '.join(self.columns[:5])} …), got {len(row)}")
        values = torch.tensor([math.nan if value is None else float(value) for value in row])
        fill, mean, scale, flagged = (self.tensors[f"features.{name}"] for name in ("fill", "mean", "scale", "flagged"))
        gaps = ~torch.isfinite(values)
        standard = ((torch.where(gaps, fill, values) - mean) / scale).clamp(-8.0, 8.0)
        return torch.cat([standard, gaps[flagged].float()]).float()

    # -- the two paths ------------------------------------------------------------------------------------------------

    def _logits(self, row: dict[int, float] | torch.Tensor) -> torch.Tensor:
        count, blend = self.config["network"]["inputs"], self.config.get("blend")
        head = row  # the network reads the most frequent n-grams only, scaled anew
        if isinstance(row, dict) and count < len(self.numbers):
            head = self._scaled({number: value for number, value in row.items() if number < count})
        if not blend:
            return self._path("network", head)
        mixed = torch.zeros(len(self.labels))
        if blend["network"]:
            mixed += blend["network"] * self._path("network", head)
        if blend["linear"]:
            mixed += blend["linear"] * self._path("linear", row)
        return mixed

    def _path(self, path: str, row: dict[int, float] | torch.Tensor) -> torch.Tensor:
        part = {name[len(path) + 1 :]: tensor for name, tensor in self.tensors.items() if name.startswith(path + ".")}
        logits = part["bias"].clone()
        if "wide.weight" in part:
            logits += _product(row, part["wide.weight"])
        if "entry.weight" in part:
            hidden = torch.relu(_product(row, part["entry.weight"]) + part["entry_bias"])
            for number in range(sum(name.startswith("layers.") for name in part) // 2):
                hidden = torch.relu(part[f"layers.{number}.weight"] @ hidden + part[f"layers.{number}.bias"])
            logits += part["head.weight"] @ hidden
        return logits


class Encoder:
    """A transformers folder: a text to its vector, pooled, of length sqrt(width)."""

    def __init__(self, folder: Path, tokens_max: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).float().eval()
        self.tokens_max, pooling = tokens_max, folder / "1_Pooling" / "config.json"
        said = json.loads(pooling.read_text("utf-8")) if pooling.exists() else {}
        self.first = bool(said.get("pooling_mode_cls_token")) or said.get("pooling_mode") == "cls"

    def __call__(self, text: str) -> torch.Tensor:
        """[width]."""
        cut = text[: 32 * self.tokens_max]
        inputs = self.tokenizer(cut, truncation=True, max_length=self.tokens_max, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        found = states.last_hidden_state[0]
        vector = found[0] if self.first else found.mean(dim=0)
        return torch.nn.functional.normalize(vector, dim=0) * math.sqrt(len(vector))


def _product(row: dict[int, float] | torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A table's weights are [outputs, inputs]; a text's are [inputs, outputs], for few of its inputs are not zero."""
    if isinstance(row, torch.Tensor):
        return weight @ row
    return torch.tensor(list(row.values())) @ weight[list(row)] if row else torch.zeros(weight.shape[1])


def _polynomial(values: Iterator[int] | Sequence[int]) -> int:
    total = 0
    for value in values:
        total = (total * MULTIPLIER + value) & MASK
    return total


def _word(word: str) -> int:
    total = sum((ord(letter) + 1) * pow(MULTIPLIER, place, 1 << 64) for place, letter in enumerate(word, 1))
    return _mixed(total & MASK, 0)


def _mixed(value: int, salt: int) -> int:
    value = (value + salt * 0xD6E8FEB86659FD93 + 1) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
