"""One contract for every home of objects: the broker in memory, a real broker, a shared folder, an S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mesh import broker as real
from mesh import codec, limits, streams
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker
from mesh.errors import BusUnavailable, DiskFull, EnvironmentUnfit
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.object_names import ObjectName
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.objects_folder import FolderBackend
from mesh.objects_s3 import S3Backend
from mesh.subjects import Subjects
from tests.support.nats_server import NatsServer
from tests.support.s3_server import S3Server
from tests.unit.mesh.test_artifacts_resumed import packed

_numbers = itertools.count(1)

Machine = Callable[[], Awaitable[ObjectBackend]]
"""One more machine's way to the same store."""


@pytest.fixture(
    params=[
        "memory",
        pytest.param("server", marks=pytest.mark.server),
        "folder",
        pytest.param("s3", marks=pytest.mark.process),
    ]
)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    """Opens the store from one more machine; each test has a store of its own."""
    subjects, brokers, memory = Subjects(f"o{next(_numbers)}"), list[Broker](), MemoryServer()

    async def dial() -> Broker:
        if request.param == "memory":
            return memory.connect(f"m{next(_numbers)}")
        options = request.getfixturevalue("shared_server").options
        return await real.connect(options, subjects, name=f"m{next(_numbers)}")

    async def on_broker() -> ObjectBackend:
        brokers.append(await dial())
        await streams.ensure_all(brokers[-1], streams.table(subjects, artifact_bytes_max=10**8))
        return JetStreamBackend(brokers[-1], subjects)

    async def in_folder() -> ObjectBackend:
        return FolderBackend(tmp_path, subjects.prefix)

    async def in_bucket() -> ObjectBackend:
        return S3Backend(request.getfixturevalue("s3_server").chosen(), subjects.prefix)

    memory.subjects = subjects
    yield {"folder": in_folder, "s3": in_bucket}.get(request.param, on_broker)
    await asyncio.gather(*(broker.close() for broker in brokers))


def whole(data: bytes) -> ObjectName:
    return object_names.whole(codec.digest(data))


A, B = whole(b"a"), whole(b"b")
DELTA = object_names.delta(A.digest, B.digest)
MANIFEST = object_names.manifest(A.digest)


async def listed(backend: ObjectBackend) -> list[ObjectName]:
    return sorted([name async for name in backend.names()])


# -- what all of them promise ---------------------------------------------------------------------------------------


async def test_what_was_put_is_there_for_every_machine(machine: Machine) -> None:
    one, other = await machine(), await machine()
    body = os.urandom(limits.CHUNK_BYTES + 4)
    assert await one.get(A) is None
    assert not await one.has(A)
    assert await one.put(A, body)
    assert await other.get(A) == body
    assert await other.has(A)
    assert await listed(other) == [A]


async def test_the_first_put_wins_and_the_next_is_told(machine: Machine) -> None:
    one, other = await machine(), await machine()
    assert await one.put(A, b"first")
    assert not await other.put(A, b"second")
    assert await other.get(A) == b"first"


async def test_of_many_at_once_one_is_first(machine: Machine) -> None:
    backends = [await machine() for _ in range(3)]
    answers = await asyncio.gather(*(backend.put(A, b"same") for backend in backends * 3))
    assert sorted(answers) == [False] * 8 + [True]
    assert await backends[0].get(A) == b"same"


async def test_over_writes_again(machine: Machine) -> None:
    one = await machine()
    await one.put(A, b"bad")
    assert await one.put(A, b"good", over=True)
    assert await one.get(A) == b"good"
    assert await one.put(B, b"new", over=True)
    assert await listed(one) == sorted([A, B])


async def test_kinds_are_apart_and_listed(machine: Machine) -> None:
    one = await machine()
    for number, name in enumerate((A, DELTA, MANIFEST)):
        assert await one.put(name, b"%d" % number)
    assert [await one.get(name) for name in (A, DELTA, MANIFEST)] == [b"0", b"1", b"2"]
    assert await listed(one) == sorted([A, DELTA, MANIFEST])


@pytest.mark.parametrize("count", [3, 64])
async def test_the_absent_ones_of_many_are_found(machine: Machine, count: int) -> None:
    one = await machine()
    names = [whole(b"%d" % number) for number in range(count)]
    for name in names[1:]:
        await one.put(name, b"x")
    assert await one.absent(names) == {names[0]}
    assert await one.absent([DELTA, MANIFEST, names[1]]) == {DELTA, MANIFEST}
    assert await one.absent([]) == set()


async def test_what_is_removed_is_gone_and_may_come_again(machine: Machine) -> None:
    one, other = await machine(), await machine()
    await one.put(A, b"a")
    await one.put(B, b"b")
    assert await other.remove(A)
    assert not await other.remove(A)
    assert (await one.get(A), await one.has(A), await listed(one)) == (None, False, [B])
    assert await one.put(A, b"again")
    assert await other.get(A) == b"again"


async def test_what_was_written_again_after_the_mark_stays(machine: Machine, request: pytest.FixtureRequest) -> None:
    one, collector = await machine(), await machine()
    for name in (A, B):
        await one.put(name, b"old")
    if isinstance(one, S3Backend):  # its times are whole seconds
        await until_next_second(collector)
    mark = await collector.mark()
    assert await one.put(A, b"new", over=True)
    assert not await collector.remove(A, mark=mark)
    assert await collector.remove(B, mark=mark)
    assert (await one.get(A), await one.get(B)) == (b"new", None)


async def until_next_second(backend: ObjectBackend) -> None:
    first = await backend.mark()
    give_up_at = time.monotonic() + 10
    while await backend.mark() == first:
        assert time.monotonic() < give_up_at


async def test_it_says_how_full_it_is(machine: Machine, request: pytest.FixtureRequest) -> None:
    one, bucket = await machine(), request.node.callspec.params["machine"] == "s3"
    for number in range(3):
        await one.put(whole(b"%d" % number), bytes(1_000))
    await one.put(MANIFEST, bytes(500))
    assert len(await listed(one)) == 4
    size, limit = await one.use()
    assert 3_500 <= size < 6_000
    assert limit == -1 if bucket else limit > size


async def test_a_name_says_where_it_is(machine: Machine) -> None:
    one = await machine()
    assert one.where
    assert "secret" not in one.where
    await one.close()


async def test_a_whole_artifact_goes_through_it(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(2 * limits.CHUNK_BYTES + 5))
    (source / "small").write_bytes(b"s")
    stores = [store(await machine(), tmp_path / f"cache{number}") for number in range(2)]
    digest = await stores[0].put(source, media="model")
    got = await stores[1].get(digest)
    assert (got / "big").read_bytes() == (source / "big").read_bytes()
    assert not await stores[1].missing(digest)
    assert await stores[1].put(source, media="model") == digest


async def test_a_checkpoint_of_deltas_goes_through_it(machine: Machine, tmp_path: Path) -> None:
    first = os.urandom(30_000)
    second = bytes((first[0] ^ 1,)) + first[1:]
    mine, reader = [store(await machine(), tmp_path / f"cache{number}") for number in range(2)]
    await mine.put_packed([packed(tmp_path / "p1", (first, None))], tmp_path / "p1", media="checkpoint")
    entry = packed(tmp_path / "p2", (second, first), (first, b""))
    digest = await mine.put_packed([entry], tmp_path / "p2", media="checkpoint")
    assert ((await reader.get(digest)) / "state").read_bytes() == second + first
    kinds = sorted(name.kind for name in await listed(reader.backend))
    assert kinds == ["c", "d", "m", "m"]


def store(backend: ObjectBackend, cache: Path) -> ArtifactStore:
    server = MemoryServer()
    return ArtifactStore(server.connect("x"), server.subjects, cache=cache, cache_bytes_max=10**9, backend=backend)


# -- the broker -----------------------------------------------------------------------------------------------------


async def test_a_full_stream_is_a_full_disk() -> None:
    server = MemoryServer()
    broker = server.connect("a")
    await streams.ensure_all(broker, streams.table(server.subjects, artifact_bytes_max=3_000))
    one = JetStreamBackend(broker, server.subjects)
    await one.put(A, b"x" * 2_000)
    with pytest.raises(DiskFull, match="artifact store is full"):
        await one.put(B, b"x" * 2_000)
    assert not await one.put(A, b"x" * 2_000)


async def test_a_real_stream_that_is_full_says_so_too(shared_server: NatsServer) -> None:
    subjects = Subjects(f"o{next(_numbers)}")
    async with real.connection(shared_server.options, subjects, name="a") as broker:
        await streams.ensure_all(broker, streams.table(subjects, artifact_bytes_max=300_000))
        one = JetStreamBackend(broker, subjects)
        for name in (A, B):
            await one.put(name, os.urandom(100_000))
        with pytest.raises(DiskFull, match="artifact store is full"):
            await one.put(DELTA, os.urandom(100_000))


# -- the folder -----------------------------------------------------------------------------------------------------


async def test_a_disk_that_is_not_mounted_is_away_and_nothing_is_made_in_its_place(tmp_path: Path) -> None:
    one = FolderBackend(tmp_path / "mnt", "mesh")
    for call in (one.put(A, b"a"), one.get(A), one.has(A), one.absent([A]), one.mark(), one.remove(A), listed(one)):
        with pytest.raises(BusUnavailable, match="mnt"):
            await call
    assert list(tmp_path.iterdir()) == []


async def test_what_is_being_written_is_no_object_and_is_swept_when_its_writer_is_long_gone(tmp_path: Path) -> None:
    one = FolderBackend(tmp_path, "mesh")
    await one.put(A, b"a")
    old, new = tmp_path / "mesh" / "tmp" / "part-1-a", tmp_path / "mesh" / "tmp" / "part-1-b"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert await listed(one) == [A]
    assert [path.name for path in (tmp_path / "mesh" / "tmp").iterdir()] == [new.name]


async def test_a_disk_without_links_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one = FolderBackend(tmp_path, "mesh")
    assert await one.put(A, b"a")
    assert not await one.put(A, b"b")
    assert await one.get(A) == b"a"


async def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", late)
    assert await FolderBackend(tmp_path, "mesh").put(A, b"a")


@pytest.mark.parametrize(
    ("code", "wanted"), [(28, DiskFull), (122, DiskFull), (13, EnvironmentUnfit), (5, BusUnavailable)]
)
async def test_errors_of_the_disk_are_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, wanted: type[Exception]
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    one = FolderBackend(tmp_path, "mesh")
    with pytest.raises(wanted):
        await one.put(A, b"a")
    monkeypatch.undo()
    assert await one.get(A) is None
    assert list((tmp_path / "mesh" / "tmp").iterdir()) == []


async def test_a_shared_store_says_which_one_it_is(machine: Machine, tmp_path: Path) -> None:
    """The same to all who reach it, however many ask first; another one says something else; it is no object."""
    backends = [await machine() for _ in range(3)]
    shared = [one for one in backends if isinstance(one, FolderBackend | S3Backend)]
    if not shared:
        pytest.skip("the broker needs no word of its own")
    (word,) = {*await asyncio.gather(*(one.identity() for one in shared * 3))}
    assert re.fullmatch("[0-9a-f]{32}", word)
    assert await listed(shared[0]) == []
    (tmp_path / "other").mkdir()
    assert await FolderBackend(tmp_path / "other", "mesh").identity() != word


async def test_a_folder_that_is_away_does_not_say(tmp_path: Path) -> None:
    with pytest.raises(BusUnavailable, match="is not there"):
        await FolderBackend(tmp_path / "away", "mesh").identity()


async def test_a_folder_is_as_large_as_it_is_said_to_be_and_not_weighed_object_by_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.objects_folder.WEIGHED", 2)
    one = FolderBackend(tmp_path, "mesh", 10**6)
    assert await one.use() == (-1, -1)
    names = [object_names.whole(f"ab{number:062x}") for number in range(9)]
    for name in names:
        await one.put(name, bytes(700))
    assert await listed(one) == names
    assert await one.use() == (6_300, 10**6)


@pytest.mark.process
async def test_a_large_bucket_is_asked_rather_than_listed(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.objects_s3.LIST_FROM", 10)
    monkeypatch.setattr("mesh.objects_s3.PAGE", 12)
    one, asked = S3Backend(s3_server.chosen(), "large"), list[ObjectName]()
    names = [whole(b"large %d" % number) for number in range(40)]
    for name in names:
        await one.put(name, b"x")
    has = one.has

    async def noted(name: ObjectName) -> bool:
        asked.append(name)
        return await has(name)

    monkeypatch.setattr(one, "has", noted)
    missing = {whole(b"none %d" % number) for number in range(3)}
    assert await one.absent([*names, *missing]) == missing
    assert asked == []  # four pages, and as many rounds of questions
    assert await one.absent([*names[:9], *missing]) == missing
    assert missing <= set(asked)


# -- S3 -------------------------------------------------------------------------------------------------------------


@pytest.mark.process
async def test_a_bucket_that_is_missing_is_named(s3_server: S3Server) -> None:
    one = S3Backend(s3_server.chosen(bucket="elsewhere"), "mesh")
    with pytest.raises(EnvironmentUnfit, match="elsewhere"):
        await one.put(A, b"a")
    with pytest.raises(EnvironmentUnfit, match="elsewhere"):
        await one.get(A)


async def test_an_endpoint_that_is_away_is_named() -> None:
    server = S3Server()
    one = S3Backend(server.chosen(), "mesh")
    for call in (one.put(A, b"a"), one.get(A), one.has(A), one.mark(), one.remove(A), listed(one)):
        with pytest.raises(BusUnavailable, match=str(server.port)):
            await call


Answer = Callable[[str], tuple[str, str]]
"""Request line and headers in small letters -> status line, code of the error."""


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[S3Backend]:
    """A store that gives these answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int((head.partition("content-length: ")[2] or "0").split("\r\n")[0]))
        status, code = answer(head)
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>" if code else ""
        lines = (
            f"HTTP/1.1 {status}", 'ETag: "e"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT", "Connection: close",
            f"Content-Length: {len(body)}", "", body,
        )  # fmt: skip
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chosen = dataclasses.replace(S3Server().chosen(), s3_endpoint=f"http://127.0.0.1:{port}")
    try:
        yield S3Backend(chosen, "mesh")
    finally:
        server.close()
        await server.wait_closed()


async def test_who_is_not_let_in_is_told_which_settings_to_check() -> None:
    async with answering(lambda _: ("403 Forbidden", "AccessDenied")) as one:
        for call in (one.put(A, b"a"), one.get(A), one.has(A)):
            with pytest.raises(EnvironmentUnfit, match="s3_access_key_id"):
                await call


@pytest.mark.parametrize(
    "answer", [("403 Forbidden", "QuotaExceeded"), ("507 Insufficient Storage", "XMinioStorageFull")]
)
async def test_a_full_bucket_is_a_full_disk(answer: tuple[str, str]) -> None:
    async with answering(lambda _: answer) as one:
        with pytest.raises(DiskFull, match="quota"):
            await one.put(A, b"a")


async def test_a_store_without_conditional_writes_is_asked_first() -> None:
    stored: list[str] = []

    def answer(head: str) -> tuple[str, str]:
        if "if-none-match" in head:
            return "501 Not Implemented", "NotImplemented"
        if head.startswith("put"):
            stored.append(head)
        return ("200 OK", "") if stored else ("404 Not Found", "")

    async with answering(answer) as one:
        assert await one.put(A, b"a")
        assert not await one.put(A, b"a")
    assert len(stored) == 1
