"""The table of routes: what a caller may ask, in one form from which both handlers and OpenAPI document are made.

To add something, write a `Part`: a class in a file of its own (`agents/gateway_<thing>.py`) whose `routes()` returns
its rows, and put it into `PARTS` of agents/gateway.py.

    class Seats(Part):
        def __init__(self, agent: Agent) -> None: …

        def routes(self) -> tuple[Route, ...]:
            return (
                Route(
                    "POST", "/api/v1/network/workers/register", self.register,
                    summary="Take a seat, or come back to it",
                    body=Register, answer=Registered, roles=WORKERS, statuses=(409,),
                ),
            )

        async def register(self, call: Call) -> Registered:
            asked = call.body(Register)            # decoded and checked: what does not fit never came this far
            name = call.identity.name              # of the token: never from the body
            …

- A handler returns its answer's struct, which is sent as JSON with the row's status; or, where `answer` is None, a
  `web.StreamResponse` of its own (`media` then says of which type).
- It raises the mesh's errors (NotFound, StaleWrite, Conflict, BusUnavailable, Reject …) or what `refuse(…)` of
  agents/gateway_problems.py makes: each becomes a problem document. Statuses beyond those that every row of its form
  has (`Route.all_statuses`) are named in `statuses`, else a test complains.
- What stands in `{braces}` of a path is a name in `PARAMETERS`, with the pattern that it has to match; what does not is
  404 before the handler is asked. Query parameters are the fields of the struct `query` (strings and numbers).
- The deadline covers reading the body and the handler. `long=True`: the answer takes as long as it likes (a stream); it
  takes one of the places of streams instead of one of requests. A route that reads its body by itself (an upload) has
  `raw=True` and bounds what it reads by `body_bytes_max`, which is checked against Content-Length before.
- A handler that streams calls `await call.begin(response)` in place of `response.prepare`, so that the door knows that
  no problem document can be sent any more when it fails.
- `run()` of a part lives as long as the gateway; `close()` is called when it stops.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

from agents.gateway_tokens import Identity, TokenRole
from mesh import limits

if TYPE_CHECKING:
    from agents.runtime import Agent

S = TypeVar("S", bound=msgspec.Struct)

JSON = "application/json"

BODY_BYTES_MAX = 256 * 1024
"""A body, unless the row says otherwise: what a record of the mesh may have, and JSON's larger form of it."""

DEADLINE_S = 10.0
"""For reading a body and answering, unless the row says otherwise: twice a question to the broker."""

QUICK_STATUSES = (400, 429, 503)
"""Any request can be unreadable, one too many, or come while the mesh is away."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """What may stand at a place of a path."""

    pattern: str
    about: str


_NAME = rf"[a-z0-9][a-z0-9_-]{{0,{limits.NAME_CHARS_MAX - 1}}}"

PARAMETERS: dict[str, Parameter] = {
    "topic": Parameter(_NAME, "A topic's id"),
    "task": Parameter(_NAME, "A task's id"),
    "node": Parameter(_NAME, "A node's id"),
    "upload": Parameter(r"[0-9a-f]{32}", "An upload's id"),
    "digest": Parameter(r"[0-9a-f]{64}", "An artifact's digest: SHA-256 as 64 hex digits"),
    "path": Parameter(r".{1,1024}", "Path of a file in an artifact"),
}
"""Every name in braces, with what it has to match. `path` may contain slashes, the others can not."""


@dataclasses.dataclass(slots=True)
class Call:
    """One request that has passed the door."""

    request: web.Request
    identity: Identity
    """Whose token it brought; of an open route ANYBODY."""
    path: dict[str, str]
    """What stood at the places of the path, checked."""
    decoded: msgspec.Struct | None = None
    asked: msgspec.Struct | None = None
    welcome: Callable[[], bool] = lambda: True
    """Does the token still hold? A stream asks before it sends: a revoked token hears nothing more."""
    begun: web.StreamResponse | None = None
    """The response whose head was sent already."""

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the head of a streamed answer."""
        self.begun = response
        await response.prepare(self.request)

    def body(self, wanted: type[S]) -> S:
        """The body, of the row's own type."""
        return _as(self.decoded, wanted)

    def query(self, wanted: type[S]) -> S:
        """The query parameters, of the row's own type."""
        return _as(self.asked, wanted)


ANYBODY = Identity(name="anybody", role=TokenRole.OBSERVER)
"""Who asks on a route that is open to all."""

Handler = Callable[[Call], Awaitable[msgspec.Struct | web.StreamResponse]]


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One row: all that the door and the document have to know."""

    method: str
    path: str
    handler: Handler
    summary: str
    """A short sentence for the document."""
    _: dataclasses.KW_ONLY
    roles: frozenset[TokenRole] = frozenset()
    """Who may ask; empty: anybody, without a token."""
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    answer: Any = None
    """A struct (or a union of structs); None: the handler makes the response."""
    status: int = 200
    media: str = JSON
    """Of the answer."""
    statuses: tuple[int, ...] = ()
    """Beyond those of every row of its form; successes (206, 304) and problems alike."""
    body_bytes_max: int = BODY_BYTES_MAX
    deadline_s: float = DEADLINE_S
    long: bool = False
    open_on_loopback: bool = False
    """Without a token for who asks from this very machine."""
    raw: bool = False
    raw_media: str = "application/octet-stream"
    """Of a body that the handler reads by itself."""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    """Request headers that the handler reads, with a sentence each, for the document."""
    about: str = ""
    """More than the summary says."""

    @property
    def names(self) -> tuple[str, ...]:
        """Places of the path, in order."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def all_statuses(self) -> tuple[int, ...]:
        """Every status that a caller can see; a test holds the gateway to it."""
        found = {self.status, *QUICK_STATUSES, *self.statuses}
        if self.roles:
            found |= {401, 403}
        if self.names:
            found.add(404)
        if self.body is not None:
            found |= {408, 413, 415, 422}
        if self.raw:
            found |= {408, 413, 415}
        if self.query is not None:
            found.add(422)
        return tuple(sorted(found))


class Part:
    """Some routes and what stands behind them, for as long as the gateway lives."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def routes(self) -> tuple[Route, ...]:
        """Its rows."""
        return ()

    async def run(self) -> None:
        """What it does beside answering, until the gateway stops."""

    async def close(self) -> None:
        """Called once when the gateway stops, before the connections are closed: open streams have to end here."""


def _as(value: msgspec.Struct | None, wanted: type[S]) -> S:
    if not isinstance(value, wanted):  # the row names another type than its handler
        raise TypeError(f"this route carries {type(value).__name__}, and its handler wants {wanted.__name__}")
    return value
