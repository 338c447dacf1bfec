"""The control plane keeps its promises under seeded faults, and a seed is the same run wherever it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import cli
from agents.commands import simulate as command
from benchmarks.simulation import run as simulation
from benchmarks.simulation.run import Totals
from benchmarks.simulation.world import Verdict, home_folder, simulate

CHECKOUT = Path(__file__).resolve().parents[2]

FIRST_SEED, SEEDS = 20_000, 150
"""Some ten seconds on one core. `bin/agent simulate` runs more, and others."""

RARELY = 5
"""A fault or an event that is seen less often than this in all seeds together is as good as not simulated."""


@pytest.fixture(scope="module")
def totals() -> Totals:
    return simulation.run(FIRST_SEED, SEEDS)


@pytest.fixture
def home() -> Iterator[Path]:
    with home_folder() as folder:
        yield folder


def test_every_promise_is_kept(totals: Totals) -> None:
    assert not totals.broken, "\n\n".join(command.story(verdict, older=False) for verdict in totals.broken[:3])
    assert totals.seeds == SEEDS


@pytest.mark.parametrize(
    "kind",
    [
        "dropped", "repeated", "delayed", "slow call", "no answer", "write lost", "reply lost", "late write",
        "kill -9", "SIGTERM", "stopped process", "stalled loop", "partition", "silent partition", "silenced leader",
        "broker crash", "clock jump", "task killed its worker", "older broker", "emptied cache", "lost artifact",
    ],
)  # fmt: skip
def test_every_kind_of_fault_occurs(totals: Totals, kind: str) -> None:
    assert totals.faults[kind] >= RARELY


@pytest.mark.parametrize(
    "what",
    [
        "tasks succeeded", "tasks parked", "tasks canceled", "leases", "checkpoints", "late results taken",
        "stale writes refused", "rows refused", "worker lives", "scheduler lives", "terms",
        "tasks resubmitted", "workers drained", "leases given back",
    ],
)  # fmt: skip
def test_what_the_promises_are_about_occurs(totals: Totals, what: str) -> None:
    assert totals.counts[what] >= RARELY


def test_a_seed_is_the_same_run_in_every_process(totals: Totals) -> None:
    program = (
        "from benchmarks.simulation.run import run\n"
        f"print(run({FIRST_SEED}, 3).digest)\n"
        f"print(run({FIRST_SEED + 2}, 1).digest)\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=CHECKOUT, env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, check=True, text=True, timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    here = f"{simulation.run(FIRST_SEED, 3).digest}\n{simulation.run(FIRST_SEED + 2, 1).digest}\n"
    assert said == {here}


def test_several_processes_tell_the_same(totals: Totals) -> None:
    heard: list[int] = []
    spread = simulation.run(FIRST_SEED, 20, jobs=2, hear=lambda verdict: heard.append(verdict.seed))
    alone = simulation.run(FIRST_SEED, 20)
    assert heard == list(range(FIRST_SEED, FIRST_SEED + 20))
    assert (spread.digest, spread.faults, spread.counts) == (alone.digest, alone.faults, alone.counts)


def test_another_seed_is_another_run(home: Path) -> None:
    assert simulate(FIRST_SEED, home).digest != simulate(FIRST_SEED + 1, home).digest


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_one_line_of_totals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, totals: Totals
) -> None:
    file = tmp_path / "totals.json"
    assert cli.main(["simulate", "--seeds", "2", "--first-seed", str(FIRST_SEED), "--json", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("2 seeds kept all promises: ")
    document = json.loads(file.read_text())
    assert (document["seeds"], document["broken_seeds"], document["first_seed"]) == (2, 0, FIRST_SEED)
    assert document["digest"].startswith(said[0].rpartition(" ")[2])


def test_a_broken_promise_is_told_with_its_seed_its_story_and_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seed: int, home: Path, **options: object) -> Verdict:
        found = simulate(seed, home)
        object.__setattr__(found, "broken", ("one lease: it has two",))
        object.__setattr__(found, "tail", ("1.000  w1 begins",))
        return found

    monkeypatch.setattr(simulation, "simulate", broken)
    assert cli.main(["simulate", "--seeds", "1", "--first-seed", "7"]) == command.EXIT_BROKEN
    out, err = capsys.readouterr()
    assert out.startswith("1 of 1 seed broke a promise: ")
    assert [line.strip() for line in err.splitlines()][:2] == ["seed 7 broke a promise:", "one lease: it has two"]
    assert "w1 begins" in err
    assert "bin/agent simulate --first-seed 7 --seeds 1" in err


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--seeds", "x"], ["--jobs", "0"], ["--first-seed", "-1"]])
def test_numbers_out_of_bounds_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", *words]) == 2
    assert "expected a whole number" in capsys.readouterr().err
