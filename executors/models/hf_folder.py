"""A Hugging Face model folder on this disk: its network for a task, its tokenizer, and whether they belong together.

    look      executors/modelfolder.py: safetensors only, whole files; a pickle is refused, code never runs
    network   for sequence classification (a head for our labels) or causal language modelling; fp32, on the CPU
    tokenizer its numbers fit the network's table, its special tokens are those of the network's config

Nothing is fetched: the libraries are told to be offline before they are imported, and every call says it again. What a
base model has no weights for can only be its head: it starts from numbers that follow from the base and the labels
alone, so that all adapters of one base and one set of labels have a common ancestor. Anything else missing is refused.

Not covered: encoder-decoder models; classification from more than one text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from executors import modelfolder, room
from executors.device import is_out_of_memory
from executors.models import stored
from executors.models.loading import named
from mesh.errors import ModelRefused, RamifyError, TaskRefused
from mesh.messages.models import ModelFormat

CLASSIFY, LANGUAGE = "classify", "language-model"
TASKS = (CLASSIFY, LANGUAGE)

HEADS = ("classifier", "score", "pre_classifier", "classification_head", "pooler")
"""Modules that a base model may come without: what turns its states into labels."""

VOCABULARY_SHARE = 0.5
"""A tokenizer that names less of a network's table than this is another model's: tables are padded by a few percent."""

SPECIAL = ("pad", "bos", "eos", "cls", "sep")


@dataclasses.dataclass(slots=True)
class Loaded:
    """A network with its tokenizer."""

    folder: Path
    network: Any
    tokenizer: Any
    digest: str
    """Of the weights (executors/models/stored.py)."""
    architecture: str
    """As the config names it: bert, llama …"""
    labels: tuple[str, ...]
    heads: tuple[str, ...]
    """Modules of the network that the folder had no weights for: they have to be trained and saved whole."""
    tokens_max: int
    """Places that the network has; 0: no bound."""
    pad: int
    """Number of the padding token."""


def load(folder: Path, task: str, labels: Sequence[str] = ()) -> Loaded:
    """The network of `folder` for the task, in fp32 on the CPU. labels: of a classifier, in their order. ModelRefused
    when it is no model for it; TaskRefused when its tokenizer is another's. Seeds torch's generator: seed it anew."""
    found = modelfolder.look(folder)
    if found.format is ModelFormat.ADAPTER:
        raise ModelRefused(
            f"expected a whole model as the base, {named(folder)!r} holds an adapter: give what it adapts"
        )
    if found.format is not ModelFormat.TRANSFORMERS:
        raise ModelRefused(f"expected a transformers folder as the base, {named(folder)!r} holds a Ramify classifier")
    digest = stored.open_model(folder).digest()
    with translated(named(folder)):
        config = _config(folder)
        tokenizer = _tokenizer(folder)
        network, heads = _network(folder, config, task, tuple(labels), digest)
    check_tokenizer(tokenizer, network)
    network.config.pad_token_id = tokenizer.pad_token_id
    places, pad = _places(network.config), int(tokenizer.pad_token_id)
    return Loaded(folder, network, tokenizer, digest, str(config.model_type), tuple(labels), heads, places, pad)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Around transformers and peft: offline, quiet, and whatever they say is one sentence."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    try:
        from transformers.utils import logging
    except ImportError:
        raise TaskRefused("a transformers model needs the package transformers: install the kinds' packages") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each of the libraries warns of the other's version
            yield
    except Exception as error:  # of libraries: whatever they raise is the reason
        if isinstance(error, RamifyError) or is_out_of_memory(error) or room.is_full(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise ModelRefused(f"the model {name!r} can not be loaded: {type(error).__name__} {said}") from None


def check_tokenizer(tokenizer: Any, network: Any) -> None:
    """TaskRefused unless the tokenizer is this network's: every number has a row in its table, most rows a number, and
    the special tokens that both name are the same. Gives it a padding token when it has none."""
    rows, pieces = int(network.get_input_embeddings().weight.shape[0]), len(tokenizer)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows or pieces < VOCABULARY_SHARE * rows:
        raise TaskRefused(
            f"the tokenizer knows {pieces} tokens (the highest number is {highest}), the network has {rows} of them: "
            "they do not belong together, copy both from one folder"
        )
    for name in SPECIAL:
        of_text = getattr(tokenizer, f"{name}_token_id", None)
        of_config = getattr(network.config, f"{name}_token_id", None)
        allowed = of_config if isinstance(of_config, list) else [of_config]
        if of_text is not None and of_config is not None and of_text not in allowed and max(allowed) < rows:
            raise TaskRefused(
                f"the tokenizer's {name} token has the number {of_text}, the network's config says {of_config}: "
                "they do not belong together, copy both from one folder"
            )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise TaskRefused("the tokenizer has no padding token and no end token: name one in its special tokens")
        tokenizer.pad_token = tokenizer.eos_token


# -- inside -----------------------------------------------------------------------------------------------------------


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(
            f"{named(folder)!r} is an encoder with a decoder ({config.model_type}): one alone is expected"
        )
    return config


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")):
        raise ModelRefused(f"the model in {named(folder)!r} has no tokenizer: copy tokenizer.json beside its weights")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _network(folder: Path, config: Any, task: str, labels: tuple[str, ...], digest: str) -> tuple[Any, tuple[str, ...]]:
    """(the network, names of the modules that the folder has no weights for)."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    before = tuple(str(config.id2label[number]) for number in sorted(config.id2label)) if config.id2label else ()
    if task == CLASSIFY:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
    torch.manual_seed(int(hashlib.sha256("\n".join([digest, *labels]).encode()).hexdigest()[:15], 16))
    auto: Any = AutoModelForSequenceClassification if task == CLASSIFY else AutoModelForCausalLM
    network, told = auto.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
        dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    missing = {*told["missing_keys"], *(key if isinstance(key, str) else key[0] for key in told["mismatched_keys"])}
    modules = sorted({name.rpartition(".")[0] for name in missing})
    strange = [name for name in modules if task != CLASSIFY or not set(name.split(".")) & set(HEADS)]
    if strange:
        raise ModelRefused(
            f"the weights in {named(folder)!r} are not those of a {config.model_type} for this task: "
            f"{strange[0][:100]!r} is missing or of another shape"
        )
    _check_finite(network)
    if task == LANGUAGE:
        _check_causal(folder, network.eval())
    if task == CLASSIFY and before != labels:
        modules = _renewed(network, modules)
    return network.eval(), tuple(modules)


def _renewed(network: Any, modules: list[str]) -> list[str]:
    """A head for other labels is of no use: draw it anew, like one that is missing. (The names of the new modules.)"""
    for name, module in network.named_modules():
        last = name.rpartition(".")[2]
        if last in ("classifier", "score") and not any(each.startswith(name) for each in modules):
            module.apply(network._init_weights)
            modules.append(name)
    return modules


def _check_causal(folder: Path, network: Any) -> None:
    """ModelRefused for an encoder that passes for a causal model: its answers to a beginning change with the end."""
    rows = int(network.get_input_embeddings().weight.shape[0])
    ids = torch.arange(4) % rows
    other = torch.cat([ids[:3], (ids[3:] + 1) % rows])
    with torch.inference_mode():
        one, two = (network(input_ids=each.unsqueeze(0)).logits[0, :3] for each in (ids, other))
    if not torch.allclose(one, two, rtol=1e-3, atol=1e-4):
        raise ModelRefused(f"the model in {named(folder)!r} looks ahead: it is no causal language model")


def _check_finite(network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelRefused(f"the model's tensor {name} holds numbers that are not finite")


def _places(config: Any) -> int:
    """How many places the model has; 0: no bound. Models of RoBERTa's kind count from behind the padding's number."""
    places = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 0)
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return places - int(config.pad_token_id or 0) - 1 if shifted and places else places
