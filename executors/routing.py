"""A router: which branch of a tree does this text belong to? Read with numpy alone, the same numbers everywhere.

    router.json           format, k, dims, temperature, top, modality, lead_bytes, names, keywords, shares, what was
                          seen when it was fitted (`fitted`), and the SHA-256 of the vocabulary
    router.safetensors    idf float32[V], components float32[V, dims], centres float32[k, dims]
    vocabulary.txt        V words, one a line, in the order of the components

How: a text's words (executors/branching/words.py), (1 + ln tf) * idf over the known ones, scaled to length 1, projected
(truncated SVD), scaled to length 1: its place h. Then w_j = exp(-||h - c_j||^2 / T) over the branch centres c_j, the
`top` largest kept and scaled to sum 1 (c-BTM, arXiv:2303.14177, section 2). A text without a known word is nowhere: it
goes by the branches' shares of the training texts.

Promises: pure given the three files; 1e-6 between machines (sums in double precision). A folder that is damaged, or of
another format, is refused in one sentence before anything is computed. Not covered: stems, other modalities than text.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from executors import tensorfile
from executors.branching.words import words
from mesh.errors import ModelRefused

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CARD, TENSORS, VOCABULARY = "router.json", "router.safetensors", "vocabulary.txt"

FORMAT = 1
"""Raised when an older reader would route otherwise."""

TEMPERATURE, TOP = 0.1, 2
"""What c-BTM uses for language models: below 0.05 the nearest one answers alone, above 0.2 all answer alike; two
branches answer as well as all of them."""

BRANCHES_MAX, DIMS_MAX, TERMS_MAX = 256, 1_000, 500_000
"""Bounds of a folder that is read: 2 GB of components at the very most."""

FILE_BYTES_MAX = 64 * 1024 * 1024
"""Of the card and of the vocabulary."""

GATHERED_MAX = 200_000
"""Known words that are projected at once: with 100 dimensions 80 MB."""

Tick = Callable[[], None]


def nothing() -> None:
    """The tick of whoever needs no sign of life."""


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen when the router was fitted; drift is measured against it (executors/branching/drift.py)."""

    examples: int = 0
    """Training texts that it was fitted on."""
    seen: int = 0
    """Texts that it was not fitted on (validation) and that the next ones were measured on."""
    entropy: float = 0.0
    """Mean routing entropy of them, in nats."""
    entropy_deviation: float = 0.0
    """Standard deviation of one text's."""
    known: float = 0.0
    """Mean share of a text's words that the vocabulary knows."""
    shares: tuple[float, ...] = ()
    """Share of them per branch."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """`router.json`."""

    format: int
    k: int
    dims: int
    terms: int
    vocabulary_sha256: str
    temperature: float = TEMPERATURE
    top: int = TOP
    modality: str = "text"
    """'text' (labelled texts) or 'corpus' (documents of a language model)."""
    lead_bytes: int = 0
    """Of a document that is routed before it is read whole (`Router.lead`); 0: texts are routed whole."""
    names: tuple[str, ...] = ()
    keywords: tuple[tuple[str, ...], ...] = ()
    shares: tuple[float, ...] = ()
    """Of the training texts per branch."""
    fitted: Fitted = Fitted()


@dataclasses.dataclass(frozen=True)
class Router:
    """A fitted router. Read one with `Router.load`."""

    card: Card
    vocabulary: tuple[str, ...]
    idf: Floats
    """[V]"""
    components: Floats
    """[V, dims]"""
    centres: Floats
    """[k, dims]"""

    @property
    def k(self) -> int:
        """Branches."""
        return self.card.k

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    # -- asking -------------------------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[str], tick: Tick = nothing) -> Floats:
        """float32 [n, dims], rows of length 1; zeros for a text without a known word."""
        placed = np.zeros((len(texts), self.card.dims), np.float32)
        waiting: list[dict[int, int]] = []
        start = gathered = 0
        for row, text in enumerate(texts):
            waiting.append(self._counted(text))
            gathered += len(waiting[-1])
            if gathered >= GATHERED_MAX or row == len(texts) - 1:
                placed[start : row + 1] = self._projected(waiting)
                waiting, start, gathered = [], row + 1, 0
                tick()
        return placed

    def distances(self, placed: Floats) -> NDArray[np.float64]:
        """float64 [n, k], squared Euclidean distance of places (rows of `embed`) to the centres."""
        centres = self.centres.astype(np.float64)
        inner = placed.astype(np.float64) @ centres.T
        squared = (placed.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
        return np.maximum(squared - 2.0 * inner + (centres**2).sum(axis=1), 0.0)

    def weights(self, texts: Sequence[str], temperature: float | None = None, top: int | None = None) -> Floats:
        """float32 [n, k], rows sum to 1. None: as the card says."""
        return self.weights_at(self.embed(texts), temperature, top)

    def weights_at(self, placed: Floats, temperature: float | None = None, top: int | None = None) -> Floats:
        """The same for texts that were placed before (`embed`), so that many temperatures cost one embedding."""
        temperature = self.card.temperature if temperature is None else temperature
        kept = min(self.k, self.card.top if top is None else top)
        if not temperature > 0.0 or kept < 1:
            raise ValueError(f"a temperature is above 0 and top at least 1, got {temperature} and {top}")
        near = -self.distances(placed) / temperature
        near[~placed.any(axis=1)] = self._log_shares
        if kept < self.k:
            order = np.argsort(-near, axis=1, kind="stable")  # of equal ones the first
            np.put_along_axis(near, order[:, kept:], -np.inf, axis=1)
        raw = np.exp(near - near.max(axis=1, keepdims=True))
        return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)

    def nearest(self, texts: Sequence[str]) -> Ints:
        """int64 [n], the branch of each text."""
        return self.nearest_at(self.embed(texts))

    def nearest_at(self, placed: Floats) -> Ints:
        """The same for places; of equal distances the first branch's, without a known word the largest branch."""
        near = self.distances(placed).argmin(axis=1)
        near[~placed.any(axis=1)] = int(self._log_shares.argmax())
        return near.astype(np.int64)

    def entropy(self, texts: Sequence[str], temperature: float | None = None) -> Floats:
        """float32 [n], nats: how undecided the router is between all branches, 0 to ln k."""
        return self.entropy_at(self.embed(texts), temperature)

    def entropy_at(self, placed: Floats, temperature: float | None = None) -> Floats:
        """The same for places."""
        weights = self.weights_at(placed, temperature, self.k).astype(np.float64)
        return -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1).astype(np.float32)

    def known(self, texts: Sequence[str]) -> Floats:
        """float32 [n], the share of a text's words that the vocabulary knows; 0 for a text without words. Words that
        were left out of the vocabulary on purpose count as unknown."""
        found = np.zeros(len(texts), np.float32)
        for row, text in enumerate(texts):
            all_of_them = words(text)
            if all_of_them:
                found[row] = sum(word in self._numbers for word in all_of_them) / len(all_of_them)
        return found

    def lead(self, text: str) -> str:
        """What is known of a document when it has to be routed: its first `lead_bytes` bytes, whole if that is 0."""
        if not self.card.lead_bytes:
            return text
        return text.encode("utf-8", "replace")[: self.card.lead_bytes].decode("utf-8", "ignore")

    # -- the way to a place -------------------------------------------------------------------------------------------

    @functools.cached_property
    def _log_shares(self) -> NDArray[np.float64]:
        shares = np.array(self.card.shares or [1.0 / self.k] * self.k, np.float64)
        return np.log(np.maximum(shares, 1e-12))

    def _counted(self, text: str) -> dict[int, int]:
        """Number of each known word, and how often it stands there."""
        numbers = self._numbers
        return {numbers[word]: count for word, count in Counter(words(text)).items() if word in numbers}

    def _projected(self, counted: list[dict[int, int]]) -> Floats:
        lengths = np.array([len(one) for one in counted], np.int64)
        index = np.array([number for one in counted for number in sorted(one)], np.int64)
        count = np.array([one[number] for one in counted for number in sorted(one)], np.float64)
        value = (1.0 + np.log(count)) * self.idf[index]
        placed = np.zeros((len(counted), self.card.dims))
        filled = np.flatnonzero(lengths)
        if len(filled):
            starts = np.concatenate([[0], np.cumsum(lengths[filled])[:-1]])
            placed[filled] = np.add.reduceat(value[:, None] * self.components[index], starts, axis=0)
        norms = np.sqrt((placed**2).sum(axis=1, keepdims=True))
        return np.divide(placed, norms, out=np.zeros_like(placed), where=norms > 1e-12).astype(np.float32)

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> Path:
        """Write the router folder (made here)."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True)
        (folder / VOCABULARY).write_bytes(_lines(self.vocabulary))
        arrays = {"idf": self.idf, "components": self.components, "centres": self.centres}
        save_file({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, folder / TENSORS)
        card = json.dumps(msgspec.to_builtins(self.card), ensure_ascii=False, indent=1, sort_keys=True)
        (folder / CARD).write_text(card + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Router:
        """The router in `folder`. ModelRefused in one sentence when it is none, or damaged."""
        place = Path(folder)
        card = _card(place)
        vocabulary = _vocabulary(place, card)
        return cls(card, vocabulary, *_arrays(place, card))


def card_of(
    vocabulary: Sequence[str], centres: Floats, *, names: Sequence[str] = (), keywords: Sequence[Sequence[str]] = (),
    **more: Any,
) -> Card:  # fmt: skip
    """The card of a router with this vocabulary and these centres. more: the card's other fields."""
    return Card(
        format=FORMAT,
        k=len(centres),
        dims=centres.shape[1],
        terms=len(vocabulary),
        vocabulary_sha256=hashlib.sha256(_lines(vocabulary)).hexdigest(),
        names=tuple(names),
        keywords=tuple(tuple(one) for one in keywords),
        **more,
    )


def _lines(vocabulary: Sequence[str]) -> bytes:
    return "".join(f"{word}\n" for word in vocabulary).encode()


def _card(folder: Path) -> Card:
    found = _bytes(folder / CARD)
    try:
        raw = json.loads(found)
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise ModelRefused(
                f"the router {folder.name!r} has the format {str(raw['format'])[:20]}, this version reads {FORMAT}: "
                "make it again, or update"
            )
        card = msgspec.convert(raw, Card)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise _refused(folder, f"its {CARD} can not be read as one ({str(error)[:120]})") from None
    sizes = 1 <= card.k <= BRANCHES_MAX and 1 <= card.dims <= DIMS_MAX and 1 <= card.terms <= TERMS_MAX
    if not sizes or not card.temperature > 0.0 or not 1 <= card.top <= BRANCHES_MAX or card.lead_bytes < 0:
        raise _refused(folder, f"its {CARD} says k {card.k}, dims {card.dims}, terms {card.terms}, top {card.top}")
    if any(len(one) not in (0, card.k) for one in (card.names, card.keywords, card.shares, card.fitted.shares)):
        raise _refused(folder, f"names, keywords or shares in its {CARD} are not {card.k}")
    return card


def _vocabulary(folder: Path, card: Card) -> tuple[str, ...]:
    found = _bytes(folder / VOCABULARY)
    if hashlib.sha256(found).hexdigest() != card.vocabulary_sha256:
        raise _refused(folder, f"its {VOCABULARY} is not the one that {CARD} names")
    vocabulary = tuple(found.decode("utf-8", "replace").splitlines())
    if len(vocabulary) != card.terms or len(set(vocabulary)) != card.terms:
        raise _refused(
            folder, f"its {VOCABULARY} holds {len(set(vocabulary))} different words, {CARD} says {card.terms}"
        )
    return vocabulary


def _arrays(folder: Path, card: Card) -> tuple[Floats, Floats, Floats]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    wanted = {
        "idf": (card.terms,),
        "components": (card.terms, card.dims),
        "centres": (card.k, card.dims),
    }
    told = tensorfile.tensors(folder / TENSORS)
    for name, shape in wanted.items():
        if name not in told or told[name].dtype != "F32" or told[name].shape != shape:
            got = f"{told[name].dtype}{list(told[name].shape)}" if name in told else "none"
            raise _refused(folder, f"its {TENSORS} should hold {name} as F32{list(shape)} and holds {got}")
    try:
        arrays = load_file(folder / TENSORS)
    except (OSError, SafetensorError, ValueError) as error:
        raise _refused(folder, f"its {TENSORS} can not be read ({str(error)[:120]})") from None
    for name in wanted:
        if not np.isfinite(arrays[name]).all():
            raise _refused(folder, f"its {name} hold values that are no numbers")
    return arrays["idf"], arrays["components"], arrays["centres"]


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise _refused(path.parent, f"its {path.name} has more than {FILE_BYTES_MAX:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise _refused(path.parent, f"its {path.name} can not be read ({error.strerror or error})") from None


def _refused(folder: Path, why: str) -> ModelRefused:
    return ModelRefused(f"{folder.name!r} is no whole router: {why}; make it again with the kind `branch`.")
