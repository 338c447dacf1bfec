"""JetStream's JSON interface, and the one place where its error codes become errors of ours.

    10071, 10164                    another writer was first               Conflict
    10077 "maximum …", 10047, …     stream or store without room           DiskFull
    10014, 10059                    no such consumer or stream             NotFound
    10054                           message longer than the stream takes   Malformed
    10039, 10076, other 4xx         not allowed, not understood            BrokerRefused
    503, 5xx, no answer             not now                                BusUnavailable

Raw requests, because the client library models only a part of the configuration and drops the rest when it writes a
stream back.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mesh import limits
from mesh.broker_link import Link, unheard
from mesh.bus import Message
from mesh.errors import (
    BrokerRefused,
    BusUnavailable,
    Conflict,
    DiskFull,
    Malformed,
    NotFound,
    RamifyError,
)
from mesh.subjects import is_key

WRONG_SEQUENCE = {10071, 10164}
_LAST_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")
NAME_TAKEN = 10058
_NO_PEER = 10005
"""No server of a cluster can take a stream: for want of room, or because there are too few of them."""

_NO_ROOM = {10047, 10023, 10028, 10002}
_STORE_FAILED = 10077
_MISSING = {10014, 10059}
_TOO_LONG = 10054
_SWITCHED_OFF = {10039, 10076}
_OVERLAP = 10065
_LATER = {10008, 10009}
_TOO_MANY = 429
"""More was on its way to a stream than the server keeps in hand: somebody floods it."""


def error_of(answer: dict[str, Any], what: str) -> RamifyError | None:
    """The error in an answer, in our words; None when there is none. `what`: what was asked, for the sentence."""
    error = answer.get("error")
    if not error:
        return None
    code, number = int(error.get("code", 500)), int(error.get("err_code", 0))
    text = str(error.get("description", "no reason given"))
    sentence = f"{what}: {text}"
    if number in WRONG_SEQUENCE:
        last = _LAST_SEQUENCE.search(text)
        facts = {"last_seq": int(last[1])} if last else {}
        return Conflict(f"{sentence}; somebody else wrote first", err_code=number, **facts)
    no_peer = number == _NO_PEER and "insufficient storage" in text
    if number in _NO_ROOM or no_peer or (number == _STORE_FAILED and _says_full(text)):
        return DiskFull(f"{sentence}; raise the limit or remove something", err_code=number)
    if number in _MISSING:
        return NotFound(f"{sentence}; make the streams first", err_code=number)
    if number == _TOO_LONG:
        return Malformed(f"{sentence}; send less", err_code=number)
    if number == _OVERLAP:
        return Conflict(f"{sentence}; choose another prefix", err_code=number)
    if number in _SWITCHED_OFF:
        return BrokerRefused(f"{sentence}; switch JetStream on for this account", err_code=number)
    if number == _NO_PEER:
        return BrokerRefused(f"{sentence}; that many copies need as many servers with JetStream", err_code=number)
    if code >= 500 or code == _TOO_MANY or number in _LATER:
        return BusUnavailable(f"{sentence}; try again later", err_code=number)
    return BrokerRefused(sentence, err_code=number)


def _says_full(text: str) -> bool:
    return any(word in text.lower() for word in ("maximum", "no space", "insufficient", "exceeded"))


class JetStream:
    """Requests to `$JS.API…`, or to the domain's form of it when the streams live behind a leaf node."""

    def __init__(self, link: Link, domain: str) -> None:
        self._link = link
        self._prefix = f"$JS.{domain}.API." if domain else "$JS.API."
        self._domain = domain
        self._silent: set[str] = set()
        """Streams about which this identity may not ask: it reads them directly, or writes only."""

    def subject(self, what: str) -> str:
        """The subject of one request, such as `CONSUMER.MSG.NEXT.stream.name`."""
        return self._prefix + what

    def storing(self, subject: str) -> str:
        """Where to publish so that the stream of `subject` stores it: keys of a domain's buckets need its prefix."""
        return self._prefix + subject if self._domain and is_key(subject) else subject

    async def call(
        self, what: str, body: dict[str, Any] | None = None, *, timeout_s: float = limits.CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask, and read the answer; every error in our words."""
        data = json.dumps(body).encode() if body is not None else b""
        message = await self._link.ask(self.subject(what), data, timeout_s=timeout_s)
        if unheard(message):
            raise BusUnavailable(f"{what}: JetStream does not answer at {self._link.address}; try again later")
        answer = read(message)
        error = error_of(answer, what)
        if error is not None:
            raise error
        return answer

    async def stream(self, name: str) -> dict[str, Any]:
        """Configuration and state of a stream. NotFound when there is none."""
        return await self.call(f"STREAM.INFO.{name}")

    async def unheard_store(self, subject: str) -> RamifyError:
        """Why did nobody store this? NotFound when no stream takes the subject, else BusUnavailable."""
        try:
            names = (await self.call("STREAM.NAMES", {"subject": subject})).get("streams")
        except RamifyError:
            names = [""]
        if names:
            return BusUnavailable(f"nobody stores {subject} at the moment; try again later")
        return NotFound(f"no stream stores {subject}: make the streams first")

    async def unheard_read(self, stream: str) -> RamifyError:
        """Why did nobody answer a direct read? The stream is missing, not declared for it, or away."""
        away = BusUnavailable(f"stream {stream} does not answer at the moment; try again later")
        if stream in self._silent:
            return away
        try:
            config = (await self.stream(stream))["config"]
        except BrokerRefused:
            self._silent.add(stream)
            return away
        except RamifyError as error:
            return error
        if not config.get("allow_direct"):
            return BrokerRefused(f"stream {stream} does not allow direct reads: make the streams as declared")
        return away


def read(message: Message) -> dict[str, Any]:
    """The JSON map in an answer. BusUnavailable for anything else: then it was not JetStream that answered."""
    try:
        answer = json.loads(message.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise BusUnavailable(
            f"expected an answer of JetStream, got {message.data[:80]!r}: is another service listening?"
        )
    return answer
