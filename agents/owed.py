"""What a worker owes: rows go from the tasks into the outbox, from there to the mesh, and away on a receipt.

    owe      waits until the row is on disk; rows that wait at the same time share one sync
    send     in the order in which they were written, all that wait in one message: a pack of rows, or one row under
             its own subject; put-if-absent, and "already there" is as good as sent
    release  receipts ride on answers; a row that has none for a while is asked about, and sent again when unknown

A row can reach the ledger twice, alone or in packs that are cut differently: its key says that it is the same.
A broker that is away, full or slow only delays: rows wait, through restarts of this process too. What sends never gives
up; what stops it is a broker that refuses us for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from logging import Logger

from agents.runtime import within
from mesh import codec, limits, metrics
from mesh.bus import Broker, Message
from mesh.errors import BusUnavailable, Conflict, DiskFull, Malformed, NotFound, RamifyError
from mesh.messages.base import Key
from mesh.messages.commands import Owed
from mesh.messages.leases import Receipt
from mesh.messages.packs import Pack, portions
from mesh.messages.services import OwedAnswer, OwedQuestion, Problem
from mesh.outbox import Outbox, Row
from mesh.subjects import Subjects

LOOK_S = 2.0
"""How often the sender looks for rows although nobody told it to."""

ASK_S_FIRST, ASK_S_MAX = 6.0, 60.0
"""How long a sent row may be without receipt before it is asked about (three beats), doubled each time."""

ASK_EVERY_S = 0.5
"""Between two looks for rows that are due to be asked about."""

ASK_TIMEOUT_S = 3.0
"""Patience with an answer about receipts."""

UNSENT_MAX = 10_000
"""Rows kept at hand while they wait for the broker; what is beyond waits on disk alone."""

ROOM_PAUSE_S = 2.0
"""Pause after a full disk, before a row is written again."""


class Debts:
    """The outbox at work. `write` and `send` run for the worker's whole life."""

    def __init__(self, worker: str, outbox: Outbox, broker: Broker, subjects: Subjects, log: Logger) -> None:
        self.sent: Callable[[], None] = lambda: None
        """Called when rows were sent: the next beat should name them."""
        self.heard: Callable[[Receipt], None] = lambda _: None
        """Called with each receipt of a row that is owed here."""
        self.question: Callable[[bytes], Awaitable[Message]] = self._question
        """Asks the leader, under the worker's own name: in another way where the connection has another one."""
        self.full = ""
        """Why nothing more can be written down now; '' when there is room."""
        self._worker, self._outbox, self._broker, self._subjects, self._log = worker, outbox, broker, subjects, log
        self._incoming: list[tuple[Row, Callable[[], None]]] = []
        self._released: list[Receipt] = []
        """The ledger's words that the outbox does not know yet."""
        self._settling = asyncio.Lock()
        self._owing: dict[asyncio.Future[None], None] = {}
        """Who waits for a row to be on disk."""
        self._over = False
        """Nobody writes any more."""
        self._to_write, self._to_send = asyncio.Event(), asyncio.Event()
        self._asked: dict[Key, tuple[float, float]] = {}
        """Rows sent in this life: when to ask about them, and the pause after that (seconds)."""
        self._unsent: dict[Key, Row] = {}
        """Rows that are on disk and not yet sent, in their order."""
        self._more_on_disk = True
        """The outbox may hold unsent rows that are not in `_unsent`: at the start, or after a long outage."""
        self._all_sent = asyncio.Event()

    @property
    def owed(self) -> tuple[Key, ...]:
        """Rows without receipt, oldest first, as many as a beat may name. A lease that is not held any more is named
        here from the moment at which its last row is on disk, or the leader would think that it was never taken."""
        return tuple(itertools.islice(itertools.chain(self._asked, self._unsent), limits.OWED_PER_REQUEST_MAX))

    def on_connected(self, call: Callable[[], None]) -> None:
        """Call back whenever the broker was away and is back."""
        self._broker.on_state(lambda connected: call() if connected else None)

    # -- into the outbox ----------------------------------------------------------------------------------------------

    async def owe(self, record: Owed) -> None:
        """Returns when the row is on disk. A cancellation does not take it back once it is handed over. Cancelled when
        nobody writes any more, because the worker ends: the row is lost, as it would be a moment later."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._over:
            raise asyncio.CancelledError
        self._owing[written] = None
        self.hand(record, lambda: None if written.done() else written.set_result(None))
        try:
            await asyncio.shield(written)
        finally:
            self._owing.pop(written, None)

    def hand(self, record: Owed, then: Callable[[], None]) -> None:
        """Take a row; `then` is called when it is on disk."""
        subject = self._subjects.owed(self._worker, record.key)
        self._incoming.append((Row(record.key, subject, codec.encode(record), time.time()), then))
        self._to_write.set()

    async def write(self) -> None:
        """Write what is handed over, all that waits with one sync; a full disk is waited out. At the end, what still
        waits is written, and nobody waits for this any more."""
        try:
            await self._write_on()
        finally:
            self._over = True
            with contextlib.suppress(RamifyError):
                self._outbox.record_all([(row.key, row.subject, row.data) for row, _ in self._incoming])
                for _, then in self._incoming:
                    then()
                self._outbox.settle(*self._released)
            for written in self._owing:
                written.cancel()

    async def _write_on(self) -> None:
        """Rows first: somebody waits for them. What was let go follows, without a sync of its own."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            if self._incoming:
                await self._write_rows()
            if self._released:
                released = self._released[: limits.ROWS_PER_PACK_MAX]
                del self._released[: len(released)]
                await self._settle(released)
            if self._incoming or self._released:
                self._to_write.set()

    async def _write_rows(self) -> None:
        batch = self._incoming[: limits.ROWS_PER_PACK_MAX]
        try:
            rows = [(row.key, row.subject, row.data) for row, _ in batch]
            await asyncio.to_thread(self._outbox.record_all, rows)
        except DiskFull as error:
            self._note_full(str(error))
            await asyncio.sleep(ROOM_PAUSE_S)
            return
        self._note_full("")
        del self._incoming[: len(batch)]
        for row, then in batch:
            self._keep_at_hand(row)
            then()
        self._to_send.set()

    def _note_full(self, sentence: str) -> None:
        """Say once that the outbox is full, and that there is room again; the offer follows."""
        if bool(sentence) == bool(self.full):
            return
        self.full = sentence
        self._log.error("%s", sentence) if sentence else self._log.info("there is room in the outbox again")
        self.sent()

    def _keep_at_hand(self, row: Row) -> None:
        """Remember an unsent row, unless so many wait already that it has to be read from disk again. What an
        earlier life has owed under the same key is what stands on disk, and stays."""
        if self._more_on_disk or len(self._unsent) >= UNSENT_MAX:
            self._more_on_disk = True
        elif row.key not in self._asked:
            self._unsent.setdefault(row.key, row)

    # -- to the mesh --------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Send rows as they come, and ask about those that are without receipt for long."""
        asked_at = time.monotonic()
        while True:
            self._to_send.clear()
            if await self._send_unsent():
                self.sent()
            if not self._unsent and not self._more_on_disk:
                self._all_sent.set()
            if time.monotonic() - asked_at >= ASK_EVERY_S:
                asked_at = time.monotonic()
                await self.ask()
            if not self._to_send.is_set():
                await within(LOOK_S, self._to_send)

    async def _send_unsent(self) -> bool:
        """Send until nothing waits or the broker does not take it; True when any was sent."""
        any_sent = False
        while True:
            if not self._unsent and self._more_on_disk:
                await self._read_from_disk()
            if not self._unsent:
                return any_sent
            part = next(portions(self._unsent.values(), _size))
            if not await self._put(part):
                return any_sent
            any_sent = True
            at = time.monotonic() + ASK_S_FIRST
            for row in part:
                if self._unsent.pop(row.key, None) is not None:  # else its receipt was there first
                    self._asked[row.key] = (at, ASK_S_FIRST)

    async def _read_from_disk(self) -> None:
        """Rows that this life has not sent, oldest first. What is written meanwhile is found here too, or marked."""
        self._more_on_disk = False
        rows = await asyncio.to_thread(self._outbox.pending, len(self._asked) + UNSENT_MAX)
        found = {row.key: row for row in rows if row.key not in self._asked}
        self._more_on_disk = self._more_on_disk or len(rows) >= len(self._asked) + UNSENT_MAX
        newer = {key: row for key, row in self._unsent.items() if key not in found}
        self._unsent = found | newer

    async def _put(self, rows: Sequence[Row]) -> bool:
        """Store rows in COMMANDS, in order; False when the broker can not take them now."""
        if len(rows) == 1:
            subject, data = rows[0].subject, rows[0].data
        else:
            data = codec.encode(Pack(rows=tuple(row.data for row in rows)))
            subject = self._subjects.owed_together(self._worker, codec.digest(data))
        try:
            await self._broker.append(subject, data, subject_seq=0)
        except Conflict:  # an earlier send of these very rows was stored, though nobody said so
            pass
        except (BusUnavailable, DiskFull, NotFound) as error:
            self._log.debug("%d rows from %s on are not sent yet: %s", len(rows), rows[0].key, error)
            return False
        return True

    async def ask(self, *, at_once: bool = False) -> None:
        """Ask about rows without receipt; unknown ones are sent again. at_once: without waiting for their time."""
        now = time.monotonic()
        due = [key for key, (at, _) in self._asked.items() if at_once or at <= now][: limits.OWED_PER_REQUEST_MAX]
        if not due:
            return
        try:
            question = codec.encode(OwedQuestion(keys=tuple(due)))
            message = await self.question(question)
            answer = codec.decode(message.data, OwedAnswer, Problem)
        except (BusUnavailable, NotFound, Malformed) as error:
            self._log.debug("nobody answers about receipts: %s", error)
            return
        if isinstance(answer, OwedAnswer):
            await self.settle(answer.receipts)
            if not at_once:
                await self._send_again(due)

    async def _question(self, data: bytes) -> Message:
        subject = self._subjects.ask("scheduler", self._broker.name)
        return await self._broker.request(subject, data, timeout_s=ASK_TIMEOUT_S)

    async def _send_again(self, keys: list[Key]) -> None:
        """Rows that the ledger does not know: put each once more, and ask about it later each time.

        Under its own subject: a pack that is already stored would not be read a second time.
        """
        pauses = {key: min(ASK_S_MAX, 2 * self._asked[key][1]) for key in keys if key in self._asked}
        if not pauses:
            return
        rows = await asyncio.to_thread(self._outbox.pending, len(self._asked) + UNSENT_MAX)
        for row in rows:
            if row.key in pauses and not await self._put([row]):
                break
        for key, pause_s in pauses.items():
            if key in self._asked:
                self._asked[key] = (time.monotonic() + pause_s, pause_s)

    async def all_sent(self, within_s: float) -> None:
        """Wait, so long at most, until everything that was owed when this life began has been sent."""
        await within(within_s, self._all_sent)

    # -- away ---------------------------------------------------------------------------------------------------------

    def release(self, receipts: Sequence[Receipt]) -> None:
        """Let go of what the ledger has spoken about: at once in what is owed here, soon in the outbox."""
        self._released += self._news(receipts)
        if self._released:
            self._to_write.set()

    async def settle(self, receipts: Sequence[Receipt]) -> None:
        """The same; the outbox knows it when this returns."""
        await self._settle(self._news(receipts))

    def _news(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        news = [receipt for receipt in receipts if receipt.key in self._asked or receipt.key in self._unsent]
        for receipt in news:
            self._asked.pop(receipt.key, None)
            self._unsent.pop(receipt.key, None)
            self.heard(receipt)
        return news

    async def _settle(self, news: Sequence[Receipt]) -> None:
        if not news:
            return
        async with self._settling:
            await asyncio.to_thread(self._outbox.settle, *news)
        for receipt in news:
            metrics.count("mesh_receipts_total", outcome="recorded" if receipt.recorded else "refused")
            if not receipt.recorded:
                self._log.warning("%s was refused and is set aside: %s", receipt.key, receipt.reason)

    async def owe_again(self, *, besides: Collection[str] = ()) -> int:
        """The broker's store is older than what was heard: owe once more what was receipted, but not of these tasks;
        how many rows."""
        self._released.clear()  # said by the history that is no more
        async with self._settling:
            count = await asyncio.to_thread(self._outbox.reopen, besides=besides)
        self._asked.clear()
        self._more_on_disk = True
        self._to_send.set()
        return count

    async def reopen(self, keys: tuple[Key, ...]) -> int:
        """Owe these rows once more; how many were receipted."""
        async with self._settling:
            count = await asyncio.to_thread(self._outbox.reopen, keys)
        self._more_on_disk = True
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


def _size(row: Row) -> int:
    return len(row.data)
