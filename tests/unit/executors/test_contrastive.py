"""The kind contrastive on made-up pairs: it learns what words alone can not tell, resumes exactly, is asked by
evaluate, stops on a collapse, and refuses what can not be trained."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from executors import gradients, modelfolder, outcomes
from executors.kinds.contrastive import Contrastive, ContrastiveSettings
from executors.kinds.evaluate import Evaluate
from executors.models import dualencoder
from executors.port import Made, Stopped
from mesh.errors import ArtifactCorrupt, DataRefused, ModelRefused, TaskRefused
from tests.support.encoders import WIDTH, write_encoder
from tests.support.executing import Recorder, job_for, made_by
from tests.support.footprint import footprint
from tests.support.pairs import THINGS, made_up, write_pairs

QUICK: dict[str, Any] = {
    "batch": 32, "width": 16, "learning_rate": 0.02, "epochs_max": 4, "warmup_steps": 4, "evaluate_every": 5,
    "checkpoint_overhead": 1.0, "dropout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", made_up(300))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tuple(f"{side}{number}" for side in "ab" for number in range(THINGS))
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny", words=words)


def trained(data: Path, folder: Path, encoder: Path | None = None, **settings: Any) -> Made:
    inputs = {"pairs": data} | ({"encoder": encoder} if encoder is not None else {})
    return made_by(Contrastive(), inputs, folder, {**QUICK, **settings})


@pytest.mark.parametrize("settings", [{}, {"method": "moco", "queue": 64}, {"micro_batch": 8}], ids=str)
def test_it_learns_a_dictionary_that_words_alone_do_not_tell(
    data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    made = trained(data, tmp_path, **settings, epochs_max=12)
    assert made.kpis["pool"] == 300
    assert made.kpis["mrr"] > 0.5
    assert made.kpis["bm25_mrr"] < 0.05
    assert made.kpis["recall_at_1"] <= made.kpis["recall_at_5"] <= made.kpis["recall_at_10"]
    card = (made.outputs["model"] / "README.md").read_text()
    assert "| mrr |" in card
    assert "pool of 300 texts" in card


def test_evaluate_asks_it_for_the_same_pairs_and_says_the_same(data: Path, tmp_path: Path) -> None:
    made = trained(data, tmp_path / "line")
    inputs = {"model": made.outputs["model"], "split": made.outputs["held_out"]}
    checked = made_by(Evaluate(), inputs, tmp_path / "check", {"latency_items": 5})
    claim, check = outcomes.read(made.outputs["claims"]), outcomes.read(checked.outputs["outcomes"])
    assert claim.ids == check.ids
    assert claim.label == check.label
    assert claim.predicted == check.predicted
    assert np.allclose(np.frombuffer(claim.loss, "<f4"), np.frombuffer(check.loss, "<f4"), atol=1e-4)
    assert checked.kpis["accuracy"] == pytest.approx(made.kpis["recall_at_1"])
    assert checked.kpis["loss"] == pytest.approx(made.kpis["loss"], abs=1e-5)
    assert checked.kpis["latency_p50_ms"] > 0


@pytest.mark.parametrize("mode", ["frozen", "tuned"])
def test_with_an_encoder_the_model_is_whole_in_itself(data: Path, encoder: Path, tmp_path: Path, mode: str) -> None:
    made = trained(data, tmp_path, encoder, encoder_mode=mode, shared=True, epochs_max=4, learning_rate=2e-3,
                   encoder_learning_rate=3e-3, width=WIDTH, collapse="flag")  # fmt: skip
    assert made.facts["best_step"] > 0
    travels = modelfolder.look(made.outputs["model"])
    assert not travels.left_out
    assert "encoder/model.safetensors" in travels.files
    model = dualencoder.load(made.outputs["model"])
    assert model.reader.config()["reads"] == f"{mode} encoder"
    found = model.vectors("left", ["a1 a2", "a3"])
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    same = (made.outputs["model"] / "encoder" / "model.safetensors").read_bytes() == (
        encoder / "model.safetensors"
    ).read_bytes()
    assert same == (mode == "frozen")
    assert made.kpis["size_bytes"] > (encoder / "model.safetensors").stat().st_size


def stopped_and_resumed(inputs: Mapping[str, Path], folder: Path, settings: Mapping[str, Any], polls: int) -> Made:
    """Killed after a checkpoint in the middle, and resumed from it."""
    first = Recorder(folder / "kept", stop=lambda asked: "checkpoint" if asked > polls else "")
    with pytest.raises(Stopped):
        Contrastive().run(job_for(Contrastive(), inputs, folder / "first", settings), first)
    kept, number, *_ = first.checkpoints[-1]
    again = job_for(
        Contrastive(), inputs, folder / "second", settings, resume=kept, checkpoint_number=number, trained_s=1.0
    )
    return Contrastive().run(again, Recorder(folder / "kept-2"))


@pytest.mark.parametrize(
    ("settings", "polls"),
    [
        ({"method": "moco", "queue": 50, "micro_batch": 12}, 60),
        ({"tower": "mlp", "micro_batch": 32}, 40),
        ({"encoder_mode": "tuned", "micro_batch": 16, "epochs_max": 1, "collapse": "flag"}, 45),
    ],
    ids=["moco in parts", "in-batch", "tuned in parts"],
)
def test_a_run_that_was_stopped_and_resumed_ends_bit_identical(
    data: Path, encoder: Path, tmp_path: Path, settings: dict[str, Any], polls: int
) -> None:
    inputs = {"pairs": data} | ({"encoder": encoder} if "encoder_mode" in settings else {})
    chosen = {**QUICK, **settings}
    whole = made_by(Contrastive(), inputs, tmp_path / "whole", chosen)
    resumed = stopped_and_resumed(inputs, tmp_path, chosen, polls)
    assert resumed.exact
    assert resumed.facts["trace"] == whole.facts["trace"]
    assert resumed.facts["state"] == whole.facts["state"]
    one, other = (made.outputs["model"] / "model.safetensors" for made in (whole, resumed))
    assert one.read_bytes() == other.read_bytes()
    assert whole.outputs["claims"].joinpath(outcomes.FILE).read_bytes() == (
        resumed.outputs["claims"].joinpath(outcomes.FILE).read_bytes()
    )


def test_memory_that_ran_out_changes_the_parts_and_not_the_result(data: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "input_dropout": 0.0, "dropout": 0.0}
    whole = made_by(Contrastive(), {"pairs": data}, tmp_path / "whole", settings)
    parts = made_by(Contrastive(), {"pairs": data}, tmp_path / "parts", settings, memory_attempts=2)
    assert parts.facts["micro_batch"] == 8
    assert parts.kpis["loss"] == pytest.approx(whole.kpis["loss"], abs=1e-2)


def test_a_collapse_stops_with_a_sentence_or_is_noted(data: Path, tmp_path: Path) -> None:
    runs_away: dict[str, Any] = {"tower": "mlp", "learning_rate": 5.0, "clip": 1e6, "effective_rank_min": 8.0}
    with pytest.raises(TaskRefused, match="collapsed: they use"):
        trained(data, tmp_path / "stop", **runs_away)
    made = trained(data, tmp_path / "flag", **runs_away, collapse="flag")
    assert "dimensions" in made.facts["collapsed"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"momentum": 1.0}, "momentum"), ({"temperature": 0.001}, "temperature"), ({"batch": 1}, "batch"),
        ({"method": "magic"}, "method"), ({"word_max": 0}, "word_max"), ({"queue": 0}, "queue"),
        ({"micro_batch": 64, "batch": 8}, "micro_batch"),
        ({"processes": 2}, "processes"),
    ],
)  # fmt: skip
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(settings, ContrastiveSettings)


def test_inputs_that_can_not_be_trained_are_refused(data: Path, tmp_path: Path) -> None:
    few = write_pairs(tmp_path / "few.jsonl", made_up(6))
    with pytest.raises(DataRefused, match="6 pairs"):
        trained(few, tmp_path / "few")
    empty = tmp_path / "no encoder"
    empty.mkdir()
    with pytest.raises(ModelRefused, match=r"holds no config\.json"):
        trained(data, tmp_path / "empty", empty)
    with pytest.raises(TaskRefused, match="documents_min"):
        trained(data, tmp_path / "rare", documents_min=1_000)


@pytest.mark.parametrize("with_encoder", [False, True])
def test_the_loader_that_people_copy_gives_the_same_vectors(
    data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_encoder: bool
) -> None:
    made = trained(data, tmp_path, encoder if with_encoder else None, epochs_max=1, tower="mlp", collapse="flag",
                   shared=with_encoder)  # fmt: skip
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "docs")
    loader = importlib.import_module("load_dual").DualEncoder(made.outputs["model"])
    own = dualencoder.load(made.outputs["model"])
    for side, texts in (("left", ["a1 a2 a30", "a7"]), ("right", ["b3 b2", "B39  b1 b1"])):
        assert np.allclose(loader.vectors(side, texts).numpy(), own.vectors(side, texts), atol=1e-5)
    assert loader.temperature == own.temperature


def test_a_damaged_model_is_refused(data: Path, tmp_path: Path) -> None:
    folder = trained(data, tmp_path, epochs_max=1).outputs["model"]
    config = json.loads((folder / "config.json").read_text())
    config["ramify"]["towers"]["width"] = 17
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactCorrupt, match="another shape"):
        dualencoder.load(folder)
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtifactCorrupt, match="no dual encoder"):
        dualencoder.load(folder)


def test_the_gradients_are_right() -> None:
    report = gradients.check_kind("contrastive", entries=12)
    assert report.ok, report.worst[:3]
    assert report.relative < 1e-4
    assert {each.tensor for each in report.tensors} >= {"log_temperature", "left.entry.weight", "right.wider.weight"}
    assert all(each.reached for each in report.tensors)


def test_the_estimate_of_memory_can_be_trusted(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", made_up(3_000))
    facts = {"input_bytes": {"pairs": path.stat().st_size}}
    settings = {"epochs_max": 1, "evaluate_every": 10, "checkpoint_s": 0.1, "checkpoint_overhead": 1.0}
    found = footprint("contrastive", settings, {"pairs": path}, facts, tmp_path / "child")
    assert found.snapshots
    assert 0.4 <= found.share <= 1.0, found
