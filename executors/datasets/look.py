"""What is this path? A cheap look at the beginning of a file, with the standard library only.

Used twice: at the door, so that `run` refuses a wrong path at once with one sentence, and by the readers to choose the
format. It reads at most a few kilobytes (and the names in a folder); it does not promise that the whole file is good.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from pathlib import Path

from mesh.errors import DataRefused

HEAD_BYTES = 64 * 1024
"""Bytes looked at: enough to tell text from rubbish."""

ENTRIES_MAX = 100_000
"""Names in a folder that are looked at."""

FILES_LOOKED_AT = 20
"""Files of a folder whose beginnings tell whether it holds plain text."""

SCHEME = "builtin:"
"""Before the name of a data set that every worker can make for itself."""

BUILTINS = ("digits", "python-docs")


class Format(enum.StrEnum):
    """What a reader can make a table of."""

    DELIMITED = "delimited"
    """CSV, TSV and their like: rows of fields with one separator."""
    JSON_LINES = "json lines"
    """One JSON object per line, or one array of objects."""
    PARQUET = "parquet"
    """Apache Parquet."""
    FOLDER = "folder"
    """A folder of text files, one sub-folder per label."""
    CORPUS = "corpus"
    """Plain text without labels: no table, but documents (executors/datasets/documents.py)."""


SUFFIXES = {
    ".csv": Format.DELIMITED,
    ".tsv": Format.DELIMITED,
    ".tab": Format.DELIMITED,
    ".psv": Format.DELIMITED,
    ".txt": Format.DELIMITED,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".json": Format.JSON_LINES,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".md": Format.CORPUS,
    ".rst": Format.CORPUS,
}

FORMATS = "CSV, TSV, JSON lines, Parquet, plain text, or a folder of text files (one sub-folder per label, if any)"

PROSE_SUFFIXES = ("", ".txt")
"""Names that do not tell a table from plain text: the beginning does."""

SEPARATORS = "\t;|,"

ROWS_LOOKED_AT, SHARE_ALIKE = 50, 0.9
"""Lines of a beginning, and how many of them have the same number of some separator where the file is a table."""

_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook: save the sheet as CSV, or unpack the archive"),
    (b"\x1f\x8b", "gzip-compressed: unpack it first (gunzip)"),
    (b"BZh", "bzip2-compressed: unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "xz-compressed: unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed: unpack it first (unzstd)"),
    (b"%PDF", "a PDF document: export its table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save the sheet as CSV"),
    (b"SQLite format 3", "an SQLite database: export the table as CSV"),
    (b"\x89PNG", "an image; only tables and texts can be read"),
    (b"\xff\xd8\xff", "an image; only tables and texts can be read"),
    (b"GIF8", "an image; only tables and texts can be read"),
    (b"\x7fELF", "a program; only tables and texts can be read"),
    (b"ARROW1", "an Arrow file: write it as Parquet"),
    (b"\x80\x04\x95", "a Python pickle, which is never loaded: write it as CSV or Parquet"),
    (b"\x80\x05\x95", "a Python pickle, which is never loaded: write it as CSV or Parquet"),
)

_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)

_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\r\x0b\x0c\x1b\x1c\x1d\x1e\x1f\x1a")


def quick_look(path: Path, *, corpus: bool = False) -> None:
    """Raise DataRefused with one sentence when `path` can not be a dataset; return when it may be one. corpus: plain
    text is wanted, so a folder's sub-folders are no labels."""
    format_of(path, corpus=corpus)


def quick_look_at(source: str, *, corpus: bool = False) -> None:
    """The same for what a user wrote behind --data: a path, or `builtin:NAME`."""
    if not source.startswith(SCHEME):
        quick_look(Path(source), corpus=corpus)
    elif source.removeprefix(SCHEME) not in BUILTINS:
        known = " and ".join(SCHEME + name for name in BUILTINS)
        raise DataRefused(f"--data {source[:80]!r}: there is no such built-in data set; there are {known}")


def format_of(path: Path, name: str = "", *, corpus: bool = False) -> Format:
    """The format of the file or folder at `path`; `name` gives the suffix where the path has lost it. corpus: plain
    text is wanted. DataRefused if none."""
    shown = name or str(path)
    try:
        if path.is_dir():
            return _look_into(path, shown, corpus=corpus)
        if not path.exists():
            raise DataRefused(f"--data expects a file or folder, and there is nothing at {shown!r}: check the path")
        if not path.is_file():
            raise DataRefused(
                f"--data expects a file or folder, and {shown!r} is neither: save the data to a file first"
            )
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise DataRefused(f"{shown!r} can not be read ({error.strerror or error}): check its permissions") from None
    suffix = Path(name).suffix.lower()
    return _format_of_head(head, shown, suffix if suffix in SUFFIXES else path.suffix.lower())


def _format_of_head(head: bytes, shown: str, suffix: str) -> Format:
    if not head.strip(b"\x00\r\n\t \xef\xbb\xbf\xff\xfe"):
        raise DataRefused(f"{shown!r} is empty: expected a table with a header row and examples below it")
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    if SUFFIXES.get(suffix) is Format.PARQUET:
        raise DataRefused(f"{shown!r} is named like Parquet but does not begin like it: check how the file was written")
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise DataRefused(f"{shown!r} is {what}")
    if binary(head):
        raise DataRefused(f"{shown!r} is not text: expected {FORMATS}")
    if suffix in SUFFIXES and suffix not in PROSE_SUFFIXES:
        return SUFFIXES[suffix]
    start = head.decode(encoding_of_head(head) or "utf-8", "replace").lstrip("\ufeff \t\r\n")
    if suffix not in SUFFIXES and start.startswith(("{", "[{")):
        return Format.JSON_LINES
    return Format.DELIMITED if _tabular(start, whole=len(head) < HEAD_BYTES) else Format.CORPUS


def _tabular(start: str, *, whole: bool) -> bool:
    """True when nearly every line of a beginning has as many of some separator as the others. whole: it is all there
    is, the last line too."""
    lines = [line for line in start.splitlines() if line.strip()]
    lines = lines[: len(lines) if whole else -1][:ROWS_LOOKED_AT]
    if len(lines) < 2:
        return False
    for separator in SEPARATORS:
        counts = [line.count(separator) for line in lines]
        usual = max(set(counts), key=counts.count)
        if usual and counts.count(usual) >= SHARE_ALIKE * len(counts):
            return True
    return '"' in lines[0] or any(line.count('"') % 2 for line in lines)  # fields with line breaks: for the reader


def encoding_of_head(head: bytes) -> str | None:
    """The encoding that a byte order mark or the pattern of zero bytes gives away; None when nothing does."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2], head[1::2]
    if len(head) >= 4 and odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.05 * len(even):
        return "utf-16-le"
    if len(head) >= 4 and even.count(0) > 0.4 * len(even) and odd.count(0) < 0.05 * len(odd):
        return "utf-16-be"
    return None


def binary(head: bytes) -> bool:
    """True when the bytes are no text in any encoding that is read here: more than one control character in a
    hundred."""
    encoding = encoding_of_head(head)
    if encoding is not None and encoding != "utf-8-sig":
        text = head[: len(head) // 4 * 4].decode(encoding, "replace")
        bad = text.count("\ufffd") + sum(text.count(chr(code)) for code in _CONTROL)
        return bad > max(1, 0.02 * len(text))
    return sum(head.count(code) for code in _CONTROL) > 0.01 * len(head)


def is_table(path: Path, name: str = "") -> bool:
    """True for a file that holds a table, as far as its name and beginning tell."""
    return not path.is_dir() and format_of(path, name) is not Format.CORPUS


def _look_into(folder: Path, shown: str, *, corpus: bool) -> Format:
    """A folder of texts, by label or not, or a folder that holds just one data file."""
    names = list(_names(folder))
    if not names:
        raise DataRefused(f"the folder {shown!r} is empty: expected one sub-folder per label with text files in it")
    folders = [name for name in names if (folder / name).is_dir()]
    if corpus:
        return Format.CORPUS if folders or len(names) > 1 else format_of(folder / names[0])
    if not folders:
        if len(names) == 1:
            return format_of(folder / names[0])
        if _plain(folder, names):
            return Format.CORPUS
        raise DataRefused(
            f"the folder {shown!r} holds {len(names)} files and no sub-folders: expected one sub-folder per label with "
            "text files in it, or the path of a single CSV, TSV, JSON lines or Parquet file"
        )
    if len(folders) == 1:
        raise DataRefused(
            f"the folder {shown!r} has one sub-folder only ({folders[0]!r}): its sub-folders are the labels, and at "
            "least two are needed; give the folder one level deeper, add the other labels, or say --task "
            "language-model for plain text without labels"
        )
    if not any(True for sub in folders for _ in _names(folder / sub)):
        raise DataRefused(f"the sub-folders of {shown!r} are empty: expected text files in them")
    return Format.FOLDER


def _plain(folder: Path, names: list[str]) -> bool:
    """True when the first readable files of a folder are plain text, and none is a table."""
    looked = 0
    for name in names[:FILES_LOOKED_AT]:
        try:
            found = format_of(folder / name)
        except DataRefused:  # empty, or no text: the reader counts them
            continue
        if found is not Format.CORPUS and Path(name).suffix.lower() in SUFFIXES:
            return False
        looked += 1
    return looked > 0


def _names(folder: Path) -> Iterator[str]:
    """Visible names in a folder, sorted, at most ENTRIES_MAX."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry, _ in zip(entries, range(ENTRIES_MAX), strict=False)]
    return iter(sorted(name for name in names if not name.startswith(".") and name != "__MACOSX"))


def single_file(path: Path) -> Path:
    """The only file of the folder `path` (so an artifact of one file arrives); `path` itself where it is anything
    else."""
    try:
        names = list(_names(path)) if path.is_dir() else []
    except OSError:
        return path  # whoever opens it says why
    return path / names[0] if len(names) == 1 and (path / names[0]).is_file() else path
