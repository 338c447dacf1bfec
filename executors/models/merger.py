"""One task of the kind `merge`, from its inputs to its outputs.

    candidates ── alike? one ancestor? ── each asked on validation ── trials: written, asked ── the best one ── claims
                                                │                                                  │
                                      half of the items chooses (which, how much, temperature) ────┘
                                      the other half says what came of it: the evidence

Every model is asked in the way that `evaluate` asks (executors/models/loading.py), one at a time. The halves are cut by
a hash of the items' ids, so that all merges of a split are chosen on the same items. The merge may be worse than the
best candidate: then the result says so in its facts, its card and its log, and hands it over all the same; promotion is
for those who compare.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from executors import device as devices
from executors import modelfolder, outcomes, room
from executors.corpus import places
from executors.data import Split, digest_of
from executors.device import Device
from executors.modelfolder import CONFIG, INDEX, WEIGHTS
from executors.models import adaptermerge, candidates, mergecard, store, stored
from executors.models.blending import Blend
from executors.models.candidates import ADAPTER, CLASSIFIER, LINEAR, BaseNetwork, Candidate
from executors.models.classifier import indices_of
from executors.models.loading import BESIDE_ADAPTER, Respondent, SplitRespondent, described, load_model
from executors.models.merging import Merged, Source, Ties, arithmetic, average, pieces_of
from executors.models.probabilities import fitted_temperature
from executors.port import Context, Job, Made, Stopped
from mesh.errors import ModelRefused, TaskRefused
from mesh.messages.judgement import Outcomes

CANDIDATE = re.compile(r"candidate-([1-9][0-9]?)")
"""Name of an input that is merged."""

CANDIDATES_MAX = 16

SALT = "merge"

ITEMS_LEAST = 8
"""Items of each half; with fewer nothing can be chosen."""

Tick = Callable[[], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Worth:
    """What a model answered, per item."""

    loss: NDArray[np.float64]
    right: NDArray[np.bool_] | None
    """None where nothing is right or wrong."""

    def on(self, rows: NDArray[np.bool_]) -> dict[str, float]:
        """Its measures on some items."""
        found = {"loss": float(self.loss[rows].mean())}
        return found if self.right is None else {"accuracy": float(self.right[rows].mean()), **found}

    def order(self, rows: NDArray[np.bool_]) -> tuple[float, float]:
        """Greater is better: right answers, then loss."""
        found = self.on(rows)
        return found.get("accuracy", 0.0), -found["loss"]


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One merge that was tried."""

    folder: Path
    worth: Worth
    members: tuple[Candidate, ...]
    scale: float | None = None


@dataclasses.dataclass(slots=True)
class Judge:
    """Asks models about the validation items."""

    validation: Path
    base: Path | None
    place: Device
    tick: Tick
    items: Any = None
    choosing: NDArray[np.bool_] = dataclasses.field(default_factory=lambda: np.zeros(0, np.bool_))
    """Per item: the half that chooses; the others are the evidence."""

    def worth(self, folder: Path) -> Worth:
        """Of the model in `folder`."""
        model, found = self.asked(folder)
        loss = np.frombuffer(found.loss, "<f4").astype(np.float64)
        if not len(self.choosing):
            self._cut(np.frombuffer(found.ids, "<u8"))
        if "accuracy" not in model.kpis(found):
            return Worth(loss, None)
        return Worth(loss, np.frombuffer(found.label, "<i4") == np.frombuffer(found.predicted, "<i4"))

    def asked(self, folder: Path) -> tuple[Respondent, Outcomes]:
        """(the model in `folder`, its outcomes on all items)."""
        model = load_model(folder, self.base)
        if self.items is None:
            self.items = model.read(self.validation)
        model.check(self.items)
        model.to(self.place.torch)
        return model, model.outcomes(self.items, self.place.torch, self.tick)

    def _cut(self, ids: NDArray[np.uint64]) -> None:
        self.choosing = places(ids, SALT) < 0.5
        if min(int(self.choosing.sum()), int((~self.choosing).sum())) < ITEMS_LEAST:
            raise TaskRefused(
                f"the validation has {len(ids)} items, and {ITEMS_LEAST} are needed to choose on and as many to "
                "measure on: give more"
            )


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
        trial = _tried(job, found, worths, _ancestor(job, found, ancestor_folder, base), judge, ancestor)
        _retemper(trial, judge)
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
    try:
        source: Source = candidates.open_candidate("ancestor", folder)
        assert isinstance(source, Candidate)
        candidates.completed([source, *found])
    except ModelRefused:
        raise
    except Exception:
        if like.form == CLASSIFIER:
            raise
        source = BaseNetwork(folder, like)
    candidates.check_layouts(like.layouts, source.layouts, f"{like.name} and the ancestor")
    return source


# -- trials -----------------------------------------------------------------------------------------------------------


def _tried(
    job: Job, found: list[Candidate], worths: list[Worth], ancestor: Source | None, judge: Judge, digest: str
) -> Trial:
    """The best merge of the method on the choosing half."""
    folder = job.scratch / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    number = iter(range(1_000))

    def tried(members: list[Candidate], merged: Merged, weight: float, scale: float | None) -> Trial:
        target = folder / str(next(number))
        ramify = {**members[0].ramify, "merged": {"ancestor": digest}}
        if members[0].form == ADAPTER:
            adaptermerge.write(target, members, weight, merged, ramify, "")
        else:
            _write(target, members, merged, ramify)
        return Trial(target, judge.worth(target), tuple(members), scale)

    def mean(members: list[Candidate]) -> Trial:
        return tried(members, average(members), 1.0 / len(members), None)

    method, rows = job.settings.method, judge.choosing
    if method == "average":
        return mean(found)
    if method == "greedy":
        return _greedy(found, worths, mean, rows)
    assert ancestor is not None
    ties = Ties.of(found, ancestor, job.settings.density, judge.tick) if method == "ties" else None
    best: Trial | None = None
    for scale in job.settings.scales:
        merged = ties.scaled(scale) if ties else arithmetic(found, ancestor, scale)
        best = _better(best, tried(found, merged, scale, scale), rows)
    assert best is not None
    return best


def _greedy(
    found: list[Candidate], worths: list[Worth], mean: Callable[[list[Candidate]], Trial], rows: NDArray[np.bool_]
) -> Trial:
    """From the best candidate on, each next one stays only if the mean is not worse with it (Wortsman et al. 2022)."""
    order = sorted(range(len(found)), key=lambda number: worths[number].order(rows), reverse=True)
    best = mean([found[order[0]]])
    for number in order[1:]:
        trial = mean([*best.members, found[number]])
        if trial.worth.order(rows) >= best.worth.order(rows):
            best = _kept(trial, best)
        else:
            shutil.rmtree(trial.folder)
    return best


def _better(best: Trial | None, trial: Trial, rows: NDArray[np.bool_]) -> Trial:
    if best is None:
        return trial
    return _kept(trial, best) if trial.worth.order(rows) > best.worth.order(rows) else _kept(best, trial)


def _kept(keep: Trial, drop: Trial) -> Trial:
    """Only one trial's files stay on the disk."""
    shutil.rmtree(drop.folder)
    return keep


def _write(folder: Path, members: list[Candidate], merged: Merged, ramify: dict[str, Any]) -> None:
    """A model folder with merged numbers, and the rest of the first member's."""
    folder.mkdir()
    like = members[0]
    layouts = {**{name: stored.layout_of(like.tensors, name) for name in like.kept}, **like.layouts}

    def pieces(name: str) -> Iterator[Tensor]:
        for start, count in pieces_of(layouts[name]):
            plain = name not in like.layouts
            yield (
                like.tensors.piece(name, start, count) if plain else merged(name, start, count).to(layouts[name].dtype)
            )

    stored.write(folder / WEIGHTS, layouts, pieces)
    if like.form == CLASSIFIER:
        share = float(np.mean([each.shares.network for each in members]))
        beside = any(name.startswith(LINEAR) for name in layouts)
        ramify = {**ramify, "blend": Blend(share, 1.0).config() if beside else None, "fitted_on": "",
                  "temperature": 1.0 if beside else 1.0 / share}  # fmt: skip
    config = json.loads((like.folder / CONFIG).read_bytes())
    (folder / CONFIG).write_text(
        json.dumps({**config, "ramify": ramify}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for name in modelfolder.look(like.folder).files:
        if not name.endswith(".safetensors") and name not in (CONFIG, INDEX, "README.md"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(like.folder / name, folder / name)


def _retemper(trial: Trial, judge: Judge) -> None:
    """Fit the temperature of a model that labels on the choosing half: an average is shyer than what it is made of."""
    model, _ = judge.asked(trial.folder)
    if not isinstance(model, SplitRespondent) or not isinstance(judge.items, Split):
        return
    answers = model.model.answers(judge.items, judge.place.torch, judge.tick)
    labels = indices_of(judge.items, model.model.labels)
    rows = np.flatnonzero(judge.choosing & (labels >= 0))
    path = trial.folder / (BESIDE_ADAPTER if trial.members[0].form == ADAPTER else CONFIG)
    config = json.loads(path.read_bytes())
    if len(rows) and "temperature" in config["ramify"]:
        config["ramify"]["temperature"] *= fitted_temperature(answers[rows], labels[rows])
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
