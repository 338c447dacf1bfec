"""A classifier: features, network, linear path, labels and a temperature. What training makes and everything else asks.

    features ──┬── network (a neural one, on the most frequent n-grams) ──┐
               └── linear path (tuned, on all of them)                  ──┴── blend ── / temperature ── probabilities

Both paths are networks in the sense of network.py; the blend says how much each counts (blending.py), and a path that
counts nothing is not computed. Probabilities are softmax(logits / temperature). The temperature is one number, fitted
on validation after training (Guo et al. 2017): label smoothing and selection by accuracy leave a network too shy or too
sure, and the loss is judged too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from executors import features as feature_module
from executors.data import Split
from executors.features import Encoded, Features
from executors.models import encoded as encoded_by
from executors.models import store
from executors.models.blending import NETWORK_ALONE, Blend
from executors.models.encoded import EncoderFeatures
from executors.models.loading import SplitRespondent
from executors.models.network import Network, Shape, rows_of
from executors.models.probabilities import log_softmax
from mesh.errors import ArtifactCorrupt

CHUNK_ROWS = 512
"""Examples in one forward pass of an evaluation: large enough to be fast, small enough to hear a stop within a
blink."""

Floats = NDArray[np.float32]


def _nothing() -> None:
    """A tick that nobody waits for."""


@dataclasses.dataclass(slots=True)
class Classifier:
    """A model that can answer."""

    features: Features
    network: Network
    labels: tuple[str, ...]
    architecture: str
    temperature: float = 1.0
    linear: Network | None = None
    blend: Blend = NETWORK_ALONE
    fitted_on: str = ""
    """Digest of the training split that the linear path was fitted on; '' when it has none."""

    def encode(self, split: Split, tick: Callable[[], None] = _nothing) -> Encoded:
        """A split's inputs as features."""
        return self.features.encode(split, tick)

    def head(self, encoded: Encoded) -> Encoded:
        """The part of the features that the network reads."""
        return self.features.head(encoded, self.network.shape.inputs)

    def to(self, device: torch.device) -> Classifier:
        """Itself, moved to `device`."""
        for path in (self.network, self.linear):
            if path is not None:
                path.to(device)
        if isinstance(self.features, EncoderFeatures):
            self.features.encoder.network.to(device)
        return self

    @property
    def modality(self) -> str:
        """'text' or 'tabular'."""
        return self.features.modality

    def place(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.to(device)

    def answers(self, split: Split, device: torch.device, tick: Callable[[], None] = _nothing) -> Floats:
        """[n, labels], natural logarithms, from the raw inputs."""
        return self.log_probabilities(self.encode(split, tick), device, tick)

    def parameter_count(self) -> int:
        """Numbers in both paths."""
        return sum(path.parameter_count() for path in (self.network, self.linear) if path is not None)

    def logits(self, encoded: Encoded, device: torch.device, tick: Callable[[], None] = _nothing) -> Floats:
        """[n, labels], before the temperature. `tick` is called once per chunk and may raise to stop."""
        if self.linear is None:
            return logits_of(self.network, self.head(encoded), device, tick)
        mixed = np.zeros((len(encoded), len(self.labels)), np.float32)
        if self.blend.network:
            mixed += np.float32(self.blend.network) * logits_of(self.network, self.head(encoded), device, tick)
        if self.blend.linear:
            mixed += np.float32(self.blend.linear) * logits_of(self.linear, encoded, device, tick)
        return mixed

    def log_probabilities(self, encoded: Encoded, device: torch.device, tick: Callable[[], None] = _nothing) -> Floats:
        """[n, labels], natural logarithms."""
        return log_softmax(self.logits(encoded, device, tick) / np.float32(self.temperature))

    def save(self, folder: Path, facts: Mapping[str, Any], card: str) -> Path:
        """Write the model folder; `facts` join the config (kind, settings, how it was trained)."""
        arrays = {f"features.{name}": array for name, array in self.features.tensors().items()}
        for name, tensor in self.network.state_dict().items():
            arrays[f"network.{name}"] = tensor.detach().cpu().numpy()
        if self.linear is not None:
            for name, tensor in self.linear.state_dict().items():
                arrays[f"linear.{name}"] = tensor.detach().cpu().numpy()
        store.write_model(folder, arrays, described(self, facts), card)
        if isinstance(self.features, EncoderFeatures):
            self.features.save(folder)
        return folder


def logits_of(network: Network, encoded: Encoded, device: torch.device, tick: Callable[[], None] = _nothing) -> Floats:
    """[n, labels] of one path alone, on the features that it reads."""
    network.eval()
    parts = [np.zeros((0, network.shape.labels), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(encoded), CHUNK_ROWS):
            wanted = np.arange(start, min(start + CHUNK_ROWS, len(encoded)))
            rows = rows_of(feature_module.take(encoded, wanted)).to(device)
            parts.append(network(rows).float().cpu().numpy())
            tick()
    return np.concatenate(parts)


def described(classifier: Classifier, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The config's "ramify" part."""
    return {
        **facts,
        "architecture": classifier.architecture,
        "modality": classifier.features.modality,
        "labels": list(classifier.labels),
        "features": classifier.features.config(),
        "network": classifier.network.shape.config(),
        "temperature": classifier.temperature,
        "blend": classifier.blend.config() if classifier.linear is not None else None,
        "fitted_on": classifier.fitted_on,
    }


def load(folder: Path) -> Classifier:
    """The classifier in `folder`. ArtifactCorrupt when its parts are missing, of other shapes, or not finite."""
    arrays, config = store.read_model(folder)
    try:
        shape = Shape.of(config["network"])
        temperature, architecture = float(config["temperature"]), str(config["architecture"])
        features_config = config["features"]
        blend = Blend.of(config["blend"]) if config.get("blend") else None
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"the model's config is incomplete: {type(error).__name__} {str(error)[:120]}") from None
    features = _features(folder, features_config, store.part(arrays, "features"))
    labels = tuple(config["labels"])
    fits = shape.inputs <= features.width if shape.sparse else shape.inputs == features.width
    if not fits or shape.labels != len(labels) or not 0 < temperature < math.inf:
        raise ArtifactCorrupt(
            f"the network takes {shape.inputs} features and knows {shape.labels} labels; "
            f"the model has {features.width} and {len(labels)} (temperature {temperature})"
        )
    network = Network(shape)
    _fill(network, store.part(arrays, "network"))
    found = Classifier(features, network, labels, architecture, temperature)
    if blend is not None:
        found.blend, found.linear = blend, linear_path(features.width, len(labels), shape.sparse)
        found.fitted_on = str(config.get("fitted_on", ""))
        _fill(found.linear, store.part(arrays, "linear"))
    return found


def _features(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
    if "encoder" in config:
        return encoded_by.restore(folder, config)
    return feature_module.restore(config, arrays)


def respondent(folder: Path, base: Path | None) -> SplitRespondent:
    """The classifier in `folder`, ready to be asked."""
    return SplitRespondent(load(folder))


def linear_path(inputs: int, labels: int, sparse: bool) -> Network:
    """A path without hidden layers, all zero."""
    return Network(Shape(inputs, labels, sparse, wide=True, hidden=()))


def _fill(network: Network, arrays: Mapping[str, NDArray[Any]]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: array.shape for name, array in arrays.items()}
    if wanted != found:
        names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ArtifactCorrupt(f"the model's tensors do not fit its config: {', '.join(names[:5])}")
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def indices_of(split: Split, labels: Sequence[str]) -> NDArray[np.int64]:
    """Per example its label's index in `labels` (matched by name); -1 where `labels` does not have it."""
    where = {label: number for number, label in enumerate(labels)}
    return np.array([where.get(label, -1) for label in split.schema.labels], np.int64)[split.labels]
