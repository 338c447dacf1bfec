"""Groups, locks and parent death with real processes that are really killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mesh import platform

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0


def python(code: str) -> list[str]:
    return [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]


def ended(pid: int) -> bool:
    """Whether a process that is not our child ends before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


SLEEPER = "import time; time.sleep(300)"
FAMILY = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}])
print(child.pid, flush=True)
child.wait()
"""


POLITE = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(300)
"""
HOLDER = """
import time
from pathlib import Path
from mesh.platform import FileLock
lock = FileLock(Path({path!r}))
print(lock.acquire(), flush=True)
time.sleep(300)
"""
GREEDY = """
from mesh import platform
assert platform.limit_memory(256 << 20)
try:
    bytearray(1 << 30)
except MemoryError:
    sys.exit(9)
"""


def test_a_group_is_killed_with_everything_it_started() -> None:
    leader = platform.spawn_group(python(FAMILY), stdout=subprocess.PIPE, die_with_parent=True)
    assert leader.stdout is not None
    grandchild = int(leader.stdout.readline())
    platform.kill_group(leader.pid, hard=True)
    assert leader.wait(DEADLINE_S) == -signal.SIGKILL
    assert ended(grandchild)
    platform.kill_group(leader.pid, hard=True)  # a group that is gone is fine
    leader.stdout.close()


async def test_a_soft_kill_asks() -> None:
    child = await platform.spawn_group_async(python(POLITE), stdout=subprocess.PIPE, die_with_parent=True)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    assert os.getpgid(child.pid) == child.pid
    platform.kill_group(child.pid, hard=False)
    assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 7


@pytest.mark.parametrize("how", ["foreign", "python"])
def test_a_child_dies_with_a_parent_that_is_killed(how: str) -> None:
    child = (
        SLEEPER
        if how == "foreign"
        else f"from mesh import platform; platform.die_with_parent(int(sys.argv[1])); {SLEEPER}"
    )
    parent = platform.spawn_group(
        python(
            f"import os, time\nfrom mesh import platform\n"
            f"argv = {python(child)!r} + [str(os.getpid())]\n"
            f"child = platform.spawn_group(argv, die_with_parent={how == 'foreign'})\n"
            f"print(child.pid, flush=True)\ntime.sleep(300)"
        ),
        stdout=subprocess.PIPE,
        die_with_parent=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ended(pid)


def test_a_lock_excludes_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = HOLDER.format(path=str(path))
    holder = platform.spawn_group(python(code), stdout=subprocess.PIPE, die_with_parent=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    lock = platform.FileLock(path)
    assert not lock.acquire()
    assert lock.holder() == holder.pid
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert lock.acquire()
    assert lock.holder() == os.getpid()
    assert not platform.FileLock(path).acquire()
    lock.release()
    assert lock.holder() is None
    with platform.FileLock(path) as again:
        assert again.acquire()
    assert not again.held


async def test_stop_signals_reach_the_loop_and_are_given_back() -> None:
    got: asyncio.Queue[signal.Signals] = asyncio.Queue()
    before = signal.getsignal(signal.SIGTERM)
    undo = platform.on_stop(asyncio.get_running_loop(), got.put_nowait)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(got.get(), DEADLINE_S) == signal.SIGTERM
    undo()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_private_file_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    platform.write_private(path, b"one")
    platform.write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_what_the_machine_has_is_plausible(tmp_path: Path) -> None:
    assert 0 < platform.cores() <= (os.cpu_count() or 1)
    assert 0 < platform.memory_available() <= psutil.virtual_memory().total
    assert platform.disk_free(tmp_path / "not" / "yet") > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_a_memory_limit_holds() -> None:
    code = GREEDY
    assert platform.spawn_group(python(code), die_with_parent=True).wait(DEADLINE_S) == 9


def test_a_port_is_free_until_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not platform.port_is_free("127.0.0.1", port)
    assert platform.port_is_free("127.0.0.1", port)
