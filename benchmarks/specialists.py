"""Specialists that never talk to each other, against everything else that the same computing time buys.

Four branches of a corpus are found without labels; a seed model is copied once for each, every copy goes on alone on
its branch, and a router that sees the first 288 bytes of a document says whose probabilities count. Beside them, from
the same seed model, with the same number of computed windows (but for (a), one worker's share of them):

    (a) one worker's model      (b) models on random parts, mixed evenly      (c) batches four times as large
    (d) four times the steps    (e) the uniform average of the specialists' weights

Byte-level models of 123,264 numbers, sequences of 96 bytes, batches of 12, AdamW; documents of 2 KB, cut from the text
of several domains that the machine has (benchmarks/specialists_corpus.py) or of a folder that is named with --data; no
source file stands on both sides. What is compared is nats per byte, document by document; the interval is the gate's
own (consensus/comparison.py): cluster-robust and by resampling source files, the wider of both. Every training seed has
its own seed model, order and branches; two of them run side by side, a core each.

The counter-example: from a seed model that has hardly learnt, dividing brings nothing that training on would not bring,
or less. So the planner asks first whether a seed's curve is flat enough to be branched (planner/branching.py); what it
says of each seed is a row, and so is what a pilot says: a tenth of the steps spent on trial.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks import specialists_corpus as corpora
from benchmarks.document import SHARE
from benchmarks.frame import CHECKOUT, Frame, environment
from benchmarks.programs import timed
from benchmarks.specialists_corpus import Bounds, Corpus
from consensus import comparison
from consensus.evidence import Items
from mesh.errors import ChildBroke
from mesh.messages.judgement import Comparison
from planner import branching

NAME = "specialists"
WHY = "Whether specialists that train without communication beat dense training at equal compute, and from which seed."

BRANCHES, BATCH, QUICK_BATCH = 4, 12, 4

STEPS, SEED_STEPS, WEAK_STEPS = 400, 3_000, 500
QUICK_STEPS, QUICK_SEED_STEPS = 3, 12

SEEDS = 2
SIDE_BY_SIDE = 2
"""Training seeds at a time, a core each."""

FULL = Bounds(domain_bytes=3_000_000, asked=480, development=80)
QUICK = Bounds(domain_bytes=40_000, asked=8, development=4)

CHILD_S = 1_500.0
"""Patience with one training seed."""

OURS = {
    "specialists, top 2": "specialists, top-2 routing",
    "specialists, by likelihood": "specialists, likelihood routing",
}
AGAINST = {
    "one worker": "(a) one worker's dense model",
    "random, evenly": "(b) random parts, mixed evenly",
    "large batch": "(c) dense, batch times 4",
    "serial": "(d) dense, steps times 4",
    "specialists, averaged": "(e) specialists' mean weights",
}
OTHERS = {
    "seed": "the seed model alone",
    "specialists, nearest": "specialists, nearest alone",
    "specialists, all": "specialists, all four routed",
    "specialists, evenly": "specialists, mixed evenly",
    "random, averaged": "random parts' mean weights",
}
ARMS = {**OURS, **AGAINST, **OTHERS}
"""Arm (benchmarks/specialists_training.py), and what it is called in rows and aims."""

BOUND = branching.flat_share("corpus")

UNIT = "nats/byte"


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """One training seed."""

    seed: int
    told: dict[str, Any]
    losses: dict[str, NDArray[np.float64]]
    """By arm, per test document."""
    files: NDArray[np.int64]


def run(frame: Frame) -> None:
    """Corpus, training seeds, figures."""
    domains = corpora.folder(frame.data) if frame.data else corpora.machine()
    corpus = corpora.made(domains, QUICK if frame.quick else FULL)
    _described(frame, corpus)
    with frame.home() as place:
        corpora.write(corpus, place)
        seeds = [(frame.seed or 1) + number for number in range(frame.runs(SEEDS))]
        strong = _trained(frame, place, seeds, QUICK_SEED_STEPS if frame.quick else SEED_STEPS)
        _judged(frame, strong, "")
        _aimed(frame, strong)
        if frame.quick:
            frame.skip("weak seed", "whole part", UNIT, "a quick run trains from one kind of seed")
            return
        weak = _trained(frame, place, seeds, WEAK_STEPS)
        _judged(frame, weak, f" from a seed of {WEAK_STEPS} steps")


def _described(frame: Frame, corpus: Corpus) -> None:
    """What the machine has."""
    for domain, size in corpus.bytes_of.items():
        if size:
            frame.row(domain, "training text", size / 1e6, "MB")
        else:
            frame.skip(domain, "training text", "MB", "this machine has none of it")
    for side, documents in corpus.sides.items():
        frame.row(f"{side} documents", "count", float(len(documents)), SHARE, f"of {corpus.files[side]} source files")


# -- training ---------------------------------------------------------------------------------------------------------


def _trained(frame: Frame, place: Path, seeds: Sequence[int], seed_steps: int) -> list[Ran]:
    """Every training seed that came to its end."""
    steps = QUICK_STEPS if frame.quick else STEPS
    batch = QUICK_BATCH if frame.quick else BATCH
    fixed = {"seed_steps": seed_steps, "steps": steps, "branches": BRANCHES, "batch": batch}
    found = []
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        asked = [pool.submit(_one, frame, place, {**fixed, "seed": seed}) for seed in seeds]
        for seed, one in zip(seeds, asked, strict=True):
            try:
                found.append(one.result())
            except (ChildBroke, OSError) as error:
                frame.fail(f"training seed {seed}", "whole part", UNIT, str(error))
    return found


def _one(frame: Frame, place: Path, plan: Mapping[str, int]) -> Ran:
    """One training seed in a process of its own, on one core. ChildBroke when it fails."""
    argv = [sys.executable, "-P", "-m", "benchmarks.specialists_training", str(place), json.dumps(plan)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env = {**environment(place), "PYTHONPATH": str(CHECKOUT), **threads}
    ran = timed(argv, timeout_s=frame.timeout_s(CHILD_S), env=env, cwd=place)
    if ran.trouble:
        raise ChildBroke(f"training seed {plan['seed']}: {ran.trouble}")
    arrays = load_file(place / f"seed-{plan['seed']}-{plan['seed_steps']}.safetensors")
    files = arrays.pop("file")
    told: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    frame.say(f"training seed {plan['seed']}: {ran.wall_s:.0f} s, {1000 * told['step_s']:.1f} ms a step")
    return Ran(plan["seed"], {**told, "wall_s": ran.wall_s}, arrays, files)


# -- figures ----------------------------------------------------------------------------------------------------------


def _judged(frame: Frame, ran: Sequence[Ran], where: str) -> None:
    """Every arm's loss, and how far the specialists are ahead of it."""
    if not ran:
        return
    for arm, named in ARMS.items():
        frame.row(named, f"loss{where}", [float(one.losses[arm].mean()) for one in ran], UNIT)
    for ours, arm in itertools.product(OURS, AGAINST):
        found = [compared(one, ours, arm) for one in ran]
        who = f"{OURS[ours]}, minus {AGAINST[arm]}"
        frame.row(who, f"difference{where}", [-each.effect for each in found], UNIT, _said(ran, found))
    _ready(frame, ran, where)
    frame.row("smallest branch", f"documents{where}", [float(min(one.told["sizes"])) for one in ran], SHARE)
    frame.row("a step", f"time{where}", [one.told["step_s"] for one in ran], "s")
    frame.row("a training seed", f"time{where}", [one.told["wall_s"] for one in ran], "s")


def _ready(frame: Frame, ran: Sequence[Ran], where: str) -> None:
    """What can be known before anybody branches: a pilot, and the seed model's curve."""
    pilots = [piloted(one) for one in ran]
    who = "pilot, a tenth of the steps: routed minus serial"
    frame.row(who, f"difference{where}", [-each.effect for each in pilots], UNIT, _said(ran, pilots))
    for one in ran:
        curve = [(step, loss) for step, loss in one.told["curve"]]
        shown = ", ".join(f"{step:.0f}: {loss:.3f}" for step, loss in curve[:: max(1, len(curve) // 6)])
        frame.row(f"seed model {one.seed}", f"loss at its end{where}", curve[-1][1], UNIT, f"by step, {shown}")
        share = branching.last_half_share(curve)
        if share is not None:
            says = "may be branched" if share <= BOUND else "not yet"
            remark = f"the planner: {says} (its bound is {BOUND:g})"
            frame.row(f"seed model {one.seed}", f"share of its gain in its last half{where}", share, SHARE, remark)


def _aimed(frame: Frame, ran: Sequence[Ran]) -> None:
    """Ahead of every arm in every training seed: the upper end of each interval lies below zero."""
    for ours, arm in itertools.product(OURS, AGAINST):
        ends = [-compared(one, ours, arm).low for one in ran]
        aim = f"{OURS[ours]}, ahead of {AGAINST[arm]}: upper end of the worst seed's 95 % interval"
        frame.at_most(aim, 0.0, UNIT, [max(ends)] if ends else [])


def _said(ran: Sequence[Ran], found: Sequence[Comparison]) -> str:
    """The intervals in words; below zero is for the first."""
    each = (f"seed {one.seed}: {-it.high:+.4f} to {-it.low:+.4f}" for one, it in zip(ran, found, strict=True))
    return f"95 % intervals over source files: {'; '.join(each)}"


def compared(one: Ran, ours: str, arm: str) -> Comparison:
    """The gate's comparison of two arms; a positive effect is for ours."""
    return _compared((ours, one.losses[ours]), (arm, one.losses[arm]), one.files)


def piloted(one: Ran) -> Comparison:
    """The same of the pilot, on development documents."""
    pilot = {name: np.array(values) for name, values in one.told["pilot"].items()}
    return _compared(("routed", pilot["routed"]), ("serial", pilot["serial"]), pilot["file"].astype(np.int64))


def _compared(
    ours: tuple[str, NDArray[np.float64]], other: tuple[str, NDArray[np.float64]], files: NDArray[np.int64]
) -> Comparison:
    mine, theirs = ((name, _items(losses, files)) for name, losses in (ours, other))
    return comparison.compare(mine, theirs, comparison.LOSS, resamples=comparison.RESAMPLES)


def _items(losses: NDArray[np.float64], files: NDArray[np.int64]) -> Items:
    """As consensus reads outcomes: items are documents, clusters are files."""
    nobody = array("i", bytes(4 * len(losses)))
    return Items(
        model="", split="", ids=array("Q", range(len(losses))), clusters=array("I", files.tolist()), label=nobody,
        predicted=nobody, loss=array("f", losses.tolist()),
    )  # fmt: skip
