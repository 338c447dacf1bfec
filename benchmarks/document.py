"""The one form of every benchmark's answer.

    name         of the benchmark
    why          what it is there to find out, in a sentence
    conditions   the machine, the versions, the load before, how often it ran; figures mean nothing without them
    rows         what was measured; a peer that is absent, or a measurement that failed, is a row that says why
    aims         what was wanted and what was got

Units are words in `unit`: `s`, `MB` (1,000,000 bytes), `% of a core`, `1` for shares and counts. `value` is the median
of the runs, `low` and `high` are the smallest and the largest of them: with few runs an interval would claim more than
is known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mesh.errors import DataRefused

SHARE = "1"
"""Unit of a share or a count: none."""


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure. Invariant: either measured (all numbers there) or skipped (none of them, and a reason)."""

    who: str
    metric: str
    value: float | None = None
    unit: str
    low: float | None = None
    high: float | None = None
    runs: int = 0
    skipped: bool = False
    why: str = ""
    """Why it was skipped; for a measured row, a remark."""

    def __post_init__(self) -> None:
        numbers = (self.value, self.low, self.high)
        if self.skipped and (not self.why or any(number is not None for number in numbers)):
            raise ValueError(f"the skipped row {self.who!r} needs a reason and no figures")
        if not self.skipped and (
            self.runs < 1 or any(number is None or not math.isfinite(number) for number in numbers)
        ):
            raise ValueError(f"the row {self.who!r}, {self.metric!r} needs finite figures of at least one run")


class Aim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was wanted of a figure. `got` is None when there is no figure; then the aim is not met."""

    aim: str
    wanted: str
    got: float | None
    unit: str
    met: bool


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under which conditions the rows hold."""

    cpu: str
    cores: float
    """Cores that this process may use."""
    memory_bytes: int
    os: str
    python: str
    versions: dict[str, str]
    """Distribution name to installed version."""
    load_1m_before: float | None
    """Processes that wanted to run, averaged over the minute before; None where the system does not say."""
    busy_before: float
    """Share of the machine's processor time that others used in the second before, 0 to 1."""
    quick: bool
    """True: only to see that the benchmark works. Its figures are no measurement."""
    seconds: float
    """Wall time of the whole benchmark."""
    date: str
    """UTC, ISO 8601, to the second."""
    commit: str
    """Git commit, with `+changes` when the checkout differs from it; empty outside of a checkout."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `bin/agent bench NAME --json FILE` writes."""

    name: str
    why: str
    conditions: Conditions
    rows: tuple[Row, ...]
    aims: tuple[Aim, ...]


def quantity(number: str, unit: str) -> str:
    """A number with its unit, for people; a share stands alone."""
    return number if unit == SHARE else f"{number} {unit}"


def measured(who: str, metric: str, values: Sequence[float], unit: str, remark: str = "") -> Row:
    """A row from the values of one or more runs: their median, smallest and largest."""
    return Row(
        who=who,
        metric=metric,
        value=statistics.median(values),
        unit=unit,
        low=min(values),
        high=max(values),
        runs=len(values),
        why=remark,
    )


def to_json(document: Document) -> bytes:
    """The document's bytes, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read(path: Path) -> Document:
    """A document from its file. DataRefused when the file is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Document)
    except (OSError, msgspec.DecodeError) as error:
        raise DataRefused(
            f"{path} is no benchmark document ({error}): write it anew with `bin/agent bench NAME --keep`."
        ) from None
