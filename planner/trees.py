"""Trees: what the planner has to do next about a topic after its verdict, from the records of that topic alone.

    verdict of the flat model ──> stays whole ────────────────────────────────────────────────────────> settle
          └─ may be branched ──> submit `branch` ──ended──> no branches ──────────────────────────────> settle
                                        └─ branches ──> nodes (hypothesis), topics of the children
                                                              │ each is profiled, trained, judged, settled
                                                              v
                               every child settled or turned down ──> none has a champion: merged back, settle
                                                              └─ submit `tree` ──> second round, second verdict
                                                                    accepted ──> children active, those of an
                                                                                 older tree merged back, settle
                                                                    else ──────> children merged back, settle

A branch is active as long as the champion of its parent is a tree that contains it. So whenever a topic ends and that
champion is no tree (any more: a line, or merged weights, was better than it), what an older tree has left is merged
back; and where the champion's own tree is put together again in vain, its branches are active as before.

Aim: to need no memory. The answer is a function of the records, of the ends of the children and of the graph; every id
in it is derived from the topic's id, and commands, topics and nodes are written only where they are not there yet:
after a crash at any point, or with two planners, the same records lead to the same commands. What could change under
way (the flat model, and with what it was trained) stands in the plan of the `branch` task and is read from there.

Promises: every topic that gets a verdict is settled in the end; a topic that a person has ended gets nothing more, and
neither do its branches. Not here: whether a topic may be branched (planner/branching.py), what the branches are called
(planner/branches.py), when they no longer fit (planner/drifting.py), the tasks themselves (planner/tree_plans.py),
whether the tree is better (consensus and the gate, as for any other candidate).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from mesh import limits
from mesh.messages.base import Facts, Record, derived_id
from mesh.messages.commands import Cancel, Settle, Submit
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Audit, Candidate, Champion, Recommendation, Verdict
from mesh.messages.results import Planned, TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.tasks import Line, TaskState
from mesh.messages.topics import Topic
from planner import branches, branching, drifting, plans, tree_plans
from planner.branches import Branch, Found
from planner.tree_plans import Member, Profiled, newest

ENDED = "canceled"
"""The fact of a settlement by a person: nothing more shall come of this topic, nor of its branches."""

NOTHING: Facts = {"champion": "", "branches": 0}
"""Facts of a topic that was settled before anything was trained."""

LOSS = "loss"
"""The metric of comparisons that are not of right and wrong answers."""

End = TopicSettled | TopicTurnedDown


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """All that a step rests on."""

    topic: Topic
    depth: int
    """Topics above this one."""
    records: Sequence[Record]
    """Plans, ended tasks, verdicts, audits and the settlement of this topic, in order."""
    ends: Mapping[str, End]
    """How children have ended, by the ids of their topics; who goes on is not in it."""
    champion: Champion | None
    """Of the topic's specialization, now."""
    champions: Mapping[str, Champion]
    """Of the nodes of its branches."""
    nodes: Mapping[str, Specialization]
    """The graph."""
    tree: str = ""
    """Digest of the tree that was champion when the topic began."""
    router: str = ""
    """Digest of its router."""
    measured: TaskEnded | None = None
    """The evaluation of that tree on the holdout by which it became champion."""
    seen: TaskEnded | None = None
    """Its evaluation on this topic's holdout by an earlier topic on the same data, where this one's round needed
    none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What to do now, in this order; `why` says what is decided or awaited."""

    why: str
    nodes: tuple[Specialization, ...] = ()
    topics: tuple[Topic, ...] = ()
    submit: Submit | None = None
    cancels: tuple[Cancel, ...] = ()
    settles: tuple[Settle, ...] = ()


def branches_of(records: Iterable[Record], topic: str) -> tuple[Branch, ...]:
    """The branches that a topic's records tell of; none while they are not known."""
    ended = newest(records, branches.task_id(topic))
    return branches.found_by(ended).branches if ended is not None else ()


def specialization_of(records: Iterable[Record]) -> str:
    """The topic's own node; '' while no plan names lines."""
    plan = _first_plan(records)
    return plan.specialization if plan is not None else ""


def tree_before(champion: Champion | None, topic: str) -> tuple[str, str]:
    """(digest of what may be the tree that was champion when this topic began, the topic that brought it); '' for both
    without one. champion: of the topic's node now; a line of this topic may have taken the tree's place meanwhile."""
    if champion is None:
        return "", ""
    if champion.topic != topic:
        return (champion.model, champion.topic) if champion.flat else ("", "")
    before = champion.lineage[-1] if champion.lineage and not champion.flat else None
    return (champion.parent_model, before.topic) if before is not None and before.line is Line.MERGE else ("", "")


def is_tree_of(records: Iterable[Record], model: str) -> bool:
    """Do a topic's verdicts tell of this model as a tree?"""
    verdicts = (record for record in records if isinstance(record, Verdict))
    return any((made := _candidate(one, model)) is not None and bool(made.flat) for one in verdicts)


def next_step(known: Known, estimate: plans.Estimate) -> Step:
    """What the planner has to do next about this topic."""
    return _Fold(known, estimate).step()


def withdrawn(ended: TaskEnded) -> Settle:
    """The settlement of a topic whose profile (or vectors) was withdrawn: nothing else would follow."""
    why = f"Its {ended.task.purpose or ended.task.executor} was withdrawn: {ended.reason.strip() or 'without a reason'}"
    return Settle(topic=ended.topic, why=why[: limits.TEXT_CHARS_MAX], facts=NOTHING)


def orphaned(topic: Topic) -> Settle:
    """A branch whose parent topic has ended before it began."""
    why = f"The topic {topic.parent}, of which it is a branch, was ended before it began."
    return Settle(topic=topic.id, specialization=topic.node or "", why=why, facts={**NOTHING, ENDED: True})


class _Fold:
    """One pass over what is known of a topic."""

    def __init__(self, known: Known, estimate: plans.Estimate) -> None:
        self._known, self._topic, self._estimate = known, known.topic, estimate
        self._plan = _first_plan(known.records)
        self._branch_plan = _planned(known.records, branches.task_id(known.topic.id))
        self._first = _verdict(known.records, derived_id(known.topic.id, "recommendation"))
        self._second = _verdict(known.records, tree_plans.recommendation_id(known.topic.id))

    def step(self) -> Step:
        settled = next((record for record in self._known.records if isinstance(record, TopicSettled)), None)
        if settled is not None:
            return self._after(settled)
        step, open_ = self._going_on(), self._audits_awaited()
        return Step(f"awaits {open_}") if step.settles and open_ else step

    def _audits_awaited(self) -> str:
        """The look at the audit split that a promotion is still followed by: a topic is not over before; '' else."""
        seen = {record.verdict for record in self._known.records if isinstance(record, Audit)}
        said = (verdict for verdict in (self._first, self._second) if verdict is not None)
        return next((f"the audit of {one.id}" for one in said if one.looked_at and one.id not in seen), "")

    def _going_on(self) -> Step:
        """What comes next for a topic that is not over."""
        if self._plan is None or self._first is None:
            return Step("awaits the verdict")
        source = tree_plans.profiled(self._known.records, self._topic.id)
        if source is None:
            return self._whole(self._first, "It stays whole: its profile is no longer known.")
        if self._branch_plan is None:
            return self._decide(self._first, source)
        ended = newest(self._known.records, branches.task_id(self._topic.id))
        if ended is None:
            return Step(f"awaits {branches.task_id(self._topic.id)}")
        found = branches.found_by(ended)
        if not found.branches:
            return self._whole(self._first, f"It stays whole: {found.why.rstrip('.')}.")
        return self._grow(self._plan, self._branch_plan, self._first, source, found, ended)

    # -- whole or not -------------------------------------------------------------------------------------------------

    def _decide(self, first: Verdict, source: Profiled) -> Step:
        """After the verdict of the flat model."""
        flat, profile = self._flat(first), source.profile
        made = _candidate(first, flat["model"])
        trained = newest(self._known.records, made.task) if made is not None else None
        answer = branching.may_branch(
            self._topic,
            self._known.depth,
            first,
            branching.Flat(flat["model"], profile.modality, profile.examples, trained, self._rounded(first)),
            canceled=any(_is_canceled(record) for record in self._known.records),
        )
        if not answer.may:
            return self._whole(first, answer.why)
        router = self._known.router
        if router and (worse := self._worse()):
            why = f"{answer.why} Its branches are found anew, without the router that it has: {worse}."
            answer, router = dataclasses.replace(answer, why=why), ""
        submit = tree_plans.branch_submit(
            self._topic, self._specialization, source, flat, answer, self._estimate, router
        )  # fmt: skip
        return Step(answer.why, submit=submit)

    def _worse(self) -> str:
        """On which branches the tree that was champion has become worse since then, as the round measured it."""
        now = drifting.evaluated(self._known.records, self._known.tree) or self._known.seen
        return drifting.worse(self._known.measured, now)

    def _rounded(self, first: Verdict) -> bool:
        """Is the model that answers for the whole topic one in few bits?"""
        champion, made = self._known.champion, _candidate(first, first.champion)
        kept = champion is not None and champion.model == first.champion and bool(champion.full)
        return kept or (made is not None and bool(made.full))

    def _flat(self, first: Verdict) -> Facts:
        """The model that answers for the whole topic: its digest ('' without one), settings, size."""
        champion, model = self._known.champion, first.champion
        if champion is not None and champion.model == model and champion.flat:
            return {"model": champion.flat, "settings": dict(champion.settings), "size_bytes": 0}
        made = _candidate(first, model)
        if made is not None:
            settings, kpis = dict(made.settings), made.kpis
        elif champion is not None and champion.model == model:
            settings, kpis = dict(champion.settings), champion.kpis
        else:
            settings, kpis = {}, {}
        return {"model": model, "settings": settings, "size_bytes": int(kpis.get("size_bytes", 0))}

    # -- the children -------------------------------------------------------------------------------------------------

    def _grow(
        self, plan: Planned, branch_plan: Planned, first: Verdict, source: Profiled, found: Found, ended: TaskEnded
    ) -> Step:
        """Branches there are: begin them, await them, put them together, judge."""
        open_ = [id_ for id_ in self._children(found) if id_ not in self._known.ends]
        if open_:
            return self._begin(branch_plan, source, found, ended, open_)
        if self._second is not None:
            return self._judged(found, self._second)
        members = self._members(found)
        if not members:
            why = "No branch brought a champion, so the flat model answers for all of them."
            return self._end(found, first, NodeState.MERGED, why, {"accepted": False}, ended.at_ms)
        if _planned(self._known.records, tree_plans.tree_id(self._topic.id)) is not None:
            return Step(f"awaits the verdict on {tree_plans.tree_id(self._topic.id)}")
        flat = branch_plan.facts.get("flat", {})
        submit = tree_plans.tree_submit(
            self._topic, plan, flat, source, found, members, first.champion, self._estimate
        )  # fmt: skip
        return Step("every branch has ended", submit=submit)

    def _begin(self, branch_plan: Planned, source: Profiled, found: Found, ended: TaskEnded, open_: list[str]) -> Step:
        known, node, profile = self._known, self._specialization, source.profile
        flat = branches.base_of(branch_plan, profile)
        made = branches.topics(self._topic, node, profile, found, flat, known.champions)
        return Step(
            f"awaits {len(open_)} of {len(found.branches)} branches",
            nodes=branches.nodes(self._topic, node, profile, found, known.nodes, ended.at_ms),
            topics=tuple(topic for topic in made if topic.id in open_),
        )

    def _members(self, found: Found) -> dict[int, Member]:
        """The champions of the branches that brought one."""
        members = {}
        for branch in found.branches:
            end = self._known.ends[branches.child_id(self._topic.id, branch.index)]
            facts = end.facts if isinstance(end, TopicSettled) else {}
            size = facts.get("size_bytes")
            if facts.get("champion"):
                members[branch.index] = Member(
                    model=str(facts["champion"]),
                    size_bytes=int(size) if isinstance(size, int | float) else 0,
                    continued=str(facts.get("continued") or ""),
                )
        return members

    def _children(self, found: Found) -> list[str]:
        return [branches.child_id(self._topic.id, branch.index) for branch in found.branches]

    # -- the end ------------------------------------------------------------------------------------------------------

    def _judged(self, found: Found, verdict: Verdict) -> Step:
        """The tree's verdict: its branches become active, or are merged back."""
        said, taken = verdict.recommendation, _candidate(verdict, verdict.champion)
        promoted = verdict.accepted and taken is not None
        accepted = promoted and taken is not None and bool(taken.flat)
        figures = _figures(said, taken)
        tree: Facts = {**said.tree, "accepted": accepted, "effect": said.effect, "interval": list(said.interval)}
        tree |= {"holdout_examples": said.holdout_examples, "recommendation": said.id}
        count, stay = len(found.branches), not promoted and self._has_these(found, verdict)
        if accepted:
            why = f"The tree of its {count} branches is its champion ({figures})."
        elif promoted:
            why = f"Its {count} branches are merged back: their weights put together are its champion ({figures})."
        else:
            stays = f"The tree of its {count} branches that was champion stays it: the new one is not better"
            back = f"Its {count} branches are merged back: the tree is not better"
            more = "" if verdict.accepted else f" {verdict.why}"
            why = f"{stays if stay else back} ({figures}).{more}"
        state = NodeState.ACTIVE if accepted or stay else NodeState.MERGED
        return self._end(found, verdict, state, why, tree, verdict.decided_at_ms)

    def _has_these(self, found: Found, verdict: Verdict) -> bool:
        """Is the champion a tree of these very branches, which another one of them could not better?"""
        router = self._known.router
        return bool(router) and found.router == router and self._is_tree(verdict) is True

    def _is_tree(self, verdict: Verdict) -> bool | None:
        """Is what this verdict left as champion a tree? None: there is none, or nobody can tell."""
        champion, model = self._known.champion, verdict.champion
        for said in (verdict, self._first):
            if said is not None and (made := _candidate(said, model)) is not None:
                return bool(made.flat)
        return bool(champion.flat) if champion is not None and model and champion.model == model else None

    def _end(self, found: Found, verdict: Verdict, state: NodeState, why: str, tree: Facts, at_ms: int) -> Step:
        """The topic is over, and so are its branches as a question. verdict: the one that left the champion."""
        facts = {
            **self._champion_facts(verdict),
            "branches": len(found.branches),
            "children": [self._child(branch) for branch in found.branches],
            "tree": {**tree, "merged_back": state is NodeState.MERGED},
        }
        where = self._topic, self._specialization, found, self._known.nodes
        nodes = branches.settled_nodes(*where, state, why, at_ms)
        if tree["accepted"]:
            gone = f"no branch of the tree {verdict.champion[:12]} that topic {self._topic.id} brought: {why}"
            nodes += branches.older_nodes(*where, gone, at_ms)
        else:
            nodes += self._left_over(verdict, why, at_ms)
        return Step(why, nodes=nodes, settles=(self._settle(why, facts),))

    def _left_over(self, verdict: Verdict, why: str, at_ms: int) -> tuple[Specialization, ...]:
        """Branches of a tree that has been champion, where the champion is none now, merged back."""
        if self._is_tree(verdict) is not False:
            return ()
        gone = f"the champion {verdict.champion[:12]}, with which topic {self._topic.id} ended, is no tree: {why}"
        return branches.older_nodes(self._topic, self._specialization, None, self._known.nodes, gone, at_ms)

    def _child(self, branch: Branch) -> Facts:
        id_ = branches.child_id(self._topic.id, branch.index)
        end = self._known.ends.get(id_)
        return {
            "topic": id_,
            "specialization": branches.child_node_id(self._specialization, branch.name),
            "name": branch.name,
            "examples": branch.examples,
            "champion": str(end.facts.get("champion") or "") if isinstance(end, TopicSettled) else "",
        }

    def _whole(self, first: Verdict, why: str) -> Step:
        """The topic is over with the model that it has."""
        settle = self._settle(why, {**self._champion_facts(first), "branches": 1})
        return Step(why, nodes=self._left_over(first, why, first.decided_at_ms), settles=(settle,))

    def _champion_facts(self, verdict: Verdict) -> Facts:
        """What whoever goes on from the result has to know: the champion's digest, size, and what it went on from."""
        champion, model = self._known.champion, verdict.champion
        made = _candidate(verdict, model)
        if made is not None:
            return {"champion": model, "size_bytes": _bytes(made.kpis), "continued": made.continued}
        if champion is not None and champion.model == model:
            return {"champion": model, "size_bytes": _bytes(champion.kpis), "continued": champion.continued}
        return {"champion": model, "size_bytes": 0, "continued": ""}

    def _settle(self, why: str, facts: Facts) -> Settle:
        cut = why[: limits.TEXT_CHARS_MAX]
        return Settle(topic=self._topic.id, specialization=self._specialization, why=cut, facts=facts)

    def _after(self, settled: TopicSettled) -> Step:
        """The topic is over. Where a person ended it, its branches end with it."""
        ended = newest(self._known.records, branches.task_id(self._topic.id))
        found = branches.found_by(ended) if ended is not None else None
        if not settled.facts.get(ENDED) or found is None or not found.branches:
            return Step("settled")
        node = self._specialization
        cancels, settles = [], []
        for branch in found.branches:
            id_ = branches.child_id(self._topic.id, branch.index)
            if id_ not in self._known.ends:
                cancels.append(Cancel(id=derived_id(id_, "canceled"), topic=id_, reason=settled.why))
                child, facts = branches.child_node_id(node, branch.name), {**NOTHING, ENDED: True}
                settles.append(Settle(topic=id_, specialization=child, why=settled.why, facts=facts))
        nodes = branches.settled_nodes(
            self._topic, node, found, self._known.nodes, NodeState.MERGED, settled.why, settled.at_ms
        )  # fmt: skip
        return Step("ended by a person", nodes=nodes, cancels=tuple(cancels), settles=tuple(settles))

    @property
    def _specialization(self) -> str:
        return self._plan.specialization if self._plan is not None else ""


def _first_plan(records: Iterable[Record]) -> Planned | None:
    """The plan of the topic's first round."""
    planned = (record for record in records if isinstance(record, Planned))
    return next((record for record in planned if isinstance(record.facts.get("lines"), dict)), None)


def _planned(records: Iterable[Record], submit: str) -> Planned | None:
    return next((one for one in records if isinstance(one, Planned) and one.submit == submit), None)


def _verdict(records: Iterable[Record], recommendation: str) -> Verdict | None:
    found = (one for one in records if isinstance(one, Verdict) and one.recommendation.id == recommendation)
    return next(found, None)


def _candidate(verdict: Verdict, model: str) -> Candidate | None:
    """The candidate with this model, if it was one."""
    return next((one for one in verdict.recommendation.candidates if model and one.model == model), None)


def _figures(said: Recommendation, taken: Candidate | None) -> str:
    """What a comparison came to. The loss is told of who was taken, too: it may be what decided."""
    low, high = said.interval
    told = f"effect {said.effect:+.4f}, interval {low:+.4f} to {high:+.4f}, {said.holdout_examples} examples"
    name = (taken.name or taken.line.value) if taken is not None else ""
    wanted = (name, "champion", LOSS)
    loss = next((one for one in said.comparisons if (one.a, one.b, one.metric) == wanted), None)
    if loss is None or said.metric == LOSS:
        return told
    return f"{told}; loss lower by {loss.effect:+.4f}, interval {loss.low:+.4f} to {loss.high:+.4f}"


def _bytes(kpis: Mapping[str, float]) -> int:
    return int(kpis.get("size_bytes", 0))


def _is_canceled(record: Record) -> bool:
    return isinstance(record, TaskEnded) and record.state is TaskState.CANCELED
