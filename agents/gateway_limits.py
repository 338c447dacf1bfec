"""How much of the gateway one caller may take: requests in a second, and places for what is going on.

    rate     a token bucket for each bearer token, one for each address, and a small one for each address whose requests
             were refused at the door, so that tokens can not be tried out
    places   requests at a time, and streams (events, long waits) at a time: of all callers, and of one

Hitting a limit is an answer: 429 with Retry-After (a caller's own), 503 with Retry-After (of all). The tables of
buckets are bounded: who was silent longest is forgotten first, which gives him a full bucket. Not covered: a flood from
many addresses; that is for whatever stands before the gateway.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from agents.gateway_problems import Refused, refuse

BUCKETS_MAX = 10_000
"""Callers that are remembered: some 200 bytes each."""

BURST_S = 2.0
"""A full bucket holds what comes in together in so many seconds of the steady rate."""

ADDRESS_FACTOR = 4.0
"""An address may have several tokens behind it: a team behind one router."""

REFUSED_PER_S = 2.0
REFUSED_BURST = 20.0
"""Requests of one address that were refused for their token, before it has to wait. With 256 random bits no rate helps
who guesses; this keeps the log and the processor quiet."""

STREAMS_SHARE = 4
"""One caller has at most this part of all places: one of four."""


class Buckets:
    """Token buckets of many callers: `rate` a second each, up to `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, max(1.0, burst), clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Caller to (what was left, when)."""

    def take(self, caller: str, amount: float = 1.0) -> float:
        """Take from a caller's bucket; 0 when there was enough, else the seconds until there is. Nothing is taken
        then."""
        now = self._clock()
        left = self._now(caller, now)
        if left < amount:
            return (amount - left) / self._rate
        self._left[caller] = (left - amount, now)
        self._left.move_to_end(caller)
        while len(self._left) > BUCKETS_MAX:
            self._left.popitem(last=False)
        return 0.0

    def empty_s(self, caller: str) -> float:
        """Seconds until something is in the bucket again; 0: there is. Takes nothing."""
        left = self._now(caller, self._clock())
        return 0.0 if left >= 1.0 else (1.0 - left) / self._rate

    def _now(self, caller: str, now: float) -> float:
        left, since = self._left.get(caller, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate)


class Places:
    """Room for what goes on at a time."""

    def __init__(self, most: int, of_one: int, what: str) -> None:
        self._most, self._of_one, self._what = most, of_one, what
        self._taken: Counter[str] = Counter()
        self._total = 0

    @property
    def taken(self) -> int:
        """How many are in use."""
        return self._total

    @contextlib.contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Hold a place; a problem when there is none."""
        if self._taken[caller] >= self._of_one:
            raise refuse(
                "too-many", f"{caller} has {self._of_one} {self._what} open, which is the most: end one first.",
                Retry_After="1",
            )  # fmt: skip
        if self._total >= self._most:
            raise refuse(
                "unavailable", f"all {self._most} places for {self._what} are taken: try again soon.", Retry_After="1"
            )
        self._taken[caller] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]


class Limits:
    """All limits of one gateway."""

    def __init__(self, *, per_s: float, requests: int, streams: int, clock: Callable[[], float]) -> None:
        """per_s: requests a second of one token, in the long run."""
        self._tokens = Buckets(per_s, per_s * BURST_S, clock)
        self._addresses = Buckets(per_s * ADDRESS_FACTOR, per_s * ADDRESS_FACTOR * BURST_S, clock)
        self._refused = Buckets(REFUSED_PER_S, REFUSED_BURST, clock)
        self.requests = Places(requests, max(1, requests // 2), "requests")
        self.streams = Places(streams, max(1, streams // STREAMS_SHARE), "streams")

    def arrived(self, address: str) -> None:
        """A request came from this address. Refused when it sends too many, or too many with wrong tokens."""
        wait_s = max(self._addresses.take(address), self._refused.empty_s(address))
        if wait_s:
            raise _too_many("this address", wait_s)

    def refused(self, address: str) -> None:
        """A request of this address had no good token."""
        self._refused.take(address)

    def asked(self, name: str) -> None:
        """The holder of this token asks something. Refused when it asks too often."""
        if wait_s := self._tokens.take(name):
            raise _too_many(f"the token of {name!r}", wait_s)


def _too_many(who: str, wait_s: float) -> Refused:
    seconds = max(1, math.ceil(wait_s))
    return refuse("too-many", f"{who} has sent more requests than it may: wait {seconds} s.", Retry_After=str(seconds))


def address_of(remote: str | None, forwarded: str = "") -> str:
    """Who is counted together: an IPv4 address, or the 64 bits before an IPv6 interface.

    forwarded: X-Forwarded-For as the one proxy before the gateway wrote it; its last entry is what that proxy saw.
    """
    text = (forwarded.rpartition(",")[2] or remote or "").strip()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def is_loopback(remote: str | None) -> bool:
    """Does the connection come from this machine?"""
    try:
        return ipaddress.ip_address(remote or "").is_loopback
    except ValueError:
        return False
