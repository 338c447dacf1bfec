"""Artifacts over HTTP: uploads that are cut and go on, downloads in ranges, digests on both ways."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents import gateway_uploads
from agents.gateway_downloads import Downloads
from agents.gateway_tokens import TokenRole
from agents.gateway_uploads import Uploads
from mesh import platform
from mesh.messages import object_names
from tests.support import agents
from tests.support.gateway import Reached, reached
from tests.support.memory_mesh import MemoryMesh

W, OTHER = TokenRole.WORKER, TokenRole.PUBLISHER
UP, ART = "/api/v1/uploads", "/api/v1/artifacts"
BODY = bytes(range(256)) * 6_000  # three objects
PLAIN = {"Content-Type": "application/partial-upload"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Reached]:
    async with reached(tmp_path, Uploads, Downloads) as found:
        yield found


async def start(gateway: Reached, files: list[dict[str, Any]], **more: Any) -> str:
    status, found = await gateway.ask("POST", UP, W, json={"media": "document", "files": files, **more})
    assert status == 201, found
    return str(found["id"])


async def send(gateway: Reached, id_: str, offset: int, data: Any) -> tuple[int, int]:
    """(status, the offset after it)."""
    headers = {**gateway.headers(W), **PLAIN, "Upload-Offset": str(offset)}
    body = io.BytesIO(data) if isinstance(data, bytes) else data
    async with gateway.client.patch(f"{UP}/{id_}", data=body, headers=headers) as answer:
        return answer.status, int(answer.headers.get("Upload-Offset", -1))


async def where(gateway: Reached, id_: str) -> int:
    async with gateway.client.head(f"{UP}/{id_}", headers=gateway.headers(W)) as answer:
        assert (answer.status, answer.headers["Upload-Complete"]) == (204, "?0")
        return int(answer.headers["Upload-Offset"])


async def uploaded(gateway: Reached, **files: bytes) -> str:
    """The digest of an artifact of these files."""
    named = [{"path": name.replace("_", "/"), "size_bytes": len(data)} for name, data in files.items()]
    id_ = await start(gateway, named)
    whole = b"".join(files.values())
    assert await send(gateway, id_, 0, whole) == (204, len(whole))
    status, found = await gateway.ask("POST", f"{UP}/{id_}/complete", W)
    assert status == 200, found
    return str(found["digest"])


async def read(gateway: Reached, digest: str, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    at, more = f"{ART}/{digest}/files/{path}", {key.replace("_", "-"): value for key, value in headers.items()}
    async with gateway.client.request(method, at, headers={**gateway.headers(W), **more}) as answer:
        return answer.status, await answer.read(), answer.headers


async def test_what_is_uploaded_is_the_artifact_that_any_worker_would_have_made(
    gateway: Reached, tmp_path: Path
) -> None:
    digest = await uploaded(gateway, a=BODY, sub_b=b"", c=b"small")
    folder = await gateway.mesh.store.get(digest)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "a": BODY,
        "sub/b": b"",
        "c": b"small",
    }
    assert await gateway.mesh.store.put(folder, media="document") == digest
    status, found = await gateway.ask("GET", f"{ART}/{digest}", W)
    assert (status, found["media"], found["size_bytes"]) == (200, "document", len(BODY) + 5)
    assert {one["path"]: one["size_bytes"] for one in found["files"]} == {"a": len(BODY), "sub/b": 0, "c": 5}
    assert not list((tmp_path / "home" / "gateway" / "uploads").rglob("a")), "the bytes are in the store now"


async def test_a_cut_upload_goes_on_where_it_was(gateway: Reached) -> None:
    id_ = await start(gateway, [{"path": "a", "size_bytes": 700_000}, {"path": "b", "size_bytes": len(BODY) - 700_000}])

    async def torn() -> AsyncIterator[bytes]:
        yield BODY[:900_000]
        raise ConnectionResetError("the line is dead")

    with pytest.raises(Exception, match=r"."):
        await send(gateway, id_, 0, torn())
    uploads = next(part for part in gateway.gateway.parts if isinstance(part, Uploads))
    await agents.until(lambda: uploads._known[id_].offset > 0 and not uploads._reading, "what arrived before the cut")
    here = await where(gateway, id_)
    assert 0 < here <= 900_000
    assert await send(gateway, id_, here + 1, b"x") == (409, here)
    async with gateway.client.post(f"{UP}/{id_}/complete", headers=gateway.headers(W)) as answer:
        assert (answer.status, answer.headers["Upload-Offset"]) == (409, str(here))
    assert await send(gateway, id_, here, BODY[here:1_000_000]) == (204, 1_000_000)
    assert await send(gateway, id_, 1_000_000, BODY[1_000_000:] + b"one too many") == (413, -1)
    assert await send(gateway, id_, 1_000_000, BODY[1_000_000:]) == (204, len(BODY))
    status, found = await gateway.ask("POST", f"{UP}/{id_}/complete", W)
    assert status == 200
    assert (await gateway.ask("POST", f"{UP}/{id_}/complete", W)) == (200, found)
    folder = await gateway.mesh.store.get(found["digest"])
    assert (folder / "a").read_bytes() + (folder / "b").read_bytes() == BODY


async def test_a_newer_request_takes_over_from_one_that_hangs(gateway: Reached) -> None:
    id_ = await start(gateway, [{"path": "a", "size_bytes": len(BODY)}])
    never = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield BODY[:500_000]
        await never.wait()

    uploads = next(part for part in gateway.gateway.parts if isinstance(part, Uploads))
    older = asyncio.create_task(send(gateway, id_, 0, hanging()))
    await agents.until(lambda: id_ in uploads._reading, "the first request")
    await asyncio.sleep(0.05)
    here = await where(gateway, id_)
    assert await send(gateway, id_, here, BODY[here:]) == (204, len(BODY))
    never.set()
    await asyncio.gather(older, return_exceptions=True)
    assert (await gateway.ask("POST", f"{UP}/{id_}/complete", W))[0] == 200


async def test_an_upload_survives_the_gateway(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    async with reached(tmp_path, Uploads, mesh=mesh) as first:
        id_ = await start(first, [{"path": "x/a", "size_bytes": 10}, {"path": "b", "size_bytes": 10}])
        assert await send(first, id_, 0, b"0123456789abc") == (204, 13)
        secret = first.secrets[W]
        for role in TokenRole:
            first.gateway.tokens.revoke(f"{role}-1")
    (tmp_path / "home" / "gateway" / "uploads" / "junk").mkdir()
    async with reached(tmp_path, Uploads, mesh=mesh) as second:
        assert secret != second.secrets[W]
        assert await where(second, id_) == 13
        assert await send(second, id_, 13, b"defghij") == (204, 20)
        assert (await second.ask("POST", f"{UP}/{id_}/complete", W))[0] == 200
    assert not (tmp_path / "home" / "gateway" / "uploads" / "junk").exists()


async def test_a_digest_that_was_announced_is_checked(gateway: Reached) -> None:
    good, bad = hashlib.sha256(b"data").hexdigest(), hashlib.sha256(b"else").hexdigest()
    for digest, expected in ((good, 200), (bad, 422)):
        id_ = await start(gateway, [{"path": "a", "size_bytes": 4, "sha256": digest}])
        await send(gateway, id_, 0, b"data")
        status, found = await gateway.ask("POST", f"{UP}/{id_}/complete", W)
        assert status == expected, found
    assert (await gateway.ask("POST", f"{UP}/{id_}/complete", W))[0] == 404


@pytest.mark.parametrize(
    "files",
    [
        [{"path": "../a", "size_bytes": 1}],
        [{"path": "/a", "size_bytes": 1}],
        [{"path": "a\x00b", "size_bytes": 1}],
        [{"path": "a" * 300, "size_bytes": 1}],
        [{"path": "a", "size_bytes": 1}, {"path": "a", "size_bytes": 1}],
        [{"path": "a", "size_bytes": 1}, {"path": "a/b", "size_bytes": 1}],
        [{"path": "a", "size_bytes": -1}],
        [{"path": "a", "size_bytes": 1 << 49}],
        [],
    ],
)
async def test_what_can_become_no_artifact_is_refused_at_once(gateway: Reached, files: Any) -> None:
    status, found = await gateway.ask("POST", UP, W, json={"media": "document", "files": files})
    assert status == 422, found


async def test_nobody_reaches_anothers_upload_and_nobody_has_too_many(
    gateway: Reached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_uploads, "OF_ONE_MAX", 2)
    one = [{"path": "a", "size_bytes": 3}]
    id_ = await start(gateway, one)
    for method, path in (("PATCH", ""), ("POST", "/complete"), ("DELETE", "")):
        headers = {**PLAIN, "Upload-Offset": "0"} if method == "PATCH" else {}
        assert (await gateway.ask(method, f"{UP}/{id_}{path}", OTHER, headers=headers))[0] == 404
    await start(gateway, one)
    status, _ = await gateway.ask("POST", UP, W, json={"media": "document", "files": one})
    assert status == 429
    async with gateway.client.delete(f"{UP}/{id_}", headers=gateway.headers(W)) as answer:
        assert answer.status == 204
    await start(gateway, one)


async def test_an_upload_that_has_no_room_is_refused_before_it_begins(
    gateway: Reached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "disk_free", lambda _: gateway_uploads.DISK_RESERVE_BYTES + 10)
    await start(gateway, [{"path": "a", "size_bytes": 6}])
    status, found = await gateway.ask(
        "POST", UP, W, json={"media": "document", "files": [{"path": "a", "size_bytes": 5}]}
    )
    assert (status, found["error"]) == (507, "DiskFull")


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=524280-524300", 524_280, 524_301),
    ("bytes=1000000-", 1_000_000, len(BODY)),
    ("bytes=-5", len(BODY) - 5, len(BODY)),
    (f"bytes=5-{10**15}", 5, len(BODY)),
    (f"bytes=-{10**15}", 0, len(BODY)),
]


async def test_files_are_read_whole_and_in_ranges(gateway: Reached) -> None:
    digest = await uploaded(gateway, a=BODY, empty=b"")
    etag = f'"{digest}"'
    status, body, headers = await read(gateway, digest, "a")
    assert (status, body, headers["ETag"], headers["Accept-Ranges"]) == (200, BODY, etag, "bytes")
    for text, start, stop in RANGES:
        status, body, headers = await read(gateway, digest, "a", Range=text)
        assert (status, body) == (206, BODY[start:stop])
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"
    for text in (f"bytes={len(BODY)}-", "bytes=-0"):
        status, body, headers = await read(gateway, digest, "a", Range=text)
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(BODY)}")
        assert json.loads(body)["status"] == 416
    for text in ("bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=x"):
        assert (await read(gateway, digest, "a", Range=text))[0] == 200
    status, body, headers = await read(gateway, digest, "a", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(BODY)))
    assert (await read(gateway, digest, "empty"))[:2] == (200, b"")
    assert (await read(gateway, digest, "empty", Range="bytes=0-"))[0] == 416


async def test_conditions_hold_a_download_to_what_was_begun(gateway: Reached) -> None:
    digest = await uploaded(gateway, a=BODY)
    etag = f'"{digest}"'
    assert (await read(gateway, digest, "a", Range="bytes=0-3", If_Range=etag))[0] == 206
    for other in ('"other"', f"W/{etag}", "Sun, 22 Nov 2026 00:00:00 GMT"):
        assert (await read(gateway, digest, "a", Range="bytes=0-3", If_Range=other))[0] == 200
    for given in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        assert (await read(gateway, digest, "a", If_None_Match=given))[:2] == (304, b"")
    assert (await read(gateway, digest, "a", If_Match='"other"'))[0] == 412
    assert (await read(gateway, digest, "a", If_Match=etag))[0] == 200
    assert (await gateway.ask("GET", f"{ART}/{'0' * 64}", W))[0] == 404
    assert (await read(gateway, digest, "b"))[0] == 404
    assert (await read(gateway, digest.upper(), "a"))[0] == 404


async def test_damage_is_an_error_before_the_first_byte_and_a_cut_after_it(gateway: Reached) -> None:
    digest = await uploaded(gateway, a=BODY * 4)
    manifest = await gateway.mesh.store.manifest(digest)
    backend = gateway.mesh.store.backend
    await backend.put(object_names.whole(manifest.files[0].objects[-1]), b"RO\x01\x00damaged", over=True)
    with pytest.raises(Exception, match=r"."):
        await read(gateway, digest, "a")
    status, _, _ = await read(gateway, digest, "a", Range="bytes=-10")
    assert status == 422
    assert (await read(gateway, digest, "a", Range="bytes=0-9"))[:2] == (206, BODY[:10])
