"""What trials of a study tell each other: one log per study, in the order of the STUDIES stream.

Every attempt of a task writes under its own epoch. Who reads passes over an entry whose epoch is older than one that
stands before it in the log for the same task: what a deposed attempt still writes changes nothing, and all readers
agree on that, because they read the same order.
"""

from __future__ import annotations

from typing import ClassVar

from mesh import limits
from mesh.messages.base import Epoch, Record, check_name, check_text


class StudyEntry(Record, frozen=True, kw_only=True):
    """One entry of a study's log."""

    kind: ClassVar[str] = "study-entry"

    task: str
    epoch: Epoch
    by: str
    """Incarnation of the worker that wrote it for the task."""
    entry: str
    """One operation of the study, as JSON."""

    def __post_init__(self) -> None:
        check_name(self.task, "a task")
        check_text(self.entry, "an entry of a study", limits.STUDY_ENTRY_BYTES_MAX)
