"""Studies: the way of a task's questions about a study's log to the broker, and back.

    child --consult--> put the entry, if there is one --> read on --> child

An entry is put if absent: sent again, it is there once.

The entry carries the task, the epoch of its lease and this worker's life, which the child does not choose. A broker
that is away, or a full stream, is told at once: the child waits with signs of life, and asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from executors.frames import Consult, Consulted, Frame, StudyRow
from mesh import codec, limits, streams
from mesh.bus import Log
from mesh.errors import Conflict, Malformed, NotFound, RamifyError, Reject
from mesh.log import get as get_log
from mesh.messages.base import Epoch
from mesh.messages.commands import FailureClass
from mesh.messages.studies import StudyEntry
from mesh.subjects import Subjects

log = get_log("agents.worker.studies")


class Asker(Protocol):
    """The child that asked."""

    def post(self, *sent: Frame) -> None:
        """Write frames without waiting; one that is gone hears nothing."""


class Studies:
    """What tasks of this worker put into the logs of studies, and read there."""

    def __init__(
        self, log: Log, subjects: Subjects, incarnation: str, spawn: Callable[[Awaitable[None], str], object]
    ) -> None:
        """spawn: runs a helper under the agent."""
        self._log, self._subjects, self._incarnation, self._spawn = log, subjects, incarnation, spawn
        self._worker = incarnation.partition(".")[0]

    def answer(self, asked: Consult, task: str, epoch: Epoch, asker: Asker) -> None:
        """Answer the child's question as soon as the broker does. Does not wait."""
        self._spawn(self._answer(asked, task, epoch, asker), f"a question of {task} about a study")

    async def _answer(self, asked: Consult, task: str, epoch: Epoch, asker: Asker) -> None:
        asker.post(await self.consulted(asked, task, epoch))

    async def consulted(self, asked: Consult, task: str, epoch: Epoch) -> Consulted:
        """The answer to one question; what went wrong stands in it."""
        run, number = asked.run, asked.number
        try:
            if asked.entry:
                await self._put(asked, task, epoch)
            rows, more = await self._read(asked.study, asked.from_seq)
        except (RamifyError, ValueError) as error:
            for_good = isinstance(error, Reject | ValueError) and not isinstance(error, NotFound)
            failure = FailureClass.REJECT if for_good else FailureClass.RETRY
            reason = str(error)[: limits.TEXT_CHARS_MAX]
            return Consulted(run=run, number=number, epoch=epoch, failure=failure, reason=reason)
        return Consulted(run=run, number=number, epoch=epoch, rows=rows, more=more)

    async def _put(self, asked: Consult, task: str, epoch: Epoch) -> None:
        subject = self._subjects.study_entry(self._worker, asked.study, task, epoch, asked.entry_id)
        record = StudyEntry(task=task, epoch=epoch, by=self._incarnation, entry=asked.entry)
        try:
            await self._log.append(subject, codec.encode(record), subject_seq=0, timeout_s=limits.CALL_TIMEOUT_S)
        except Conflict:
            return  # it is there already: the answer to an earlier question was lost

    async def _read(self, study: str, from_seq: int) -> tuple[tuple[StudyRow, ...], bool]:
        """What stands in the log from a sequence on, and whether there may be more. What is no entry, or does not
        stand where its words say, is passed over."""
        count = limits.STUDY_PAGE_ENTRIES_MAX
        stream, subject = self._subjects.stream(streams.STUDIES), self._subjects.study(study)
        found = await self._log.read(stream, subject, from_seq=from_seq, messages_max=count)
        rows = []
        for stored in found:
            try:
                record = codec.decode(stored.data, StudyEntry)
                entry_id = stored.subject.rpartition(".")[2]
                writer = record.by.partition(".")[0]
                if stored.subject != self._subjects.study_entry(writer, study, record.task, record.epoch, entry_id):
                    raise Malformed("it stands under another worker's, task's or epoch's name")
            except (Malformed, ValueError) as error:
                log.warning("entry %d of study %s is passed over: %s", stored.seq, study, error)
                rows.append(StudyRow(stored.seq, "", Epoch(0, 0), ""))
            else:
                rows.append(StudyRow(stored.seq, record.task, record.epoch, record.entry))
        return tuple(rows), len(found) == count
