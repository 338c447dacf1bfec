"""Consensus: has every candidate checked and measured, weighs them, recommends; after a promotion, has it audited.

In:    plans and ended tasks, verdicts (RESULTS), the champion's record (KV), per-item outcomes (ARTIFACTS)
Out:   evaluate, merge and replay tasks and one recommendation per round (COMMANDS, put if absent under ids derived from
       the topic), trust in workers (KV, by compare-and-set), one audit per promotion over a champion (RESULTS, put if
       absent)
Keeps: nothing: each input makes it read the topic's records again, so any number of them may run, and any may die
Loses: nothing: an input is acknowledged after its commands are stored; handled twice, it changes nothing
Not:   decides nothing itself (consensus/), promotes nothing (the gate does), never loads a model
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from agents import records
from agents.consensus_trust import TrustBook
from agents.handling import handle
from agents.runtime import Agent
from consensus import checks
from consensus.audits import audited, looks_of
from consensus.candidates import Read
from consensus.checking import Known
from consensus.evaluations import outcomes_of
from consensus.evidence import Items, check, items_of
from consensus.recommendation import recommend
from consensus.rounds import Round, next_step, specialization_of
from mesh import codec, limits
from mesh.bus import Stored
from mesh.errors import ArtifactCorrupt, ArtifactMissing, Conflict, Malformed, NotFound, Retry
from mesh.messages.base import Record, derived_id
from mesh.messages.commands import Missed, Recommend, Submit
from mesh.messages.judgement import Audit, Champion, Outcomes, Verdict
from mesh.messages.results import Planned, RecommendationMade, TaskEnded

WRITER = "consensus"
"""Commands carry the role's name, not the incarnation's: two that weigh one topic put the same command."""

OUTCOMES_FILE = "outcomes.msgpack"

ASKED_MAX = 120
"""How often lost outcomes are waited for (an hour), before the round goes on without them."""

ASKED_EACH = 20
"""Attempts after which they are asked for once more: every ten minutes."""

LOOKING_BACK_MAX = 10_000
"""Ids of such checks that are remembered; then the puts are tried again, and find that they are there."""

_READ: tuple[type[Record], ...] = (Planned, TaskEnded, RecommendationMade, Verdict, Audit)
"""Kinds of results that the mind looks at; leases and checkpoints, the bulk of a topic's records, are never read."""


class Consensus:
    """The handlers of one consensus agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log = agent.broker
        self._subjects = agent.subjects
        self._asked: OrderedDict[str, int] = OrderedDict()
        """Outcomes that are not in the store, and how often that was seen."""
        self._trust = TrustBook(agent)
        self._looking_back: set[str] = set()
        """Checks of earlier results that this process has put."""

    async def run(self) -> None:
        """Handle plans and ended tasks until the agent stops."""
        results, subjects = self._agent.stream("RESULTS"), self._subjects
        async with asyncio.TaskGroup() as loops:
            loops.create_task(
                handle(
                    self._agent,
                    results,
                    subjects.results("*", Planned.kind),
                    subjects.durable("consensus-plans"),
                    (Planned,),
                    self.on_planned,
                ),
                name="plans",
            )
            loops.create_task(
                handle(
                    self._agent,
                    results,
                    subjects.results("*", TaskEnded.kind),
                    subjects.durable("consensus-ended"),
                    (TaskEnded,),
                    self.on_task_ended,
                ),
                name="ended tasks",
            )
            loops.create_task(
                handle(
                    self._agent,
                    results,
                    subjects.results("*", Verdict.kind),
                    subjects.durable("consensus-verdicts"),
                    (Verdict,),
                    self.on_verdict,
                ),
                name="verdicts",
            )

    async def on_planned(self, planned: Planned, _: Stored) -> None:
        """A plan with lines opens a round: the champion may have to be measured on its holdout."""
        if "lines" in planned.facts:
            await self._advance(planned.topic)

    async def on_task_ended(self, ended: TaskEnded, _: Stored) -> None:
        """A training or an evaluation brings its round forward; any other task is none of our business."""
        if ended.task.line is not None or ended.task.executor == "evaluate":
            await self._looked_back(ended)
            await self._advance(ended.topic)

    async def on_verdict(self, said: Verdict, _: Stored) -> None:
        """A promotion costs a look at the audit split; after any verdict the topic's next round may be waiting."""
        await self._advance(said.topic)

    async def _advance(self, topic: str) -> None:
        """Do what the mind says that comes next for this topic."""
        found = await records.results(self._agent, topic, *_READ)
        champion, revision = await records.champion(self._agent, specialization_of(found))
        trust = await self._trust.known()
        await self._look_back()
        step = next_step(found, champion, revision, trust)
        for submit in step.submits:
            await self._put(submit.id, submit)
        if step.weigh is not None and not await self._is_put(step.weigh.id):
            await self._say(step.weigh, trust)
        self._agent.log.debug("topic %s: %s", topic, step.why)
        await self._audit(found, champion)

    # -- weighing -----------------------------------------------------------------------------------------------------

    async def _say(self, round_: Round, trust: Known) -> None:
        """Weigh, in a thread: seconds of arithmetic must not stop the loop. Who is taken is checked before that is
        said."""
        read = await self._outcomes(round_)
        recommendation = await asyncio.to_thread(recommend, round_, read)
        share = self._agent.settings.consensus.replay_share
        if wanted := checks.wanted(round_, recommendation, trust, read, share):
            for submit in wanted:
                await self._put(submit.id, submit)
            return
        self._agent.log.info("topic %s: %s. %s", round_.topic, recommendation.choice.value, recommendation.why)
        await self._put(recommendation.id, Recommend(recommendation=recommendation))

    # -- looking back -------------------------------------------------------------------------------------------------

    async def _look_back(self) -> None:
        """Have results checked that were let through before their worker failed."""
        for result, _ in self._trust.owed():
            submit = checks.look_back(result)
            if submit.id not in self._looking_back:
                await self._put(submit.id, submit)
                self._looking_back.add(submit.id)
        if len(self._looking_back) > LOOKING_BACK_MAX:
            self._looking_back.clear()

    async def _looked_back(self, ended: TaskEnded) -> None:
        """Such a check has ended: its worker's trust follows from it."""
        await self._trust.known()
        for result, row in self._trust.owed():
            if checks.look_back_id(result) != ended.task.id:
                continue
            again, missing = outcomes_of(ended)
            read = {one: await self._items(one, ended.topic) for one in (result.claims, again) if one}
            claim, found = read.get(result.claims), read.get(again)
            if missing or not isinstance(claim, Items) or not isinstance(found, Items):
                await self._trust.called_back(result, row, None)
                continue
            independent = ended.incarnation != result.incarnation
            evidence, fault = check(
                claim, found, model=result.model, split=result.split, independent=independent,
                checked_by=ended.incarnation,
            )  # fmt: skip
            await self._trust.called_back(result, row, evidence.evolve(fault=fault))

    async def _outcomes(self, round_: Round) -> Read:
        found: dict[str, Items | str] = {}
        for digest in round_.digests:
            found[digest] = await self._items(digest, round_.topic)
        return found

    async def _items(self, digest: str, topic: str) -> Items | str:
        """Per-item outcomes, or a sentence when what was stored is not usable; a broker that is away raises Retry, and
        so do outcomes that are lost, until they have been made anew or waited for long enough."""
        try:
            data = await self._agent.store().read_file(digest, OUTCOMES_FILE, bytes_max=limits.OUTCOMES_BYTES_MAX)
            return items_of(codec.decode(data, Outcomes, bytes_max=limits.OUTCOMES_BYTES_MAX))
        except (ArtifactMissing, ArtifactCorrupt, Malformed, NotFound) as error:
            if isinstance(error, ArtifactMissing):
                await self._ask_for(digest, topic, str(error))
            self._agent.failed("outcomes", f"the outcomes {digest[:12]} can not be read: {error}")
            return f"the outcomes {digest[:12]} can not be read: {error}"

    async def _ask_for(self, digest: str, topic: str, reason: str) -> None:
        """Have lost outcomes made anew; Retry until then."""
        tries = self._asked.pop(digest, 0)
        if tries >= ASKED_MAX or len(digest) != limits.DIGEST_CHARS:
            return
        self._asked[digest] = tries + 1
        while len(self._asked) > ASKED_MAX:
            self._asked.popitem(last=False)
        if tries % ASKED_EACH == 0:
            id_ = derived_id(topic, f"missed-{digest[:16]}-{tries // ASKED_EACH}")
            await self._put(id_, Missed(id=id_, topic=topic, digest=digest, reason=reason))
        raise Retry(f"the outcomes {digest[:12]} of {topic} are not in the store")

    # -- auditing -----------------------------------------------------------------------------------------------------

    async def _audit(self, found: list[Record], champion: Champion | None) -> None:
        """Have promotions looked at on the audit split, and publish what was seen."""
        looks = looks_of(found)
        for submit in looks.submits:
            await self._put(submit.id, submit)
        for due in looks.due:
            read = {digest: await self._items(digest, due.verdict.topic) for digest in due.digests}
            split = due.verdict.recommendation.audit
            times = max(1, champion.uses_of(split) if champion is not None else 0)
            await self._publish(await asyncio.to_thread(audited, due, read, times))

    async def _publish(self, audit: Audit) -> None:
        subject = self._subjects.result(audit.topic, audit.kind, audit.id)
        try:
            await self._log.append(subject, codec.encode(audit), subject_seq=0)
        except Conflict:
            return
        say = self._agent.log.warning if audit.worse else self._agent.log.info
        say("topic %s: %s", audit.topic, audit.why)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _is_put(self, id_: str) -> bool:
        """Was this recommendation put before? Then its arithmetic need not be done again."""
        subject = self._subjects.command(WRITER, Recommend.kind, id_)
        return await self._log.last(self._agent.stream("COMMANDS"), subject) is not None

    async def _put(self, id_: str, command: Submit | Recommend | Missed) -> None:
        """Put a command; that it is there already means that it was handled before."""
        subject = self._subjects.command(WRITER, command.kind, id_)
        if await records.put_once(self._agent, subject, command):
            self._agent.log.info("%s", subject)


async def body(agent: Agent) -> None:
    """The role's life, for agents.runtime.run."""
    await Consensus(agent).run()
