"""Parts of `bench specialists`: its corpus, its mixtures, its comparisons."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import specialists, specialists_corpus, specialists_reading
from benchmarks.frame import Frame
from benchmarks.specialists_corpus import DOCUMENT_BYTES, SIDES, Bounds
from executors.models import reading, tokens
from executors.models.transformer import Shape, Transformer
from mesh.errors import DataRefused

SHAPE = Shape(tokens.BYTES_VOCABULARY, width=8, layers=1, heads=1, kv_heads=1, head_width=8, inner=8, context=12)


def folder(place: Path) -> Path:
    """Two domains of forty files; one text stands in ten of them."""
    for domain in ("prose", "logs"):
        (place / domain).mkdir(parents=True)
        for number in range(40):
            lines = [f"{domain} {number} says line {line} and {number * line}" for line in range(120)]
            text = "\n".join(["the same page " * 80] if number % 4 == 0 else lines)
            (place / domain / f"{number}.txt").write_text(text)
    (place / "logs" / "old.gz").write_bytes(gzip.compress(b"an entry of an old log\n" * 60))
    (place / "logs" / "noise").write_bytes(bytes(range(32)) * 100)
    return place


def test_no_file_and_no_text_stands_on_two_sides(tmp_path: Path) -> None:
    bounds = Bounds(domain_bytes=1_000_000, asked=20, development=10)
    made = specialists_corpus.made(specialists_corpus.folder(folder(tmp_path)), bounds)
    files = {side: {one.file for one in made.sides[side]} for side in SIDES}
    texts = [one.text for side in SIDES for one in made.sides[side]]
    assert not files["train"] & (files["test"] | files["development"])
    assert not files["test"] & files["development"]
    assert all(files.values())
    assert len(set(texts)) == len(texts)
    assert sum("the same page" in text for text in texts) <= 1
    assert all(len(text.encode()) <= DOCUMENT_BYTES for text in texts)
    assert any("an old log" in text for text in texts)
    again = specialists_corpus.made(specialists_corpus.folder(tmp_path), bounds)
    assert again == made


def test_a_corpus_travels_through_its_files(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    bounds = Bounds(domain_bytes=5_000, asked=6, development=4)
    made = specialists_corpus.made(specialists_corpus.folder(folder(tmp_path / "in")), bounds)
    specialists_corpus.write(made, tmp_path / "out")
    assert {side: specialists_corpus.read(tmp_path / "out", side) for side in SIDES} == made.sides


def test_a_file_is_cut_behind_its_lines_and_nothing_is_lost() -> None:
    text = "\n".join("word " * (number % 90) for number in range(300)) + "x" * 9_000
    pieces = list(specialists_corpus.cut(text))
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces[:-6])


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a word")
    with pytest.raises(DataRefused, match="too little text"):
        specialists_corpus.made(specialists_corpus.folder(tmp_path), Bounds(1_000, 4, 4))


def test_bytes_are_foretold_as_an_evaluation_foretells_them() -> None:
    torch.manual_seed(3)
    network, vocabulary = Transformer(SHAPE), tokens.bytewise()
    documents = vocabulary.encode(
        ["abc", "to be, or not to be, that is the question", "x" * 12, "y" * 11], lambda: None
    )
    found = specialists_reading.foretold(network, documents, vocabulary, 12)
    whole = reading.read(network, documents, vocabulary, torch.device("cpu"), lambda: None, context=12, overlap=False)
    assert [len(one) for one in found] == np.diff(documents.offsets).tolist()
    ends = whole.nats - [one.sum() for one in found]
    assert ((ends > 0) & (ends < 20)).all(), "only the end of each document is left out"


def test_mixtures_are_of_probabilities() -> None:
    draw = np.random.default_rng(1)
    readings = [[draw.uniform(0.1, 5.0, size) for size in (4, 7)] for _ in range(3)]
    weights = [np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.3, 0.5])]
    for row, mixture in enumerate(specialists_reading.mixed(readings, weights)):
        for place, nats in enumerate(mixture):
            shares = (w * math.exp(-of[row][place]) for w, of in zip(weights[row], readings, strict=True))
            assert nats == pytest.approx(-math.log(sum(shares)))


def test_a_posterior_knows_what_came_before_and_nothing_else() -> None:
    readings = [[np.array([1.0, 1.0, 9.0])], [np.array([2.0, 3.0, 0.1])]]
    (shares,) = specialists_reading.posterior(readings)
    assert shares[:, 0].tolist() == [0.5, 0.5]
    assert shares[0, 1] == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert shares[0, 2] == pytest.approx(1 / (1 + math.exp(-3.0)))
    assert shares.sum(axis=0) == pytest.approx(1.0)


def test_ahead_means_a_smaller_loss() -> None:
    ours, other = np.full(40, 1.0), np.linspace(1.1, 1.3, 40)
    ran = specialists.Ran(1, {}, {"specialists, top 2": ours, "serial": other}, np.arange(40) // 2)
    found = specialists.compared(ran, "specialists, top 2", "serial")
    assert found.effect == pytest.approx(0.2)
    assert 0.15 < found.low < 0.2 < found.high


def test_every_arm_is_a_row_and_every_comparison_an_aim() -> None:
    draw = np.random.default_rng(2)
    losses = {arm: 1.5 + draw.normal(0.0, 0.01, 60) for arm in specialists.ARMS}
    losses |= {arm: losses[arm] - 0.1 for arm in specialists.OURS}
    curve = [[0.0, 5.5], [1_500.0, 2.0], [3_000.0, 1.85]]
    pilot = {"routed": [1.0, 1.1, 1.0, 1.2], "serial": [1.1, 1.2, 1.1, 1.3], "file": [1.0, 1.0, 2.0, 3.0]}
    told = {"curve": curve, "pilot": pilot, "sizes": [9, 8, 7, 6], "step_s": 0.02, "wall_s": 9.0}
    ran = [specialists.Ran(seed, told, losses, np.arange(60) // 2) for seed in (1, 2)]
    frame = Frame(quick=True)
    specialists._judged(frame, ran, "")
    specialists._aimed(frame, ran)
    assert {row.who for row in frame.rows if row.metric == "loss"} == set(specialists.ARMS.values())
    assert len([row for row in frame.rows if row.metric == "difference"]) == 11
    assert [aim.met for aim in frame.aims] == [True] * 10
    ready = [row.why for row in frame.rows if "last half" in row.metric]
    assert len(ready) == 2
    assert all("may be branched" in why for why in ready)
    specialists._aimed(worse := Frame(quick=True), [])
    assert not any(aim.met for aim in worse.aims)
