"""The benchmark of training loops: ratios within rounds, honest intervals, a failed peer is a row that says why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.frame import CHECKOUT, Frame
from benchmarks.peers import small_gpt
from benchmarks.training import BARE, OURS, Cost
from mesh.errors import ChildBroke

HF = "Hugging Face Trainer"


def costs(*cpu: float) -> list[Cost]:
    return [Cost(each, 2 * each, 3.0, 4.0) for each in cpu]


def test_ratios_are_taken_within_rounds() -> None:
    """A busy minute that hits both sides of a round cancels out."""
    assert training.ratios(costs(1.0, 3.0), costs(2.0, 6.0), lambda cost: cost.cpu_s) == [0.5, 0.5]
    assert training.ratios([], costs(1.0), lambda cost: cost.cpu_s) == []


def test_an_interval_holds_the_mean_and_grows_with_the_spread() -> None:
    narrow, wide = training.interval([0.99, 1.0, 1.01, 1.0]), training.interval([0.8, 1.0, 1.2, 1.0])
    assert 0.99 <= narrow[0] < 1.0 < narrow[1] <= 1.01
    assert wide[0] < narrow[0]
    assert narrow[1] < wide[1]
    assert training.interval_said([1.0, 1.0]) == "", "two rounds have no interval"
    assert "0.990" in training.interval_said([0.99, 0.99, 0.99])


def test_aims_compare_with_the_bare_loop_and_the_trainers() -> None:
    frame = Frame(quick=False)
    training.aims(frame, {BARE: costs(0.99, 0.99), OURS: costs(1.0, 1.0), HF: costs(0.9, 0.9)})
    assert [(aim.got, aim.met) for aim in frame.aims] == [(0.99, True), (0.9, False), (None, False)]


def test_rows_say_what_was_on() -> None:
    frame = Frame(quick=False)
    training.rows(frame, {BARE: costs(1.0), OURS: costs(2.0), HF: []}, Path(sys.executable))
    found = {(row.who, row.metric): row for row in frame.rows}
    assert found[OURS, "bare loop's processor time over its own"].value == 0.5
    assert "4 checkpoints" in found[OURS, "processor time per step"].why
    assert not any(who == HF for who, _ in found)


def test_who_failed_is_left_out_and_said() -> None:
    def broken() -> Cost:
        raise ChildBroke("hf_trainer: it ended with code 1")

    frame, found = Frame(quick=False), {HF: costs(1.0)}
    for _ in range(2):
        training._round(frame, found, {HF: broken}, HF)
    assert found == {}
    assert [row.why for row in frame.rows] == ["hf_trainer: it ended with code 1"]


def test_what_a_peer_lacks_is_named(tmp_path: Path) -> None:
    said = training.lacking(tmp_path / "python", ("lightning", "torch"))
    assert "lightning and torch not installed" in said
    assert training.lacking(Path(sys.executable), ("torch",)) == ""


@pytest.mark.parametrize("module", [module for module, _ in training.PEERS.values()])
def test_every_peer_is_there(module: str) -> None:
    assert (CHECKOUT / "benchmarks" / "peers" / f"{module}.py").is_file()


def test_the_windows_and_the_corpus_are_one_text(tmp_path: Path) -> None:
    import json

    from safetensors.torch import load_file

    training.windows(tmp_path)
    tokens = load_file(tmp_path / "windows.safetensors")["tokens"]
    assert tokens.shape[1] == small_gpt.SEQUENCE + 1
    assert bool((tokens[1:, 0] == tokens[:-1, -1]).all()), "a window begins where the one before ends"
    lines = (tmp_path / "corpus.jsonl").read_text("utf-8").splitlines()
    whole = "".join(json.loads(line)["text"] for line in lines).encode()
    assert whole.startswith(bytes(tokens[0].tolist()))
    assert abs(len(whole) - training.TEXT_BYTES) < 2_000
