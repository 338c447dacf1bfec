"""The floor of a gateway: one aiohttp handler that answers a fixed JSON body. `python -m benchmarks.gateway_bare PORT`.

The body has the size of a small mesh's status, so that what is compared is what the gateway adds to a request.
"""

from __future__ import annotations

import json
import sys

from aiohttp import web

from benchmarks.parts import HOST

BODY = json.dumps({"status": "ok", "rows": [{"name": f"agent-{number}", "state": "live"} for number in range(12)]})


async def answer(request: web.Request) -> web.Response:
    """Read what was sent, answer the same each time."""
    await request.read()
    return web.Response(text=BODY, content_type="application/json")


def main() -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app.router.add_route("*", "/", answer)
    web.run_app(app, host=HOST, port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
