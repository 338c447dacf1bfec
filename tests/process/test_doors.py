"""The doors for real: `up` makes a mesh, other commands find it, a mistake is one sentence, Ctrl-C leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import model_folders
from tests.support.model_commands import contents

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0

pytestmark = [pytest.mark.process, pytest.mark.server]


def environ(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAMIFY_", "NATS_"))}
    return {**clean, "PYTHONPATH": str(ROOT), "RAMIFY_HOME": str(home)}


def agent(home: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "agents", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, env=environ(home), cwd=cwd or home.parent,
    )  # fmt: skip


@contextlib.contextmanager
def up(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A mesh; at the end it was stopped with Ctrl-C, and none of its processes is left."""
    note = home.parent / "up.json"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "agents", "up", "--cores", "1", "--json", str(note)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ(home), start_new_session=True,
    )  # fmt: skip
    seen: set[psutil.Process] = set()
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not note.exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "`up` did not say that the mesh runs"
            time.sleep(0.02)  # another process: there is nothing to wait on but its file
        yield process
        seen = set(psutil.Process(process.pid).children(recursive=True))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
        assert "bin/agent worker --server nats://127.0.0.1:4222" in output
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    _, alive = psutil.wait_procs(seen, timeout=DEADLINE_S)
    assert not alive


def test_one_task_starts_what_it_needs_and_leaves_its_outputs(tmp_path: Path) -> None:
    home, text = tmp_path / "home", "text,label\n" + "".join(f"{word} {n},{word}\n" for n in range(15) for word in "ab")
    (tmp_path / "words.csv").write_text(text)
    wanted = ("task", "profile", "--input", "data=words.csv", "--out", "splits")
    done = agent(home, *wanted, "--set", "label_column=label", "--json", "end.json")
    assert done.returncode == 0, done.stderr
    assert "examples  30" in done.stdout
    end = json.loads((tmp_path / "end.json").read_text())
    assert (end["state"], set(end["folders"])) == ("succeeded", {"train", "validation", "holdout", "audit"})
    assert (tmp_path / "splits" / "train" / "schema.json").is_file()

    taken = agent(home, *wanted)
    assert (taken.returncode, taken.stdout) == (3, "")
    assert "'splits' holds files already" in taken.stderr
    lacking = agent(home, "task", "evaluate", "--input", "split=splits/train")
    assert (lacking.returncode, lacking.stdout) == (2, "")
    assert "lacks the input 'model'" in lacking.stderr


def test_up_status_publish_and_ctrl_c(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "one.csv").write_text("text,label\nhello,a\nworld,a\nagain,a\n")
    with up(home):
        give_up_at = time.monotonic() + DEADLINE_S
        roles: set[str] = set()
        while not {"planner", "consensus", "gate"} <= roles:  # each says hello when it has found the leader
            assert time.monotonic() < give_up_at, roles
            status = agent(home, "status", "--json", "-")
            assert status.returncode == 0, status.stderr
            found = json.loads(status.stdout)
            assert found["leader"]
            roles = {row["role"] for row in found["agents"]}
        assert found["counts"] == {} or all(count == 0 for count in found["counts"].values())

        refused = agent(home, "publish", "one label", "--data", "one.csv", "--wait", "--json", "r.json")
        assert refused.returncode == 5, refused.stderr
        said = [line for line in refused.stderr.splitlines() if line.startswith("bin/agent")]
        assert len(said) == 1
        assert "'label'" in said[0]
        document = json.loads((tmp_path / "r.json").read_text())
        assert document["ending"] == "turned down"
        assert document["specializations"] == []

        topic = document["topic"]["id"]
        lines = agent(home, "watch", topic, "--json", "-")
        assert lines.returncode == 5
        assert [json.loads(line)["record"] for line in lines.stdout.splitlines()][-1] == "turned-down"
        tasks = json.loads(agent(home, "tasks", "--topic", topic, "--json", "-").stdout)["tasks"]
        assert [(task["executor"], task["state"]) for task in tasks] == [("profile", "parked")]

        doctor = agent(home, "doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert "as declared" in doctor.stdout
        check_models(home)
        unknown = agent(home, "models", "pull", "nothing", "there")
        assert unknown.returncode == 6
        assert not (tmp_path / "there").exists()
    assert agent(home, "status").returncode == 4, "no scheduler is left, though the broker may linger for a moment"
    check_stored(home, topic)


def check_models(home: Path) -> None:
    """A folder goes in, and is no base of a topic that goes on training it whole."""
    folder = model_folders.transformers_folder(home.parent / "tiny-bert")
    pushed = agent(home, "models", "push", str(folder))
    assert pushed.returncode == 0, pushed.stderr
    assert len(pushed.stdout.strip()) == 64
    refused = agent(home, "publish", "from bert", "--data", "one.csv", "--base", "tiny-bert", "--wait")
    assert refused.returncode == 5, refused.stderr
    assert "no executor kind of this mesh goes on training a transformers folder" in refused.stderr


def check_stored(home: Path, topic: str) -> None:
    """What the mesh left is read without it: the broker is started for the time of a command."""
    tasks = agent(home, "tasks", "--topic", topic, "--json", "-")
    assert tasks.returncode == 0, tasks.stderr
    assert "bin/agent up" in tasks.stderr
    found = json.loads(tasks.stdout)
    assert found["open_listed"] is False
    assert [task["executor"] for task in found["tasks"]] == ["profile"]
    drawn = agent(home, "graph").stdout
    assert "\n└─ mathematics" in drawn
    assert "stats-bayesian" in drawn
    models = agent(home, "models").stdout
    assert models.startswith("no champion yet.\n")
    assert "tiny-bert" in models
    pulled = agent(home, "models", "pull", "tiny-bert", "out")
    assert pulled.returncode == 0, pulled.stderr
    assert contents(home.parent / "out") == contents(home.parent / "tiny-bert")
    assert agent(home, "verdicts").stdout == "no verdict yet.\n"
    watched = agent(home, "watch", topic)
    assert watched.returncode == 5, watched.stderr
    assert "turned down" in watched.stderr
    for command in (("tasks", "--open"), ("watch",), ("status",)):
        nobody = agent(home, *command)
        assert nobody.returncode == 4, nobody.stdout
        assert nobody.stderr.count("\n") == 1
        assert "bin/agent up" in nobody.stderr


def test_a_home_that_is_a_file_and_a_program_that_is_none_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    done = agent(tmp_path / "home", "up", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "--home" in done.stderr
    assert "Traceback" not in done.stderr
    no_server = subprocess.run(
        [sys.executable, "-P", "-m", "agents", "up"], capture_output=True, text=True, timeout=DEADLINE_S,
        env={**environ(tmp_path / "other"), "NATS_SERVER_BIN": "/no/such/program"}, cwd=tmp_path,
    )  # fmt: skip
    assert no_server.returncode == 3
    assert "/no/such/program" in no_server.stderr
    assert no_server.stderr.count("\n") == 1
