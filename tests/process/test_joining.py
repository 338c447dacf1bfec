"""Joining for real. Two hosts (network namespaces and a cable between them): one line brings a machine in, it trains,
the cable is cut and mended, it is turned out. On loopback: a killed keeper, halves of joins, tokens that do not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh import broker as mesh_broker
from mesh import keeper, membership
from mesh.errors import BrokerRefused
from mesh.invitations import Token
from mesh.keeper import KeeperLease, Note
from mesh.setting_tree import BrokerSettings, KeeperSettings, Settings
from mesh.subjects import Subjects
from tests.support.agent_process import environ

pytestmark = [pytest.mark.process, pytest.mark.server]

DEADLINE_S = 90.0
"""Far beyond what anything here takes on a machine that others use as well."""

LOOK_S = 0.7
"""Between two looks: each is a command of its own."""

REVOKED_S = 5.0
"""The promise: so long after `revoke` its connection may live at most."""


def command(
    home: Path, *arguments: str, host: tuple[str, ...] = (), **settings: str
) -> subprocess.CompletedProcess[str]:
    """One command to its end, on a host."""
    return subprocess.run(
        [*host, sys.executable, "-P", "-m", "agents", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, env=environ(home, RAMIFY_WORKER_NAME="", **settings),
    )  # fmt: skip


def told(home: Path, *arguments: str, host: tuple[str, ...] = ()) -> dict[str, Any]:
    """The document of a command that has to succeed."""
    done = command(home, *arguments, "--json", "-", host=host)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def until(what: Callable[[], object], why: str, deadline_s: float = DEADLINE_S) -> None:
    """Other processes: there is nothing to wait on but what they show."""
    deadline = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(LOOK_S)


# -- two hosts --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Cable:
    """Two network namespaces, `mesh` and `lab`, and the link between them."""

    name: str
    address: str

    def host(self, which: str) -> tuple[str, ...]:
        """What runs a program there."""
        return ("ip", "netns", "exec", f"{self.name}-{which}")

    def link(self, state: str) -> None:
        """`up` or `down`."""
        _ip("-n", f"{self.name}-mesh", "link", "set", f"{self.name}m", state)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=DEADLINE_S)


@pytest.fixture
def cable() -> Iterator[Cable]:
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need the program ip, and root")
    found = Cable(f"rj{secrets.token_hex(3)}", "10.213.77.1")
    try:
        try:
            for which in ("mesh", "lab"):
                _ip("netns", "add", f"{found.name}-{which}")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.decode().strip()[:200]}")
        ends = {"mesh": (f"{found.name}m", found.address), "lab": (f"{found.name}l", "10.213.77.2")}
        _ip(
            "link", "add", ends["mesh"][0], "netns", f"{found.name}-mesh", "type", "veth",
            "peer", "name", ends["lab"][0], "netns", f"{found.name}-lab",
        )  # fmt: skip
        for which, (card, address) in ends.items():
            _ip("-n", f"{found.name}-{which}", "link", "set", "lo", "up")
            _ip("-n", f"{found.name}-{which}", "addr", "add", f"{address}/24", "dev", card)
            _ip("-n", f"{found.name}-{which}", "link", "set", card, "up")
        yield found
    finally:
        for which in ("mesh", "lab"):
            subprocess.run(["ip", "netns", "delete", f"{found.name}-{which}"], capture_output=True, timeout=DEADLINE_S)


@contextlib.contextmanager
def running(log: Path, home: Path, *arguments: str, host: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """A command that stays, with all that it starts; none of it is left in the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*host, sys.executable, "-P", "-m", "agents", *arguments],
            stdout=output, stderr=output, env=environ(home, RAMIFY_WORKER_NAME=""), start_new_session=True,
        )  # fmt: skip
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    finally:
        with contextlib.suppress(psutil.Error):
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.kill()
        process.wait(DEADLINE_S)


def test_two_hosts_invite_join_train_are_cut_apart_meet_again_and_part(tmp_path: Path, cable: Cable) -> None:
    mesh, lab, end = tmp_path / "mesh", tmp_path / "lab", tmp_path / "end.json"
    here, there = cable.host("mesh"), cable.host("lab")
    (tmp_path / "words.csv").write_text("text,label\n" + "".join(f"{w} {n},{w}\n" for n in range(20) for w in "ab"))
    up = ("up", "--listen", cable.address, "--cores", "1", "--name", "own", "--json", str(tmp_path / "up.json"))
    with running(tmp_path / "up.log", mesh, *up, host=here) as main:
        until(lambda: (tmp_path / "up.json").exists() or main.poll() is not None, "`up` does not say that it runs")
        assert main.poll() is None, (tmp_path / "up.log").read_text()
        line = told(mesh, "invite", "--name", "lab", host=here)["line"]
        assert line.startswith("bin/agent worker --join r1.")
        joins = (*line.split()[1:], "--cores", "1")
        with running(tmp_path / "lab.log", lab, *joins, host=there) as worker:
            until(lambda: "lab" in _live(mesh, here), "the worker does not come in")
            told(mesh, "drain", "own", host=here)

            trained = ("task", "noop", "--set", "seconds=4", "--json", str(end))
            with running(tmp_path / "task.log", mesh, *trained, host=here):
                until(lambda: "lab" in _holding(mesh, here), "the worker gets no task")
                cable.link("down")
                until(lambda: "lab" not in _live(mesh, here), "nobody notices that the cable is cut")
                cable.link("up")
                until(end.exists, "the task is not done after the cable was mended")
            assert json.loads(end.read_text())["state"] == "succeeded"
            profile = told(
                mesh, "task", "profile", "--input", f"data={tmp_path / 'words.csv'}", "--set", "label_column=label",
                "--out", str(tmp_path / "splits"), host=here,
            )  # fmt: skip
            assert profile["state"] == "succeeded", profile
            given = [f"{name}={tmp_path / 'splits' / name}" for name in ("train", "validation")]
            model = told(
                mesh, "task", "baseline", "--input", given[0], "--input", given[1], "--out", str(tmp_path / "model"),
                host=here,
            )  # fmt: skip
            assert model["state"] == "succeeded", model

            told(mesh, "revoke", "lab", host=here)
            began = time.monotonic()
            until(lambda: worker.poll() is not None, "a revoked worker goes on")
            assert worker.returncode == BrokerRefused.exit_code
            assert time.monotonic() - began < DEADLINE_S
        said = [text for text in (tmp_path / "lab.log").read_text().splitlines() if text.startswith("bin/agent worker")]
        assert len(said) == 1
        assert "does not let lab in any more: its key was revoked" in said[0]
        again = command(lab, "worker", host=there)
        assert again.returncode == BrokerRefused.exit_code
        assert "bin/agent leave" in again.stderr


def _live(home: Path, host: tuple[str, ...]) -> list[str]:
    return [row["name"] for row in told(home, "workers", host=host)["workers"] if row["state"] == "live"]


def _holding(home: Path, host: tuple[str, ...]) -> list[str]:
    return [row["name"] for row in told(home, "workers", host=host)["workers"] if row["held"]]


# -- one host --------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home whose broker listens for others, on loopback; its keeper is gone in the end."""
    found = Settings(
        home=tmp_path / "home", keeper=KeeperSettings(linger_s=0.2),
        broker=BrokerSettings(listen="127.0.0.1:0", start_timeout_s=60.0),
    )  # fmt: skip
    yield found
    note = Note.read(found)
    if note is not None:
        with contextlib.suppress(psutil.Error):
            psutil.Process(note.pid).kill()


async def _invited(settings: Settings, **fields: object) -> str:
    asked = {"role": "observer", "expires_s": 600, "uses": 1, **fields}
    said = await asyncio.to_thread(keeper.ask, settings, "invite", timeout_s=DEADLINE_S, **asked)
    assert said is not None
    return str(said["token"])


async def _join(home: Path, token: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(command, home, "join", token, "--name", "anna", "--json", "-")


async def test_halves_of_a_join_and_a_killed_keeper_change_nothing(settings: Settings, tmp_path: Path) -> None:
    anna = membership.Place(tmp_path / "anna")
    async with await KeeperLease.acquire(settings) as lease:
        token = await _invited(settings)
        first = await _join(anna.home, token)
        assert first.returncode == 0, first.stderr
        anna.note.unlink()  # as if it had been killed between the answer and the last file

        note = Note.read(settings)
        assert note is not None
        psutil.Process(note.pid).kill()
        async with asyncio.timeout(DEADLINE_S):
            while (fresh := Note.read(settings)) is None or fresh.pid == note.pid:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        again = await _join(anna.home, token)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == json.loads(first.stdout)
        other = await _join(tmp_path / "bert", token)
        assert other.returncode == BrokerRefused.exit_code
        assert "used up" in other.stderr

        found = membership.with_membership(dataclasses.replace(settings, home=anna.home))
        assert found is not None
        there = await mesh_broker.connect(found.nats.options(), Subjects(found.prefix), name="anna")
        refused = asyncio.Event()
        there.on_state(lambda _: refused.set() if there.refusal is not None else None)
        own = await mesh_broker.connect(lease.nats.options(), Subjects(), name=lease.nats.name)
        await asyncio.to_thread(keeper.ask, settings, "revoke", timeout_s=DEADLINE_S, name="anna")
        async with asyncio.timeout(REVOKED_S + 5.0):
            await refused.wait()
        assert own.connected
        await there.close()
        await own.close()


async def test_strangers_and_wrong_addresses_are_told_apart(settings: Settings, tmp_path: Path) -> None:
    async with await KeeperLease.acquire(settings):
        good = Token.read(await _invited(settings))
        cases = {
            "is not the one that the invitation is from": (9, dataclasses.replace(good, authority=bytes(32))),
            "can not be reached": (4, dataclasses.replace(good, addresses=("127.0.0.1:9",))),
            "does not know this invitation": (9, dataclasses.replace(good, seed=_another_seed(tmp_path))),
        }
        for number, (words, (code, token)) in enumerate(cases.items()):
            done = await _join(tmp_path / f"m{number}", token.text())
            assert (done.returncode, words in done.stderr) == (code, True), done.stderr
            assert len(done.stderr.splitlines()) == 1
            left = {path.name for path in (tmp_path / f"m{number}" / "membership").iterdir()}
            assert not left & {"membership.json", "invitation.nk"}


def _another_seed(folder: Path) -> str:
    from mesh import nkeypairs

    nkeypairs.make(folder / "other.nk")
    return (folder / "other.nk").read_text().strip()
