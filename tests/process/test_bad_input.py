"""Mistakes and full disks at the doors, for real: one sentence, a documented exit code, nothing half-written."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import server

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0

pytestmark = [pytest.mark.process, pytest.mark.server]


def agent(cwd: Path, *arguments: str, stdout: str = "", **environ: str) -> tuple[int, str]:
    """(exit code, stderr) of one command whose home folder is `cwd`/home; stdout to a file when named."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAMIFY_", "NATS_"))}
    with open(stdout or os.devnull, "w") as out:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agents", *arguments], stdout=out, stderr=subprocess.PIPE, text=True,
            timeout=DEADLINE_S, cwd=cwd,
            env={**clean, "PYTHONPATH": str(ROOT), "RAMIFY_HOME": str(cwd / "home"), **environ},
        )  # fmt: skip
    return done.returncode, done.stderr


def one_sentence(said: str) -> bool:
    return said.startswith("bin/agent") and said.count("\n") == 1 and "Traceback" not in said


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker that wants a password and has never seen a mesh."""
    folder = tmp_path_factory.mktemp("guarded")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\n'
        "authorization { user: me, password: right }"
    )
    process = subprocess.Popen([server.find_program(""), "-c", config, "-l", folder / "log"])
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not listens(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)  # another process: there is nothing to wait on but its port
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def test_wrong_and_unusable_credentials_name_what_to_look_at(tmp_path: Path, guarded: str) -> None:
    (tmp_path / "rubbish").write_text("rubbish")
    cases = (
        (("-s", f"nats://me:hunter2@{guarded}"), "user and password"),
        (("-s", f"nats://{guarded}"), "--creds, --nkey or --user"),
        (("-s", f"nats://{guarded}", "--nkey", "rubbish"), "--nkey"),
        (("-s", f"nats://{guarded}", "--creds", "rubbish"), "--creds"),
    )
    for options, words in cases:
        code, said = agent(tmp_path, "status", *options)
        assert code == 9, said
        assert one_sentence(said), said
        assert words in said
        assert "hunter2" not in said
    assert not (tmp_path / "home").exists()


def test_nothing_is_stored_at_a_broker_without_a_mesh(tmp_path: Path, guarded: str) -> None:
    (tmp_path / "two.csv").write_text("text,label\nhello,a\nworld,b\n")
    code, said = agent(tmp_path, "publish", "x", "--data", "two.csv", "-s", f"nats://me:right@{guarded}")
    assert code == 6, said
    assert one_sentence(said), said
    assert "knows no mesh 'mesh'" in said
    assert "right" not in said
    assert not (tmp_path / "home").exists()


def test_a_taken_port_is_named_with_the_setting_that_chooses_another(tmp_path: Path, guarded: str) -> None:
    port = guarded.rpartition(":")[2]
    code, said = agent(tmp_path, "up", RAMIFY_BROKER_PORT=port)
    assert code == 3, said
    assert one_sentence(said), said
    assert port in said
    assert "RAMIFY_BROKER_PORT" in said
    code, said = agent(tmp_path, "gate", "-s", f"nats://me:right@{guarded}", "--http-port", port)
    assert code == 3, said
    assert "--http-port" in said


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_a_full_output_is_one_sentence_and_no_device_is_replaced(tmp_path: Path) -> None:
    for arguments in (("config",), ("config", "--json", "-"), ("--help",)):
        code, said = agent(tmp_path, *arguments, stdout="/dev/full")
        assert code == 3, said
        assert one_sentence(said), said
        assert "room" in said
    code, said = agent(tmp_path, "config", "--json", "/dev/full")
    assert code == 3, said
    assert "disk is full" in said
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can make a small disk")
def test_a_full_disk_below_the_home_folder_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", home], capture_output=True).returncode:
        pytest.skip("a small disk can not be mounted here")
    try:
        code, said = agent(tmp_path, "run", "x", "--data", "builtin:digits")
        assert code == 3, said
        assert one_sentence(said), said
        assert "256MiB" in said
        assert "--home" in said
    finally:
        subprocess.run(["umount", home], check=True)
