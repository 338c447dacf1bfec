"""A language model that `evaluate` asks: documents in, nats per byte out; and how long one more token takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from executors import outcomes
from executors.corpus import Corpus, read_corpus
from executors.models import language, reading
from executors.models.language import LanguageModel
from executors.models.reading import Readings
from executors.models.transformer import Cache
from mesh.errors import TaskRefused
from mesh.messages.judgement import Outcomes


@dataclasses.dataclass(slots=True)
class LanguageRespondent:
    """A model, and where it stands in the document that it is being asked about."""

    model: LanguageModel
    _cache: Cache | None = None
    _last: int = 0
    _found: Readings | None = None
    _size_bytes: int = 0

    def read(self, folder: Path) -> Corpus:
        """The documents in `folder`."""
        return read_corpus(folder)

    def check(self, items: Corpus) -> None:
        """Any text can be read by bytes or byte pairs; a foreign tokenizer may have no token for any of it."""
        if not len(self.model.vocabulary.encode(items.texts[:1], lambda: None).tokens):
            raise TaskRefused("the model's tokenizer makes no token of the first document: it is for other data")

    def to(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.model.network.to(device)

    def outcomes(
        self, items: Corpus, device: torch.device, tick: Callable[[], None], *, model: str = "", split: str = ""
    ) -> Outcomes:
        """Nats per byte of each document."""
        encoded = self.model.vocabulary.encode(items.texts, tick)
        self._found = reading.read(self.model.network, encoded, self.model.vocabulary, device, tick)
        self._size_bytes = items.size_bytes
        return reading.outcomes_of(items, self._found, model=model, split=split)

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """`loss` is the mean over documents; the others are over all of their bytes and tokens together."""
        measured = reading.measures(self._found, self._size_bytes) if self._found is not None else {}
        return {"loss": outcomes.mean_loss(found), **measured}

    def answer(self, items: Corpus, number: int, device: torch.device) -> None:
        """One more token behind those read so far; from half a context of document `number` when the context is full,
        which is rare enough to move no median."""
        network, vocabulary = self.model.network.eval(), self.model.vocabulary
        with torch.inference_mode():
            if self._cache is None or self._cache.tokens >= network.shape.context:
                tokens = vocabulary.encode([items.texts[number % len(items)]], lambda: None).tokens
                start = [vocabulary.start, *tokens[: max(0, network.shape.context // 2 - 1)].tolist()]
                self._cache = Cache()
                network.hidden(torch.tensor([start[:-1] or start], device=device), self._cache)
                self._last = start[-1]
            following = network.hidden(torch.tensor([[self._last]], device=device), self._cache)
            self._last = int(network.logits(following[:, -1]).argmax())


def respondent(folder: Path, base: Path | None) -> LanguageRespondent:
    """The language model in `folder`, ready to be asked."""
    return LanguageRespondent(language.load(folder))
