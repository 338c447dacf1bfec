"""Commands of a person to the ledger: put on the COMMANDS stream, then waited for until the leader has heard them.

A command that is stored is never lost, even when no scheduler leads at the moment: the next one reads it.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from agents.commands.asking import ask
from agents.commands.reach import Reach
from mesh import codec
from mesh.errors import BusUnavailable, Conflict, Malformed, SettingsInvalid
from mesh.messages.base import Record
from mesh.messages.services import Status

WRITER = "cli"
"""Under this name the command line's commands stand."""

HEARD_S = 10.0
"""Patience with the leader: it hears a command within milliseconds, a new leader within seconds."""

PAUSE_S = 0.05
STORE_TRIES = 5


def new_id() -> str:
    """Of one command: different each time, because a person may ask for the same thing twice."""
    return f"{WRITER}-{secrets.token_hex(6)}"


async def command(there: Reach, record: Record, id_: str) -> None:
    """Store a command and wait until the leader has heard and decided it. BusUnavailable when that is not known."""
    subject = there.subjects.command(there.broker.name, record.kind, id_)
    await heard(there, await store(there, subject, record))


async def store(there: Reach, subject: str, record: Record) -> int:
    """Put a record on the COMMANDS stream, once; its sequence there."""
    try:
        data = codec.encode(record)
    except (Malformed, ValueError) as error:
        raise SettingsInvalid(f"this can not be asked for: {error}") from None
    for tried in range(1, STORE_TRIES + 1):
        try:
            return await there.broker.append(subject, data, subject_seq=0)
        except Conflict:  # an earlier attempt was stored, its answer was lost: it stands before what is newest now
            return (await there.broker.state(there.stream("COMMANDS"))).last_seq
        except BusUnavailable:
            if tried == STORE_TRIES:
                raise
    raise AssertionError("unreachable")


async def heard(there: Reach, seq: int) -> Status:
    """Wait until the leader has heard the command with this sequence."""
    deadline = time.monotonic() + HEARD_S
    while True:
        status = await ask(there, "leader", rows_max=0)
        if status.commands_seq >= seq:
            return status
        if time.monotonic() > deadline:
            raise BusUnavailable(
                f"the command is stored, but the scheduler has not heard it within {HEARD_S:.0f} s: "
                "it will be carried out; look again with `bin/agent tasks`."
            )
        await asyncio.sleep(PAUSE_S)
