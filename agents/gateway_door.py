"""The door: what every request passes before a handler sees it, and every answer on its way out.

    address's rate -> token -> role -> token's rate -> a place -> body, read within bounds and decoded -> handler
          429         401     403         429        429, 503        408, 413, 415, 400, 422                 |
                                                                                                             v
    answer as JSON, or a problem document; a defect is 500 with an id that stands in the log with its traceback

Only this file turns exceptions into answers, so that no handler can forget one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agents import gateway_problems as problems
from agents.gateway_limits import Limits, address_of, is_loopback
from agents.gateway_problems import Refused, refuse
from agents.gateway_routes import ANYBODY, JSON, PARAMETERS, Call, Route
from agents.gateway_tokens import Identity, Tokens
from agents.runtime import Agent, now_s
from mesh import tracing
from mesh.errors import RamifyError

CHALLENGE = 'Bearer realm="ramify"'

LOCAL_HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?\Z")
"""What a browser on this machine writes as Host for an address of loopback; another name that leads here is a trick to
have a foreign page read what is open on loopback."""

QUERY_MAX = 32
"""Parameters of one query."""


class Door:
    """Makes handlers of the web server from rows of the table."""

    def __init__(self, agent: Agent, tokens: Tokens, limits: Limits, *, behind_proxy: bool) -> None:
        self._agent, self._tokens, self._limits = agent, tokens, limits
        self._behind_proxy = behind_proxy

    def handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What the web server calls for this row."""
        decode = msgspec.json.Decoder(route.body).decode if route.body is not None else None

        async def handle(request: web.Request) -> web.StreamResponse:
            began = now_s()
            call = Call(request, ANYBODY, {})
            with tracing.incoming(request.headers):
                answer = await self._guarded(self._answered(route, call, decode), call)
            metrics = self._agent.metrics
            metrics.count("mesh_http_requests_total", route=f"{route.method} {route.path}", status=str(answer.status))
            if not route.long:
                metrics.observe("mesh_http_request_seconds", now_s() - began, route=f"{route.method} {route.path}")
            return answer

        return handle

    @web.middleware
    async def outside(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What leads to no row of the table: an unknown address or method, as a problem like the others."""
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            refused = refuse("no-such-method", f"{request.path} takes {allowed}, not {request.method}.", Allow=allowed)
        except web.HTTPNotFound:
            refused = refuse("not-found", f"there is nothing at {request.path}: /docs lists what there is.")
        except web.HTTPException as error:
            refused = refuse("malformed", f"the request can not be read: {error.reason}.")
        try:
            self._limits.arrived(self._address(request))
        except Refused as too_many:
            refused = too_many
        return problems.response(refused)

    # -- one request --------------------------------------------------------------------------------------------------

    async def _guarded(self, work: Awaitable[web.StreamResponse], call: Call) -> web.StreamResponse:
        """The answer, whatever happens; where its head was sent already, the connection ends instead."""
        try:
            return await work
        except Refused as error:
            answer = problems.response(error)
        except RamifyError as error:
            answer = self._of(error)
        except ConnectionError:  # the caller is gone: nobody hears this
            answer = problems.response(refuse("malformed", "the connection was closed."))
        except Exception as error:
            answer = self._defect(error, call)
        if call.begun is not None:
            if call.request.transport is not None:
                call.request.transport.abort()
            return call.begun
        return answer

    def _of(self, error: RamifyError) -> web.Response:
        refused = problems.of(error)
        return self._defect(error, None) if refused.name == "defect" else problems.response(refused)

    def _defect(self, error: Exception, call: Call | None) -> web.Response:
        id_ = secrets.token_hex(8)
        where = f"{call.request.method} {call.request.path}" if call is not None else "a request"
        self._agent.failed("defect", f"{where} met a defect ({id_}): {type(error).__name__}: {error}", error)
        return problems.response(
            refuse("defect", f"this is not your fault; the gateway's log tells more under {id_}."), id_
        )

    async def _answered(self, route: Route, call: Call, decode: Callable[[bytes], Any] | None) -> web.StreamResponse:
        request, address = call.request, self._address(call.request)
        self._limits.arrived(address)
        call.identity = self._identified(route, request, address)
        call.welcome = lambda: self._still(request, call.identity)
        call.path = _path(route, request)
        places = self._limits.streams if route.long else self._limits.requests
        with places.one(call.identity.name if route.roles else address):
            call.asked = _query(route, request)
            if route.long:
                call.decoded = await _within(route.deadline_s, self._body(route, request, decode), _too_slow)
                return _response(route, await route.handler(call))
            async with asyncio.timeout(route.deadline_s) as deadline:
                left_s = (deadline.when() or 0.0) - now_s()
                call.decoded = await _within(left_s, self._body(route, request, decode), _too_slow)
            answer = await _within(route.deadline_s, route.handler(call), _no_answer)
        return _response(route, answer)

    async def _body(
        self, route: Route, request: web.Request, decode: Callable[[bytes], Any] | None
    ) -> msgspec.Struct | None:
        if route.raw:
            if (request.content_length or 0) > route.body_bytes_max:
                raise _too_large(route.body_bytes_max)
            return None
        if decode is None:
            return None
        _check_media(request)
        data = await read_body(request, route.body_bytes_max)
        try:
            found: msgspec.Struct = decode(data)
        except msgspec.ValidationError as error:
            raise refuse("invalid", f"the body does not fit: {error}.") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise refuse("malformed", f"the body is no JSON: {str(error) or type(error).__name__}.") from None
        return found

    def _identified(self, route: Route, request: web.Request, address: str) -> Identity:
        given = request.headers.get("Authorization", "")
        if not route.roles or (not given and route.open_on_loopback and self._is_here(request)):
            return ANYBODY
        scheme, _, secret = given.partition(" ")
        if not given or scheme.lower() != "bearer":
            raise self._nobody(address, "this needs `Authorization: Bearer TOKEN`; `bin/agent token issue` makes one.")
        identity = self._tokens.identify(secret.strip())
        if isinstance(identity, str):
            raise self._nobody(address, f"{identity}.", ', error="invalid_token"')
        self._limits.asked(identity.name)
        if identity.role not in route.roles:
            allowed = " or ".join(sorted(route.roles))
            raise refuse(
                "forbidden", f"this is for the role {allowed}, and the token of {identity.name!r} is {identity.role}'s."
            )
        return identity

    def _still(self, request: web.Request, identity: Identity) -> bool:
        """Is who was let in still who he was?"""
        given = request.headers.get("Authorization", "").partition(" ")[2]
        return identity is ANYBODY or self._tokens.identify(given.strip()) == identity

    def _nobody(self, address: str, why: str, more: str = "") -> Refused:
        self._limits.refused(address)
        return refuse("unauthenticated", why, WWW_Authenticate=CHALLENGE + more)

    def _is_here(self, request: web.Request) -> bool:
        return not self._behind_proxy and is_loopback(request.remote) and bool(LOCAL_HOSTS.match(request.host))

    def _address(self, request: web.Request) -> str:
        return address_of(request.remote, request.headers.get("X-Forwarded-For", "") if self._behind_proxy else "")


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """A body up to its bound, however it is sent. Refused as too large or malformed."""
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    found = bytearray()
    try:
        async for piece in request.content.iter_any():
            found += piece
            if len(found) > bytes_max:
                raise _too_large(bytes_max)
    except (web.RequestPayloadError, HttpProcessingError, aiohttp.ClientPayloadError) as error:
        raise refuse("malformed", f"the body ended in the middle: {error}.") from None
    return bytes(found)


async def _within(seconds: float, work: Awaitable[Any], late: Callable[[], Refused]) -> Any:
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
        raise late() from None


def _too_slow() -> Refused:
    return refuse("too-slow", "the body did not come in time: send it faster, or in smaller parts.", Connection="close")


def _no_answer() -> Refused:
    return refuse("unavailable", "the mesh did not answer in time: try again.", Retry_After=str(problems.RETRY_AFTER_S))


def _too_large(bytes_max: int) -> Refused:
    return refuse("too-large", f"this address takes bodies of at most {bytes_max:,} bytes.")


def _check_media(request: web.Request) -> None:
    if "Content-Type" not in request.headers or request.content_type != JSON:
        got = request.headers.get("Content-Type", "none")[:80]
        raise refuse("media-type", f"expected a body of the type {JSON}, got {got!r}: curl sends it with --json.")
    charset, coding = request.charset or "utf-8", request.headers.get("Content-Encoding", "identity")
    if charset.lower() not in ("utf-8", "utf8", "us-ascii") or coding.lower() != "identity":
        raise refuse("media-type", "expected JSON in UTF-8, without a content encoding.")


def _path(route: Route, request: web.Request) -> dict[str, str]:
    found = {name: request.match_info[name] for name in route.names}
    for name, value in found.items():
        if not re.fullmatch(PARAMETERS[name].pattern, value, re.DOTALL):
            raise refuse("not-found", f"there is no {name} {value[:120]!r}, and there can be none of such a name.")
    return found


def _query(route: Route, request: web.Request) -> msgspec.Struct | None:
    if route.query is None:
        return None
    given = request.query
    if len(given) > QUERY_MAX or len(set(given)) < len(given):
        raise refuse("invalid", "the query names a parameter twice, or too many of them.")
    try:
        asked: msgspec.Struct = msgspec.convert(dict(given), route.query, strict=False)
    except msgspec.ValidationError as error:
        raise refuse("invalid", f"the query does not fit: {error}.") from None
    return asked


def _response(route: Route, answer: msgspec.Struct | web.StreamResponse) -> web.StreamResponse:
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(status=route.status, body=msgspec.json.encode(answer), content_type=JSON)
