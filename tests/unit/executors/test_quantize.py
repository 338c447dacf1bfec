"""The kind `quantize`: small, nearly as good, asked by `evaluate` like any model; honest where nothing is gained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from executors import outcomes, quantizing
from executors.kinds.classify import Classify
from executors.kinds.evaluate import Evaluate
from executors.kinds.quantize import WAYS, Quantize, QuantizeSettings
from executors.models import kernels, language, quantized, subjects, tokens
from executors.models.transformer import Shape, Transformer
from executors.port import Made, Stopped
from mesh.errors import ArtifactCorrupt, DataRefused, ModelRefused, RamifyError, TaskRefused
from tests.support.executing import Recorder, job_for, made_by
from tests.support.footprint import footprint
from tests.support.splits import write_four

QUICK: dict[str, Any] = {"latency_rounds": 3, "latency_s_max": 0.2, "batches": (1, 4)}
ROOT = Path(__file__).resolve().parents[3]
LABELS = ("low", "middle", "high")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four splits of 300 rows of 70 numbers, whose sum says the label."""
    random = np.random.default_rng(4)
    rows = random.standard_normal((300, 70)).astype(np.float32)
    labels = np.digitize(rows.sum(axis=1), [-4.0, 4.0])
    folder = tmp_path_factory.mktemp("table")
    return write_four(folder / "splits", rows, labels, LABELS, [f"c{number}" for number in range(70)])


@pytest.fixture(scope="module")
def classifier(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deep classifier of them."""
    settings = {"architecture": "deep", "hidden": [96, 64], "epochs_max": 6, "linear_path": False}
    folder = tmp_path_factory.mktemp("classifier")
    given = {name: table / name for name in ("train", "validation")}
    return made_by(Classify(), given, folder, settings).outputs["model"]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("writer") / "model", width=64, layers=2, inner=96)


def untrained(folder: Path, *, width: int, layers: int, inner: int) -> Path:
    """A language model by bytes that nobody trained."""
    torch.manual_seed(3)
    vocabulary = tokens.bytewise()
    shape = Shape(
        vocabulary=vocabulary.size, width=width, layers=layers, heads=2, kv_heads=2, head_width=width // 2,
        inner=inner, context=48,
    )  # fmt: skip
    model = language.LanguageModel(Transformer(shape), vocabulary)
    return language.save(model, folder, {"kind": "language-model"}, "# A card")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    lines = [json.dumps({"text": f"document {number} says {number * 7919 % 101}"}) for number in range(12)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder


def made(folder: Path, model: Path, split: Path, **settings: Any) -> Made:
    torch.set_num_threads(1)
    return made_by(Quantize(), {"model": model, "split": split}, folder, {**QUICK, **settings})


@pytest.mark.parametrize("scheme", ["dynamic-int8", "int8", "int4"])
def test_a_classifier_becomes_small_and_stays_good(tmp_path: Path, classifier: Path, table: Path, scheme: str) -> None:
    result = made(tmp_path, classifier, table / "validation", scheme=scheme)
    kpis, facts = result.kpis, result.facts
    assert kpis["weights_share"] < (0.35 if scheme != "int4" else 0.27)
    assert abs(kpis["loss_rise"]) < (0.02 if scheme != "int4" else 0.2)
    assert kpis["loss_rise_low"] <= kpis["loss_rise"] <= kpis["loss_rise_high"]
    assert kpis["loss_rise"] == pytest.approx(kpis["loss_quantized"] - kpis["loss_original"], abs=1e-6)
    assert facts["dense"] == 2  # the first layer over the table, and the one behind it; the head is small
    assert facts["ways"].keys() == {"96 x 70", "64 x 96"}
    assert facts["recommendation"].startswith(("original: ", "quantized: "))
    assert sum(facts["layers"].values()) == 2
    card = (result.outputs["model"] / "README.md").read_text()
    assert "Recommended: " in card
    assert "loss_rise" in card


@pytest.mark.parametrize("way", ["expanded", "torch-int8-int8"])
def test_evaluate_finds_what_the_task_claimed(
    tmp_path: Path, classifier: Path, table: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = made(tmp_path, classifier, table / "validation", way=way)
    chosen = quantized.load
    monkeypatch.setattr(quantized, "load", lambda folder, **_: chosen(folder, way=way))
    given = {"model": result.outputs["model"], "split": table / "validation"}
    again = made_by(Evaluate(), given, tmp_path / "again", {"latency_items": 3})
    claimed, found = (outcomes.read(folder) for folder in (result.outputs["claims"], again.outputs["outcomes"]))
    assert found.ids == claimed.ids
    assert np.allclose(np.frombuffer(found.loss, "<f4"), np.frombuffer(claimed.loss, "<f4"), atol=1e-5)
    assert again.kpis["accuracy"] == pytest.approx(result.kpis["accuracy_quantized"])
    assert [path.name for path in (tmp_path / "again" / "scratch").iterdir()] == ["outcomes"]
    before = made_by(Evaluate(), {**given, "model": classifier}, tmp_path / "before", {"latency_items": 0})
    assert before.kpis["loss"] == pytest.approx(result.kpis["loss_original"])


def test_a_language_model_keeps_its_nats(tmp_path: Path, writer: Path, documents: Path) -> None:
    result = made(tmp_path, writer, documents, scheme="int4", group=32)
    assert abs(result.kpis["loss_rise"]) < 0.02
    assert result.facts["dense"] == 14
    assert result.facts["batch_unit"] == "tokens"
    assert result.kpis["loss_rise_high"] > result.kpis["loss_rise_low"]  # one file, and an interval all the same
    again = made_by(Evaluate(), {"model": result.outputs["model"], "split": documents}, tmp_path / "again")
    assert again.kpis["loss"] == pytest.approx(result.kpis["loss_quantized"], rel=1e-2)


def test_a_transformers_model_comes_back_as_one(tmp_path: Path, documents: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    from tests.support.causal_models import write_causal

    source = write_causal(tmp_path / "source", width=64)
    result = made(tmp_path / "1", source, documents, scheme="int8")
    assert result.facts["model"] == "language model"
    assert result.facts["dense"] == 10  # keys and values are small
    assert abs(result.kpis["loss_rise"]) < 0.05
    quantized.unfold(result.outputs["model"], tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    first = AutoModelForCausalLM.from_pretrained(source)
    both = [model.state_dict()["model.layers.0.mlp.up_proj.weight"] for model in (again, first)]
    assert 0 < float((both[0] - both[1]).norm() / both[1].norm()) < 0.01


def test_an_encoder_is_judged_by_its_vectors_and_neighbours(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(quantized, "NUMBERS_LEAST", 500)
    from tests.support.encoders import write_encoder

    source = write_encoder(tmp_path / "source")
    result = made(tmp_path / "1", source, documents)
    assert result.facts["model"] == "sentence encoder"
    assert result.kpis["accuracy_original"] == 1.0
    assert result.kpis["loss_original"] < 1e-6
    assert 0 < result.kpis["loss_quantized"] < 0.05
    given = {"model": result.outputs["model"], "split": result.outputs["reference"]}
    again = made_by(Evaluate(), given, tmp_path / "again", {"latency_items": 2})
    assert again.kpis["loss"] == pytest.approx(result.kpis["loss_quantized"], abs=1e-3)


def test_what_is_asked_to_stay_stays(tmp_path: Path, classifier: Path, table: Path) -> None:
    result = made(tmp_path, classifier, table / "validation", keep=("layers.0",))
    layout = json.loads((result.outputs["model"] / quantized.LAYOUT).read_text())
    assert layout["kept"]["network.layers.0.weight"] == "asked for"
    assert layout["kept"]["network.bias"] == "no matrix of weights"
    weights, before = (load_file(folder / "model.safetensors") for folder in (result.outputs["model"], classifier))
    assert torch.equal(weights["network.layers.0.weight"], before["network.layers.0.weight"])


@pytest.mark.parametrize("settings", [{"scheme": "int8"}, {"scheme": "int4"}, {"scheme": "int4", "symmetric": True}])
def test_the_page_tells_how_another_program_reads_it(
    tmp_path: Path, classifier: Path, table: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path, classifier, table / "validation", **settings).outputs["model"]
    page = (ROOT / "docs" / "executors" / "quantize.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0].replace('json.load(open("quantization.json"))', "told_by()")
    found: dict[str, Any] = {"told_by": lambda: json.loads((folder / quantized.LAYOUT).read_text())}
    monkeypatch.chdir(folder)
    exec(program, found)
    wanted = {name: matrix.expanded().numpy() for name, matrix in quantized.read(folder)[1].items()}
    assert wanted
    assert all(np.allclose(found["tensors"][name], matrix) for name, matrix in wanted.items())


def test_what_is_slower_or_worse_is_not_recommended() -> None:
    kpis = {"loss_rise_high": 0.001, "size_share": 0.27}

    def said(*times: tuple[float, float], rise: float = 0.001) -> str:
        return quantizing.recommendation(
            {**kpis, "loss_rise_high": rise}, dict(zip((1, 128), times, strict=True)), 0.01
        )

    assert said((1.0, 0.5), (10.0, 9.0)).startswith("quantized: 0.50 of its time for 1, 0.90 of its time for 128, 0.27")
    assert "few bits are slower" in said((1.0, 0.5), (10.0, 11.0))
    assert "few bits gain no time" in said((1.0, 1.0), (10.0, 9.9))
    assert "the loss may rise by 0.0200" in said((1.0, 0.5), (10.0, 5.0), rise=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scheme": "int2"}, "scheme is one of"),
        ({"group": 48}, "group is 16"),
        ({"way": "magic"}, "way is one of"),
        ({"batches": ()}, "batches are one to eight"),
        ({"batches": (0,)}, "batches are one to eight"),
        ({"latency_rounds": 1}, "latency_rounds is 3"),
        ({"loss_rise_max": -1.0}, "loss_rise_max must be"),
        ({"keep": ("",)}, "keep is at most"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QuantizeSettings(**settings)


def test_the_ways_of_the_settings_are_those_that_there_are() -> None:
    assert set(WAYS) == {"auto", *kernels.WAYS}


def test_models_that_can_not_be_quantized_are_refused(
    tmp_path: Path, classifier: Path, writer: Path, documents: Path, table: Path
) -> None:
    def refused(
        error: type[RamifyError], said: str, model: Path, split: Path = table / "validation", **more: Any
    ) -> None:
        with pytest.raises(error, match=said):
            made(tmp_path / said[:20].replace(" ", "-"), model, split, **more)

    once = made(tmp_path / "once", classifier, table / "validation").outputs["model"]
    refused(ModelRefused, "quantized already", once)
    refused(ModelRefused, r"expected config.json of a model", table)
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "config.json").write_text(json.dumps({"ramify": {"kind": "contrastive"}}))
    refused(ModelRefused, "of the kind 'contrastive' are not quantized", tmp_path / "pair")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused(ModelRefused, "the model is an adapter: merge it", tmp_path / "adapter")
    refused(TaskRefused, "nothing to make smaller", classifier, keep=("network.",))
    refused(TaskRefused, "is computed by expanded, torch-int8-int8", classifier, way="torch-int4")
    refused(DataRefused, "a split is a folder with schema.json", classifier, documents)


def test_damaged_models_are_refused(tmp_path: Path, classifier: Path, table: Path) -> None:
    whole = made(tmp_path, classifier, table / "validation").outputs["model"]

    def refused(said: str, name: str, change: Any) -> None:
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        change(folder)
        with pytest.raises(ArtifactCorrupt, match=said):
            quantized.load(folder)

    def without(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights.pop("network.layers.0.weight.scale")
        save_file(weights, folder / "model.safetensors")

    refused("expected quantization.json", "no-layout", lambda folder: (folder / quantized.LAYOUT).unlink())
    refused("not stored as described", "no-scale", without)
    refused("format 1 is read here, got 7", "format", lambda folder: rewritten(folder, format=7))
    refused(
        "expected quantization.json", "torn",
        lambda folder: (folder / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:-9]),
    )  # fmt: skip


def rewritten(folder: Path, **changes: Any) -> None:
    path = folder / quantized.LAYOUT
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_names_in_files_and_in_networks_may_begin_differently() -> None:
    names = ["bert.encoder.0.q.weight", "bert.encoder.1.q.weight", "head.weight"]
    assert subjects.tensor_of("transformer.encoder.0.q", names) == "bert.encoder.0.q.weight"
    assert subjects.tensor_of("head", names) == "head.weight"
    assert subjects.tensor_of("encoder.2.q", names) == ""
    assert subjects.tensor_of("q", names) == ""  # two could be meant


def test_a_stop_is_heard(tmp_path: Path, classifier: Path, table: Path) -> None:
    given = {"model": classifier, "split": table / "validation"}
    job = job_for(Quantize(), given, tmp_path / "scratch", QUICK)
    with pytest.raises(Stopped, match="stopped while quantizing as asked: enough"):
        Quantize().run(job, Recorder(tmp_path / "kept", lambda polls: "enough"))


@pytest.mark.process
def test_a_task_takes_the_memory_that_was_said(tmp_path: Path, documents: Path) -> None:
    model = untrained(tmp_path / "model", width=384, layers=5, inner=1024)
    size = (model / "model.safetensors").stat().st_size
    assert size > 30_000_000
    facts = {"input_bytes": {"model": size, "split": (documents / "texts.jsonl").stat().st_size}}
    seen = footprint("quantize", QUICK, {"model": model, "split": documents}, facts, tmp_path / "run")
    assert 0.4 <= seen.share <= 1.0
