"""Trust: what the checks of a worker's claims have come to. One record per worker, written by consensus.

It is the fold of the recommendations (and of the checks that were asked for afterwards) in the ledger's order
(consensus/checking.py); whoever loses it folds them again.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import msgspec

from mesh import limits
from mesh.messages.base import Part, Record, check_name
from mesh.messages.tasks import Line


class Unchecked(Part, frozen=True, kw_only=True):
    """A result that was let through without a check of its claims."""

    topic: str
    specialization: str
    task: str
    line: Line
    incarnation: str
    model: str
    claims: str
    split: str
    """Digest of the validation split that the claims are about."""
    base: str = ""
    """Where the model is an adapter: digest of the model that it adapts."""


class Streak(Part, frozen=True, kw_only=True):
    """How a worker's claims of one executor kind, in one version, have stood up to their checks."""

    executor: str
    version: int = 1
    streak: int = 0
    """Clean checks in a row."""
    clean: int = 0
    failed: int = 0
    """Checks of all time."""
    passed_by: int = 0
    """Results that were let through without a check."""
    why: str = ""
    """What was wrong at the last failed check; '' while none has failed."""
    suspicion: float = 0.0
    """Moving average of +1 (its model knows the data that it was given better than data that it never saw) and -1."""
    unchecked: tuple[Unchecked, ...] = ()
    """Let through since the last failure, oldest first, a bounded list: what one failure calls back."""
    owed: tuple[Unchecked, ...] = ()
    """Called back by a failure and not checked yet."""

    def evolve(self, **changes: Any) -> Self:
        """The same with other values in these fields."""
        return msgspec.structs.replace(self, **changes)


class Trust(Record, frozen=True, kw_only=True):
    """What is known of one worker. Its name is the key, so that a new life of it begins with the old one's record."""

    kind: ClassVar[str] = "trust"

    worker: str
    streaks: tuple[Streak, ...] = ()
    ledger_seq: int = 0
    """Of the entry with the last recommendation that is counted in; an earlier one is not counted again."""
    counted: tuple[str, ...] = ()
    """Ids of the recommendations of that entry that are counted in: one entry may tell of several."""

    def __post_init__(self) -> None:
        check_name(self.worker, "a worker's name")
        if len(self.streaks) > limits.STREAKS_PER_WORKER_MAX:
            raise ValueError(f"a worker has at most {limits.STREAKS_PER_WORKER_MAX} streaks, got {len(self.streaks)}")
