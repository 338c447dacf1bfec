"""What a model says to a few texts: labels with probabilities, or how a text goes on; and who of a tree answered.

A text becomes what the model reads: a split of texts, a row of a table, tokens. Labels come with their probabilities; a
continuation is drawn token by token from p^(1/temperature), with a generator that knows the seed and the text's number
alone, so that the same question has the same answer. Of a tree that goes on with a text, the shares told are the means
over its tokens.

Answers are bounded (ANSWERS_BYTES_MAX): they travel in the record of the task's end.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from executors.data import Schema, Split
from executors.features import TableFeatures
from executors.models.classifier import Classifier
from executors.models.foretelling import Foreteller, Foretells, Stream, foreteller_of
from executors.models.languageanswering import LanguageRespondent
from executors.models.loading import Labelling, Respondent, SplitRespondent
from executors.models.probabilities import check_finite
from executors.models.treelabels import TreeClassifier
from mesh.errors import TaskRefused

ANSWERS_BYTES_MAX = 96 * 1024
"""Of all answers as JSON; the record of a task's end has room for more than twice of it."""

NAME_CHARS_MAX = 200
"""Of a label or a branch's name in an answer."""

THROUGH_MAX = 8
"""Models told of each answer."""

Tick = Callable[[], None]


def answers(model: Respondent, wanted: Any, device: torch.device, tick: Tick) -> dict[str, Any]:
    """Facts: `form` ('labels', 'text') and `answers`, one per text. wanted: AnswerSettings. TaskRefused when the model
    answers no texts, or the answers have no room."""
    if isinstance(model, SplitRespondent):
        told = {"form": "labels", "answers": labelled(model.model, wanted.texts, wanted.top, device, tick)}
    elif isinstance(model, LanguageRespondent | Foretells):
        writer = ForetellingWriter(foreteller_of(model, "asked"))
        told = {"form": "text", "answers": continued(writer, wanted, device, tick)}
    elif _is_tuned(model):
        from executors.models.tunedwriting import TunedWriter

        told = {"form": "text", "answers": continued(TunedWriter(cast(Any, model)), wanted, device, tick)}
    else:
        raise TaskRefused(
            "the model neither names labels nor goes on with texts token by token: `bin/agent task evaluate` asks "
            "models of any kind about a whole split"
        )
    size = len(json.dumps(told, ensure_ascii=False).encode())
    if size > ANSWERS_BYTES_MAX:
        raise TaskRefused(
            f"the answers have {size:,} bytes and may have {ANSWERS_BYTES_MAX:,}: ask fewer texts at once, or for less "
            "of each (top, tokens)"
        )
    return told


# -- labels -----------------------------------------------------------------------------------------------------------


def labelled(
    model: Labelling, texts: Sequence[str], top: int, device: torch.device, tick: Tick
) -> list[dict[str, Any]]:
    """Of each text the likeliest labels."""
    items = split_of(model, texts)
    found = model.answers(items, device, tick)
    check_finite(found)
    through = model.through(items.texts) if isinstance(model, TreeClassifier) else [[] for _ in texts]
    told = []
    for row, shares in zip(found.astype(np.float64), through, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        labels = [[model.labels[int(place)][:NAME_CHARS_MAX], math.exp(row[place])] for place in order]
        told.append({"labels": labels, "through": _through(shares)})
    return told


def split_of(model: Labelling, texts: Sequence[str]) -> Split:
    """The texts as a split that the model reads. TaskRefused when it reads tables and a text is no row of one."""
    count = len(texts)
    columns = _columns(model)
    schema = Schema(task="classify", modality=model.modality, labels=("", "?"), features=columns, split="asked")
    common = (np.zeros(count, np.int64), np.arange(count, dtype=np.uint64), np.arange(count, dtype=np.int32))
    if model.modality == "text":
        return Split(schema, *common, texts=list(texts))
    table = np.array([_row(text, columns) for text in texts], np.float32)
    return Split(schema, *common, table=table)


def _columns(model: Labelling) -> tuple[str, ...]:
    if isinstance(model, Classifier) and isinstance(model.features, TableFeatures):
        return model.features.columns
    return ()


def _row(text: str, columns: Sequence[str]) -> list[float]:
    """Numbers in the order of the columns, nothing between two commas being a gap; or a JSON map from columns to
    numbers, where what is not named is a gap."""
    bare = text.strip().strip("[]")
    if bare.startswith("{"):
        return _named(bare, columns)
    words = [word.strip() for word in (bare.split(",") if "," in bare else re.split(r"\s+", bare))]
    try:
        numbers = [float(word) if word else math.nan for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != len(columns):
        raise TaskRefused(
            f"the model reads rows of {len(columns)} numbers ({', '.join(columns[:5])} …), and {text[:60]!r} is none: "
            'give them in this order with commas, or as {"column": number}'
        )
    return numbers


def _named(text: str, columns: Sequence[str]) -> list[float]:
    try:
        found = json.loads(text)
        return [float(found[name]) if found.get(name) is not None else math.nan for name in columns]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TaskRefused(f"{text[:60]!r} is no JSON map from columns to numbers ({str(error)[:100]})") from None


# -- texts that go on -------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """A model that goes on with texts."""

    @property
    def end(self) -> int:
        """Number of the token that ends a document."""

    def tokens(self, text: str, tick: Tick) -> list[int]:
        """A text as what a stream begins with."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these tokens."""

    def stream(self, tokens: Sequence[int], device: torch.device) -> Stream:
        """A text that begins with these tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class ForetellingWriter:
    """A foreteller that writes."""

    model: Foreteller

    @property
    def end(self) -> int:
        """Number of the token that ends a document."""
        return self.model.vocabulary.end

    def tokens(self, text: str, tick: Tick) -> list[int]:
        """A text as what a stream begins with."""
        return [int(number) for number in self.model.vocabulary.encode([text], tick).tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these tokens."""
        return self.model.vocabulary.decode(tokens)

    def stream(self, tokens: Sequence[int], device: torch.device) -> Stream:
        """A text that begins with these tokens."""
        return self.model.stream(tokens, device)


def _is_tuned(model: Respondent) -> bool:
    """A causal model of the transformers library? Its module is there only where such a model was loaded."""
    module = sys.modules.get("executors.models.tuned")
    return module is not None and isinstance(model, module.TunedLanguageModel)


def continued(model: Writer, wanted: Any, device: torch.device, tick: Tick) -> list[dict[str, Any]]:
    """How each text goes on."""
    told = []
    for number, text in enumerate(wanted.texts):
        draw = np.random.Generator(np.random.Philox(key=np.array([wanted.seed, number], np.uint64)))
        stream = model.stream(model.tokens(text, tick), device)
        found, shares, ended = list[int](), Counter[str](), False
        while len(found) < wanted.tokens and not ended:
            token = drawn(stream.following(), wanted.temperature, draw)
            shares.update(dict(stream.through()))
            ended = token == model.end
            if not ended:
                found.append(token)
                stream.push(token)
            tick()
        steps = len(found) + ended
        means = sorted(((name, share / steps) for name, share in shares.items()), key=lambda one: (-one[1], one[0]))
        told.append({"text": model.decode(found), "tokens": len(found), "ended": ended, "through": _through(means)})
    return told


def drawn(log_probabilities: NDArray[np.float64], temperature: float, draw: np.random.Generator) -> int:
    """A token; at temperature 0 the likeliest one."""
    if temperature == 0:
        return int(log_probabilities.argmax())
    sums = np.cumsum(np.exp((log_probabilities - log_probabilities.max()) / temperature))
    return int(min(np.searchsorted(sums, draw.random() * sums[-1], side="right"), len(sums) - 1))


def _through(shares: Sequence[tuple[str, float]]) -> list[list[Any]]:
    return [[name[:NAME_CHARS_MAX], share] for name, share in shares[:THROUGH_MAX]]
