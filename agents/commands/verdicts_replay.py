"""`bin/agent verdicts replay`: computes a verdict again from its stored evidence, and says whether it is the same."""

from __future__ import annotations

import argparse
import asyncio

from agents.commands import flags, output
from agents.commands.reach import Reach, reach_stored
from agents.commands.stored import read_all
from consensus.evidence import Items, items_of
from consensus.replaying import Difference, replayed, round_then
from mesh import codec, limits
from mesh.errors import ArtifactCorrupt, ArtifactMissing, Malformed, NotFound
from mesh.messages.base import Record
from mesh.messages.judgement import Champion, Outcomes, Verdict
from mesh.messages.results import Planned, RecommendationMade, TaskEnded
from mesh.packed import split

OUTCOMES_FILE = "outcomes.msgpack"

DIFFERS = 1
"""Exit code: the verdict is not what follows from its evidence."""

_READ: tuple[type[Record], ...] = (Planned, TaskEnded, RecommendationMade)


async def replay(given: argparse.Namespace) -> int:
    """0 when the verdict comes out the same, 1 when it does not, 6 when evidence is no longer stored."""
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        said = await find(there, given.name)
        differing = await again(there, said)
    same = not differing
    if given.json:
        rows = [{"field": one.path, "stored": one.stored, "again": one.again} for one in differing]
        output.write_json(given.json, {"verdict": said.id, "same": same, "differences": rows})
    if given.json != "-":
        output.say(_told(said, differing))
    return 0 if same else DIFFERS


async def find(there: Reach, name: str) -> Verdict:
    """The verdict of that id; or the newest one of that topic or specialization. NotFound."""
    subject = there.subjects.results("*", Verdict.kind)
    found = None
    for stored in await read_all(there, there.stream("RESULTS"), subject):
        for one in split(stored):
            verdict = codec.decode(one.data, Verdict)
            if name in (verdict.id, verdict.topic, verdict.specialization):
                found = verdict
    if found is None:
        raise NotFound(
            f"no verdict, and no topic or node with one, is called {name!r}; `bin/agent verdicts` lists them."
        )
    return found


async def again(there: Reach, said: Verdict) -> tuple[Difference, ...]:
    """What differs when the verdict is computed again. NotFound with what is no longer stored."""
    records = await _records(there, said.topic)
    compared = await _champion(there, said, said.recommendation.champion_revision)
    round_, why = round_then(said, records, compared)
    if round_ is None:
        raise NotFound(f"the verdict {said.id} can not be computed again: {why}.")
    read: dict[str, Items | str] = {digest: await _outcomes(there, said, digest) for digest in round_.digests}
    seen = await _champion(there, said, said.champion_revision)
    return await asyncio.to_thread(replayed, said, round_, read, seen)


async def _records(there: Reach, topic: str) -> list[Record]:
    """The topic's plans, ended tasks and recommendations in the order of the stream."""
    found = []
    for kind in _READ:
        found += await read_all(there, there.stream("RESULTS"), there.subjects.results(topic, kind.kind))
    return [
        codec.decode(one.data, *_READ) for stored in sorted(found, key=lambda one: one.seq) for one in split(stored)
    ]


async def _champion(there: Reach, said: Verdict, revision: int) -> Champion | None:
    """The champion's record of that revision; None for revision 0."""
    if revision == 0:
        return None
    bucket, key = there.subjects.bucket("champions"), there.subjects.key("champions", said.specialization)
    stored = await there.broker.read(bucket, key, from_seq=revision, messages_max=1)
    if not stored or stored[0].seq != revision:
        raise NotFound(
            f"the verdict {said.id} can not be computed again: the champion's record that it was compared with "
            f"(revision {revision} of {said.specialization}) is no longer stored."
        )
    return codec.decode(stored[0].data, Champion)


async def _outcomes(there: Reach, said: Verdict, digest: str) -> Items | str:
    """Per-item outcomes. Such as can not be read counted as missing when they were weighed, too."""
    try:
        data = await there.store().read_file(digest, OUTCOMES_FILE, bytes_max=limits.OUTCOMES_BYTES_MAX)
        return items_of(codec.decode(data, Outcomes, bytes_max=limits.OUTCOMES_BYTES_MAX))
    except (ArtifactMissing, NotFound) as error:
        raise NotFound(f"the verdict {said.id} can not be computed again: {error}") from error
    except (ArtifactCorrupt, Malformed) as error:
        return f"the outcomes {digest[:12]} can not be read: {error}"


def _told(said: Verdict, differing: tuple[Difference, ...]) -> str:
    what = f"{said.id} ({said.choice.value}, {'accepted' if said.accepted else 'rejected'})"
    if not differing:
        return f"{what}: computed again from its evidence, recommendation and verdict are the same"
    rows = [(one.path, one.stored, one.again) for one in differing]
    return f"{what} is not what follows from its evidence:\n" + output.table(("field", "stored", "computed"), rows)
