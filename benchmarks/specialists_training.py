"""One training seed of `bench specialists`: a seed model, every arm that goes on from it, and what each foretells.

    seed ──┬── specialists     k models, each `steps` steps on its own branch; nobody talks to anybody
           ├── random          k models, each as long on a random part
           ├── (a) one worker  `steps` steps on everything
           ├── (c) large batch `steps` steps of k times the batch
           └── (d) serial      k times the steps

All are copies of one seed model and of its optimizer, and go on by the same rate, which falls in a line to the end.
Network, batches, loss and step are those of the kind `language-model` (executors/models/languagelearner.py,
executors/stepping.py); only the loop around them is bare: no validation, no checkpoints.

    python -m benchmarks.specialists_training FOLDER PLAN      a folder of benchmarks/specialists_corpus.py; JSON

It leaves `seed-N.safetensors` in the folder: per arm, the nats per byte of each test document beyond what the router
sees of it. The last line is JSON: how the seed model learnt, what a pilot said, what it cost.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmarks import specialists_corpus as corpus
from benchmarks.specialists_reading import Floats, foretold, mixed, posterior, scored
from benchmarks.specialists_routing import Branches, branched
from executors import data, schedules
from executors.device import Device
from executors.models import tokens
from executors.models.languagelearner import HeldOut, LanguageLearner, stream_of
from executors.models.tokens import Encoded, Vocabulary
from executors.models.transformer import Shape, Transformer
from executors.recipe import Recipe
from executors.schedules import Schedule
from executors.state import Moving
from executors.stepping import Stepper
from executors.team import Team

SHAPE = Shape(tokens.BYTES_VOCABULARY, width=64, layers=2, heads=4, kv_heads=4, head_width=16, inner=192, context=96)
"""123,264 numbers."""

RATE, BETAS, DECAY, CLIP, WARM_UP = 3e-3, (0.9, 0.95), 0.1, 1.0, 50

CURVE_POINTS = 12
"""Validations of the seed model."""

PILOT_SHARE = 0.1
"""Of the branches' steps: what a pilot spends before anybody branches for real."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one training seed does."""

    seed: int
    seed_steps: int
    steps: int
    """Of each branch."""
    branches: int
    batch: int


@dataclasses.dataclass(slots=True)
class Model:
    """A network and what its optimizer remembers."""

    network: Transformer
    optimizer: torch.optim.AdamW

    def copied(self) -> Model:
        """Another one that goes on from here."""
        return Model.of(copy.deepcopy(self.network), copy.deepcopy(self.optimizer.state_dict()))

    @classmethod
    def of(cls, network: Transformer, remembered: dict[str, Any] | None = None) -> Model:
        """Matrices decay, norms do not, as everywhere here."""
        trained = list(network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [one for one in trained if one.ndim > 1], "weight_decay": DECAY},
            {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
        ]
        made = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)
        if remembered is not None:
            made.load_state_dict(remembered)
        return cls(network, made)


class Bench:
    """The documents, and how everything is trained and asked."""

    def __init__(self, place: Path, plan: Plan) -> None:
        self.plan = plan
        self.vocabulary: Vocabulary = tokens.bytewise()
        self.device = Device("cpu", "fp32", 1, "as in every arm")
        self.sides = {side: corpus.read(place, side) for side in corpus.SIDES}
        self.encoded = {side: self._encoded([one.text for one in of]) for side, of in self.sides.items()}
        self.steps_taken, self.training_s = 0, 0.0

    def texts(self, side: str) -> list[str]:
        """Of one side."""
        return [one.text for one in self.sides[side]]

    def train(
        self,
        model: Model,
        rows: NDArray[np.int64] | None,
        steps: int,
        schedule: Schedule,
        order: int,
        batch: int = 0,
        first: int = 0,
    ) -> Model:
        """Train a model on these training documents (None: all), in place; the model. order: which permutation of the
        windows; first: steps of this schedule that it has behind it."""
        size, began = batch or self.plan.batch, time.perf_counter()
        learner = self._learner(model.network, rows)
        moving = Moving(model.network, model.optimizer, torch.amp.GradScaler("cpu", enabled=False))
        stepper = Stepper(learner, _recipe(size), self.device, moving, Team(), lambda undo: None)
        rest = data.batches(order, learner.rows, size, first)
        for number in range(first, first + steps):
            stepper.take([learner.build(next(rest))], number, schedule.factor(number))
        self.steps_taken += steps * size // self.plan.batch
        self.training_s += time.perf_counter() - began
        return model

    def ask(self, network: Transformer, side: str) -> list[Floats]:
        """Nats of each byte of each document of a side."""
        return foretold(network, self.encoded[side], self.vocabulary, SHAPE.context)

    def _learner(self, network: Transformer, rows: NDArray[np.int64] | None) -> LanguageLearner:
        whole = self.encoded[corpus.TRAIN]
        stream = stream_of(whole if rows is None else _taken(whole, rows), self.vocabulary)
        nothing = HeldOut(Encoded(whole.tokens[:0], np.zeros(1, np.int64)), np.zeros(0, np.int64))
        return LanguageLearner(network, self.vocabulary, stream, nothing, SHAPE.context, torch.device("cpu"))

    def _encoded(self, texts: Sequence[str]) -> Encoded:
        return self.vocabulary.encode(texts, lambda: None)


def main() -> None:
    """Train, ask, tell."""
    place, plan = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2].encode(), type=Plan)
    torch.set_num_threads(1)
    bench = Bench(place, plan)
    began = time.perf_counter()
    branches = branched(bench.texts(corpus.TRAIN), plan.branches, plan.seed)
    branching_s = time.perf_counter() - began
    seed, curve = _seed(bench)
    pilot = _pilot(bench, seed, branches)
    asked = _arms(bench, seed, branches)
    files = np.array([one.file for one in bench.sides[corpus.TEST]], np.int64)
    save_file({**asked, "file": files}, place / f"seed-{plan.seed}-{plan.seed_steps}.safetensors")
    told = {
        "curve": curve,
        "pilot": pilot,
        "sizes": np.bincount(branches.assigned, minlength=plan.branches).tolist(),
        "branching_s": branching_s,
        "step_s": bench.training_s / max(1, bench.steps_taken),
        "parameters": SHAPE.parameters,
    }
    print(json.dumps(told))


def _seed(bench: Bench) -> tuple[Model, list[list[float]]]:
    """The model that everybody goes on from, and how it learnt: (step, nats per byte on development documents)."""
    torch.manual_seed(bench.plan.seed)
    model, steps = Model.of(Transformer(SHAPE)), bench.plan.seed_steps
    schedule, curve = schedules.first(steps, WARM_UP, "constant"), [[0.0, _mean(bench, model.network)]]
    edges = np.linspace(0, steps, min(steps // 4, CURVE_POINTS) + 1).astype(int).tolist()
    for first, end in itertools.pairwise(edges):
        bench.train(model, None, end - first, schedule, bench.plan.seed, first=first)
        curve.append([float(end), _mean(bench, model.network)])
    return model, curve


def _mean(bench: Bench, network: Transformer) -> float:
    return float(np.mean(scored(bench.ask(network, corpus.DEVELOPMENT))))


def _specialists(bench: Bench, seed: Model, branches: Branches, steps: int, order: int) -> list[Model]:
    """One for each branch."""
    schedule = _falling(steps)
    parts = [np.flatnonzero(branches.assigned == branch) for branch in range(bench.plan.branches)]
    return [bench.train(seed.copied(), part, steps, schedule, order + n) for n, part in enumerate(parts)]


def _pilot(bench: Bench, seed: Model, branches: Branches) -> dict[str, list[float]]:
    """Nats per byte of development documents by two small trials: specialists of a tenth of the steps, routed, and one
    model that goes on for as many steps as all of them together."""
    steps = max(1, round(bench.plan.steps * PILOT_SHARE))
    few = _specialists(bench, seed, branches, steps, 500 + bench.plan.seed)
    together = steps * bench.plan.branches
    whole = bench.train(seed.copied(), None, together, _falling(together), 600 + bench.plan.seed)
    readings = [bench.ask(one.network, corpus.DEVELOPMENT) for one in few]
    weights = branches.weights(bench.texts(corpus.DEVELOPMENT))
    return {
        "routed": scored(mixed(readings, list(weights))).tolist(),
        "serial": scored(bench.ask(whole.network, corpus.DEVELOPMENT)).tolist(),
        "file": [float(one.file) for one in bench.sides[corpus.DEVELOPMENT]],
    }


def _arms(bench: Bench, seed: Model, branches: Branches) -> dict[str, Floats]:
    """Nats per byte of every test document, by arm."""
    plan, k, order = bench.plan, bench.plan.branches, 100 * bench.plan.seed
    documents = len(bench.sides[corpus.TRAIN])
    parts = np.random.default_rng(plan.seed).permutation(documents) % k
    specialists = _specialists(bench, seed, branches, plan.steps, order + 10)
    random = _specialists(bench, seed, dataclasses.replace(branches, assigned=parts), plan.steps, order + 20)
    one = bench.train(seed.copied(), None, plan.steps, _falling(plan.steps), order + 30)
    large = bench.train(seed.copied(), None, plan.steps, _falling(plan.steps), order + 40, batch=k * plan.batch)
    serial = bench.train(seed.copied(), None, k * plan.steps, _falling(k * plan.steps), order + 50)
    own, other = ([bench.ask(each.network, corpus.TEST) for each in some] for some in (specialists, random))
    even = list(np.full((len(own[0]), k), 1.0 / k))
    texts = bench.texts(corpus.TEST)
    answers = {
        "specialists, top 2": mixed(own, list(branches.weights(texts, top=2))),
        "specialists, nearest": mixed(own, list(branches.weights(texts, top=1))),
        "specialists, all": mixed(own, list(branches.weights(texts, top=k))),
        "specialists, by likelihood": mixed(own, posterior(own)),
        "specialists, evenly": mixed(own, even),
        "random, evenly": mixed(other, even),
        "seed": bench.ask(seed.network, corpus.TEST),
        "one worker": bench.ask(one.network, corpus.TEST),
        "large batch": bench.ask(large.network, corpus.TEST),
        "serial": bench.ask(serial.network, corpus.TEST),
        "specialists, averaged": bench.ask(_averaged(specialists), corpus.TEST),
        "random, averaged": bench.ask(_averaged(random), corpus.TEST),
    }
    return {name: scored(readings) for name, readings in answers.items()}


def _averaged(models: Sequence[Model]) -> Transformer:
    """One network whose numbers are the means of all."""
    states = [one.network.state_dict() for one in models]
    network = copy.deepcopy(models[0].network)
    network.load_state_dict({name: torch.stack([each[name] for each in states]).mean(0) for name in states[0]})
    return network


def _falling(steps: int) -> Schedule:
    return Schedule(warmup=0, end=steps)


def _recipe(batch: int) -> Recipe:
    return Recipe(
        batch=batch, micro_batch=batch, learning_rate=RATE, weight_decay=DECAY, warmup_steps=WARM_UP, epochs_max=1,
        evaluate_every=1, patience=1, clip=CLIP, budget_s=1e9, seed=0,
    )  # fmt: skip


def _taken(whole: Encoded, rows: NDArray[np.int64]) -> Encoded:
    """Some of the documents."""
    lengths = np.diff(whole.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Encoded(np.concatenate([whole.document(int(row)) for row in rows]), offsets)


if __name__ == "__main__":
    main()
