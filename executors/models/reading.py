"""How well a language model foretells documents: nats per document, each one read from its own beginning.

    document    start | t1 t2 t3 t4 t5 t6 t7 t8 | end            every token, and the end, is foretold once
    windows     [-------------)                                  the first counts whole
                       [-------------)                           a later one counts its second half alone, so that
                              [-------------)                    each token is foretold from half a context at least

A document's nats divided by its bytes do not depend on the tokenizer: bits per byte compare models that cut texts in
different ways, and any of them with a compressor. The end of the document is paid for, too.

Windows of like length are read together; sums are in float64. What stands beside a document moves its nats by rounding
only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from executors.corpus import Corpus
from executors.models.tokens import Encoded, Vocabulary
from executors.models.transformer import Transformer
from executors.outcomes import LOSS_MAX
from mesh.errors import NonFinite
from mesh.messages.judgement import Outcomes

TOKENS_AT_ONCE = 2_048
"""In one forward pass of an evaluation: enough to be fast, few enough to hear a stop within a blink."""

LOGITS_AT_ONCE = 4 * 1024 * 1024
"""Numbers of logits held at once: 16 MiB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A part of one document that is read at once."""

    document: int
    first: int
    """Place of its first token in the document with its start and end."""
    tokens: int
    counted: int
    """How many of its last targets count."""


@dataclasses.dataclass(frozen=True, slots=True)
class Readings:
    """What reading n documents gave."""

    nats: NDArray[np.float64]
    """[n]."""
    tokens: NDArray[np.int64]
    """[n], targets of each, its end included."""
    right: NDArray[np.int64]
    """[n], targets that were the likeliest token."""


def windows(lengths: NDArray[np.int64], context: int, *, overlap: bool) -> list[Window]:
    """The windows of documents with so many targets each (tokens and end)."""
    found: list[Window] = []
    step = max(1, context // 2) if overlap else context
    for document, length in enumerate(lengths.tolist()):
        found.append(Window(document, 0, min(length, context), min(length, context)))
        done = min(length, context)
        while done < length:
            counted = min(step, length - done)
            first = done + counted - context if overlap else done
            found.append(Window(document, first, done + counted - first, counted))
            done += counted
    return found


def batched(found: list[Window], tokens_at_once: int) -> Iterator[list[Window]]:
    """Windows of like length together, the longest first, `tokens_at_once` of them at most with their padding."""
    order = sorted(found, key=lambda one: (-one.tokens, one.document, one.first))
    start = 0
    while start < len(order):
        count = max(1, tokens_at_once // order[start].tokens)
        yield order[start : start + count]
        start += count


def read(
    network: Transformer,
    documents: Encoded,
    vocabulary: Vocabulary,
    device: torch.device,
    tick: Callable[[], None],
    *,
    context: int = 0,
    overlap: bool = True,
) -> Readings:
    """How well `network` foretells the documents. context: tokens seen at once, at most (0: all that it can); overlap:
    as the module draws it, else windows stand side by side, which is twice as fast and flatters nobody."""
    count = len(documents)
    lengths = np.diff(documents.offsets) + 1
    nats, right = np.zeros(count), np.zeros(count, np.int64)
    todo = windows(lengths, min(context or network.shape.context, network.shape.context), overlap=overlap)
    network.eval()
    with torch.inference_mode():
        for some in batched(todo, TOKENS_AT_ONCE):
            loss, hit = _foretold(network, documents, vocabulary, device, some)
            rows = np.repeat([one.document for one in some], [one.counted for one in some])
            nats += np.bincount(rows, loss, count)
            right += np.bincount(rows, hit, count).astype(np.int64)
            tick()
    return Readings(nats, lengths, right)


def token_nats(
    network: Transformer, documents: Encoded, vocabulary: Vocabulary, device: torch.device, tick: Callable[[], None]
) -> NDArray[np.float64]:
    """Nats of every single target, one document behind the other, each document's end behind its tokens."""
    lengths = np.diff(documents.offsets) + 1
    begins = np.concatenate([[0], np.cumsum(lengths)])
    nats = np.empty(int(begins[-1]), np.float64)
    network.eval()
    with torch.inference_mode():
        for some in batched(windows(lengths, network.shape.context, overlap=True), TOKENS_AT_ONCE):
            loss, _ = _foretold(network, documents, vocabulary, device, some)
            ends = [(int(begins[one.document]) + one.first + one.tokens, one.counted) for one in some]
            nats[np.concatenate([np.arange(end - counted, end) for end, counted in ends])] = loss
            tick()
    return nats


def _foretold(
    network: Transformer, documents: Encoded, vocabulary: Vocabulary, device: torch.device, some: list[Window]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(nats, whether it was the likeliest) of the counted targets of some windows, one window behind the other."""
    longest = some[0].tokens
    inputs = np.full((len(some), longest), vocabulary.start, np.int64)
    targets: list[NDArray[np.int64]] = []
    places: list[NDArray[np.int64]] = []
    for row, one in enumerate(some):
        whole = framed(documents, vocabulary, one.document)[one.first : one.first + one.tokens + 1]
        inputs[row, : one.tokens] = whole[:-1]
        targets.append(whole[1 + one.tokens - one.counted :])
        places.append(np.arange(one.tokens - one.counted, one.tokens) + row * longest)
    wanted = torch.from_numpy(np.concatenate(targets)).to(device)
    rows = torch.from_numpy(np.concatenate(places)).to(device)

    def compare(hidden: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return _compared(network, hidden.flatten(0, 1)[rows], wanted)

    return network(torch.from_numpy(inputs).to(device), then=compare)


def _compared(network: Transformer, hidden: Tensor, wanted: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(nats, whether it was the likeliest) of the tokens that followed these hidden states [n, width]."""
    nats, hits = [], []
    step = max(1, LOGITS_AT_ONCE // network.shape.vocabulary)
    for start in range(0, len(wanted), step):
        logits, truth = network.logits(hidden[start : start + step]).float(), wanted[start : start + step]
        nats.append(functional.cross_entropy(logits, truth, reduction="none").cpu().numpy().astype(np.float64))
        hits.append((logits.argmax(1) == truth).cpu().numpy())
    return np.concatenate(nats), np.concatenate(hits)


def framed(documents: Encoded, vocabulary: Vocabulary, row: int) -> NDArray[np.int64]:
    """A document's tokens between its start and its end."""
    tokens = documents.document(row)
    whole = np.empty(len(tokens) + 2, np.int64)
    whole[0], whole[1:-1], whole[-1] = vocabulary.start, tokens, vocabulary.end
    return whole


def bits_per_byte(nats: float, size_bytes: int) -> float:
    """Of documents that together have so many bytes."""
    return nats / math.log(2.0) / size_bytes


def measures(found: Readings, size_bytes: int) -> dict[str, float]:
    """By name, over all documents together."""
    nats, tokens = float(found.nats.sum()), float(found.tokens.sum())
    return {
        "bits_per_byte": bits_per_byte(nats, size_bytes),
        "nats_per_token": nats / tokens,
        "right_tokens": float(found.right.sum()) / tokens,
    }


def outcomes_of(documents: Corpus, found: Readings, *, model: str = "", split: str = "") -> Outcomes:
    """One item per document, its loss in nats per byte; nothing is named right or wrong. NonFinite when a document's
    nats are no number."""
    if not np.isfinite(found.nats).all():
        bad = int((~np.isfinite(found.nats)).sum())
        raise NonFinite(f"the model answers {bad} of {len(documents)} documents with values that are no numbers")
    nobody = np.zeros(len(documents), "<i4").tobytes()
    return Outcomes(
        model=model,
        split=split,
        items=len(documents),
        ids=documents.ids.astype("<u8").tobytes(),
        clusters=documents.clusters.astype("<u4").tobytes(),
        label=nobody,
        predicted=nobody,
        loss=np.minimum(found.nats / documents.sizes, LOSS_MAX).astype("<f4").tobytes(),
    )
