"""Documents from plain text: what a corpus without labels is cut into, and on which side of a split each piece falls.

    a folder of text      every readable file below it, whatever its name; hidden ones are passed over
    one text file         .txt, .md, .rst, or any text that is no table
    a table with texts    one row after the other: the column of texts, and `source`, where there is one
    builtin:NAME          the texts of a built-in data set

A document is a piece of at most DOCUMENT_BYTES, cut behind a line; a text below it is one as it is. Its *source* is
what it comes from: the file's path below the folder, else what the column `source` says, else the row itself. Pieces of
one source are not independent of each other, so they are one cluster, and a source goes into one split as a whole: by
the SHA-256 of salt and source, read as a number in [0, 1) (executors/datasets/splits.py draws the edges). Of pieces
with the same normalised text the first counts, so that no text stands on two sides.

Whoever writes documents anew, with `text` and `source` as they are here, gets the same pieces and the same sides back:
so a branch of a corpus is split exactly as the whole was.

Where there are fewer than SOURCES_LEAST sources (one long file), every piece is a source of its own, and a warning says
what that means.

Not covered: texts that are nearly the same; compressed files; formats with markup of their own (PDF, HTML, troff) are
read as the text that they are written in.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from executors.branching.words import STOP_WORDS
from executors.datasets import bounds, columns, look, reading, roles, textfolder
from executors.datasets.decoding import open_text
from executors.datasets.examples import Array
from executors.datasets.names import LABEL_NAMES, TEXT_NAMES
from executors.datasets.roles import Role
from executors.datasets.splits import EDGES, SPLITS, TRAIN
from executors.datasets.table import Progress, Table
from executors.datasets.text import normalise, terms
from mesh.errors import DataRefused

DOCUMENT_BYTES = 2_048
"""Of one document, as UTF-8: long enough to say what it is about, short enough that a corpus has many of them."""

CORPUS_BYTES_MAX = 2 * 1024**3
"""All documents together: they are held in memory."""

SOURCES_LEAST = 40
"""With fewer sources a split of whole sources would leave next to none for holdout and audit."""

SOURCE_COLUMN = "source"

SOURCE_CHARS_MAX = 300
"""A longer name counts by its hash."""

DOCUMENTS_LEAST = 20

KEYWORDS_MAX = 12
KEYWORD_TEXTS_MAX = 20_000

FILE_NAME = "documents.jsonl"


@dataclasses.dataclass(slots=True)
class Documents:
    """n documents in the order in which they were read."""

    texts: list[str]
    sources: list[str]
    """Of each document."""
    ids: Array
    """uint64 [n]: first eight bytes of the SHA-256 of the normalised text, little-endian."""
    split: Array
    """int64 [n], 0 to 3: index into splits.SPLITS."""
    column: str = ""
    """Of texts; '' where there are no columns."""
    repeated: int = 0
    """Documents that were left out because the same text came before."""
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    bytes_read: int = 0

    def __len__(self) -> int:
        return len(self.texts)


def fits(source: str, name: str) -> bool:
    """True when what stands there can be nothing but plain text: a folder of texts without labels, or a text file that
    is not named like a table. A file that is named like one may still be a corpus: see `read`."""
    if source.startswith(look.SCHEME):
        return False
    path = look.single_file(Path(source))
    return look.format_of(path, name) is look.Format.CORPUS


def read(source: str, name: str, salt: str, progress: Progress, *, column: str = "") -> Documents:
    """The documents at `source` (a path, or builtin:NAME) and their splits. name: what the user called it; column: of
    texts, '' to find it. DataRefused in one sentence."""
    found = _Gathered()
    path = look.single_file(Path(source))
    if source.startswith(look.SCHEME) or look.is_table(path, name):
        _from_table(reading.read(source, name, progress), column, found)
    elif column:
        raise DataRefused(f"--text {column[:80]!r}: plain text has no columns; leave it out")
    elif path.is_dir():
        _from_folder(path, name or str(path), found, progress)
    else:
        _from_file(path, name or str(path), found, progress)
    return found.documents(salt)


def cut(text: str) -> Iterator[str]:
    """A text in pieces of at most DOCUMENT_BYTES, behind a line where there is one, else behind a blank."""
    data = text.encode("utf-8", "replace")
    start = 0
    while len(data) - start > DOCUMENT_BYTES:
        end = start + DOCUMENT_BYTES
        behind = max(data.rfind(b"\n", start, end), 0) or max(data.rfind(b" ", start, end), 0)
        end = behind + 1 if behind > start else _between_characters(data, end)
        yield data[start:end].decode()
        start = end
    yield data[start:].decode()


def keywords(documents: Documents) -> list[str]:
    """At most twelve terms that are frequent in some training documents and absent from most."""
    rows = np.flatnonzero(documents.split == TRAIN)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), KEYWORD_TEXTS_MAX)).astype(np.int64)]
    total: Counter[str] = Counter()
    having: Counter[str] = Counter()
    for row in rows.tolist():
        found = terms(normalise(documents.texts[row]))
        total.update(found)
        having.update(set(found))
    worth = {
        term: total[term] * np.log(len(rows) / count)
        for term, count in having.items()
        if count >= 3 and 2 * count <= len(rows) and term not in STOP_WORDS
    }
    return sorted(worth, key=lambda term: (-worth[term], term))[:KEYWORDS_MAX]


# -- reading ----------------------------------------------------------------------------------------------------------


class _Gathered:
    """Documents as they are read."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.column = ""
        self.dropped: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.bytes_read = self.repeated = 0
        self._ids: list[bytes] = []
        self._seen: set[bytes] = set()

    def add(self, text: str, source: str) -> None:
        """The pieces of one text. source: '' for the text itself."""
        source = source or hashlib.sha256(normalise(text).encode()).hexdigest()[:16]
        for piece in cut(text):
            if not piece.strip():
                self.dropped["document without text"] += 1
                continue
            identity = hashlib.sha256(normalise(piece).encode()).digest()[:8]
            if identity in self._seen:
                self.repeated += 1
                continue
            self._seen.add(identity)
            self._ids.append(identity)
            self.texts.append(piece)
            self.sources.append(source)

    def count(self, size: int) -> None:
        """So many more bytes were read."""
        self.bytes_read += size
        if self.bytes_read > CORPUS_BYTES_MAX:
            raise DataRefused(
                f"the corpus has more than {CORPUS_BYTES_MAX:,} bytes, the most that is read: take a part"
            )

    def documents(self, salt: str) -> Documents:
        """All of them, each with its split. DataRefused when they are too few."""
        if len(self.texts) < DOCUMENTS_LEAST:
            raise DataRefused(
                f"the text makes {len(self.texts)} different documents of {DOCUMENT_BYTES:,} bytes, and at least "
                f"{DOCUMENTS_LEAST} are needed for train, validation, holdout and audit: give more text"
            )
        ids = np.frombuffer(b"".join(self._ids), "<u8").astype(np.uint64)
        if (few := len(set(self.sources))) < SOURCES_LEAST:
            self.sources = [identity.hex() for identity in self._ids]
            self.warnings.append(
                f"the corpus has {few} sources, fewer than {SOURCES_LEAST}: pieces of one source stand in several "
                "splits, so a model looks a little better here than it will on other texts"
            )
        return Documents(
            self.texts, self.sources, ids, _assigned(self.sources, salt), self.column, self.repeated,
            dict(self.dropped), self.warnings, self.bytes_read,
        )  # fmt: skip


def _from_folder(folder: Path, shown: str, found: _Gathered, progress: Progress) -> None:
    files = list(textfolder.files(folder))
    if len(files) > bounds.FILES_MAX:
        raise DataRefused(f"{shown!r} holds more than {bounds.FILES_MAX:,} files: join them as JSON lines")
    bad: list[Path] = []
    for number, file in enumerate(files):
        if file.stat().st_size == 0:
            found.dropped["empty file"] += 1
            continue
        text, size = _text(file)
        if text is None:
            bad.append(file)
        else:
            found.count(size)
            found.add(text, file.relative_to(folder).as_posix())
        if number % 20 == 0:
            progress(number / len(files))
    if not found.texts:
        example = f" (for instance {bad[0].name!r})" if bad else ""
        raise DataRefused(f"no file in {shown!r} is text{example}: expected a folder of text files")
    if bad:
        found.dropped["file that is no text"] = len(bad)
        found.warnings.append(f"{len(bad)} files are no text and were left out, the first is {bad[0].name!r}")


def _from_file(path: Path, shown: str, found: _Gathered, progress: Progress) -> None:
    look.format_of(path, shown, corpus=True)
    found.count(path.stat().st_size)
    found.add("".join(open_text(path, shown).lines(progress)), "")


def _text(file: Path) -> tuple[str | None, int]:
    """A file's text and size; None when it is no text."""
    try:
        with file.open("rb") as opened:
            if look.binary(opened.read(look.HEAD_BYTES)):
                return None, 0
        return "".join(open_text(file, file.name).lines(lambda share: None)), file.stat().st_size
    except (OSError, DataRefused):
        return None, 0


def _from_table(table: Table, column: str, found: _Gathered) -> None:
    chosen = _text_column(table, column)
    found.column = table.names[chosen]
    found.warnings += table.warnings
    found.bytes_read = table.bytes_read
    sources = _sources(table)
    for row, text in enumerate(table.columns[chosen].to_pylist()):
        found.add(str(text or ""), sources[row])


def _text_column(table: Table, wanted: str) -> int:
    """Number of the column of texts. DataRefused when there is none, or more than one could be meant."""
    described = [roles.describe(table, index) for index in range(len(table.names))]
    if wanted:
        return columns.find(table, described, wanted, "--text").index
    texts = [one for one in described if one.role is Role.TEXT]
    named = [one for word in TEXT_NAMES for one in described if one.name.casefold() == word and one.present]
    if table.texts:
        return table.names.index(table.texts[0])
    if not (named or len(texts) == 1):
        names = ", ".join(repr(name[:40]) for name in table.names[:8])
        raise DataRefused(
            f"can not tell which column holds the texts of the corpus (columns: {names}): name it with --text"
        )
    return (named or texts)[0].index


def _sources(table: Table) -> list[str]:
    """What each row comes from; '' for what stands for itself."""
    if SOURCE_COLUMN in table.names:
        values = table.columns[table.names.index(SOURCE_COLUMN)].to_pylist()
        return [_short("" if value is None else str(value)) for value in values]
    if table.clusters is not None:
        return [str(cluster) for cluster in table.clusters.tolist()]
    return [""] * table.rows


def _short(source: str) -> str:
    return source if len(source) <= SOURCE_CHARS_MAX else hashlib.sha256(source.encode()).hexdigest()


def unlabelled(table: Table) -> bool:
    """True when a table looks like a corpus: a column that is called like a text holds texts, and none is called like a
    label."""
    named = {name.casefold().strip() for name in table.names}
    if named & set(LABEL_NAMES) or table.label is not None:
        return False
    described = [roles.describe(table, index) for index in range(len(table.names))]
    return any(one.role is Role.TEXT and one.name.casefold() in TEXT_NAMES for one in described)


# -- splits -----------------------------------------------------------------------------------------------------------


def _assigned(sources: list[str], salt: str) -> Array:
    """The split of every document. An empty split gets train's source that is nearest to it."""
    names, group = np.unique(np.array(sources, dtype=object), return_inverse=True)
    points = np.array([_point(name, salt) for name in names.tolist()])
    split = np.searchsorted(np.array(EDGES), points, side="right")
    for empty in range(1, len(SPLITS)):
        if not (split == empty).any():
            free = np.flatnonzero(split == TRAIN)
            split[free[int(np.argmax(points[free]))]] = empty
    return np.asarray(split[group])


def _point(source: str, salt: str) -> float:
    data = hashlib.sha256(salt.encode() + source.encode("utf-8", "replace")).digest()[:8]
    return (int.from_bytes(data, "little") >> 11) / float(1 << 53)


def _between_characters(data: bytes, end: int) -> int:
    """`end`, or the nearest place before it that tears no character."""
    while data[end] & 0xC0 == 0x80:
        end -= 1
    return end
