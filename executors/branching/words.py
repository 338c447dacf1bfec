"""A text's words, for routing: any script, no library, the same on every machine.

    "Where is my new card? £20.50"   ->  where is my new card        (what begins with a digit is no word)
    "أين بطاقتي الجديدة؟"             ->  اين بطاقتي الجديدة            (alef in one form, vowel signs and tatweel gone)
    "東京の天気"                       ->  東京 京の の天 天気              (scripts without spaces: pairs of letters)

Letters keep the marks that belong to them (Devanagari vowels, for instance), so a word is not torn at a mark. A word
has at least two letters. Words that every text has (`STOP_WORDS`) are for whoever builds a vocabulary to leave out;
whoever reads one need not know them.

Not covered: stems. Letters that a later Unicode version adds are no letters in an older Python.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

CHARS_MAX = 10_000
"""Characters of a text that are looked at: some 1,500 words; more move a document's place little and cost time."""

WORD_CHARS_MAX = 40
"""A longer run of letters is no word that another text has (base64, a long name); it is cut."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that write words without spaces: Thai, Lao, Myanmar, Khmer, kana, Han."""

_ARABIC_DROPPED = dict.fromkeys(
    [0x0640, 0x0670, *range(0x064B, 0x0660), *range(0x06D6, 0x06DD), *range(0x06DF, 0x06E5)]
)
"""Tatweel and vowel signs: writing them is a matter of taste."""
_ARABIC_FORMS = {0x0622: 0x0627, 0x0623: 0x0627, 0x0625: 0x0627, 0x0671: 0x0627}
"""Alef with madda or hamza, alef wasla: often written as plain alef."""
_FOLDED = {**_ARABIC_DROPPED, **_ARABIC_FORMS}

_LAST_MARK = 0x1FFFF
"""No combining mark that belongs to words lies behind this."""

_ENGLISH = """
    a about above after again against ain all also am an and any are aren as at be because been before being
    below between both but by can cannot could couldn did didn do does doesn doing don down during each either
    else ever every few for from further get gets getting got had hadn has hasn have haven having he hence her
    here hers herself him himself his how however if in into is isn it its itself just let may me might mine
    more most much must mustn my myself need neither no nor not now of off often on once one only onto or other
    others otherwise our ours ourselves out over own per perhaps please quite rather re really same shall shan
    she should shouldn since so some such than that the their theirs them themselves then there therefore these
    they this those though through thus to together too toward under until up upon us use used uses using very
    via was wasn we well were weren what whatever when whenever where whereas whether which while who whoever
    whole whom whose why will with within without won would wouldn yet you your yours yourself yourselves ve ll
    etc eg ie
"""
_ARABIC = """
    من في على الى إلى عن مع هذا هذه ذلك تلك هو هي هم هن انا انت نحن ان أن إن كان كانت يكون تكون قد لا لم لن ما
    ماذا هل كيف متى اين أين لماذا التي الذي الذين كل بعض او أو ثم بل حتى اذا إذا عند عندما بعد قبل بين غير لي له
    لها لهم به بها فيه فيها منه منها عليه عليها وهو وهي ولا وما لقد ليس ليست يا اي أي
"""


def fold(text: str) -> str:
    """One form of writing: NFKC, case-folded, Arabic as above."""
    folded = unicodedata.normalize("NFKC", text[:CHARS_MAX]).casefold()
    return folded if folded.isascii() else folded.translate(_FOLDED)


STOP_WORDS = frozenset(_ENGLISH.split()) | {fold(word) for word in _ARABIC.split()}
"""Words that tell nothing about a text's subject."""


def words(text: str) -> list[str]:
    """The words of `text` in their order, folded. Of scripts without spaces: pairs of neighbouring letters."""
    folded = fold(text)
    pattern, unspaced = _patterns(ascii_only=folded.isascii())
    found = [word[:WORD_CHARS_MAX] for word in pattern.findall(folded)]
    if unspaced is None:
        return found
    return [part for word in found for part in _parts(word, unspaced)]


def _parts(word: str, unspaced: re.Pattern[str]) -> list[str]:
    """A word as it is; where it holds letters of a script without spaces, their pairs and what lies between."""
    runs = unspaced.split(word)
    if len(runs) == 1:
        return [word]
    found: list[str] = []
    for position, run in enumerate(runs):
        if position % 2 == 1:
            found += [run[start : start + 2] for start in range(max(1, len(run) - 1))]
        elif len(run) >= 2:
            found.append(run)
    return found


@functools.cache
def _patterns(*, ascii_only: bool) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    """(a word, a run of letters of scripts without spaces). A word begins with a letter behind no other, and goes on
    with letters, digits and marks; an apostrophe or an underscore ends it."""
    if ascii_only:
        return re.compile(r"(?<![a-z0-9])[a-z][a-z0-9]+"), None
    inner = rf"[^\W_{_marks()}]|[{_marks()}]"
    return re.compile(rf"(?<![^\W_])[^\W\d_](?:{inner})+"), re.compile(f"([{_UNSPACED}]+)")


def _marks() -> str:
    """Every combining mark, as ranges of a character class: 2,000 characters that `\\w` does not hold."""
    ranges: list[list[int]] = []
    for code in range(0x300, min(sys.maxunicode, _LAST_MARK) + 1):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
