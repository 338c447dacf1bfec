"""Models that are to be merged, as tensors of one and the same names: what each form takes, and what it refuses.

    classifier   config.json of `classify` or `baseline`: same features, same labels, same network. The linear path is
                 first scaled by its share of the blend, so that it can be averaged beside the network
    whole        a transformers folder that one of our kinds made: same config, same tokenizer, same labels
    adapter      LoRA adapters of one base: executors/models/adaptermerge.py

Integers can not be averaged: they have to be the same in all. So do features: else the weights mean different things.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from executors import modelfolder
from executors.data import digest_of
from executors.modelfolder import ADAPTER_CONFIG, CONFIG, FORM_WHOLE
from executors.models import hf_folder, stored
from executors.models.blending import NETWORK_ALONE, Blend
from executors.models.loading import described
from executors.models.stored import Layout, Stored
from mesh.errors import ArtifactCorrupt, ModelRefused, TaskRefused

CLASSIFIER, WHOLE, ADAPTER = "classifier", "whole", "adapter"

LINEAR = "linear."
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model")
PASSED_OVER = ("ramify", "transformers_version", "dtype", "torch_dtype", "_name_or_path")
"""What may differ in the configs of two models that mean the same."""


@dataclasses.dataclass(slots=True)
class Candidate:
    """One model."""

    name: str
    """Of the input."""
    folder: Path
    form: str
    ramify: dict[str, Any]
    tensors: Stored
    layouts: dict[str, Layout]
    """Of the tensors that are merged."""

    @property
    def kind(self) -> str:
        """Which kind made it."""
        return str(self.ramify.get("kind"))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of a classifier, in their order."""
        return tuple(map(str, self.ramify.get("labels") or ()))

    @property
    def kept(self) -> list[str]:
        """Tensors that are not merged, but have to be the same in all."""
        return sorted(name for name in self.tensors.places if name not in self.layouts)

    @property
    def shares(self) -> Blend:
        """Of a classifier: what its paths are multiplied with on the way to logarithms of probabilities."""
        blend = Blend.of(self.ramify["blend"]) if self.ramify.get("blend") else NETWORK_ALONE
        temperature = float(self.ramify.get("temperature") or 1.0)
        return Blend(blend.network / temperature, blend.linear / temperature)

    def piece(self, name: str, start: int, count: int) -> Tensor:
        """Numbers of a tensor that is merged; a linear path that is not there is all zero."""
        if self.form != CLASSIFIER or not name.startswith(LINEAR):
            return self.tensors.piece(name, start, count)
        if name not in self.tensors.places:
            return torch.zeros(count, dtype=self.layouts[name].dtype)
        return self.tensors.piece(name, start, count).mul_(self.shares.linear)

    def origins(self) -> set[str]:
        """Digests of what it is known to come from: itself, and what its description names."""
        base, trained, merged = (_map(self.ramify.get(name)) for name in ("base", "trained", "merged"))
        continued = _map(trained.get("continued"))
        named = (digest_of(self.folder), base.get("digest"), merged.get("ancestor"), continued.get("model"))
        return {str(digest) for digest in named if digest}


def open_candidate(name: str, folder: Path) -> Candidate:
    """The model in `folder`. ModelRefused or ArtifactCorrupt when it can not be merged."""
    ramify = described(folder)
    tensors = stored.open_model(folder)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file():
        form = ADAPTER
    elif ramify.get("form") == FORM_WHOLE:
        form = WHOLE
    elif ramify.get("kind") in ("classify", "baseline") and isinstance(ramify.get("network"), dict):
        form = CLASSIFIER
    else:
        raise ModelRefused(
            f"{name} was made by the kind {str(ramify.get('kind'))[:60]!r}, whose weights can not be averaged: merge "
            "what it was made from"
        )
    layouts = {
        tensor: Layout(place.dtype, place.shape) for tensor, place in tensors.places.items()
        if place.dtype.is_floating_point and not tensor.startswith("features.")
    }  # fmt: skip
    return Candidate(name, folder, form, ramify, tensors, layouts)


def is_described(folder: Path) -> bool:
    """True when a kind of ours made the model in `folder`, and not another program."""
    try:
        return bool(described(folder))
    except ArtifactCorrupt:
        return False


def completed(candidates: Sequence[Candidate]) -> None:
    """Give classifiers without a linear path one of zeros where another has one."""
    beside = {name: layout for each in candidates if each.form == CLASSIFIER
              for name, layout in each.layouts.items() if name.startswith(LINEAR)}  # fmt: skip
    for each in candidates:
        if each.form == CLASSIFIER:
            each.layouts = {**beside, **each.layouts}


def check_alike(candidates: Sequence[Candidate]) -> None:
    """TaskRefused, with the first difference, unless all are of one form, with the same tensors, labels and configs."""
    first = candidates[0]
    for other in candidates[1:]:
        pair = f"{first.name} and {other.name}"
        kinds = [each.form if each.form == CLASSIFIER else f"{each.kind} ({each.form})" for each in (first, other)]
        if kinds[0] != kinds[1]:
            raise TaskRefused(f"{pair} are a {kinds[0]} and a {kinds[1]}: models of one kind can be merged")
        if first.labels != other.labels:
            raise TaskRefused(f"{pair} know different labels, or in another order: their outputs do not match")
        _check_configs(first, other, pair)
        if first.form != ADAPTER:
            check_layouts(first.layouts, other.layouts, pair)
            _check_kept(first, other, pair)


def check_layouts(first: Mapping[str, Layout], other: Mapping[str, Layout], pair: str) -> None:
    """TaskRefused unless names and shapes are the same."""
    wanted, found = ({name: layout.shape for name, layout in each.items()} for each in (first, other))
    if wanted != found:
        name = min(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise TaskRefused(
            f"{pair} differ in the tensor {name[:80]!r} ({wanted.get(name)}, {found.get(name)}): only models of the "
            "same shapes can be merged"
        )


def common_ancestor(candidates: Sequence[Candidate], ancestor: Path | None) -> str:
    """The digest of what all candidates come from; '' where none is needed. TaskRefused when they share none, or not
    the one that is given: the mean of unrelated networks is no network."""
    shared = set.intersection(*(candidate.origins() for candidate in candidates))
    if ancestor is not None:
        shared &= {digest_of(ancestor), stored.open_model(ancestor).digest()}
    if shared:
        return min(shared)
    if ancestor is None and all(_is_linear(candidate) for candidate in candidates):
        return ""
    told = "; ".join(
        f"{each.name} of {', '.join(sorted(digest[:12] for digest in each.origins())) or 'nothing'}"
        for each in candidates
    )
    source = "the ancestor that was given" if ancestor is not None else "one model"
    raise TaskRefused(
        f"the candidates do not come from {source}, as far as they say ({told}): only descendants of one model can be "
        "merged"
    )


class BaseNetwork:
    """The network of a transformers folder as an ancestor: with the head that every descendant began with."""

    def __init__(self, folder: Path, like: Candidate, prefix: str = "") -> None:
        """like: a candidate for the same task and labels; prefix: what its names begin with."""
        task = str(like.ramify.get("task") or hf_folder.LANGUAGE)
        network = hf_folder.load(folder, task, like.labels).network
        self._tensors = {f"{prefix}{name}": tensor.detach() for name, tensor in network.state_dict().items()}
        self._wanted = like.layouts

    @property
    def layouts(self) -> dict[str, Layout]:
        """Of the tensors that the candidates have, too."""
        return {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors.items()
                if name in self._wanted}  # fmt: skip

    def piece(self, name: str, start: int, count: int) -> Tensor:
        """A copy of some numbers."""
        return self._tensors[name].reshape(-1)[start : start + count].clone()


# -- inside -----------------------------------------------------------------------------------------------------------


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_kept(first: Candidate, other: Candidate, pair: str) -> None:
    for name in sorted({*first.kept, *other.kept}):
        both = all(name in each.tensors.places for each in (first, other))
        if not both or not torch.equal(first.tensors.read(name), other.tensors.read(name)):
            what = (
                "features" if name.startswith("features.") else f"numbers in {name[:80]!r}, which can not be averaged"
            )
            raise TaskRefused(f"{pair} have different {what}: their weights mean different things")


def _check_configs(first: Candidate, other: Candidate, pair: str) -> None:
    """Everything that decides what the weights mean."""
    one, two = _meaning(first), _meaning(other)
    if one != two:
        key = min(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
        raise TaskRefused(f"{pair} differ in {key!r} of their configs: their weights mean different things")


def _meaning(candidate: Candidate) -> dict[str, Any]:
    if candidate.form == CLASSIFIER:
        told = {key: candidate.ramify.get(key) for key in ("modality", "features", "network", "encoder")}
        return {**told, "encoder's files": _files_digest(candidate.folder, nested)}
    if candidate.form == ADAPTER:
        return {"task": candidate.ramify.get("task"), "base": _map(candidate.ramify.get("base")).get("digest")}
    try:
        config = json.loads((candidate.folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{CONFIG} of {candidate.name} can not be read: {str(error)[:120]}") from None
    kept = {key: value for key, value in config.items() if key not in PASSED_OVER}
    return {**kept, "tokenizer": _files_digest(candidate.folder, TOKENIZER.__contains__)}


def nested(name: str) -> bool:
    """Is this file one of a model inside the model: an encoder's?"""
    return "/" in name


def _files_digest(folder: Path, wanted: Callable[[str], bool]) -> str:
    """Over the wanted files, by name."""
    total = hashlib.sha256()
    for name in filter(wanted, modelfolder.look(folder).files):
        with (folder / name).open("rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _is_linear(candidate: Candidate) -> bool:
    """Averages of linear models average their answers' logits: they need no common past."""
    return candidate.form == CLASSIFIER and not _map(candidate.ramify.get("network")).get("hidden")
