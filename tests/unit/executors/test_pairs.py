"""Pairs of texts: read from every form, divided without a shared text, refused in a sentence; rankings against a slow
obvious version."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from executors import pairs
from executors.models import ranking
from mesh.errors import DataRefused

SOME = [(f"what is {word} {number}", f"{word} is the thing number {number}") for word in ("salt", "sugar", "sand")
        for number in range(40)]  # fmt: skip


def written(folder: Path, rows: list[tuple[str, str]], form: str) -> Path:
    path = folder / f"pairs.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps({"left": one, "right": other}) + "\n" for one, other in rows))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"right": [b for _, b in rows], "left": [a for a, _ in rows]}), path)
    else:
        path.write_text("question\tanswer\n" + "".join(f"{one}\t{other}\n" for one, other in rows))
    return path


@pytest.mark.parametrize("form", ["jsonl", "tsv", "parquet"])
def test_every_form_gives_the_same_pairs(tmp_path: Path, form: str) -> None:
    found = pairs.read(written(tmp_path, [*SOME, SOME[0], ("WHAT is  salt 0", SOME[0][1])], form))
    assert list(zip(found.left, found.right, strict=True)) == SOME
    assert len(np.unique(found.left_ids)) == len(SOME)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = pairs.of(SOME[:30], ["nobody asked for this", "nor for that"])
    found = pairs.read(pairs.write(made, tmp_path / "held-out"))
    assert list(found.left) == list(made.left)
    assert list(found.distractors) == list(made.distractors)
    assert found.clusters.tolist() == made.clusters.tolist()


def test_no_text_stands_on_two_sides() -> None:
    draw = random.Random(4)
    rows = [(f"left {draw.randrange(300)}", f"right {draw.randrange(2_000)}") for _ in range(400)]
    rows += [(f"right {n}", f"a chain to {n}") for n in range(0, 2_000, 3)]
    divided = pairs.divide(pairs.of(rows))
    texts = [
        {*part.left_ids.tolist(), *part.right_ids.tolist()}
        for part in (divided.train, divided.validation, divided.held_out)
    ]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert sum(map(len, (divided.train, divided.validation, divided.held_out))) == len(pairs.of(rows))
    again = pairs.divide(pairs.of(rows))
    assert again.held_out.left == divided.held_out.left


def test_held_out_pairs_of_somebody_else_take_their_texts_out_of_the_rest() -> None:
    out = pairs.of([*SOME[:10], ("another question", SOME[20][1])])
    divided = pairs.divide(pairs.of(SOME), out)
    assert divided.held_out is out
    known = {*SOME[:10], SOME[20]}
    seen = set(zip([*divided.train.left, *divided.validation.left], [*divided.train.right, *divided.validation.right],
                   strict=True))  # fmt: skip
    assert seen == set(SOME) - known


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows|holds no|is empty"),
        ([("a", ""), ("b", "c")], "no text on the right"),
        ([("", "only a distractor")] * 3, "no pair"),
    ],
)
def test_what_is_no_pairs_is_refused(tmp_path: Path, rows: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(DataRefused, match=said):
        pairs.read(written(tmp_path, rows, "jsonl"))


def test_other_columns_are_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "three.jsonl"
    path.write_text('{"a": "1", "b": "2", "c": "3"}\n' * 3)
    with pytest.raises(DataRefused, match="'a', 'b', 'c'"):
        pairs.read(path)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(DataRefused, match="5 pairs"):
        pairs.divide(pairs.of(SOME[:5]))
    one_right = pairs.of([(f"question {n}", "the one answer") for n in range(100)])
    with pytest.raises(DataRefused, match="1 clusters"):
        pairs.divide(one_right)


def test_ranks_are_those_of_the_obvious_version(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    rows = [(f"left {draw.randrange(30)}", f"right {draw.randrange(40)}") for _ in range(60)]
    some = pairs.of(rows, [f"distractor {n}" for n in range(5)])
    pool = ranking.pool_of(some)
    scores = np.random.default_rng(1).integers(0, 9, (len(some), len(pool))).astype(np.float32)
    monkeypatch.setattr(ranking, "BLOCK_CELLS", 7 * len(pool))
    found = ranking.rank(lambda rows: scores[rows], pool)
    partners = {(left, right) for left, right in zip(some.left, some.right, strict=True)}
    for number, (left, right) in enumerate(zip(some.left, some.right, strict=True)):
        own = scores[number, pool.texts.index(right)]
        rivals = [
            scores[number, place]
            for place, text in enumerate(pool.texts)
            if text != right and (left, text) not in partners
        ]
        assert found.ranks[number] == 1 + sum(s > own for s in rivals) + sum(s == own for s in rivals) / 2
        shares = np.exp(np.array([*rivals, own], np.float64))
        assert found.loss[number] == pytest.approx(-np.log(shares[-1] / shares.sum()), rel=1e-4)
    assert len(pool) == len({*some.right}) + 5
    assert len(ranking.pool_of(some, texts_max=len(pool) - 3)) == len(pool) - 3


def test_bm25_finds_words_and_is_fair_to_questions_without_a_known_word() -> None:
    some = pairs.of([("green apple", "an apple that is green"), ("red car", "the car is red"), ("zzz", "the last one")])
    pool = ranking.pool_of(some)
    found = ranking.bm25(some.left, pool)
    assert found.ranks.tolist() == [1.0, 1.0, 2.0]
    assert ranking.measures(found)["recall_at_1"] == pytest.approx(2 / 3)


def test_a_collapse_is_seen_and_a_good_space_is_not_one() -> None:
    draw = np.random.default_rng(0)

    def unit(x: np.ndarray) -> np.ndarray:
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)

    good = unit(draw.normal(size=(300, 32)))
    assert ranking.spread(good, good).collapsed(2.0) == ""
    assert 20 < ranking.spread(good, good).effective_rank <= 32
    line = unit(np.ones((300, 32)) + 0.01 * draw.normal(size=(300, 32)))
    assert "dimensions" in ranking.spread(good, line).collapsed(2.0)
    assert "alike" in ranking.spread(line, line).collapsed(1.0)
