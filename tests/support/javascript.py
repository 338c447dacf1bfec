"""The worker in JavaScript of docs/examples/javascript, with its packages beside the test environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import platform

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "javascript"
INSTALL_S = 90.0
END_S = 30.0
NODE_LEAST = 18


def worker_program() -> Path:
    """The program with its packages installed. Skips the test, and says why, where they or Node.js are missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js and npm are not here")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=END_S).stdout
    if int(version.strip().removeprefix("v").split(".")[0]) < NODE_LEAST:
        pytest.skip(f"Node.js {NODE_LEAST} or newer is needed, {version.strip()} is here")
    folder = Path(sys.prefix) / "javascript-worker"
    folder.mkdir(exist_ok=True)
    lock = platform.FileLock(folder / "lock")
    assert lock.acquire(), "another run of the tests installs the packages of the JavaScript worker: try again"
    try:
        _install(folder, npm)
    finally:
        lock.release()
    for file in SOURCE.glob("*.mjs"):
        shutil.copy(file, folder)
    return folder / "worker.mjs"


def _install(folder: Path, npm: str) -> None:
    wanted = (SOURCE / "package-lock.json").read_bytes()
    done = folder / "installed-lock.json"
    if done.is_file() and done.read_bytes() == wanted:
        return
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(SOURCE / name, folder)
    try:
        made = subprocess.run([npm, "ci"], cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        pytest.skip("the packages of the JavaScript worker did not come in time")
    if made.returncode != 0:
        pytest.skip(f"the packages of the JavaScript worker can not be installed: {made.stderr.strip()[-200:]}")
    done.write_bytes(wanted)


class JavaScriptWorker:
    """A running one; what it prints lies in `output`."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self._process, self.output = process, output

    @classmethod
    async def start(cls, program: Path, home: Path, **settings: str) -> JavaScriptWorker:
        """Start it with these variables."""
        home.mkdir(parents=True, exist_ok=True)
        output = home / "output.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAMIFY_", "NATS_"))}
        with output.open("ab") as file:
            process = await platform.spawn_group_async(
                ["node", str(program)], stdout=file, stderr=file, die_with_parent=True,
                env=clean | {"RAMIFY_HOME": str(home)} | settings,
            )  # fmt: skip
        return cls(process, output)

    async def stop(self) -> int:
        """Ask it to leave; its exit status."""
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(END_S):
            return await self._process.wait()

    async def kill(self) -> None:
        """kill -9; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
