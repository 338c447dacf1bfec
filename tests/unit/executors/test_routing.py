"""Routers: their numbers against a slow obvious second way, their files, and what they refuse."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from executors.branching.words import words
from executors.routing import Card, Fitted, Router, card_of
from mesh.errors import ModelRefused

VOCABULARY = ("card", "loan", "fees", "بطاقه", "天気")


def router(seed: int = 1, k: int = 3, dims: int = 4, **more: Any) -> Router:
    draw = np.random.Generator(np.random.Philox(seed))
    idf = draw.uniform(1.0, 5.0, len(VOCABULARY)).astype(np.float32)
    components, centres = (draw.standard_normal((rows, dims)).astype(np.float32) for rows in (len(VOCABULARY), k))
    centres /= 1.2 * np.linalg.norm(centres, axis=1, keepdims=True)
    return Router(card_of(VOCABULARY, centres, **more), VOCABULARY, idf, components, centres)


def slow_weights(one: Router, text: str, temperature: float, top: int) -> list[float]:
    """Word by word and branch by branch, in Python's own numbers."""
    counts = Counter(word for word in words(text) if word in one.vocabulary)
    place = [0.0] * one.card.dims
    for word, count in counts.items():
        row = one.vocabulary.index(word)
        value = (1.0 + math.log(count)) * float(one.idf[row])
        place = [old + value * float(part) for old, part in zip(place, one.components[row], strict=True)]
    norm = math.sqrt(sum(part * part for part in place))
    if not norm:
        raw = list(one.card.shares)
    else:
        squared = [
            sum((a / norm - float(b)) ** 2 for a, b in zip(place, centre, strict=True)) for centre in one.centres
        ]
        raw = [math.exp(-distance / temperature) for distance in squared]
    kept = sorted(range(one.k), key=lambda branch: (-raw[branch], branch))[:top]
    total = sum(raw[branch] for branch in kept)
    return [raw[branch] / total if branch in kept else 0.0 for branch in range(one.k)]


TEXTS = ("card card loan", "fees, please: fees!", "CARD loan fees", "nothing known", "", "天気 card", "loan " * 30)


@pytest.mark.parametrize(("temperature", "top"), [(0.1, 2), (1.0, 3), (0.05, 1), (0.3, 9)])
def test_weights_are_those_of_a_slow_second_way(temperature: float, top: int) -> None:
    one = router(shares=(0.5, 0.2, 0.3))
    fast = one.weights(TEXTS, temperature, top)
    slow = np.array([slow_weights(one, text, temperature, top) for text in TEXTS])
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, slow, atol=1e-6)
    np.testing.assert_allclose(fast.sum(axis=1), 1.0, atol=1e-6)


def test_nearest_entropy_and_places_agree() -> None:
    one = router(shares=(0.2, 0.5, 0.3))
    placed = one.embed(TEXTS)
    assert placed.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(placed, axis=1), [1, 1, 1, 0, 0, 1, 1], atol=1e-6)
    assert one.nearest(TEXTS).tolist() == one.weights(TEXTS, top=3).argmax(axis=1).tolist()
    assert one.nearest(["nothing known"]).tolist() == [1]
    assert one.entropy([""])[0] == pytest.approx(-sum(p * math.log(p) for p in (0.2, 0.5, 0.3)), abs=1e-6)
    assert 0.0 <= one.entropy(TEXTS).min() <= one.entropy(TEXTS).max() <= math.log(3) + 1e-6
    assert one.entropy(TEXTS, 1e-3)[0] < 1e-6
    assert one.known(["card 12 unheard", "", "loan"]).tolist() == [0.5, 0.0, 1.0]


def test_many_texts_are_placed_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from executors import routing

    one, ticks = router(), []
    texts = [" ".join(VOCABULARY[: 1 + row % 5]) for row in range(50)] + ["", "unheard"]
    whole = one.embed(texts)
    monkeypatch.setattr(routing, "GATHERED_MAX", 7)
    np.testing.assert_array_equal(one.embed(texts, lambda: ticks.append(1)), whole)
    assert len(ticks) > 10
    np.testing.assert_array_equal(whole, np.concatenate([one.embed([text]) for text in texts]))
    assert one.embed([]).shape == (0, 4)


def test_a_lead_is_cut_between_characters() -> None:
    assert router(lead_bytes=5).lead("aéé東京") == "aéé"
    assert router(lead_bytes=6).lead("aéé東京") == "aéé"
    assert router().lead("whole") == "whole"


def test_a_saved_router_is_the_same(tmp_path: Path) -> None:
    fitted = Fitted(examples=7, seen=3, entropy=0.5, entropy_deviation=0.1, known=0.9, shares=(0.2, 0.5, 0.3))
    one = router(names=("a", "b", "c"), keywords=(("x",), (), ("y",)), shares=(0.2, 0.5, 0.3), fitted=fitted, top=3)
    other = Router.load(one.save(tmp_path / "router"))
    assert other.card == one.card
    np.testing.assert_array_equal(other.weights(TEXTS), one.weights(TEXTS))
    again = router(names=("a", "b", "c"), keywords=(("x",), (), ("y",)), shares=(0.2, 0.5, 0.3), fitted=fitted, top=3)
    again.save(tmp_path / "again")
    for path in sorted((tmp_path / "router").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def changed(folder: Path, **values: Any) -> None:
    card = json.loads((folder / "router.json").read_text())
    (folder / "router.json").write_text(json.dumps({**card, **values}))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelRefused) as caught:
        Router.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_routers_are_refused_in_one_sentence(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        return router().save(tmp_path / name)

    assert "can not be read" in refusal(tmp_path / "nowhere")
    for index, (values, why) in enumerate(
        [
            ({"format": 9}, "format 9"),
            ({"k": 4}, "centres"),
            ({"k": 0}, "k 0"),
            ({"dims": 5}, "components"),
            ({"terms": 6}, "different words"),
            ({"temperature": 0}, "router.json"),
            ({"temperature": "hot"}, "router.json"),
            ({"names": ["one"]}, "names"),
            ({"vocabulary_sha256": "0"}, "vocabulary.txt"),
        ]
    ):
        place = folder(f"card-{index}")
        changed(place, **values)
        assert why in refusal(place)
    place = folder("cut")
    data = (place / "router.safetensors").read_bytes()
    (place / "router.safetensors").write_bytes(data[:-3])
    refusal(place)
    place = folder("words")
    (place / "vocabulary.txt").write_text("card\nloan\n")
    assert "vocabulary.txt" in refusal(place)
    place = folder("gone")
    (place / "router.safetensors").unlink()
    refusal(place)
    one = router()
    one.centres[0, 0] = np.nan
    assert "no numbers" in refusal(one.save(tmp_path / "nan"))


def test_foreign_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        router().weights(["card"], temperature=0.0)
    with pytest.raises(ValueError, match="top"):
        router().weights(["card"], top=0)
    assert msgspec.json.decode(msgspec.json.encode(router().card), type=Card) == router().card
