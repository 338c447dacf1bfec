"""Names that tell what a column is, best first. Compared without regard to case."""

from __future__ import annotations

import difflib

LABEL_NAMES = (
    "label", "labels", "category", "class", "target", "intent", "y", "topic", "sentiment", "tag", "species", "genre",
    "diagnosis", "outcome", "label_text", "label_name", "category_name", "class_name", "classification", "categories",
    "klasse", "kategorie", "etiqueta", "categoria", "catégorie", "étiquette", "標籤", "标签", "ラベル",
)  # fmt: skip
"""A column called so holds the labels."""

TEXT_NAMES = (
    "text", "texts", "sentence", "question", "query", "utterance", "message", "review", "content", "body",
    "description", "title", "comment", "document", "headline", "abstract", "summary", "tweet", "input", "texte",
    "texto", "文本", "本文",
)  # fmt: skip
"""A column called so holds the input text, if it holds words at all."""

IDENTIFIER_NAMES = ("id", "idx", "index", "uuid", "guid", "row", "rowid", "row_id", "unnamed: 0", "key", "nr", "no")
"""A column called so, with a different value in every row, is no input."""


def nearest(name: str, known: list[str]) -> str:
    """The names most like `name`, quoted, for an error's sentence: at most three, else the first eight of all."""
    lowered = {other.casefold(): other for other in reversed(known)}
    near = difflib.get_close_matches(name.casefold(), list(lowered), n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(lowered[other]) for other in near) + "?"
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return "there are " + ", ".join(repr(other[:60]) for other in known[:8]) + more


def unique_names(names: list[str]) -> list[str]:
    """Names without gaps and repetitions: an empty one becomes its position, a repeated one gets a number."""
    made: list[str] = []
    seen: set[str] = set()
    for index, name in enumerate(names):
        base = name or f"column {index + 1}"
        candidate, number = base, 2
        while candidate in seen:
            candidate, number = f"{base} ({number})", number + 1
        seen.add(candidate)
        made.append(candidate)
    return made
