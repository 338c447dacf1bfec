"""From a split's inputs to the numbers a network reads. Fitted on the training split only, stored with the model.

    text      TF-IDF of hashed word and character n-grams    a sparse row       executors/ngrams.py
    tabular   standardised columns, gaps filled with the median, one more column "was missing" per column with gaps

numpy only: the linear baseline uses the same features without torch. Both kinds answer the same six questions
(`width`, `encode`, `head`, `tensors`, `config`, `restore`), so that nothing else asks which modality it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from executors import ngrams
from executors.data import Split
from mesh.errors import ArtifactCorrupt, TaskRefused

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
Encoded = ngrams.Sparse | Floats

SPREAD_MAX = 8.0
"""Standard deviations after which a value is cut: one outlier must not outvote a row's other columns."""


def _nothing() -> None:
    """A tick that nobody waits for."""


@dataclasses.dataclass(frozen=True, slots=True)
class TextFeatures:
    """Hashed n-grams under TF-IDF."""

    modality: ClassVar[str] = "text"
    sparse: ClassVar[bool] = True
    vocabulary: ngrams.Vocabulary

    @property
    def width(self) -> int:
        """Numbers per example (nearly all zero)."""
        return len(self.vocabulary)

    def encode(self, split: Split, tick: Callable[[], None] = _nothing) -> ngrams.Sparse:
        """One sparse row per text."""
        return self.vocabulary.transform(split.texts, tick)

    def head(self, encoded: Encoded, count: int) -> Encoded:
        """The `count` most frequent n-grams of what `encode` gave, each row scaled anew."""
        assert isinstance(encoded, ngrams.Sparse)
        return self.vocabulary.head(encoded, count)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the model file keeps."""
        words = self.vocabulary
        return {
            "hashes": words.hashes.view(np.int64),
            "numbers": words.numbers.astype(np.int32),
            "idf": words.idf,
            "is_word": words.is_word.astype(np.uint8),
        }

    def config(self) -> dict[str, Any]:
        """What the model's config keeps."""
        return {"modality": self.modality, "ngrams": dataclasses.asdict(self.vocabulary.ngrams)}


@dataclasses.dataclass(frozen=True, slots=True)
class TableFeatures:
    """Standardised columns."""

    modality: ClassVar[str] = "tabular"
    sparse: ClassVar[bool] = False
    columns: tuple[str, ...]
    fill: Floats
    """[d], the median of what is there: stands in for what is not."""
    mean: Floats
    scale: Floats
    flagged: NDArray[np.int64]
    """Columns with gaps in the training data; each gets a column of its own that says so."""

    @property
    def width(self) -> int:
        """Numbers per example."""
        return len(self.columns) + len(self.flagged)

    def encode(self, split: Split, tick: Callable[[], None] = _nothing) -> Floats:
        """[n, width] float32, finite."""
        if split.schema.features != self.columns:
            raise TaskRefused(
                f"the model reads {len(self.columns)} columns ({', '.join(self.columns[:5])} …), the split has "
                f"{len(split.schema.features)} ({', '.join(split.schema.features[:5])} …): "
                "give it data of the same form"
            )
        tick()
        gaps = ~np.isfinite(split.table)
        values = np.where(gaps, self.fill, split.table)
        standard = np.clip((values - self.mean) / self.scale, -SPREAD_MAX, SPREAD_MAX)
        return np.hstack([standard, gaps[:, self.flagged]]).astype(np.float32)

    def head(self, encoded: Encoded, count: int) -> Encoded:
        """The same: a table has no less frequent half."""
        return encoded

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the model file keeps."""
        return {"fill": self.fill, "mean": self.mean, "scale": self.scale, "flagged": self.flagged}

    def config(self) -> dict[str, Any]:
        """What the model's config keeps."""
        return {"modality": self.modality, "columns": list(self.columns)}


class Features(Protocol):
    """From a split to the numbers that a network reads."""

    modality: ClassVar[str]
    """Of the data: 'text' or 'tabular'."""
    sparse: ClassVar[bool]
    """Are nearly all numbers zero?"""

    @property
    def width(self) -> int:
        """Numbers per example."""

    def encode(self, split: Split, tick: Callable[[], None] = _nothing) -> Encoded:
        """A split's inputs. `tick` is called often and may raise."""

    def head(self, encoded: Encoded, count: int) -> Encoded:
        """The `count` most frequent numbers of what `encode` gave, where there are less frequent ones."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the model file keeps."""

    def config(self) -> dict[str, Any]:
        """What the model's config keeps."""


def fit_text(
    split: Split, settings: ngrams.Ngrams, *, documents_min: int, features_max: int, tick: Callable[[], None] = _nothing
) -> TextFeatures:
    """The n-grams of a training split. TaskRefused when its texts have none."""
    vocabulary = ngrams.fit(split.texts, settings, documents_min=documents_min, features_max=features_max, tick=tick)
    if not len(vocabulary):
        raise TaskRefused("the training texts hold no word and no two letters in a row: name another text column")
    return TextFeatures(vocabulary)


def fit_table(split: Split) -> TableFeatures:
    """Medians, means and spreads of a training split's columns."""
    table = np.where(np.isfinite(split.table), split.table, np.nan).astype(np.float64)
    gaps = np.isnan(table)
    fill = np.zeros(table.shape[1])
    present = ~gaps.all(axis=0)
    fill[present] = np.nanmedian(table[:, present], axis=0)
    filled = np.where(gaps, fill, table)
    spread = filled.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    flagged = np.flatnonzero(gaps.any(axis=0) & present).astype(np.int64)
    return TableFeatures(
        split.schema.features,
        fill.astype(np.float32),
        filled.mean(axis=0).astype(np.float32),
        scale.astype(np.float32),
        flagged,
    )


def restore(config: Mapping[str, Any], arrays: Arrays) -> Features:
    """The features of a stored model. ArtifactCorrupt when its parts do not fit together."""
    try:
        if config["modality"] == TextFeatures.modality:
            return _restore_text(config, arrays)
        if config["modality"] == TableFeatures.modality:
            return _restore_table(config, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(
            f"the model's features are incomplete: {type(error).__name__} {str(error)[:120]}"
        ) from None
    raise ArtifactCorrupt(f"the model's features are of an unknown modality {str(config['modality'])[:40]!r}")


def _restore_text(config: Mapping[str, Any], arrays: Arrays) -> TextFeatures:
    hashes, numbers = arrays["hashes"].view(np.uint64), arrays["numbers"].astype(np.int64)
    idf, is_word = arrays["idf"], arrays["is_word"].astype(np.bool_)
    if not (hashes.ndim == 1 and idf.shape == is_word.shape == hashes.shape and (hashes[1:] > hashes[:-1]).all()):
        raise ArtifactCorrupt("the model's vocabulary is no ascending list with one weight each")
    if not np.array_equal(np.sort(numbers), np.arange(len(hashes))):
        raise ArtifactCorrupt("the model's vocabulary does not number its n-grams")
    if not np.isfinite(idf).all():
        raise ArtifactCorrupt("the model's vocabulary has weights that are not finite")
    return TextFeatures(ngrams.Vocabulary(ngrams.Ngrams(**config["ngrams"]), hashes, numbers, idf, is_word))


def _restore_table(config: Mapping[str, Any], arrays: Arrays) -> TableFeatures:
    columns = tuple(str(name) for name in config["columns"])
    fill, mean, scale, flagged = (arrays[name] for name in ("fill", "mean", "scale", "flagged"))
    if not fill.shape == mean.shape == scale.shape == (len(columns),):
        raise ArtifactCorrupt(f"the model names {len(columns)} columns, its statistics have {len(fill)}")
    if not (np.isfinite(fill).all() and np.isfinite(mean).all() and (scale > 0).all()):
        raise ArtifactCorrupt("the model's column statistics are not finite")
    if len(flagged) and not (flagged.min() >= 0 and flagged.max() < len(columns)):
        raise ArtifactCorrupt("the model flags columns that it does not have")
    return TableFeatures(columns, fill, mean, scale, flagged)


def take(encoded: Encoded, rows: NDArray[np.int64]) -> Encoded:
    """Some rows of what `encode` gave."""
    return encoded.rows(rows) if isinstance(encoded, ngrams.Sparse) else encoded[rows]
