"""The corpus of `bench specialists`: text of several domains that this machine has, cut into documents by source file.

    python sources   modules of the running Python's library, its tests left out
    python docs      the language's own pages (pydoc), and what installed packages say of themselves
    manual pages     English ones, as their authors wrote them (troff)
    change logs      of installed packages
    a folder         each sub-folder is a domain; without one the folder is

    files of a domain, in the order of a hash of their names ── documents of DOCUMENT_BYTES, cut behind a line
          test file: some documents of each        training file: all of them        development file: as test

A file is on one side alone, by a hash of its name; of a text that stands in several files only the first one counts. So
the same machine gives the same corpus, and nothing that is asked was read. What a machine lacks is told, not replaced.

Not covered: texts that are nearly the same (two versions of one licence).
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib
import importlib.metadata
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from executors.datasets import look
from executors.datasets.text import normalise
from mesh.errors import DataRefused

DOCUMENT_BYTES = 2_048

FILE_BYTES_MAX = 65_536
"""Read of one file: no file is a domain of its own."""

SHARE_TEST, SHARE_DEVELOPMENT = 0.12, 0.05
"""Of the files."""

TRAIN, DEVELOPMENT, TEST = "train", "development", "test"
SIDES = (TRAIN, DEVELOPMENT, TEST)

PER_FILE_MAX = 3
"""Documents of one file that are asked: files, not documents, are what an interval counts."""

ASKED_BYTES_MIN = 800
"""A shorter document says little beyond what the router sees of it."""

TRAIN_BYTES_MIN = 64

MANUALS = ("/usr/share/man", "/usr/local/share/man", "/opt/homebrew/share/man")
PACKAGES = ("/usr/share/doc", "/usr/local/share/doc")

Source = tuple[str, Callable[[], bytes]]
"""A file's name, and how its beginning is read."""


class Document(msgspec.Struct, frozen=True):
    """One line of a side's file."""

    text: str
    file: int
    """Number of its source file."""
    domain: str


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """How large a corpus is."""

    domain_bytes: int
    asked: int
    """Test documents, all domains together."""
    development: int


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """What was found."""

    sides: dict[str, list[Document]]
    files: dict[str, int]
    """By side."""
    bytes_of: dict[str, int]
    """By domain, of training text."""


def machine() -> dict[str, Iterator[Source]]:
    """Domains of this machine, by name; one that it lacks has no files."""
    library = Path(sysconfig.get_path("stdlib"))
    return {
        "python sources": _files(_modules(library), library),
        "python docs": _pages(),
        "manual pages": _files(_below(MANUALS, "man[0-9]*/*"), Path("/")),
        "change logs": _files(_below(PACKAGES, "*/[Cc][Hh][Aa][Nn][Gg][Ee]*", "*/NEWS*"), Path("/")),
    }


def folder(path: Path) -> dict[str, Iterator[Source]]:
    """Domains of a folder of the user's. DataRefused when it is none."""
    if not path.is_dir():
        raise DataRefused(f"--data is a folder of text here, one sub-folder per domain, and {str(path)!r} is none")
    below = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    return {one.name: _files((file for file in one.rglob("*")), path) for one in below or [path]}


def made(domains: dict[str, Iterator[Source]], bounds: Bounds) -> Corpus:
    """Every document, each on its side. DataRefused when nothing can be asked or learnt."""
    found: dict[str, list[Document]] = {side: [] for side in SIDES}
    bytes_of: dict[str, int] = {}
    seen: set[bytes] = set()
    number = 0
    for domain, sources in domains.items():
        room = {
            TRAIN: bounds.domain_bytes,
            DEVELOPMENT: bounds.development // len(domains),
            TEST: bounds.asked // len(domains),
        }
        for side, source in _ordered(sources):
            if room[side] <= 0 or not (text := _text(source)):
                continue
            number += 1
            documents = [Document(piece, number, domain) for piece in _new(cut(text), side, seen)]
            found[side] += documents
            room[side] -= sum(len(one.text.encode()) for one in documents) if side == TRAIN else len(documents)
            if max(room.values()) <= 0:
                break
        bytes_of[domain] = bounds.domain_bytes - room[TRAIN]
    if not all(found.values()):
        raise DataRefused(
            "there is too little text to train on and to ask about: name a folder of text with --data, one sub-folder "
            "per domain"
        )
    files = {side: len({one.file for one in documents}) for side, documents in found.items()}
    return Corpus(found, files, bytes_of)


def cut(text: str) -> Iterator[str]:
    """A file's text in pieces of at most DOCUMENT_BYTES, behind a line where there is one."""
    piece, size = "", 0
    for line in text.splitlines(keepends=True):
        for part in _parts(line):
            length = len(part.encode())
            if size + length > DOCUMENT_BYTES and piece:
                yield piece
                piece, size = "", 0
            piece, size = piece + part, size + length
    yield piece


def write(corpus: Corpus, place: Path) -> None:
    """A file of JSON lines for each side."""
    for side, documents in corpus.sides.items():
        (place / f"{side}.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in documents))


def read(place: Path, side: str) -> list[Document]:
    """What `write` wrote."""
    decoder = msgspec.json.Decoder(Document)
    return [decoder.decode(line) for line in (place / f"{side}.jsonl").read_bytes().splitlines()]


# -- choosing ---------------------------------------------------------------------------------------------------------


def _ordered(sources: Iterable[Source]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(side, how it is read) of each file, in the order of a hash of its name."""
    for name, source in sorted(dict(sources).items(), key=lambda one: hashlib.sha256(one[0].encode()).digest()):
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[8:16]) / 2.0**64
        yield TEST if place < SHARE_TEST else DEVELOPMENT if place < SHARE_TEST + SHARE_DEVELOPMENT else TRAIN, source


def _new(pieces: Iterator[str], side: str, seen: set[bytes]) -> list[str]:
    """Pieces that no file before held. Of a file that is asked about, a few that are long enough, from all over it."""
    least = TRAIN_BYTES_MIN if side == TRAIN else ASKED_BYTES_MIN
    kept = []
    for piece in pieces:
        identity = hashlib.sha256(normalise(piece).encode()).digest()[:8]
        if len(piece.encode()) >= least and identity not in seen:
            seen.add(identity)
            kept.append(piece)
    if side == TRAIN:
        return kept
    return [kept[row * len(kept) // PER_FILE_MAX] for row in range(PER_FILE_MAX)] if len(kept) > PER_FILE_MAX else kept


def _parts(line: str) -> Iterator[str]:
    """A line in parts that fit into a document; most lines are one."""
    while len(line.encode()) > DOCUMENT_BYTES:
        yield line[: DOCUMENT_BYTES // 4]
        line = line[DOCUMENT_BYTES // 4 :]
    yield line


# -- reading ----------------------------------------------------------------------------------------------------------


def _text(source: Callable[[], bytes]) -> str:
    """The beginning of a file as text; '' when it is none."""
    try:
        data = source()
    except (OSError, EOFError, zlib.error):
        return ""
    if look.binary(data):
        return ""
    return data.decode("utf-8", "ignore")


def _files(paths: Iterable[Path], root: Path) -> Iterator[Source]:
    for path in paths:
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(root)), _reader(path)


def _reader(path: Path) -> Callable[[], bytes]:
    def read_beginning() -> bytes:
        if path.suffix == ".gz":
            with gzip.open(path) as opened:
                return opened.read(FILE_BYTES_MAX)
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)

    return read_beginning


def _below(tops: Sequence[str], *patterns: str) -> Iterator[Path]:
    for top in tops:
        for pattern in patterns:
            yield from Path(top).glob(pattern)


def _modules(library: Path) -> Iterator[Path]:
    """Of the library alone: neither its tests nor what was installed beside it."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "lib2to3"}
    for path in library.rglob("*.py"):
        if not left_out & set(path.relative_to(library).parts):
            yield path


def _pages() -> Iterator[Source]:
    """The language reference as pydoc has it, a file per topic, and the descriptions of installed distributions."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions of Python leave it out
        topics = {}
    for name, text in topics.items():
        yield f"pydoc {name}", lambda text=text: text.encode()[:FILE_BYTES_MAX]  # type: ignore[misc]
    for each in importlib.metadata.distributions():
        _, _, described = (each.read_text("METADATA") or "").partition("\n\n")
        yield f"distribution {each.name}", lambda text=described: text.encode()[:FILE_BYTES_MAX]  # type: ignore[misc]
