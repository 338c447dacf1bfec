"""A tree that labels: each specialist answers the examples that are routed to it, in one batch.

    examples ── router ── shares [n, m] ── per model: its examples ── log probabilities over its own labels
                                                                          │ + log share
    log probabilities over the union of labels  [n, L]  <── log-sum-exp ──┘

A specialist that does not know a label gives it the probability zero. A label that nobody who was asked knows gets
LEAST_NATS, which is below anything that an outcome keeps. A share of the flat model leaves no such label.

A tree inside a tree is a model like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from executors.data import Split, some
from executors.models.loading import Labelling, Respondent, SplitRespondent, nothing
from executors.models.probabilities import Floats, check_finite
from executors.models.tree import Members, Tree
from executors.models.treemixing import log_shares
from executors.outcomes import LOSS_MAX
from mesh.errors import ArtifactCorrupt, ModelRefused

LEAST_NATS = -2.0 * LOSS_MAX

BLOCK_NUMBERS = 8 * 1024 * 1024
"""Log probabilities held at once, 64 MiB: what has more labels or examples is answered in blocks."""

Tick = Callable[[], None]


def labelling_of(members: Members, name: str) -> Labelling:
    """The model of that name as one that labels. ModelRefused when it is none."""
    found = members.open(name)
    if not isinstance(found, SplitRespondent):
        raise ModelRefused(f"the tree's model {name!r} names no labels, where others of it do: they can not be mixed")
    return found.model


def blocks(rows: int, numbers: int) -> Iterator[NDArray[np.int64]]:
    """Rows of a split in blocks, each with `numbers` numbers per row."""
    step = max(1, BLOCK_NUMBERS // max(1, numbers))
    for start in range(0, rows, step):
        yield np.arange(start, min(start + step, rows))


def places_in(labels: tuple[str, ...], union: tuple[str, ...], name: str) -> NDArray[np.int64]:
    """Where a model's labels stand in the union. ArtifactCorrupt when one does not."""
    where = {label: number for number, label in enumerate(union)}
    strange = [label for label in labels if label not in where]
    if strange:
        raise ArtifactCorrupt(f"the tree's model {name!r} knows the label {strange[0][:80]!r}, and the tree does not")
    return np.array([where[label] for label in labels], np.int64)


@dataclasses.dataclass(slots=True)
class TreeClassifier:
    """What `SplitRespondent` asks."""

    tree: Tree

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all of its models."""
        return self.tree.labels

    @property
    def modality(self) -> str:
        """Of the data: 'text'."""
        return self.tree.modality

    def place(self, device: torch.device) -> None:
        """Where its models compute."""
        self.tree.members.place(device)

    def answers(self, split: Split, device: torch.device, tick: Tick = nothing) -> Floats:
        """[n, labels], natural logarithms."""
        shares = self.tree.shares(split.texts)
        tick()
        found = np.empty((len(split), len(self.labels)), np.float32)
        for rows in blocks(len(split), len(self.labels)):
            found[rows] = self._block(some(split, rows), shares[rows], device, tick)
        return found

    def _block(
        self, split: Split, shares: NDArray[np.float64], device: torch.device, tick: Tick
    ) -> NDArray[np.float64]:
        total = np.full((len(split), len(self.labels)), -np.inf)
        for column, name in enumerate(self.tree.columns):
            asked = np.flatnonzero(shares[:, column] > 0.0)
            if not len(asked):
                continue
            model = labelling_of(self.tree.members, name)
            answers = model.answers(some(split, asked), device, tick)
            check_finite(answers)
            where = np.ix_(asked, places_in(model.labels, self.labels, name))
            total[where] = np.logaddexp(total[where], log_shares(shares[asked, column])[:, None] + answers)
        return np.maximum(total, LEAST_NATS)

    def through(self, texts: list[str]) -> list[list[tuple[str, float]]]:
        """Per text the models that answer it, with their shares, the greatest first."""
        return [told_shares(self.tree, row) for row in self.tree.shares(texts)]


def told_shares(tree: Tree, shares: NDArray[np.float64]) -> list[tuple[str, float]]:
    """(name, share) of those that count, the greatest first."""
    order = np.argsort(-shares, kind="stable")
    return [(tree.name(int(column)), float(shares[column])) for column in order if shares[column] > 0.0]


def respondent_of(tree: Tree) -> Respondent:
    """The tree, ready to be asked."""
    return SplitRespondent(TreeClassifier(tree))
