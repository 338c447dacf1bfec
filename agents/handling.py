"""One handling loop for every agent that reads a stream: decode, handle, acknowledge.

    delivery -> decode --Malformed--> drop, with the reason
                  |
                handler --ok--> ack
                        --Retry--> again, later each time
                        --Reject--> drop, logged and counted
                        --Stop--> the agent ends
                        --anything else--> a defect: logged with its traceback, tried again a bounded number of times

A handler derives the ids of what it writes from the record it was given and writes put-if-absent, so a record that is
handled twice (a crash before the ack, a redelivery) changes nothing. That is why there is no memory of handled records
here. Each record is handled in a span of the trace to which it belongs, and its log lines say what they are about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from agents.runtime import Agent, now_s
from mesh import codec, limits, log, traced, tracing
from mesh.bus import Delivery, Stored
from mesh.errors import BusUnavailable, Malformed, NotFound, Reject, Retry, Stop
from mesh.messages.base import Record
from mesh.packed import split

R = TypeVar("R", bound=Record)

RETRY_S_FIRST = 0.5
RETRY_S_MAX = 30.0
"""Bounds of the delay before a record is delivered again: short enough to heal soon, long enough not to spin."""

AGAIN = "again"
"""What became of a record that shall be delivered once more."""

AGAIN_S = 1.0
"""Pause before the loop asks a broker again that was away."""


async def handle(
    agent: Agent,
    stream: str,
    subject: str,
    durable: str,
    wanted: tuple[type[R], ...],
    handler: Callable[[R, Stored], Awaitable[None]],
    *,
    ack_wait_s: float = 60.0,
) -> None:
    """Hand every record of `subject` in `stream` to `handler` until the agent stops. Raises Stop errors only."""
    while not agent.stopping.is_set():
        try:
            async with agent.broker.consume(stream, subject, durable=durable, ack_wait_s=ack_wait_s) as deliveries:
                async for delivery in agent.until_stopping(deliveries):
                    await _one(agent, delivery, wanted, handler)
        except (BusUnavailable, NotFound) as error:
            agent.log.warning("reading %s is interrupted: %s", subject, error)
            await agent.pause(AGAIN_S)


async def _one(
    agent: Agent,
    delivery: Delivery,
    wanted: tuple[type[R], ...],
    handler: Callable[[R, Stored], Awaitable[None]],
) -> None:
    """One delivery: a record, or a pack of them. A pack is acknowledged when none of its records has to come again."""
    again, refused = False, ""
    rows = split(delivery.message)
    for row in rows:
        ended = await _row(agent, row, delivery.attempt, wanted, handler)
        again = again or ended is AGAIN
        refused = refused or (ended or "")
    if again:
        await delivery.again(delay_s(delivery.attempt))
    elif refused and len(rows) == 1:
        await delivery.drop(refused)
    else:
        await delivery.ack()


async def _row(
    agent: Agent,
    message: Stored,
    attempt: int,
    wanted: tuple[type[R], ...],
    handler: Callable[[R, Stored], Awaitable[None]],
) -> str | None:
    """Handle one record: None when that is done, AGAIN when it shall come again, else why it never will be."""
    try:
        record = codec.decode(message.data, *wanted)
        began = now_s()
        try:
            with _inside(record, message):
                await handler(record, message)
        finally:
            agent.metrics.observe("mesh_record_seconds", now_s() - began, kind=record.kind)
    except Stop:
        raise
    except Malformed as error:
        agent.failed("malformed", f"{message.subject} holds no valid record: {error}")
        return str(error) or type(error).__name__
    except Reject as error:
        agent.failed("rejected", f"{message.subject} can not be handled: {error}")
        return str(error) or type(error).__name__
    except Retry as error:
        agent.log.info("%s will be handled again: %s", message.subject, error)
        return AGAIN
    except asyncio.CancelledError:
        raise
    except Exception as error:  # a defect of ours: it must neither kill the agent nor be tried for ever
        agent.failed("defect", f"handling {message.subject} raised {type(error).__name__}: {error}", error)
        return AGAIN if attempt < limits.HANDLE_ATTEMPTS_MAX else f"{type(error).__name__}: {error}"
    agent.metrics.count("mesh_records_handled_total", role=agent.role, kind=record.kind)
    return None


@contextlib.contextmanager
def _inside(record: Record, message: Stored) -> Iterator[None]:
    """A span of the trace that the record or its message names; what is logged inside says what it is about."""
    asked = traced.of(record) or tracing.from_headers(message.headers)
    span = None if asked is None else asked.child()
    with tracing.within(span), log.about(**traced.about(record)):
        yield


def delay_s(attempt: int) -> float:
    """Seconds before delivery `attempt` + 1: doubled each time, bounded."""
    return float(min(RETRY_S_MAX, RETRY_S_FIRST * 2 ** min(attempt - 1, 16)))
