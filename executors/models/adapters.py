"""LoRA adapters through peft: made, saved without a trace of this machine, loaded without believing them, merged.

    wrap      a base becomes base + adapter; the base no longer learns        W x  becomes  W x + scale * B (A x)
    save      adapter_config.json, adapter_model.safetensors, ramify.json, README.md
    load      a config of known fields only; every tensor there, of its shape, finite; onto the base it was made for
    merge     W + scale * B A written as a whole model folder that plain transformers loads

peft writes the base's path on this machine into adapter_config.json and README.md: the first is rewritten to the base's
name or digest, the second replaced by our card. `load` builds peft's config from the fields in FIELDS and refuses an
adapter that asks for anything else: other fields can change what is computed, or name code to import.

(Hu et al. 2021, LoRA: low-rank adaptation of large language models. Format: huggingface.co/docs/peft.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from executors import modelfolder
from executors.modelfolder import ADAPTER_CONFIG, CONFIG, CONFIG_BYTES_MAX, FORM_WHOLE, FORMAT
from executors.models import stored
from executors.models.hf_folder import Loaded, translated
from executors.models.loading import BESIDE_ADAPTER, described, named
from mesh.errors import ArtifactCorrupt, ModelRefused, TaskRefused

FIELDS = (
    "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "modules_to_save", "fan_in_fan_out", "rank_pattern",
    "alpha_pattern", "use_rslora", "exclude_modules", "layers_to_transform", "layers_pattern",
)  # fmt: skip
"""Fields of an adapter's config that are taken over."""

HARMLESS = frozenset(
    {
        *FIELDS, "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
        "peft_version", "init_lora_weights", "runtime_config", "loftq_config", "eva_config", "corda_config",
        "lora_ga_config", "megatron_core", "qalora_group_size", "velora_config", "monteclora_config",
    }
)  # fmt: skip
"""Fields that say nothing about what a finished adapter computes."""

TASK_TYPES = {"classify": "SEQ_CLS", "language-model": "CAUSAL_LM"}

BESIDE = (
    "tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "sentencepiece", "chat_template",
    *modelfolder.NAMES,
)  # fmt: skip
"""How the files begin that belong to every model of a base: its tokenizer, its licence."""

ALL_LINEAR = "all-linear"

SAVED_ANYWAY = ("classifier", "score")
"""Heads that peft trains and saves whole with every adapter for labels."""


def wrap(base: Loaded, task: str, *, rank: int, alpha: float, dropout: float, bias: str, targets: Sequence[str]) -> Any:
    """The base with a fresh adapter. targets: ends of module names, `all-linear`, or () for the usual ones of the
    architecture. Draws from torch's generator. TaskRefused when a target is not there."""
    with translated(named(base.folder)):
        from peft import LoraConfig, get_peft_model

        asked: dict[str, Any] = {
            "r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "bias": bias,
            "target_modules": _targets(base, targets), "task_type": TASK_TYPES[task],
            "modules_to_save": [name for name in base.heads if name not in SAVED_ANYWAY] or None,
        }  # fmt: skip
        return get_peft_model(base.network, LoraConfig(**asked))


def _targets(base: Loaded, asked: Sequence[str]) -> list[str] | str:
    """What to adapt."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    if tuple(asked) == (ALL_LINEAR,):
        return ALL_LINEAR
    if not asked:
        usual = USUAL.get(base.architecture, ALL_LINEAR)
        return usual if isinstance(usual, str) else list(usual)
    ends = {name.rpartition(".")[2] for name, _ in base.network.named_modules()}
    if unknown := [name for name in asked if name not in ends]:
        linear = sorted({name.rpartition(".")[2] for name, module in base.network.named_modules()
                         if getattr(module, "weight", None) is not None and module.weight.ndim == 2})  # fmt: skip
        raise TaskRefused(
            f"the setting targets names {unknown[0]!r}, which a {base.architecture} has not: it has {', '.join(linear)}"
        )
    return list(asked)


# -- on disk ----------------------------------------------------------------------------------------------------------


def save(network: Any, folder: Path, base_name: str, ramify: Mapping[str, Any], card: str) -> Path:
    """The adapter as peft loads it. base_name: what its config calls the base."""
    folder.mkdir(parents=True)
    network.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    config["base_model_name_or_path"], config["revision"] = base_name, None
    _write(folder / ADAPTER_CONFIG, config)
    return describe(folder, ramify, card)


def describe(folder: Path, ramify: Mapping[str, Any], card: str) -> Path:
    """What this program says of an adapter, beside it."""
    _write(folder / BESIDE_ADAPTER, {"ramify": {"format": FORMAT, **ramify}})
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def load(base: Loaded, folder: Path, task: str, dropout: float | None = None, rank: int = 0) -> Any:
    """The base with the adapter of `folder`, in evaluation mode, trainable. dropout: another one than it was trained
    with; rank: a higher one, which computes the same until it is trained. ModelRefused or ArtifactCorrupt when it is
    no adapter that this program reads; TaskRefused when it was made for another base."""
    if made_for(folder) != base.digest:
        raise TaskRefused(
            f"the adapter was made for the base with the digest {made_for(folder)[:12]}, the input base is "
            f"{base.digest[:12]}: give the model that it adapts"
        )
    config, tensors = config_of(folder), stored.open_model(folder)
    if dropout is not None:
        config["lora_dropout"] = dropout
    with translated(named(folder)):
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        network = get_peft_model(base.network, LoraConfig(task_type=TASK_TYPES[task], **config))
        wanted = {name: tuple(tensor.shape) for name, tensor in
                  get_peft_model_state_dict(network, save_embedding_layers=False).items()}  # fmt: skip
        if wanted != (found := {name: place.shape for name, place in tensors.places.items()}):
            name = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[0]
            raise ArtifactCorrupt(f"the adapter's tensors do not fit its config or its base: {name[:100]}")
        values = {name: tensors.read(name) for name in wanted}
        if (grown := _grown(config, rank)) is not None:
            network = get_peft_model(network.unload(), LoraConfig(task_type=TASK_TYPES[task], **grown))
            fresh = get_peft_model_state_dict(network, save_embedding_layers=False)
            values = {name: _padded(name, value, fresh[name]) for name, value in values.items()}
        set_peft_model_state_dict(network, values)
    return network.eval()


def _grown(config: Mapping[str, Any], rank: int) -> dict[str, Any] | None:
    """The config with a higher rank and the same scale; None where it is not higher, or differs by module."""
    before = int(config["r"])
    if rank <= before or config.get("rank_pattern") or config.get("alpha_pattern"):
        return None
    times = (rank / before) ** (0.5 if config.get("use_rslora") else 1.0)
    return {**config, "r": rank, "lora_alpha": float(config["lora_alpha"]) * times}


def _padded(name: str, value: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """The old numbers in a larger matrix: new rows of A as drawn, new columns of B zero: B A stays."""
    if value.shape == fresh.shape:
        return value
    made = fresh.clone() if "lora_A" in name else torch.zeros_like(fresh)
    made[tuple(slice(0, size) for size in value.shape)] = value
    return made


def made_for(folder: Path) -> str:
    """Digest of the base's weights that an adapter of this program names."""
    base = described(folder).get("base")
    return str(base.get("digest", "")) if isinstance(base, dict) else ""


def config_of(folder: Path) -> dict[str, Any]:
    """The fields of an adapter's config that are taken over. ModelRefused when it asks for more."""
    path = folder / ADAPTER_CONFIG
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ValueError(f"it has more than {CONFIG_BYTES_MAX} bytes")
        config = json.loads(path.read_bytes())
        if config["peft_type"] != "LORA" or not 1 <= int(config["r"]) <= 65_536:
            raise ValueError(f"peft_type {config['peft_type']!r}, r {config['r']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelRefused(f"{ADAPTER_CONFIG} in {named(folder)!r} describes no LoRA: {str(error)[:120]}") from None
    if strange := sorted(name for name, value in config.items() if value and name not in HARMLESS):
        raise ModelRefused(
            f"the adapter in {named(folder)!r} asks for {strange[0][:60]}, which is not computed here: plain LoRA is"
        )
    return {name: config[name] for name in FIELDS if name in config}


def merge(network: Any, base: Loaded, folder: Path, ramify: Mapping[str, Any], card: str) -> Path:
    """A whole model with the adapter in its weights. The network is of no use afterwards."""
    with translated(named(base.folder)):
        whole = network.merge_and_unload(safe_merge=True)
        folder.mkdir(parents=True)
        whole.save_pretrained(folder, safe_serialization=True)
    copy_beside(base.folder, folder)
    return described_whole(folder, {**ramify, "form": FORM_WHOLE}, card)


def copy_beside(base: Path, folder: Path) -> None:
    """Tokenizer, licence and the like of a base, beside other weights of it."""
    for name in modelfolder.look(base).files:
        if name.lower().startswith(BESIDE) and "/" not in name and not (folder / name).exists():
            shutil.copyfile(base / name, folder / name)


def described_whole(folder: Path, ramify: Mapping[str, Any], card: str) -> Path:
    """Our part of a transformers model's config, and its card."""
    config = json.loads((folder / CONFIG).read_bytes())
    config.pop("_name_or_path", None)
    _write(folder / CONFIG, {**config, "ramify": {"format": FORMAT, **ramify}})
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def trained_parameters(network: torch.nn.Module) -> int:
    """Numbers that learn."""
    return sum(each.numel() for each in network.parameters() if each.requires_grad)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
