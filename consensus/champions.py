"""Champions: the record of a specialization's accepted model after a verdict.

    accepted evolver or reinventor    version + 1, the old model as parent, judged on this holdout
    accepted keep                     the same model; what changes is the holdout that it was measured on, and how often
                                      that holdout was used: alpha must be spent on challengers that lost, too
    rejected                          a champion that was challenged is counted the same way; without one: nothing

Promises: the same verdict and the same champion give the same record (its time is the verdict's), so a write that is
repeated after a crash repeats the same bytes. Not covered: going back to an earlier version.
"""

from __future__ import annotations

from consensus.gate import chosen
from mesh.messages.judgement import Champion, Choice, Recommendation, Verdict


def next_champion(verdict: Verdict, current: Champion | None, *, name: str = "") -> Champion | None:
    """The record to write in place of `current`, or None when nothing changes. `name`: the specialization's, for
    people."""
    recommendation = verdict.recommendation
    if verdict.accepted and verdict.choice is not Choice.KEEP:
        return _promoted(verdict, current, name)
    if current is None or not _counts(recommendation, current):
        return None
    return current.evolve(
        holdout=recommendation.holdout,
        outcomes=recommendation.champion_outcomes,
        holdout_uses=recommendation.holdout_uses,
    )


def _promoted(verdict: Verdict, current: Champion | None, name: str) -> Champion:
    recommendation, candidate = verdict.recommendation, chosen(verdict.recommendation)
    return Champion(
        specialization=verdict.specialization,
        name=name or (current.name if current is not None else ""),
        version_number=current.version_number + 1 if current is not None else 1,
        model=candidate.model,
        topic=verdict.topic,
        task=candidate.task,
        line=candidate.line,
        verdict=verdict.id,
        parent_model=current.model if current is not None else "",
        kpis=candidate.kpis,
        settings=candidate.settings,
        changed=candidate.changed,
        holdout=recommendation.holdout,
        outcomes=candidate.holdout,
        holdout_uses=recommendation.holdout_uses,
        promoted_at_ms=verdict.decided_at_ms,
        fits=recommendation.fits,
    )


def _counts(recommendation: Recommendation, current: Champion) -> bool:
    """Did this round use the holdout against this very champion, more often than its record says?"""
    if current.model != recommendation.champion_before or not recommendation.champion_outcomes:
        return False
    if current.holdout != recommendation.holdout:
        return recommendation.holdout_uses > 0
    return recommendation.holdout_uses > current.holdout_uses
