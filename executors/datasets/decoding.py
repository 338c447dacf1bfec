"""From bytes to lines of text: which encoding a file is in, and a line reader with bounds.

A byte order mark decides; else the pattern of zero bytes (UTF-16); else UTF-8 if the whole file is valid UTF-8; else
Windows-1252, or Latin-1 where the file uses one of its five undefined bytes. The last two can not be told from other
one-byte encodings, so they come with a warning.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from executors.datasets import bounds, look
from executors.datasets.table import Progress
from mesh.errors import DataRefused

_BLOCK_BYTES = 1024 * 1024
_UNDEFINED_1252 = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A text file whose encoding is known."""

    path: Path
    shown: str
    encoding: str
    size_bytes: int
    warning: str = ""

    def lines(self, progress: Progress) -> Iterator[str]:
        """Lines with their ends. DataRefused with the line's number for a zero byte or a line without end."""
        with self.path.open("rb") as raw, io.TextIOWrapper(raw, encoding=self.encoding, newline="") as file:
            number = 0
            try:
                while line := file.readline(bounds.LINE_CHARS_MAX + 1):
                    number += 1
                    self._check(line, number)
                    if number % 5_000 == 1:
                        progress(min(1.0, raw.tell() / max(1, self.size_bytes)))
                    yield line
            except UnicodeError:
                raise self.refused(f"is not valid {self.encoding.upper()} near row {number + 1}", number + 1) from None

    def _check(self, line: str, number: int) -> None:
        if "\x00" in line:
            raise self.refused(f"has a zero byte in row {number}", number)
        if len(line) > bounds.LINE_CHARS_MAX:
            raise self.refused(f"has a line of more than {bounds.LINE_CHARS_MAX:,} characters at row {number}", number)

    def refused(self, what: str, row: int) -> DataRefused:
        """An error that says how to write the file anew."""
        return DataRefused(f"{self.shown!r} {what}: expected plain text; save the data anew as UTF-8", row=row)

    def sample(self) -> tuple[list[str], bool]:
        """The first lines (at most SAMPLE_BYTES characters and four times SAMPLE_ROWS), and whether that is the whole
        file."""
        lines: list[str] = []
        chars = 0
        for line in self.lines(lambda done: None):
            if chars >= bounds.SAMPLE_BYTES or len(lines) >= 4 * bounds.SAMPLE_ROWS:
                return lines, False
            lines.append(line)
            chars += len(line)
        return lines, True


def open_text(path: Path, shown: str) -> Source:
    """Find the encoding of a text file; DataRefused when it is empty, too large or no text."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(look.HEAD_BYTES)
            if size > bounds.FILE_BYTES_MAX:
                raise DataRefused(
                    f"{shown!r} has {size:,} bytes, and {bounds.FILE_BYTES_MAX:,} can be read: take a sample"
                )
            if not head.strip():
                raise DataRefused(f"{shown!r} is empty: expected a table with a header row and examples below it")
            if look.binary(head):
                raise DataRefused(f"{shown!r} is not text: expected {look.FORMATS}")
            encoding = look.encoding_of_head(head)
            if encoding is not None:
                return Source(path, shown, encoding, size)
            file.seek(0)
            return _one_byte_or_utf8(path, shown, size, file)
    except OSError as error:
        raise DataRefused(f"{shown!r} can not be read ({error.strerror or error}): check its permissions") from None


def _one_byte_or_utf8(path: Path, shown: str, size: int, file: BinaryIO) -> Source:
    valid, undefined = True, False
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    while block := file.read(_BLOCK_BYTES):
        if valid:
            valid = _decodes(decoder, block, final=False)
        undefined = undefined or any(byte in block for byte in _UNDEFINED_1252)
    if valid and _decodes(decoder, b"", final=True):
        return Source(path, shown, "utf-8", size)
    encoding, title = ("latin-1", "Latin-1") if undefined else ("cp1252", "Windows-1252")
    warning = f"the file is not UTF-8 and was read as {title}; if letters look wrong, save it as UTF-8"
    return Source(path, shown, encoding, size, warning)


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True
