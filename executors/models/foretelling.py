"""Language models token by token: how likely each token of a text is, and which one may follow.

A tree of language models mixes what its models say of the same tokens, so all of them cut texts alike: `Foreteller` is
what such a model brings. Its documents are encoded by its own vocabulary, with the end of each document as one more
target; a `Stream` is a text that grows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from executors.models import reading
from executors.models.language import LanguageModel
from executors.models.languageanswering import LanguageRespondent
from executors.models.loading import Respondent
from executors.models.tokens import Encoded, Vocabulary
from executors.models.transformer import Cache
from mesh.errors import ModelRefused

Floats = NDArray[np.float64]
Tick = Callable[[], None]


class Stream(Protocol):
    """A text that grows by one token at a time."""

    def following(self) -> Floats:
        """[vocabulary], log probability of each token to be the next one."""

    def push(self, token: int) -> None:
        """This token is the next one."""

    def through(self) -> list[tuple[str, float]]:
        """Names and shares of the models that answer now; empty where there is but one."""


class Foreteller(Protocol):
    """A language model that can be mixed."""

    @property
    def vocabulary(self) -> Vocabulary:
        """How it cuts texts."""

    @property
    def context(self) -> int:
        """Tokens that it sees at once."""

    def foretold(self, documents: Encoded, device: torch.device, tick: Tick) -> Floats:
        """Log probability of every target, one document behind the other, each one's end behind its tokens."""

    def stream(self, tokens: Sequence[int], device: torch.device) -> Stream:
        """A text that begins with these tokens."""


@runtime_checkable
class Foretells(Protocol):
    """A respondent that has a foreteller."""

    def foreteller(self) -> Foreteller:
        """It, token by token."""


@dataclasses.dataclass(frozen=True, slots=True)
class LanguageForeteller:
    """One transformer."""

    model: LanguageModel

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokenizer."""
        return self.model.vocabulary

    @property
    def context(self) -> int:
        """Tokens that it sees at once."""
        return self.model.shape.context

    def foretold(self, documents: Encoded, device: torch.device, tick: Tick) -> Floats:
        """Each token from half a context at least, as executors/models/reading.py draws it."""
        return -reading.token_nats(self.model.network, documents, self.vocabulary, device, tick)

    def stream(self, tokens: Sequence[int], device: torch.device) -> Stream:
        """A text that begins with these tokens."""
        return LanguageStream(self.model, tokens, device)


class LanguageStream:
    """A text and one transformer. When the context is full, its second half is read anew."""

    def __init__(self, model: LanguageModel, tokens: Sequence[int], device: torch.device) -> None:
        self._network, self._device = model.network.eval(), device
        self._tokens = [model.vocabulary.start, *map(int, tokens)]
        self._cache, self._read = Cache(), 0
        self._following: Floats | None = None

    def following(self) -> Floats:
        """[vocabulary], log probabilities."""
        if self._following is None:
            context = self._network.shape.context
            if self._cache.tokens + len(self._tokens) - self._read > context:
                self._cache, self._read = Cache(), len(self._tokens) - max(1, context // 2)
            fresh = torch.tensor([self._tokens[self._read :]], device=self._device)
            with torch.inference_mode():
                logits = self._network.logits(self._network.hidden(fresh, self._cache)[:, -1])[0]
                self._following = torch.log_softmax(logits.double(), 0).cpu().numpy()
            self._read = len(self._tokens)
        return self._following

    def push(self, token: int) -> None:
        """This token is the next one."""
        self._tokens.append(int(token))
        self._following = None

    def through(self) -> list[tuple[str, float]]:
        """There is but one model."""
        return []


def foreteller_of(found: Respondent, name: str) -> Foreteller:
    """A model as one that can be mixed token by token. ModelRefused when it can not."""
    if isinstance(found, LanguageRespondent):
        return LanguageForeteller(found.model)
    if isinstance(found, Foretells):
        return found.foreteller()
    raise ModelRefused(
        f"the model {name!r} is no language model whose tokens can be mixed with others': trees are made of models of "
        "the kind language-model, or of models that label"
    )
