"""From a mesh's records to the arms that feeding chooses among (planner/feeding.py).

    graph ── which specializations, where their data are     topics ── whose they were, what they cost
    verdicts ── what a topic brought                         settled, turned down ── which topics are over

A topic is one round of its specialization, however many verdicts it led to: the lines' and the tree's gains add up.
A first champion has nothing to be compared with, so its gain counts as the imagined one.

Pure; records may come twice and in any order. A topic of which nobody says within STALE_S that it is over no longer
keeps its specialization from being fed. Not covered: rounds that the streams have forgotten (results: a week), and that
the branches of a fed topic, whose lines cost about as much as its own, are counted only when they are published.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from mesh.messages.base import derived_id
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Choice, Comparison, Verdict
from mesh.messages.topics import DataRef, Topic
from planner import bases, feeding
from planner.feeding import Arm, Past

PUBLISHER = "feeder"
"""In every topic that was fed: by it a day's spending is counted."""

LINES = 2
"""Lines that a topic trains, each for its budget."""

STALE_S = 86_400.0

OPEN_STATES = (NodeState.ACTIVE, NodeState.SEED)
_CLOSED = {
    NodeState.HYPOTHESIS: "its branching is still being tried",
    NodeState.MERGED: "it was merged into its parent",
    NodeState.RETIRED: "it is retired",
}


@dataclasses.dataclass(slots=True)
class Known:
    """What has been read so far."""

    topics: dict[str, Topic] = dataclasses.field(default_factory=dict)
    verdicts: dict[str, Verdict] = dataclasses.field(default_factory=dict)
    """By their id."""
    over: set[str] = dataclasses.field(default_factory=set)
    """Ids of topics that are settled or turned down."""

    def arms(self, nodes: Mapping[str, Specialization], now_ms: int) -> list[Arm]:
        """Every specialization that can be trained, with its rounds in the order of their verdicts."""
        rounds = self._rounds()
        under_way = self._under_way(nodes, now_ms)
        return [
            Arm(
                node=id_,
                data=node.data,
                past=tuple(past for _, past in sorted(rounds.get(id_, []), key=lambda one: one[0])),
                under_way=id_ in under_way,
                closed="" if node.state in OPEN_STATES else _CLOSED.get(node.state, f"it is {node.state.value}"),
            )
            for id_, node in sorted(nodes.items())
            if node.task
        ]

    def spent_s(self, now_ms: int) -> float:
        """Training seconds of the topics that were fed within the last day, and of their branches."""
        since = now_ms - feeding.DAY_S * 1_000
        lately = (topic for topic in self.topics.values() if topic.published_at_ms >= since)
        return sum(LINES * topic.budget_s for topic in lately if self._is_fed(topic))

    def unplanned(self, planned: set[str]) -> int:
        """Topics that were fed, are not over, and have no tasks yet. planned: topics that have some."""
        fed = (topic.id for topic in self.topics.values() if topic.publisher == PUBLISHER)
        return sum(1 for id_ in fed if id_ not in self.over and id_ not in planned)

    def next_topic(self, node: Specialization, *, budget_s: float, priority: int, now_ms: int) -> Topic:
        """The topic to publish for a specialization: as the newest one of it was, on its newest data.

        Its id follows from that of the topic before, so two feeders that know the same publish the same.
        """
        known = self._of(node)
        pattern = next((self.topics[id_] for id_ in reversed(known) if id_ in self.topics), None)
        pattern = pattern or Topic(id="pattern", text=node.name)
        before = hashlib.sha256((known[-1] if known else node.id).encode()).hexdigest()
        return Topic(
            id=derived_id(node.id, f"fed-{before[:8]}"),
            text=node.name,
            data=DataRef(source=node.data, name=node.data_name),
            text_column=node.text_column,
            label_column=node.label_column,
            task=pattern.task,
            node=node.id,
            kpis=pattern.kpis,
            budget_s=budget_s,
            priority=priority,
            independent=pattern.independent,
            on_disconnect=pattern.on_disconnect,
            wait_s=pattern.wait_s,
            base=bases.adapted(pattern),
            encoder=pattern.encoder,
            branches=pattern.branches,
            publisher=PUBLISHER,
            published_at_ms=now_ms,
        )

    # -- how ----------------------------------------------------------------------------------------------------------

    def _is_fed(self, topic: Topic) -> bool:
        """Was it, or the topic that it is a branch of, fed?"""
        seen = {topic.id}
        while topic.parent in self.topics and topic.parent not in seen:
            topic = self.topics[topic.parent]
            seen.add(topic.id)
        return topic.publisher == PUBLISHER

    def _of(self, node: Specialization) -> list[str]:
        """Topics of a specialization, newest last, with those that were fed and are not planned yet."""
        fed = [t.id for t in self.topics.values() if t.publisher == PUBLISHER and t.node == node.id]
        return [*node.topics, *(id_ for id_ in fed if id_ not in node.topics)]

    def _rounds(self) -> dict[str, list[tuple[int, Past]]]:
        """Specialization to (time of its last verdict, round) of each of its topics."""
        by_topic: dict[tuple[str, str], list[Verdict]] = {}
        for verdict in self.verdicts.values():
            by_topic.setdefault((verdict.specialization, verdict.topic), []).append(verdict)
        found: dict[str, list[tuple[int, Past]]] = {}
        for (specialization, id_), verdicts in by_topic.items():
            topic = self.topics.get(id_)
            past = Past(
                gain=sum(map(gain_of, verdicts)),
                promoted=any(map(promotes, verdicts)),
                cost_s=LINES * topic.budget_s if topic is not None else 0.0,
                data=topic.data.source if topic is not None and topic.data is not None else "",
            )
            found.setdefault(specialization, []).append((max(v.decided_at_ms for v in verdicts), past))
        return found

    def _under_way(self, nodes: Mapping[str, Specialization], now_ms: int) -> set[str]:
        since = now_ms - STALE_S * 1_000
        open_ = {id_ for id_, topic in self.topics.items() if id_ not in self.over and topic.published_at_ms >= since}
        named = {node for id_ in open_ if (node := self.topics[id_].node)}
        return named | {id_ for id_, node in nodes.items() if open_.intersection(node.topics)}


def promotes(verdict: Verdict) -> bool:
    """Did this verdict change the champion?"""
    return verdict.accepted and verdict.choice is not Choice.KEEP


def gain_of(verdict: Verdict) -> float:
    """Share by which the champion became better: of accuracy, else of the loss that it had; 0.0 when it stayed."""
    if not promotes(verdict):
        return 0.0
    recommendation = verdict.recommendation
    if not recommendation.champion_before:
        return feeding.PRIOR_GAIN
    mine = [one for one in recommendation.comparisons if (one.a, one.b) == (verdict.choice.value, "champion")]
    accuracy = next((one for one in mine if one.metric == "accuracy"), None)
    if accuracy is not None and accuracy.effect > 0.0:
        return accuracy.effect
    loss = next((one for one in mine if one.metric == "loss"), None)
    return _relative(loss, verdict) if loss is not None else 0.0


def _relative(loss: Comparison, verdict: Verdict) -> float:
    """A gain in nats as a share of the loss before it."""
    chosen = next((one for one in verdict.recommendation.candidates if one.line.value == verdict.choice.value), None)
    after = chosen.kpis.get("loss", 0.0) if chosen is not None else 0.0
    before = after + loss.effect
    return max(0.0, loss.effect / before) if before > 0.0 else 0.0
