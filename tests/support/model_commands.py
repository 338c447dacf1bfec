"""`bin/agent models` in the test's own loop, against a mesh in memory."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents import cli
from agents.commands import models, models_back, models_pull, models_push, take_out
from agents.commands.reach import Reach
from tests.support.memory_mesh import MemoryMesh


async def reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryMesh, Reach]:
    """A mesh in memory, and the reach that the commands get to it."""
    mesh = await MemoryMesh(folder).start()
    there = Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)

    @contextlib.asynccontextmanager
    async def reach(*_: object) -> AsyncIterator[Reach]:
        yield there

    for module in (models, models_back, models_pull, models_push):
        monkeypatch.setattr(module, "reach_stored", reach)
    return mesh, there


def parsed(*words: str) -> argparse.Namespace:
    """What the parser makes of the words after `models`."""
    return cli.parser_of("models", cli.load("models")).parse_args([*words])


async def command(*words: str) -> int:
    """The command as its `run` does it."""
    given = parsed(*words)
    models._check(given)
    if given.action == "pull":
        take_out.check_folder(Path(given.folder), "models pull", replace=given.replace)
        return await models_pull.pull(given)
    if given.action == "push":
        return await models_push.push(given, models_push.look(Path(given.name)))
    if given.action == "remove":
        return await models_push.remove(given)
    if given.action in ("lineage", "rollback"):
        return await (models_back.lineage if given.action == "lineage" else models_back.rollback)(given)
    return await models._list(given)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
