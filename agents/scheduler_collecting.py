"""Collecting: the leader removes from the artifact store what nothing names any more, and what is corrupt.

    round   look -> publish the lists of the condemned -> wait -> look for names again -> remove dead manifests
            -> read what manifests stored now need -> remove condemned objects that none of them needs
    report  a reader found a corrupt object -> read it -> publish a list with it -> remove that version -> ask caches

It runs beside the leader's turns and never in them; whatever fails ends the round, not the term, and the next one
begins anew. Nothing of a round is carried to another leader: lists that were published stay for KEEP_LISTS_S, because a
leader that was held up may still carry them out. Before anything is removed, the newest list must be ours, and the
connection the one on which the second look began: else another leader collects, or the store may be another one.
docs/artifacts.md tells why no artifact that lives can lose an object.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from agents.runtime import Agent, now_s, within
from agents.scheduler_history import History
from agents.scheduler_marking import Marking
from agents.scheduler_suspects import Suspects
from mesh import codec, streams
from mesh.bus import StreamState
from mesh.collector_notes import CollectorNotes
from mesh.errors import BusUnavailable, Conflict, RamifyError, Retry
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.collecting import ROWS_BYTES_MAX, CorruptFound, StoreUse, Why, condemn
from mesh.messages.object_names import MANIFEST, ObjectName, manifest
from mesh.objects import ObjectBackend
from mesh.sieve import Sieve
from mesh.stores import home_of
from mesh.windows import in_window, patiently
from planner.collecting import OWNER, Pace, Rules, portions

LOOK_S = 30.0
"""How often the store's use is looked at."""

KEEP_LISTS_S = 2 * 3_600.0
"""How long a list stays after its round: longer than any leader is held up between its last check and a removal, and
than anything is believed to be stored (limits.BELIEF_S)."""

LISTS_MAX = 64
"""Lists in the stream above which no round begins: each holds up to 6,600 names, and everybody who uploads has all of
them in memory. So 200 GB of garbage go in KEEP_LISTS_S, or more in smaller ones."""

LISTS_PER_ROUND_MAX = 16
"""Some 100,000 names; what is beyond is condemned in the next round."""

REMOVED_AT_ONCE = 64
"""Names removed between two checks that this is still our store and our turn."""

REMOVE_WINDOW = 4
"""Parallel removals. Together with the pause: at most 640 a second, so that the leader's own appends are not late."""

REMOVE_PAUSE_S = 0.1

CHECK_HOLDS_S = 60.0
"""How long a check counts: whoever was held up for longer must not go on with what he had begun."""


class Collecting:
    """The collector of one term."""

    def __init__(self, agent: Agent, history: History) -> None:
        settings, settings_of_store = agent.settings.scheduler, agent.settings.artifacts
        self._agent, self._history = agent, history
        self._rules = Rules(settings.collect_every_s, settings.collect_wait_s, settings.unnamed_keep_s)
        self._pace = Pace(self._rules, now_s())
        self._shared = settings_of_store.backend != "broker"
        """Objects lie where another mesh could have its own."""
        self._bell = asyncio.Event()
        self._connection = 0
        """Rises whenever the broker was away."""
        self._list = 0
        """Number of the newest list, ours or not."""
        self._over: dict[int, float] = {}
        """Lists whose rounds have ended, and when."""
        self._passed_at = now_s()
        self._state: StreamState | None = None
        home = home_of(agent.settings)
        self._use = StoreUse(where="", size_bytes=-1, limit_bytes=-1, state="has not looked yet", home=home)
        self._looked_at = -1.0
        self._removed = 0
        self._suspects: Suspects | None = None

    # -- what others say and ask --------------------------------------------------------------------------------------

    def disturbed(self) -> None:
        """The broker was away: it may have come back with another store."""
        self._connection += 1

    def suspect(self, report: CorruptFound) -> None:
        """A reader found something corrupt."""
        if self._suspects is not None:
            self._suspects.add(report.names)
            self._bell.set()

    def use(self) -> StoreUse:
        """What the store holds, for people."""
        age_s = now_s() - self._looked_at if self._looked_at >= 0 else -1.0
        corrupt = self._suspects.rows() if self._suspects is not None else ()
        identity = self._agent.store_identity.value
        return self._use.evolve(looked_age_s=age_s, removed=self._removed, corrupt=corrupt, identity=identity)

    # -- the life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Collect until the term ends."""
        self._suspects = Suspects(self._agent, self._backend, self._publish)
        while not self._agent.stopping.is_set():
            try:
                with contextlib.closing(CollectorNotes(self._history.beside("collecting.db"))) as notes:
                    await self._collect(notes)
            except (RamifyError, OSError, sqlite3.Error) as error:
                self._agent.log.warning("collecting is broken off and begins anew later: %s", error)
                await self._broken_off(error)
            except Exception as error:  # a defect here: leases go on being given all the same
                self._agent.failed("collecting", f"collecting failed and begins anew later: {error}", error)
                await self._broken_off(error)

    async def _broken_off(self, error: Exception) -> None:
        self._agent.metrics.count("mesh_collections_total", outcome="broken off")
        self._say(f"waits after a round that was broken off: {error}")
        if not isinstance(error, Retry):
            self._pace.ended(removed=0)  # hurrying does not help
        await self._agent.pause(LOOK_S)

    async def _collect(self, notes: CollectorNotes) -> None:
        """Round after round."""
        while not self._agent.stopping.is_set():
            await self._wait(min(LOOK_S, await self._due_in()))
            if await self._due_in() <= 0:
                await self._round(notes, self._history.beside("look.db"))

    async def _due_in(self) -> float:
        """Seconds until a round is due, with the store's use as it is now."""
        await self._look_at_use()
        assert self._state is not None
        return self._pace.due_in(now_s(), self._use.size_bytes, self._use.limit_bytes)

    async def _look_at_use(self) -> None:
        self._state = await self._agent.broker.state(self._agent.stream(streams.ARTIFACTS))
        size, limit = self._state.size_bytes, self._state.limit_bytes
        if self._shared:
            size, limit = await self._use_elsewhere()
        self._use = self._use.evolve(where=self._backend.where, size_bytes=size, limit_bytes=limit)
        self._agent.metrics.set("mesh_store_bytes", size)
        self._agent.metrics.set("mesh_store_limit_bytes", limit)

    async def _use_elsewhere(self) -> tuple[int, int]:
        """Of a folder or bucket, as it was when all was last listed; one that is away says nothing."""
        try:
            return await self._backend.use()
        except BusUnavailable:
            return -1, -1

    @property
    def _backend(self) -> ObjectBackend:
        return self._agent.store().backend

    async def _wait(self, seconds: float) -> None:
        """Pause; reports of readers are looked at meanwhile."""
        until = now_s() + seconds
        assert self._suspects is not None
        while not self._agent.stopping.is_set():
            self._bell.clear()
            await self._suspects.look()
            if now_s() >= until:
                return
            await within(min(LOOK_S, until - now_s()), self._bell)

    def _say(self, state: str) -> None:
        self._use = self._use.evolve(state=state)

    # -- a round ------------------------------------------------------------------------------------------------------

    async def _round(self, notes: CollectorNotes, scratch: Path) -> None:
        self._pace.began(now_s())
        if not await self._may_begin():
            self._pace.ended(removed=0)
            return
        passed_s, self._passed_at = now_s() - self._passed_at, now_s()
        notes.follow(f"{self._backend.where} {self._history.ledger.generation} {self._created()}")
        number = notes.next_round(passed_s)
        pressed = self._pace.pressed(self._use.size_bytes, self._use.limit_bytes)
        rules, before = self._pace.rules(pressed=pressed), self._removed
        with contextlib.closing(Sieve(scratch)) as sieve:
            marking = Marking(self._agent, self._history, self._backend, notes, sieve, rules)
            self._say("looks at what is stored, and what names it")
            if self._shared:
                marking.owner = await self._owner()
            mark = await patiently(self._backend.mark)
            await marking.find()
            await marking.name()
            await marking.judge(mark, number)
            last, lists = await self._condemn(sieve, marking)
            self._looked(marking, lists)
            if lists:
                self._say("waits before it removes what it has condemned")
                await self._wait(rules.wait_s)
                await self._remove(sieve, marking, notes, mark, number, last)
                self._over |= dict.fromkeys(lists, now_s())
        self._pace.ended(removed=self._removed - before)
        self._agent.metrics.count("mesh_collections_total", outcome="done")
        self._say("waits for the next round")

    async def _owner(self) -> str:
        """This mesh, in a place that others could use too; says so there. A folder or bucket is easily named twice."""
        first = await self._agent.broker.read(
            self._agent.stream(streams.LEDGER), self._agent.subjects.ledger(), messages_max=1
        )
        if not first:
            raise Conflict("a leader writes the ledger before it collects, and the ledger is empty: it was replaced")
        mesh = codec.digest(first[0].data)
        entry = FileEntry(path="mesh", size_bytes=0, objects=(), sizes=())
        data = codec.encode(Manifest(media=OWNER, files=(entry,), facts={"mesh": mesh}))
        await patiently(lambda: self._backend.put(manifest(codec.digest(data)), data))
        return mesh

    def _created(self) -> str:
        return self._state.created if self._state is not None else ""

    async def _may_begin(self) -> bool:
        """Remove old lists; is there room for new ones?"""
        stream, now = self._agent.stream(streams.CONDEMNED), now_s()
        state = await self._agent.broker.state(stream)
        self._list = state.last_seq
        for number in range(state.first_seq, state.last_seq + 1):
            self._over.setdefault(number, now)  # of an earlier leader: its round is over, who knows since when
        kept = [number for number, at in self._over.items() if now - at < KEEP_LISTS_S]
        below = min([*kept, state.last_seq])  # the newest always stays: it tells readers how far they have read
        if below > state.first_seq:
            await self._agent.broker.purge(stream, below_seq=below)
        self._over = {number: at for number, at in self._over.items() if number >= below}
        if state.last_seq - below >= LISTS_MAX:
            self._say("waits until fewer lists of the condemned are kept")
            return False
        return True

    async def _publish(self, names: Iterable[ObjectName], why: Why) -> int:
        """Publish a list; its number. Conflict when another leader has published one since."""
        record = condemn(names, why, self._agent.incarnation, self._history.ledger.term)
        if not self._list:
            self._list = (await self._agent.broker.state(self._agent.stream(streams.CONDEMNED))).last_seq
        known, self._list = self._list, 0  # whatever fails: asked for again before the next list
        self._list = await self._agent.broker.append(
            self._agent.subjects.condemned(), codec.encode(record), stream_seq=known
        )
        return self._list

    async def _condemn(self, sieve: Sieve, marking: Marking) -> tuple[ObjectName | None, list[int]]:
        """Publish what is condemned: (the last object in the sieve's order, the lists' numbers)."""
        dead = (name for page in sieve.dead() for name, _ in page)
        doomed = (name for page in sieve.doomed() for name in page)
        last, lists, count = None, list[int](), 0
        cut = portions(itertools.chain(dead, doomed), ROWS_BYTES_MAX)
        for portion in itertools.islice(cut, LISTS_PER_ROUND_MAX):
            lists.append(await self._publish(portion, Why.GARBAGE))
            count += len(portion)
            objects = [name for name in portion if name.kind != MANIFEST]
            last = objects[-1] if objects else last
        stored = marking.manifests + marking.objects
        share = count / stored if stored else 0.0
        self._use = self._use.evolve(garbage=count, garbage_bytes=round(share * max(0, self._use.size_bytes)))
        return last, lists

    def _looked(self, marking: Marking, lists: list[int]) -> None:
        self._looked_at = now_s()
        self._use = self._use.evolve(objects=marking.objects, manifests=marking.manifests, missing=len(marking.missing))
        self._agent.metrics.set("mesh_store_garbage", self._use.garbage)
        if self._suspects is not None:
            self._suspects.add(map(str, marking.corrupt))
        if lists:
            self._agent.log.info(
                "%d of %d stored objects and manifests are condemned, in %d lists",
                self._use.garbage, marking.objects + marking.manifests, len(lists),
            )  # fmt: skip

    # -- removing -----------------------------------------------------------------------------------------------------

    async def _remove(
        self, sieve: Sieve, marking: Marking, notes: CollectorNotes, mark: str, number: int, last: ObjectName | None
    ) -> None:
        """The second look, and what follows from it."""
        self._say("looks again at what it has condemned")
        connection = self._connection
        await marking.name()
        await marking.judge_again(mark, number)
        self._say("removes what it has condemned")
        survivors = list[ObjectName]()
        for page in sieve.dead():
            for some in _slices(page):
                await self._check_ours(connection)
                gone = await self._remove_all(some, "manifest")
                survivors += [name for name, _ in some if name not in gone]
        for name in survivors:
            notes.begin_anew(name.digest)
        await marking.find_new_manifests(frozenset(survivors))
        if last is None:
            return
        for names in sieve.doomed():
            for some in _slices([(name, mark) for name in names if name <= last]):
                await self._check_ours(connection)
                await self._remove_all(some, "object")

    async def _remove_all(self, names: list[tuple[ObjectName, str]], kind: str) -> set[ObjectName]:
        """Remove these versions; which of them were there."""
        gone, checked_at = set[ObjectName](), now_s()

        async def one(item: tuple[ObjectName, str]) -> None:
            name, mark = item
            if now_s() - checked_at > CHECK_HOLDS_S:
                raise Conflict("the leader was held up, another one may collect by now: nothing more is removed")
            if await patiently(lambda: self._backend.remove(name, mark=mark)):
                gone.add(name)

        await in_window(names, one, REMOVE_WINDOW)
        self._removed += len(gone)
        self._agent.metrics.count("mesh_collected_total", len(gone), kind=kind)
        await asyncio.sleep(REMOVE_PAUSE_S)
        return gone

    async def _check_ours(self, connection: int) -> None:
        """Conflict unless nobody else collects, and the store is the one that was looked at."""
        state = await self._agent.broker.state(self._agent.stream(streams.CONDEMNED))
        if state.last_seq != self._list or connection != self._connection:
            raise Conflict("the store, or who collects, may be another one now: nothing more is removed")


def _slices(names: list[tuple[ObjectName, str]]) -> Iterator[list[tuple[ObjectName, str]]]:
    for first in range(0, len(names), REMOVED_AT_ONCE):
        yield names[first : first + REMOVED_AT_ONCE]
