"""Names for branches, from the words that tell their texts from those of the others; words of any script.

How: of each word the log odds of standing in a text of the branch against standing in one of the others, both smoothed
with all texts as the prior, in units of its standard error (Monroe, Colaresi and Quinn 2008, "Fightin' words"). So a
word that is frequent and telling comes before one that is rare and exclusive. The first words are the branch's
keywords; the first few of them that are not forms of each other are its name.

Promises: the same counts give the same names; names are different from each other, at most NAME_CHARS_MAX characters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from executors.branching.counting import Counts
from executors.routing import Ints

TELLING = 2.0
"""Standard errors of the log odds from which a word counts as telling: below, chance explains it."""

NAME_WORDS = 3
NAME_CHARS_MAX = 60
KEYWORDS_MAX = 12

PRIOR_TEXTS = 10.0
"""Weight of the prior, as texts: a word in three texts of a small branch alone does not name it."""

FORM_SHARED = 4
"""Letters in which two forms of one word (card, cards; transfer, transferring) begin alike, at least."""


def keywords(counts: Counts, branch: Ints, k: int, usable: NDArray[np.bool_]) -> list[list[str]]:
    """The most telling words of each branch, the best first; counts: of training texts [n], branch [n], usable [terms]:
    words that may be told."""
    present = counts.matrix.copy()
    present.data = np.ones_like(present.data)
    per_branch = np.stack(
        [np.asarray(present[branch == one].sum(axis=0), np.float64).ravel() for one in range(k)]
    )  # fmt: skip
    sizes = np.bincount(branch, minlength=k).astype(np.float64)
    scores = _scores(per_branch, sizes)
    found = []
    for one in range(k):
        score = np.where(usable & (per_branch[one] > 0.0), scores[one], -np.inf)
        ranked = sorted(np.flatnonzero(score >= TELLING).tolist(), key=lambda term: (-score[term], counts.terms[term]))
        found.append([counts.terms[term] for term in ranked[:KEYWORDS_MAX]])
    return found


def names(found: list[list[str]]) -> list[str]:
    """A name for each branch from its keywords; 'branch 3' where there is none."""
    made: list[str] = []
    for index, words in enumerate(found):
        apart = _apart(words)
        name = next(
            (
                one
                for count in (*range(NAME_WORDS, len(apart) + 1), len(apart))
                if (one := ", ".join(apart[:count])[:NAME_CHARS_MAX]) and one not in made
            ),
            f"branch {index + 1}",
        )
        made.append(name)
    return made


def _scores(per_branch: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[k, terms] z-scores. per_branch: texts of each branch that have a word; sizes: texts of each branch."""
    whole, total = per_branch.sum(axis=0), sizes.sum()
    prior = PRIOR_TEXTS * (whole + 0.5) / (total + 1.0)
    rest = PRIOR_TEXTS - prior
    found = np.zeros_like(per_branch)
    for one in range(len(per_branch)):
        inside, outside = per_branch[one], whole - per_branch[one]
        with_in, without_in = inside + prior, sizes[one] - inside + rest
        with_out, without_out = outside + prior, total - sizes[one] - outside + rest
        odds = np.log(with_in / without_in) - np.log(with_out / without_out)
        found[one] = odds / np.sqrt(1.0 / with_in + 1.0 / without_in + 1.0 / with_out + 1.0 / without_out)
    return found


def _apart(words: list[str]) -> list[str]:
    """Without words that are a form of an earlier one."""
    kept: list[str] = []
    for word in words:
        if not any(_akin(word, other) for other in kept):
            kept.append(word)
    return kept


def _akin(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return (
        len(short) >= FORM_SHARED
        and long.startswith(short[: max(FORM_SHARED, len(short) - 1)])
        and (len(long) - len(short) <= 4)
    )
