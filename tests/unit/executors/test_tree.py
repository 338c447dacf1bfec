"""A tree of models that label: it answers what its specialists say together, and refuses what does not fit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from executors import outcomes
from executors.data import Split, read_split, single
from executors.kinds.classify import Classify
from executors.kinds.evaluate import Evaluate
from executors.kinds.tree import Tree, TreeSettings
from executors.models import tree as trees_read
from executors.models.loading import load_model, nothing
from executors.models.treelabels import LEAST_NATS, TreeClassifier
from executors.outcomes import LOSS_MAX
from executors.port import Made
from executors.routing import Router
from mesh.errors import ArtifactCorrupt, ModelRefused, TaskRefused
from tests.support import hand_routers
from tests.support.executing import made_by
from tests.support.splits import write_table_split, write_text_split

QUICK: dict[str, Any] = {
    "epochs_max": 4, "hidden": [8], "warmup_steps": 2, "features_max": 300, "char_max": 0, "learning_rate": 0.05,
    "linear_path": False,
}  # fmt: skip
GRID: dict[str, Any] = {"temperatures": [0.1, 1.0], "tops": [1, 2], "flat_shares": [0.0, 0.25]}
CPU = torch.device("cpu")


def split(folder: Path, count: int, seed: int, branches: Sequence[int], **schema: Any) -> Path:
    found = hand_routers.examples(count, seed, branches)
    labels = sorted({label for branch in branches for label in hand_routers.LABELS[branch]})
    return write_text_split(
        folder, [text for text, _ in found], [labels.index(one) for _, one in found], labels, **schema
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A router of three branches, specialists of the first two, and a model of all."""
    folder = tmp_path_factory.mktemp("grown")
    found = {"router": hand_routers.router().save(folder / "router")}
    for name, branches in (("flat", (0, 1, 2)), ("member-0", (0,)), ("member-1", (1,))):
        lines = {part: split(folder / f"{name}-{part}", size, seed, branches, split=part)
                 for part, size, seed in (("train", 120, 1), ("validation", 40, 2))}  # fmt: skip
        made = made_by(Classify(), lines, folder / name, QUICK)
        found[name] = made.outputs["model"]
    found["validation"] = split(folder / "all", 90, 5, (0, 1, 2), split="validation")
    return found


@pytest.fixture(scope="module")
def made(grown: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_by(Tree(), grown, tmp_path_factory.mktemp("made"), GRID)


def slow_answers(folder: Path, text: str, split_folder: Path) -> dict[str, float]:
    """Label to probability, the obvious way: every model asked alone, summed up in a loop."""
    config = json.loads((folder / "config.json").read_bytes())["ramify"]
    router, items = Router.load(folder / "router"), read_split(split_folder)
    item = single(items, items.texts.index(text))
    weights = [float(one) for one in router.weights([text], config["temperature"], config["top"])[0]]
    total = dict.fromkeys(config["labels"], 0.0)
    for branch, weight in enumerate(weights):
        own = branch in config["members"]
        for name, share in ((f"members/{branch}" if own else "flat", (1 - config["flat_share"]) * weight),
                            ("flat", config["flat_share"] * weight)):  # fmt: skip
            if share:
                model = load_model(folder / name).model  # type: ignore[attr-defined]
                for label, told in zip(model.labels, model.answers(item, CPU, nothing)[0], strict=True):
                    total[label] += share * math.exp(float(told))
    return total


def test_it_answers_what_the_slow_way_says(made: Made, grown: dict[str, Path]) -> None:
    folder = made.outputs["model"]
    model: Any = load_model(folder)
    items = read_split(grown["validation"])
    answers = model.model.answers(items, CPU, nothing)
    for row in range(0, len(items), 9):
        slow = slow_answers(folder, items.texts[row], grown["validation"])
        found = dict(zip(model.model.labels, np.exp(answers[row].astype(float)), strict=True))
        assert found == pytest.approx(slow, abs=1e-6)
        alone = model.model.answers(single(items, row), CPU, nothing)[0]
        assert np.abs(np.exp(alone) - np.exp(answers[row])).max() < 1e-6


def test_evaluate_finds_the_claims_again(made: Made, grown: dict[str, Path], tmp_path: Path) -> None:
    asked = made_by(
        Evaluate(), {"model": made.outputs["model"], "split": grown["validation"]}, tmp_path, {"latency_items": 5}
    )
    claims, found = outcomes.read(made.outputs["claims"]), outcomes.read(asked.outputs["outcomes"])
    assert (claims.ids, claims.label, claims.predicted) == (found.ids, found.label, found.predicted)
    assert np.abs(np.frombuffer(claims.loss, "<f4") - np.frombuffer(found.loss, "<f4")).max() < 1e-6
    assert asked.kpis["accuracy"] == made.kpis["validation_accuracy"]
    assert asked.kpis["latency_p50_ms"] > 0
    losses, nearest = np.frombuffer(found.loss, "<f4"), nearest_of(grown)
    for row in asked.facts["by_branch"]:
        mine = losses[nearest == row["branch"]].astype(np.float64)
        assert (row["items"], row["name"]) == (30, made.facts["names"][row["branch"]])
        assert row["loss"] == pytest.approx(mine.sum() / 30, abs=1e-6)
        assert row["deviation"] == pytest.approx(math.sqrt(((mine - mine.mean()) ** 2).sum() / 29), abs=1e-6)
        assert row["loss"] == pytest.approx(made.facts["by_branch"][row["branch"]]["tree"]["loss"], abs=1e-5)


def nearest_of(grown: dict[str, Path]) -> Any:
    return Router.load(grown["router"]).nearest(read_split(grown["validation"]).texts)


def test_what_is_no_tree_has_no_branches(grown: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"model": grown["flat"], "split": grown["validation"]}
    assert "by_branch" not in made_by(Evaluate(), inputs, tmp_path, {"latency_items": 0}).facts


def test_it_says_what_every_way_and_every_branch_is_worth(made: Made) -> None:
    facts = made.facts
    assert len(facts["choices"]) == 2 + 4
    chosen = {name: facts[name] for name in ("routing", "temperature", "top", "flat_share")}
    (row,) = [one for one in facts["choices"] if {name: one[name] for name in chosen} == chosen]
    assert row["accuracy"] == pytest.approx(made.kpis["validation_accuracy"], abs=1e-6)
    assert row["loss"] == pytest.approx(made.kpis["validation_loss"], abs=1e-5)
    assert [one["items"] for one in facts["by_branch"]] == [30, 30, 30]
    assert "specialist" not in facts["by_branch"][2]
    assert facts["by_branch"][0]["specialist"]["accuracy"] > 0.6
    assert 0.0 <= facts["entropy"] <= math.log(3)
    assert facts["better"] == (facts["gain"] > 0)
    assert ("warning" in facts) == (facts["gain"] <= 0)
    card = (made.outputs["model"] / "README.md").read_text()
    assert "# A tree of 2 specialists" in card
    assert "money back" in card


def test_its_files_are_links(made: Made, grown: dict[str, Path]) -> None:
    weights = made.outputs["model"] / "members/0/model.safetensors"
    assert weights.samefile(grown["member-0"] / "model.safetensors")
    assert (made.outputs["model"] / "router/router.json").samefile(grown["router"] / "router.json")


def with_mixing(made: Made, target: Path, **changes: Any) -> Path:
    """The tree with another description."""
    shutil.copytree(made.outputs["model"], target)
    config = json.loads((target / "config.json").read_bytes())
    config["ramify"] |= changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_an_empty_branch_is_answered_by_the_flat_model(made: Made, grown: dict[str, Path], tmp_path: Path) -> None:
    folder = with_mixing(made, tmp_path / "tree", top=1, flat_share=0.0)
    items = read_split(grown["validation"])
    model: Any = load_model(folder).model  # type: ignore[attr-defined]
    flat: Any = load_model(grown["flat"]).model  # type: ignore[attr-defined]
    row = next(row for row, text in enumerate(items.texts) if text.startswith(("rain", "snow", "wind")))
    told = model.answers(single(items, row), CPU, nothing)[0]
    order = [flat.labels.index(label) for label in model.labels]
    assert np.exp(told) == pytest.approx(np.exp(flat.answers(single(items, row), CPU, nothing)[0][order]), abs=1e-6)
    assert model.through([items.texts[row]]) == [[("flat", 1.0)]]


def test_a_label_that_a_specialist_does_not_know_costs_what_an_outcome_keeps(
    made: Made, grown: dict[str, Path], tmp_path: Path
) -> None:
    folder = with_mixing(made, tmp_path / "tree", top=1, flat_share=0.0)
    wrong = write_text_split(tmp_path / "wrong", ["card track card"], [0], ["refund", "cancellation"])
    answers = load_model(folder).model.answers(read_split(wrong), CPU, nothing)  # type: ignore[attr-defined]
    assert answers.min() == LEAST_NATS
    asked = made_by(Evaluate(), {"model": folder, "split": wrong}, tmp_path / "asked", {"latency_items": 0})
    assert asked.kpis["loss"] == LOSS_MAX
    with_flat = with_mixing(made, tmp_path / "with-flat", top=1, flat_share=0.25)
    asked = made_by(Evaluate(), {"model": with_flat, "split": wrong}, tmp_path / "again", {"latency_items": 0})
    assert asked.kpis["loss"] < LOSS_MAX


def test_a_tree_is_a_member_like_any_other(made: Made, grown: dict[str, Path], tmp_path: Path) -> None:
    outer = made_by(Tree(), {**grown, "member-0": made.outputs["model"]}, tmp_path, GRID)
    items = read_split(grown["validation"])
    model: Any = load_model(outer.outputs["model"]).model  # type: ignore[attr-defined]
    inner: Any = load_model(made.outputs["model"]).model  # type: ignore[attr-defined]
    assert set(model.labels) == set(inner.labels)
    folder = with_mixing(outer, tmp_path / "alone", top=1, flat_share=0.0)
    alone: Any = load_model(folder).model  # type: ignore[attr-defined]
    row = next(row for row, text in enumerate(items.texts) if text.startswith("card"))
    order = [inner.labels.index(label) for label in alone.labels]
    told = inner.answers(single(items, row), CPU, nothing)[0][order]
    assert np.exp(alone.answers(single(items, row), CPU, nothing)[0]) == pytest.approx(np.exp(told), abs=1e-6)


def test_its_models_take_bounded_memory(made: Made, grown: dict[str, Path]) -> None:
    folder, items = made.outputs["model"], read_split(grown["validation"])
    whole: Any = load_model(folder).model  # type: ignore[attr-defined]
    sizes = [trees_read.taken_bytes(place) for place in whole.tree.members.folders.values()]
    tight: Any = trees_read.opened(folder, room_bytes=max(sizes))
    most = 0
    for row in range(30):
        answers = answers_of(tight, single(items, row))
        most = max(most, tight.members.loaded_bytes)
        assert np.array_equal(answers, whole.answers(single(items, row), CPU, nothing))
    assert most <= max(sizes)
    assert tight.members.loads > len(sizes)
    again: Any = trees_read.opened(folder, room_bytes=max(sizes))
    answers_of(again, items)
    assert again.members.loads <= len(sizes)  # each answers all of its items at once


def answers_of(tree: trees_read.Tree, items: Split) -> Any:
    return TreeClassifier(tree).answers(items, CPU, nothing)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_damaged_router_is_refused(made: Made, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.outputs["model"], tmp_path / "tree"))
    file = folder / "router" / "vocabulary.txt"
    file.unlink()  # a link: the original stays as it is
    file.write_text("card\n")
    with pytest.raises(ModelRefused, match="is no whole router"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"members": [0, 1, 2]}, "'2', whose folder is not there"),
        ({"members": [1, 0]}, "do not fit together"),
        ({"members": []}, "do not fit together"),
        ({"branches": 4}, "do not fit together"),
        ({"flat": False}, "do not fit together"),
        ({"routing": "luck"}, "routes by centres or likelihood"),
        ({"temperature": 0.0}, "above 0"),
        ({"top": 0}, "top is 1"),
        ({"top": "many"}, "incomplete"),
        ({"format": 99}, "format"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    made: Made, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ArtifactCorrupt, match=why):
        load_model(with_mixing(made, tmp_path / "tree", **changes))


def test_a_model_with_a_label_that_the_tree_does_not_know_is_refused(
    made: Made, grown: dict[str, Path], tmp_path: Path
) -> None:
    model: Any = load_model(with_mixing(made, tmp_path / "tree", labels=["weather", "refund"]))
    with pytest.raises(ArtifactCorrupt, match="knows the label"):
        model.model.answers(read_split(grown["validation"]), CPU, nothing)


def without(grown: dict[str, Path], *names: str) -> dict[str, Path]:
    return {name: path for name, path in grown.items() if name not in names}


def test_parts_that_do_not_belong_together_are_refused(grown: dict[str, Path], tmp_path: Path) -> None:
    def refused(inputs: dict[str, Path], number: int = iter(range(99)).__next__()) -> None:
        made_by(Tree(), inputs, tmp_path / str(number), GRID)

    with pytest.raises(TaskRefused, match="one specialist at least"):
        refused(without(grown, "member-0", "member-1"))
    with pytest.raises(TaskRefused, match="1 of the router's 3 branches have no specialist"):
        refused(without(grown, "flat"))
    with pytest.raises(TaskRefused, match="member-7 is given"):
        refused({**grown, "member-7": grown["member-0"]})
    with pytest.raises(ModelRefused, match="no whole router"):
        refused({**grown, "router": grown["member-0"]})
    table = {part: write_table_split(tmp_path / part, np.eye(20), [row % 2 for row in range(20)], ["a", "b"],
                                     [str(column) for column in range(20)], split=part)
             for part in ("train", "validation")}  # fmt: skip
    tabular = made_by(Classify(), table, tmp_path / "tabular", {"epochs_max": 1, "hidden": [4], "linear_path": False})
    with pytest.raises(TaskRefused, match="different data"):
        refused({**grown, "member-1": tabular.outputs["model"]})


def test_members_are_numbered_inputs() -> None:
    reads = Tree.inputs
    assert reads is not None
    reads.check("tree", ("router", "validation", "member-0", "member-31", "flat"))
    for name in ("member-", "member-01", "member-x", "member-99999"):
        with pytest.raises(TaskRefused, match=f"no input '{name}': tree has the inputs router, validation, flat"):
            reads.check("tree", ("router", "validation", name))


def test_what_it_takes_follows_its_inputs() -> None:
    sizes = {"router": 1 << 20, "validation": 1 << 20, "flat": 40 << 20, "member-0": 50 << 20}
    small = Tree().needs(TreeSettings(), {"input_bytes": sizes})
    large = Tree().needs(TreeSettings(), {"input_bytes": {**sizes, "member-1": 900 << 20}})
    vast = Tree().needs(
        TreeSettings(), {"input_bytes": {**sizes, **{f"member-{one}": 900 << 20 for one in range(1, 9)}}}
    )
    assert small.memory_bytes < large.memory_bytes < vast.memory_bytes < 4 << 30  # no more than have room at once
    assert vast.disk_bytes > 7 << 30


@pytest.mark.parametrize(
    "wrong",
    [{"temperatures": ()}, {"tops": (0,)}, {"flat_shares": (1.5,)}, {"routings": ("luck",)}, {"reread": 0},
     {"temperatures": tuple(float(one) for one in range(1, 90))}],
)  # fmt: skip
def test_settings_are_bounded(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "temperatures" not in wrong else "temperatures|ways"):
        TreeSettings(**wrong)
