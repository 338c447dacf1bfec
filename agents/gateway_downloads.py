"""Artifacts on their way out: what is in one, and its files, whole or in ranges.

    GET, HEAD /api/v1/artifacts/{digest}                 media, facts, files with their sizes
    GET, HEAD /api/v1/artifacts/{digest}/files/{path}    the bytes: 200, 206 with Range, 304, 412, 416

An artifact never changes, so its digest is the ETag of each of its files, and what was cut can be gone on with for ever
(`Range` with `If-Range`). Objects are read from the mesh's store, a few at a time, and checked against their digests
before a byte of them is sent; one that turns out damaged in the middle ends the connection, so that nobody takes half a
file for a whole one. Whoever knows a digest may read it, whatever his role. A request for several ranges gets the whole
file, as RFC 9110 allows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from agents.gateway_problems import refuse
from agents.gateway_routes import Call, Part, Route
from agents.gateway_tokens import ALL
from agents.runtime import Agent
from mesh.errors import ArtifactMissing
from mesh.messages.artifacts import FileEntry
from mesh.messages.base import Facts

AT = "/api/v1/artifacts/{digest}"

ALWAYS = "private, max-age=31536000, immutable"
"""Cache-Control: under this digest there will never be anything else."""

IDLE_S = 60.0
"""A reader who takes nothing for so long is cut off."""

RANGE = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))\Z")
"""One range. Anything else in the header is passed over, and the whole file sent."""

OCTETS = "application/octet-stream"


class ArtifactFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an artifact."""

    path: str
    size_bytes: int


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """What is in an artifact."""

    digest: str
    media: str
    facts: Facts
    size_bytes: int
    files: tuple[ArtifactFile, ...]


class Downloads(Part):
    """The routes of artifacts."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._store = agent.store()

    def routes(self) -> tuple[Route, ...]:
        """For every token: the digest is the key."""
        about = "`ETag` is the digest; `If-None-Match` is answered with 304."
        match = {"If-None-Match": "ETags that the caller has"}
        ranges = {
            **match,
            "If-Match": "ETags that it has to be",
            "Range": "`bytes=FROM-TO`, `bytes=FROM-`, `bytes=-LAST`",
            "If-Range": "The ETag of what was begun",
        }
        return (
            Route(
                "GET", AT, self.describe, "What is in an artifact", roles=ALL, answer=Artifact, statuses=(304,),
                headers=match, about=about,
            ),
            Route("HEAD", AT, self.describe, "Is an artifact there?", roles=ALL, statuses=(304,), headers=match),
            Route(
                "GET", f"{AT}/files/{{path}}", self.read, "The bytes of a file", roles=ALL, media=OCTETS, long=True,
                statuses=(206, 304, 412, 416), headers=ranges, about=about,
            ),
            Route(
                "HEAD", f"{AT}/files/{{path}}", self.read, "Size and ETag of a file", roles=ALL,
                statuses=(304, 412), headers=match,
            ),
        )  # fmt: skip

    async def describe(self, call: Call) -> web.Response:
        """The manifest in JSON, without its objects: they are the mesh's business."""
        digest = call.path["digest"]
        manifest = await self._store.manifest(digest)
        headers = _about(digest)
        if _names(call.request, "If-None-Match", digest):
            return web.Response(status=304, headers=headers)
        found = Artifact(
            digest=digest,
            media=manifest.media,
            facts=manifest.facts,
            size_bytes=manifest.size_bytes,
            files=tuple(ArtifactFile(path=one.path, size_bytes=one.size_bytes) for one in manifest.files),
        )
        return web.Response(body=msgspec.json.encode(found), content_type="application/json", headers=headers)

    async def read(self, call: Call) -> web.StreamResponse:
        """A file, or a part of it."""
        request, digest, path = call.request, call.path["digest"], call.path["path"]
        entry = next((one for one in (await self._store.manifest(digest)).files if one.path == path), None)
        if entry is None:
            raise ArtifactMissing(f"the artifact {digest[:16]} has no file {path[:120]!r}.")
        headers = {**_about(digest), "Accept-Ranges": "bytes", "Content-Disposition": "attachment"}
        if "If-Match" in request.headers and not _names(request, "If-Match", digest):
            raise refuse("precondition-failed", f"it is {digest}, and never anything else.")
        if _names(request, "If-None-Match", digest):
            return web.Response(status=304, headers=headers)
        start, stop, is_part = _wanted(request, entry, digest)
        response = web.StreamResponse(status=206 if is_part else 200, headers=headers)
        response.content_type, response.content_length = OCTETS, stop - start
        if is_part:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size_bytes}"
        if request.method == "HEAD":
            return response
        pieces = self._store.stretch(entry, start, stop)
        first = await anext(pieces, b"")  # what is not there, or damaged, is still an answer
        await call.begin(response)
        await _send(response, first, pieces)
        return response


async def _send(response: web.StreamResponse, first: bytes, pieces: AsyncIterator[bytes]) -> None:
    async with asyncio.timeout(IDLE_S) as patience:
        await response.write(first)
        async for piece in pieces:
            patience.reschedule(asyncio.get_running_loop().time() + IDLE_S)
            await response.write(piece)
            patience.reschedule(asyncio.get_running_loop().time() + IDLE_S)
        await response.write_eof()


def _about(digest: str) -> dict[str, str]:
    return {"ETag": f'"{digest}"', "Cache-Control": ALWAYS}


def _names(request: web.Request, header: str, digest: str) -> bool:
    """Does a header with ETags name this one?"""
    given = [one.strip() for one in ",".join(request.headers.getall(header, [])).split(",")]
    return "*" in given or f'"{digest}"' in given or (header == "If-None-Match" and f'W/"{digest}"' in given)


def _wanted(request: web.Request, entry: FileEntry, digest: str) -> tuple[int, int, bool]:
    """(first byte, byte after the last, is it a part). Refused when there is no such range."""
    size = entry.size_bytes
    found = RANGE.match(request.headers.get("Range", "")) if request.method == "GET" else None
    if found is None or request.headers.get("If-Range", f'"{digest}"') != f'"{digest}"':
        return 0, size, False
    begin, end, last = found.groups()
    if last is not None:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(begin), min(size, int(end) + 1) if end else size
        if end and int(end) < start:
            return 0, size, False  # no range at all: passed over
    if start >= stop:
        raise refuse("range", f"the file has {size} bytes.", Content_Range=f"bytes */{size}")
    return start, stop, True
