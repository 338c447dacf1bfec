"""Routers that are written by hand, and small trees: each word of a branch points to its centre."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from executors.routing import Router, card_of

WORDS = (("card", "arrive", "delivery", "track"), ("refund", "return", "money", "cancel"), ("rain", "snow", "wind"))
"""Of three branches."""

LABELS = (("arrival", "tracking"), ("refund", "cancellation"), ("weather",))
"""Of three branches: which of its words decides."""


def router(branches: int = 3, lead_bytes: int = 0, shares: Sequence[float] = ()) -> Router:
    """Each branch has a direction of its own, and its words point there and a little elsewhere."""
    vocabulary = tuple(word for words in WORDS[:branches] for word in words)
    components = np.full((len(vocabulary), branches), 0.2, np.float32)
    row = 0
    for branch, words in enumerate(WORDS[:branches]):
        for _ in words:
            components[row, branch] = 1.0
            row += 1
    centres = np.eye(branches, dtype=np.float32) * np.float32(0.9)
    names = ("cards", "money back", "weather")[:branches]
    card = card_of(vocabulary, centres, names=names, lead_bytes=lead_bytes, shares=tuple(shares))
    return Router(card, vocabulary, np.ones(len(vocabulary), np.float32), components, centres)


def example(draw: random.Random, branch: int) -> tuple[str, str]:
    """(a text of a branch with a word of another now and then, its label)."""
    words = draw.choices(WORDS[branch], k=3)
    if draw.random() < 0.2:
        words.append(draw.choice(WORDS[(branch + 1) % 3]))
    half = len(WORDS[branch]) // 2
    label = LABELS[branch][int(WORDS[branch].index(words[0]) >= half) % len(LABELS[branch])]
    return " ".join([*words, f"n{draw.randrange(10_000)}"]), label


def examples(count: int, seed: int, branches: Sequence[int] = (0, 1, 2)) -> list[tuple[str, str]]:
    """Texts with labels, the branches in turn."""
    draw = random.Random(seed)
    return [example(draw, branches[number % len(branches)]) for number in range(count)]
