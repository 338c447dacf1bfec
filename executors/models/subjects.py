"""Models that can be made smaller: how each is opened, asked, timed, and where its dense layers are.

    a folder of this program     classify, baseline     Classifier           a batch is n examples
                                 language-model         LanguageModel        a batch is n tokens of one text
                           lora, merged           as its task says, see below
    a transformers folder        ...ForSequenceClassification                a batch is n texts
                                 ...ForCausalLM                              a batch is n tokens of one text
                                 anything else          Encoder              a batch is n texts

An adapter is refused: it is merged first, for its base is another model. So is what was quantized already.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from executors import modelfolder
from executors.features import take
from executors.models import classifier as classifiers
from executors.models import language, likeness
from executors.models.classifier import Classifier
from executors.models.languageanswering import LanguageRespondent
from executors.models.loading import Respondent, SplitRespondent
from executors.models.network import Entry, Rows
from mesh.errors import ModelRefused
from mesh.messages.models import ModelFormat

KIND = "quantize"

TEXT_ROWS = 32
"""Tokens of a text of some length; the fastest way for one row is another than for a text."""

TEXTS_TOKENS_MAX = 256
"""Tokens of a text that a transformers classifier reads, where its folder does not say less."""

WINDOW_TOKENS_MAX = 1_024
"""Tokens that a transformers language model reads at once, where its folder does not say less."""

Batch = Callable[[], object]


@dataclasses.dataclass(slots=True)
class Subject:
    """An opened model."""

    what: str
    respondent: Respondent
    networks: dict[str, nn.Module]
    """By the beginning of its tensors' names in the file."""
    unit: str
    """What a batch consists of."""
    batch: Callable[[Any, int], Batch]
    """(items, n): what computes one batch of n, ready to be timed. Items are repeated where there are fewer."""
    rows: int = 1
    """Rows that a dense layer sees for one of a batch: a text has many tokens."""

    def dense(self) -> dict[str, nn.Module]:
        """Dense layers: path (with the network's beginning) to layer. A layer stands there once."""
        found: dict[str, nn.Module] = {}
        for beginning, network in self.networks.items():
            for path, module in network.named_modules():
                if isinstance(module, nn.Linear) or (isinstance(module, Entry) and not module.sparse):
                    found[f"{beginning}{path}"] = module
        return found

    def replace(self, path: str, layer: nn.Module) -> None:
        """Put `layer` where `dense` found one at `path`."""
        beginning = next(name for name in self.networks if path.startswith(name) and self._has(name, path))
        parent, _, name = path[len(beginning) :].rpartition(".")
        owner = self.networks[beginning].get_submodule(parent)
        old = getattr(owner, name)
        setattr(owner, name, DenseEntry(layer) if isinstance(old, Entry) else layer)

    def _has(self, beginning: str, path: str) -> bool:
        return any(path == f"{beginning}{name}" for name, _ in self.networks[beginning].named_modules())


class DenseEntry(nn.Module):
    """A first layer over a table, computed by another layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.sparse = layer, False

    def forward(self, rows: Rows) -> torch.Tensor:
        """[n, width]."""
        return self.layer(rows.values)


def opened(folder: Path, original: Mapping[str, Any] | None = None) -> Subject:
    """The model in `folder`. original: its config where that stands elsewhere. ModelRefused when it can not be made
    smaller."""
    config = original if original is not None else config_of(folder)
    inner = config.get("ramify")
    inner = inner if isinstance(inner, dict) else {}
    kind = inner.get("kind")
    if kind == KIND:
        raise ModelRefused("the model was quantized already: give the one that it was made from")
    if kind in ("classify", "baseline") and "network" in inner:
        return _classifier(classifiers.load(folder))
    if kind == language.KIND:
        return _language(LanguageRespondent(language.load(folder)))
    if kind == "lora":
        from executors.models import tuned

        return _tuned(tuned.respondent(folder, None))
    if kind is not None:
        raise ModelRefused(
            f"models of the kind {str(kind)[:60]!r} are not quantized here: the page of `quantize` lists them"
        )
    if modelfolder.look(folder).format is ModelFormat.ADAPTER:
        raise ModelRefused("the model is an adapter: merge it with its base first, then quantize the whole model")
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return _labelling(folder, config)
    if architecture.endswith("ForCausalLM"):
        return _causal(folder)
    return _encoder(folder)


def config_of(folder: Path) -> dict[str, Any]:
    """config.json. ModelRefused when there is none."""
    path = folder / modelfolder.CONFIG
    if (folder / modelfolder.ADAPTER_CONFIG).is_file() and not path.is_file():
        raise ModelRefused("the model is an adapter: merge it with its base first, then quantize the whole model")
    try:
        if path.stat().st_size > modelfolder.CONFIG_BYTES_MAX:
            raise ValueError(f"it has more than {modelfolder.CONFIG_BYTES_MAX} bytes")
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise TypeError("it is no map")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelRefused(f"expected config.json of a model in {folder.name!r}: {str(error)[:120]}") from None
    return config


def tensor_of(path: str, names: Iterable[str]) -> str:
    """The tensor in a file that is the weight of the layer at `path`; '' when none is for sure. Networks and files may
    begin their names differently ('bert.', 'transformer.')."""
    known = list(names)
    if f"{path}.weight" in known:
        return f"{path}.weight"
    parts = path.split(".")
    for begin in range(min(3, len(parts))):
        tail = ".".join([*parts[begin:], "weight"])
        found = [name for name in known if name == tail or name.endswith(f".{tail}")]
        if found:
            return found[0] if len(found) == 1 else ""
    return ""


# -- the five ---------------------------------------------------------------------------------------------------------


def _classifier(model: Classifier) -> Subject:
    def batch(split: Any, count: int) -> Batch:
        rows = np.arange(count) % len(split)
        encoded = take(model.encode(split), rows)
        return lambda: model.logits(encoded, torch.device("cpu"))

    networks: dict[str, nn.Module] = {"network.": model.network}
    if model.linear is not None:
        networks["linear."] = model.linear
    return Subject("classifier", SplitRespondent(model), networks, "examples", batch)


def _language(respondent: LanguageRespondent) -> Subject:
    network, vocabulary = respondent.model.network.eval(), respondent.model.vocabulary

    def batch(corpus: Any, count: int) -> Batch:
        found = vocabulary.encode(corpus.texts[:50], lambda: None).tokens.astype(np.int64)
        window = torch.from_numpy(np.resize(found, min(count, network.shape.context))).unsqueeze(0)
        return lambda: _inferred(lambda: network.logits(network.hidden(window)[:, -1:]))

    return Subject("language model", respondent, {"": network}, "tokens", batch)


def _labelling(folder: Path, config: Mapping[str, Any]) -> Subject:
    from executors.models import hf_folder, tuned

    names = config.get("id2label")
    if not isinstance(names, dict) or len(names) < 2:
        raise ModelRefused("the classifier's config.json names no two labels (id2label): it can not be judged")
    labels = tuple(str(names[number]) for number in sorted(names, key=int))
    loaded = hf_folder.load(folder, hf_folder.CLASSIFY, labels)
    if loaded.heads:
        raise ModelRefused(f"the classifier in {folder.name!r} has no weights for {loaded.heads[0]}: train it first")
    most = min(TEXTS_TOKENS_MAX, loaded.tokens_max or TEXTS_TOKENS_MAX)
    return _tuned(SplitRespondent(tuned.TunedClassifier(loaded, loaded.network, labels, most)))


def _causal(folder: Path) -> Subject:
    from executors.models import hf_folder, tuned

    loaded = hf_folder.load(folder, hf_folder.LANGUAGE)
    most = min(WINDOW_TOKENS_MAX, loaded.tokens_max or WINDOW_TOKENS_MAX)
    return _tuned(tuned.TunedLanguageModel(loaded, loaded.network, most))


def _tuned(respondent: Respondent) -> Subject:
    """A transformers network that answers through executors/models/tuned.py."""
    from executors.models import tuned

    if isinstance(respondent, tuned.TunedLanguageModel):
        causal = respondent

        def window(corpus: Any, count: int) -> Batch:
            rows = tuned.tokens_of(causal.base, corpus.texts[:50], causal.tokens_max)
            found = np.resize(np.concatenate(rows).astype(np.int64), min(count, causal.tokens_max))
            one = torch.from_numpy(found).unsqueeze(0)
            return lambda: _inferred(lambda: causal.network(input_ids=one))

        return Subject("language model", causal, {"": causal.network}, "tokens", window)
    assert isinstance(respondent, SplitRespondent)
    model: Any = respondent.model

    def batch(split: Any, count: int) -> Batch:
        texts = [split.texts[row % len(split)] for row in range(count)]
        rows = tuned.tokens_of(model.base, texts, model.tokens_max)
        return lambda: model.logits(rows, torch.device("cpu"))

    return Subject("text classifier", respondent, {"": model.network}, "texts", batch, TEXT_ROWS)


def _encoder(folder: Path) -> Subject:
    from executors.models import encoder as encoders

    encoder = encoders.load(folder)

    def batch(items: Any, count: int) -> Batch:
        texts = [items.corpus.texts[row % len(items.corpus)] for row in range(count)]
        return lambda: encoder.encode(texts)

    return Subject(
        "sentence encoder", likeness.LikenessRespondent(encoder), {"": encoder.network}, "texts", batch, TEXT_ROWS
    )


def _inferred(compute: Batch) -> object:
    with torch.inference_mode():
        return compute()
