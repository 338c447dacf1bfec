"""The ledger's stream: one writer after another, another history noticed, an unanswered write looked up."""

from __future__ import annotations

import asyncio

import pytest

from mesh import codec, streams, virtual_time
from mesh.errors import Conflict, Deposed, InvariantBroken
from mesh.ledger_log import START, LedgerLog
from mesh.memory import Fate, Faults, MemoryServer
from mesh.messages.ledger import Entry, LeaderChosen
from mesh.subjects import Subjects

SUBJECTS = Subjects()


class Once(Faults):
    """The next write to the ledger has this fate."""

    def __init__(self) -> None:
        self.next = Fate.STORED

    def append(self, writer: str, subject: str) -> Fate:
        fate, self.next = (self.next, Fate.STORED) if subject == SUBJECTS.ledger() else (Fate.STORED, self.next)
        return fate


def entry(term: int, log: LedgerLog, by: str = "s1") -> Entry:
    chosen = LeaderChosen(name=f"{by}.1", term=term)
    return Entry(term=term, generation=1, commands_seq=0, previous=log.digest, at_ms=0, events=(chosen,))


async def mesh(faults: Faults | None = None) -> tuple[MemoryServer, LedgerLog]:
    server = MemoryServer(SUBJECTS, faults=faults)
    broker = server.connect("s1")
    await streams.ensure_all(broker, streams.table(SUBJECTS, artifact_bytes_max=1 << 20))
    return server, LedgerLog(broker, SUBJECTS)


async def read_all(log: LedgerLog) -> list[int]:
    return [seq async for seq, _ in log.replay()]


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.REPLY_LOST])
def test_a_write_without_an_answer_stands_once(fate: Fate) -> None:
    async def case() -> None:
        faults = Once()
        server, log = await mesh(faults)
        await log.append(entry(1, log))
        faults.next = fate
        assert await log.append(entry(2, log)) == 2
        assert await log.append(entry(3, log)) == 3
        assert await read_all(LedgerLog(server.connect("reader"), SUBJECTS)) == [1, 2, 3]

    virtual_time.run(case())


@pytest.mark.parametrize(("until", "stands"), [(4.0, [1]), (60.0, [1, 2])])
def test_an_entry_that_could_not_be_stored_in_its_time_is_not_sent_any_more(until: float, stands: list[int]) -> None:
    async def case() -> None:
        faults = Once()
        server, log = await mesh(faults)
        await log.append(entry(1, log))
        older = server.copy()
        faults.next = Fate.LOST  # 5 s until it is known
        waiting = asyncio.create_task(log.append(entry(2, log), until=until))
        await asyncio.sleep(1.0)
        server.restart(older)  # another one has led meanwhile, and nothing is left of it
        if stands == [1]:
            with pytest.raises(Deposed, match="listens before"):
                await waiting
        else:
            assert await waiting == 2
        assert await read_all(LedgerLog(server.connect("reader"), SUBJECTS)) == stands

    virtual_time.run(case())


@pytest.mark.parametrize("fate", [Fate.STORED, Fate.LOST])
def test_who_comes_second_is_deposed(fate: Fate) -> None:
    async def case() -> None:
        faults = Once()
        server, first = await mesh(faults)
        await first.append(entry(1, first))
        second = LedgerLog(server.connect("s2"), SUBJECTS)
        assert await read_all(second) == [1]
        await second.append(entry(2, second, by="s2"))
        faults.next = fate
        with pytest.raises(Deposed, match="steps down"):
            await first.append(entry(2, first))
        with pytest.raises(Deposed):
            await first.check()
        await second.check()

    virtual_time.run(case())


def test_a_store_that_came_back_older_is_no_deposition() -> None:
    async def case() -> None:
        server, log = await mesh()
        await log.append(entry(1, log))
        older = server.copy()
        await log.append(entry(2, log))
        server.crash()
        server.restart(older)
        for attempt in (log.check(), log.append(entry(3, log)), read_all(log)):
            with pytest.raises(Conflict):
                await attempt
        # Written on by somebody else to the very same length, it is still another history.
        other = LedgerLog(server.connect("s2"), SUBJECTS)
        await read_all(other)
        await asyncio.sleep(1.0)
        await other.append(entry(7, other))
        assert other.seq == log.seq
        with pytest.raises(Conflict):
            await log.check()
        assert await other.holds(2, other.digest[:16])
        assert not await other.holds(2, log.digest)

    virtual_time.run(case())


def test_a_chain_that_does_not_hold_is_refused() -> None:
    async def case() -> None:
        server, log = await mesh()
        await log.append(entry(1, log))
        forged = Entry(term=2, generation=1, commands_seq=0, previous=START, at_ms=0, events=())
        await server.connect("x").append(SUBJECTS.ledger(), codec.encode(forged))
        with pytest.raises(InvariantBroken, match="other hands"):
            await read_all(LedgerLog(server.connect("reader"), SUBJECTS))

    virtual_time.run(case())


def test_a_reader_may_begin_at_an_entry_that_it_trusts() -> None:
    async def case() -> None:
        server, log = await mesh()
        for term in range(1, 6):
            await log.append(entry(term, log))
            if term == 3:
                digest = log.digest
        late = LedgerLog(server.connect("reader"), SUBJECTS)
        late.stand_at(3, digest)
        assert await read_all(late) == [4, 5]
        assert late.digest == log.digest == late.digest_of(5)
        wrong = LedgerLog(server.connect("reader2"), SUBJECTS)
        wrong.stand_at(3, START)
        with pytest.raises(Conflict):
            await read_all(wrong)

    virtual_time.run(case())
