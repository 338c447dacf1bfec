"""Where a text belongs in the graph: words of any script, and a weighted cosine with the words of each node.

    "How fast does the wave function spread?"
        ──terms──> wave, function, "wave function", fast, spread
        ──near───> physics-quantum 0.41, physics-acoustics 0.19, …

**Words.** Texts are folded before they are compared (NFKC, case, accents; in Arabic vowel marks, kashida and the
forms of alef, hamza, ya and ta marbuta), then cut at whatever is no letter and no digit. English words lose their
plural (the S-stemmer of Harman, "How effective is suffixing?", 1991); Arabic ones their article and the ending of a
regular plural or a feminine (a part of light10: Larkey, Ballesteros and Connell, "Light stemming for Arabic
information retrieval", 2007). Scripts that part no words (Chinese, Japanese, Thai …) are compared by pairs of
letters.

**Weights.** A node's document is its names, counted NAME_TIMES, its keywords, and at a discount its parent's. A
phrase stands as a whole; its single words count PART_TIMES, so that "magnetic field" is no friend of every field. A
word weighs by its rarity among the nodes (inverse document frequency); a word that no node knows weighs like a rare
one, for it speaks against all of them. The score is the cosine of the text's and the node's weights, with the node's
length taken per script (an English text shall not suffer from the node's Arabic words) and pivoted, so that a node of
two words is not nearest to everything (Singhal, Buckley and Mitra, "Pivoted document length normalization", 1996).

Promises: pure; the same nodes and the same text give the same numbers; 0 <= score <= 1.
Not covered: meaning beyond words. A text that shares no word with a node is not near it, whatever it is about.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mesh.messages.graph import ROOT, Specialization

NEAR = 0.105
"""Least score with which a topic is put under a node. Measured on the sentences of tests/unit/planner/test_placing.py:
below it unrelated ones find a place, above it related ones end under the root."""

BESIDE = 0.25
"""The same beside another topic's specialization."""

NEAR_LIMIT = 5
"""Nearest nodes that a plan tells."""

NAME_TIMES, INHERITED_TIMES, PART_TIMES = 2.0, 0.3, 0.4
"""Weight of a name's words against a keyword's; of a parent's against a node's own; of a phrase's word against the
whole phrase."""

PIVOT_SLOPE = 0.6
"""Share of a node's own length in what its score is divided by; the rest is the mean over all nodes."""

HOLDERS_MAX = 2_000
"""Nodes that a text is compared with: some 0.4 s of the agent's time."""

TERMS_MAX = 400
"""Words of one text that count: a topic has at most 2,000 characters."""

_STOPS = """
    a about after all also an and any are as at be been between both but by can could did do does each every
    find for from get give given had has have how i if in into is it its just kind let like make many may me
    mine more most much my no not of on one only or other our out over per please she so some such tell than
    that the their them then there these they this those through to too train under up us use used using very
    want was we were what when where which who whose why will with would you your analyse analysis analyze
    answer article automatic based best case classification classifier classify comment compare data dataset
    detect detection different document domain estimate estimating example explain file general help identify
    input item kind label language learn learner learning method model new number output paper part predict
    predicting prediction problem question recognise recognition recognize record result sample science
    scientific sentence short simple sort specialist study table task text topic type understand word
    في من الى على عن مع هذا هذه ذلك تلك التي الذي الذين ما ماذا كم كيف هل او ام ثم قد لا لم لن ان اذا كل بعض
    بين حتى منذ عند هو هي هم نحن انا انت كان كانت يكون تكون حول خلال ضمن غير دون اي ايضا تصنيف نصوص نص بيانات
    اسئلة سؤال نموذج تعلم تدريب مثال امثلة طريقة طرق دراسة علم كلمات جمل تحليل استخدام باستخدام مسألة مسائل
    نتائج أنواع نوع لغة موضوع مواضيع مقالات مقال
"""
"""Words that say nothing about a field: small words, and those that describe any task. English and Arabic."""

_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0640\u200c-\u200f]")
"""Accents, Hebrew and Arabic vowel marks, kashida, joiners and marks of direction."""

_ALIKE = str.maketrans(
    {"ٱ": "ا", "ى": "ي", "ی": "ي", "ة": "ه", "ک": "ك", "ۀ": "ه", "ß": "ss", "ı": "i", "ø": "o", "ł": "l"}
)

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: their words stand without spaces."""

_WORD = re.compile(r"[^\W_]+")
_ARABIC = re.compile("[\u0621-\u064a\u066e-\u06d3]")
_ARTICLES = ("وال", "بال", "كال", "فال", "ولل", "ال", "لل")
_ARABIC_ENDINGS = ("ات", "ون", "ين", "ه")
_CLITICS = ("و", "ف", "ب", "ك", "ل")
_WHOLE = frozenset({"رياضيات"})
"""Arabic words that keep their ending: without it, mathematics (رياضيات) would be sports (رياضية)."""

ROOT_LETTERS_MIN = 3
"""Letters that are left of an Arabic word when something is taken away."""


def folded(text: str) -> str:
    """`text` in the one form in which texts are compared."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", _MARKS.sub("", apart)).translate(_ALIKE)


STOPS = frozenset(folded(_STOPS).split())


@functools.lru_cache(maxsize=32_768)
def words(text: str) -> tuple[str, ...]:
    """The stems of a text's telling words in order, at most TERMS_MAX."""
    found: list[str] = []
    for match in _WORD.finditer(folded(text)):
        for word in _parted(match[0]):
            if len(found) < TERMS_MAX and len(word) > 1 and word not in STOPS and (stem := _stem(word)) not in STOPS:
                found.append(stem)
    return tuple(found)


def _parted(word: str) -> Iterator[str]:
    """A word as it is; of a script without spaces, its pairs of letters."""
    at = 0
    for run in _UNSPACED.finditer(word):
        yield word[at : run.start()]
        letters = run[0]
        yield from (letters[i : i + 2] for i in range(max(1, len(letters) - 1)))
        at = run.end()
    yield word[at:]


@functools.lru_cache(maxsize=4_096)
def _stem(word: str) -> str:
    if _ARABIC.match(word):
        return _arabic_stem(word)
    if not word.isascii() or len(word) < 4:
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word[:-1] if word.endswith("s") and not word.endswith(("us", "ss", "is")) else word


def _arabic_stem(word: str) -> str:
    for article in _ARTICLES:
        if word.startswith(article) and len(word) - len(article) >= 2:
            word = word[len(article) :]
            break
    if word not in _WHOLE:
        for ending in _ARABIC_ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) >= ROOT_LETTERS_MIN:
                return word[: -len(ending)]
    return word


# -- weights ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Near:
    """A node and how near a text is to it."""

    id: str
    score: float


class Places:
    """The nodes of a graph in which something may find its place. Building it is linear in the nodes' words (0.2 ms a
    node), so of a large graph only HOLDERS_MAX are looked at: what groups others, then what changed last."""

    def __init__(self, nodes: Iterable[Specialization], parents: Mapping[str, Specialization] | None = None) -> None:
        """nodes: those to compare with; parents: all nodes by id, where their parents are looked up."""
        in_order = sorted(nodes, key=lambda node: (bool(node.task), -node.changed_at_ms, node.id))
        kept = {node.id: node for node in in_order[:HOLDERS_MAX] if node.id != ROOT}
        parents = kept if parents is None else parents
        documents = {id_: _document(node, parents.get(node.parent)) for id_, node in kept.items()}
        counts = collections.Counter(term for document in documents.values() for term in document)
        self._rare = math.log(1.0 + len(documents))
        self._idf = {term: math.log((1.0 + len(documents)) / (0.5 + count)) + 0.5 for term, count in counts.items()}
        self._with: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
        self._lengths = self._weigh(documents)

    def _weigh(self, documents: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, bool], float]:
        """Fill the index; the pivoted length of every document by script."""
        squares: dict[tuple[str, bool], float] = collections.defaultdict(float)
        for id_, document in documents.items():
            for term, times in document.items():
                weight = times * self._idf[term]
                self._with[term].append((id_, weight))
                squares[id_, _is_arabic(term)] += weight * weight
        lengths = {key: math.sqrt(square) for key, square in squares.items()}
        mean = sum(lengths.values()) / max(1, len(lengths))
        return {key: PIVOT_SLOPE * length + (1 - PIVOT_SLOPE) * max(mean, length) for key, length in lengths.items()}

    def nearest(self, text: str, more: Sequence[str] = (), limit: int = NEAR_LIMIT) -> tuple[Near, ...]:
        """The nodes nearest to a text, best first; ties in the order of their ids. Empty when no word is shared.

        more: keywords of the topic's data; each counts half a word of the text.
        """
        query = self._query(text, more)
        length = math.sqrt(sum(weight * weight for weight in query.values()))
        scores: dict[str, float] = collections.defaultdict(float)
        for term, weight in query.items():
            for id_, other in self._with.get(term, ()):
                scores[id_] += weight * other / (length * self._lengths[id_, _is_arabic(term)])
        ranked = sorted(scores.items(), key=lambda pair: (-round(pair[1], 9), pair[0]))
        return tuple(Near(id_, round(min(1.0, score), 4)) for id_, score in ranked[:limit])

    def _query(self, text: str, more: Sequence[str]) -> dict[str, float]:
        """Term to weight. Pairs of words count where some node knows them as a phrase."""
        times: dict[str, float] = {}
        for stems, each in [(self._known(words(text)), 1.0), *((self._known(words(one)), 0.5) for one in more)]:
            pairs = [f"{a} {b}" for a, b in itertools.pairwise(stems) if f"{a} {b}" in self._idf]
            for term in (*stems, *pairs):
                times[term] = max(each, times.get(term, 0.0))
        return {term: each * self._idf.get(term, self._rare) for term, each in times.items()}

    def _known(self, stems: Sequence[str]) -> list[str]:
        """Arabic writes "and", "in", "for" without a space: they are taken off where a node knows the rest."""
        return [self._without_clitic(stem) for stem in stems]

    def _without_clitic(self, stem: str) -> str:
        if stem not in self._idf and stem.startswith(_CLITICS) and stem[1:] in self._idf:
            return stem[1:]
        return stem


def place(near: Sequence[Near], is_trained: Callable[[str], bool] = lambda _: False) -> Near | None:
    """The first of the nearest nodes that is near enough; None when none is.

    is_trained: is a node a specialization with data of its own? Beside such a one a topic is put only when it is nearer
    (BESIDE): its words come from one sentence and one dataset, and nobody chose them to describe a field.
    """
    return next((one for one in near if one.score >= (BESIDE if is_trained(one.id) else NEAR)), None)


def _document(node: Specialization, parent: Specialization | None) -> dict[str, float]:
    """Term to how often it counts."""
    times: dict[str, float] = {}
    for source, factor in ((node, 1.0), *(((parent, INHERITED_TIMES),) if parent is not None else ())):
        named = [(term, share) for name in names_of(source) for term, share in _phrase(name, NAME_TIMES, telling=True)]
        for term, share in [*named, *(pair for keyword in source.keywords for pair in _phrase(keyword, 1.0))]:
            times[term] = max(times.get(term, 0.0), factor * share)
    return times


def _phrase(text: str, weight: float, *, telling: bool = False) -> Iterator[tuple[str, float]]:
    """A single word as it is; of several, each pair in full and each word in part. telling: words that say nothing are
    not counted, so that of "regression analysis" the first one stands for all."""
    stems = words(text)
    single = len(stems if telling else _WORD.findall(text)) == 1
    for stem in stems:
        yield stem, weight if single else PART_TIMES
    for first, second in itertools.pairwise(stems):
        yield f"{first} {second}", weight


def names_of(node: Specialization) -> tuple[str, ...]:
    """The node's name in all languages."""
    return (node.name, *node.names.values())


@functools.lru_cache(maxsize=16_384)
def _is_arabic(term: str) -> bool:
    return _ARABIC.match(term) is not None


def words_of(nodes: Iterable[Specialization]) -> set[str]:
    """All stems of some nodes' names and keywords."""
    return {stem for node in nodes for text in (*names_of(node), *node.keywords) for stem in words(text)}
