"""A plain upload server: PUT streams into a file with SHA-256, sync and rename; GET sends the file.

python -m benchmarks.peers.http_upload PORT FOLDER
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from aiohttp import web

BLOCK_BYTES = 1 << 20


def app(folder: Path) -> web.Application:
    """The server's application."""

    async def put(request: web.Request) -> web.Response:
        target = folder / request.match_info["name"]
        part, digest = target.with_suffix(".part"), hashlib.sha256()
        with part.open("wb") as file:
            async for data in request.content.iter_chunked(BLOCK_BYTES):
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(target)
        return web.Response(text=digest.hexdigest())

    async def get(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["name"], chunk_size=BLOCK_BYTES)

    made = web.Application(client_max_size=0)
    made.router.add_put("/{name}", put)
    made.router.add_get("/{name}", get)
    return made


if __name__ == "__main__":
    web.run_app(app(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), print=lambda *_: None)
