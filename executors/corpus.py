"""Text corpora: documents with ids, from files, folders, splits or a built-in set.

    .txt .md .rst      one document per file
    .jsonl .ndjson     one per line, {"text": "…"}; with "source", documents of one source are a cluster
    .parquet .pq       one per row, the column `text`; and `source`, where there is one
    a folder           all such files below it, in the order of their names; hidden ones are passed over
    a text split       the texts that the kind `profile` wrote
    builtin:NAME       the texts of a built-in data set

A document's id is that of the data sets here: the first eight bytes of the SHA-256 of its normalised text, so one and
the same text has one id everywhere. A document longer than DOCUMENT_CHARS_MAX is cut behind a line, and its pieces are
documents of their own. What can not be read is refused in one sentence; an empty document is left out and counted.

`held_out` cuts a corpus into training and validation by the ids alone: the same text is on the same side in every
corpus, whatever stands beside it.

Not covered: finding near duplicates; compressed files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from executors.data import read_split
from executors.datasets import bounds, builtin, look
from executors.datasets.decoding import open_text
from executors.datasets.text import normalise
from mesh.errors import DataRefused

CORPUS_BYTES_MAX = 2 * 1024**3
"""All documents: they are held in memory, as texts and as tokens."""

DOCUMENTS_MAX = 10_000_000
"""Of a corpus; each costs some hundred bytes beside its text."""

DOCUMENT_CHARS_MAX = bounds.TEXT_CHARS_MAX
"""A longer document is cut into pieces: one item of an evaluation stays small."""

DOCUMENTS_LEAST = 20
"""Fewer can not be cut into training and validation."""

TICK_EVERY = 500
"""Documents between two signs of life."""

LINES, COLUMNS, TEXTS = (".jsonl", ".ndjson"), (".parquet", ".pq"), (".txt", ".md", ".rst")

Tick = Callable[[], None]
Found = tuple[str, int]
"""A document, and the number of its cluster: of the file that it came from, or of the source that it names."""
Told = tuple[str, str]
"""A document, and the source that it names; '' where it names none."""


class Line(msgspec.Struct):
    """One line of a JSON lines corpus."""

    text: str
    source: str | int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """n documents."""

    texts: list[str]
    ids: NDArray[np.uint64]
    """[n], first eight bytes of the SHA-256 of the normalised text."""
    clusters: NDArray[np.int32]
    """[n], documents of one cluster (one source file) are not independent."""
    sizes: NDArray[np.int64]
    """[n], bytes as UTF-8."""
    empty: int = 0
    """Documents without text that were left out."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def size_bytes(self) -> int:
        """Of all documents as UTF-8."""
        return int(self.sizes.sum())

    def take(self, rows: NDArray[np.int64]) -> Corpus:
        """These documents, in this order."""
        texts = [self.texts[row] for row in rows.tolist()]
        return Corpus(texts, self.ids[rows], self.clusters[rows], self.sizes[rows])


def nothing() -> None:
    """A tick that nobody waits for."""


def read_corpus(source: str | Path, tick: Tick = nothing) -> Corpus:
    """The corpus at `source`: a path or `builtin:NAME`. `tick` is called now and then and may raise to stop.
    DataRefused in one sentence."""
    name = str(source)
    if name.startswith(look.SCHEME):
        return _builtin(name.removeprefix(look.SCHEME), tick)
    path = Path(source)
    if (path / "schema.json").is_file():
        split = read_split(path)
        if split.schema.modality != "text":
            raise DataRefused(f"a corpus is text, and the split {path.name!r} is {split.schema.modality}")
        return _collected(zip(split.texts, split.clusters.tolist(), strict=True), path.name, tick)
    try:
        return _collected(_documents(path, tick), path.name, tick)
    except OSError as error:
        raise DataRefused(f"{path.name!r} can not be read ({error.strerror or error}): check its permissions") from None


def held_out(corpus: Corpus, share: float, salt: str = "") -> tuple[Corpus, Corpus]:
    """(training, validation): about `share` of the different texts are validation, chosen by a hash of their ids.
    DataRefused when one side would be empty."""
    different = len(np.unique(corpus.ids))
    if different < DOCUMENTS_LEAST:
        raise DataRefused(
            f"the corpus has {different} different documents, and {DOCUMENTS_LEAST} are needed to set some aside for "
            "validation: give more, or a validation corpus of its own"
        )
    chosen = places(corpus.ids, salt) < share
    if not chosen.any() or chosen.all():
        chosen = places(corpus.ids, salt) <= np.sort(np.unique(places(corpus.ids, salt)))[max(0, different // 20 - 1)]
    return corpus.take(np.flatnonzero(~chosen)), corpus.take(np.flatnonzero(chosen))


def without(train: Corpus, validation: Corpus) -> Corpus:
    """The training documents that do not stand in validation, too."""
    seen = np.isin(train.ids, validation.ids)
    return train.take(np.flatnonzero(~seen)) if seen.any() else train


def places(ids: NDArray[np.uint64], salt: str) -> NDArray[np.float64]:
    """A number from 0 to 1 per id, from the SHA-256 of salt and id."""
    start = hashlib.sha256(salt.encode())
    found = np.empty(len(ids), np.float64)
    for row, one in enumerate(ids.astype("<u8")):
        state = start.copy()
        state.update(one.tobytes())
        found[row] = (int.from_bytes(state.digest()[:8], "little") >> 11) / float(1 << 53)
    return found


# -- reading ----------------------------------------------------------------------------------------------------------


def _builtin(name: str, tick: Tick) -> Corpus:
    table = builtin.read(name, lambda done: tick())
    if "text" not in table.names:
        raise DataRefused(f"builtin:{name} holds no texts: builtin:python-docs does")
    texts = table.columns[table.names.index("text")].to_pylist()
    clusters = table.clusters.tolist() if table.clusters is not None else range(len(texts))
    return _collected(zip(texts, clusters, strict=True), f"builtin:{name}", tick)


def _documents(path: Path, tick: Tick) -> Iterator[Found]:
    """Every document of a file or folder, with the number of its file."""
    if not path.exists():
        raise DataRefused(f"there is no {str(path)!r}: name a text file, a folder of them, or builtin:python-docs")
    files = list(_files(path)) if path.is_dir() else [path]
    if len(files) > bounds.FILES_MAX:
        raise DataRefused(f"{path.name!r} holds more than {bounds.FILES_MAX:,} files: join them as JSON lines")
    if not files:
        raise DataRefused(
            f"{path.name!r} holds no corpus: expected files ending in {', '.join(TEXTS + LINES + COLUMNS)}"
        )
    size = sum(file.stat().st_size for file in files)
    if size > 2 * CORPUS_BYTES_MAX:
        raise DataRefused(f"{path.name!r} has {size:,} bytes, and a corpus has {CORPUS_BYTES_MAX:,}: take a sample")
    clusters: dict[tuple[int, str], int] = {}
    for number, file in enumerate(files):
        suffix = file.suffix.lower()
        if suffix in COLUMNS:
            texts = _parquet(file)
        elif suffix in LINES:
            texts = _json_lines(file, tick)
        elif suffix in TEXTS or file is path:
            texts = _plain(file, tick)
        yield from ((text, clusters.setdefault((number, source), len(clusters))) for text, source in texts)


def _files(folder: Path) -> Iterator[Path]:
    """Files of a corpus below a folder, in the order of their names; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(TEXTS + LINES + COLUMNS):
                yield Path(parent) / name


def _plain(file: Path, tick: Tick) -> Iterator[Told]:
    if file.stat().st_size == 0:
        return iter((("", ""),))
    return iter((("".join(open_text(file, file.name).lines(lambda done: tick())), ""),))


def _json_lines(file: Path, tick: Tick) -> Iterator[Told]:
    decoder = msgspec.json.Decoder(Line)
    for number, line in enumerate(open_text(file, file.name).lines(lambda done: tick()), 1):
        stripped = line.strip().lstrip("\ufeff")
        if stripped:
            try:
                yield _told(stripped, decoder)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise DataRefused(
                    f'row {number} of {file.name!r} is no {{"text": "…"}} ({str(error)[:120]})', row=number
                ) from None


def _told(line: str, decoder: msgspec.json.Decoder[Line]) -> Told:
    """Text and source of one line. The fast reader takes no halves of characters (\\ud800), which are found in the
    wild, and a source may be anything."""
    try:
        read = decoder.decode(line.encode("utf-8", "replace"))
        return read.text, "" if read.source is None else str(read.source)
    except msgspec.DecodeError:
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("text"), str):
                return str(found["text"]), str(found.get("source") or "")
        raise


def _parquet(file: Path) -> Iterator[Told]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            if "text" not in opened.schema_arrow.names:
                names = ", ".join(opened.schema_arrow.names[:8])
                raise DataRefused(f"{file.name!r} has no column 'text' (it has {names[:200]}): name one so")
            wanted = [name for name in ("text", "source") if name in opened.schema_arrow.names]
            for batch in opened.iter_batches(batch_size=bounds.BLOCK_ROWS, columns=wanted):
                values = batch.column("text").cast(pa.large_string())
                values.validate(full=True)
                named = batch.column("source").to_pylist() if "source" in wanted else [None] * len(values)
                sources = ("" if source is None else str(source) for source in named)
                yield from ((text or "", source) for text, source in zip(values.to_pylist(), sources, strict=True))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise DataRefused(f"{file.name!r} is no readable Parquet file ({reason}): write it anew") from None


def _collected(found: Iterator[Found] | zip[Found], name: str, tick: Tick) -> Corpus:
    """All documents with their ids. DataRefused beyond the bounds, or when there is none."""
    texts: list[str] = []
    clusters: list[int] = []
    sizes: list[int] = []
    ids = bytearray()
    empty = total = 0
    for text, cluster in found:
        for piece in pieces(text):
            if not piece.strip():
                empty += 1
                continue
            size = len(piece.encode("utf-8", "replace"))
            total += size
            if total > CORPUS_BYTES_MAX or len(texts) >= DOCUMENTS_MAX:
                raise DataRefused(
                    f"{name!r} has more than {DOCUMENTS_MAX:,} documents or {CORPUS_BYTES_MAX:,} bytes: take a sample"
                )
            texts.append(piece if piece.isascii() else piece.encode("utf-8", "replace").decode())
            clusters.append(cluster)
            sizes.append(size)
            ids += hashlib.sha256(normalise(texts[-1]).encode()).digest()[:8]
            if len(texts) % TICK_EVERY == 0:
                tick()
    if not texts:
        raise DataRefused(f"{name!r} holds no text: expected at least one document")
    identity = np.frombuffer(bytes(ids), "<u8").astype(np.uint64)
    return Corpus(texts, identity, np.array(clusters, np.int32), np.array(sizes, np.int64), empty)


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most DOCUMENT_CHARS_MAX characters, cut behind a line where there is one."""
    start = 0
    while len(text) - start > DOCUMENT_CHARS_MAX:
        end = text.rfind("\n", start + 1, start + DOCUMENT_CHARS_MAX) + 1 or start + DOCUMENT_CHARS_MAX
        yield text[start:end]
        start = end
    yield text[start:]
