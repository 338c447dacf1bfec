"""Champions: the record of a specialization's accepted model after a verdict, or after a person went back.

    accepted candidate     version + 1, the old model as parent, judged on this holdout; what was changed and what it
                           brought stand in the record, the version before joins the lineage
    accepted keep          the same model; what changes is the holdout that it was measured on, and how often that
                           holdout was used: alpha must be spent on challengers that lost, too
    rejected               a champion that was challenged is counted the same way; without one: nothing
    rolled back            version + 1 with an earlier version's model; uses and looks are kept, so that going back
                           makes no split fresh

Uses are counted per split, whoever was champion then: a holdout that comes back after another one is as tired as it was
left. A promotion over a champion costs one look at the audit split; it is counted here, before anybody looks.

Promises: the same verdict and the same champion give the same record (its time is the verdict's), so a write that is
repeated after a crash repeats the same bytes.
"""

from __future__ import annotations

from typing import Any

from consensus.comparison import LOSS, better
from consensus.gate import against_champion, chosen
from consensus.rounding import SETTING
from mesh.messages.base import Facts
from mesh.messages.judgement import Candidate, Champion, Choice, Recommendation, Verdict, Version

USES_MAX = 64
"""Splits whose uses are remembered: a new one comes with each new dataset."""

LINEAGE_MAX = 64
"""Versions before this one that its record keeps: some 20 kB."""

DIGITS = 16
"""Of a split's digest in the table of uses: enough to tell them apart, and no name that keeps the split stored."""

CHANGED_CHARS_MAX = 200
"""Of each version's sentence in the lineage."""

ROLLED_BACK = "rolled back"


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
        uses=_left(current, recommendation.holdout),
    )


def _promoted(verdict: Verdict, current: Champion | None, name: str) -> Champion:
    recommendation, candidate = verdict.recommendation, chosen(verdict.recommendation)
    looked = verdict.looked_at
    uses = _left(current, recommendation.holdout) if current is not None else {}
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
        settings=_settings(candidate, current),
        changed=candidate.changed,
        holdout=recommendation.holdout,
        outcomes=candidate.holdout,
        holdout_uses=recommendation.holdout_uses,
        promoted_at_ms=verdict.decided_at_ms,
        fits=recommendation.fits,
        flat=candidate.flat,
        base=candidate.base,
        full=candidate.full,
        uses=_counted(uses, recommendation.audit) if looked else uses,
        audit_looks=(current.audit_looks if current is not None else 0) + looked,
        continued=candidate.continued,
        **_brought(recommendation, candidate),
        lineage=_lineage(current),
    )


def _brought(recommendation: Recommendation, candidate: Candidate) -> dict[str, Any]:
    """What decided for it: where it won by its loss alone, that; else what the recommendation reports."""
    main, loss = (against_champion(recommendation, candidate, metric) for metric in (recommendation.metric, LOSS))
    if main is not None and loss is not None and not better(main) and better(loss):
        return {"metric": LOSS, "effect": loss.effect, "interval": (loss.low, loss.high)}
    return {
        "metric": recommendation.metric, "effect": recommendation.effect, "interval": recommendation.interval
    }  # fmt: skip


def _settings(candidate: Candidate, current: Champion | None) -> Facts:
    """What an evolver turns: of a tree, the settings of the flat model in it, as far as they are known; of a rounded
    model those of the one that was rounded."""
    if candidate.full:
        return {name: value for name, value in candidate.settings.items() if name != SETTING}
    if candidate.flat and current is not None and candidate.flat in (current.model, current.flat):
        return current.settings
    return candidate.settings


def _counts(recommendation: Recommendation, current: Champion) -> bool:
    """Did this round use the holdout against this very champion, more often than its record says?"""
    if current.model != recommendation.champion_before or not recommendation.champion_outcomes:
        return False
    return recommendation.holdout_uses > current.uses_of(recommendation.holdout)


# -- what is kept -----------------------------------------------------------------------------------------------------


def _left(current: Champion, holdout: str) -> dict[str, int]:
    """The table of uses when the champion is judged on this holdout from now on."""
    if holdout == current.holdout:
        return current.uses
    kept = {key: count for key, count in current.uses.items() if key != holdout[:DIGITS]}
    if current.holdout and current.holdout_uses:
        kept = {**kept, current.holdout[:DIGITS]: current.holdout_uses}
    return dict(list(kept.items())[-USES_MAX:])


def _counted(uses: dict[str, int], split: str) -> dict[str, int]:
    """The table with one more use of this split."""
    key = split[:DIGITS]
    rest = {other: count for other, count in uses.items() if other != key}
    return dict(list({**rest, key: uses.get(key, 0) + 1}.items())[-USES_MAX:])


def _lineage(current: Champion | None) -> tuple[Version, ...]:
    if current is None:
        return ()
    return (*current.lineage, version_of(current))[-LINEAGE_MAX:]


def version_of(champion: Champion) -> Version:
    """A champion's record as a step of its lineage."""
    return Version(
        version_number=champion.version_number,
        model=champion.model[:12],
        line=champion.line,
        topic=champion.topic,
        verdict=champion.verdict,
        changed=champion.changed[:CHANGED_CHARS_MAX],
        metric=champion.metric,
        effect=champion.effect,
        interval=champion.interval,
        at_ms=champion.promoted_at_ms,
        event=champion.event,
        reason=champion.reason[:CHANGED_CHARS_MAX],
    )


# -- going back -------------------------------------------------------------------------------------------------------


def rolled_back(current: Champion, target: Champion, *, reason: str, at_ms: int) -> Champion:
    """The record that makes an earlier version's model champion again.

    current: the champion of now; target: a record of the version to go back to. Later challengers are compared with the
    target's outcomes, at the share of alpha that its holdout has come to.
    """
    return target.evolve(
        name=current.name,
        version_number=current.version_number + 1,
        parent_model=current.model,
        holdout_uses=current.uses_of(target.holdout),
        uses=_left(current, target.holdout),
        audit_looks=current.audit_looks,
        promoted_at_ms=at_ms,
        event=ROLLED_BACK,
        reason=reason,
        lineage=_lineage(current),
    )


def version_to_go_back_to(records: list[Champion], wanted: int | None) -> Champion | None:
    """The newest record of that version among a champion's records, oldest first; without a number, of the newest
    version whose model is another one than the champion's. None when there is none."""
    current = records[-1]
    for record in reversed(records):
        if wanted is None and record.model != current.model:
            return record
        if wanted is not None and record.version_number == wanted:
            return record
    return None
