"""What all conversations share: the record, names, the epoch (fencing token) and the key of an outbox row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from mesh import limits

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the mesh. `kind` names it on the wire, `version` rises when a reader of the old form would misread
    it.

    Fields may be added with a default at any time: old readers ignore them.
    """

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    bytes_max: ClassVar[int] = limits.RECORD_BYTES_MAX
    """Most bytes of one encoded record of this kind."""

    def evolve(self, **changes: Any) -> Self:
        """The same record with other values in these fields; TypeError for a field that it does not have."""
        return msgspec.structs.replace(self, **changes)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a record that never travels alone."""


def check_name(value: str, what: str) -> None:
    """Raise ValueError unless `value` can stand as one token of a subject: a-z, 0-9, '-' and '_'."""
    if len(value) > limits.NAME_CHARS_MAX or not NAME.match(value):
        raise ValueError(
            f"{what} must be 1 to {limits.NAME_CHARS_MAX} characters of a-z, 0-9, '-' and '_', "
            f"starting with a letter or digit; got {value[:120]!r}"
        )


def check_digest(value: str, what: str) -> None:
    """Raise ValueError unless `value` is a SHA-256 as 64 lower-case hex digits."""
    if not DIGEST.match(value):
        raise ValueError(f"{what} is named by a digest of 64 hex digits, got {value[:80]!r}")


def check_text(value: str, what: str, chars_max: int = limits.TEXT_CHARS_MAX) -> None:
    """Raise ValueError unless `value` is a non-blank text of at most `chars_max` characters."""
    if not value.strip() or len(value) > chars_max:
        raise ValueError(f"{what} must be 1 to {chars_max} characters of text; got {len(value)}")


def check_incarnation(value: str, worker: str) -> None:
    """Raise ValueError unless `value` is a life of this worker."""
    if not value.startswith(worker + "."):
        raise ValueError(f"an incarnation is NAME.RANDOM; {value!r} is not one of {worker!r}")


def derived_id(id_: str, purpose: str) -> str:
    """`<id>-<purpose>`: the same input leads to the same id. An id without room is cut and keeps eight hex digits."""
    derived = f"{id_}-{purpose}"
    if len(derived) <= limits.NAME_CHARS_MAX:
        return derived
    tail = hashlib.sha256(id_.encode()).hexdigest()[:8]
    return f"{id_[: limits.NAME_CHARS_MAX - len(purpose) - 10]}-{tail}-{purpose}"


class Epoch(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Fencing token of a task: (ledger generation, count). Later leases compare greater.

    The generation rises when the broker came back with an older store, so that no epoch is ever given twice.
    """

    generation: int
    count: int

    def __str__(self) -> str:
        return f"{self.generation}-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Epoch:
        """The inverse of str(); ValueError when `text` is no epoch."""
        generation, dash, count = text.partition("-")
        if not dash or not generation.isdigit() or not count.isdigit():
            raise ValueError(f"an epoch is written GENERATION-COUNT, got {text!r}")
        return cls(int(generation), int(count))


class Key(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Name of one outbox row: what a worker owes, for which lease. Idempotency key everywhere."""

    task: str
    epoch: Epoch
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.task}/{self.epoch}/{self.kind}/{self.number}"


Facts = dict[str, Any]
"""Small JSON-like facts (numbers, texts, lists, maps) that a kind reports; bounded by the record's size."""


P = TypeVar("P", bound=Part)


def read_facts(facts: Mapping[str, Any], wanted: type[P]) -> P:
    """Facts as a typed part; ValueError with the reason when they do not fit. Unknown names are ignored."""
    try:
        return msgspec.convert(dict(facts), wanted)
    except (msgspec.ValidationError, TypeError) as error:
        raise ValueError(str(error)[:300]) from None
