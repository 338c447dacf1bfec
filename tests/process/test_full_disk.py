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


def test_outputs_wait_on_a_full_disk_and_are_whole_afterwards(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2m tmpfs {disk}"
    inside = [shutil.which("unshare") or "", "-rm", "sh", "-c"]
    if not inside[0] or subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    ran = subprocess.run(
        [*inside, f"{mount} && exec {sys.executable} -m tests.support.small_disk {disk}"],
        capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3_000:]
    model, payload = ran.stdout.splitlines()
    assert "model.safetensors=1000" in model, "a million bytes and the header"
    assert payload.startswith("1000000 ")
    for told, name in ((model, "model"), (payload, "payload")):
        assert f"no room for {name} below" in told
        assert f"there is room for {name} again" in told
