"""Gate: judges every recommendation KPI by KPI, by the policies of the settings, and promotes by compare-and-set.

    recommendation ──> verdict (put if absent) ──> champion (compare-and-set on the revision that was compared)

In:    recommendations (RESULTS), the champion's record and the specialization's name (KV)
Out:   one verdict per recommendation (RESULTS), the champion's next record (KV)
Keeps: nothing: the verdict is written before the champion, and found again after a crash, so an unfinished promotion is
       driven again from its recommendation, which is acknowledged last
Loses: nothing. A verdict whose compare-and-set is lost stands as it was said, superseded; the log says by what. It
       takes another writer within the milliseconds between the two writes: the verdict itself checks the revision
Not:   looks at no outcomes and no model; its rules are consensus/gate.py
"""

from __future__ import annotations

import dataclasses
import time

from agents import records
from agents.handling import handle
from agents.runtime import Agent
from consensus.champions import next_champion
from consensus.comparison import spent_share
from consensus.gate import verdict, verdict_id
from consensus.policies import with_settings
from mesh import codec
from mesh.bus import Stored
from mesh.errors import Conflict, NotFound, Retry
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion, Choice, Recommendation, Verdict
from mesh.messages.results import RecommendationMade


class Gate:
    """The handler of one gate agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log = agent.broker
        self._subjects = agent.subjects
        self._policies = with_settings(dataclasses.asdict(agent.settings.gate))

    async def run(self) -> None:
        """Handle recommendations until the agent stops."""
        await handle(
            self._agent,
            self._agent.stream("RESULTS"),
            self._subjects.results("*", RecommendationMade.kind),
            self._subjects.durable("gate"),
            (RecommendationMade,),
            self.on_recommendation,
        )

    async def on_recommendation(self, made: RecommendationMade, _: Stored) -> None:
        """Judge, publish the verdict, carry it out; each step finds what an earlier life has done."""
        said = await self._verdict(made.recommendation)
        await self._carry_out(said)

    # -- the verdict --------------------------------------------------------------------------------------------------

    async def _verdict(self, recommendation: Recommendation) -> Verdict:
        """The verdict that is published: ours, or the one that was there."""
        subject = self._subjects.result(recommendation.topic, Verdict.kind, verdict_id(recommendation))
        published = await self._published(subject)
        if published is not None:
            return published
        champion, revision = await records.champion(self._agent, recommendation.specialization)
        now_ms = time.time_ns() // 1_000_000
        said = verdict(recommendation, champion, revision, decided_at_ms=now_ms, policies=self._policies)
        try:
            await self._log.append(subject, codec.encode(said), subject_seq=0)
        except Conflict:
            published = await self._published(subject)
            if published is None:
                raise Retry(f"the verdict {said.id} was put by somebody else and is gone") from None
            return published
        outcome = "accepted" if said.accepted else "rejected"
        self._agent.metrics.count("mesh_verdicts_total", outcome=outcome)
        self._agent.metrics.set("mesh_holdout_challengers", recommendation.holdout_uses)
        self._agent.metrics.set("mesh_holdout_alpha_spent_ratio", spent_share(recommendation.holdout_uses))
        self._agent.log.info("topic %s: %s %s. %s", said.topic, said.choice.value, outcome, said.why)
        return said

    async def _published(self, subject: str) -> Verdict | None:
        stored = await self._log.last(self._agent.stream("RESULTS"), subject)
        return codec.decode(stored.data, Verdict) if stored is not None else None

    # -- the champion -------------------------------------------------------------------------------------------------

    async def _carry_out(self, said: Verdict) -> None:
        """Write the champion's next record, if there is one, where it was when the lines were compared."""
        current, revision = await records.champion(self._agent, said.specialization)
        if current is not None and current.verdict == said.id:
            return
        if revision != said.recommendation.champion_revision:
            return self._superseded(said, current)
        following = next_champion(said, current, name=await self._name(said.specialization))
        if following is None:
            return
        subject = self._subjects.key("champions", said.specialization)
        try:
            await self._log.append(subject, codec.encode(following), subject_seq=revision)
        except Conflict:
            current, _ = await records.champion(self._agent, said.specialization)
            if current != following:
                self._superseded(said, current)
        else:
            self._agent.log.info(
                "%s: champion is version %d, model %s; %d challengers on its holdout",
                following.specialization, following.version_number, following.model[:12], following.holdout_uses,
            )  # fmt: skip

    def _superseded(self, said: Verdict, current: Champion | None) -> None:
        """The champion's record has moved on since the comparison: carried out before, or overtaken."""
        if not said.accepted or said.choice is Choice.KEEP:
            return
        by = f"version {current.version_number} of verdict {current.verdict}" if current is not None else "its removal"
        self._agent.log.warning("the verdict %s is carried out already or superseded by %s", said.id, by)

    async def _name(self, specialization: str) -> str:
        """The specialization's name for people; '' when the graph does not know it."""
        try:
            stored = await self._log.last(self._subjects.bucket("graph"), self._subjects.key("graph", specialization))
        except NotFound:
            return ""
        return codec.decode(stored.data, Specialization).name if stored is not None else ""


async def body(agent: Agent) -> None:
    """The role's life, for agents.runtime.run."""
    await Gate(agent).run()
