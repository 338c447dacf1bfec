"""Marking: one look at all that is stored and all that names it, into a sieve. The judging is planner/collecting.py's.

    found     every stored name
    named     pushed models -> topics -> the ledger -> open and parked tasks -> results -> champions -> the graph, and
              the tasks once more. A name only ever moves along this way before it leaves the place where it was, so
              whoever reads along it does not miss one that moves meanwhile
    judged    every stored manifest: named, awaited, or dead; what living ones need is kept: the objects that they name,
              and those in the lists of large ones

Nothing here waits long or takes much memory: pages come and go, and between them the scheduler has its turns.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial

from agents.runtime import Agent
from agents.scheduler_history import History
from mesh import codec, coding, limits, streams
from mesh.bus import Stored
from mesh.collector_notes import CollectorNotes
from mesh.errors import ArtifactCorrupt, EnvironmentUnfit, Malformed, NotFound
from mesh.messages.artifacts import Manifest, ObjectList
from mesh.messages.ledger import Entry, Recommended, TaskSucceeded
from mesh.messages.object_names import MANIFEST, ObjectName, manifest, whole
from mesh.objects import ObjectBackend
from mesh.sieve import PAGE, Sieve
from mesh.windows import in_window, patiently
from planner.collecting import OWNER, Named, Rules, Standing, digests_in, digests_of, judge, objects_in, objects_of

MESSAGES_READ = 128
"""Messages read at once: some 250 kB of results, a few MB of ledger entries."""

TASKS_AT_ONCE = 500
"""Tasks whose needs are noted between two turns of the loop: some 3 ms."""

DEAD_MAX = 20_000
"""Manifests condemned in one round; what is beyond is condemned in the next."""

LISTS_READ_MAX = 50_000
"""Lists of which one round remembers that it has read them: 75 TB of artifacts, 6 MB here. Then it begins anew. Also
how many may be missing."""


class Unreadable(Malformed):
    """A manifest is stored that this program can not read: what it names is unknown, so nothing is condemned."""


class ForeignStore(EnvironmentUnfit):
    """Another mesh keeps its artifacts here: what it needs is unknown, so nothing is condemned."""


class Marking:
    """The looks of one round."""

    def __init__(
        self, agent: Agent, history: History, backend: ObjectBackend, notes: CollectorNotes, sieve: Sieve, rules: Rules
    ) -> None:
        self._agent, self._history, self._backend = agent, history, backend
        self._notes, self._sieve, self._rules = notes, sieve, rules
        self.owner = ""
        """The mesh whose store this is, where several could use one; what another one has left ends the look."""
        self.manifests = self.objects = self.dead = 0
        """Found, found, and judged to be dead."""
        self.corrupt: list[ObjectName] = []
        """Manifests, and lists of objects, that do not match their digest."""
        self._lists_read: set[str] = set()
        """Digests of lists whose objects are kept."""
        self._lists_missing: set[str] = set()
        """Digests of lists that a living manifest names, and that were gone or corrupt."""
        self.missing: set[str] = set()
        """Artifacts of champions that are not stored."""

    # -- what is stored -----------------------------------------------------------------------------------------------

    async def find(self) -> None:
        """Everything that is stored now."""
        async for page in _pages(self._backend.names()):
            self._sieve.find(page)
            manifests = sum(name.kind == MANIFEST for name in page)
            self.manifests += manifests
            self.objects += len(page) - manifests
            await asyncio.sleep(0)

    async def find_new_manifests(self, except_for: frozenset[ObjectName]) -> None:
        """What manifests need that came since `find`, and those that were to be removed and were written again; and
        what lists name that were missing and have come."""
        missing, self._lists_missing = self._lists_missing, set()
        await in_window(map(whole, sorted(missing)), self._keep_listed)
        async for page in _pages(self._backend.names()):
            new = [
                name
                for name in page
                if name.kind == MANIFEST and (name in except_for or not self._sieve.has_found(name))
            ]
            await in_window(new, self._keep)
            await asyncio.sleep(0)

    # -- what names it ------------------------------------------------------------------------------------------------

    async def name(self) -> None:
        """Everything that is named by what is kept."""
        subjects, stream = self._agent.subjects, self._agent.stream
        self._sieve.forget_named()
        await self._named_in(subjects.bucket(streams.MODELS), subjects.keys(streams.MODELS))
        topics = await self._named_in(stream(streams.TOPICS), subjects.topics())
        await self._name_made(topics)
        await self._name_tasks()
        await self._name_told()
        await self._named_in(subjects.bucket(streams.CHAMPIONS), subjects.keys(streams.CHAMPIONS), vital=True)
        await self._named_in(subjects.bucket(streams.GRAPH), subjects.keys(streams.GRAPH))
        for page in self._notes.pinned():
            self._sieve.name(page, Named.BY_RECORD)
        if (snapshot := self._history.snapshots.newest) is not None:
            self._sieve.name([snapshot.manifest], Named.BY_RECORD)
        await self._name_tasks()

    async def _named_in(self, stream: str, subject: str, *, vital: bool = False) -> set[str]:
        """All that the messages of a stream name; the last words of their subjects."""
        words = set[str]()
        async for page in self._messages(stream, subject):
            for message in page:
                digests = set(digests_in(message.data))
                self._note(digests, vital=vital)
                words.add(message.subject.rpartition(".")[2])
        return words

    def _note(self, digests: Iterable[str], *, vital: bool) -> None:
        found = list(digests)
        self._sieve.name(found, Named.BY_RECORD)
        if vital:
            self.missing.update(digest for digest in found if not self._sieve.has_found(manifest(digest)))

    async def _name_tasks(self) -> None:
        """What open and parked tasks need."""
        ledger = self._history.ledger
        tasks = iter([*ledger.tasks.values(), *ledger.dead_letters.values()])
        while some := list(itertools.islice(tasks, TASKS_AT_ONCE)):
            self._note({digest for task in some for digest in digests_of(task)}, vital=False)
            await asyncio.sleep(0)

    async def _name_made(self, topics: set[str]) -> None:
        """What was made for topics that can be read or that have open tasks, as the ledger tells it."""
        await self._read_ledger(topics)
        open_topics, over = self._history.ledger.by_topic, set[str]()
        for topic in self._notes.topics():
            if topic not in open_topics and topic not in topics:
                over.add(topic)
                continue
            how = Named.BY_RECORD if topic in open_topics else Named.BY_TOPIC
            self._sieve.name(self._notes.made_for(topic), how)
            await asyncio.sleep(0)
        self._notes.forget_topics(over)

    async def _read_ledger(self, topics: set[str]) -> None:
        ledger, (read, _) = self._history.ledger, self._notes.read_to()
        async for page in self._messages(self._agent.stream(streams.LEDGER), self._agent.subjects.ledger(), read + 1):
            for message in page:
                made, pinned = list[tuple[str, str]](), set[str]()
                for event in codec.decode(message.data, Entry).events:
                    if isinstance(event, TaskSucceeded):
                        topic = _topic_of(event.task, self._history)
                        if topic in topics or topic in ledger.by_topic:
                            made += ((topic, digest) for digest in _artifacts(event.outcome.outputs.values()))
                    elif isinstance(event, Recommended):
                        pinned.update(_artifacts([event.recommendation.champion_before]))
                self._notes.learn(message.seq, made, pinned)
                await asyncio.sleep(0)

    async def _name_told(self) -> None:
        """What records for subscribers name that can still be read."""
        stream = self._agent.stream(streams.RESULTS)
        kept_from = (await patiently(lambda: self._agent.broker.state(stream))).first_seq
        _, read = self._notes.read_to()
        async for page in self._messages(stream, self._agent.subjects.results(), read + 1):
            for message in page:
                self._notes.hear(message.seq, set(digests_in(message.data)))
        for digests in self._notes.told(kept_from):
            self._sieve.name(digests, Named.BY_RECORD)
            await asyncio.sleep(0)

    async def _read(self, stream: str, subject: str, from_seq: int) -> list[Stored]:
        return await self._agent.broker.read(stream, subject, from_seq=from_seq, messages_max=MESSAGES_READ)

    async def _messages(self, stream: str, subject: str, from_seq: int = 1) -> AsyncIterator[list[Stored]]:
        while True:
            try:
                page = await patiently(partial(self._read, stream, subject, from_seq))
            except NotFound:  # a mesh that never had it
                return
            if not page:
                return
            yield page
            await asyncio.sleep(0)
            from_seq = page[-1].seq + 1

    # -- the judging --------------------------------------------------------------------------------------------------

    async def judge(self, mark: str, round_: int) -> None:
        """Every manifest that was found. mark: the moment before the look."""

        async def one(name: ObjectName) -> None:
            found = await self._manifest(name)
            if found is None:  # should it be written again, it is a new one
                self._sieve.lose(name)
                return
            if found.media == OWNER and self.owner not in ("", found.facts.get("mesh")):
                raise ForeignStore(
                    f"Another mesh stores its artifacts in {self._backend.where} too, so nothing is removed there: "
                    f"give each a place of its own. If that mesh is gone for good, remove the manifest {name.digest}."
                )
            judgement = judge(found, Named(self._sieve.named(name.digest)), self._history.ledger, self._rules)
            if judgement.standing is Standing.AWAITED:
                since, age_s = self._notes.awaited(name.digest, mark, round_)
                if age_s >= judgement.keep_s and self._bury(name, since):
                    return
            elif judgement.standing is Standing.DEAD and self._bury(name, mark):
                return
            await self._keep_all(found)

        for page in self._sieve.manifests():
            await in_window(page, one)
        self._notes.forget_others(round_)

    def _bury(self, name: ObjectName, mark: str) -> bool:
        if self.dead >= DEAD_MAX:
            return False
        self.dead += 1
        self._sieve.bury(name, mark)
        return True

    async def judge_again(self, mark: str, round_: int) -> None:
        """Dead manifests that have a name by now live, and those for which one may come again."""

        async def one(name: ObjectName) -> None:
            found = await self._manifest(name)
            if found is None:
                return
            judgement = judge(found, Named(self._sieve.named(name.digest)), self._history.ledger, self._rules)
            if judgement.standing is Standing.AWAITED:
                _, age_s = self._notes.awaited(name.digest, mark, round_)
            if judgement.standing is Standing.NAMED or (
                judgement.standing is Standing.AWAITED and age_s < judgement.keep_s
            ):
                self._sieve.spare(name)
                await self._keep_all(found)

        for page in self._sieve.dead():
            await in_window([name for name, _ in page], one)

    async def _keep(self, name: ObjectName) -> None:
        if (found := await self._manifest(name)) is not None:
            await self._keep_all(found)

    async def _keep_all(self, found: Manifest) -> None:
        await self._keep_names(objects_of(found))
        for entry in found.files:
            for digest in entry.lists:
                await self._keep_listed(whole(digest))

    async def _keep_listed(self, name: ObjectName) -> None:
        """What a list names. One that was read in this round needs no second reading: its bytes never change."""
        if name.digest in self._lists_read:
            return
        found = await self._list(name)
        if found is None:  # nobody can read that artifact; its manifest is not new when somebody stores it all again
            if len(self._lists_missing) >= LISTS_READ_MAX:
                raise Unreadable(f"{LISTS_READ_MAX} lists of objects are not stored: this store has lost too much.")
            self._lists_missing.add(name.digest)
            return
        await self._keep_names(objects_in(found))
        if len(self._lists_read) >= LISTS_READ_MAX:
            self._lists_read.clear()
        self._lists_read.add(name.digest)

    async def _keep_names(self, names: Iterator[ObjectName]) -> None:
        while page := list(itertools.islice(names, PAGE)):
            self._sieve.keep(page)
            await asyncio.sleep(0)

    async def _list(self, name: ObjectName) -> ObjectList | None:
        """A stored list of objects; None when it is gone or corrupt. Unreadable when it is of another program."""
        stored = await patiently(lambda: self._backend.get(name))
        if stored is None:
            return None
        try:
            body = bytes(coding.decode(stored))
        except ArtifactCorrupt:
            body = b""
        if codec.digest(body) != name.digest:
            self.corrupt.append(name)
            return None
        try:
            return codec.decode(body, ObjectList)
        except Malformed as error:
            raise _unreadable(name, error) from None

    async def _manifest(self, name: ObjectName) -> Manifest | None:
        """A stored manifest; None when it is gone, or none at all. Unreadable when it is of another program."""
        data = await patiently(lambda: self._backend.get(name))
        if data is None:
            return None
        if codec.digest(data) != name.digest:
            self.corrupt.append(name)
            return None
        try:
            return codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        except Malformed as error:
            raise _unreadable(name, error) from None


def _unreadable(name: ObjectName, error: Malformed) -> Unreadable:
    what = "manifest" if name.kind == MANIFEST else "list of objects"
    return Unreadable(
        f"The {what} {name.digest[:16]} can not be read, so what it names is unknown and nothing is removed: "
        f"update this scheduler. ({error})"
    )


async def _pages(names: AsyncIterator[ObjectName]) -> AsyncIterator[list[ObjectName]]:
    page = list[ObjectName]()
    async for name in names:
        page.append(name)
        if len(page) >= PAGE:
            yield page
            page = []
    if page:
        yield page


def _topic_of(task: str, history: History) -> str:
    open_task, line = history.ledger.tasks.get(task), history.ledger.ended.get(task)
    return open_task.spec.topic if open_task is not None else line.topic if line is not None else ""


def _artifacts(texts: Iterable[str]) -> Iterator[str]:
    """Those that are digests; others are names that every worker resolves by itself."""
    return (text for text in texts if len(text) == limits.DIGEST_CHARS and not set(text) - set("0123456789abcdef"))
