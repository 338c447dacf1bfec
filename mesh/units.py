"""Sizes and durations as people write them: "2GiB", "500 MB", "5m", "1h30m"; a bare number is bytes or seconds."""

from __future__ import annotations

import math
import re

_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES = _THOUSANDS | {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\Z", re.IGNORECASE)
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?\Z")


def parse_size(text: str) -> int:
    """Bytes. kB, MB, GB count in thousands, KiB, MiB, GiB in 1,024s. ValueError says what is expected."""
    match = _SIZE.match(text.strip())
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError("a size such as 512MiB, 2GiB or a number of bytes")
    return round(float(match[1]) * _SIZES[match[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds. ValueError says what is expected."""
    text = text.strip()
    if _NUMBER.match(text):
        return float(text)
    pieces, end = 0.0, 0
    for match in _PIECE.finditer(text):
        if match.start() != end:
            break
        pieces, end = pieces + float(match[1]) * _SECONDS[match[2].lower()], match.end()
    if not text or end != len(text):
        raise ValueError("a duration such as 500ms, 30s, 5m, 1h30m or a number of seconds")
    return pieces


def show_size(size_bytes: int) -> str:
    """The shortest exact form, for settings that are printed to be copied: 2GiB, 1500MB, 1234."""
    for unit in ("ti", "gi", "mi", "ki", "t", "g", "m", "k"):
        if size_bytes and size_bytes % _SIZES[unit] == 0:
            return f"{size_bytes // _SIZES[unit]}{unit[0].upper()}{unit[1:]}B".replace("KB", "kB")
    return str(size_bytes)


def show_duration(seconds: float) -> str:
    """The shortest exact form, for settings that are printed to be copied: 1d, 90s, 500ms."""
    if seconds and seconds < 1 and math.isclose(seconds * 1_000, round(seconds * 1_000)):
        return f"{round(seconds * 1_000)}ms"
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"
