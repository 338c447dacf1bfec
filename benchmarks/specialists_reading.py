"""What a language model foretells of each byte of a document, for `bench specialists`.

Windows and arithmetic are those of every evaluation here (executors/models/reading.py); what differs is that nothing is
summed: models that answer as one mix their probabilities byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from executors.models import reading
from executors.models.tokens import Encoded, Vocabulary
from executors.models.transformer import Transformer

Floats = NDArray[np.float64]

LEAD_BYTES = 288
"""The router sees so much of a document, and nothing of it is scored: three windows."""


def foretold(network: Transformer, documents: Encoded, vocabulary: Vocabulary, context: int) -> list[Floats]:
    """Nats of every byte of every document; its end is left out. Windows stand side by side: half the work of the
    overlapping ones, and no arm gains by it."""
    lengths = np.diff(documents.offsets) + 1
    found = [np.zeros(length) for length in lengths.tolist()]
    network.eval()
    with torch.inference_mode():
        for some in reading.batched(reading.windows(lengths, context, overlap=False), reading.TOKENS_AT_ONCE):
            inputs = np.full((len(some), some[0].tokens), vocabulary.start, np.int64)
            targets = np.full(inputs.shape, vocabulary.start, np.int64)
            for row, one in enumerate(some):
                whole = reading.framed(documents, vocabulary, one.document)[one.first : one.first + one.tokens + 1]
                inputs[row, : one.tokens], targets[row, : one.tokens] = whole[:-1], whole[1:]
            logits = network(torch.from_numpy(inputs)).flatten(0, 1)
            loss = functional.cross_entropy(logits, torch.from_numpy(targets).flatten(), reduction="none")
            nats = loss.reshape(inputs.shape).numpy().astype(np.float64)
            for row, one in enumerate(some):
                end = one.first + one.tokens
                found[one.document][end - one.counted : end] = nats[row, one.tokens - one.counted : one.tokens]
    return [one[:-1] for one in found]


def scored(readings: Sequence[Floats]) -> Floats:
    """Nats per byte of each document, beyond what the router sees of it."""
    return np.array([one[LEAD_BYTES:].mean() for one in readings])


def mixed(readings: Sequence[Sequence[Floats]], weights: Sequence[Floats]) -> list[Floats]:
    """Nats of each byte by the mixture of several models' probabilities. readings: of each model; weights: of each
    document, [models] or, where they change from byte to byte, [models, bytes]."""
    found = []
    for row, shares in enumerate(weights):
        nats = np.stack([of[row] for of in readings])
        with np.errstate(divide="ignore"):
            logs = np.log(shares if shares.ndim == 2 else shares[:, None]) - nats
        most = logs.max(axis=0)
        found.append(-(most + np.log(np.exp(logs - most).sum(axis=0))))
    return found


def posterior(readings: Sequence[Sequence[Floats]]) -> list[Floats]:
    """Of each document, [models, bytes]: how likely each model is after all bytes before this one (Bayes, no model
    preferred; Li et al. 2022 route so)."""
    found = []
    for row in range(len(readings[0])):
        nats = np.stack([of[row] for of in readings])
        before = np.cumsum(nats, axis=1) - nats
        logs = before.min(axis=0) - before
        shares = np.exp(logs)
        found.append(shares / shares.sum(axis=0))
    return found
