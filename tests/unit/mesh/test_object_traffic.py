"""Sealing: no manifest without its objects, no digest told while one is condemned; long uploads leave traces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import artifact_putting, codec, coding, limits, streams, windows
from mesh.artifact_putting import Putting
from mesh.condemned import CondemnedLists
from mesh.errors import BusUnavailable
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest
from mesh.messages.collecting import Why, condemn
from mesh.messages.object_names import MANIFEST, ObjectName
from mesh.object_lists import Rules, batches, parts_of
from mesh.object_traffic import Asking, Traffic
from mesh.objects import JetStreamBackend
from mesh.put_memory import PutMemory
from mesh.subjects import Subjects

SUBJECTS = Subjects()
BODIES = {object_names.whole(codec.digest(body)): body for body in (b"one", b"two", b"three")}
NAMES = sorted(BODIES)
MANIFEST_BYTES = b"manifest"
DIGEST = codec.digest(MANIFEST_BYTES)


class Watched(JetStreamBackend):
    """A backend that remembers what was put, and lets a test step in."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, SUBJECTS)
        self.puts: list[tuple[ObjectName, bool]] = []
        self.after_manifest: list[Callable[[], object]] = []

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        self.puts.append((name, over))
        stored = await super().put(name, data, over=over)
        if name.kind == MANIFEST and self.after_manifest:
            await self.after_manifest.pop(0)()  # type: ignore[misc]
        return stored


class Stage:
    """One uploader and the collector's hand."""

    def __init__(self) -> None:
        server = MemoryServer()
        self.hand, broker = server.connect("hand"), server.connect("w")
        self.backend = Watched(broker)
        self.now = 0.0
        lists = CondemnedLists(broker, SUBJECTS)
        self.traffic = Traffic(self.backend, condemned=lists, clock=lambda: self.now)

    async def start(self) -> Stage:
        await streams.ensure_all(self.hand, streams.table(SUBJECTS, artifact_bytes_max=1 << 28))
        return self

    async def condemn(self, *names: ObjectName) -> None:
        await self.hand.append(SUBJECTS.condemned(), codec.encode(condemn(names, Why.GARBAGE, "s.1", 1)))

    async def send(self, name: ObjectName, over: bool = False) -> None:
        await self.traffic.send(name, coding.RAW_HEADER + BODIES[name], Asking(), over=over)

    async def seal(self) -> list[tuple[ObjectName, bool]]:
        """What was put while sealing."""
        self.backend.puts.clear()
        await self.traffic.seal(NAMES, DIGEST, MANIFEST_BYTES, self.send)
        return self.backend.puts


@pytest.fixture
async def stage() -> Stage:
    return await Stage().start()


SEAL = (object_names.manifest(DIGEST), True)


async def test_what_is_there_is_not_sent_and_the_manifest_is(stage: Stage) -> None:
    for name in NAMES:
        await stage.send(name)
    assert await stage.seal() == [SEAL]
    assert await stage.seal() == [SEAL]  # written anew each time: its age begins again


async def test_what_is_lost_is_sent_before_the_manifest(stage: Stage) -> None:
    await stage.send(NAMES[0])
    assert await stage.seal() == [(NAMES[1], False), (NAMES[2], False), SEAL]


async def test_what_is_condemned_is_sent_over_the_old_one_once(stage: Stage) -> None:
    for name in NAMES:
        await stage.send(name)
    await stage.condemn(NAMES[1])
    assert await stage.seal() == [(NAMES[1], True), SEAL]
    assert await stage.seal() == [SEAL]


async def test_what_is_condemned_while_the_manifest_is_written_is_sent_before_anybody_is_told(stage: Stage) -> None:
    for name in NAMES:
        await stage.send(name)
    stage.backend.after_manifest.append(lambda: stage.condemn(NAMES[0], NAMES[2]))
    assert await stage.seal() == [SEAL, (NAMES[0], True), (NAMES[2], True)]


async def test_missed_lists_mean_that_everything_is_asked_for(stage: Stage) -> None:
    for name in NAMES:
        await stage.send(name)
    await stage.condemn(NAMES[0])
    await stage.seal()
    for name in (NAMES[1], NAMES[2]):
        await stage.condemn(name)
    await stage.condemn(object_names.whole("0" * 64))
    await stage.hand.purge(SUBJECTS.stream(streams.CONDEMNED), below_seq=4)
    await stage.backend.remove(NAMES[1])
    assert await stage.seal() == [(NAMES[1], False), SEAL]


async def test_a_store_that_loses_everything_is_given_up(stage: Stage) -> None:
    async def lose() -> None:
        await stage.condemn(*NAMES)

    async def send(name: ObjectName, over: bool) -> None:
        await stage.send(name, over)
        await lose()

    await stage.condemn(*NAMES)
    with pytest.raises(BusUnavailable, match="as fast as they are sent"):
        await stage.traffic.seal(NAMES, DIGEST, MANIFEST_BYTES, send)


async def test_a_whole_object_is_renewed_from_what_is_stored_unless_it_is_wrong(stage: Stage) -> None:
    await stage.send(NAMES[0])
    await stage.condemn(NAMES[0])

    async def renew(name: ObjectName, over: bool) -> None:
        assert over
        assert await stage.traffic.renew(name)

    assert not await stage.traffic.settle(NAMES[:1], renew)
    assert await stage.traffic.settle(NAMES[:1], renew)
    assert not await stage.traffic.renew(NAMES[1])
    await stage.backend.put(NAMES[1], coding.RAW_HEADER + b"something else")
    assert not await stage.traffic.renew(NAMES[1])
    assert not await stage.traffic.renew(object_names.delta("1" * 64, "2" * 64))


@pytest.mark.parametrize("inline", [4, 3, 1, 0])
async def test_a_long_upload_names_what_it_has_sent(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: int
) -> None:
    monkeypatch.setattr(limits, "CHUNK_BYTES", 1_000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file.bin").write_bytes(b"".join(bytes([number]) * 1_000 for number in range(4)))
    inner = windows.in_window

    async def one_by_one(items: object, work: object) -> None:
        async def slowly(item: object) -> None:
            stage.now += limits.UPLOAD_REFRESH_S / 2
            await work(item)  # type: ignore[operator]

        await inner(items, slowly, 1)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact_putting, "in_window", one_by_one)
    putting = Putting(stage.traffic, PutMemory(tmp_path / "memory"), Rules(inline=inline, rows=2))
    await putting.put(tmp_path / "in", "dataset", None, None, True)
    found = [name async for name in stage.backend.names() if name.kind == MANIFEST]
    manifests = [codec.decode(await stage.backend.get(name) or b"", Manifest) for name in found]
    manifests.sort(key=lambda one: (one.media == "dataset", one.size_bytes))
    named = [
        [name.digest for batch in [b async for b in batches(manifest.files, stage.traffic.fetch_list)]
         for portion in batch for name, _ in parts_of(portion.entry)]
        for manifest in manifests
    ]  # fmt: skip
    assert [(manifest.media, len(names)) for manifest, names in zip(manifests, named, strict=True)] == [
        ("upload", 2), ("upload", 4), ("dataset", 4)
    ]  # fmt: skip
    assert named[1] == named[2]
    assert [bool(manifest.files[0].lists) for manifest in manifests[:2]] == [inline < 2, inline < 4]
