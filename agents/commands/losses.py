"""What is lost since the broker came back with an older store, and what to do about it, for `bin/agent doctor`.

    topics     published from this home folder in the last day, not in the mesh   -> `bin/agent republish`
    plans      results wait for tasks that no plan names any more                 -> publish their topics again
    champions  whose model is not in the store                                    -> publish their topic again
    outputs    of recorded results, not in the store                              -> made anew when a task needs them

Ids, LISTED_MAX of each kind, and how many more. The last two are looked for only after a restore, and only the newest.
"""

from __future__ import annotations

import contextlib
import dataclasses

from agents.commands import published, stored
from agents.commands.reach import Reach
from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.errors import Malformed, NotFound
from mesh.messages.judgement import Champion
from mesh.messages.results import TaskEnded
from mesh.messages.services import Status
from mesh.messages.tasks import TaskState
from mesh.packed import split

LISTED_MAX = 10
"""Ids in one sentence; the rest is counted."""

LOOKED_AT_MAX = 500
"""Champions, and newest results, whose artifacts are looked for: a second or two."""

MESSAGES_MAX = 5_000
"""Newest messages on RESULTS that are read for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """One kind of thing that is lost."""

    what: str
    ids: tuple[str, ...]
    says: str
    """What it means and what to do."""
    wrong: bool = True
    """A person has to do something."""

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        more = f" and {len(self.ids) - LISTED_MAX} more" if len(self.ids) > LISTED_MAX else ""
        return f"{', '.join(self.ids[:LISTED_MAX])}{more}: {self.says}"


async def find(reach: Reach, status: Status | None) -> list[Loss]:
    """What is lost, as far as it can be known from here."""
    found = [
        Loss(
            "topics",
            tuple(one.topic.id for one in await published.lost(reach)),
            "lost with an older store; `bin/agent republish` publishes them again",
        )
    ]
    if status is not None:
        found.append(
            Loss(
                "plans",
                status.unplanned,
                "done, but their plan was lost with an older store; their results are recorded when their topics are "
                "published again: `bin/agent republish` where that was done",
            )
        )
    if status is not None and status.generation > 1:
        store = reach.store()
        found += [await _champions(reach, store), await _outputs(reach, store)]
    return [loss for loss in found if loss.ids]


async def _champions(reach: Reach, store: ArtifactStore) -> Loss:
    champions = await stored.bucket(reach, "champions", Champion)
    ids = [name for name, one in list(champions.items())[-LOOKED_AT_MAX:] if await _lost(store, one.model)]
    return Loss("champions", tuple(ids), "the model is lost with an older store; publish a topic of theirs again")


async def _outputs(reach: Reach, store: ArtifactStore) -> Loss:
    stream, subject = reach.stream("RESULTS"), reach.subjects.results("*", TaskEnded.kind)
    from_seq = max(1, (await reach.broker.state(stream)).last_seq - MESSAGES_MAX)
    messages = await reach.broker.read(stream, subject, from_seq=from_seq, messages_max=MESSAGES_MAX)
    ended: dict[str, TaskEnded] = {}
    for row in (row for message in messages for row in split(message)):
        with contextlib.suppress(Malformed):
            one = codec.decode(row.data, TaskEnded)
            ended[one.task.id] = one  # a task that was done once more: its newest result counts
    found = []
    for one in list(ended.values())[-LOOKED_AT_MAX:]:
        if one.state is TaskState.SUCCEEDED and one.outcome is not None:
            lost = [name for name, digest in sorted(one.outcome.outputs.items()) if await _lost(store, digest)]
            found += [f"{one.task.id} ({name})" for name in lost]
    says = "no longer in the store; made anew when a task needs them, else publish the topic again"
    return Loss("outputs", tuple(found), says, wrong=False)


async def _lost(store: ArtifactStore, digest: str) -> bool:
    try:
        return await store.missing(digest)
    except NotFound:
        return True
