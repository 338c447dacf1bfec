"""Merges on trial: each is written as a model, asked about the validation items, and the best one stays.

Which members and which scale is chosen on one half of the items, cut by a hash of their ids, so that all merges of a
split are chosen on the same ones; the other half is left to say what came of it. Only one trial's files are on the disk
beside the one that is tried. (Greedy soup: Wortsman et al. 2022, Model soups.)
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from executors import modelfolder
from executors.corpus import places
from executors.data import Split
from executors.device import Device
from executors.modelfolder import CONFIG, INDEX, WEIGHTS
from executors.models import adaptermerge, stored
from executors.models.blending import Blend
from executors.models.candidates import ADAPTER, CLASSIFIER, LINEAR, Candidate, nested
from executors.models.classifier import indices_of
from executors.models.loading import BESIDE_ADAPTER, Respondent, SplitRespondent, load_model
from executors.models.merging import Merged, Source, Ties, arithmetic, average, pieces_of
from executors.models.probabilities import fitted_temperature
from executors.port import Job
from mesh.errors import TaskRefused
from mesh.messages.judgement import Outcomes

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


def tried(
    job: Job, found: list[Candidate], worths: list[Worth], ancestor: Source | None, judge: Judge, digest: str
) -> Trial:
    """The best merge of the method on the choosing half."""
    folder = job.scratch / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    number = iter(range(1_000))

    def made(members: list[Candidate], merged: Merged, weight: float, scale: float | None) -> Trial:
        target = folder / str(next(number))
        ramify = {**members[0].ramify, "merged": {"ancestor": digest}}
        if members[0].form == ADAPTER:
            adaptermerge.write(target, members, weight, merged, ramify, "")
        else:
            _write(target, members, merged, ramify)
        return Trial(target, judge.worth(target), tuple(members), scale)

    def mean(members: list[Candidate]) -> Trial:
        return made(members, average(members), 1.0 / len(members), None)

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
        best = _better(best, made(found, merged, scale, scale), rows)
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
        if (nested(name) or not name.endswith(".safetensors")) and name not in (CONFIG, INDEX, "README.md"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(like.folder / name, folder / name)


def retemper(trial: Trial, judge: Judge) -> None:
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
