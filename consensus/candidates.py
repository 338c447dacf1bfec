"""Candidates: from what a line brought and what was measured of it to a record that can be weighed, or why not.

    claims (validation, by the trainer)  ─┐
                                          ├─ evidence
    check  (validation, by another)      ─┘
    holdout outcomes                     ─── accuracy, loss, what chance would reach

A candidate that was not checked, or not enough of whose claims were reproduced, is listed with what is known of it
and is never chosen: `fault` says why. Its numbers on the holdout come from the per-item outcomes, not from what a
worker says about them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from consensus import evidence
from consensus.evidence import Items
from consensus.measure import NOTHING_KNOWN, labelled
from consensus.rounds import Round, Run, line_of
from mesh.messages.judgement import Candidate, Evidence
from mesh.messages.tasks import Line

KPIS_MAX = 48
"""KPIs kept of one candidate: a recommendation is one message."""

_One = TypeVar("_One")

Read = Mapping[str, Items | str]
"""Outcomes by digest, as far as they could be read; a sentence where they could not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """One run, judged by itself."""

    name: str
    candidate: Candidate | None
    """None when the line brought no model."""
    items: Items | None
    """Its outcomes on the holdout, when they are usable."""
    fault: str
    """Why it can not be chosen; '' when it can."""

    @property
    def size_bytes(self) -> float:
        """Size of the model; infinite when nobody said."""
        return self.candidate.kpis.get("size_bytes", math.inf) if self.candidate is not None else math.inf


def fitting(found: list[_One], line_of_: Callable[[_One], Judged], round_: Round) -> list[_One]:
    """Those whose candidates meet the topic's own KPIs; all of them where none does, so that it is said what lacks."""
    able = [one for one in found if _meets(line_of_(one).candidate, round_.kpis)]
    return able or found


def _meets(candidate: Candidate | None, kpis: Sequence[tuple[str, float | None, float | None]]) -> bool:
    known = candidate.kpis if candidate is not None else {}
    asked = [one for one in kpis if one[0] in known or not one[0].startswith("evidence_")]  # the gate knows those
    return all(
        metric in known
        and (minimum is None or known[metric] >= minimum)
        and (maximum is None or known[metric] <= maximum)
        for metric, minimum, maximum in asked
    )


def judge(run: Run, round_: Round, read: Read) -> Judged:
    """A line's candidate with its evidence and its numbers, or why there is none."""
    items, holdout_fault = holdout_items(run, round_, read)
    if not run.model:
        return Judged(run.name, None, None, run.missing)
    found, check_fault = (None, "") if run.unchecked else _evidence(run, round_, read)
    fault = run.fault or run.missing or _is_champion(run, round_) or holdout_fault or check_fault
    if not run.unchecked:
        fault = fault or evidence.sufficient(found, independent_required=round_.independent_required)
    candidate = Candidate(
        name=run.name,
        line=line_of(run.name) or Line.EVOLVER,
        task=run.task,
        incarnation=run.incarnation,
        model=run.model,
        kpis=_kpis(run, items, read),
        evidence=found,
        holdout=run.holdout,
        stopped_by=run.stopped_by,
        settings=run.settings,
        changed=run.changed,
        continued=run.continued,
        flat=run.flat,
        base=run.base,
        full=run.full,
        claims=run.claims,
        executor=run.executor,
        executor_version=run.executor_version,
        unchecked=run.unchecked,
    )
    return Judged(run.name, candidate, items, fault)


def _is_champion(run: Run, round_: Round) -> str:
    """What is put together again from the same parts is the same, byte by byte: comparing it would spend alpha on
    nothing. A line's model that is the champion's is a fault of its own (checks.without_copies)."""
    merged = run.name.partition("-")[0] == Line.MERGE.value
    same = merged and round_.champion is not None and run.model == round_.champion.model
    return "it is the champion itself, byte by byte" if same else ""


def holdout_items(run: Run, round_: Round, read: Read) -> tuple[Items | None, str]:
    """The run's outcomes on the round's holdout, or why they can not be used."""
    items, fault = _read(run.holdout, read)
    if items is None:
        return None, run.missing or fault
    fault = evidence.fault_of(items, model=run.model, split=round_.holdout)
    return (None, f"its outcomes on the holdout can not be used: {fault}") if fault else (items, "")


def aligned(judged: Judged, reference: Items | None) -> Judged:
    """The same, without its outcomes when they are not of the reference's items: they can not be compared then."""
    if judged.items is None or reference is None:
        return judged
    fault = evidence.mismatch_of(reference, judged.items)
    if not fault:
        return judged
    return dataclasses.replace(judged, items=None, fault=judged.fault or f"its outcomes can not be compared: {fault}")


def _evidence(run: Run, round_: Round, read: Read) -> tuple[Evidence | None, str]:
    claim, fault = _read(run.claims, read)
    if claim is None:
        return None, f"its claims can not be read: {fault}"
    independent = bool(run.checked_by) and run.checked_by != run.incarnation
    again, fault = _read(run.check, read)
    if again is None and run.fault:
        found, fault = evidence.nothing_reproduced(claim, independent=independent, checked_by=run.checked_by), ""
    elif again is None:
        return None, f"its claims could not be checked: {run.missing or fault}"
    else:
        found, fault = evidence.check(
            claim, again, model=run.model, split=round_.validation, independent=independent, checked_by=run.checked_by
        )
    told = found.evolve(fault=run.fault or fault, gain=run.gain, gain_error=run.gain_error, replayed=run.replayed)
    return told, fault


def _kpis(run: Run, items: Items | None, read: Read) -> dict[str, float]:
    """What the workers measured, and over it what follows from the per-item outcomes."""
    kpis: dict[str, float] = {}
    claim, _ = _read(run.claims, read)
    if claim is not None:
        kpis |= {f"validation_{name}": value for name, value in _values(claim).items()}
    if items is not None:
        kpis |= {**_values(items), **_chances(items), "items": float(len(items))}
    measured = {name: value for name, value in run.kpis.items() if name not in ("accuracy", "loss", "items")}
    merged = {**measured, **kpis}
    kept = sorted(merged, key=lambda name: (name not in kpis, name))[:KPIS_MAX]
    return {name: float(merged[name]) for name in kept if math.isfinite(merged[name])}


def _values(items: Items) -> dict[str, float]:
    """Loss, and accuracy where the items have labels."""
    loss = {"loss": items.mean_loss}
    return {"accuracy": items.accuracy, **loss} if labelled(items) else loss


def _chances(items: Items) -> dict[str, float]:
    """What the label frequencies alone would reach; of documents, what nobody needs to know to reach it."""
    if labelled(items):
        return {"majority_accuracy": items.majority_accuracy, "chance_loss": items.chance_loss}
    return {"chance_loss": NOTHING_KNOWN}


def _read(digest: str, read: Read) -> tuple[Items | None, str]:
    if not digest:
        return None, "there are none"
    found = read.get(digest, f"the outcomes {digest[:12]} were not read")
    return (None, found) if isinstance(found, str) else (found, "")
