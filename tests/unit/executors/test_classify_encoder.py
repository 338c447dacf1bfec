"""classify on a sentence encoder, frozen and tuned; vectors that embed kept are used when they hold, and only then."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from executors import modelfolder, outcomes
from executors.data import read_split
from executors.kinds.classify import Classify, ClassifySettings
from executors.kinds.embed import Embed
from executors.kinds.evaluate import Evaluate
from executors.models import classifier as classifiers
from executors.models import vectors
from executors.models.encoded import EncoderFeatures
from executors.models.encoder import Encoder
from executors.port import Made, Stopped
from mesh.errors import ArtifactCorrupt, ModelRefused, TaskRefused
from tests.support.encoders import WIDTH, write_encoder
from tests.support.executing import Recorder, job_for, made_by
from tests.support.footprint import footprint
from tests.support.splits import write_four
from tests.unit.executors.test_learning_kinds import LABELS, WORDS, questions

QUICK: dict[str, Any] = {"epochs_max": 6, "hidden": [16], "warmup_steps": 5, "checkpoint_overhead": 1.0}
TUNED: dict[str, Any] = {"encoder_mode": "tuned", "epochs_max": 2, "encoder_learning_rate": 3e-3, "warmup_steps": 3,
                         "checkpoint_overhead": 1.0, "learning_rate": 0.01}  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs, y = questions(240, 1)
    return write_four(tmp_path_factory.mktemp("texts"), inputs, y, LABELS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = tuple(word for words in WORDS.values() for word in words)
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny", words=known)


@pytest.fixture(scope="module")
def kept(splits: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    inputs = {"encoder": encoder, "train": splits / "train", "validation": splits / "validation"}
    made = made_by(Embed(), inputs, tmp_path_factory.mktemp("embed"), {})
    assert made.kpis["width"] == WIDTH
    return dict(made.outputs)


def lines(splits: Path, encoder: Path, **more: Path) -> dict[str, Path]:
    return {"train": splits / "train", "validation": splits / "validation", "encoder": encoder, **more}


def reproduced(made: Made, split: Path, folder: Path) -> Made:
    """Evaluate says what the claim says."""
    checked = made_by(Evaluate(), {"model": made.outputs["model"], "split": split}, folder, {"latency_items": 3})
    claim, check = outcomes.read(made.outputs["claims"]), outcomes.read(checked.outputs["outcomes"])
    assert claim.ids == check.ids
    assert claim.predicted == check.predicted
    assert np.allclose(np.frombuffer(claim.loss, "<f4"), np.frombuffer(check.loss, "<f4"), atol=1e-3)
    return checked


def test_a_frozen_encoder_stays_as_it_was_and_the_claim_is_reproduced(
    splits: Path, encoder: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    made = made_by(Classify(), lines(splits, encoder, **kept), tmp_path / "line", QUICK)
    checked = reproduced(made, splits / "validation", tmp_path / "check")
    assert checked.kpis["accuracy"] > 0.6
    folder = made.outputs["model"]
    assert (folder / "encoder" / "model.safetensors").read_bytes() == (encoder / "model.safetensors").read_bytes()
    assert made.kpis["size_bytes"] > (encoder / "model.safetensors").stat().st_size
    assert made.facts["linear"]["features"] == WIDTH
    assert "encoder/model.safetensors" in modelfolder.look(folder).files
    config = json.loads((folder / "config.json").read_text())["ramify"]["features"]
    assert config["encoder"] == json.loads((kept["train_vectors"] / "vectors.json").read_text())["encoder"]


def test_kept_vectors_give_the_same_model_without_encoding(
    splits: Path, encoder: Path, kept: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = made_by(Classify(), lines(splits, encoder), tmp_path / "plain", QUICK)
    read: list[int] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: Any, *rest: Any) -> Any:
        read.append(len(texts))
        return encode(self, texts, *rest)

    monkeypatch.setattr(Encoder, "encode", counted)
    spared = made_by(Classify(), lines(splits, encoder, **kept), tmp_path / "spared", QUICK)
    assert read == [vectors.SAMPLE, vectors.SAMPLE]
    one, other = (made.outputs["model"] / "model.safetensors" for made in (plain, spared))
    assert one.read_bytes() == other.read_bytes()


def spoiled(kept: Path, folder: Path, how: str) -> Path:
    shutil.copytree(kept, folder)
    arrays = load_file(folder / "vectors.safetensors")
    if how == "made up":
        arrays["vectors"] = np.roll(arrays["vectors"], 1, axis=0)
    elif how == "another split":
        arrays["id"] = arrays["id"][::-1].copy()
    elif how == "not finite":
        arrays["vectors"][3] = np.nan
    elif how == "another encoder":
        told = json.loads((folder / "vectors.json").read_text())
        (folder / "vectors.json").write_text(json.dumps({**told, "encoder": "0" * 64}))
    save_file(arrays, folder / "vectors.safetensors")
    if how == "torn":
        (folder / "vectors.safetensors").write_bytes(b"torn")
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [("made up", "encoded anew lies"), ("another split", "another split"), ("not finite", "vectors"),
     ("another encoder", "another encoder"), ("torn", "SafetensorError")],
)  # fmt: skip
def test_vectors_that_do_not_hold_are_not_used(
    splits: Path, encoder: Path, kept: dict[str, Path], tmp_path: Path, how: str, said: str
) -> None:
    features = EncoderFeatures(_loaded(encoder), "", kept={})
    why = features.take_over(spoiled(kept["train_vectors"], tmp_path / "kept", how), read_split(splits / "train"), 3)
    assert said in why
    assert not features.kept


def _loaded(folder: Path) -> Encoder:
    from executors.models import encoder

    return encoder.load(folder)


def test_the_same_split_and_encoder_give_the_same_bytes(
    splits: Path, encoder: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    again = made_by(Embed(), {"encoder": encoder, "train": splits / "train"}, tmp_path, {})
    assert list(again.outputs) == ["train_vectors"]
    for name in ("vectors.safetensors", "vectors.json"):
        assert (again.outputs["train_vectors"] / name).read_bytes() == (kept["train_vectors"] / name).read_bytes()


def test_a_tuned_encoder_learns_and_the_claim_is_reproduced(splits: Path, encoder: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(splits, encoder), tmp_path / "line", {**TUNED, "epochs_max": 10, "batch": 8})
    checked = reproduced(made, splits / "validation", tmp_path / "check")
    assert checked.kpis["accuracy"] > 0.7
    folder = made.outputs["model"]
    assert (folder / "encoder" / "model.safetensors").read_bytes() != (encoder / "model.safetensors").read_bytes()
    assert "linear" not in made.facts


def test_a_tuned_run_that_was_stopped_and_resumed_ends_bit_identical(
    splits: Path, encoder: Path, tmp_path: Path
) -> None:
    inputs, settings = lines(splits, encoder), {**TUNED, "dropout": 0.1, "micro_batch": 12}
    whole = made_by(Classify(), inputs, tmp_path / "whole", settings)
    first = Recorder(tmp_path / "kept", stop=lambda polls: "checkpoint" if polls > 20 else "")
    with pytest.raises(Stopped):
        Classify().run(job_for(Classify(), inputs, tmp_path / "first", settings), first)
    folder, number, step, *_ = first.checkpoints[-1]
    assert 0 < step < whole.facts["steps"]
    job = job_for(Classify(), inputs, tmp_path / "second", settings, resume=folder, checkpoint_number=number)
    resumed = Classify().run(job, Recorder(tmp_path / "kept-2"))
    assert resumed.exact
    assert resumed.facts["state"] == whole.facts["state"]
    for name in ("model.safetensors", "encoder/model.safetensors"):
        assert (resumed.outputs["model"] / name).read_bytes() == (whole.outputs["model"] / name).read_bytes()


@pytest.mark.parametrize("settings", [QUICK, TUNED], ids=["frozen", "tuned"])
def test_a_champion_on_an_encoder_is_gone_on_from(
    splits: Path, encoder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    first = made_by(Classify(), lines(splits, encoder), tmp_path / "first", {**settings, "epochs_max": 1})
    inputs = {**lines(splits, encoder), "champion": first.outputs["model"]}
    del inputs["encoder"]
    second = made_by(Classify(), inputs, tmp_path / "second", settings)
    assert second.kpis["validation_accuracy"] >= first.kpis["validation_accuracy"]
    assert second.facts["continued"]["from"] == "champion"
    assert isinstance(classifiers.load(second.outputs["model"]).features, EncoderFeatures)


def test_a_champion_on_another_reading_is_not_gone_on_from(splits: Path, encoder: Path, tmp_path: Path) -> None:
    words = made_by(Classify(), {"train": splits / "train", "validation": splits / "validation"}, tmp_path / "w", QUICK)
    job = job_for(Classify(), {**lines(splits, encoder), "champion": words.outputs["model"]}, tmp_path / "s", QUICK)
    heard = Recorder(tmp_path / "kept")
    made = Classify().run(job, heard)
    assert "continued" not in made.facts
    assert any("begins anew" in line for line in heard.lines)


def test_what_can_not_be_is_refused(splits: Path, encoder: Path, tmp_path: Path) -> None:
    table = np.random.default_rng(1).normal(size=(80, 3))
    tables = write_four(tmp_path / "table", table, [row % 2 for row in range(80)], ["a", "b"], ["x", "y", "z"])
    with pytest.raises(TaskRefused, match="reads texts"):
        made_by(Classify(), lines(tables, encoder), tmp_path / "t", QUICK)
    with pytest.raises(TaskRefused, match="reads texts"):
        made_by(Embed(), {"encoder": encoder, "train": tables / "train"}, tmp_path / "e", {})
    with pytest.raises(TaskRefused, match="needs an `encoder`"):
        made_by(Embed(), {"train": splits / "train"}, tmp_path / "n", {})
    with pytest.raises(ModelRefused):
        made_by(Classify(), lines(splits, splits), tmp_path / "m", QUICK)
    with pytest.raises(msgspec.ValidationError, match="encoder_mode"):
        msgspec.convert({"encoder_mode": "melted"}, ClassifySettings)


def test_a_model_whose_encoder_was_exchanged_is_refused(splits: Path, encoder: Path, tmp_path: Path) -> None:
    folder = made_by(Classify(), lines(splits, encoder), tmp_path / "line", {**QUICK, "epochs_max": 1}).outputs["model"]
    shutil.rmtree(folder / "encoder")
    write_encoder(folder / "encoder", seed=8)
    with pytest.raises(ArtifactCorrupt, match="not the one"):
        classifiers.load(folder)


@pytest.mark.parametrize("settings", [QUICK, TUNED], ids=["frozen", "tuned"])
def test_the_loader_that_people_copy_answers_the_same(
    splits: Path, encoder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = made_by(Classify(), lines(splits, encoder), tmp_path, {**settings, "epochs_max": 1}).outputs["model"]
    spec = importlib.util.spec_from_file_location("load_model", Path(__file__).parents[3] / "docs" / "load_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    split = read_split(splits / "holdout")
    own = classifiers.load(folder).answers(split, torch.device("cpu"))
    theirs = module.Classifier(folder).probabilities(split.texts).numpy()
    assert np.allclose(np.exp(own), theirs, atol=1e-4)


def test_the_estimate_for_vectors_can_be_trusted(splits: Path, encoder: Path, tmp_path: Path) -> None:
    found = footprint("embed", {}, {"encoder": encoder, "train": splits / "train"}, {"examples": 170}, tmp_path)
    assert 0.4 <= found.share <= 1.0, found


@pytest.mark.parametrize("mode", ["frozen", "tuned"])
def test_the_estimate_of_memory_can_be_trusted(splits: Path, encoder: Path, tmp_path: Path, mode: str) -> None:
    weighs = sum(path.stat().st_size for path in encoder.rglob("*") if path.is_file())
    facts = {"bytes": 20_000, "examples": 240, "labels": 3, "modality": "text", "input_bytes": {"encoder": weighs}}
    settings = {**(TUNED if mode == "tuned" else QUICK), "epochs_max": 1, "micro_batch": 8, "batch": 8}
    found = footprint("classify", settings, lines(splits, encoder), facts, tmp_path)
    assert 0.4 <= found.share <= 1.0, found
