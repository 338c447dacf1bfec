"""What a worker owes: rows go from the tasks into the outbox, from there to the mesh, and away on a receipt.

    owe      waits until the row is on disk; rows that wait at the same time share one sync
    send     put-if-absent under the row's own subject, in order within a task; "already there" is as good as sent
    settle   receipts ride on answers; a row that has none for a while is asked about, and sent again when unknown

A broker that is away, full or slow only delays: rows wait, through restarts of this process too. What sends never gives
up; what stops it is a broker that refuses us for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from logging import Logger

from mesh import codec, limits, metrics
from mesh.bus import Broker
from mesh.errors import BusUnavailable, Conflict, DiskFull, Malformed, NotFound
from mesh.messages.base import Key
from mesh.messages.commands import Owed
from mesh.messages.leases import Receipt
from mesh.messages.services import OwedAnswer, OwedQuestion, Problem
from mesh.outbox import Outbox, Row
from mesh.subjects import Subjects

LOOK_S = 2.0
"""How often the sender looks for rows although nobody told it to."""

ASK_S_FIRST, ASK_S_MAX = 6.0, 60.0
"""How long a sent row may be without receipt before it is asked about (three beats), doubled each time."""

ASK_TIMEOUT_S = 3.0
"""Patience with an answer about receipts."""

TASKS_IN_FLIGHT = 16
"""Tasks whose rows are sent at the same time."""

ROOM_PAUSE_S = 2.0
"""Pause after a full disk, before a row is written again."""


class Debts:
    """The outbox at work. `write` and `send` run for the worker's whole life."""

    def __init__(self, worker: str, outbox: Outbox, broker: Broker, subjects: Subjects, log: Logger) -> None:
        self.sent: Callable[[], None] = lambda: None
        """Called when rows were sent: the next beat should name them."""
        self.full = ""
        """Why nothing more can be written down now; '' when there is room."""
        self._worker, self._outbox, self._broker, self._subjects, self._log = worker, outbox, broker, subjects, log
        self._incoming: list[tuple[Key, str, bytes, asyncio.Future[None]]] = []
        self._to_write, self._to_send = asyncio.Event(), asyncio.Event()
        self._asked: dict[Key, tuple[float, float]] = {}
        """Rows sent in this life: when to ask about them, and the pause after that (seconds)."""
        self._unsent: dict[Key, None] = {}
        """Rows of this life that are on disk and not yet sent."""
        self._limited = asyncio.Semaphore(TASKS_IN_FLIGHT)
        self._all_sent = asyncio.Event()

    @property
    def owed(self) -> tuple[Key, ...]:
        """Rows without receipt, oldest first, as many as a beat may name. A lease that is not held any more is named
        here from the moment at which its last row is on disk, or the leader would think that it was never taken."""
        return (*self._asked, *self._unsent)[: limits.OWED_PER_REQUEST_MAX]

    # -- into the outbox ----------------------------------------------------------------------------------------------

    async def owe(self, record: Owed) -> None:
        """Returns when the row is on disk. A cancellation does not take it back once it is handed over."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        subject = self._subjects.owed(self._worker, record.key)
        self._incoming.append((record.key, subject, codec.encode(record), written))
        self._to_write.set()
        await asyncio.shield(written)

    async def write(self) -> None:
        """Write what is handed over, all that waits with one sync; a full disk is waited out."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            batch = list(self._incoming)
            try:
                await asyncio.to_thread(self._outbox.record_all, [row[:3] for row in batch])
            except DiskFull as error:
                self._note_full(str(error))
                self._to_write.set()
                await asyncio.sleep(ROOM_PAUSE_S)
                continue
            self._note_full("")
            del self._incoming[: len(batch)]
            self._unsent.update((row[0], None) for row in batch)
            for *_, written in batch:
                if not written.done():
                    written.set_result(None)
            self._to_send.set()

    def _note_full(self, sentence: str) -> None:
        """Say once that the outbox is full, and that there is room again; the offer follows."""
        if bool(sentence) == bool(self.full):
            return
        self.full = sentence
        self._log.error("%s", sentence) if sentence else self._log.info("there is room in the outbox again")
        self.sent()

    # -- to the mesh --------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Send rows as they come, and ask about those that are without receipt for long."""
        while True:
            self._to_send.clear()
            rows = await asyncio.to_thread(self._outbox.pending, limits.INPUTS_PENDING_MAX)
            if await self._send_all([row for row in rows if row.key not in self._asked]):
                self.sent()
            if all(row.key in self._asked for row in rows):
                self._all_sent.set()
            await self.ask()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._to_send.wait()

    async def _send_all(self, rows: Sequence[Row]) -> bool:
        """Send rows, those of one task in order; True when any was sent."""
        by_task: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_task[row.key.task].append(row)
        done = await asyncio.gather(*(self._send_in_order(queue) for queue in by_task.values()))
        return any(done)

    async def _send_in_order(self, rows: list[Row]) -> int:
        count = 0
        async with self._limited:
            for row in rows:
                try:
                    await self._broker.append(row.subject, row.data, subject_seq=0)
                except Conflict:  # an earlier send of this very row was stored, though nobody said so
                    pass
                except (BusUnavailable, DiskFull, NotFound) as error:
                    self._log.debug("%s is not sent yet: %s", row.key, error)
                    return count
                self._asked[row.key] = (time.monotonic() + ASK_S_FIRST, ASK_S_FIRST)
                self._unsent.pop(row.key, None)
                count += 1
        return count

    async def ask(self, *, at_once: bool = False) -> None:
        """Ask about rows without receipt; unknown ones are sent again. at_once: without waiting for their time."""
        now = time.monotonic()
        due = [key for key, (at, _) in self._asked.items() if at_once or at <= now][: limits.OWED_PER_REQUEST_MAX]
        if not due:
            return
        try:
            question = codec.encode(OwedQuestion(keys=tuple(due)))
            message = await self._broker.request(self._subjects.ask("scheduler"), question, timeout_s=ASK_TIMEOUT_S)
            answer = codec.decode(message.data, OwedAnswer, Problem)
        except (BusUnavailable, NotFound, Malformed) as error:
            self._log.debug("nobody answers about receipts: %s", error)
            return
        if isinstance(answer, OwedAnswer):
            await self.settle(answer.receipts)
            if not at_once:
                await self._send_again(due)

    async def _send_again(self, keys: list[Key]) -> None:
        """Rows that the ledger does not know: put them once more, and ask later each time."""
        unknown = [key for key in keys if key in self._asked]
        pauses = {key: min(ASK_S_MAX, 2 * self._asked[key][1]) for key in unknown}
        rows = [row for row in await asyncio.to_thread(self._outbox.pending) if row.key in pauses]
        await self._send_all(rows)
        for key, pause_s in pauses.items():
            if key in self._asked:
                self._asked[key] = (time.monotonic() + pause_s, pause_s)

    async def all_sent(self, within_s: float) -> None:
        """Wait, so long at most, until everything that was owed when this life began has been sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._all_sent.wait()

    # -- away ---------------------------------------------------------------------------------------------------------

    async def settle(self, receipts: tuple[Receipt, ...]) -> None:
        """Let go of what the ledger has spoken about."""
        news = [receipt for receipt in receipts if receipt.key in self._asked]
        if not news:
            return
        await asyncio.to_thread(self._outbox.settle, *news)
        for receipt in news:
            self._asked.pop(receipt.key, None)
            metrics.count("mesh_receipts_total", outcome="recorded" if receipt.recorded else "refused")
            if not receipt.recorded:
                self._log.warning("%s was refused and is set aside: %s", receipt.key, receipt.reason)

    async def owe_again(self) -> int:
        """The broker's store is older than what was heard: owe once more what was receipted; how many rows."""
        count = await asyncio.to_thread(self._outbox.reopen)
        self._asked.clear()
        self._to_send.set()
        return count

    async def empty(self, within_s: float) -> int:
        """Send and settle all that is owed, for so long at most; how many rows stay for the next life."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while await asyncio.to_thread(self._outbox.pending, 1):
                    self._to_send.set()
                    await self.ask(at_once=True)
                    await asyncio.sleep(min(0.1, within_s))
        return len(await asyncio.to_thread(self._outbox.pending))
