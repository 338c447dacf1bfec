"""A language model: a transformer and its tokenizer, as a folder that transformers loads as it is.

    model.safetensors       the weights under Llama's names, float32; a tied output layer stands there once
    config.json             Llama's config, and under "ramify" which kind made it and how
    tokenizer.json          the tokenizer, and what transformers wants to know of it in tokenizer_config.json
    README.md               the model card

Folders of other makers are read where their model is such a Llama: no biases, plain rotary positions, one file of
weights. Whatever does not fit is refused in one sentence before anything is computed; nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from executors.modelfolder import CONFIG, CONFIG_BYTES_MAX, FORM_WHOLE, FORMAT, WEIGHTS
from executors.models import tokens
from executors.models.tokens import Vocabulary
from executors.models.transformer import Shape, Transformer, described
from mesh.errors import ArtifactCorrupt, ModelRefused

KIND = "language-model"

PARAMETERS_MAX = 2_000_000_000
"""Numbers of a model that is read here: 8 GB as float32."""


@dataclasses.dataclass(frozen=True, slots=True)
class LanguageModel:
    """A model that can be asked."""

    network: Transformer
    vocabulary: Vocabulary

    @property
    def shape(self) -> Shape:
        """Of its network."""
        return self.network.shape


def save(model: LanguageModel, folder: Path, facts: Mapping[str, Any], card: str) -> Path:
    """Write the model folder. facts: kind, settings, how it was trained; they stand under "ramify"."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=False)
    ends = {"bos_token_id": model.vocabulary.start, "eos_token_id": model.vocabulary.end}
    config = {**described(model.shape), **ends, "ramify": {"format": FORMAT, "form": FORM_WHOLE, **facts}}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    tokens.write(model.vocabulary, folder, model.shape.context)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def load(folder: Path, *, dropout: float = 0.0) -> LanguageModel:
    """The language model in `folder`. ModelRefused when it is a model of another make, ArtifactCorrupt when it is
    damaged or its tokenizer does not match."""
    config = _config(folder)
    shape = shape_of(config)
    if shape.parameters > PARAMETERS_MAX:
        raise ModelRefused(f"the model has {shape.parameters:,} numbers, and {PARAMETERS_MAX:,} can be held here")
    start, end = ends_of(config)
    vocabulary = tokens.load(folder, start, end)
    tokens.check_room(vocabulary, shape.vocabulary)
    weights = _weights(folder / WEIGHTS, shape)
    with torch.device("meta"):
        network = Transformer(shape, dropout=dropout)
    network.load_state_dict(weights, assign=True)
    network.lay_tables()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return LanguageModel(network, vocabulary)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ArtifactCorrupt(f"a model's config.json has at most {CONFIG_BYTES_MAX} bytes, this one has more")
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise TypeError(f"a map was expected, got {type(config).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactCorrupt(
            f"expected config.json of a language model in {folder.name}: {type(error).__name__} {str(error)[:120]}"
        ) from None
    return config


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The network that a Llama's config describes. ModelRefused when it is none, or has parts that are not built here;
    ArtifactCorrupt when it contradicts itself."""
    if config.get("model_type") != "llama":
        raise ModelRefused(
            f"a language model here is a Llama, and this model is a {str(config.get('model_type'))[:60]!r}"
        )
    turning = config.get("rope_parameters") or config.get("rope_scaling") or {}
    odd = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "rope_type": turning.get("rope_type", turning.get("type", "default")) != "default",
    }
    if foreign := [name for name, is_odd in odd.items() if is_odd]:
        raise ModelRefused(f"the Llama's {foreign[0]} is one that is not built here: only the plain form is")
    try:
        width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            vocabulary=int(config["vocab_size"]),
            width=width,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            inner=int(config["intermediate_size"]),
            context=int(config.get("max_position_embeddings", 2048)),
            theta=float(turning.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            epsilon=float(config.get("rms_norm_eps", 1e-6)),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ArtifactCorrupt(f"the model's config is no Llama's: {type(error).__name__} {str(error)[:120]}") from None


def ends_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """(start, end) of documents. ModelRefused when the config names no token that ends one."""
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    start = config.get("bos_token_id")
    if not isinstance(end, int):
        raise ModelRefused("the model's config names no eos_token_id: which token ends a document is not known")
    return (start if isinstance(start, int) else end), end


def _weights(path: Path, shape: Shape) -> dict[str, Tensor]:
    """Every tensor of such a network, float32 and finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in Transformer(shape).state_dict().items()}
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactCorrupt(f"expected the weights in {path.name}: {str(error)[:160]}") from None
    kept = {name: tensor for name, tensor in found.items() if not name.endswith("rotary_emb.inv_freq")}
    if shape.tied:
        kept.pop("lm_head.weight", None)  # the embedding's own rows once more
    shapes = {name: tuple(tensor.shape) for name, tensor in kept.items()}
    if wanted != shapes:
        names = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
        raise ArtifactCorrupt(f"the model's tensors do not fit its config: {', '.join(names[:5])}")
    for name, tensor in kept.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactCorrupt(f"the model's tensor {name} holds values that are not finite")
    return {name: tensor.float() for name, tensor in kept.items()}
