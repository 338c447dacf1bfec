"""Would specialists help? Cheap stand-ins for them, fitted on training texts and measured on validation texts only.

    labelled texts   a linear classifier of word n-grams. The specialists share its weights and add weights of their
    own,
                     as models that go on from the flat one would (each feature once for all, once per branch: Daumé
                     III, arXiv:0907.1815); a text is answered as one of its nearest branch.
    documents        byte 5-grams (bytegrams.py). A specialist weighs the other branches' documents with OTHERS; the
                     router sees a document's first bytes, the rest is foretold.

Two yardsticks: one flat model on the same texts, and specialists of a *random* split of the same sizes: what weighing
and own weights bring by themselves is no merit of the branches. The better of the two counts, so that only
specialisation does (random splits gained nothing in Branch-Train-Merge, arXiv:2208.03306).

Promises: the same texts, branches and seed give the same numbers; the work is bounded by samples, never by a clock. Not
covered: what larger models share or keep apart. It is a screen: the gate tests what was trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from consensus.distributions import t_quantile
from executors import ngrams
from executors.branching.bytegrams import ByteGrams
from executors.datasets.text import unspaced
from executors.models import linear
from executors.models.probabilities import log_softmax
from executors.routing import Ints, Tick, nothing

ALPHA = 0.05

TRAIN_MAX, VALIDATION_MAX = 10_000, 5_000
"""Texts of a sample; labelled ones. More sharpen the numbers little."""
LABELS_MAX = 200
"""Labels of a sample, the most frequent: each costs a fit."""
FEATURES_MAX = 50_000
WORK_MAX = 30_000_000
"""Features of all training texts together, times labels: some 15 s of fitting with eight branches."""
CHARACTERS_MAX = 5_000
"""Of a labelled text."""

TRAIN_BYTES, FORETOLD_BYTES = 3_000_000, 750_000
"""Of documents; more bytes take some 1.5 s per million."""
DOCUMENT_BYTES = 8_192
"""Of one document: a long one must not speak for all."""
OTHERS = 0.25
"""Weight of the other branches' documents for a specialist of bytes."""

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """What a model got per item: `sums` over so many units (`sizes`); more is better."""

    sums: Floats
    sizes: Floats
    losses: Floats
    """[items], nats of its label, or bits of its bytes, over all its units; less is better."""

    @property
    def mean(self) -> float:
        """Per unit."""
        return float(self.sums.sum() / self.sizes.sum())


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Specialists of k branches against the better yardstick, per unit of the metric; positive: they are better."""

    k: int
    effect: float
    low: float
    high: float
    error: float
    """Standard error of the effect."""
    routed: float
    """The specialists', as the next two; more is better."""
    flat: float
    random: float
    against: str
    """'flat' or 'random split'."""


class Proxy(Protocol):
    """A cheap model of a topic's texts. Rows are those of the texts that it was made with."""

    metric: str
    clusters: Ints
    """[items], items of one cluster are not independent."""
    rows: Ints
    """[items], which of the texts they are."""

    def flat(self) -> Values:
        """One model for all, on the items of validation."""
        ...

    def split(self, train: Ints, validation: Ints, k: int) -> Values:
        """A specialist per branch; train, validation: the branch of each text of the whole, [n] each."""
        ...


def measured(proxy: Proxy, train: Ints, validation: Ints, k: int, seed: int, flat: Values) -> Measured:
    """Specialists of this division against `flat` and a random division of the same sizes."""
    routed = proxy.split(train, validation, k)
    draw = np.random.Generator(np.random.Philox(key=np.array([seed & 0xFFFFFFFFFFFFFFFF, k], np.uint64)))
    random = proxy.split(draw.permutation(train), draw.permutation(validation), k)
    yardstick, against = (random, "random split") if random.mean > flat.mean else (flat, "flat")
    effect, low, high, error = paired(routed.sums - yardstick.sums, routed.sizes, proxy.clusters)
    return Measured(k, effect, low, high, error, routed.mean, flat.mean, random.mean, against)


def paired(
    differences: Floats, sizes: Floats, clusters: Ints, alpha: float = ALPHA
) -> tuple[float, float, float, float]:
    """(effect per unit, ends of its 1 - alpha interval, standard error), by the cluster-robust formula and Student's t
    of consensus/comparison.py, here for items of different sizes."""
    owner = np.unique(clusters, return_inverse=True)[1]
    totals, units = np.bincount(owner, differences), np.bincount(owner, sizes)
    effect, count = float(totals.sum() / units.sum()), len(totals)
    if count < 2:
        return effect, -math.inf, math.inf, math.inf
    squares = float(((totals - effect * units) ** 2).sum())
    error = math.sqrt(squares * count / (count - 1)) / float(units.sum())
    half = t_quantile(alpha, count - 1) * error
    return effect, effect - half, effect + half, error


def losses_by(proxy: Proxy, flat: Values, branch: Ints, k: int) -> tuple[float | None, ...]:
    """The flat model's mean loss per unit on each branch, None where none of its items is in the branch. branch: of
    each text of the whole, [n]."""
    mine = branch[proxy.rows]
    sums, units = np.bincount(mine, flat.losses, k), np.bincount(mine, flat.sizes, k)
    return tuple(float(total / count) if count else None for total, count in zip(sums, units, strict=True))


def sampled(rows: Ints, most: int) -> Ints:
    """At most `most` of `rows`, evenly spread over their order."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


class Labelled:
    """Linear classifiers of labelled texts."""

    metric = "accuracy"

    def __init__(
        self, texts: Sequence[str], labels: Ints, train: Ints, validation: Ints, clusters: Ints, seed: int,
        tick: Tick = nothing,
    ) -> None:  # fmt: skip
        """texts, labels, clusters: of the whole, [n]; train, validation: rows of it."""
        self._tick, self._seed = tick, seed
        frequent = np.argsort(-np.bincount(labels[train]), kind="stable")[:LABELS_MAX]
        number = np.full(int(labels.max()) + 1, -1, np.int64)
        number[frequent] = np.arange(len(frequent))
        self._train = sampled(train[number[labels[train]] >= 0], TRAIN_MAX)
        self._validation = sampled(validation[number[labels[validation]] >= 0], VALIDATION_MAX)
        self._labels = len(frequent)
        vocabulary, encoded = self._features(texts)
        room = WORK_MAX // max(1, self._labels * max(1, len(encoded.values) // max(1, len(encoded))))
        kept = sampled(np.arange(len(self._train)), max(1_000, room))
        self._train, encoded = self._train[kept], encoded.rows(kept)
        width = len(vocabulary)
        there = vocabulary.transform([texts[row] for row in self._validation.tolist()], tick)
        self._fitted = linear.prepared(encoded, width, number[labels[self._train]])
        self._judged = linear.prepared(there, width, number[labels[self._validation]])
        self.rows, self.clusters = self._validation, clusters[self._validation]

    def _features(self, texts: Sequence[str]) -> tuple[ngrams.Vocabulary, ngrams.Sparse]:
        chosen = [texts[row] for row in self._train.tolist()]
        without_spaces = 2 * sum(unspaced(text[:200]) for text in chosen) > len(chosen)
        kinds = {"word_max": 0, "char_min": 1, "char_max": 2} if without_spaces else {"word_max": 2, "char_max": 0}
        settings = ngrams.Ngrams(characters_max=CHARACTERS_MAX, **kinds)
        vocabulary = ngrams.fit(chosen, settings, features_max=FEATURES_MAX, tick=self._tick)
        return vocabulary, vocabulary.transform(chosen, self._tick)

    def flat(self) -> Values:
        """One classifier for all."""
        return self._right(self._fitted, self._judged)

    def split(self, train: Ints, validation: Ints, k: int) -> Values:
        """Shared weights and weights per branch."""
        return self._right(
            _with_own(self._fitted, train[self._train], k), _with_own(self._judged, validation[self._validation], k)
        )

    def _right(self, train: linear.Examples, validation: linear.Examples) -> Values:
        limits = linear.Limits((1.0,), seconds_max=math.inf, wall_s_max=math.inf)
        found = linear.search(train, validation, self._labels, "text", limits, self._seed % 2**31)
        self._tick()
        fit, labels = found.best, validation.labels  # all known: the sample has no other
        right = (fit.logits.argmax(axis=1) == labels).astype(np.float64)
        told = log_softmax(fit.logits / np.float32(fit.temperature))
        losses = -told[np.arange(len(labels)), labels].astype(np.float64)
        return Values(right, np.ones(len(right)), losses)


def _with_own(examples: linear.Examples, branch: Ints, k: int) -> linear.Examples:
    """Every feature once for all and once more for the row's own branch."""
    from scipy.sparse import csr_matrix, hstack

    shared: Any = examples.inputs
    width = shared.shape[1]
    own = csr_matrix(
        (shared.data, shared.indices + np.repeat(branch * width, np.diff(shared.indptr)), shared.indptr),
        shape=(shared.shape[0], k * width),
    )
    return linear.Examples(hstack([shared, own]).tocsr(), examples.labels)


class Documents:
    """Byte n-gram models of documents."""

    metric = "bits per byte"

    def __init__(
        self, texts: Sequence[str], train: Ints, validation: Ints, clusters: Ints, lead_bytes: int, tick: Tick = nothing
    ) -> None:
        """As Labelled; lead_bytes: at the beginning of a document, known and not scored."""
        self._tick = tick
        self._train, fitted = _cut(texts, train, TRAIN_BYTES)
        self._validation, judged = _cut(texts, validation, FORETOLD_BYTES)
        self._models = ByteGrams(fitted, judged, tick)
        self._documents = len(fitted)
        place = np.arange(int(self._models.starts[-1])) - self._models.starts[:-1][self._models.documents]
        self._scored = place >= lead_bytes
        self.rows, self.clusters = self._validation, clusters[self._validation]

    def flat(self) -> Values:
        """One model of all documents."""
        return self._values(self._models.nats(np.ones(self._documents)))

    def split(self, train: Ints, validation: Ints, k: int) -> Values:
        """Each document foretold by its branch's model."""
        mine, nearest = train[self._train], validation[self._validation]
        nats = np.zeros(len(self._models.documents))
        for branch in range(k):
            asked = nearest == branch
            if asked.any():
                weights = np.where(mine == branch, 1.0, OTHERS)
                nats[asked[self._models.documents]] = self._models.nats(weights, asked)
                self._tick()
        return self._values(nats)

    def _values(self, nats: Floats) -> Values:
        scored = self._scored
        owner = self._models.documents[scored]
        count = len(self._models.starts) - 1
        bits = np.bincount(owner, nats[scored], minlength=count) / math.log(2.0)
        return Values(-bits, np.bincount(owner, minlength=count).astype(np.float64), bits)


def _cut(texts: Sequence[str], rows: Ints, bytes_max: int) -> tuple[Ints, list[bytes]]:
    """(rows of a sample, evenly spread, their first bytes), `bytes_max` in all at most."""
    sizes = np.array([min(DOCUMENT_BYTES, 1 + len(texts[row])) for row in rows.tolist()], np.int64)
    kept = sampled(rows, max(2, int(len(rows) * min(1.0, bytes_max / max(1, int(sizes.sum()))))))
    return kept, [texts[row].encode("utf-8", "replace")[:DOCUMENT_BYTES] for row in kept.tolist()]
