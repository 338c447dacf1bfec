"""The result document of a topic (docs/result.md): a pure function of the records that its subscribers saw.

Every figure comes from a record; what is not known is null, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.commands.display import differed
from agents.commands.story import Ending, Story
from mesh.messages.judgement import Audit, Candidate, Choice, Evidence, Recommendation, Verdict
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Line
from mesh.messages.topics import Topic
from planner.trees import ENDED

FORMAT = 1
"""Rises when a reader of the old form would misread the new one."""

TREE_FIELDS = ("metric", "value", "baseline", "baseline_linear", "interval", "holdout_examples")

NODE_STATES = {True: "merged", False: "active"}
"""State of a branch's node, by whether the topic's settlement merged it back."""


def build(topic: Topic, story: Story, *, seconds: float, ending: Ending) -> dict[str, Any]:
    """The document. seconds: wall time from the command's start to its result."""
    return {
        "format": FORMAT,
        "ending": ending.value,
        "reason": _reason(story, ending),
        "topic": _topic(topic),
        "specializations": [_specialization(one, story) for one in story.all() if one.plan is not None],
        "tree": _tree(story),
        "failures": [_failure(ended) for one in story.all() for ended in one.failures()],
        "seconds": round(seconds, 3),
    }


def _reason(story: Story, ending: Ending) -> str:
    match ending:
        case Ending.VERDICT:
            if story.children and story.settled is not None:
                return story.settled.why
            return story.verdict.why if story.verdict is not None else ""
        case Ending.TURNED_DOWN:
            return story.turned_down
        case Ending.DONE:
            return "it succeeded"
        case Ending.FAILED:
            return story.why_failed()
        case Ending.INTERRUPTED:
            return "the command ended before the topic did"


def _topic(topic: Topic) -> dict[str, Any]:
    return {
        "id": topic.id,
        "text": topic.text,
        "data": topic.data.source if topic.data is not None else None,
        "data_name": topic.data.name if topic.data is not None else None,
        "node": topic.node,
        "budget_s": topic.budget_s,
        "priority": topic.priority,
        "branches": topic.branches,
        "published_at_ms": topic.published_at_ms,
    }


def _specialization(story: Story, whole: Story) -> dict[str, Any]:
    """A topic's own node, or that of one of its branches. whole: the story of the topic that was published."""
    assert story.plan is not None
    facts = story.plan.facts
    recommendation, verdict = story.recommendation, story.verdict
    chosen = _chosen(recommendation)
    return {
        "id": story.plan.specialization,
        "name": facts.get("name"),
        "parent": facts.get("parent"),
        "topic": story.topic,
        "state": _state(story, whole),
        "examples": facts.get("examples"),
        "splits": facts.get("profile", {}).get("splits"),
        "warnings": facts.get("profile", {}).get("warnings", []),
        "lines": {line.value: _line(story, line) for line in (Line.EVOLVER, Line.REINVENTOR)},
        "evidence": _evidence(chosen.evidence if chosen is not None else None),
        "recommendation": _recommendation(recommendation),
        "verdict": _verdict(story, verdict),
        "champion": _champion(story),
    }


def _state(story: Story, whole: Story) -> str | None:
    """'active' once the topic is over; of a branch 'hypothesis', 'active' or 'merged', as the topic above it ended."""
    parent = next((one for one in whole.all() if story.topic in one.children), None)
    if parent is None:
        return "active" if story.settled is not None else None
    if parent.settled is not None and parent.settled.facts.get(ENDED):
        return NODE_STATES[True]
    tree = parent.settled.facts.get("tree") if parent.settled is not None else None
    return NODE_STATES[bool(tree.get("merged_back"))] if isinstance(tree, dict) else "hypothesis"


def _line(story: Story, line: Line) -> dict[str, Any] | None:
    """One line: measured values from the recommendation, else from its ended task; None before it has ended."""
    ended, candidate = story.line(line), _candidate(story.recommendation, line)
    if ended is None and candidate is None:
        return None
    outcome = ended.outcome if ended is not None else None
    kpis = dict(outcome.kpis) if outcome is not None else {}
    if candidate is not None:
        kpis |= candidate.kpis
    changed = story.plan.facts.get("changed", {}).get(line.value, "") if story.plan is not None else ""
    return {
        "kpis": kpis,
        "task": candidate.task if candidate is not None else ended.task.id if ended is not None else None,
        "worker": (ended.incarnation if ended is not None else candidate.incarnation if candidate else None) or None,
        "stopped_by": _stopped_by(ended, candidate),
        "state": ended.state.value if ended is not None else None,
        "model": candidate.model if candidate is not None else (outcome.outputs.get("model") if outcome else None),
        "changed": candidate.changed if candidate is not None and candidate.changed else changed,
        "settings": dict(candidate.settings) if candidate is not None else dict(ended.task.settings) if ended else {},
        "train_seconds": outcome.seconds if outcome is not None else None,
        "attempts": ended.attempts if ended is not None else None,
        "exact": outcome.exact if outcome is not None else None,
        "differed": differed(outcome) if outcome is not None else [],
        "evidence": _evidence(candidate.evidence if candidate is not None else None),
    }


def _stopped_by(ended: TaskEnded | None, candidate: Candidate | None) -> str | None:
    if candidate is not None and candidate.stopped_by:
        return candidate.stopped_by
    if ended is None:
        return None
    return ended.outcome.stopped_by if ended.outcome is not None else ended.reason


def _candidate(recommendation: Recommendation | None, line: Line) -> Candidate | None:
    if recommendation is None:
        return None
    return next((candidate for candidate in recommendation.candidates if candidate.line is line), None)


def _chosen(recommendation: Recommendation | None) -> Candidate | None:
    """The recommended candidate; where the champion is kept, the one of higher holdout accuracy."""
    if recommendation is None:
        return None
    if recommendation.choice is not Choice.KEEP:
        named = (one for one in recommendation.candidates if recommendation.taken and one.name == recommendation.taken)
        return next(named, None) or _candidate(recommendation, Line(recommendation.choice.value))
    lines = [one for one in recommendation.candidates if one.line is not Line.BASELINE]
    return max(lines, key=lambda one: one.kpis.get("accuracy", float("-inf")), default=None)


def _evidence(evidence: Evidence | None) -> dict[str, Any] | None:
    if evidence is None:
        return None
    return {
        "rate": evidence.rate,
        "lower": evidence.lower,
        "independent": evidence.independent,
        "gain": evidence.gain,
        "replayed": evidence.replayed,
        "fault": evidence.fault or None,
        "claims": evidence.claims,
        "reproduced": evidence.reproduced,
        "checked_by": evidence.checked_by or None,
    }


def _recommendation(recommendation: Recommendation | None) -> dict[str, Any] | None:
    if recommendation is None:
        return None
    return {
        "choice": recommendation.choice.value,
        "effect": recommendation.effect,
        "interval": list(recommendation.interval),
        "why": recommendation.why,
        "what_would_change_it": recommendation.what_would_change_it or None,
    }


def _verdict(story: Story, verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "accepted": verdict.accepted,
        "why": verdict.why,
        "checks": [
            {"name": one.name, "passed": one.passed, "value": one.value, "bound": one.bound, "why": one.why}
            for one in verdict.checks
        ],
        "audit": _audit(story.audits.get(verdict.id)),
    }


def _audit(audit: Audit | None) -> dict[str, Any] | None:
    """What the audit split said after a promotion over a champion; None without one."""
    if audit is None:
        return None
    main = audit.comparisons[0] if audit.comparisons else None
    return {
        "worse": audit.worse,
        "metric": main.metric if main is not None else None,
        "effect": main.effect if main is not None else None,
        "interval": [main.low, main.high] if main is not None else None,
        "items": audit.items,
        "looks": audit.looks,
        "why": audit.why,
    }


def _champion(story: Story) -> dict[str, Any] | None:
    """The model that is champion after this topic; None when there is none."""
    verdict = story.last_verdict
    if verdict is not None and verdict.champion:
        said = (one for one in (story.verdict, story.tree_verdict) if one is not None)
        promoted = any(one.accepted and one.choice is not Choice.KEEP for one in said)
        return {"model": verdict.champion, "version": verdict.champion_version, "promoted": promoted}
    before = story.plan.facts.get("champion") if story.plan is not None else ""
    return {"model": before, "version": None, "promoted": False} if before else None


def _tree(story: Story) -> dict[str, Any] | None:
    """The topic as one model: what answers for it now, beside one flat model. Of a topic with branches the figures are
    those of the second round, where the tree was compared with the flat model."""
    if story.recommendation is None:
        return None
    later = story.tree_recommendation
    measured = _measured(later if later is not None else story.recommendation)
    if later is not None and measured["baseline_linear"] is None:
        measured["baseline_linear"] = _measured(story.recommendation)["baseline_linear"]
    told = story.settled.facts.get("tree") if story.settled is not None else None
    tree: Mapping[str, Any] = told if isinstance(told, dict) else {}
    measured["against"] = (later or story.recommendation).tree.get("against") or "baseline_linear"
    return {
        **measured,
        "branches": len(story.children) or 1,
        "routed": _routed(later, str(measured["metric"])),
        "promoted": bool(tree.get("accepted")) if story.settled is not None else None,
        "merged_back": bool(tree.get("merged_back")) if story.settled is not None else None,
        "recommendation": _recommendation(later),
        "verdict": _verdict(story, story.tree_verdict),
        "why": story.settled.why if story.settled is not None else None,
    }


def _measured(recommendation: Recommendation) -> dict[str, Any]:
    measured = {"holdout_examples": recommendation.holdout_examples, **recommendation.tree}
    return {name: measured.get(name) for name in TREE_FIELDS}


def _routed(recommendation: Recommendation | None, metric: str) -> float | None:
    """What the tree itself came to on the holdout, whether or not it was taken."""
    if recommendation is None:
        return None
    tree = next((one for one in recommendation.candidates if one.flat), None)
    return tree.kpis.get(metric) if tree is not None else None


def _failure(ended: TaskEnded) -> dict[str, Any]:
    return {
        "task": ended.task.id,
        "executor": ended.task.executor,
        "line": ended.task.line.value if ended.task.line is not None else None,
        "state": ended.state.value,
        "reason": ended.reason,
        "attempts": ended.attempts,
    }
