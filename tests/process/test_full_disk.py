"""A disk that is really full when outputs are written, in a mount namespace of its own: nothing of it stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from executors.isolation import REPOSITORY

pytestmark = pytest.mark.process


def on_a_disk_of(size: str, what: str, folder: Path) -> list[str]:
    """The lines of a scene of tests/support/small_disk.py on a disk of this size."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {disk}"
    inside = [shutil.which("unshare") or "", "-rm", "sh", "-c"]
    if not inside[0] or subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    ran = subprocess.run(
        [*inside, f"{mount} && exec {sys.executable} -m tests.support.small_disk {what} {disk}"],
        capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3_000:]
    return ran.stdout.splitlines()


def test_outputs_wait_on_a_full_disk_and_are_whole_afterwards(tmp_path: Path) -> None:
    model, payload = on_a_disk_of("2m", "kinds", tmp_path)
    assert "model.safetensors=1000" in model, "a million bytes and the header"
    assert payload.startswith("1000000 ")
    for told, name in ((model, "model"), (payload, "payload")):
        assert f"no room for {name} below" in told
        assert f"there is room for {name} again" in told


@pytest.mark.timeout(150)
def test_a_worker_tells_of_a_task_that_waits_for_room_and_delivers_it(tmp_path: Path) -> None:
    note, ended = on_a_disk_of("40m", "worker", tmp_path)
    assert note.startswith("outputs of task1 wait: there is no room left below ")
    assert ended == "succeeded 1 payload"
