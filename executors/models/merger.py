"""One task of the kind `merge`, from its inputs to its outputs.

    candidates ── alike? one ancestor? ── each asked on validation ── trials: written, asked ── the best one ── claims
                                                │                                                  │
                                      half of the items chooses (which, how much, temperature) ────┘
                                      the other half says what came of it: the evidence

Every model is asked in the way that `evaluate` asks (executors/models/loading.py), one at a time. The merge may be
worse than the best candidate: then the result says so in its facts, its card and its log, and hands it over all the
same; promotion is for those who compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from executors import device as devices
from executors import outcomes, room
from executors.data import digest_of
from executors.modelfolder import CONFIG
from executors.models import adaptermerge, candidates, mergecard, store
from executors.models.candidates import ADAPTER, BaseNetwork, Candidate
from executors.models.loading import BESIDE_ADAPTER, Respondent, described
from executors.models.merge_trials import Judge, Trial, Worth, retemper, tried
from executors.models.merging import Source
from executors.port import Context, Job, Made, Stopped
from mesh.errors import TaskRefused
from mesh.messages.judgement import Outcomes

CANDIDATE = re.compile(r"candidate-([1-9][0-9]?)")
"""Name of an input that is merged."""

CANDIDATES_MAX = 16

Tick = Callable[[], None]


def merge(job: Job, context: Context) -> Made:
    """Merge as the job says. TaskRefused or ModelRefused when the candidates do not belong together."""

    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped while merging as asked: {why}")
        context.progress(0, 0.5, {}, "merging")

    found, ancestor_folder, base = _opened(job)
    ancestor = candidates.common_ancestor(
        found, base if base is not None and found[0].form == ADAPTER else ancestor_folder
    )
    place = devices.choose(job.allotment)
    judge = Judge(Path(job.inputs["validation"]), base, place, tick)
    with devices.memory_translated("merging"):
        worths = [judge.worth(each.folder) for each in found]
        trial = tried(job, found, worths, _ancestor(job, found, ancestor_folder, base), judge, ancestor)
        retemper(trial, judge)
        model, claims = judge.asked(trial.folder)
    facts = _facts(job, found, worths, trial, judge, ancestor)
    return _deliver(job, context, trial, model, claims, facts)


# -- what is merged ---------------------------------------------------------------------------------------------------


def _opened(job: Job) -> tuple[list[Candidate], Path | None, Path | None]:
    """(candidates, the ancestor's folder, the base's), checked among each other."""
    numbered = {int(match[1]): name for name in job.inputs if (match := CANDIDATE.fullmatch(name))}
    if not 2 <= len(numbered) <= CANDIDATES_MAX or "validation" not in job.inputs:
        raise TaskRefused(
            f"expected the inputs candidate-1, candidate-2 … (2 to {CANDIDATES_MAX}) and validation, got "
            f"{', '.join(sorted(job.inputs)) or 'none'}"
        )
    found = [
        candidates.open_candidate(numbered[number], Path(job.inputs[numbered[number]])) for number in sorted(numbered)
    ]
    candidates.completed(found)
    candidates.check_alike(found)
    ancestor, base = (Path(job.inputs[name]) if name in job.inputs else None for name in ("ancestor", "base"))
    if found[0].form == ADAPTER:
        if base is None:
            raise TaskRefused("the candidates are adapters: give the model that they adapt as the input 'base'")
        if job.settings.method == "ties":
            raise TaskRefused(
                "TIES drops single numbers of what an adapter adds, and what is left is no product of thin factors: "
                "merge the adapters into their base (lora's merge_adapter), then those models by TIES"
            )
        adaptermerge.check(found)
    elif job.settings.method in ("arithmetic", "ties") and ancestor is None:
        raise TaskRefused(f"the method {job.settings.method} adds up differences to the ancestor: give it as the input "
                          "'ancestor'")  # fmt: skip
    return found, ancestor, base


def _ancestor(job: Job, found: list[Candidate], folder: Path | None, base: Path | None) -> Source | None:
    """The ancestor's numbers, where the method takes them."""
    if job.settings.method not in ("arithmetic", "ties"):
        return None
    like = found[0]
    if like.form == ADAPTER:
        assert base is not None
        return BaseNetwork(base, like, adaptermerge.PREFIX)
    assert folder is not None
    source: Source
    if like.kind == "lora" or not candidates.is_described(folder):
        source = BaseNetwork(folder, like)
    else:
        source = candidates.open_candidate("ancestor", folder)
        candidates.completed([source, *found])
    candidates.check_layouts(like.layouts, source.layouts, f"{like.name} and the ancestor")
    return source


# -- what is handed over ----------------------------------------------------------------------------------------------


def _facts(
    job: Job, found: list[Candidate], worths: list[Worth], trial: Trial, judge: Judge, ancestor: str
) -> dict[str, Any]:
    evidence = ~judge.choosing
    best = max(range(len(found)), key=lambda number: worths[number].order(evidence))
    final = judge.worth(trial.folder)
    rows = [{"name": each.name, "model": digest_of(each.folder), **worth.on(evidence)}
            for each, worth in zip(found, worths, strict=True)]  # fmt: skip
    measure = "accuracy" if final.right is not None else "loss"
    gain = final.on(evidence)[measure] - worths[best].on(evidence)[measure]
    gain = gain if measure == "accuracy" else -gain
    facts: dict[str, Any] = {
        "method": job.settings.method,
        "ancestor": ancestor,
        "members": [each.name for each in trial.members],
        "candidates": rows,
        "merged": final.on(evidence),
        "best": found[best].name,
        "measure": measure,
        "gain": gain,
        "better": gain > 0,
        "evidence_items": int(evidence.sum()),
        "choosing_items": int(judge.choosing.sum()),
    }
    if trial.scale is not None:
        facts["scale"] = trial.scale
    if job.settings.method == "ties":
        facts["density"] = job.settings.density
    if gain <= 0:
        word = "worse than" if gain < 0 else "no better than"
        facts["warning"] = (
            f"the merge is {word} {found[best].name} on the {int(evidence.sum())} items that chose nothing "
            f"({measure} {final.on(evidence)[measure]:.4g} against {worths[best].on(evidence)[measure]:.4g})"
        )
    return facts


def _deliver(
    job: Job, context: Context, trial: Trial, model: Respondent, claims: Outcomes, facts: dict[str, Any]
) -> Made:
    if "warning" in facts:
        context.log(facts["warning"])
    inner = described(trial.folder)
    inner = {**inner, "merged": {key: value for key, value in facts.items() if key != "warning"}}
    kpis = {f"validation_{name}": value for name, value in model.kpis(claims).items()}
    kpis |= {f"evidence_{name}": value for name, value in facts["merged"].items()}
    kpis |= {"gain": facts["gain"], "members": float(len(facts["members"]))}
    path = trial.folder / (BESIDE_ADAPTER if trial.members[0].form == ADAPTER else CONFIG)
    whole = {**json.loads(path.read_bytes()), "ramify": inner}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (trial.folder / "README.md").write_text(mergecard.card(inner, facts, kpis), encoding="utf-8")
    target = job.scratch / "model"
    trial.folder.rename(target)
    kpis["size_bytes"] = float(store.size_bytes(target))
    claimed = room.written(context, job.scratch / "claims", lambda folder: outcomes.write(claims, folder))
    return Made(
        outputs={"model": target, "claims": claimed},
        media={"model": "model", "claims": "outcomes"},
        facts_of={"model": {"kind": str(inner.get("kind")), "architecture": str(inner.get("architecture", ""))}},
        kpis=kpis,
        facts=facts,
    )
