"""What a profile told about a dataset, checked once: the planner's view of the facts of a finished `profile` task.

The facts cross the wire as plain values from a worker, so nothing in them is trusted before it passed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.errors import Malformed
from mesh.messages.base import Part, read_facts
from mesh.messages.tasks import Needs

SPLITS = ("train", "validation", "holdout", "audit")

CORPUS = "corpus"

ADAPTER = "lora"
"""Executor kind that puts an adapter on a model that the topic names, in place of training one of its own."""

MODALITIES = ("text", "tabular", CORPUS)


class Profile(Part, frozen=True, kw_only=True):
    """A profiled dataset.

    Invariants: every split holds examples and together they hold all; two labels or more, and none in a corpus; a
    digest of 64 hex digits; names of all labels, or of the first hundred.
    """

    task: str
    """Executor kind that learns it: 'classify', 'language-model' of a corpus, or 'lora' of either where it was asked
    for."""
    modality: str
    """'text' or 'tabular'; 'corpus' for plain text without labels, whose examples are documents."""
    rows: int
    """Rows of the table, usable or not."""
    examples: int
    labels: int
    label_names: tuple[str, ...]
    """The first 100, in the order of the classes."""
    label_digest: str
    """SHA-256 (hex) of the sorted label names with line feeds between them: the label set's identity."""
    label_column: str
    text_columns: tuple[str, ...] = ()
    features: int = 0
    """Input numbers per example; 0 for texts."""
    features_digest: str = ""
    """SHA-256 (hex) of the names of these inputs in their order, with line feeds between them; '' for texts."""
    splits: dict[str, int]
    """Examples by split."""
    sources: int = 0
    """Of a corpus: what its documents come from (files, mostly); none of them stands in two splits."""
    duplicates: int = 0
    """Examples whose input occurred before."""
    conflicting: int = 0
    """Inputs that occur with more than one label."""
    dropped: dict[str, int]
    """Rows left out, by reason."""
    imbalance: float = 1.0
    """Examples of the most frequent label per example of the rarest."""
    warnings: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    """At most twelve, the most telling first."""
    bytes: int = 0
    """Size of the data as it was given."""
    needs: dict[str, Needs]
    """By executor kind."""

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"a profile's modality is one of {', '.join(MODALITIES)}, got {self.modality[:40]!r}")
        if self.task == ADAPTER and self.modality == "tabular":
            raise ValueError("an adapter reads texts, and no tables")
        if self.task != ADAPTER and (self.modality == CORPUS) != (self.task == "language-model"):
            raise ValueError(f"a corpus is for language models, and nothing else is; got {self.task[:40]!r}")
        if tuple(sorted(self.splits)) != tuple(sorted(SPLITS)) or min(self.splits.values()) < 1:
            raise ValueError(
                f"a profile has examples in each of {', '.join(SPLITS)}, got {dict(list(self.splits.items())[:8])}"
            )
        if sum(self.splits.values()) != self.examples or self.examples > self.rows:
            raise ValueError("a profile's splits hold all of its examples, and these are no more than its rows")
        if self.modality == CORPUS and (self.labels or self.label_names):
            raise ValueError(f"a corpus has no labels, got {self.labels}")
        if (self.labels < 2 and self.modality != CORPUS) or len(self.label_names) != min(self.labels, 100):
            raise ValueError(f"a profile has two labels or more and names the first hundred, got {self.labels}")
        if len(self.label_digest) != 64 or set(self.label_digest) - set("0123456789abcdef"):
            raise ValueError("a profile's label digest is 64 hex digits")
        if (self.modality == "tabular") != (self.features > 0):
            raise ValueError("a profile counts features when it is tabular, and only then")

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Profile:
        """The profile in a task's facts; Malformed with the reason when they are none."""
        try:
            return read_facts(facts, cls)
        except ValueError as error:
            raise Malformed(f"these facts are no profile: {str(error)[:300]}") from None

    @property
    def fits(self) -> str:
        """The form of the data, for people and for comparing: a model that was trained on one form reads no other."""
        return form_of(self.modality, self.features, self.features_digest)

    def needs_of(self, kind: str) -> Needs:
        """What a task of this kind takes on this data; the default where the profile did not say."""
        return self.needs.get(kind, Needs())


def form_of(modality: str, features: int, features_digest: str) -> str:
    """The form of data of this modality with so many inputs (see Profile.fits)."""
    if modality in ("text", CORPUS):
        return modality
    return f"tabular, {features} inputs, {features_digest[:12] or 'unnamed'}"
