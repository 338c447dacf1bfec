"""language-model: it learns, claims what evaluate finds again, goes on bit by bit, loads elsewhere, refuses in time."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from executors import gradients, modelfolder, outcomes
from executors.kinds.evaluate import Evaluate
from executors.kinds.language_model import LanguageModel, LanguageModelSettings, parameters_of
from executors.models import language, languagelearning, tokens
from executors.models.languagelearning import SHAPE_SETTINGS
from executors.models.transformer import Shape, described
from executors.port import Made, Stopped
from mesh.errors import ArtifactCorrupt, DataRefused, ModelRefused, TaskRefused
from tests.support.executing import Recorder, job_for, made_by

SMALL: dict[str, Any] = {
    "layers": 1, "width": 32, "heads": 2, "inner": 48, "sequence": 32, "vocabulary": 300, "batch": 8, "steps_max": 60,
    "evaluate_every": 20, "warmup_steps": 5, "learning_rate": 0.01, "sample_tokens": 20, "compile": "off",
}  # fmt: skip
SUBJECTS, VERBS = ("the cat", "a dog", "my friend", "nobody"), ("sees", "hears", "finds", "follows")


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(SUBJECTS)}, and {n} others." for n in range(count)
    ]


def lines(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "train": lines(folder / "train.jsonl", sentences(300, 1)),
        "validation": lines(folder / "validation.jsonl", sentences(40, 2)),
    }


def train(inputs: Mapping[str, Path], folder: Path, **settings: Any) -> Made:
    torch.set_num_threads(1)
    return made_by(LanguageModel(), inputs, folder, {**SMALL, **settings})


@pytest.fixture(scope="module")
def made(corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return train(corpora, tmp_path_factory.mktemp("made"))


def test_it_learns_what_foretells_the_validation_documents(made: Made) -> None:
    assert made.kpis["validation_bits_per_byte"] < 1.6  # the letters alone have some four
    assert made.kpis["parameters"] == Shape(**made.facts["shape"]).parameters
    assert made.facts["best_step"] > 0
    assert made.facts["train"]["documents"] + made.facts["left_out"]["in validation"] == 300
    assert (made.stopped_by, made.exact) == ("steps", True)
    card = (made.outputs["model"] / "README.md").read_text(encoding="utf-8")
    assert "## What it writes" in card
    assert "library_name: transformers" in card


def test_evaluate_finds_the_claims_again_and_times_a_token(
    made: Made, corpora: dict[str, Path], tmp_path: Path
) -> None:
    inputs = {"model": made.outputs["model"], "split": corpora["validation"]}
    checked = made_by(Evaluate(), inputs, tmp_path, {"latency_items": 80})
    claim, check = outcomes.read(made.outputs["claims"]), outcomes.read(checked.outputs["outcomes"])
    assert (claim.ids, claim.predicted, claim.items) == (check.ids, check.predicted, 40)
    assert np.frombuffer(claim.loss, "<f4") == pytest.approx(np.frombuffer(check.loss, "<f4"), abs=1e-4)
    assert checked.kpis["bits_per_byte"] == pytest.approx(made.kpis["validation_bits_per_byte"], rel=1e-4)
    assert checked.kpis["loss"] == pytest.approx(made.kpis["validation_loss"], rel=1e-4)
    assert checked.kpis["latency_p50_ms"] > 0


def test_transformers_loads_the_folder_and_foretells_the_same(made: Made) -> None:
    transformers = pytest.importorskip("transformers")
    folder = made.outputs["model"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    mine = language.load(folder)
    read = reader(sentences(1, 9), return_tensors="pt")["input_ids"]
    assert read[0].tolist() == mine.vocabulary.encode(sentences(1, 9), lambda: None).tokens.tolist()
    with torch.inference_mode():
        assert torch.allclose(mine.network(read), theirs(read).logits, atol=1e-4)
    assert theirs.generate(read, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] <= read.shape[1] + 3


def test_a_folder_of_it_may_travel_as_a_transformers_model(made: Made) -> None:
    found = modelfolder.look(made.outputs["model"])
    assert (found.format, found.architecture) == ("transformers", "LlamaForCausalLM")
    assert found.parameters == made.kpis["parameters"]
    assert not found.left_out


@pytest.mark.parametrize(
    "settings", [{"tokenizer": "bpe"}, {"tokenizer": "bytes", "dropout": 0.0, "micro_batch": 3, "precision": "bf16"}]
)
def test_a_run_that_was_stopped_and_resumed_ends_bit_identical(
    settings: dict[str, Any], corpora: dict[str, Path], tmp_path: Path
) -> None:
    asked = {**SMALL, **settings, "steps_max": 24, "evaluate_every": 8, "checkpoint_s": 1e4}
    inputs = {"train": corpora["train"]}
    torch.set_num_threads(1)
    whole = made_by(LanguageModel(), inputs, tmp_path / "whole", asked)
    stop_after = random.Random(str(settings)).randrange(10, 26)
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > stop_after else "")
    job = job_for(LanguageModel(), inputs, tmp_path / "first", asked)
    with pytest.raises(Stopped):
        LanguageModel().run(job, recorder)
    kept, number, step, _, trained_s = recorder.checkpoints[-1]
    assert 0 < step < 24
    resumed = made_by(
        LanguageModel(), inputs, tmp_path / "second", asked, resume=kept, checkpoint_number=number, trained_s=trained_s
    )
    assert resumed.exact
    for fact in ("trace", "state", "steps", "best_step"):
        assert resumed.facts[fact] == whole.facts[fact], fact
    ours, theirs = (load_file(one.outputs["model"] / "model.safetensors") for one in (whole, resumed))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert outcomes.read(whole.outputs["claims"]).loss == outcomes.read(resumed.outputs["claims"]).loss


def test_a_resumed_run_cuts_texts_as_the_checkpoint_says(
    corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 12 else "")
    with pytest.raises(Stopped):
        LanguageModel().run(job_for(LanguageModel(), corpora, tmp_path / "first", SMALL), recorder)
    monkeypatch.setattr(tokens, "trained", lambda texts, size: pytest.fail("trained anew"))
    kept, number = recorder.checkpoints[-1][:2]
    train_on = job_for(LanguageModel(), corpora, tmp_path / "second", SMALL, resume=kept, checkpoint_number=number)
    assert LanguageModel().run(train_on, Recorder(tmp_path / "more")).facts["steps"] == 60


def test_going_on_from_a_model_keeps_its_tokenizer_and_is_never_worse(
    made: Made, corpora: dict[str, Path], tmp_path: Path
) -> None:
    base = made.outputs["model"]
    more = train({**corpora, "base": base}, tmp_path, learning_rate=None, layers=None, width=None)
    assert more.facts["tokenizer"] == made.facts["tokenizer"]
    assert more.facts["learning_rate"] == pytest.approx(3e-4)
    assert more.facts["continued"]["from"] == "base"
    assert more.kpis["validation_bits_per_byte"] <= made.kpis["validation_bits_per_byte"] + 1e-6


def test_a_llama_that_transformers_saved_is_gone_on_from(corpora: dict[str, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = Shape(260, 32, 2, 2, 1, 16, 48, context=64, tied=False)
    config = transformers.LlamaConfig(**described(shape), bos_token_id=1, eos_token_id=2)
    theirs = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    tokens.write(tokens.bytewise(), tmp_path / "theirs", 64)
    made = train(
        {**corpora, "base": tmp_path / "theirs"}, tmp_path / "run", steps_max=20, **dict.fromkeys(SHAPE_SETTINGS)
    )
    again = language.load(made.outputs["model"])
    assert (again.shape, again.vocabulary.start, again.vocabulary.end) == (shape, 1, 2)
    first = language.load(tmp_path / "theirs").network
    read = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(first(read), theirs.float()(read).logits, atol=1e-4)
    assert made.facts["best_step"] > 0


def test_a_tokenizer_that_is_not_the_models_is_refused_before_training(
    made: Made, corpora: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tokens.write(tokens.trained(["another text " * 50], 280), other, 32)
    inputs = {**corpora, "base": made.outputs["model"], "tokenizer": other}
    with pytest.raises(TaskRefused, match="is not that of the model to go on from"):
        train(inputs, tmp_path / "a")
    taken = train({**corpora, "tokenizer": other}, tmp_path / "b", steps_max=2)
    assert taken.facts["tokenizer"]["tokens"] == tokens.load(other).size
    swapped = shutil.copytree(made.outputs["model"], tmp_path / "swapped")
    (swapped / "tokenizer.json").write_bytes(tokens.trained(sentences(300, 5), 330).json())
    with pytest.raises(DataRefused, match="do not belong together"):
        train({**corpora, "base": swapped}, tmp_path / "c")


def test_settings_that_contradict_the_model_are_refused(made: Made, corpora: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TaskRefused, match="has layers 1, and 3 is asked for"):
        train({**corpora, "champion": made.outputs["model"]}, tmp_path, layers=3)


def changed(folder: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(folder, target)
    whole = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**whole, **config}))
    return target


def test_what_is_no_language_model_is_refused(made: Made, corpora: dict[str, Path], tmp_path: Path) -> None:
    folder = made.outputs["model"]

    def refused(base: Path, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            train({**corpora, "base": base}, tmp_path / "run")
        shutil.rmtree(tmp_path / "run")

    refused(corpora["train"].parent, ArtifactCorrupt, r"expected config\.json of a language model")
    refused(changed(folder, tmp_path / "a", model_type="bert"), ModelRefused, "is a Llama, and this model is a 'bert'")
    refused(changed(folder, tmp_path / "b", attention_bias=True), ModelRefused, "attention_bias")
    refused(changed(folder, tmp_path / "c", hidden_size="wide"), ArtifactCorrupt, "is no Llama's")
    refused(changed(folder, tmp_path / "d", intermediate_size=96), ArtifactCorrupt, "do not fit its config")
    refused(changed(folder, tmp_path / "e", eos_token_id=None), ModelRefused, "no eos_token_id")
    broken = shutil.copytree(folder, tmp_path / "f")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors")
    refused(broken, ArtifactCorrupt, r"model\.norm\.weight holds values that are not finite")


def test_of_a_large_corpus_no_more_is_held_out_than_can_be_read(
    corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"train": corpora["train"]}
    usual = train(inputs, tmp_path / "a", steps_max=1, validation_share=0.5).facts["validation"]
    monkeypatch.setattr(languagelearning, "HELD_OUT_BYTES_MAX", 1_000)
    less = train(inputs, tmp_path / "b", steps_max=1, validation_share=0.5).facts["validation"]
    assert 0 < less["bytes"] < 2_500 < usual["bytes"]


def test_a_corpus_without_enough_is_refused(corpora: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="every training document stands in the validation corpus"):
        train({"train": corpora["train"], "validation": corpora["train"]}, tmp_path / "a")
    with pytest.raises(DataRefused, match="20 are needed"):
        train({"train": lines(tmp_path / "few.jsonl", ["one", "two"])}, tmp_path / "b")


@pytest.mark.parametrize(
    "wrong",
    [{"layers": 0}, {"kv_heads": 3, "heads": 4}, {"width": 30, "heads": 4}, {"tokenizer": "words"}, {"dropout": 1.0},
     {"sequence": 4}, {"validation_share": 0.9}, {"batch": 0}, {"schedule": "up"}],
)  # fmt: skip
def test_settings_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LanguageModelSettings(**wrong)


def test_the_estimate_counts_the_network_that_is_built() -> None:
    settings = LanguageModelSettings(layers=3, width=96, heads=6, kv_heads=2, tied=False)
    sizes = settings.sizes(500)
    assert parameters_of(sizes) == Shape(context=8, **sizes).parameters
    needs = LanguageModel().needs
    small, large = needs(settings, {}), needs(LanguageModelSettings(layers=24, width=1024), {"bytes": 10**8})
    assert small.memory_bytes < 1 << 30 < 8 << 30 < large.memory_bytes


def test_its_gradients_are_those_of_its_loss() -> None:
    found = gradients.check_kind("language-model", threshold=1e-3, entries=4)
    assert found.ok, found.document()
    assert found.relative < 1e-4
