"""merge on small models of every form: it makes what its candidates say, chooses on one half of the items, measures on
the other, and refuses what does not belong together."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from executors import outcomes
from executors.kinds.classify import Classify
from executors.kinds.evaluate import Evaluate
from executors.kinds.language_model import LanguageModel
from executors.kinds.lora import Lora
from executors.kinds.merge import Merge, MergeSettings
from executors.port import Made
from mesh.errors import ModelRefused, TaskRefused
from tests.support.causal_models import write_causal
from tests.support.encoders import write_encoder
from tests.support.executing import Recorder, job_for, made_by
from tests.support.footprint import footprint
from tests.support.splits import write_four

LABELS = ["arrival", "limit", "refund"]
WORDS = {0: ["card", "arrive", "delivery", "track"], 1: ["limit", "maximum", "amount", "raise"],
         2: ["refund", "return", "money", "cancel"]}  # fmt: skip
QUICK: dict[str, Any] = {"epochs_max": 4, "hidden": [8], "warmup_steps": 5, "features_max": 400, "char_max": 0}
LORA: dict[str, Any] = {"batch": 16, "learning_rate": 5e-3, "epochs_max": 2, "evaluate_every": 20, "warmup_steps": 2,
                        "targets": ["all-linear"], "rank": 4}  # fmt: skip


ON: dict[str, Any] = {"batch": 8, "evaluate_every": 4, "warmup_steps": 2, "sample_tokens": 2, "compile": "off"}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(4)
    y = [draw.randrange(3) for _ in range(400)]
    texts = [" ".join(draw.choices(["the", "my", "how"], k=2) + draw.choices(WORDS[label], k=2)) + f" {number}"
             for number, label in enumerate(y)]  # fmt: skip
    return write_four(tmp_path_factory.mktemp("texts"), texts, y, LABELS)


def artifact(folder: Path, source: Path, letter: str) -> Path:
    """A model as a worker's cache holds it: below the digest that names it."""
    named = folder / (letter * 64) / "files"
    named.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(source, named))


@pytest.fixture(scope="module")
def family(splits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier, and three that went on from it."""
    folder = tmp_path_factory.mktemp("family")
    lines = {"train": splits / "train", "validation": splits / "validation"}
    first = made_by(Classify(), lines, folder / "ancestor", {**QUICK, "linear_path": False, "epochs_max": 1})
    found = {"ancestor": artifact(folder, first.outputs["model"], "a")}
    for number, rate in enumerate((3e-3, 1e-2, 2e-2), 1):
        settings = {**QUICK, "learning_rate": rate, "linear_path": number == 2}
        made = made_by(Classify(), {**lines, "base": found["ancestor"]}, folder / str(number), settings, seed=number)
        found[f"candidate-{number}"] = artifact(folder, made.outputs["model"], "bcd"[number - 1])
    return found


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tuple(word for several in WORDS.values() for word in several)
    return write_encoder(tmp_path_factory.mktemp("encoder") / "base", words=words)


@pytest.fixture(scope="module")
def adapters(splits: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    folder = tmp_path_factory.mktemp("adapters")
    inputs = {"base": encoder, "train": splits / "train", "validation": splits / "validation"}
    return [
        made_by(Lora(), inputs, folder / str(seed), {**LORA, "alpha": 8.0 * seed, "merge_adapter": True}, seed=seed)
        for seed in (1, 2)
    ]


def merged(inputs: dict[str, Path], splits: Path, folder: Path, **settings: Any) -> Made:
    return made_by(Merge(), {"validation": splits / "validation", **inputs}, folder, settings)


def losses(model: Path, split: Path, folder: Path, **inputs: Path) -> np.ndarray:
    made = made_by(Evaluate(), {"model": model, "split": split, **inputs}, folder, {"latency_items": 0})
    return np.frombuffer(outcomes.read(made.outputs["outcomes"]).loss, "<f4")


@pytest.mark.parametrize("method", ["average", "greedy", "arithmetic", "ties"])
def test_classifiers_of_one_ancestor(method: str, family: dict[str, Path], splits: Path, tmp_path: Path) -> None:
    made = merged(family, splits, tmp_path / "merge", method=method)
    facts = made.facts
    assert facts["ancestor"] == "a" * 64
    assert [row["model"] for row in facts["candidates"]] == ["b" * 64, "c" * 64, "d" * 64]
    assert facts["evidence_items"] + facts["choosing_items"] == outcomes.read(made.outputs["claims"]).items
    assert made.kpis["evidence_accuracy"] >= min(row["accuracy"] for row in facts["candidates"]) - 0.05
    assert facts["better"] == (facts["gain"] > 0)
    assert ("warning" in facts) == (facts["gain"] <= 0)
    claim = np.frombuffer(outcomes.read(made.outputs["claims"]).loss, "<f4")
    assert np.abs(claim - losses(made.outputs["model"], splits / "validation", tmp_path / "check")).max() < 1e-5
    lines = {"train": splits / "train", "validation": splits / "validation", "champion": made.outputs["model"]}
    assert made_by(Classify(), lines, tmp_path / "on", QUICK).facts["architecture"] == "wide-deep"


def test_the_mean_of_networks_is_the_mean_of_their_numbers(
    family: dict[str, Path], splits: Path, tmp_path: Path
) -> None:
    made = merged(family, splits, tmp_path, method="average")
    found = load_file(made.outputs["model"] / "model.safetensors")
    members = [load_file(family[f"candidate-{number}"] / "model.safetensors") for number in (1, 2, 3)]
    for name in (name for name in members[0] if name.startswith("network.")):
        assert np.allclose(found[name], np.mean([each[name] for each in members], axis=0), atol=1e-6)
    assert all(np.array_equal(found[name], members[0][name]) for name in members[0] if name.startswith("features."))


def test_a_greedy_soup_of_equals_is_the_model_itself(family: dict[str, Path], splits: Path, tmp_path: Path) -> None:
    one = family["candidate-1"]
    twin = artifact(tmp_path, one, "e")
    made = merged({"candidate-1": one, "candidate-2": twin}, splits, tmp_path / "merge")
    before, after = (load_file(folder / "model.safetensors") for folder in (one, made.outputs["model"]))
    assert all(np.allclose(before[name], after[name], atol=1e-7) for name in before if name.startswith("network."))
    assert made.facts["gain"] == pytest.approx(0.0)
    assert "no better than" in made.facts["warning"]
    assert made.facts["warning"] in (made.outputs["model"] / "README.md").read_text()


def test_a_soup_leaves_out_what_harms_it(family: dict[str, Path], splits: Path, tmp_path: Path) -> None:
    broken = artifact(tmp_path, family["candidate-3"], "e")
    arrays = load_file(broken / "model.safetensors")
    draw = np.random.Generator(np.random.Philox(key=1))
    save_file({name: array if name.startswith("features.") else draw.normal(0, 30, array.shape).astype(np.float32)
               for name, array in arrays.items()}, broken / "model.safetensors")  # fmt: skip
    inputs = {"candidate-1": family["candidate-1"], "candidate-2": broken}
    assert merged(inputs, splits, tmp_path / "soup").facts["members"] == ["candidate-1"]
    context = Recorder(tmp_path / "kept")
    job = job_for(Merge(), {**inputs, "validation": splits / "validation"}, tmp_path / "mean", {"method": "average"})
    bad = Merge().run(job, context)
    assert bad.facts["gain"] < 0
    assert any("worse than candidate-1" in line for line in context.lines), "never silently"


def test_adapters_are_merged_in_what_they_add(
    adapters: list[Made], encoder: Path, splits: Path, tmp_path: Path
) -> None:
    inputs = {f"candidate-{number}": made.outputs["model"] for number, made in enumerate(adapters, 1)}
    inputs["base"] = encoder
    made = merged(inputs, splits, tmp_path / "mean", method="average")
    config = json.loads((made.outputs["model"] / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 8)
    parts = [load_file(each.outputs["model"] / "adapter_model.safetensors") for each in adapters]
    found = load_file(made.outputs["model"] / "adapter_model.safetensors")
    for name in (name for name in found if name.endswith("lora_A.weight")):
        up = name.replace("lora_A", "lora_B")
        wanted = sum(2.0 * number * part[up] @ part[name] / 2 for number, part in enumerate(parts, 1))
        assert np.allclose(found[up] @ found[name], wanted, atol=1e-5)
    heads = [name for name in found if "classifier" in name]
    assert heads
    assert all(np.allclose(found[name], (parts[0][name] + parts[1][name]) / 2, atol=1e-6) for name in heads)
    whole = {f"candidate-{number}": each.outputs["merged"] for number, each in enumerate(adapters, 1)}
    same = merged(whole, splits, tmp_path / "whole", method="average")
    split = splits / "holdout"
    one = losses(made.outputs["model"], split, tmp_path / "1", base=encoder)
    two = losses(same.outputs["model"], split, tmp_path / "2")
    assert np.abs(one - two).max() < 1e-2, "the mean of adapters is the mean of the merged models"
    with pytest.raises(TaskRefused, match="no product of thin factors"):
        merged(inputs, splits, tmp_path / "ties", method="ties")
    ties = merged({**whole, "ancestor": encoder}, splits, tmp_path / "whole-ties", method="ties", density=0.5)
    assert ties.facts["ancestor"] == adapters[0].facts["base"]
    summed = merged(inputs, splits, tmp_path / "sum", method="arithmetic", scales=[0.5])
    assert np.abs(losses(summed.outputs["model"], split, tmp_path / "3", base=encoder) - one).max() < 1e-2


def test_language_models_are_merged_too(tmp_path: Path) -> None:
    base, corpus = write_causal(tmp_path / "base"), tmp_path / "corpus.jsonl"
    verses = ["all work and no play", "makes jack a dull boy", "the quick brown fox"]
    draw = random.Random(3)
    corpus.write_text("".join(json.dumps({"text": draw.choice(verses) + f" {row}"}) + "\n" for row in range(80)))
    settings = {**LORA, "task": "language-model", "tokens_max": 32, "epochs_max": 1, "merge_adapter": True}
    made = [
        made_by(Lora(), {"base": base, "train": corpus}, tmp_path / str(seed), settings, seed=seed) for seed in (1, 2)
    ]
    inputs = {f"candidate-{number}": each.outputs["merged"] for number, each in enumerate(made, 1)}
    found = made_by(Merge(), {**inputs, "ancestor": base, "validation": corpus}, tmp_path / "merge",
                    {"method": "arithmetic", "scales": [0.3, 0.6]})  # fmt: skip
    assert found.facts["measure"] == "loss"
    assert found.facts["scale"] in (0.3, 0.6)
    assert found.facts["merged"]["loss"] < 1.1 * max(row["loss"] for row in found.facts["candidates"])


def test_its_memory_is_what_it_said(family: dict[str, Path], splits: Path, tmp_path: Path) -> None:
    """In a child of its own."""
    inputs = {**family, "validation": splits / "validation"}
    facts = {"input_bytes": {name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                             for name, path in inputs.items()}}  # fmt: skip
    seen = footprint("merge", {"method": "ties"}, inputs, facts, tmp_path)
    assert 0.4 <= seen.share <= 1.0, seen


@pytest.mark.parametrize("method", ["greedy", "ties"])
def test_language_models_that_went_on_from_one(method: str, tmp_path: Path) -> None:
    draw, corpus = random.Random(5), tmp_path / "corpus.jsonl"
    texts = [" ".join(draw.choices(["one", "two", "three", "four"], k=12)) for _ in range(90)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tiny = {"layers": 1, "width": 16, "heads": 2, "inner": 24, "sequence": 16, "vocabulary": 300, "batch": 8,
            "evaluate_every": 4, "warmup_steps": 2, "sample_tokens": 2, "compile": "off"}  # fmt: skip
    first = made_by(LanguageModel(), {"train": corpus}, tmp_path / "a", {**tiny, "steps_max": 4})
    inputs = {"ancestor": artifact(tmp_path, first.outputs["model"], "a")}
    for number in (1, 2):
        on = {"train": corpus, "base": inputs["ancestor"]}
        line = made_by(LanguageModel(), on, tmp_path / str(number), {**ON, "steps_max": 4 * number}, seed=number)
        inputs[f"candidate-{number}"] = line.outputs["model"]
    made = made_by(Merge(), {**inputs, "validation": corpus}, tmp_path / "merge", {"method": method, "scales": [0.5]})
    assert made.facts["ancestor"] == "a" * 64
    assert made.kpis["validation_bits_per_byte"] > 0
    assert made.facts["merged"]["loss"] < 1.1 * max(row["loss"] for row in made.facts["candidates"])


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "stir"}, "method is one of"),
        ({"scales": ()}, "scales are 1 to 16"),
        ({"scales": (0.0,)}, "scales are 1 to 16"),
        ({"density": 0.0}, "density is above 0"),
    ],
)
def test_settings_out_of_bounds(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MergeSettings(**settings)


def test_what_does_not_belong_together_is_refused(
    family: dict[str, Path], adapters: list[Made], splits: Path, tmp_path: Path
) -> None:
    first = family["candidate-1"]

    def refused(match: str, second: Path | None, error: type[Exception] = TaskRefused, **more: Any) -> None:
        inputs = {"candidate-1": first, **({"candidate-2": second} if second else {}), **more.pop("inputs", {})}
        with pytest.raises(error, match=match):
            merged(inputs, splits, tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **more)

    def changed(letter: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        folder = artifact(tmp_path, family["candidate-2"], letter)
        config = json.loads((folder / "config.json").read_text())
        change(config["ramify"])
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    refused("expected the inputs candidate-1, candidate-2", None)
    refused("give it as the input 'ancestor'", family["candidate-2"], method="ties")
    refused("know different labels", changed("1", lambda ramify: ramify.update(labels=["arrival", "limit", "other"])))
    refused("differ in 'network'", changed("2", lambda ramify: ramify["network"].update(hidden=[9])))
    stranger = changed("3", lambda ramify: ramify["trained"].pop("continued"))
    refused("do not come from one model, as far as they say", stranger)
    refused("do not come from the ancestor that was given", family["candidate-2"], method="ties",
            inputs={"ancestor": family["candidate-3"]})  # fmt: skip
    refused("models of one kind can be merged", adapters[0].outputs["merged"])
    quantized = changed("4", lambda ramify: ramify.update(kind="quantize"))
    refused("weights can not be averaged", quantized, ModelRefused)
    other = artifact(tmp_path, family["candidate-2"], "5")
    arrays = load_file(other / "model.safetensors")
    save_file({**arrays, "features.idf": arrays["features.idf"] * 2}, other / "model.safetensors")
    refused("have different features", other)
    with pytest.raises(TaskRefused, match="the model that they adapt as the input 'base'"):
        merged({f"candidate-{n}": adapters[0].outputs["model"] for n in (1, 2)}, splits, tmp_path / "adapters")
