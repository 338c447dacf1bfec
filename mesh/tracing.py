"""W3C trace context: which piece of work this is part of, on every machine that has a hand in it.

    command, HTTP request          agent                            worker
    trace_id ─ span ──traceparent──> same trace_id ─ own span ──...──> same trace_id ─ span of the attempt

A trace is one 16-byte id for everything that follows from one request; each stretch of work in it is a span with an
8-byte id. Both stand in every log line (mesh/log.py). They travel as the header `traceparent` (and `tracestate`,
passed on and never read) of NATS messages and HTTP requests, and in records that outlive a message: a topic, a task, a
recommendation, a verdict (mesh/traced.py).

The rules are those of https://www.w3.org/TR/trace-context-1/: a header that breaks them is as good as none, a trace id
or span id of zeros is refused, of a later version what this one knows is read, of the flags only `sampled` is known
and passed on, and a bad `tracestate` is dropped without its `traceparent`. `incoming` and `headers` are all that a door
needs: the first continues what a request names or begins a trace, the second is what to send along.

Not here: spans are not timed, kept or exported. A collector of logs joins the lines by `trace_id`.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

PARENT, STATE = "traceparent", "tracestate"
"""Names of the headers; senders write them in lower case, readers take any."""

STATE_MEMBERS_MAX = 32
"""Members of one `tracestate`, by the specification; with more, all of it is dropped."""

STATE_CHARS_MAX = 512
"""What is passed on of a `tracestate`: as much as every vendor must carry."""

STATE_MEMBER_CHARS_LONG = 128
"""Members beyond this length are the first to go where the whole is too long."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(rf"({_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")

_SAMPLED = 0x01

_random = random.Random()
"""A generator of its own: a seeded test or simulation draws the same numbers whether it is traced or not."""


class Trace(msgspec.Struct, frozen=True):
    """Where in a trace the present work stands."""

    trace_id: str
    """32 lower-case hex digits, not all zero."""
    span_id: str
    """16 lower-case hex digits, not all zero."""
    sampled: bool = True
    """Somebody wants this trace recorded."""
    state: str = ""
    """`tracestate` as others wrote it, within bounds."""

    @property
    def parent(self) -> str:
        """As the header `traceparent`, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Trace:
        """A new span of the same trace."""
        return Trace(self.trace_id, _draw(16), self.sampled, self.state)

    def named(self, *names: str) -> Trace:
        """A span of the same trace whose id follows from the names: who knows them finds the same one."""
        return Trace(self.trace_id, _derived(16, *names), self.sampled, self.state)


_current: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("trace", default=None)


def current() -> Trace | None:
    """The trace and span of the work that calls this, or None."""
    return _current.get()


def begin() -> Trace:
    """A new trace."""
    return Trace(_draw(32), _draw(16))


def derived(*names: str) -> Trace:
    """The trace of something that names none: it follows from the names, so that all who see it agree."""
    return Trace(_derived(32, *names), _derived(16, *names))


def from_environment(environment: Mapping[str, str] = os.environ) -> Trace:
    """The trace that the caller of a command names in TRACEPARENT and TRACESTATE, or a new one."""
    found = read(environment.get(PARENT.upper(), ""), environment.get(STATE.upper(), ""))
    return begin() if found is None else found.child()


class within:  # as a generator it would cost every lease five times as much
    """What is done inside, also in tasks that start there, belongs to this span; None: to no trace."""

    __slots__ = ("_token", "_trace")

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace

    def __enter__(self) -> Trace | None:
        self._token = _current.set(self._trace)
        return self._trace

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


@contextlib.contextmanager
def incoming(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Iterator[Trace]:
    """What is done inside is a span of the trace that a request's headers name, or of a new one."""
    found = from_headers(headers)
    trace = begin() if found is None else found.child()
    with within(trace):
        yield trace


def headers() -> dict[str, str]:
    """What to send along with a message or request; nothing outside of a trace."""
    trace = _current.get()
    return {} if trace is None else to_headers(trace)


def to_headers(trace: Trace) -> dict[str, str]:
    """The headers of a span."""
    return {PARENT: trace.parent, STATE: trace.state} if trace.state else {PARENT: trace.parent}


def with_headers(given: dict[str, str] | None, spare_bytes: int) -> dict[str, str] | None:
    """Headers of a message with those of the present span, where they fit: a trace never keeps a message from going.

    spare_bytes: room that the message leaves. What the sender set himself stays.
    """
    trace = _current.get()
    if trace is None or (given and PARENT in given):
        return given
    for added in (to_headers(trace), {PARENT: trace.parent}):
        if sum(len(name) + len(value) + 4 for name, value in added.items()) <= spare_bytes:
            return {**(given or {}), **added}
    return given


def from_headers(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Trace | None:
    """The sender's span; None without one, or when it is not as the specification wants it."""
    parents, states = [], []
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if len(name) == len(PARENT) and name.lower() == PARENT:
            parents.append(value)
        elif len(name) == len(STATE) and name.lower() == STATE:
            states.append(value)
    return read(parents[0], ",".join(states)) if len(parents) == 1 else None


def read(parent: str, state: str = "") -> Trace | None:
    """A span as text; None when it is none."""
    found = _PARENT.fullmatch(parent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), bounded(state) if state else "")


def bounded(state: str) -> str:
    """A `tracestate` that may be passed on: whole members, the newest (leftmost) first; '' when it breaks the rules."""
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {one[1] for one in found if one is not None}
    if len(members) > STATE_MEMBERS_MAX or len(keys) < len(members):
        return ""
    length = sum(map(len, members)) + len(members) - 1
    for least in (STATE_MEMBER_CHARS_LONG + 1, 0):
        for index in range(len(members) - 1, -1, -1):
            if length > STATE_CHARS_MAX and len(members[index]) >= least:
                length -= len(members.pop(index)) + 1
    return ",".join(members)


def _draw(digits: int) -> str:
    return f"{_random.getrandbits(4 * digits) or 1:0{digits}x}"


def _derived(digits: int, *names: str) -> str:
    found = hashlib.sha256("\n".join(names).encode()).hexdigest()[:digits]
    return found if found.strip("0") else "1".zfill(digits)
