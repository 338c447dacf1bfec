"""Part of `bench executors`: what merging three descendants of one classifier is worth, beside the best of them, on the
digits. The reference is the plain mean of their tensors, made with numpy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.executors_stage import Ran, Stage

RATES = (3e-3, 1e-2, 2e-2)

PLAIN: dict[str, Any] = {"linear_path": False, "warmup_steps": 5, "epochs_max": 3}


def measure(stage: Stage) -> None:
    """Accuracy and loss on the holdout, method by method."""
    if stage.quick:
        stage.frame.skip("Ramify merge", "whole part", "1", "a quick run is too short for it")
        return
    splits = stage.splits("builtin:digits")
    given = {name: splits[name] for name in ("train", "validation")}
    ancestor = _named(stage, stage.kind("classify", PLAIN, given), "a")
    lines = [
        _named(stage, stage.kind("classify", {**PLAIN, "learning_rate": rate}, {**given, "base": ancestor}), letter)
        for rate, letter in zip(RATES, "bcd", strict=True)
    ]
    candidates = {f"candidate-{number}": line for number, line in enumerate(lines, 1)}
    single = [_judged(stage, line, splits["holdout"]) for line in lines]
    best = max(single, key=lambda one: one["accuracy"])
    plain = _judged(stage, _mean(stage, lines), splits["holdout"])
    for metric, unit in (("accuracy", "1"), ("loss", "nats")):
        stage.frame.row("best candidate", f"digits, holdout {metric}", [best[metric]], unit)
        stage.frame.row("mean by numpy", f"digits, holdout {metric}", [plain[metric]], unit)
    for method in ("average", "greedy", "arithmetic", "ties"):
        inputs = {**candidates, "ancestor": ancestor, "validation": splits["validation"]}
        made = stage.kind("merge", {"method": method}, inputs)
        found = _judged(stage, made.outputs["model"], splits["holdout"])
        for metric, unit in (("accuracy", "1"), ("loss", "nats")):
            stage.frame.row(f"Ramify merge {method}", f"digits, holdout {metric}", [found[metric]], unit)
        stage.frame.row(f"Ramify merge {method}", "merging and measuring", [made.cpu_s], "CPU s")


def _named(stage: Stage, made: Ran, letter: str) -> Path:
    """A model below the digest that names it, as in a worker's cache: descendants say whose they are by it."""
    place = stage.folder / (letter * 64) / "files"
    place.parent.mkdir()
    return Path(shutil.copytree(made.outputs["model"], place))


def _judged(stage: Stage, model: Path, split: Path) -> dict[str, float]:
    return stage.kind("evaluate", {"latency_items": 0}, {"model": model, "split": split}).kpis


def _mean(stage: Stage, models: list[Path]) -> Path:
    """The plain mean of all tensors, with the first one's config at the mean temperature."""
    folder = Path(shutil.copytree(models[0], stage.folder / "mean"))
    tensors = [load_file(model / "model.safetensors") for model in models]
    mean = {name: np.mean([each[name] for each in tensors], axis=0).astype(tensor.dtype)
            for name, tensor in tensors[0].items()}  # fmt: skip
    save_file(mean, folder / "model.safetensors")
    configs = [json.loads((model / "config.json").read_bytes()) for model in models]
    configs[0]["ramify"]["temperature"] = float(np.mean([each["ramify"]["temperature"] for each in configs]))
    (folder / "config.json").write_text(json.dumps(configs[0]), encoding="utf-8")
    return folder
