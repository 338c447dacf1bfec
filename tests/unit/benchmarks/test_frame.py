"""The frame collects rows and aims, bounds time, keeps the user's settings out, and makes a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.frame import QUICK_S, TIMEOUT_S_MIN, Frame, environment, perform


def test_rows_and_aims_of_a_small_benchmark():
    def count(frame: Frame) -> None:
        frame.row("ours", "sum", [sum(range(n)) for n in (3, 4, 5)], "1")
        frame.at_most("small", 6, "1", [6.0])
        frame.at_least("large", 7, "1", [6.0])
        frame.at_most("never measured", 7, "1", [])
        frame.skip("peer", "sum", "1", "it is not installed")
        frame.row("ours", "nothing", [], "1", "it ended with code 3")

    frame = Frame(quick=True)
    document = perform("counting", "How we count.", count, frame)
    assert [(row.who, row.value, row.skipped) for row in document.rows] == [
        ("ours", 6, False),
        ("peer", None, True),
        ("ours", None, True),
    ]
    assert [(aim.aim, aim.got, aim.met) for aim in document.aims] == [
        ("small", 6.0, True),
        ("large", 6.0, False),
        ("never measured", None, False),
    ]
    assert frame.failures == ["ours, nothing: it ended with code 3"]
    assert document.conditions.quick
    assert document.conditions.cores >= 1
    assert document.conditions.versions["msgspec"]


def test_time_is_bounded_as_a_whole():
    now = [0.0]
    frame = Frame(quick=True, clock=lambda: now[0])
    assert frame.timeout_s(10) == 10
    now[0] = QUICK_S - 4
    assert frame.timeout_s(10) == 4
    now[0] = QUICK_S + 4
    assert (frame.remaining_s(), frame.timeout_s(10)) == (0, TIMEOUT_S_MIN)


@pytest.mark.parametrize(("quick", "asked", "expected"), [(False, None, 5), (True, None, 1), (False, 9, 9)])
def test_how_often_to_measure(quick, asked, expected):
    assert Frame(quick=quick, runs=asked).runs(5) == expected


def test_settings_of_the_user_stay_out():
    given = {"PATH": "/bin", "NATS_URL": "nats://x", "RAMIFY_PREFIX": "y", "RAMIFY_VENV": "/v", "RAMIFY_HOME": "/mine"}
    assert environment(Path("/h"), given) == {"PATH": "/bin", "RAMIFY_VENV": "/v", "RAMIFY_HOME": str(Path("/h"))}


def test_the_command_line_of_the_agent_is_the_users(tmp_path):
    argv = Frame(quick=True).agent(tmp_path, "status")
    assert Path(argv[1]).name == "agent"
    assert Path(argv[1]).exists()
    assert argv[2:] == ["status", "--home", str(tmp_path)]
