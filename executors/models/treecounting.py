"""Every model of a tree asked once about every validation item, and what each way of mixing them is worth per item.

Items are taken in blocks, so that the answers of all models to a block are in memory together and no more; a way's
worth of an item is one number, and those of all blocks stand one behind the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from executors.corpus import Corpus
from executors.data import Split, some
from executors.models import treechoosing, treemixing
from executors.models.classifier import indices_of
from executors.models.tree import CENTRES, Mixing, Tree
from executors.models.treechoosing import Worths
from executors.models.treelabels import blocks, labelling_of, places_in
from executors.models.treelanguage import (
    begins_of,
    document_blocks,
    lead_bytes_of,
    member_foreteller,
    part,
    readings_of,
)
from executors.models.treemixing import Floats

PLAIN = Mixing()
"""Before anything was chosen."""

Tick = Callable[[], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """What was found out about n items."""

    worths: Worths
    """Of the ways."""
    singles: Worths
    """Of each model alone; `ways` says nothing there."""
    ids: NDArray[np.uint64]
    nearest: NDArray[np.int64]
    """[n], the branch of each item."""
    placed: NDArray[np.float32]
    """[n, dims], where the router puts it."""

    def alone(self, column: int, rows: NDArray[np.int64] | slice = slice(None)) -> dict[str, float]:
        """Measures of one model alone on some items."""
        return self.singles.on(column, rows)

    def entropy(self, tree: Tree, mixing: Mixing) -> Floats:
        """[n], nats of the weights by which each item is routed."""
        weights = tree.router.weights_at(self.placed, mixing.temperature, mixing.top)
        return treemixing.entropy(weights.astype(np.float64))


def of_examples(tree: Tree, split: Split, ways: Sequence[Mixing], device: torch.device, tick: Tick) -> Counted:
    """Models that label."""
    placed = tree.router.embed(split.texts, tick)
    truth = indices_of(split, tree.labels)
    weights = _weights(tree, placed, ways)
    columns = len(tree.columns)
    found: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    single: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    for rows in blocks(len(split), columns * len(tree.labels)):
        answers = np.zeros((columns, len(rows), len(tree.labels)), np.float32)
        block = some(split, rows)
        for column, name in enumerate(tree.columns):
            model = labelling_of(tree.members, name)
            told = model.answers(block, device, tick)
            answers[column][:, places_in(model.labels, tree.labels, name)] = np.exp(told)
        mine = [one[rows] for one in weights]
        found.append(treechoosing.label_worths(answers, mine, ways, tree.branches, tree.has_flat, truth[rows]))
        single.append(_each(answers, truth[rows]))
        tick()
    return Counted(
        Worths(tuple(ways), *_joined(found)),
        Worths((), *_joined(single)),
        split.ids,
        tree.router.nearest_at(placed),
        placed,
    )


def _each(answers: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(losses [m, n], right [m, n]) of every model alone."""
    rows, known = np.arange(len(truth)), truth >= 0
    losses = np.stack([treechoosing.loss_of(one[rows, truth].astype(np.float64), known) for one in answers])
    return losses, np.stack([(one.argmax(axis=1) == truth) & known for one in answers])


def _joined(
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return np.concatenate([loss for loss, _ in parts], axis=1), np.concatenate([right for _, right in parts], axis=1)


def of_documents(tree: Tree, corpus: Corpus, ways: Sequence[Mixing], device: torch.device, tick: Tick) -> Counted:
    """Language models."""
    vocabulary = member_foreteller(tree.members, tree.columns[0], None).vocabulary
    encoded = vocabulary.encode(corpus.texts, tick)
    placed = tree.router.embed([tree.router.lead(text) for text in corpus.texts], tick)
    found: list[NDArray[np.float32]] = []
    single: list[NDArray[np.float32]] = []
    for first, last in document_blocks(encoded, len(tree.columns)):
        block, sizes = part(encoded, np.arange(first, last)), corpus.sizes[first:last]
        begins = begins_of(block)
        told = np.stack(
            [member_foreteller(tree.members, name, vocabulary).foretold(block, device, tick) for name in tree.columns]
        )
        readings = readings_of(block, vocabulary, ways[0].reread, lead_bytes_of(tree.router))
        weights = _weights(tree, tree.router.embed(readings.texts, tick), ways)
        found.append(
            treechoosing.token_worths(
                told, weights, ways, tree.branches, tree.has_flat, tree.prior, readings.rows, begins, sizes
            )
        )
        single.append((-np.add.reduceat(told, begins[:-1], axis=1) / sizes).astype(np.float32))
        tick()
    worths = Worths(tuple(ways), np.concatenate(found, axis=1), None)
    singles = Worths((), np.concatenate(single, axis=1), None)
    return Counted(worths, singles, corpus.ids, tree.router.nearest_at(placed), placed)


def _weights(tree: Tree, placed: NDArray[np.float32], ways: Sequence[Mixing]) -> list[Floats]:
    """Of each way the router's weights; equal ones are computed once, those by likelihood need none."""
    kept: dict[tuple[float, int], Floats] = {}
    found = []
    for way in ways:
        key = (way.temperature, way.top)
        if way.routing == CENTRES and key not in kept:
            kept[key] = tree.router.weights_at(placed, *key).astype(np.float64)
        found.append(kept[key] if way.routing == CENTRES else np.zeros((0, tree.router.k)))
    return found
