"""A causal model of the transformers library, with or without an adapter, that goes on with a text token by token.

A text begins behind the start token, as in executors/models/tuned.py. What was read stays in the network's own cache;
when the window is full, its second half is read anew. No text goes beyond what the network has places for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from executors.models.foretelling import Stream
from executors.models.loading import Tick
from executors.models.tuned import TunedLanguageModel, documents_of


@dataclasses.dataclass(frozen=True, slots=True)
class TunedWriter:
    """What `bin/agent ask` needs of such a model."""

    model: TunedLanguageModel

    @property
    def end(self) -> int:
        """Number of the token that ends a document; -1 where there is none."""
        number = self.model.base.tokenizer.eos_token_id
        return -1 if number is None else int(number)

    def tokens(self, text: str, tick: Tick) -> list[int]:
        """Numbers of a text behind the start token."""
        return [int(number) for number in documents_of(self.model.base, [text], tick)[0]]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these tokens."""
        return str(self.model.base.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def stream(self, tokens: Sequence[int], device: torch.device) -> Stream:
        """A text that begins with these tokens."""
        return TunedStream(self.model, tokens, device)


class TunedStream:
    """A text and one network."""

    def __init__(self, model: TunedLanguageModel, tokens: Sequence[int], device: torch.device) -> None:
        self._network, self._device = model.network.eval(), device
        self._most = max(2, model.base.tokens_max or model.tokens_max)
        self._tokens = list(tokens)
        self._cache: Any = None
        self._begin = self._read = max(0, len(self._tokens) - self._most)
        self._following: NDArray[np.float64] | None = None

    def following(self) -> NDArray[np.float64]:
        """[vocabulary], log probabilities."""
        if self._following is None:
            if len(self._tokens) - self._begin > self._most:
                self._begin = self._read = len(self._tokens) - max(1, self._most // 2)
                self._cache = None
            fresh = torch.tensor([self._tokens[self._read :]], device=self._device)
            with torch.inference_mode():
                found = self._network(input_ids=fresh, past_key_values=self._cache, use_cache=True)
            self._cache, self._read = found.past_key_values, len(self._tokens)
            self._following = torch.log_softmax(found.logits[0, -1].double(), 0).cpu().numpy()
        return self._following

    def push(self, token: int) -> None:
        """This token is the next one."""
        self._tokens.append(int(token))
        self._following = None

    def through(self) -> list[tuple[str, float]]:
        """There is but one model."""
        return []
