"""Pairs of texts that can be learned: a left names its thing in one language, a right in another, word by word."""

from __future__ import annotations

import json
import random
from pathlib import Path

THINGS = 40
"""Words of each language; the dictionary between them is what is to be learned."""


def made_up(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Different pairs of three words each; no word stands in both languages, so that BM25 sees nothing."""
    draw, seen = random.Random(seed), set[tuple[int, ...]]()
    while len(seen) < count:
        seen.add(tuple(sorted(draw.sample(range(THINGS), 3))))
    return [
        (" ".join(f"a{word}" for word in words), " ".join(f"b{word}" for word in reversed(words)))
        for words in sorted(seen)
    ]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps({"left": one, "right": other}) + "\n" for one, other in pairs))
    return path
