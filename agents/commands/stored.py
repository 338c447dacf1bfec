"""Reading records from streams and buckets: the newest of each key, all of a subject, page by page."""

from __future__ import annotations

from typing import TypeVar

from agents.commands.reach import Reach
from mesh import codec
from mesh.bus import Stored
from mesh.errors import Malformed, NotFound
from mesh.messages.base import Record
from mesh.packed import split

R = TypeVar("R", bound=Record)

PAGE = 1_000
"""Messages read at once."""

RECORDS_MAX = 100_000
"""Most records that a command holds: beyond it the oldest ones are left out."""


async def read_all(reach: Reach, stream: str, subject: str) -> list[Stored]:
    """Every stored message of a subject in order. NotFound with a sentence when the mesh has no such stream."""
    found: list[Stored] = []
    from_seq = 1
    while True:
        try:
            page = await reach.broker.read(stream, subject, from_seq=from_seq, messages_max=PAGE)
        except NotFound:
            raise NotFound(
                f"the broker at {reach.where} has no stream {stream}: no scheduler of the mesh "
                f"{reach.subjects.prefix!r} ever ran there; check --server and --prefix."
            ) from None
        found = (found + page)[-RECORDS_MAX:]
        if len(page) < PAGE:
            return found
        from_seq = page[-1].seq + 1


async def records(reach: Reach, stream: str, subject: str, wanted: type[R]) -> list[R]:
    """The records of a subject in order; what this program can not read is left out."""
    found = []
    for stored in await read_all(reach, stream, subject):
        for one in split(stored):
            try:
                found.append(codec.decode(one.data, wanted))
            except Malformed:
                continue
    return found


async def bucket(reach: Reach, name: str, wanted: type[R]) -> dict[str, R]:
    """The newest record of each key; an erased key is left out."""
    newest: dict[str, R] = {}
    for stored in await read_all(reach, reach.subjects.bucket(name), reach.subjects.keys(name)):
        key = stored.subject.rpartition(".")[2]
        newest.pop(key, None)
        if stored.data:
            try:
                newest[key] = codec.decode(stored.data, wanted)
            except Malformed:
                continue
    return newest
