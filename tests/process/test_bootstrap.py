"""The first use of a checkout: real processes in a scratch copy, with nothing downloaded.

The programs that would fetch packages are replaced by small ones that behave like them; locks, folders, signals, exit
codes and the hand-over are real.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.name != "posix", reason="drives shells and signals")]

# Stands in for the agents: says how it was started.
AGENTS_MAIN = """
import os, sys
print(sys.argv[1:], os.getcwd(), sys.flags.safe_path, os.environ["PYTHONPATH"])
sys.exit(7)
"""

# Runs the door's code with installing steps of the test's own; `said` is the file that records what was done.
DRIVER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also when these tests run in the background
sys.path.insert(0, {bin!r})
import bootstrap, environment

def say(word):
    with open({said!r}, "a") as said:
        print(word, file=said, flush=True)

def make_python(venv):
    os.makedirs(os.path.join(venv, "bin"), exist_ok=True)
    if not os.path.lexists(os.path.join(venv, "bin", "python")):
        os.symlink(sys.executable, os.path.join(venv, "bin", "python"))

def installing_steps(groups, installer):
    def work():
        say("entries " + " ".join(sorted(os.listdir(installer.venv))))
        make_python(installer.venv)
        {work}
        say("installed " + " ".join(groups))
    return [bootstrap.Step("stand-in", work)]

bootstrap.installing_steps = installing_steps
print(environment.ready_python({groups!r}))
"""


@pytest.fixture(autouse=True)
def _bin_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bin"))


@pytest.fixture(scope="module")
def made_venv(tmp_path_factory):
    """A real virtual environment with pip and nothing else; tests work on copies."""
    folder = tmp_path_factory.mktemp("made") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=DEADLINE_S)
    return folder


class Checkout:
    """A scratch copy of what the bootstrap needs, and ways to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        self.said = folder / "said"
        for name in ("bin", "requirements"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "agents").mkdir()
        (folder / "agents" / "__main__.py").write_text(AGENTS_MAIN)

    def environ(self, **more: str) -> dict[str, str]:
        """An environment in which pip reads no configuration but the test's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "RAMIFY_"))}
        return {**kept, "PIP_CONFIG_FILE": os.devnull, **more}

    def agent(self, *arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.folder / "bin" / "agent"), *arguments]
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environ(**environ),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def start(self, work: str = "pass", groups: tuple[str, ...] = ("runtime",)) -> subprocess.Popen[str]:
        """Starts the door's code with a stand-in for the installing work."""
        program = DRIVER.format(bin=str(self.folder / "bin"), said=str(self.said), work=work, groups=groups)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", program], env=self.environ(), text=True, **pipes)

    def install(self, work: str = "pass", groups: tuple[str, ...] = ("runtime",)) -> tuple[int, str]:
        """Runs it to its end: exit code and stderr."""
        with self.start(work, groups) as process:
            _, complaints = process.communicate(timeout=DEADLINE_S)
        return process.returncode, complaints

    def running_program(self, shell: str) -> str:
        """Installing work that runs a shell command, which first leaves its process id in the file `pid`."""
        script = f"cd {self.folder}; echo $$ > part; mv part pid; {shell}"
        return f'installer.run(["sh", "-c", {script!r}], __import__("installing").PipOutput(1))'

    def told(self) -> list[str]:
        return self.said.read_text().splitlines() if self.said.exists() else []


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Checkout(folder)


def line_with(stream, words: str) -> str:
    """Reads lines until one holds these words; pytest's timeout is the deadline."""
    for line in stream:
        if words in line:
            return line
    pytest.fail(f"the process ended without saying {words!r}")


def one_sentence(complaints: str) -> str:
    """The last line, after a check that nothing looks like a traceback."""
    assert "Traceback" not in complaints, complaints
    last = complaints.strip().splitlines()[-1]
    assert last.startswith("ramify: ")
    return last


# ---------------------------------------------------------------------------- the warm path


def test_a_ready_environment_is_handed_over_to(checkout, tmp_path):
    assert checkout.install()[0] == 0
    (checkout.folder / "bin" / "bootstrap.py").write_text("raise AssertionError('the warm path imports no bootstrap')")
    done = checkout.agent("worker", "--cores", "2", cwd=tmp_path, PYTHONPATH="/of/the/user")
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    path = f"{checkout.folder}{os.pathsep}/of/the/user"
    assert done.stdout.strip() == f"['worker', '--cores', '2'] {tmp_path} True {path}"


def test_a_changed_lock_installs_again(checkout):
    assert checkout.install()[0] == 0
    assert checkout.install()[0] == 0
    assert checkout.told().count("installed runtime") == 1
    lock = checkout.folder / "requirements" / "runtime.txt"
    before = lock.read_text()
    lock.write_text(before.replace("aiohttp==", "aiohttp==9"))
    assert checkout.install("raise KeyboardInterrupt")[0] == 130
    lock.write_text(before)  # half-way to another lock and back: what is installed is unknown
    assert checkout.install()[0] == 0
    assert checkout.told().count("installed runtime") == 2


def test_line_ends_of_a_lock_do_not_matter(checkout):
    assert checkout.install()[0] == 0
    lock = checkout.folder / "requirements" / "runtime.txt"
    lock.write_bytes(lock.read_bytes().replace(b"\n", b"\r\n"))
    assert checkout.agent().returncode == 7


def test_groups_are_installed_as_they_are_missing(checkout):
    assert checkout.install()[0] == 0
    assert checkout.install(groups=("runtime", "dev"))[0] == 0
    assert [line for line in checkout.told() if line.startswith("installed")] == ["installed runtime", "installed dev"]


def test_packages_for_more_kinds_come_when_asked_for_and_follow_their_lock(checkout):
    import environment

    assert environment.groups_for(["worker", "install", "kinds"]) == ("runtime",)
    assert environment.groups_for(["install"]) == environment.groups_for(["install", "torch"]) == ("runtime",)
    asked = environment.groups_for(["install", "kinds"])
    assert checkout.install(groups=asked)[0] == 0
    lock = checkout.folder / "requirements" / "kinds.txt"
    lock.write_text(lock.read_text().replace("bm25s==", "bm25s==9"))
    assert checkout.install()[0] == 0
    assert [line for line in checkout.told() if line.startswith("installed")] == [
        "installed runtime kinds", "installed kinds",
    ]  # fmt: skip


def test_an_environment_that_is_made_again_gets_every_group_that_is_needed(checkout):
    assert checkout.install()[0] == 0
    (checkout.venv / "pyvenv.cfg").write_text("")
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to(sys.executable + "-is-gone")
    assert checkout.install(groups=("runtime", "dev"))[0] == 0
    assert checkout.told()[-1] == "installed runtime dev"


# ---------------------------------------------------------------------------- two at once, kills and repairs


def test_the_second_first_use_waits_and_goes_on(checkout):
    first = checkout.start('say("holding"); sys.stdin.readline()')
    line_with(first.stderr, "stand-in")
    second = checkout.start()
    assert "waits and then goes on" in line_with(second.stderr, "another first use")
    first.communicate("go on\n", timeout=DEADLINE_S)
    second.communicate(timeout=DEADLINE_S)
    assert (first.returncode, second.returncode) == (0, 0)
    assert checkout.told().count("installed runtime") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_sentence_and_the_next_use_repairs(checkout, number):
    process = checkout.start(checkout.running_program("exec sleep 600"))
    child = wait_for_pid(checkout.folder / "pid")
    process.send_signal(number)
    _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "goes on with it" in one_sentence(complaints)
    assert not is_running(child)
    assert checkout.install()[0] == 0
    assert checkout.told()[-1] == "installed runtime"


def test_a_program_that_outlives_its_parent_keeps_the_lock(checkout):
    os.mkfifo(checkout.folder / "gate")
    process = checkout.start(checkout.running_program(f"cat {checkout.folder}/gate"))
    wait_for_pid(checkout.folder / "pid")
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    with open(checkout.folder / ".venv.lock", "a") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (checkout.folder / "gate").write_text("")
        fcntl.flock(lock, fcntl.LOCK_EX)  # free once the program has ended
    code, complaints = checkout.install()
    assert code == 0
    assert "half made" in complaints


def test_an_environment_without_its_python_is_made_again(checkout):
    assert checkout.install()[0] == 0
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to(checkout.folder / "gone")
    (checkout.venv / "old").write_text("")
    (checkout.venv / "pyvenv.cfg").write_text("")
    code, complaints = checkout.install()
    assert code == 0
    assert "made again" in complaints
    assert not (checkout.venv / "old").exists()


def test_a_working_environment_without_stamp_is_kept(checkout, made_venv):
    shutil.copytree(made_venv, checkout.venv, symlinks=True)
    assert checkout.install()[0] == 0
    assert "pyvenv.cfg" in checkout.told()[0]


def test_a_folder_that_is_no_environment_is_left_alone(checkout):
    checkout.venv.mkdir()
    (checkout.venv / "thesis.tex").write_text("years of work")
    code, complaints = checkout.install()
    assert code == 3
    assert "'thesis.tex'" in one_sentence(complaints)
    assert (checkout.venv / "thesis.tex").read_text() == "years of work"


# ---------------------------------------------------------------------------- what the machine lacks


def test_no_index_is_one_sentence_and_keeps_what_is_there(checkout, made_venv):
    shutil.copytree(made_venv, checkout.venv, symlinks=True)
    for _ in range(2):
        done = checkout.agent("status", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(checkout.folder))
        assert done.returncode == 3
        assert "has no setuptools==" in one_sentence(done.stderr)
        assert "half made" not in done.stderr
    assert not (checkout.venv / ".ramify-runtime").exists()


def test_no_network_is_one_sentence(checkout, made_venv):
    shutil.copytree(made_venv, checkout.venv, symlinks=True)
    done = checkout.agent("status", PIP_INDEX_URL="http://127.0.0.1:1/simple", PIP_RETRIES="1")
    assert done.returncode == 3
    assert "no package index could be reached" in one_sentence(done.stderr)


def test_an_incomplete_checkout_is_one_sentence(checkout):
    assert checkout.install()[0] == 0
    (checkout.folder / "requirements" / "runtime.txt").unlink()
    done = checkout.agent("status")
    assert done.returncode == 3
    assert "runtime.txt" in one_sentence(done.stderr)


def test_a_full_disk_is_found_before_anything_is_installed(monkeypatch, tmp_path):
    import bootstrap
    from environment import EnvironmentTrouble

    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 10**10, 10**8))
    with pytest.raises(EnvironmentTrouble, match=r"disk is full.*0\.1 GB free, 2 GB needed"):
        bootstrap.install(str(tmp_path / "venv"), ["runtime"])
    assert not (tmp_path / "venv").exists()


def test_a_python_without_ensurepip_names_the_package(monkeypatch, tmp_path):
    import bootstrap
    from environment import EnvironmentTrouble

    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentTrouble, match=r"ensurepip.*apt install python3-venv"):
        bootstrap.install(str(tmp_path / "venv"), ["runtime"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x can not be written"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "RAMIFY_VENV"),
        (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
    ],
)
def test_our_own_failed_writes_become_sentences(error, words):
    from installing import trouble_of_write

    assert words in str(trouble_of_write(error, "/somewhere/.venv"))


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "", "disk is full"),
        ("WARNING: Retrying after NewConnectionError\nERROR: No matching distribution found for x", "Index", "reached"),
        ("ERROR: No matching distribution found for torch==1", "NotIn", "has no torch==1"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE",
            "",
            "not the one that the lock names",
        ),
        ("ERROR: [Errno 13] Permission denied: '/x'", "", "can not be written"),
        ("ERROR: Failed building wheel for x", "", "Failed building wheel for x"),
    ],
)
def test_what_pip_says_becomes_a_sentence(tmp_path, output, kind, words):
    import installing

    (tmp_path / "bin").mkdir()
    (tmp_path / "words").write_text(output)
    (tmp_path / "bin" / "python").write_text(f"#!/bin/sh\ncat {tmp_path}/words\nexit 1\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    installer = installing.Installer(str(tmp_path), installing.Progress(sys.stderr))
    with pytest.raises(installing.EnvironmentTrouble, match=words) as caught:
        installer.pip_install(["x"], 1)
    assert (
        type(caught.value).__name__ == {"": "EnvironmentTrouble", "Index": "IndexTrouble", "NotIn": "NotInIndex"}[kind]
    )
    assert output in (tmp_path / "install.log").read_text()


# ---------------------------------------------------------------------------- which Python, which torch


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_an_unsupported_python_says_so(version):
    import environment

    with pytest.raises(
        environment.EnvironmentTrouble, match=rf"3\.11, 3\.12 or 3\.13 is needed, this one is 3\.{version[1]} "
    ):
        environment.use_supported_interpreter(version, "")


def test_an_unsupported_python_finds_another_on_path(tmp_path):
    """A version manager's shim for an absent Python is passed over; the next one runs the same arguments."""
    shims = {"python3.11": "exit 127", "python3.12": '[ "$1" = -I ] && echo 3.12 || echo instead "$@"'}
    for name, script in shims.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    program = "import sys, environment; environment.use_supported_interpreter((3, 9), sys.argv.pop())"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--json", str(tmp_path)],
        cwd=ROOT / "bin",
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout == "instead -c run --json\n", done.stderr


class Index:
    """An installer whose package indexes hold some requirements, and that records what it was asked for."""

    def __init__(self, venv: Path, answers: dict[str, Exception | None]) -> None:
        import io

        from installing import Progress

        self.venv = str(venv)
        self.answers = answers
        self.asked: list[str] = []
        self.notes = io.StringIO()
        self.progress = Progress(self.notes)

    def pip_install(self, arguments: list[str], packages: int) -> None:
        self.asked.append("cpu index" if "--index-url" in arguments else arguments[-1])
        if answer := self.answers.get(self.asked[-1]):
            raise answer


def test_torch_is_the_cpu_build_of_the_configured_index(tmp_path):
    import bootstrap

    index = Index(tmp_path, {})
    bootstrap.install_torch("9.9", index)
    assert index.asked == ["torch==9.9+cpu"]


@pytest.mark.parametrize(("driver", "then"), [(False, ["cpu index"]), (True, ["torch==9.9"])])
def test_torch_without_a_local_cpu_build(tmp_path, monkeypatch, driver, then):
    import bootstrap

    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap, "has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(bootstrap, "require_disk", lambda venv, needed_bytes: None)
    index = Index(tmp_path, {"torch==9.9+cpu": bootstrap.NotInIndex("absent")})
    bootstrap.install_torch("9.9", index)
    assert index.asked == ["torch==9.9+cpu", *then]
    assert ("3 GB" in index.notes.getvalue()) == driver


def test_torch_without_any_cpu_build_names_its_size(tmp_path, monkeypatch):
    import bootstrap

    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(bootstrap, "require_disk", lambda venv, needed_bytes: None)
    index = Index(tmp_path, {"torch==9.9+cpu": bootstrap.NotInIndex("x"), "cpu index": bootstrap.IndexTrouble("away")})
    bootstrap.install_torch("9.9", index)
    assert index.asked == ["torch==9.9+cpu", "cpu index", "torch==9.9"]
    assert "about 3 GB" in index.notes.getvalue()


def test_torch_is_not_searched_elsewhere_when_the_network_is_away(tmp_path):
    import bootstrap

    index = Index(tmp_path, {"torch==9.9+cpu": bootstrap.IndexTrouble("away")})
    with pytest.raises(bootstrap.IndexTrouble):
        bootstrap.install_torch("9.9", index)
    assert index.asked == ["torch==9.9+cpu"]


def test_pips_lines_are_counted():
    from installing import PipOutput

    output = PipOutput(4)
    for line in (
        "Ignoring x: markers 'sys_platform == \"win32\"' don't match your environment",
        "Collecting numpy==2.4.6 (from -r runtime.txt (line 3))",
        "  Downloading numpy-2.4.6-cp311-manylinux_x86_64.whl (16.1 MB)",
        "Requirement already satisfied: idna==3 in /somewhere (from -r runtime.txt)",
        "Processing /wheels/faiss_cpu-1.15.1-cp310-abi3-manylinux_x86_64.whl (from -r runtime.txt)",
    ):
        output.read(line)
    assert (str(output), output.summary()) == ("3 of 3 packages, faiss_cpu", "3 packages")


# ---------------------------------------------------------------------------- the test's own tools


def wait_for_pid(path: Path) -> int:
    """The process id that a started program leaves in a file."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline_s, f"{path} did not appear"
        time.sleep(0.01)
    return int(path.read_text())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
