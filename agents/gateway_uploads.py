"""Artifacts on their way in: uploads that go on where a cut connection left them.

    POST   /api/v1/uploads               which files, how large            201, Location
    PATCH  /api/v1/uploads/{upload}      bytes from `Upload-Offset` on     204, `Upload-Offset`: what is here now
    HEAD   /api/v1/uploads/{upload}      where to go on                    204, `Upload-Offset`, `Upload-Length`
    POST   …/complete                    all is here                       200, the artifact's digest
    DELETE …                             forget it                         204

In the manner of the IETF's draft on resumable uploads (draft-ietf-httpbis-resumable-upload): its `Upload-Offset`,
`Upload-Length`, `Upload-Complete` and `Upload-Limit`, its media type `application/partial-upload`, and 409 with the
right offset for a wrong one. Of tus 1.0 it is the core without the version header. An upload is one row of bytes: the
files in the order in which they were named, without anything between them. Not covered: the draft's interim answers
(104), and uploads whose length is not known before.

What was received survives the gateway: the offset is what stands on the disk. A new PATCH of an upload ends an older
one, whose connection is likely dead. Digests of files that the caller has named are checked; the artifact's own digest
is made from what is stored, and is the answer. Completing twice gives the same digest.

Bounds: uploads in all and of one token, bytes of each and of what is free on the disk, seconds without a byte, age.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agents.gateway_problems import Refused, refuse
from agents.gateway_routes import JSON, Call, Part, Route
from agents.gateway_tokens import PUBLISHERS, WORKERS
from agents.gateway_upload import AGE_S, BYTES_MAX, StartUpload, Upload, UploadState, load_all
from agents.runtime import Agent, home_folder
from mesh import platform
from mesh.errors import DiskFull
from mesh.windows import to_its_end

AT = "/api/v1/uploads"

SENDERS = WORKERS | PUBLISHERS

UPLOADS_MAX, OF_ONE_MAX = 256, 16
"""Uploads that are known at a time, in all and of one token."""

START_BYTES_MAX = 4 * 1024 * 1024
"""Of the first request: paths and sizes of all files."""

IDLE_S = 60.0
"""Without a byte for so long, a connection is cut; the upload can be gone on with."""

PIECE_BYTES = 1024 * 1024
"""Written at once."""

TIDY_S = 60.0
"""How often old uploads are looked for."""

DISK_RESERVE_BYTES = 256 * 1024 * 1024
"""Of the disk, left to everything else."""

MEDIA = ("application/partial-upload", "application/octet-stream", "application/offset+octet-stream")
"""Types of a PATCH: the draft's, plain bytes, and that of tus."""


class Uploads(Part):
    """The routes of uploads."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._store = agent.store()
        self._folder = home_folder(agent.settings, "gateway", "uploads")
        self._known: dict[str, Upload] = {one.id: one for one in load_all(self._folder)}
        self._reading: dict[str, asyncio.Task[None]] = {}
        """Who reads the bytes of an upload now."""

    def routes(self) -> tuple[Route, ...]:
        """For workers, and for publishers with data."""
        at = f"{AT}/{{upload}}"
        return (
            Route(
                "POST", AT, self.start, "Begin to upload an artifact", roles=SENDERS, body=StartUpload,
                answer=UploadState, status=201, statuses=(507,), body_bytes_max=START_BYTES_MAX,
            ),
            Route(
                "HEAD", at, self.where, "How much of an upload is here", roles=SENDERS, status=204,
                about="The answer's `Upload-Offset` is where to go on.",
            ),
            Route(
                "PATCH", at, self.send, "Send bytes of an upload", roles=SENDERS, status=204, raw=True, long=True,
                raw_media=MEDIA[0], body_bytes_max=BYTES_MAX, statuses=(409, 411, 507),
                headers={"Upload-Offset": "From which byte on; 409 names the right one."},
                about="All files in their order, one row of bytes. What arrived before a cut counts.",
            ),
            Route(
                "POST", f"{at}/complete", self.complete, "Make the artifact", roles=SENDERS, answer=UploadState,
                long=True, statuses=(409, 422, 507),
            ),
            Route("DELETE", at, self.forget, "Forget an upload", roles=SENDERS, status=204),
        )  # fmt: skip

    async def run(self) -> None:
        """Forget what nobody goes on with."""
        while True:
            for upload in [one for one in self._known.values() if one.age_s() > AGE_S and not one.lock.locked()]:
                await self._drop(upload)
            await asyncio.sleep(TIDY_S)

    async def close(self) -> None:
        """Cut what is being received; it stands on the disk."""
        for reading in tuple(self._reading.values()):
            reading.cancel()

    # -- requests -----------------------------------------------------------------------------------------------------

    async def start(self, call: Call) -> web.Response:
        """A new upload."""
        asked = call.body(StartUpload)
        asked.check()
        mine = sum(one.owner == call.identity.name for one in self._known.values())
        if mine >= OF_ONE_MAX or len(self._known) >= UPLOADS_MAX:
            raise refuse("too-many", f"{call.identity.name} has {mine} uploads: end one first.", Retry_After="60")
        self._check_room(asked.size_bytes)
        id_ = secrets.token_hex(16)
        upload = await asyncio.to_thread(Upload.make, self._folder / id_, call.identity.name, asked)
        self._known[id_] = upload
        return _answer(upload, 201, Location=f"{AT}/{id_}")

    async def where(self, call: Call) -> web.Response:
        """How much of it is here, once nobody reads any more for it."""
        upload = self._mine(call)
        await self._end_reading(upload)
        return _headers_of(upload)

    async def send(self, call: Call) -> web.Response:
        """Take bytes, until the body ends or the connection does."""
        upload, request = self._mine(call), call.request
        if request.content_type not in MEDIA:
            raise refuse("media-type", f"expected a body of the type {MEDIA[0]}.", Accept=MEDIA[0])
        await self._end_reading(upload)
        async with upload.lock:
            self._check_offset(upload, request)
            reading = self._reading[upload.id] = asyncio.create_task(self._receive(upload, request), name=upload.id)
            try:
                await asyncio.wait({reading})
            finally:
                del self._reading[upload.id]
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            if reading.cancelled():
                raise refuse("conflict", "another request goes on with this upload.")
            reading.result()
        return _headers_of(upload)

    async def complete(self, call: Call) -> web.Response:
        """Make the artifact of what is here; the same digest each time."""
        upload = self._mine(call)
        await self._end_reading(upload)
        async with upload.lock:
            if not upload.digest:
                if upload.offset < upload.size_bytes:
                    raise _wrong_offset(
                        upload, f"{upload.size_bytes - upload.offset} bytes of this upload are not here yet"
                    )
                bad = await asyncio.to_thread(upload.finish)
                if bad:
                    await self._drop(upload)
                    raise refuse("invalid", f"{bad}: the upload is forgotten, begin it again.")
                digest = await self._store.put(upload.files, media=upload.asked.media, facts=upload.asked.facts)
                await asyncio.to_thread(upload.became, digest)
        return _answer(upload, 200)

    async def forget(self, call: Call) -> web.Response:
        """Remove what is here of it."""
        upload = self._mine(call)
        await self._end_reading(upload)
        async with upload.lock:
            await self._drop(upload)
        return web.Response(status=204)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _mine(self, call: Call) -> Upload:
        """The upload that the path names; another's is not there."""
        upload = self._known.get(call.path["upload"])
        if upload is None or upload.owner != call.identity.name:
            raise refuse("not-found", "there is no such upload, or not any more: begin it again.")
        upload.touched()
        return upload

    def _check_room(self, size_bytes: int) -> None:
        due = sum(one.size_bytes - one.offset for one in self._known.values() if not one.digest)
        free = platform.disk_free(self._folder) - DISK_RESERVE_BYTES
        if size_bytes + due > free:
            raise DiskFull(
                f"{size_bytes} bytes were announced, and the gateway's disk has room for {max(0, free - due)}: "
                "try again later."
            )

    def _check_offset(self, upload: Upload, request: web.Request) -> None:
        given = request.headers.get("Upload-Offset", "")
        if not (given.isascii() and given.isdigit()) or int(given[:20]) != upload.offset:
            raise _wrong_offset(upload, f"Upload-Offset is {given[:20]!r}")
        if upload.offset + (request.content_length or 0) > upload.size_bytes:
            raise refuse("too-large", f"this upload has {upload.size_bytes} bytes, and {upload.offset} are here.")

    async def _end_reading(self, upload: Upload) -> None:
        """A newer request of the same caller: whoever reads still hears a dead connection."""
        reading = self._reading.get(upload.id)
        if reading is not None:
            reading.cancel()
            async with upload.lock:
                pass

    async def _receive(self, upload: Upload, request: web.Request) -> None:
        """Write what comes; what came before a cut is kept."""
        waiting = bytearray()
        try:
            async for piece in _pieces(request):
                waiting += piece
                if upload.offset + len(waiting) > upload.size_bytes:
                    del waiting[upload.size_bytes - upload.offset :]
                    raise refuse("too-large", f"this upload has {upload.size_bytes} bytes, and more came.")
                if len(waiting) >= PIECE_BYTES:
                    part, waiting = waiting, bytearray()
                    await _on_disk(upload.write, bytes(part))
        finally:
            await _on_disk(upload.write, bytes(waiting))
            await _on_disk(upload.sync)

    async def _drop(self, upload: Upload) -> None:
        self._known.pop(upload.id, None)
        await asyncio.to_thread(upload.remove)


async def _on_disk(work: Callable[..., None], *given: bytes) -> None:
    """Run in a thread, and to its end although we are cancelled: nobody else may write before."""
    await to_its_end(asyncio.to_thread(work, *given))


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes. Refused when nothing comes, or when it ends in the middle."""
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await request.content.readany()
        except TimeoutError:
            raise refuse("too-slow", f"no byte came for {IDLE_S:g} s: go on from the offset.") from None
        except (aiohttp.ClientError, HttpProcessingError, ConnectionError) as error:
            raise refuse("malformed", f"the body ended in the middle: {error}.") from None
        if not piece:
            return
        yield piece


def _wrong_offset(upload: Upload, what: str) -> Refused:
    refused = refuse("wrong-offset", f"{what}: go on from byte {upload.offset}.")
    refused.headers.update(_about(upload))
    return refused


def _about(upload: Upload) -> dict[str, str]:
    return {
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.size_bytes),
        "Upload-Complete": "?1" if upload.digest else "?0",
        "Upload-Limit": f"max-size={BYTES_MAX}, max-age={AGE_S:.0f}",
    }


def _headers_of(upload: Upload) -> web.Response:
    return web.Response(status=204, headers=_about(upload))


def _answer(upload: Upload, status: int, **headers: str) -> web.Response:
    body = msgspec.json.encode(upload.state())
    return web.Response(status=status, body=body, content_type=JSON, headers={**_about(upload), **headers})
