"""What `doctor` says of a home of artifacts that is not the broker."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agents.commands import doctor
from agents.commands.reach import Reach
from mesh.memory import MemoryServer
from mesh.setting_tree import ArtifactSettings, Settings


def there(tmp_path: Path, chosen: ArtifactSettings) -> Reach:
    server = MemoryServer()
    settings = dataclasses.replace(Settings(), home=tmp_path / "home", artifacts=chosen)
    return Reach(settings, server.connect("doctor"), server.subjects)


@pytest.mark.parametrize(("made", "state"), [(True, "ok"), (False, "wrong")])
async def test_a_folder_that_is_not_mounted_is_wrong(tmp_path: Path, made: bool, state: str) -> None:
    if made:
        (tmp_path / "shared").mkdir()
    chosen = ArtifactSettings(backend="folder", folder=str(tmp_path / "shared"))
    (finding,) = await doctor.artifacts(there(tmp_path, chosen))
    assert (finding.what, finding.state) == ("artifacts", state)
    assert "shared" in finding.says


async def test_of_the_broker_other_findings_tell(tmp_path: Path) -> None:
    assert await doctor.artifacts(there(tmp_path, ArtifactSettings())) == []
