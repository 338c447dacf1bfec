"""A trained dual encoder: what `contrastive` makes, what `evaluate` asks, and how it lies on a disk.

    model.safetensors   features.*     hashed n-grams as a classifier's (executors/features.py), where it reads these
                        towers.left.*, towers.right.*, towers.log_temperature
    encoder/            the sentence encoder, frozen or tuned, where it reads one: a transformers folder of its own
    config.json         "ramify": {format, kind, reader, towers, temperature, settings, trained}
    README.md           the model card

A frozen encoder's files are the very files that came in, so that a store that names bytes by their digest keeps them
once for all models on it. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from executors import features, outcomes, pairs
from executors.modelfolder import FORMAT
from executors.models import encoder as encoders
from executors.models import encoderfolder, ranking, sides
from executors.models.dual import Dual, Shape
from executors.models.sides import Inputs, Reader
from executors.models.store import part
from executors.pairs import Pairs
from mesh.errors import ArtifactCorrupt, NonFinite, TaskRefused
from mesh.messages.judgement import Outcomes

ROWS_AT_ONCE = 512
"""Texts in one forward pass of the towers; with word pieces they are bounded by their places besides."""

ENCODER = "encoder"
"""Folder of the encoder inside the model."""

Floats = NDArray[np.float32]
Tick = Callable[[], None]


def nothing() -> None:
    """A tick that nobody waits for."""


@dataclasses.dataclass(slots=True)
class DualEncoder:
    """A reader and its towers."""

    reader: Reader
    network: Dual
    temperature: float = 1.0
    """By which scores are divided before they count as logits; fitted on validation."""

    def vectors(self, side: str, texts: Sequence[str], tick: Tick = nothing) -> Floats:
        """[n, width] of length one; side: 'left' or 'right'."""
        return vectors_of(self.network, side, self.reader.inputs(texts, tick), tick)

    def ranked(self, given: Pairs, pool: ranking.Pool, tick: Tick = nothing) -> ranking.Ranked:
        """The pool, ranked for every pair. NonFinite when a score is no number."""
        left, right = self.vectors("left", given.left, tick), self.vectors("right", pool.texts, tick)
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise NonFinite("the towers answer with values that are no numbers")
        return ranking.rank(lambda rows: left[rows] @ right.T, pool, self.temperature, tick)

    def save(self, folder: Path, facts: Mapping[str, Any], card: str) -> Path:
        """Write the model folder; `facts` join the config (kind, settings, how it was trained)."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True)
        arrays: dict[str, NDArray[Any]] = {}
        for name, tensor in self.network.state_dict().items():
            twin = self.network.shape.shared and name.startswith("right.")
            if not name.startswith("body.") and not twin:
                arrays[f"towers.{name}"] = tensor.detach().cpu().contiguous().numpy()
        if isinstance(self.reader, sides.HashedReader):
            of_text = features.TextFeatures(self.reader.vocabulary).tensors()
            arrays |= {f"features.{name}": np.ascontiguousarray(array) for name, array in of_text.items()}
        elif isinstance(self.reader, sides.FrozenReader):
            encoderfolder.copied(self.reader.encoder.folder, folder / ENCODER)
        elif isinstance(self.reader, sides.TunedReader):
            self.reader.encoder.save(folder / ENCODER)
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": "ramify-dual-encoder", "ramify": {"format": FORMAT, **self.described(facts)}}
        text = json.dumps(config, indent=1, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        return folder

    def described(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The config's "ramify" part."""
        shape = self.network.shape.config()
        return {**facts, "reader": self.reader.config(), "towers": shape, "temperature": self.temperature}


def vectors_of(network: Dual, side: str, inputs: Inputs, tick: Tick = nothing) -> Floats:
    """[n, width] of one side of a network, on the device that it is on. Texts of like length share a batch."""
    training, device = network.training, network.log_temperature.device
    network.eval()
    found = np.zeros((len(inputs), network.shape.width), np.float32)
    with torch.inference_mode():
        for rows in _batches(inputs):
            found[rows] = network.encode(side, inputs.take(rows).to(device)).float().cpu().numpy()
            tick()
    network.train(training)
    return found


def _batches(inputs: Inputs) -> list[NDArray[np.int64]]:
    if isinstance(inputs, sides.TokenInputs):
        return [np.array(rows, np.int64) for rows in encoders.batched(inputs.lengths.tolist())]
    starts = range(0, len(inputs), ROWS_AT_ONCE)
    return [np.arange(start, min(start + ROWS_AT_ONCE, len(inputs))) for start in starts]


# -- loading ----------------------------------------------------------------------------------------------------------


def load(folder: Path) -> DualEncoder:
    """The dual encoder in `folder`. ArtifactCorrupt or ModelRefused when it is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from executors.models.loading import described

    config = described(folder)
    try:
        if config.get("format") != FORMAT:
            raise ValueError(f"format {config.get('format')}, and this program reads {FORMAT}")
        shape, temperature = Shape.of(config["towers"]), float(config["temperature"])
        arrays = dict(load_file(folder / "model.safetensors"))
        reader = _reader(folder, config["reader"], part(arrays, "features"))
        if reader.width != shape.inputs or reader.sparse != shape.sparse or not 0 < temperature < math.inf:
            raise ValueError(f"towers for {shape.inputs} inputs behind a reader of {reader.width}")
        body = reader.encoder.network if isinstance(reader, sides.TunedReader) else None
        network = Dual(shape, body=body)
        _fill(network, part(arrays, "towers"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        said = f"{type(error).__name__} {' '.join(str(error).split())[:160]}"
        raise ArtifactCorrupt(f"{folder.name} holds no dual encoder that this program reads: {said}") from None
    return DualEncoder(reader, network.eval(), temperature)


def _reader(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reader:
    if config["reads"] == "n-grams":
        text = features.restore({"modality": "text", "ngrams": config["ngrams"]}, arrays)
        assert isinstance(text, features.TextFeatures)
        return sides.HashedReader(text.vocabulary)
    encoder = encoders.load(folder / ENCODER, tokens_max=int(config["tokens_max"]), precision=str(config["precision"]))
    return sides.TunedReader(encoder) if config["reads"] == "tuned encoder" else sides.FrozenReader(encoder)


def _fill(network: Dual, arrays: Mapping[str, NDArray[Any]]) -> None:
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if network.shape.shared:
        state |= {f"right.{name[5:]}": tensor for name, tensor in state.items() if name.startswith("left.")}
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("body.")}
    for name, tensor in wanted.items():
        if name not in state or state[name].shape != tensor.shape or not bool(torch.isfinite(state[name]).all()):
            raise ValueError(f"the tensor towers.{name} is missing, of another shape, or not finite")
    if foreign := state.keys() - wanted.keys():
        raise ValueError(f"it holds towers.{min(foreign)}, which these towers have not")
    network.load_state_dict(state, strict=False)


# -- being asked ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class PairRespondent:
    """A dual encoder that `evaluate` asks: of each pair's left, which text of the pool is its right?"""

    model: DualEncoder
    _pool: ranking.Pool | None = None

    def read(self, folder: Path) -> Pairs:
        """The pairs in `folder`, distractors included."""
        return pairs.read(folder)

    def check(self, items: Pairs) -> None:
        """TaskRefused when there is nothing to choose from."""
        if len(ranking.pool_of(items)) < 2:
            raise TaskRefused("a ranking needs two different texts on the right at least")

    def to(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.model.network.to(device)
        if isinstance(self.model.reader, sides.FrozenReader):
            self.model.reader.encoder.network.to(device)

    def outcomes(self, items: Pairs, device: torch.device, tick: Tick, *, model: str = "", split: str = "") -> Outcomes:
        """One outcome per pair (`outcomes_of`)."""
        pool = ranking.pool_of(items)
        return outcomes_of(items, pool, self.model.ranked(items, pool, tick), model=model, split=split)

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """Nats per pair, and how often the true partner stands first."""
        return {"accuracy": outcomes.accuracy(found), "loss": outcomes.mean_loss(found)}

    def answer(self, items: Pairs, number: int, device: torch.device) -> None:
        """One text to its vector."""
        self.model.vectors("left", [items.left[number % len(items)]])


def outcomes_of(
    items: Pairs, pool: ranking.Pool, ranked: ranking.Ranked, *, model: str = "", split: str = ""
) -> Outcomes:
    """Per pair: its partner's place in the pool, the place that was named first, and -ln p(partner) in nats.

    The rank itself would jump by whole numbers where two scores nearly tie, so that a check on another machine could
    not reproduce it; the logarithm of the softmax over the same pool moves smoothly, is paired item by item, and is
    the unit that all other claims have. Which texts are in the pool is part of what is compared."""
    return Outcomes(
        model=model,
        split=split,
        items=len(items),
        ids=items.left_ids.astype("<u8").tobytes(),
        clusters=items.clusters.astype("<u4").tobytes(),
        label=pool.truth.astype("<i4").tobytes(),
        predicted=ranked.first.astype("<i4").tobytes(),
        loss=np.minimum(ranked.loss, outcomes.LOSS_MAX).astype("<f4").tobytes(),
    )


def respondent(folder: Path, base: Path | None = None) -> PairRespondent:
    """The model in `folder`, for `evaluate`."""
    return PairRespondent(load(folder))
