"""Two folders of one path are not one store: who reaches the other one is refused at its hello, in a sentence."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agents import scheduler
from agents.commands import store_use
from agents.commands.reach import Reach
from agents.runtime import Agent
from mesh import codec, stores
from mesh.errors import BusUnavailable, NotFound, SettingsInvalid
from mesh.memory import MemoryServer
from mesh.messages.services import Welcome
from mesh.objects_folder import FolderBackend
from mesh.setting_tree import ArtifactSettings, Settings
from mesh.stores import StoreIdentity, unlike
from mesh.subjects import Subjects
from tests.support import agents

SUBJECTS = Subjects()


class Lab:
    """A mesh whose scheduler has its artifacts in one folder, and machines that reach it, or another one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, MemoryServer(SUBJECTS)
        self.shared, self.other = folder / "shared", folder / "other"
        for disk in (self.shared, self.other):
            disk.mkdir()
        self.leader = self.agent("scheduler", self.shared)

    def agent(self, role: str, disk: Path) -> Agent:
        """One with its artifacts there."""
        flags: Any = {"artifacts.backend": "folder", "artifacts.folder": str(disk), "http.port": 0}
        return agents.make(self.server, role, self.folder / "home", **flags)

    async def joins(self, disk: Path) -> Welcome:
        """What an agent hears that has its artifacts there."""
        agent = self.agent("planner", disk)
        await agent.store_identity.look()
        question = codec.encode(agent.hello())
        try:
            async with asyncio.timeout(20):
                while True:
                    try:
                        subject = SUBJECTS.ask("scheduler", agent.name)
                        heard = await agent.broker.request(subject, question, timeout_s=5.0)
                        return codec.decode(heard.data, Welcome)
                    except (NotFound, BusUnavailable):
                        await asyncio.sleep(0.01)
        finally:
            await agent.broker.close()

    async def command(self, disk: Path) -> None:
        """A command checks where it would store."""
        agent = self.agent("cli", disk)
        try:
            await store_use.check_home(Reach(agent.settings, agent.broker, SUBJECTS))
        finally:
            await agent.broker.close()


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    async with agents.running(lab.leader, scheduler.body):
        yield lab


async def test_who_reaches_another_folder_is_refused(lab: Lab) -> None:
    assert (await lab.joins(lab.shared)).accepted
    refused = await lab.joins(lab.other)
    assert not refused.accepted
    assert refused.reason == (
        "The artifacts of this mesh lie in a shared folder, and so do those of planner, but it is another one of that "
        "name: give it the disk or the endpoint that the scheduler has, in section artifacts."
    )
    assert (await lab.joins(lab.shared)).accepted
    lab.shared.rename(lab.folder / "mounted-elsewhere")
    assert (await lab.joins(lab.folder / "mounted-elsewhere")).accepted, "the path may differ"


async def test_a_command_that_reaches_another_folder_is_told(lab: Lab) -> None:
    assert (await lab.joins(lab.shared)).accepted
    await lab.command(lab.shared)
    with pytest.raises(SettingsInvalid, match="those of this command, but it is another one"):
        await lab.command(lab.other)


async def test_a_folder_that_was_emptied_is_a_new_one_for_all(lab: Lab) -> None:
    """Whoever asks first makes its word, and nobody is refused for what the leader knew before."""
    assert (await lab.joins(lab.shared)).accepted
    before = lab.leader.store_identity.value
    shutil.rmtree(lab.shared / "mesh")
    assert (await lab.joins(lab.shared)).accepted
    assert lab.leader.store_identity.value != before


async def test_a_folder_that_is_away_says_nothing_and_refuses_nobody(lab: Lab) -> None:
    assert (await lab.joins(lab.folder / "not-mounted")).accepted
    assert (await lab.joins(lab.shared)).accepted
    assert not (await lab.joins(lab.other)).accepted
    lab.shared.rename(lab.folder / "away")
    assert (await lab.joins(lab.other)).accepted, "the leader does not know any more which one it has"


def settings_for(disk: Path) -> Settings:
    return Settings(artifacts=ArtifactSettings(backend="folder", folder=str(disk)))


async def test_a_store_that_hangs_is_not_waited_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOOK_S", 0.01)
    go, asked = threading.Event(), list[int]()
    really = FolderBackend._identity

    def slow(self: FolderBackend) -> str:
        asked.append(1)
        assert go.wait(20)
        return really(self)

    monkeypatch.setattr(FolderBackend, "_identity", slow)
    identity = StoreIdentity(SUBJECTS, settings_for(tmp_path))
    assert [await identity.look() for _ in range(3)] == ["", "", ""]
    go.set()
    async with asyncio.timeout(20):
        while not identity.value:  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)
    assert asked == [1]


async def test_the_broker_is_itself() -> None:
    assert await StoreIdentity(SUBJECTS, Settings()).look() == ""
    assert unlike("", "a" * 32, "w1", "the broker") == unlike("b", "", "w1", "the broker") == ""
