"""`models lineage` and `models rollback`: what each version brought, and one command back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.commands.reach import Reach
from consensus.gate import verdict
from mesh import codec
from mesh.errors import ArtifactMissing, EnvironmentUnfit, NotFound, SettingsInvalid
from mesh.messages.judgement import Champion, Choice, Recommendation, Version
from mesh.messages.tasks import Line
from tests.support.memory_mesh import MemoryMesh
from tests.support.model_commands import command, reached

NODE = "digits-3fa1c2"


@pytest.fixture
async def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryMesh, Reach]:
    """A mesh in memory that the commands reach, and how."""
    return await reached(tmp_path / "mesh", monkeypatch)


@pytest.fixture
def mesh(meeting: tuple[MemoryMesh, Reach]) -> MemoryMesh:
    """The mesh alone."""
    return meeting[0]


async def promoted(mesh: MemoryMesh, tmp_path: Path, version: int, **more: object) -> Champion:
    """The next champion, whose model is really stored."""
    folder = tmp_path / f"model-{version}"
    folder.mkdir()
    (folder / "weights").write_text(f"version {version}")
    digest = await mesh.store.put(folder, media="model")
    before, revision = await mesh.champion(NODE)
    made = Champion(
        specialization=NODE, version_number=version, model=digest, topic=f"t{version}", task=f"t{version}-evolver",
        line=Line.EVOLVER, verdict=f"t{version}-verdict", holdout="h" * 64, holdout_uses=version + 1,
        changed=f"change {version}", metric="accuracy", effect=0.01 * version, interval=(0.0, 0.02 * version),
        promoted_at_ms=1_000, parent_model=before.model if before else "",
        lineage=(*before.lineage, _version(before)) if before else (),
    )  # fmt: skip
    made = made.evolve(**more)
    await mesh.promote(made, revision=revision)
    return made


def _version(champion: Champion) -> Version:
    return Version(
        version_number=champion.version_number, model=champion.model[:12], line=champion.line, topic=champion.topic,
        verdict=champion.verdict, changed=champion.changed, metric=champion.metric, effect=champion.effect,
        interval=champion.interval, at_ms=champion.promoted_at_ms,
    )  # fmt: skip


async def test_the_lineage_tells_what_each_version_brought(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (1, 2):
        await promoted(mesh, tmp_path, version)
    assert await command("lineage", NODE) == 0
    shown = capsys.readouterr().out
    assert "change 1" in shown
    assert "change 2" in shown
    assert "+0.0200 accuracy" in shown
    assert "challengers compared on its holdout: 3; " in shown
    target = tmp_path / "lineage.json"
    assert await command("lineage", NODE, "--json", str(target)) == 0
    found = json.loads(target.read_text())
    assert [one["version_number"] for one in found["lineage"]] == [1, 2]


async def test_one_command_goes_back_and_says_so(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = [await promoted(mesh, tmp_path, version) for version in (1, 2)]
    _, before = await mesh.champion(NODE)
    assert await command("rollback", NODE, "--reason", "answers slowly") == 0
    assert f"version 3 is champion, with the model of version 1 ({one.model[:12]})" in capsys.readouterr().out
    now, revision = await mesh.champion(NODE)
    assert now is not None
    assert (now.version_number, now.model, now.parent_model) == (3, one.model, two.model)
    assert (now.event, now.reason) == ("rolled back", "answers slowly")
    assert now.holdout_uses == two.holdout_uses, "its holdout stays as tired as it is"
    assert [step.version_number for step in now.lineage] == [1, 2]
    late = Recommendation(
        id="t9-recommendation", topic="t9", specialization=NODE, choice=Choice.KEEP, why="", effect=0.0,
        interval=(0.0, 0.0), candidates=(), champion_before=two.model, champion_revision=before,
    )  # fmt: skip
    assert verdict(late, now, revision, decided_at_ms=0).champion == one.model, "a round of before changes nothing"
    assert await command("rollback", NODE, "--to", "2") == 0
    again, _ = await mesh.champion(NODE)
    assert again is not None
    assert (again.version_number, again.model) == (4, two.model)
    assert again.reason.startswith("rolled back by ")
    assert await command("lineage", NODE) == 0
    assert capsys.readouterr().out.count("rolled back") == 4


async def test_what_can_not_be_gone_back_to_is_refused(mesh: MemoryMesh, tmp_path: Path) -> None:
    one = await promoted(mesh, tmp_path, 1)
    with pytest.raises(NotFound, match="nothing to go back to"):
        await command("rollback", NODE)
    await promoted(mesh, tmp_path, 2)
    with pytest.raises(NotFound, match="has no version 7 whose record is kept; these are: 1, 2"):
        await command("rollback", NODE, "--to", "7")
    with pytest.raises(NotFound, match="is the model that is champion now"):
        await command("rollback", NODE, "--to", "2")
    with pytest.raises(NotFound, match="did you mean"):
        await command("rollback", "digits-3fa1c")
    with pytest.raises(SettingsInvalid, match="belong to models rollback"):
        await command("lineage", NODE, "--to", "1")
    with pytest.raises(SettingsInvalid, match="expects one NAME"):
        await command("rollback")
    await promoted(mesh, tmp_path, 3, model="f" * 64)
    await promoted(mesh, tmp_path, 4)
    with pytest.raises(ArtifactMissing, match="no longer stored"):
        await command("rollback", NODE)
    now, _ = await mesh.champion(NODE)
    assert now is not None
    assert (now.version_number, one.version_number) == (4, 1)


async def test_a_promotion_in_between_wins(mesh: MemoryMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.commands import known_models

    for version in (1, 2):
        await promoted(mesh, tmp_path, version)
    check = known_models.check_there

    async def overtaken(there: Reach, digest: str) -> None:
        await check(there, digest)
        await promoted(mesh, tmp_path, 3)

    monkeypatch.setattr(known_models, "check_there", overtaken)
    with pytest.raises(EnvironmentUnfit, match="nothing was changed"):
        await command("rollback", NODE)
    now, _ = await mesh.champion(NODE)
    assert now is not None
    assert now.version_number == 3
    assert len(codec.encode(now)) < 4_000
