"""The models of the mesh by name and digest: champions, and what people pushed."""

from __future__ import annotations

import dataclasses
import difflib

import msgspec

from agents.commands.reach import Reach
from agents.commands.stored import bucket, records
from mesh.errors import ArtifactMissing, NotFound
from mesh.messages.base import DIGEST
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel, ModelFormat, PushedModel
from planner import proposals

DIGITS_MIN = 6
"""First digits of a digest that are taken for one: fewer are more likely a word."""


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """What is there, by specialization and by name."""

    champions: dict[str, Champion]
    pushed: dict[str, PushedModel]
    nodes: dict[str, Specialization]
    """The graph: a node without a champion is known, and has no model yet."""

    def choose(self, name: str) -> Champion | PushedModel:
        """The champion or pushed model of that name, or whose digest begins so. NotFound with a sentence."""
        if name in self.champions:
            return self.champions[name]
        if name in self.pushed:
            return self.pushed[name]
        if len(name) >= DIGITS_MIN and (found := self._by_digest(name)):
            if len({one.model for one in found}) > 1:
                raise NotFound(f"more than one model's digest begins with {name!r}: give some digits more.")
            return found[0]
        if name in self.nodes:
            raise NotFound(
                f"{name!r} has no champion yet: no candidate of its topics was accepted so far; "
                "`bin/agent verdicts` says why, `bin/agent tasks` what still runs."
            )
        near = difflib.get_close_matches(name, [*self.champions, *self.pushed], n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise NotFound(f"no model is called {name[:80]!r}; {hint}`bin/agent models` lists them.")

    def _by_digest(self, digits: str) -> list[Champion | PushedModel]:
        everything: list[Champion | PushedModel] = [*self.champions.values(), *self.pushed.values()]
        return [one for one in everything if one.model.startswith(digits)]


async def known(there: Reach) -> Models:
    """Every model that has a name. NotFound with a sentence where no mesh ever was."""
    champions = await bucket(there, "champions", Champion)
    try:
        pushed = await bucket(there, "models", PushedModel)
    except NotFound:  # a mesh that an older program made: nothing was pushed to it
        pushed = {}
    return Models(champions, pushed, await bucket(there, "graph", Specialization))


async def find(there: Reach, name: str) -> tuple[Models, Champion | PushedModel]:
    """The model of that name or digest, and all others; a whole digest finds earlier versions, too. NotFound."""
    models = await known(there)
    try:
        return models, models.choose(name)
    except NotFound:
        for one in await _earlier(there) if DIGEST.match(name) else []:
            if one.model == name:
                return models, one
        raise


async def base_of(there: Reach, name: str) -> BaseModel:
    """The base model that a topic names. NotFound when there is none of that name or digest."""
    models, found = await find(there, name)
    if isinstance(found, PushedModel):
        return msgspec.structs.replace(found.base, architecture=found.architecture)
    node = models.nodes.get(found.specialization)
    return BaseModel(
        model=found.full or found.model,  # weights in few bits can not be trained
        name=found.specialization,
        task=node.task if node is not None and node.task else next(iter(proposals.SPACES)),
        fits=found.fits,
        labels=node.labels if node is not None else 0,
        settings=found.settings,
        size_bytes=int(found.kpis.get("size_bytes", 0)),
        format=ModelFormat.ADAPTER if found.base else ModelFormat.RAMIFY,
    )


async def _earlier(there: Reach) -> list[Champion | PushedModel]:
    """Every version that is remembered, newest first."""
    champions = await records(there, there.subjects.bucket("champions"), there.subjects.keys("champions"), Champion)
    pushed = await records(there, there.subjects.bucket("models"), there.subjects.keys("models"), PushedModel)
    return [*reversed(champions), *reversed(pushed)]


def adapted_by(found: Champion | PushedModel) -> str:
    """Digest of the model that a champion adapts; '' of a whole model. A pushed adapter names its own in words only."""
    return found.base if isinstance(found, Champion) else ""


async def check_there(there: Reach, digest: str) -> None:
    """ArtifactMissing with what to do when the artifact is no longer stored."""
    try:
        await there.store().manifest(digest)
    except ArtifactMissing:
        raise ArtifactMissing(
            f"the model {digest[:12]} is named, and no longer stored: it was collected, or the store came back older; "
            "push it again, or take another version.",
            digest=digest,
        ) from None
