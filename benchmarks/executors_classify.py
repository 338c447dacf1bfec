"""Part of `bench executors`: `classify` against scikit-learn, on the digits and on the docstrings of Python."""

from __future__ import annotations

import functools
import statistics

from benchmarks.executors_stage import Stage

BUDGET_S, QUICK_BUDGET_S = 120.0, 8.0

SEEN = ("train", "validation", "holdout")

LESS = 0.01
"""Of accuracy, that may be missing."""


def measure(stage: Stage) -> None:
    """Accuracy and loss on the holdout, and what training took."""
    for source in ("digits",) if stage.quick else ("digits", "python-docs"):
        splits = stage.splits(f"builtin:{source}")
        given = {name: splits[name] for name in ("train", "validation")}
        budget_s = QUICK_BUDGET_S if stage.quick else BUDGET_S

        trained, reference = stage.rounds(
            functools.partial(stage.kind, "classify", {}, given, budget_s=budget_s),
            functools.partial(stage.peer, "linear_classifier", *(splits[name] for name in SEEN)),
        )
        judged = [
            stage.kind("evaluate", {"latency_items": 0}, {"model": one.outputs["model"], "split": splits["holdout"]})
            for one in trained
        ]
        for metric in ("accuracy", "loss"):
            unit = "1" if metric == "accuracy" else "nats"
            stage.frame.row(
                "Ramify classify", f"{source}, holdout {metric}", [one.kpis[metric] for one in judged], unit
            )
            stage.frame.row("scikit-learn", f"{source}, holdout {metric}", [one[metric] for one in reference], unit)
        stage.frame.row("Ramify classify", f"{source}, training", [one.cpu_s for one in trained], "CPU s")
        stage.frame.row("scikit-learn", f"{source}, training", [one["cpu_s"] for one in reference], "CPU s")
        least = statistics.median(one["accuracy"] for one in reference) - LESS
        accuracies = [one.kpis["accuracy"] for one in judged]
        stage.frame.at_least(f"classify is as good as scikit-learn on {source}", least, "1", accuracies)
