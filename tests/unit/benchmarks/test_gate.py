"""The made-up models of bench gate are as good as they are said to be, and a short run judges them."""

from __future__ import annotations

import random
import statistics

import pytest

from benchmarks import gate
from benchmarks.frame import Frame


@pytest.mark.parametrize("gain", [0.0, 0.04])
def test_a_model_is_better_by_what_was_asked_for(gain: float) -> None:
    generator, gains = random.Random(3), []
    for _ in range(60):
        holdout = gate.Holdout.drawn(generator, 500, 1)
        luck = holdout.luck(generator)
        gains.append(holdout.answered(generator, luck, gain).accuracy - holdout.answered(generator, luck).accuracy)
    assert statistics.fmean(gains) == pytest.approx(gain, abs=0.006)


def test_a_quick_run_judges_all_four(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("QUICK_SERIES", 2), ("QUICK_POWER_RUNS", 4), ("QUICK_BETS", 40), ("QUICK_CHECK_ROUNDS", 120)):
        monkeypatch.setattr(gate, name, few)
    frame = Frame(quick=True)
    gate.run(frame)
    metrics = {(row.who, row.metric) for row in frame.rows}
    assert (gate.HIGHER, f"series of {gate.CHALLENGERS} equal challengers that promote one") in metrics
    assert ("Ramify, challenger 10", "seen: +0.04 accuracy, 500 items") in metrics
    assert ("Ramify, 20% of workers cheat, from the start", "cheats found") in metrics
    assert len(frame.aims) == 3
    assert not frame.failures
