"""The command line: finding the command, reading options, and one sentence for whatever is wrong."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agents import cli
from agents.commands import flags
from mesh.errors import SettingsInvalid
from mesh.messages.topics import Kpi

ROOT = Path(__file__).resolve().parents[3]


def agent(*arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command line for real, as `bin/agent` does."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAMIFY_", "NATS_"))}
    return subprocess.run(
        [sys.executable, "-P", "-m", "agents", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd or ROOT,
        env={**clean, "PYTHONPATH": str(ROOT), **environ},
    )


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["status"], ("status", [])),
        (["--server", "nats://x:1", "status", "--json", "-"], ("status", ["--server", "nats://x:1", "--json", "-"])),
        (["-s", "watch", "status"], ("status", ["-s", "watch"])),
        (["--server=nats://x:1", "run", "a topic"], ("run", ["--server=nats://x:1", "a topic"])),
        (["--no-context", "tasks"], ("tasks", ["--no-context"])),
        (["--help"], ("", ["--help"])),
        ([], ("", [])),
    ],
)
def test_the_command_is_the_first_word_that_belongs_to_no_option(
    arguments: list[str], wanted: tuple[str, list[str]]
) -> None:
    assert cli.split(arguments) == wanted


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_with_an_example_that_it_can_read(name: str) -> None:
    module = cli.load(name)
    parser = cli.parser_of(name, module)
    assert "example:" in parser.format_help()
    for command in module.EXAMPLE.replace(" && ", "\n").splitlines():
        assert command.startswith(f"bin/agent {name}")
        parser.parse_args(shlex.split(command)[2:])


def test_the_overview_names_every_command_with_its_sentence() -> None:
    text = cli.overview()
    for name, sentence in cli.COMMANDS.items():
        assert name in text
        assert sentence in text
        assert sentence.endswith(".")


def test_every_file_of_a_command_is_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "agents" / "commands").glob("*.py")}
    commands = {
        name.replace("_", "-")
        for name in files - {"__init__"}
        if hasattr(importlib.import_module(f"agents.commands.{name}"), "run")
    }
    assert commands == set(cli.COMMANDS)


def test_help_and_typos_answer_without_loading_anything_large() -> None:
    program = (
        "import sys; from agents import cli; cli.main(['--help']); cli.main(['statsu']); "
        "print([name for name in ('asyncio', 'msgspec', 'nats', 'mesh.settings', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "did you mean 'status'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["statsu"], 2, ["'statsu'", "did you mean 'status'", "--help"]),
        (["status", "--jsn", "-"], 2, ["--jsn", "--json"]),
        (["run"], 2, ["TOPIC"]),
        (["run", "  "], 2, ["sentence", "characters"]),
        (["run", "x", "--budget", "soon"], 2, ["--budget", "duration", "'soon'"]),
        (["run", "x", "--budget", "0.1s"], 2, ["--budget", "1 second to 30 days"]),
        (["run", "x", "--priority", "12"], 2, ["--priority", "0 (last) to 9"]),
        (["run", "x", "--kpi", "accuracy>0.9"], 2, ["--kpi", "METRIC>=NUMBER"]),
        (["run", "x", "--specialization", "No Such"], 2, ["--specialization", "a-z"]),
        (["run", "x", "--data", "no/such/file.csv"], 5, ["no/such/file.csv"]),
        (["run", "x", "--data", "builtin:digit"], 5, ["builtin:digits"]),
        (["run", "x", "--data", ""], 5, ["--data", "empty"]),
        (["run", "x", "--server", ""], 2, ["--server", "empty"]),
        (["status", "--creds", ".", "-s", "nats://127.0.0.1:9"], 2, ["creds", "readable file"]),
        (["run", "x", "--json", "no/such/folder/x.json"], 3, ["no/such/folder"]),
        (["status", "--server", "nats://127.0.0.1:9", "--timeout", "1s"], 4, ["127.0.0.1:9"]),
        (
            ["run", "x", "--data", "builtin:digits", "--server", "nats://127.0.0.1:9", "--timeout", "1s"],
            4,
            ["127.0.0.1:9"],
        ),
        (["status", "--context", "no-such-context"], 2, ["no-such-context"]),
        (["config", "--config", "no-such.toml"], 2, ["no-such.toml"]),
        (["status", "--creds", "no-such.creds", "-s", "nats://127.0.0.1:9"], 2, ["creds", "readable"]),
        (["models", "pull", "x"], 6, ["NAME", "DIR"]),
        (["--server"], 2, ["command"]),
        (["worker", "--cores", "many", "-s", "nats://127.0.0.1:9"], 2, ["--cores", "number"]),
    ],
)
def test_what_is_wrong_is_one_sentence_and_a_code(
    tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    done = agent(*arguments, cwd=tmp_path, RAMIFY_HOME=str(tmp_path / "home"))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("bin/agent")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "home").exists(), "nothing is started or written for a mistake"


def test_without_a_mesh_status_says_so_at_once(tmp_path: Path) -> None:
    done = agent("status", RAMIFY_HOME=str(tmp_path))
    assert done.returncode == 4
    assert "bin/agent up" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_and_a_picture_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for name in ("empty.csv", "picture.csv"):
        done = agent("run", "x", "--data", name, cwd=tmp_path, RAMIFY_HOME=str(tmp_path / "home"))
        assert done.returncode == 5
        assert name in done.stderr
        assert not (tmp_path / "home").exists()


def test_a_defect_is_one_sentence_that_names_the_file_with_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: argparse.Namespace) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(cli.load("config"), "run", broken)
    assert cli.main(["config", "--home", str(tmp_path)]) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "ZeroDivisionError: oops" in said
    assert str(tmp_path / "logs" / "defects.log") in said
    assert "Traceback" in (tmp_path / "logs" / "defects.log").read_text()
    with pytest.raises(ZeroDivisionError):
        cli.main(["config", "--home", str(tmp_path), "--debug"])


def test_ctrl_c_ends_with_its_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.load("config"), "run", interrupted)
    assert cli.main(["config"]) == 130
    assert capsys.readouterr().err == "bin/agent config: stopped.\n"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "agents", "config", "--home", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) in (0, 141)


def test_config_masks_secrets_and_names_origins(tmp_path: Path) -> None:
    done = agent(
        "config", "--changed", "--json", "-", "--home", str(tmp_path), "--user", "me", "--password", "hunter2",
        NATS_URL="nats://a:b@h:1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    assert "a:b" not in done.stdout
    assert "environment NATS_URL" in done.stdout


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("accuracy>=0.9", Kpi(metric="accuracy", minimum=0.9)),
        ("latency_p95_ms <= 20", Kpi(metric="latency_p95_ms", maximum=20.0)),
    ],
)
def test_a_condition_is_read(text: str, wanted: Kpi) -> None:
    assert flags.kpi(text) == wanted


@pytest.mark.parametrize("text", ["accuracy", "accuracy>0.9", ">=1", "accuracy>=nan", "accuracy>=x", "Accuracy>=1"])
def test_a_condition_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="METRIC"):
        flags.kpi(text)


def test_options_that_say_nothing_give_no_setting(tmp_path: Path) -> None:
    given = cli.parser_of("config", cli.load("config")).parse_args(["--home", str(tmp_path), "--timeout", "7s"])
    settings = flags.settings_of(given)
    assert settings.home == tmp_path
    assert settings.nats.connect_timeout_s == 7.0
    given.__dict__["nats.password"] = "x"
    with pytest.raises(SettingsInvalid, match=r"nats\.password"):
        flags.settings_of(given)
