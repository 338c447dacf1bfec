"""Ten thousand uploads that are torn at random: never is a manifest in the store whose objects are not.

One store outlives them all. Uploads of plain files and of packed checkpoints (whole objects and deltas, what did not
change left out), small ones and such whose objects stand in lists, run into it one after the other; most are killed at
a random call, with what was under way done or not. Between them objects that no manifest names are collected, the store
comes back older, is full, or goes away. Whatever a reader could choose is whole: every manifest is looked at after
every upload, and samples are read to the last byte.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from mesh import artifact_putting, codec, coding, limits, object_lists, windows
from mesh.artifacts import ArtifactStore
from mesh.errors import ArtifactMissing, BusUnavailable, DiskFull, RamifyError
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.object_names import MANIFEST, ObjectName
from mesh.object_lists import Rules, parts_of

CHUNK = 64
"""Bytes of a chunk here: a checkpoint of ten chunks is as torn as one of ten thousand."""

TORN = 10_000
PER_STORE = 400
"""Uploads into one store, before it is begun anew: objects do not pile up."""

RULES = Rules(inline=5, rows=2)
"""A state of three to eight chunks is named by its manifest, or by two to four lists."""


class Killed(BaseException):
    """The uploader is gone."""


class Shelf:
    """A store in memory under which an uploader dies, fills it, or loses sight of it."""

    where = "a shelf"

    def __init__(self, rng: random.Random) -> None:
        self.held: dict[ObjectName, bytes] = {}
        self.new_manifests: list[str] = []
        self._rng = rng
        self._left = 0
        self._end: Callable[[], BaseException] = Killed

    def arm(self, calls: int, end: Callable[[], BaseException]) -> None:
        """After so many calls nothing works any more."""
        self._left, self._end = calls, end

    async def _call(self) -> bool:
        """One call under way; True when it is carried out although its caller will not hear of it."""
        await asyncio.sleep(0)
        self._left -= 1
        if self._left >= 0:
            return False
        if self._rng.random() < 0.5:
            raise self._end()
        return True

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        unheard = await self._call()
        there = name in self.held
        if over or not there:
            self.held[name] = data
            if name.kind == MANIFEST:
                self.new_manifests.append(name.digest)
        if unheard:
            raise self._end()
        return over or not there

    async def get(self, name: ObjectName) -> bytes | None:
        await self._call()
        return self.held.get(name)

    async def has(self, name: ObjectName) -> bool:
        await self._call()
        return name in self.held

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        await self._call()
        return {name for name in names if name not in self.held}

    async def names(self) -> AsyncIterator[ObjectName]:
        for name in list(self.held):
            yield name

    async def mark(self) -> str:
        return ""

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        return self.held.pop(name, None) is not None

    async def close(self) -> None:
        pass


PACKED: dict[ObjectName, bytes] = {}
"""What a packer has made for the upload that runs, in memory in place of files."""


class Training:
    """A state that changes a little from checkpoint to checkpoint, put plainly or packed."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self._rng = rng
        self._folder = folder
        self._chunks = [rng.randbytes(CHUNK) for _ in range(rng.randint(3, 8))]
        self._stored: dict[int, tuple[str, str]] = {}
        """Place of a chunk to (digest, base) of the last checkpoint that is stored."""
        self._bases: dict[int, tuple[str, bytes]] = {}
        self.expected: dict[str, bytes] = {}

    def step(self) -> None:
        """Some chunks change in some bytes."""
        for place in self._rng.sample(range(len(self._chunks)), self._rng.randint(0, len(self._chunks))):
            chunk = bytearray(self._chunks[place])
            chunk[self._rng.randrange(0, CHUNK, 4)] ^= 1
            self._chunks[place] = bytes(chunk)

    @property
    def content(self) -> bytes:
        """The state's bytes."""
        return b"".join(self._chunks)

    async def put(self, store: ArtifactStore) -> str:
        """As a file."""
        path = self._folder / "state"
        path.write_bytes(self.content)
        return await store.put(path, media="checkpoint")

    async def put_packed(self, store: ArtifactStore) -> str:
        """As a packer does: what the last stored checkpoint had is left out; anew when it is not there any more."""
        try:
            return await self._pack(store)
        except ArtifactMissing:
            self._stored.clear()
            self._bases.clear()
            return await self._pack(store)

    async def _pack(self, store: ArtifactStore) -> str:
        named, bases = dict[int, tuple[str, str]](), dict(self._bases)
        PACKED.clear()
        for place, chunk in enumerate(self._chunks):
            digest = codec.digest(chunk)
            known = self._stored.get(place)
            if known is not None and known[0] == digest:
                named[place] = known
                continue
            named[place] = self._code(digest, chunk, bases.get(place))
            if not named[place][1]:
                bases[place] = (digest, coding.RAW_HEADER + chunk)
        order = range(len(self._chunks))
        objects, bases_of = [named[place][0] for place in order], [named[place][1] for place in order]
        sizes, lists = (CHUNK,) * len(order), list[str]()
        if len(order) > RULES.inline:
            for first in range(0, len(order), RULES.rows):
                some = slice(first, first + RULES.rows)
                data = object_lists.list_of(objects[some], sizes[some], bases_of[some])
                lists.append(codec.digest(data))
                PACKED[object_names.whole(lists[-1])] = coding.RAW_HEADER + data
            objects, bases_of, sizes = [], [], ()
        entry = FileEntry(
            path="state",
            size_bytes=len(self.content),
            objects=tuple(objects),
            sizes=sizes,
            bases=tuple(bases_of),
            lists=tuple(lists),
        )
        digest = await store.put_packed([entry], self._folder, media="checkpoint")
        self._stored, self._bases = named, bases
        return digest

    def _code(self, digest: str, chunk: bytes, base: tuple[str, bytes] | None) -> tuple[str, str]:
        """Write one new object, now and then as a delta; its digest and its base."""
        stored = b""
        if base is not None and base[0] != digest and self._rng.random() < 0.4:
            content = coding.decode(base[1])
            stored = coding.encode(chunk, item_bytes=4, base=content, base_digest=base[0])
        against = coding.base_of(stored) if stored else ""
        name = object_names.of_part(digest, against)
        PACKED[name] = stored if against else coding.RAW_HEADER + chunk
        return digest, against


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return work(*arguments, **named)

    monkeypatch.setattr(limits, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(artifact_putting, "_packed_among", lambda names, _: PACKED.keys() & set(names))
    monkeypatch.setattr(artifact_putting, "_packed_bytes", lambda name, _: PACKED.get(name))
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)
    monkeypatch.setattr(asyncio, "to_thread", at_once)


def store(shelf: Shelf, cache: Path) -> ArtifactStore:
    server = MemoryServer()
    return ArtifactStore(
        server.connect("w"), server.subjects, cache=cache, cache_bytes_max=10**6, backend=shelf, rules=RULES
    )


def needed(shelf: Shelf, data: bytes) -> set[ObjectName]:
    """Every object without which an artifact can not be read."""
    entries = codec.decode(data, Manifest).files
    lists = object_lists.list_names(entries)
    names = {name for entry in entries for name, _ in parts_of(entry)}
    for name in lists & shelf.held.keys():
        found = object_lists.read_list(name.digest, bytes(coding.decode(shelf.held[name])))
        names.update(part for part, _ in parts_of(object_lists.entry_of("file", found)))
    return lists | names | {object_names.whole(name.base) for name in names if name.base}


def collect(shelf: Shelf) -> None:
    """Remove what no manifest names."""
    named = {name for key, data in shelf.held.items() if key.kind == MANIFEST for name in needed(shelf, data)}
    for name in [name for name in shelf.held if name.kind != MANIFEST and name not in named]:
        del shelf.held[name]


@pytest.mark.timeout(400)  # ten seconds on a quiet core
async def test_of_ten_thousand_torn_uploads_no_part_is_ever_an_artifact(tmp_path: Path) -> None:
    rng = random.Random(20_261_121)
    torn = whole = 0
    while torn < TORN:
        shelf, folder = Shelf(rng), tmp_path / f"{torn}"
        (folder / "work").mkdir(parents=True)
        training, uploader = Training(rng, folder / "work"), store(shelf, folder / "cache")
        for _ in range(PER_STORE):
            training.step()
            end = rng.choices((Killed, BusUnavailable, DiskFull), (8, 1, 1))[0]
            shelf.arm(rng.randint(0, 5) if rng.random() < 0.92 else 10**9, end)
            put = rng.choice((training.put, training.put_packed))
            try:
                digest = await put(uploader)
            except (Killed, RamifyError):
                torn += 1
            else:
                whole += 1
                assert object_names.manifest(digest) in shelf.held
            shelf.arm(10**9, Killed)
            check(shelf)
            if rng.random() < 0.02:
                await read_newest(shelf, folder, training)
            uploader = meanwhile(rng, shelf, folder, uploader)
    assert whole > TORN // 10, whole


def check(shelf: Shelf) -> None:
    """Every manifest that came in has all that it names."""
    for digest in shelf.new_manifests:
        missing = needed(shelf, shelf.held[object_names.manifest(digest)]) - shelf.held.keys()
        assert not missing, f"{digest} is in the store and {missing} are not"
    shelf.new_manifests.clear()


async def read_newest(shelf: Shelf, folder: Path, training: Training) -> None:
    """Read any of the artifacts, as a worker elsewhere would."""
    digests = [name.digest for name in shelf.held if name.kind == MANIFEST]
    if digests:
        got = await store(shelf, folder / "elsewhere").get(digests[-1])
        assert len((got / "state").read_bytes()) == len(training.content)


def meanwhile(rng: random.Random, shelf: Shelf, folder: Path, uploader: ArtifactStore) -> ArtifactStore:
    """What happens between two uploads; the uploader that goes on."""
    event = rng.random()
    if event < 0.05:  # garbage is collected long after it was believed to be there
        collect(shelf)
        uploader.forget_stored()
    elif event < 0.08:  # the store comes back older, and everybody hears of it
        for name in rng.sample(sorted(shelf.held), len(shelf.held) // 3):
            if name.kind == MANIFEST:
                del shelf.held[name]
        collect(shelf)
        uploader.forget_stored()
    elif event < 0.2:  # another life, which believes nothing
        return store(shelf, folder / "cache")
    return uploader
