"""The terms that tell a dataset's labels apart: they place its topic in the graph, and people see what it is about.

A term's worth is the information it carries about the label: its share of the texts times the divergence of the labels
of the texts that have it from the labels of all (add-half smoothed). A term that is everywhere, or once only, is worth
nothing.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from executors.datasets.examples import Array, Examples
from executors.datasets.text import normalise, terms

_MADE_UP = re.compile(r"column [0-9]+\Z")
"""A column's name in a file without header; it tells nothing."""

KEYWORDS_MAX = 12
TEXTS_MAX = 20_000
"""Train texts that are looked at, evenly spread; more change nothing."""
CHARS_MAX = 2_000
"""Of each."""
TERMS_MAX = 20_000
"""Terms that are weighed, the most frequent ones."""


def keywords(examples: Examples, train: Array) -> list[str]:
    """At most twelve terms, the most telling first: words of the texts, or of the columns' and labels' names."""
    if examples.texts is None:
        names = [*examples.number_names, *(category.name for category in examples.categories), *examples.labels[:100]]
        told = [name.replace("_", " ") for name in names if not _MADE_UP.match(name)]
        return list(dict.fromkeys(term for name in told for term in terms(normalise(name))))[:KEYWORDS_MAX]
    rows = train[np.linspace(0, len(train) - 1, min(len(train), TEXTS_MAX)).astype(np.int64)]
    found = [set(terms(normalise(text[:CHARS_MAX]))) for text in examples.texts.take(rows).to_pylist()]
    frequent = Counter(term for one in found for term in one).most_common(TERMS_MAX)
    position = {term: index for index, (term, count) in enumerate(frequent) if count >= 3}
    if not position:
        return []
    worth = _worth(found, examples.y[rows], position, len(examples.labels))
    names = list(position)
    ranked = sorted(range(len(names)), key=lambda index: (-worth[index], names[index]))
    return [names[index] for index in ranked[:KEYWORDS_MAX]]


def _worth(found: list[set[str]], y: Array, position: dict[str, int], labels: int) -> Array:
    """Information of each term about the label, in nats per text."""
    pairs: Counter[tuple[int, int]] = Counter()
    for one, label in zip(found, y.tolist(), strict=True):
        for term in one:
            index = position.get(term)
            if index is not None:
                pairs[index, label] += 1
    prior = np.bincount(y, minlength=labels) / len(y)
    totals = np.zeros(len(position))
    for (index, _), count in pairs.items():
        totals[index] += count
    worth = np.zeros(len(position))
    for (index, label), count in pairs.items():
        share = (count + 0.5 * prior[label]) / (totals[index] + 0.5)
        worth[index] += share * np.log(share / prior[label])
    return np.asarray(worth * totals / len(y))
