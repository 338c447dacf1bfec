"""Merging LoRA adapters of one base in the space of the weights that they add, dW = scale * B A.

The sum of products is itself a product, of stacked factors, and nothing is lost:

    w1 s1 B1 A1 + w2 s2 B2 A2  =  [w1 s1 B1 | w2 s2 B2]  [A1 ; A2]            rank r1 + r2

Averaging A and B apart would not be that: mean(B) mean(A) is not mean(B A). Average, greedy soup and task arithmetic
(an adapter's ancestor adds nothing: dW = 0) are such sums. TIES is refused: it drops and elects single numbers of dW,
and what is left is no product of two thin factors. Merge the adapters into their base first (`merge_adapter`), then the
whole models by TIES.

Heads and biases that learned beside the factors are merged as plain numbers; their ancestor is what the base begins
with, which follows from base and labels (executors/models/hf_folder.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from executors.modelfolder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from executors.models import adapters, stored
from executors.models.candidates import Candidate, check_layouts
from executors.models.merging import Merged, pieces_of
from executors.models.stored import Layout
from mesh.errors import TaskRefused

RANK_MAX = 1_024
"""Of a merged adapter; beyond it a whole model is smaller."""

DOWN, UP = ".lora_A.weight", ".lora_B.weight"

PREFIX = "base_model.model."
"""What peft puts before the names of the base's own tensors."""


def check(candidates: Sequence[Candidate]) -> None:
    """TaskRefused unless all adapt the same modules with plain factors. Leaves to each the layouts of its plain
    numbers: the factors are merged here."""
    for each in candidates:
        if strange := [name for name in each.layouts if "lora_" in name and not name.endswith((DOWN, UP))]:
            raise TaskRefused(
                f"{each.name} adapts {strange[0][:80]!r} in a way that is not merged here: linear modules are"
            )
        config = adapters.config_of(each.folder)
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            raise TaskRefused(f"{each.name} has ranks of its own for some modules: merge it into its base first")
    names = [set(each.layouts) for each in candidates]
    for each, found in zip(candidates[1:], names[1:], strict=True):
        if found != names[0]:
            raise TaskRefused(
                f"{candidates[0].name} and {each.name} adapt different modules ({min(found ^ names[0])[:80]!r}): merge "
                "them into their base first"
            )
    rank = sum(rank_of(each) for each in candidates)
    if rank > RANK_MAX:
        raise TaskRefused(f"merged, they have rank {rank}, at most {RANK_MAX} is made: merge them into the base first")
    for each in candidates:
        each.layouts = {name: layout for name, layout in each.layouts.items() if not name.endswith((DOWN, UP))}
    for each in candidates[1:]:
        check_layouts(candidates[0].layouts, each.layouts, f"{candidates[0].name} and {each.name}")


def rank_of(candidate: Candidate) -> int:
    """Of an adapter's factors."""
    return int(adapters.config_of(candidate.folder)["r"])


def scale_of(candidate: Candidate) -> float:
    """What an adapter multiplies its product with."""
    config = adapters.config_of(candidate.folder)
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write(
    folder: Path, candidates: Sequence[Candidate], weight: float, merged: Merged, ramify: Mapping[str, Any], card: str
) -> Path:
    """An adapter that adds weight * sum of what the candidates add. merged: heads and biases."""
    folder.mkdir(parents=True)
    layouts = dict(candidates[0].layouts)
    for name in _factors(candidates[0]):
        shapes = [each.tensors.places[name].shape for each in candidates]
        axis = 0 if name.endswith(DOWN) else 1
        if len(shapes[0]) != 2 or len({shape[1 - axis] for shape in shapes}) != 1:
            raise TaskRefused(
                f"the candidates differ in {name[:80]!r}, beyond their rank: they adapt different networks"
            )
        stacked = sum(shape[axis] for shape in shapes)
        layouts[name] = Layout(torch.float32, (stacked, shapes[0][1]) if axis == 0 else (shapes[0][0], stacked))

    def pieces(name: str) -> Iterator[Tensor]:
        if name.endswith((DOWN, UP)):
            yield _stacked(candidates, name, weight)
        else:
            for start, count in pieces_of(layouts[name]):
                yield merged(name, start, count).to(layouts[name].dtype)

    stored.write(folder / ADAPTER_WEIGHTS, layouts, pieces)
    config = json.loads((candidates[0].folder / ADAPTER_CONFIG).read_bytes())
    rank = sum(rank_of(each) for each in candidates)
    config.update(r=rank, lora_alpha=rank, use_rslora=False)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return adapters.describe(folder, ramify, card)


def _factors(candidate: Candidate) -> list[str]:
    return [name for name in candidate.tensors.places if name.endswith((DOWN, UP))]


def _stacked(candidates: Sequence[Candidate], name: str, weight: float) -> Tensor:
    """The factors of all, one below (A) or beside (B) the other; weights and scales go to B."""
    read = [each.tensors.read(name).float() for each in candidates]
    if name.endswith(DOWN):
        return torch.cat(read, dim=0)
    scaled = [part.double().mul_(weight * scale_of(each)).float() for part, each in zip(read, candidates, strict=True)]
    return torch.cat(scaled, dim=1)
