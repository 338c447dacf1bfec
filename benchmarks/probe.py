"""Tasks of next to no work, put straight onto a running mesh: what the mesh itself adds to every task.

    submit stored  ->  leased on the ledger  ->  child runs `noop`  ->  result recorded  ->  seen on RESULTS
    |<------------------------------------ one round trip, in seconds ------------------------------------>|

One task at a time, so nothing waits for another. The first round trip also starts the child.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

from agents.commands.reach import Reach, found, reach
from mesh import codec, settings
from mesh.bus import Stored
from mesh.errors import BusUnavailable, ChildBroke
from mesh.messages.base import derived_id
from mesh.messages.commands import Submit
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Needs, TaskSpec, TaskState
from mesh.packed import Each

MEMORY_BYTES = 64 * 1024 * 1024
"""What a noop child is given; it needs a third of it."""


def round_trips(home: Path, count: int, timeout_s: float) -> list[float]:
    """Seconds of `count` noop tasks one after another on the mesh of this home, the first left out.

    BusUnavailable when they do not end within `timeout_s` in all, or no mesh is there; ChildBroke when one fails.
    """
    return asyncio.run(_within(home, count, timeout_s))


async def _within(home: Path, count: int, timeout_s: float) -> list[float]:
    try:
        async with asyncio.timeout(timeout_s):
            async with reach(found(settings.load({"home": str(home)}, {}, home)), name="bench") as there:
                return (await _round_trips(there, count + 1))[1:]
    except TimeoutError:
        raise BusUnavailable(f"{count + 1} noop tasks did not end within {timeout_s:.0f} s") from None


async def _round_trips(there: Reach, count: int) -> list[float]:
    topic = f"bench-{secrets.token_hex(4)}"
    last_seq = (await there.broker.state(there.stream("RESULTS"))).last_seq
    wanted = there.subjects.results(topic, TaskEnded.kind)
    async with there.broker.tail(there.stream("RESULTS"), wanted, from_seq=last_seq + 1) as ended:
        return [await _round_trip(there, topic, number, Each(ended)) for number in range(count)]


async def _round_trip(there: Reach, topic: str, number: int, ended: AsyncIterator[Stored]) -> float:
    id_ = derived_id(topic, str(number))
    task = TaskSpec(
        id=id_, topic=topic, executor="noop", purpose="benchmark", needs=Needs(cores=0.0, memory_bytes=MEMORY_BYTES)
    )
    data = codec.encode(Submit(id=id_, topic=topic, tasks=(task,)))
    begun = time.perf_counter()
    await there.broker.append(there.subjects.command("bench", Submit.kind, id_), data, subject_seq=0)
    record = codec.decode((await anext(ended)).data, TaskEnded)
    if record.state is not TaskState.SUCCEEDED:
        raise ChildBroke(f"the noop task ended as {record.state.value}: {record.reason}")
    return time.perf_counter() - begun
