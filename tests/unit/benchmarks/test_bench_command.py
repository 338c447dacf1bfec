"""The command: lists, measures with a document and an exit code, refuses what makes no sense."""

from __future__ import annotations

import json

import pytest

from agents import cli
from agents.commands import bench
from benchmarks import catalogue
from benchmarks.frame import Frame


@pytest.fixture
def counting(monkeypatch):
    """A benchmark that measures one thing; it fails when `fails` is set on it."""

    class Counting(catalogue.Benchmark):
        def load(self):
            return count

    def count(frame: Frame) -> None:
        count.frame = frame
        frame.row("ours", "sum", [1.0, 2.0, 4.0][: frame.runs(3)], "1")
        frame.at_most("small", 1, "1", [2.0])
        if count.fails:
            frame.fail("ours", "more", "1", "it ended with code 3")

    count.fails = False
    monkeypatch.setattr(catalogue, "benchmarks", lambda: [Counting("counting", "How we count.", "nowhere")])
    return count


def test_the_list_names_every_benchmark(capsys):
    assert cli.main(["bench", "list", "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)["benchmarks"]
    assert [one["name"] for one in listed] == [one.name for one in catalogue.benchmarks()]
    assert all(one["why"].endswith(".") for one in listed)


def test_a_missed_aim_is_a_result(counting, capsys, tmp_path):
    target = tmp_path / "out.json"
    assert cli.main(["bench", "counting", "--json", str(target)]) == 0
    document = json.loads(target.read_text())
    assert (document["name"], document["rows"][0]["value"], document["aims"][0]["met"]) == ("counting", 2.0, False)
    shown = capsys.readouterr()
    assert "NO" in shown.out
    assert "ours, sum: 2\n" in shown.err


def test_on_stdout_there_is_the_document_alone(counting, capsys):
    assert cli.main(["bench", "counting", "--quick", "--json", "-", "--runs", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["conditions"]["quick"] is True
    assert document["rows"][0]["runs"] == 2


def test_a_failed_measurement_fails_the_command_and_is_not_kept(counting, capsys, monkeypatch):
    counting.fails = True
    from benchmarks import report

    monkeypatch.setattr(report, "keep", lambda _: pytest.fail("a failed run was kept"))
    assert cli.main(["bench", "counting", "--keep"]) == bench.EXIT_NOT_MEASURED
    assert "not measured: ours, more: it ended with code 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nonsense"], 6, "there is no benchmark 'nonsense'"),
        (["main-job", "--quick", "--keep"], 2, "a quick one measures nothing"),
        (["main-job", "--runs", "0"], 2, "expected a number of runs"),
        (["list", "--quick"], 2, "does not take --quick"),
        (["main-job", "--data", "not/here.csv"], 5, "there is no such file"),
    ],
)
def test_bad_input_is_one_sentence(arguments, code, sentence, capsys):
    assert cli.main(["bench", *arguments]) == code
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert complaint.count("\n") == 1
