"""classify, baseline and evaluate on small real and made-up sets: they learn, agree with each other, continue,
refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from executors import outcomes
from executors.data import read_split
from executors.kinds.baseline import Baseline
from executors.kinds.classify import Classify
from executors.kinds.evaluate import Evaluate
from executors.port import Kind, Made, Stopped
from mesh.errors import ArtifactCorrupt, DataRefused, TaskRefused
from tests.support.executing import Recorder, job_for, made_by
from tests.support.splits import write_four, write_table_split, write_text_split

LABELS = ["arrival", "limit", "refund"]
WORDS = {
    0: ["card", "arrive", "delivery", "track", "post", "waiting"],
    1: ["limit", "maximum", "top", "amount", "raise", "ceiling"],
    2: ["refund", "return", "money", "shop", "cancel", "back"],
}
QUICK = {"epochs_max": 6, "hidden": [16], "warmup_steps": 5}


def questions(count: int, seed: int) -> tuple[list[str], list[int]]:
    draw = random.Random(seed)
    common = ["the", "please", "my", "how", "when", "does", "is", "it"]
    y = [draw.randrange(3) for _ in range(count)]
    return [
        " ".join(draw.choices(common, k=4) + draw.choices(WORDS[label], k=2)) + f" {draw.random():.4f}" for label in y
    ], y


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs, y = questions(400, 1)
    return write_four(tmp_path_factory.mktemp("texts"), inputs, y, LABELS)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_digits

    found = load_digits()
    labels, features = [str(name) for name in found.target_names], [str(name) for name in found.feature_names]
    return write_four(tmp_path_factory.mktemp("digits"), found.data, found.target.tolist(), labels, features)


def lines(splits: Path) -> dict[str, Path]:
    return {"train": splits / "train", "validation": splits / "validation"}


def evaluated(made: Made, split: Path, folder: Path) -> Made:
    settings = {"latency_items": 20}
    return made_by(Evaluate(), {"model": made.outputs["model"], "split": split}, folder, settings)


def test_digits_reach_their_aim_and_the_claim_is_reproduced(digits: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(digits), tmp_path / "line", {"checkpoint_s": 0.5})
    checked = evaluated(made, digits / "validation", tmp_path / "check")
    held_out = evaluated(made, digits / "holdout", tmp_path / "holdout")
    assert held_out.kpis["accuracy"] >= 0.96
    claim, check = outcomes.read(made.outputs["claims"]), outcomes.read(checked.outputs["outcomes"])
    assert claim.ids == check.ids
    assert claim.predicted == check.predicted
    difference = np.frombuffer(claim.loss, "<f4") - np.frombuffer(check.loss, "<f4")
    assert np.abs(difference).max() < 1e-4
    assert made.kpis["validation_accuracy"] == pytest.approx(checked.kpis["accuracy"])
    assert made.kpis["validation_loss"] == pytest.approx(checked.kpis["loss"], abs=1e-5)
    assert made.stopped_by in ("epochs", "early stop")
    for kpi in ("size_bytes", "train_examples_per_s", "epochs", "parameters"):
        assert made.kpis[kpi] > 0
    assert checked.kpis["latency_p50_ms"] <= checked.kpis["latency_p95_ms"] < 1_000


def test_texts_are_learned_and_the_model_folder_is_whole(texts: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(texts), tmp_path / "line", QUICK)
    assert evaluated(made, texts / "holdout", tmp_path / "holdout").kpis["accuracy"] >= 0.9
    folder = made.outputs["model"]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["ramify"]["labels"] == LABELS
    assert config["id2label"] == {"0": "arrival", "1": "limit", "2": "refund"}
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: ramify\n")


@pytest.mark.parametrize("architecture", ["linear", "deep", "wide-deep"])
def test_the_same_seed_gives_the_same_bytes(texts: Path, tmp_path: Path, architecture: str) -> None:
    settings = {**QUICK, "architecture": architecture, "epochs_max": 2}
    one, other = (made_by(Classify(), lines(texts), tmp_path / name, settings) for name in ("one", "other"))
    files = [(made.outputs["model"] / "model.safetensors").read_bytes() for made in (one, other)]
    assert files[0] == files[1]
    assert one.facts["trace"] == other.facts["trace"]


@pytest.mark.parametrize("modality", ["texts", "digits"])
def test_the_yardstick_is_exported_as_it_was_fitted(
    modality: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    splits = request.getfixturevalue(modality)
    made = made_by(Baseline(), lines(splits), tmp_path / "line", {"strengths": [1.0, 0.1]})
    checked = evaluated(made, splits / "validation", tmp_path / "check")
    assert made.kpis["validation_accuracy"] == pytest.approx(checked.kpis["accuracy"])
    assert made.kpis["validation_loss"] == pytest.approx(checked.kpis["loss"], abs=1e-4)
    assert checked.kpis["accuracy"] >= 0.9
    assert made.stopped_by == "finished"
    assert {row["c"] for row in made.facts["tried"]} == {1.0, 0.1}
    best = max(made.facts["tried"], key=lambda row: (row["accuracy"], -row["loss"]))
    assert made.facts["c"] == best["c"]


def test_the_yardstick_equals_scikit_learn_on_two_labels(tmp_path: Path) -> None:
    """Two labels are one column of weights in scikit-learn and two here: the answers must be the same."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    found = load_breast_cancer()
    names = [str(name) for name in found.feature_names]
    splits = write_four(tmp_path / "cancer", found.data, found.target.tolist(), ["malignant", "benign"], names)
    made = made_by(Baseline(), lines(splits), tmp_path / "line", {"strengths": [1.0]})
    train, validation = read_split(splits / "train"), read_split(splits / "validation")
    scaler = StandardScaler().fit(train.table)
    peer = LogisticRegression(C=1.0, max_iter=1_000).fit(scaler.transform(train.table), train.labels)
    expected = peer.predict(scaler.transform(validation.table))
    claimed = np.frombuffer(outcomes.read(made.outputs["claims"]).predicted, "<i4")
    assert (claimed == expected).mean() >= 0.98


def test_a_topics_base_model_stands_before_the_champion(texts: Path, tmp_path: Path) -> None:
    """From a folder that is named by its digest, as a worker's cache names it; with one idle epoch its weights stay."""
    yardstick = made_by(Baseline(), lines(texts), tmp_path / "yardstick", {"strengths": [1.0]})
    base = tmp_path / ("b" * 64) / "files"
    base.parent.mkdir()
    base.symlink_to(made_by(Classify(), lines(texts), tmp_path / "base", QUICK).outputs["model"])
    inputs = {**lines(texts), "champion": yardstick.outputs["model"], "base": base}
    made = made_by(
        Classify(), inputs, tmp_path / "line", {"epochs_max": 1, "learning_rate": 1e-7, "linear_path": False}
    )
    assert (made.facts["continued"]["from"], made.facts["continued"]["model"]) == ("base", "b" * 64)
    assert made.facts["architecture"] == "wide-deep", "the base's, not the yardstick's"
    before, after = (load_file(folder / "model.safetensors") for folder in (base, made.outputs["model"]))
    assert np.abs(before["network.entry.weight"] - after["network.entry.weight"]).max() < 1e-3
    strange = write_four(tmp_path / "strange", *questions(60, 3), ["x", "y", "z"])
    with pytest.raises(TaskRefused, match="knows none of the data's 3 labels"):
        made_by(Classify(), {**lines(strange), "base": base}, tmp_path / "refused", QUICK)


def test_a_run_from_the_champion_is_never_worse(texts: Path, tmp_path: Path) -> None:
    champion = made_by(Classify(), lines(texts), tmp_path / "champion", QUICK)
    wild = {**QUICK, "learning_rate": 5.0, "epochs_max": 1, "clip": 1e6}
    inputs = {**lines(texts), "champion": champion.outputs["model"]}
    made = made_by(Classify(), inputs, tmp_path / "evolver", wild)
    assert made.kpis["validation_accuracy"] >= champion.kpis["validation_accuracy"]
    assert made.facts["continued"]["start_accuracy"] == pytest.approx(champion.kpis["validation_accuracy"])
    if made.facts["best_step"] == 0:
        assert not made.facts["continued"]["improved"]
        before, after = (load_file(run.outputs["model"] / "model.safetensors") for run in (champion, made))
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_where_the_network_brings_nothing_the_line_answers_as_the_yardstick(texts: Path, tmp_path: Path) -> None:
    """By construction: a network that learned nothing leaves the very model that the baseline is."""
    idle = {**QUICK, "epochs_max": 1, "learning_rate": 1e-7}
    made, yardstick = (
        made_by(Classify(), lines(texts), tmp_path / "a", idle),
        made_by(Baseline(), lines(texts), tmp_path / "b"),
    )
    assert made.facts["blend"]["network"] == 0.0
    assert made.facts["linear"]["c"] == yardstick.facts["c"]
    found = [outcomes.read(evaluated(run, texts / "holdout", tmp_path / run.facts["architecture"]).outputs["outcomes"])
             for run in (made, yardstick)]  # fmt: skip
    assert found[0].predicted == found[1].predicted


def test_the_network_reads_the_frequent_n_grams_and_the_linear_path_all(texts: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(texts), tmp_path / "a", {**QUICK, "features_max": 300})
    assert made.facts["network_features"] == 300 < made.facts["features"]
    checked = evaluated(made, texts / "validation", tmp_path / "check")
    claim, check = outcomes.read(made.outputs["claims"]), outcomes.read(checked.outputs["outcomes"])
    assert claim.predicted == check.predicted
    alone = made_by(Classify(), lines(texts), tmp_path / "b", {**QUICK, "features_max": 300, "linear_path": False})
    assert alone.facts["features"] == 300
    assert "blend" not in alone.facts


def test_the_linear_path_is_taken_over_on_the_same_training_split(texts: Path, tmp_path: Path) -> None:
    named = tmp_path / ("a" * 64)
    named.symlink_to(texts / "train")
    inputs = {**lines(texts), "train": named}
    idle = {**QUICK, "epochs_max": 1, "learning_rate": 1e-7}
    champion = made_by(Classify(), inputs, tmp_path / "champion", idle)
    again = {**inputs, "champion": champion.outputs["model"]}
    assert made_by(Classify(), again, tmp_path / "same", idle).facts["linear"] == {"taken_over": True}
    other = made_by(Classify(), {**again, "train": texts / "train"}, tmp_path / "other", idle)
    assert "tried" in other.facts["linear"]


def test_a_yardstick_can_be_continued(texts: Path, tmp_path: Path) -> None:
    yardstick = made_by(Baseline(), lines(texts), tmp_path / "b", {"strengths": [0.1]})
    inputs = {**lines(texts), "champion": yardstick.outputs["model"]}
    made = made_by(Classify(), inputs, tmp_path / "evolver", QUICK)
    assert made.facts["architecture"] == "linear"
    assert made.kpis["validation_accuracy"] >= yardstick.kpis["validation_accuracy"]


def test_new_labels_are_appended_and_old_ones_matched_by_name(texts: Path, tmp_path: Path) -> None:
    champion = made_by(Classify(), lines(texts), tmp_path / "champion", QUICK)
    inputs, y = questions(300, 2)
    fresh = [f"weather sunny rain {number}" for number in range(60)]
    labels = ["refund", "weather", "arrival", "limit"]
    renamed = [labels.index(LABELS[label]) for label in y]
    wider = write_four(tmp_path / "wider", inputs + fresh, renamed + [1] * 60, labels)
    before = evaluated(champion, wider / "holdout", tmp_path / "before")
    outcome = outcomes.read(before.outputs["outcomes"])
    truth = np.frombuffer(outcome.label, "<i4")
    assert (np.frombuffer(outcome.loss, "<f4")[truth == 1] == outcomes.LOSS_MAX).all()
    known = np.frombuffer(outcome.predicted, "<i4")[truth != 1] == truth[truth != 1]
    assert known.mean() >= 0.9
    made = made_by(
        Classify(), {**lines(wider), "champion": champion.outputs["model"]}, tmp_path / "evolver",
        {**QUICK, "epochs_max": 20, "learning_rate": 0.01},
    )  # fmt: skip
    config = json.loads((made.outputs["model"] / "config.json").read_text())
    assert config["ramify"]["labels"] == [*LABELS, "weather"]
    assert evaluated(made, wider / "holdout", tmp_path / "after").kpis["accuracy"] >= 0.9


def test_stopped_and_resumed_a_line_ends_with_the_same_model(texts: Path, tmp_path: Path) -> None:
    whole = made_by(Classify(), lines(texts), tmp_path / "whole", QUICK)
    asked = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 40 else "")
    with pytest.raises(Stopped):
        Classify().run(job_for(Classify(), lines(texts), tmp_path / "first", QUICK), asked)
    folder, number, _, _, trained_s = asked.checkpoints[-1]
    again = made_by(
        Classify(),
        lines(texts),
        tmp_path / "second",
        QUICK,
        resume=folder,
        checkpoint_number=number,
        trained_s=trained_s,
    )
    assert again.exact
    assert again.facts["trace"] == whole.facts["trace"]
    files = [(made.outputs["model"] / "model.safetensors").read_bytes() for made in (whole, again)]
    assert files[0] == files[1]


def test_after_running_out_of_memory_the_step_stays_as_large(texts: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(texts), tmp_path / "line", {**QUICK, "batch": 32}, memory_attempts=2)
    assert made.facts["micro_batch"] == 8
    assert made.facts["choices"]["batch"] == 32
    assert made.kpis["validation_accuracy"] >= 0.9


def test_gaps_constant_columns_and_infinities_do_no_harm(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    x = generator.normal(size=(600, 5)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int).tolist()
    x[:, 3] = 7.0
    x[:, 4] = np.nan
    x[generator.random(600) < 0.2, 1] = np.nan
    x[5, 2] = np.inf
    splits = write_four(tmp_path / "gaps", x, y, ["no", "yes"], list("abcde"))
    for kind in (Classify(), Baseline()):
        made = made_by(kind, lines(splits), tmp_path / kind.name)
        assert evaluated(made, splits / "holdout", tmp_path / f"{kind.name}-e").kpis["accuracy"] >= 0.9


def test_a_label_without_a_training_example_is_never_named(tmp_path: Path) -> None:
    inputs, y = questions(200, 3)
    splits = write_four(tmp_path / "absent", inputs, y, [*LABELS, "absent"])
    made = made_by(Baseline(), lines(splits), tmp_path / "line", {"strengths": [1.0]})
    assert 3 not in np.frombuffer(outcomes.read(made.outputs["claims"]).predicted, "<i4")


def test_other_data_is_refused_with_a_sentence(texts: Path, digits: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(texts), tmp_path / "line", {**QUICK, "epochs_max": 1})
    with pytest.raises(TaskRefused, match="reads text data, the split is tabular"):
        evaluated(made, digits / "holdout", tmp_path / "a")
    other = write_text_split(tmp_path / "other", ["one", "two"], [0, 1], ["x", "y"])
    with pytest.raises(TaskRefused, match="none of the split's 2 labels"):
        evaluated(made, other, tmp_path / "b")
    with pytest.raises(TaskRefused, match="start anew"):
        made_by(Classify(), {**lines(digits), "champion": made.outputs["model"]}, tmp_path / "c")
    table = write_table_split(tmp_path / "table", np.zeros((2, 2)), [0, 1], ["0", "1"], ["p", "q"])
    fitted = made_by(Baseline(), lines(digits), tmp_path / "d", {"strengths": [1.0]})
    with pytest.raises(TaskRefused, match="the model reads 64 columns"):
        evaluated(fitted, table, tmp_path / "e")


def test_a_damaged_model_is_refused(texts: Path, tmp_path: Path) -> None:
    made = made_by(Classify(), lines(texts), tmp_path / "line", {**QUICK, "epochs_max": 1})
    folder = made.outputs["model"]
    whole, config = load_file(folder / "model.safetensors"), (folder / "config.json").read_text()

    def refused(match: str) -> None:
        with pytest.raises(ArtifactCorrupt, match=match):
            evaluated(made, texts / "holdout", tmp_path / match.replace(" ", "-"))

    save_file({**whole, "network.bias": np.full(3, np.nan, np.float32)}, folder / "model.safetensors")
    refused("not finite")
    save_file({**whole, "network.bias": np.zeros(4, np.float32)}, folder / "model.safetensors")
    refused("do not fit its config")
    save_file({name: array for name, array in whole.items() if name != "features.idf"}, folder / "model.safetensors")
    refused("features are incomplete")
    save_file(whole, folder / "model.safetensors")
    (folder / "config.json").write_text(config.replace('"format": 2', '"format": 99'))
    refused("update the older side")
    (folder / "config.json").write_text("[]")
    refused("of a Ramify model")


def test_damaged_splits_are_refused(tmp_path: Path) -> None:
    def split(name: str, **arrays: Any) -> Path:
        folder = write_text_split(tmp_path / name, ["one two", "three"], [0, 1], ["a", "b"])
        save_file({**load_file(folder / "examples.safetensors"), **arrays}, folder / "examples.safetensors")
        return folder

    assert read_split(split("whole")).texts == ["one two", "three"]
    for name, arrays, match in (
        ("label", {"y": np.array([0, 2], np.int64)}, "names label 2"),
        ("rows", {"id": np.zeros(3, np.int64)}, "'id' of 2 int64"),
        ("offsets", {"text_offsets": np.array([0, 99, 12], np.int64)}, "do not cover"),
        ("bytes", {"text": np.full(12, 255, np.uint8)}, "UTF-8"),
        ("type", {"cluster": np.zeros(2, np.float32)}, "'cluster' of 2 int32"),
    ):
        with pytest.raises(DataRefused, match=match):
            read_split(split(name, **arrays))
    with pytest.raises(DataRefused, match="a split is a folder with schema"):
        read_split(tmp_path)
    with pytest.raises(DataRefused, match="no examples"):
        read_split(write_text_split(tmp_path / "none", [], [], ["a", "b"]))
    with pytest.raises(DataRefused, match="at least two"):
        read_split(write_text_split(tmp_path / "one", ["x"], [0], ["a"]))


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "huge"}, {"learning_rate": 0.0}, {"batch": 0}, {"dropout": 1.0}, {"hidden": []},
        {"hidden": [0]}, {"word_max": 0, "char_max": 0}, {"char_min": 5, "char_max": 3}, {"unknown": 1},
        {"precision": "fp8"}, {"batch": "many"},
    ],
)  # fmt: skip
def test_settings_have_bounds(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        job_for(Classify(), {}, tmp_path, settings)


def test_a_stop_ends_every_kind(texts: Path, tmp_path: Path) -> None:
    made = made_by(Baseline(), lines(texts), tmp_path / "line", {"strengths": [1.0]})
    jobs: list[tuple[Kind, dict[str, Path]]] = [
        (Classify(), lines(texts)),
        (Baseline(), lines(texts)),
        (Evaluate(), {"model": made.outputs["model"], "split": texts / "holdout"}),
    ]
    for kind, inputs in jobs:
        asked = Recorder(tmp_path / f"{kind.name}-kept", lambda polls: "cancel")
        with pytest.raises(Stopped):
            kind.run(job_for(kind, inputs, tmp_path / kind.name, {}), asked)


def test_needs_grow_with_the_data() -> None:
    for kind in (Classify(), Baseline(), Evaluate()):
        settings = kind.Settings()
        small = kind.needs(settings, {"examples": 100, "labels": 2, "bytes": 10_000, "modality": "text"})
        large = kind.needs(settings, {"examples": 10**6, "labels": 200, "bytes": 10**8, "modality": "text"})
        assert small.memory_bytes < large.memory_bytes
        assert small.cores == 1.0
        assert kind.needs(settings, {}).memory_bytes > 0
