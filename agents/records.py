"""What several agents read and put alike: a topic's results, a champion's record, what is put once.

Reads are of what stands there now, a page at a time. Not here: what is made of it, and writes by compare-and-set.
"""

from __future__ import annotations

from agents.runtime import Agent
from mesh import codec, traced
from mesh.bus import Stored
from mesh.errors import Conflict
from mesh.messages.base import Record
from mesh.messages.judgement import Champion
from mesh.packed import split

PAGE = 500
"""Records of a topic that are read at once."""

RECORDS_MAX = 20_000
"""Records of one kind of one topic that are considered: a topic is some ten tasks, a large one some thousand."""


async def results(agent: Agent, topic: str, *kinds: type[Record]) -> list[Record]:
    """A topic's results of these kinds, in the order of the stream."""
    found: list[Stored] = []
    for kind in kinds:
        found += await _pages(agent, agent.subjects.results(topic, kind.kind))
    in_order = sorted(found, key=lambda stored: stored.seq)
    return [codec.decode(one.data, *kinds) for stored in in_order for one in split(stored)]


async def champion(agent: Agent, specialization: str) -> tuple[Champion | None, int]:
    """The champion's newest record and its revision; None and 0 without one, and where no specialization is named."""
    if not specialization:
        return None, 0
    subject = agent.subjects.key("champions", specialization)
    stored = await agent.broker.last(agent.subjects.bucket("champions"), subject)
    return (codec.decode(stored.data, Champion), stored.seq) if stored is not None else (None, 0)


async def put_once(agent: Agent, subject: str, record: Record) -> bool:
    """Put a record, in the present span; False where there is one already, which means that this was done before."""
    try:
        await agent.broker.append(subject, codec.encode(traced.stamped(record)), subject_seq=0)
    except Conflict:
        agent.log.debug("%s is stored already", subject)
        return False
    return True


async def _pages(agent: Agent, subject: str) -> list[Stored]:
    found: list[Stored] = []
    from_seq = 1
    while len(found) < RECORDS_MAX:
        page = await agent.broker.read(agent.stream("RESULTS"), subject, from_seq=from_seq, messages_max=PAGE)
        found += page
        if len(page) < PAGE:
            break
        from_seq = page[-1].seq + 1
    return found
