"""A tree written as a folder: links to the files of its models, its own description, and its card.

A link is a second name of the same file on the disk, so a tree takes no room beside its models; where links can not be
made (another disk), files are copied. The files themselves are never changed: they are read-only artifacts of the
worker's cache. In the mesh equal files are stored once, whatever artifacts they stand in.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executors import modelfolder, treecard
from executors.modelfolder import CONFIG
from executors.models import tree as trees
from executors.models.tree import FLAT, MEMBERS, ROUTER, Tree

KEPT_FACTS = ("tree", "apart", "flat_alone", "by_branch", "entropy", "models", "items", "gain", "warning")
"""Of what was found out, what stands in config.json; the choices stand in the task's result."""


def write(folder: Path, tree: Tree, folders: Mapping[str, Path], facts: Mapping[str, Any]) -> Path:
    """The tree in `folder`, all but its card. folders: of its models and its router by name."""
    folder.mkdir(parents=True)
    for name, source in folders.items():
        linked(source, folder / name if name in (FLAT, ROUTER) else folder / MEMBERS / name)
    kept = {name: facts[name] for name in KEPT_FACTS if name in facts}
    (folder / CONFIG).write_text(trees.config_text(tree, {"made": kept}), encoding="utf-8")
    return folder


def write_card(folder: Path, tree: Tree, facts: Mapping[str, Any], kpis: Mapping[str, float]) -> None:
    """README.md."""
    ramify = trees.config_of(tree, {})["ramify"]
    (folder / "README.md").write_text(treecard.card(ramify, facts, kpis), encoding="utf-8")


def linked(source: Path, target: Path) -> None:
    """All files of a folder under a second name; what could run somewhere stays behind."""
    for file in sorted(source.rglob("*")):
        if not file.is_file() or modelfolder.danger(file):
            continue
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.resolve(), place)
        except OSError:
            shutil.copyfile(file, place)
