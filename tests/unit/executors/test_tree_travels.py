"""A tree leaves the mesh and comes back: what its folder may take along, what its card says, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from executors import modelfolder
from executors.championcard import Told, champion_card
from executors.models.loading import load_model
from mesh.errors import ModelRefused
from mesh.messages.models import ModelFormat
from tests.support import hand_routers
from tests.support.model_folders import ramify_folder

PARTS = ("members/0", "members/2", "flat")
EXTRA: dict[str, Any] = {
    "format": 2, "kind": "tree", "architecture": "tree", "modality": "text", "routing": "centres", "temperature": 0.1,
    "top": 2, "flat_share": 0.1, "reread": 64, "branches": 3, "names": ["cards", "money back", "weather"],
    "members": [0, 2], "flat": True,
    "made": {"by_branch": [{"branch": 0, "name": "cards", "items": 5, "tree": {"accuracy": 0.8, "loss": 0.5}}]},
}  # fmt: skip
"""A tree's description, but for its labels."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        ramify_folder(folder / part)
    hand_routers.router().save(folder / "router")
    labels = json.loads((folder / "flat/config.json").read_bytes())["ramify"]["labels"]
    config = {"model_type": "ramify-tree", "ramify": {**EXTRA, "labels": labels}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_everything_that_loading_needs_travels(tree: Path, tmp_path: Path) -> None:
    (tree / "members/0/run.py").write_text("print('no')")
    (tree / "flat/optimizer.pt").write_bytes(b"PK\x03\x04")
    found = modelfolder.look(tree)
    assert (found.format, found.architecture, found.modality) == (ModelFormat.RAMIFY, "tree", "text")
    assert [path for path, _ in found.left_out] == ["flat/optimizer.pt", "members/0/run.py"]
    assert found.parameters == 3 * modelfolder.look(tree / "flat").parameters + hand_router_numbers()
    for name in found.files:
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, tmp_path / "copy" / name)
    model: Any = load_model(tmp_path / "copy")
    assert model.model.labels == found.labels


def hand_router_numbers() -> int:
    router = hand_routers.router()
    return router.idf.size + router.components.size + router.centres.size


@pytest.mark.parametrize(
    ("gone", "why"),
    [("members/2/config.json", "'members/2', whose config.json is not there"), ("router/router.json", "no router")],
)
def test_a_tree_with_a_part_missing_is_refused(tree: Path, gone: str, why: str) -> None:
    (tree / gone).unlink()
    with pytest.raises(ModelRefused, match=why):
        modelfolder.look(tree)


def test_a_champions_card_says_what_a_tree_is(tree: Path) -> None:
    config = json.loads((tree / "config.json").read_bytes())["ramify"]
    told = Told(specialization="questions", digest="a" * 64, version_number=3, line="merge", kpis={"accuracy": 0.9})
    card = champion_card(config, told, "")
    assert "**Branches**: `cards`, `money back`, `weather`" in card
    assert "pipeline_tag: text-classification" in card
    assert "bin/agent ask NAME TEXT" in card
    assert "load_model.py" not in card
    assert "| 0 | `cards` | 5 | - | - | 0.800 right, 0.5000 nats |" in card
    text = champion_card({**config, "labels": []}, told, "")
    assert "pipeline_tag: text-generation" in text
