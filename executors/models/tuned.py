"""Transformers models that answer: labels for texts, or how likely texts are.

    texts ── tokens, at most `tokens_max` ── network ── / temperature ── log probabilities     TunedClassifier
    documents ── tokens in windows ── network ── nats of each document / its UTF-8 bytes       TunedLanguageModel

Answers are computed in fp32, whatever the training computed in. Which texts share a batch is a function of the texts
alone: whoever asks the same gets the same. A document's first token is predicted from the start token; a window sees
what stands in it and nothing before. Nats per byte compare models with other tokenizers.

A text without a single token counts as one padding token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from executors import outcomes
from executors.corpus import Corpus, read_corpus
from executors.data import Split
from executors.modelfolder import ADAPTER_CONFIG, CONFIG
from executors.models import adapters, hf_folder
from executors.models.encoder import TOKENS_PER_BATCH, batched
from executors.models.hf_folder import LANGUAGE, Loaded
from executors.models.loading import Respondent, SplitRespondent, described, nothing
from executors.models.probabilities import log_softmax
from mesh.errors import ArtifactCorrupt, NonFinite, TaskRefused
from mesh.messages.judgement import Outcomes

CHARACTERS_PER_TOKEN = 32
"""A text is cut after so many characters per token before it is taken apart: what follows would be cut anyway."""

WINDOW = 2_048
"""Texts whose tokens are made at once."""

LOGITS_PER_BATCH = 16_000_000
"""Numbers that a causal network answers at once in an evaluation, 64 MB; a single window may have more."""

WINDOW_TOKENS = 128
"""Tokens of a window where nobody says more: the setting `tokens_max` of the kind `lora`."""

IGNORED = -100
"""A target that asks for nothing."""

Floats = NDArray[np.float32]
Rows = list[NDArray[np.int32]]
Tick = Callable[[], None]


def tokens_of(base: Loaded, texts: Sequence[str], tokens_max: int, tick: Tick = nothing) -> Rows:
    """The numbers of each text with the special tokens that its model expects, cut after `tokens_max`."""
    rows: Rows = []
    for start in range(0, len(texts), WINDOW):
        cut = [text[: CHARACTERS_PER_TOKEN * tokens_max] for text in texts[start : start + WINDOW]]
        found = base.tokenizer(cut, truncation=True, max_length=tokens_max, return_attention_mask=False)["input_ids"]
        rows.extend(np.array(ids or [base.pad], np.int32) for ids in found)
        tick()
    return rows


def padded(rows: Sequence[NDArray[np.int32]], fill: int) -> Tensor:
    """Rows as one rectangle of int64, filled at the end."""
    found = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return torch.from_numpy(found)


def masked(rows: Sequence[NDArray[np.int32]]) -> Tensor:
    """1 where a row has a token, 0 where it is filled."""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max())).unsqueeze(0) < lengths.unsqueeze(1)).long()


@dataclasses.dataclass(slots=True)
class TunedClassifier:
    """A network with a head for labels."""

    base: Loaded
    network: Any
    """The base, or the base with an adapter."""
    labels: tuple[str, ...]
    tokens_max: int
    temperature: float = 1.0
    modality: str = "text"

    def place(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.network.to(device)

    def logits(self, rows: Rows, device: torch.device, tick: Tick = nothing) -> Floats:
        """[n, labels] of tokenized texts, before the temperature."""
        self.network.eval()
        found = np.empty((len(rows), len(self.labels)), np.float32)
        with torch.inference_mode():
            for batch in batched([len(row) for row in rows]):
                part = [rows[row] for row in batch]
                ids, mask = padded(part, self.base.pad).to(device), masked(part).to(device)
                found[batch] = self.network(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()
                tick()
        return found

    def answers(self, split: Split, device: torch.device, tick: Tick) -> Floats:
        """[n, labels], natural logarithms."""
        rows = tokens_of(self.base, split.texts, self.tokens_max, tick)
        return log_softmax(self.logits(rows, device, tick) / np.float32(self.temperature))


@dataclasses.dataclass(slots=True)
class TunedLanguageModel:
    """A causal network."""

    base: Loaded
    network: Any
    tokens_max: int
    _measured: dict[str, float] = dataclasses.field(default_factory=dict)

    def read(self, folder: Path) -> Corpus:
        """The documents in `folder`."""
        return read_corpus(folder)

    def check(self, items: Corpus) -> None:
        """Every text can be read."""

    def to(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.network.to(device)

    def nats(self, corpus: Corpus, device: torch.device, tick: Tick = nothing) -> tuple[NDArray[np.float64], int]:
        """(nats of each document, tokens of all)."""
        self.network.eval()
        windows, owner = windows_of(self.base, corpus.texts, self.tokens_max, tick)
        total = np.zeros(len(corpus), np.float64)
        places = max(1, min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // int(self.network.config.vocab_size)))
        with torch.inference_mode():
            for batch in batched([len(window) for window in windows], places):
                part = [windows[number] for number in batch]
                ids = padded(part, IGNORED).to(device)
                np.add.at(total, owner[batch], self._summed(ids).cpu().numpy())
                tick()
        return total, int(sum(len(window) - 1 for window in windows))

    def _summed(self, ids: Tensor) -> Tensor:
        """Nats of each window [n]."""
        logits = self.network(input_ids=ids[:, :-1].clamp_min(0)).logits.float()
        each = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=IGNORED, reduction="none")
        return each.double().sum(dim=1)

    def outcomes(
        self, items: Corpus, device: torch.device, tick: Tick, *, model: str = "", split: str = ""
    ) -> Outcomes:
        """One outcome per document; nothing is named right or wrong."""
        nats, tokens = self.nats(items, device, tick)
        if not np.isfinite(nats).all():
            raise NonFinite(f"the model answers {int((~np.isfinite(nats)).sum())} documents with no numbers")
        self._measured = {
            "bits_per_byte": float(nats.sum() / items.size_bytes / math.log(2.0)),
            "nats_per_token": float(nats.sum() / tokens),
        }
        return document_outcomes(items, nats, model=model, split=split)

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """Nats per byte, the mean over documents; of those just answered also over all bytes and all tokens."""
        return {"loss": outcomes.mean_loss(found), **self._measured}

    def answer(self, items: Corpus, number: int, device: torch.device) -> None:
        """One document."""
        self.nats(items.take(np.array([number % len(items)])), device)


def document_outcomes(corpus: Corpus, nats: NDArray[np.float64], *, model: str = "", split: str = "") -> Outcomes:
    """One item per document: nats per UTF-8 byte. nats: of whole documents."""
    loss = np.minimum(nats / corpus.sizes, outcomes.LOSS_MAX)
    nobody = np.zeros(len(corpus), "<i4").tobytes()
    return Outcomes(
        model=model, split=split, items=len(corpus), ids=corpus.ids.astype("<u8").tobytes(),
        clusters=corpus.clusters.astype("<u4").tobytes(), label=nobody, predicted=nobody,
        loss=loss.astype("<f4").tobytes(),
    )  # fmt: skip


def documents_of(base: Loaded, texts: Sequence[str], tick: Tick = nothing) -> Rows:
    """Start token and tokens of each document, whole."""
    tokenizer = base.tokenizer
    start = next(number for number in (tokenizer.bos_token_id, tokenizer.eos_token_id, base.pad) if number is not None)
    rows: Rows = []
    for first in range(0, len(texts), WINDOW):
        part = list(texts[first : first + WINDOW])
        found = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        rows.extend(np.array([start, *ids], np.int32) for ids in found)
        tick()
    return rows


def windows_of(
    base: Loaded, texts: Sequence[str], tokens_max: int, tick: Tick = nothing
) -> tuple[Rows, NDArray[np.int64]]:
    """(windows of at most tokens_max + 1 tokens, of each its document). Neighbours share one token, so that every token
    but the start is predicted once."""
    windows: Rows = []
    owner: list[int] = []
    for number, row in enumerate(documents_of(base, texts, tick)):
        for start in range(0, max(1, len(row) - 1), tokens_max):
            window = row[start : start + tokens_max + 1]
            windows.append(window if len(window) > 1 else np.append(window, np.int32(base.pad)))
            owner.append(number)
    return windows, np.array(owner, np.int64)


# -- loading ----------------------------------------------------------------------------------------------------------


def plain(folder: Path, _: Path | None) -> Respondent:
    """A causal model as its library saved it, asked in windows as an adapter to it is by default: what that has to be
    better than. ModelRefused when it foretells no text."""
    loaded = hf_folder.load(folder, LANGUAGE)
    return TunedLanguageModel(loaded, loaded.network, min(WINDOW_TOKENS, loaded.tokens_max or WINDOW_TOKENS))


def respondent(folder: Path, base: Path | None) -> Respondent:
    """The adapter or merged model in `folder`, ready to be asked."""
    inner = described(folder)
    task, labels = inner.get("task"), tuple(map(str, inner.get("labels") or ()))
    try:
        tokens_max, temperature = int(inner["tokens_max"]), float(inner.get("temperature", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"the model's description is incomplete: {type(error).__name__} {error}") from None
    if task not in hf_folder.TASKS or not 1 <= tokens_max <= 1_000_000 or not 0 < temperature < math.inf:
        raise ArtifactCorrupt(f"the model's description says task {task!r}, {tokens_max} tokens, {temperature}")
    adapter = (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file()
    if adapter and base is None:
        raise TaskRefused(
            f"this model is an adapter to {adapters.made_for(folder)[:12] or 'another model'}: give the model that it "
            "adapts as the input 'base'"
        )
    loaded = hf_folder.load(base if adapter and base is not None else folder, str(task), labels)
    network = adapters.load(loaded, folder, str(task)) if adapter else loaded.network
    if task == LANGUAGE:
        return TunedLanguageModel(loaded, network, tokens_max)
    return SplitRespondent(TunedClassifier(loaded, network, labels, tokens_max, temperature))
