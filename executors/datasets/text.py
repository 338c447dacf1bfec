"""What counts as the same text, and what counts as a word.

`normalise` decides which examples are duplicates and on which side of a split an example falls; it is part of the data
format and never changes without a new salt. `terms` cuts texts of any script into words for keywords.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

# Scripts that write words without spaces between them: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")


def normalise(text: str) -> str:
    """NFKC, case-folded, runs of white space made one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def terms(text: str) -> list[str]:
    """Words of at least three letters; of scripts without spaces, pairs of neighbouring letters."""
    found: list[str] = []
    for word in _WORD.findall(text):
        runs = _UNSPACED.findall(word)
        if runs:
            found += [run[start : start + 2] for run in runs for start in range(max(1, len(run) - 1))]
        elif len(word) >= 3:
            found.append(word)
    return found


def unspaced(text: str) -> bool:
    """True when more than half of the letters belong to a script that writes without spaces."""
    return 2 * sum(map(len, _UNSPACED.findall(text))) > len(text.replace(" ", ""))
