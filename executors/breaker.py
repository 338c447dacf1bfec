"""A circuit breaker for one device: after a few failures in a row it is left alone for a while, then tried once.

            errors_max failures in a row                      pause_s have passed
    CLOSED ──────────────────────────────> OPEN ──────────────────────────────────> HALF_OPEN
      ^                                      ^                                          │
      │                                      └──────────────── the one probe fails ─────┤
      └─────────────────────────────────────────────────────── the one probe is good ───┘

A call begins with `ask`, which gives a ticket or a refusal with its reason, and goes on in two parts: the device has to
prove within `timeout_s` that it computes (`proved`), and what was computed ends, well or badly, whenever it ends
(`ended`). A call that proves nothing in time failed (`expire`, also looked at by `ask`). A success sets the count of
failures back; a proof alone does so for the probe only: a training of hours must not keep a device from the others.
A call that was withdrawn says nothing about the device.

Every change of state begins a new generation, and a ticket of an earlier one changes nothing any more: an answer that
comes late, from before the pause, neither closes nor opens.

A mind: no clock. `now` is a monotonic time in seconds, never less than the one before.
"""

from __future__ import annotations

import dataclasses
import enum


class Position(enum.StrEnum):
    """What the breaker lets through."""

    CLOSED = "closed"
    """Every call."""
    OPEN = "open"
    """None."""
    HALF_OPEN = "half-open"
    """One, to see."""


@dataclasses.dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to leave a device alone, and for how long."""

    errors_max: int = 3
    """Failures in a row that open it."""
    timeout_s: float = 30.0
    """How long a call may take until the device has proved that it computes: a cold driver needs ten seconds."""
    pause_s: float = 300.0
    """How long it stays open before it is tried again."""

    def __post_init__(self) -> None:
        if self.errors_max < 1 or self.timeout_s <= 0 or self.pause_s <= 0:
            raise ValueError(f"a breaker needs at least one error and times above 0, got {self}")


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """The permission for one call."""

    generation: int
    number: int
    deadline: float
    """Monotonic time by which the device must have proved that it computes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call must go elsewhere, and for how long that will be so."""

    reason: str
    wait_s: float
    """Until it is worth asking again; 0 when that depends on the probe."""


class Breaker:
    """The breaker of one device."""

    def __init__(self, name: str, policy: BreakerPolicy | None = None) -> None:
        """name: of the device, for reasons."""
        self._name = name
        self._policy = policy or BreakerPolicy()
        self._position = Position.CLOSED
        self._generation = 1
        self._errors = 0
        self._opened = 0.0
        self._given = 0
        self._unproved: dict[int, float] = {}
        """Tickets of this generation whose device has proved nothing yet: number to deadline."""
        self._going: set[int] = set()
        """Tickets of this generation that have not ended, proved or not."""
        self._last = ""

    # -- what others see ----------------------------------------------------------------------------------------------

    @property
    def errors(self) -> int:
        """Failures in a row."""
        return self._errors

    @property
    def generation(self) -> int:
        """Rises with every change of position."""
        return self._generation

    def position(self, now: float) -> Position:
        """What it lets through at `now`."""
        self.expire(now)
        if self._position is Position.OPEN and now - self._opened >= self._policy.pause_s:
            self._turn(Position.HALF_OPEN)
        return self._position

    # -- a call -------------------------------------------------------------------------------------------------------

    def ask(self, now: float) -> Ticket | Refusal:
        """May a call go to the device?"""
        position = self.position(now)
        if position is Position.OPEN:
            left_s = max(0.0, self._opened + self._policy.pause_s - now)
            return Refusal(f"{self._name} failed {self._errors} times in a row ({self._last}): {left_s:.0f} s", left_s)
        if position is Position.HALF_OPEN and self._going:
            return Refusal(f"{self._name} is just tried again after failures ({self._last})", 0.0)
        self._given += 1
        self._unproved[self._given] = now + self._policy.timeout_s
        self._going.add(self._given)
        return Ticket(self._generation, self._given, now + self._policy.timeout_s)

    def proved(self, ticket: Ticket, now: float) -> None:
        """The device computes. Too late is no proof."""
        self.expire(now)
        if not self._counts(ticket) or ticket.number not in self._unproved:
            return
        del self._unproved[ticket.number]
        if self._position is Position.HALF_OPEN:
            self._close()

    def ended(self, ticket: Ticket, now: float, error: str = "") -> None:
        """The call is over: well, or with an error of the device (never one of the program that used it)."""
        self.expire(now)
        if not self._counts(ticket):
            return
        self._forget(ticket)
        if error:
            self._failed(error, now)
        elif self._position is Position.HALF_OPEN:
            self._close()
        else:
            self._errors = 0

    def withdrawn(self, ticket: Ticket) -> None:
        """The call ended for reasons that say nothing about the device."""
        if self._counts(ticket):
            self._forget(ticket)

    def expire(self, now: float) -> None:
        """Calls whose device has proved nothing in time failed."""
        late = [number for number, deadline in self._unproved.items() if now >= deadline]
        for number in late:
            if number in self._unproved:  # the failure before it may have begun a new generation
                del self._unproved[number]
                self._going.discard(number)
                self._failed(f"no answer within {self._policy.timeout_s:g} s", now)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _counts(self, ticket: Ticket) -> bool:
        return ticket.generation == self._generation and ticket.number in self._going

    def _forget(self, ticket: Ticket) -> None:
        self._unproved.pop(ticket.number, None)
        self._going.discard(ticket.number)

    def _failed(self, error: str, now: float) -> None:
        self._errors += 1
        self._last = error[:200]
        if self._position is Position.HALF_OPEN or self._errors >= self._policy.errors_max:
            self._opened = now
            self._turn(Position.OPEN)

    def _close(self) -> None:
        self._errors = 0
        self._turn(Position.CLOSED)

    def _turn(self, position: Position) -> None:
        self._position = position
        self._generation += 1
        self._unproved.clear()
        self._going.clear()
