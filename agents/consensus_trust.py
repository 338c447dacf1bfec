"""Trust in workers, as consensus keeps it: a bucket that follows the recommendations on RESULTS.

    read      the bucket once, then every recommendation that came since, in their order
    count     consensus/checking.py: what each one says of the workers that trained its candidates
    write     by compare-and-set; whoever writes second finds the other's record, and counts on from there

Any number of consensus agents may do this: they count the same recommendations in the same order. A record that is lost
is counted again from what RESULTS still holds; earlier streaks are earned anew.
"""

from __future__ import annotations

import asyncio

from agents.runtime import Agent
from consensus import checking
from consensus.checking import Known
from mesh import codec, streams
from mesh.errors import Conflict, Malformed, Retry
from mesh.messages.judgement import Evidence
from mesh.messages.results import RecommendationMade
from mesh.messages.trust import Streak, Trust, Unchecked
from mesh.packed import split

PAGE = 500
"""Records read at once."""

WORKERS_MAX = 10_000
"""Workers whose records are held; those beyond are treated as strangers, and always checked."""

TRIES_MAX = 8
"""Compare-and-sets that may be lost to others, one after the other, before the input is handled again later."""


class TrustBook:
    """The records of all workers, as far as they are known here."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log = agent.broker
        self._trusts: dict[str, Trust] = {}
        self._revisions: dict[str, int] = {}
        self._loaded = False
        self._read_to = 0
        self._reading = asyncio.Lock()

    async def known(self) -> Known:
        """Every streak, after all that has been recommended so far."""
        async with self._reading:
            return await self._known()

    async def _known(self) -> Known:
        if not self._loaded:
            await self._load()
        subject = self._agent.subjects.results("*", RecommendationMade.kind)
        while True:
            page = await self._log.read(
                self._agent.stream("RESULTS"), subject, from_seq=self._read_to + 1, messages_max=PAGE
            )
            for stored in page:
                for one in split(stored):
                    await self._count(codec.decode(one.data, RecommendationMade))
                self._read_to = stored.seq
            if len(page) < PAGE:
                return checking.known(self._trusts.values())

    def owed(self) -> list[tuple[Unchecked, Streak]]:
        """Results that were called back and wait for their check."""
        return checking.owed(self._trusts.values())

    async def called_back(self, result: Unchecked, row: Streak, found: Evidence | None) -> None:
        """A result that was called back has been checked, or can not be."""
        worker = checking.worker_of(result.incarnation)
        for _ in range(TRIES_MAX):
            before = self._trusts.get(worker)
            if before is None:
                return
            after = checking.called_back(before, result, row.executor, row.version, found)
            if after == before or await self._write(after):
                return
        raise Retry(f"the trust in {worker} changed {TRIES_MAX} times while one of its results was checked")

    async def _count(self, record: RecommendationMade) -> None:
        made = record.recommendation
        for worker in sorted({checking.worker_of(one.incarnation) for one in made.candidates if one.incarnation}):
            if worker not in self._trusts and len(self._trusts) >= WORKERS_MAX:
                continue
            for _ in range(TRIES_MAX):
                before = self._trusts.get(worker)
                after = checking.after(before, worker, made, record.ledger_seq)
                if after == before or await self._write(after):
                    break
            else:
                raise Retry(f"the trust in {worker} changed {TRIES_MAX} times while {made.id} was counted")

    async def _write(self, trust: Trust) -> bool:
        """Write the record if it is still as it was read; else it is read again, and False."""
        subject = self._agent.subjects.key(streams.TRUST, trust.worker)
        try:
            revision = await self._log.append(
                subject, codec.encode(trust), subject_seq=self._revisions.get(trust.worker, 0)
            )
        except Conflict:
            stored = await self._log.last(self._agent.subjects.bucket(streams.TRUST), subject)
            if stored is not None:
                self._take(trust.worker, stored.data, stored.seq)
            return False
        self._trusts[trust.worker], self._revisions[trust.worker] = trust, revision
        return True

    async def _load(self) -> None:
        bucket, from_seq = self._agent.subjects.bucket(streams.TRUST), 1
        while True:
            page = await self._log.read(
                bucket, self._agent.subjects.keys(streams.TRUST), from_seq=from_seq, messages_max=PAGE
            )
            for stored in page:
                self._take(stored.subject.rpartition(".")[2], stored.data, stored.seq)
            if len(page) < PAGE:
                break
            from_seq = page[-1].seq + 1
        self._loaded = True

    def _take(self, worker: str, data: bytes, revision: int) -> None:
        """A stored record. One that was erased, or that nobody can read, is begun anew in its place."""
        self._revisions[worker] = revision
        self._trusts.pop(worker, None)
        if not data:
            return
        try:
            self._trusts[worker] = codec.decode(data, Trust)
        except Malformed as error:
            self._agent.failed("trust", f"the trust in {worker} can not be read, it is counted anew: {error}")
