"""A study's log in the mesh, as Optuna's journal storage wants it: append JSON operations, read them in one order.

    JournalStorage --append_logs, read_logs--> Journal --consult--> worker --> the study's subject in STUDIES

The order is the stream's. Every entry has a name within its attempt and is put if absent, so that asking again after a
lost answer changes nothing. An entry of an attempt that a newer one of the same task stands before does not count; all
readers pass over it, because they read the same order. The attempt that wrote it finds out at its next look and ends.

A mesh that is away is waited for, with signs of life, up to WAIT_S; then the task is tried again later. Nothing is
pickled: operations are JSON, and Optuna's snapshots are not offered.

Not covered: a store that came back older. A study that goes on over it has lost trials; a running one may miss entries
that took the place of what it had read.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from optuna.storages.journal import BaseJournalBackend

from executors.frames import Consulted, StudyRow
from executors.port import Context, Stopped
from mesh import limits
from mesh.errors import Retry, TaskRefused
from mesh.messages.base import Epoch
from mesh.messages.commands import FailureClass

WAIT_S = 300.0
"""How long a trial waits for a mesh that is away before the task is given up for now."""

ANSWER_S = 20.0
"""How long the worker may take to answer: longer than its own calls to the broker."""

PAUSE_S = 1.0
"""Between two questions while the mesh is away."""

CREATE_STUDY, LAST_OPERATION = 0, 10
"""Optuna's operations: the first of every log, and the highest that there is."""


@runtime_checkable
class Consults(Protocol):
    """A context whose worker reaches the mesh's studies."""

    def consult(
        self, study: str, from_seq: int, entry: str = "", entry_id: str = "", *, wait_s: float
    ) -> Consulted | None:
        """Put an entry into a study's log, where there is one, and read on; None when no answer came in time."""


class Journal(BaseJournalBackend):
    """The log of one study, as one attempt of a task sees it."""

    def __init__(
        self, study: str, task: str, consults: Consults, context: Context, *,
        pause: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._study, self._task, self._consults, self._context = study, task, consults, context
        self._pause, self._clock = pause, clock
        self._name, self._entries = secrets.token_hex(4), 0
        self._next_seq, self._seen = 1, 0
        self._newest: dict[str, Epoch] = {}
        self._operations: list[dict[str, Any]] = []

    @property
    def entries(self) -> int:
        """Entries of the log as far as it was read."""
        return self._seen

    # -- what Optuna asks ---------------------------------------------------------------------------------------------

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Put operations at the end of the log, in order. TaskRefused when the study is full, Retry when the mesh is
        away for too long or another attempt has taken over."""
        for operation in logs:
            entry = json.dumps(operation, separators=(",", ":"), allow_nan=False)
            if len(entry.encode()) > limits.STUDY_ENTRY_BYTES_MAX:
                raise TaskRefused(
                    f"an entry of a study may have {limits.STUDY_ENTRY_BYTES_MAX} bytes, this one has {len(entry)}: "
                    "use shorter choices"
                )
            if self._seen >= limits.STUDY_ENTRIES_MAX:
                raise TaskRefused(
                    f"the study {self._study!r} is full, it has {self._seen} entries: go on under another name"
                )
            self._entries += 1
            self._exchange(entry, f"{self._name}-{self._entries}")

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """All operations that count, from a number on."""
        self._exchange("", "")
        return self._operations[log_number_from:]

    # -- the mesh -----------------------------------------------------------------------------------------------------

    def _exchange(self, entry: str, entry_id: str) -> None:
        """Put an entry, if there is one, and read to the end of the log."""
        answer = self._asked(entry, entry_id)
        self._take(answer)
        while answer.more:
            answer = self._asked("", "")
            self._take(answer)

    def _asked(self, entry: str, entry_id: str) -> Consulted:
        """One answer; patiently."""
        deadline = self._clock() + WAIT_S
        while True:
            answer = self._consults.consult(self._study, self._next_seq, entry, entry_id, wait_s=ANSWER_S)
            if answer is not None and answer.failure is None:
                return answer
            reason = "the worker did not answer" if answer is None else answer.reason
            if answer is not None and answer.failure is FailureClass.REJECT:
                raise TaskRefused(f"the study {self._study!r} can not be used: {reason}")
            if why := self._context.stop_requested():
                raise Stopped(f"stopped while waiting for the study as asked: {why}")
            if self._clock() >= deadline:
                raise Retry(f"the study {self._study!r} could not be reached for {WAIT_S:g} s: {reason}")
            self._context.progress(0, 0.0, {}, "waiting for the study")
            self._pause(PAUSE_S)

    def _take(self, answer: Consulted) -> None:
        for row in answer.rows:
            self._next_seq = row.seq + 1
            self._seen += 1
            if self._counts(row) and (operation := _operation(row.entry)) is not None:
                if not self._operations and operation["op_code"] != CREATE_STUDY:
                    raise TaskRefused(
                        f"the beginning of the study {self._study!r} is not kept any more: go on under another name"
                    )
                self._operations.append(operation)
        if self._newest.get(self._task, answer.epoch) > answer.epoch:
            raise Retry(f"a newer attempt of {self._task} has taken over its trial")

    def _counts(self, row: StudyRow) -> bool:
        """False for what a deposed attempt wrote."""
        if not row.entry or row.epoch < self._newest.get(row.task, row.epoch):
            return False
        self._newest[row.task] = row.epoch
        return True


def _operation(entry: str) -> dict[str, Any] | None:
    """The operation that an entry holds; None for what is none."""
    try:
        found = json.loads(entry)
        known = 0 <= int(found["op_code"]) <= LAST_OPERATION and isinstance(found["worker_id"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if known and isinstance(found, dict) else None
