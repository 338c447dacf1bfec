"""A folder of text files: the name of the sub-folder is the label, each file below it (at any depth) one example.

Hidden files are passed over. A file that is no text is left out and counted; if most are none, the folder is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from executors.datasets import bounds, look
from executors.datasets.table import Columns, Progress, Table
from mesh.errors import DataRefused

_SPLIT_NAMES = {"train", "training", "test", "testing", "valid", "validation", "dev", "eval", "holdout", "unsup"}
_BYTES_MAX = 4 * bounds.TEXT_CHARS_MAX
"""Read of one file: no encoding needs more for the characters that are kept."""


def read(path: Path, shown: str, progress: Progress) -> Table:
    """The table (text, label) of a folder; DataRefused when it holds no texts by label."""
    labels = sorted(name for name in os.listdir(path) if not name.startswith(".") and (path / name).is_dir())
    if labels and all(name.casefold() in _SPLIT_NAMES for name in labels):
        raise DataRefused(
            f"the sub-folders of {shown!r} ({', '.join(labels)}) look like splits, not labels: give one of them, "
            f"for instance {shown.rstrip('/')}/{labels[-1]}; the splits are made here"
        )
    found = [(label, file) for label in labels for file in files(path / label)]
    if len(found) > bounds.FILES_MAX:
        raise DataRefused(f"{shown!r} holds more than {bounds.FILES_MAX:,} files: take a sample")
    columns = Columns(["text", "label"])
    total = cut = 0
    bad: list[Path] = []
    texts: list[str | None] = []
    kinds: list[str | None] = []
    for number, (label, file) in enumerate(found, 1):
        head, size = _head(file, shown)
        total += size
        cut += size > _BYTES_MAX
        if look.binary(head):
            bad.append(file)
        else:
            texts.append(_decoded(head, torn=size > len(head)))
            kinds.append(label)
        if number % 200 == 0:
            progress(number / len(found))
        if len(texts) >= bounds.BLOCK_ROWS:
            columns.extend([texts, kinds])
            texts, kinds = [], []
    columns.extend([texts, kinds])
    if len(bad) > 0.5 * len(found) or not columns.rows:
        example = f" (for instance {bad[0].name!r})" if bad else ""
        raise DataRefused(
            f"most files in {shown!r} are no text{example}: expected one sub-folder per label with text files"
        )
    table = Table(names=["text", "label"], columns=columns.arrays(), bytes_read=total, label="label", texts=("text",))
    if bad:
        table.dropped["file that is no text"] = len(bad)
        table.warnings.append(f"{len(bad)} files are no text and were left out, the first is {bad[0].name!r}")
    if cut:
        table.warnings.append(f"{cut} files are longer than {bounds.TEXT_CHARS_MAX:,} characters and were cut")
    return table


def files(folder: Path) -> Iterator[Path]:
    """Visible files below `folder`, in the order of their names; symbolic links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (Path(parent) / name).is_file():
                yield Path(parent) / name


def _head(file: Path, shown: str) -> tuple[bytes, int]:
    try:
        with file.open("rb") as opened:
            return opened.read(_BYTES_MAX), os.fstat(opened.fileno()).st_size
    except OSError as error:
        raise DataRefused(
            f"{file.name!r} in {shown!r} can not be read ({error.strerror or error}): check its permissions"
        ) from None


def _decoded(data: bytes, *, torn: bool) -> str:
    """The text of a file's beginning; `torn` allows half a character at its end."""
    encoding = look.encoding_of_head(data)
    if encoding is None:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if torn and error.start > len(data) - 4:
                return data[: error.start].decode()
            return data.decode("cp1252", "replace")
    return data.decode(encoding, "replace")
