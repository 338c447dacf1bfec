"""A tree of language models: each token is foretold by what its models say together, weighed by what came before."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from executors import outcomes
from executors.corpus import read_corpus
from executors.kinds.evaluate import Evaluate
from executors.kinds.tree import Tree
from executors.models import language, tokens, treelanguage
from executors.models.language import LanguageModel
from executors.models.loading import load_model
from executors.models.transformer import Shape, Transformer
from executors.models.treechoosing import LOSS_GAIN_LEAST
from executors.port import Made
from executors.routing import Router
from mesh.errors import ModelRefused
from tests.support import hand_routers
from tests.support.executing import made_by

CPU = torch.device("cpu")
CONTEXT, REREAD, LEAD = 24, 8, 20
GRID: dict[str, Any] = {"temperatures": [0.3], "tops": [1, 2], "flat_shares": [0.0, 0.2], "reread": REREAD}


def network(folder: Path, seed: int, vocabulary: tokens.Vocabulary | None = None) -> Path:
    """A random one, which is sure of itself: its logits are spread."""
    cut = vocabulary or tokens.bytewise()
    shape = Shape(vocabulary=cut.size, width=16, layers=1, heads=2, kv_heads=2, head_width=8, inner=24, context=CONTEXT)
    torch.manual_seed(seed)
    made = Transformer(shape)
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(15.0)
    return language.save(LanguageModel(made, cut), folder, {"kind": language.KIND}, "")


def documents(file: Path) -> Path:
    texts = [text for text, _ in hand_routers.examples(24, 3)]
    texts[1], texts[2], texts[4] = "mañana: “card” arrive ☃ " + texts[1], "x", texts[4] + " " + texts[5] * 3
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("grown")
    found = {name: network(folder / name, seed) for seed, name in enumerate(("flat", "member-0", "member-2"))}
    router = hand_routers.router(lead_bytes=LEAD, shares=(0.5, 0.2, 0.3))
    return {**found, "router": router.save(folder / "router"), "validation": documents(folder / "validation.jsonl")}


@pytest.fixture(scope="module")
def made(grown: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_by(Tree(), grown, tmp_path_factory.mktemp("made"), GRID)


def with_mixing(made: Made, target: Path, **changes: Any) -> Path:
    shutil.copytree(made.outputs["model"], target)
    config = json.loads((target / "config.json").read_bytes())
    config["ramify"] |= {"temperature": 0.3, "reread": REREAD, **changes}
    (target / "config.json").write_text(json.dumps(config))
    return target


@functools.cache
def network_of(folder: Path) -> Any:
    return language.load(folder).network.eval()


def slow_next(folder: Path, read: list[int], targets: int) -> np.ndarray:
    """[257], probability of each token after these, from the window that reading.py draws in a document of so many
    targets."""
    whole, step, done = [0, *read], CONTEXT // 2, CONTEXT
    first = 0
    while len(whole) > done:
        counted = min(step, targets - done)
        done, first = done + counted, done + counted - CONTEXT
    with torch.inference_mode():
        logits = network_of(folder)(torch.tensor([whole[first:]]))[0, -1]
    return torch.softmax(logits.double(), 0).numpy()


def slow_nats(folder: Path, text: str) -> float:
    """Nats of one document, token by token, the obvious way."""
    config = json.loads((folder / "config.json").read_bytes())["ramify"]
    router = Router.load(folder / "router")
    models = {branch: folder / f"members/{branch}" for branch in config["members"]}
    own, share = [byte + 1 for byte in text.encode()], config["flat_share"]
    weights = [0.0, 0.0, 0.0]
    past = {branch: math.log(shares) for branch, shares in enumerate((0.5, 0.2, 0.3))}
    total, mixed = 0.0, np.zeros(257)
    for place, token in enumerate([*own, 0]):
        told = {
            branch: slow_next(models.get(branch, folder / "flat"), own[:place], len(own) + 1) for branch in range(3)
        }
        flat = slow_next(folder / "flat", own[:place], len(own) + 1)
        if config["routing"] == "likelihood":
            joint = {"0": math.log((1 - share) * 0.5) + past[0] - math.log(0.5),
                     "2": math.log((1 - share) * 0.3) + past[2] - math.log(0.3),
                     "flat": math.log(share + (1 - share) * 0.2) + past[1] - math.log(0.2)}  # fmt: skip
            said = {"0": told[0], "2": told[2], "flat": flat}
            shares = {name: math.exp(one - max(joint.values())) for name, one in joint.items()}
            mixed = np.sum([shares[name] * said[name] for name in said], axis=0) / sum(shares.values())
            for branch, name in ((0, "0"), (2, "2"), (1, "flat")):
                past[branch] += math.log(said[name][token])
        else:
            if place and place % REREAD == 0:
                before = b"".join(bytes([one - 1]) for one in own[: place - REREAD])
                if place == REREAD or len(before.decode(errors="ignore").encode()) < LEAD:
                    seen = bytes(one - 1 for one in own[:place]).decode(errors="ignore").encode()[:LEAD]
                    weights = [
                        float(one) for one in router.weights([seen.decode(errors="ignore")], 0.3, config["top"])[0]
                    ]
            mixed = flat
            if any(weights):
                mixed = share * flat + (1 - share) * np.sum(
                    [weight * told[branch] for branch, weight in enumerate(weights)], axis=0
                )
        total -= math.log(mixed[token])
    return total


@pytest.mark.parametrize(
    "mixing",
    [{"routing": "centres", "top": 2, "flat_share": 0.2}, {"routing": "centres", "top": 1, "flat_share": 0.0},
     {"routing": "likelihood", "top": 3, "flat_share": 0.2}],
)  # fmt: skip
def test_it_foretells_what_the_slow_way_says(
    made: Made, grown: dict[str, Path], tmp_path: Path, mixing: dict[str, Any]
) -> None:
    folder = with_mixing(made, tmp_path / "tree", **mixing)
    corpus = read_corpus(grown["validation"])
    found = np.frombuffer(load_model(folder).outcomes(corpus, CPU, lambda: None).loss, "<f4")
    for row in (0, 1, 2, 4):
        assert found[row] == pytest.approx(slow_nats(folder, corpus.texts[row]) / corpus.sizes[row], rel=1e-5)


def test_blocks_change_nothing(made: Made, grown: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, model = read_corpus(grown["validation"]), load_model(made.outputs["model"])
    whole = np.frombuffer(model.outcomes(corpus, CPU, lambda: None).loss, "<f4")
    monkeypatch.setattr(treelanguage, "BLOCK_NUMBERS", 120)
    again = np.frombuffer(model.outcomes(corpus, CPU, lambda: None).loss, "<f4")
    assert np.abs(whole - again).max() < 1e-5


@pytest.mark.parametrize("routing", ["centres", "likelihood"])
def test_a_stream_says_what_reading_says(made: Made, grown: dict[str, Path], tmp_path: Path, routing: str) -> None:
    model: Any = load_model(with_mixing(made, tmp_path / "tree", routing=routing, top=2, flat_share=0.1))
    own = [byte + 1 for byte in b"card arrive money track card"][: CONTEXT - 2]
    encoded = tokens.Encoded(np.array(own, np.uint16), np.array([0, len(own)]))
    told = model.tree.foretold(encoded, CPU, lambda: None)
    for begin in (0, 3, REREAD, REREAD + 1):
        stream = model.tree.stream(own[:begin], CPU)
        for place in range(begin, len(own)):
            following = stream.following()
            assert np.exp(following).sum() == pytest.approx(1.0)
            assert following[own[place]] == pytest.approx(told[place], abs=1e-5)
            stream.push(own[place])
        assert sum(share for _, share in stream.through()) == pytest.approx(1.0)


def test_evaluate_finds_the_claims_again_and_times_a_token(made: Made, grown: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"model": made.outputs["model"], "split": grown["validation"]}
    asked = made_by(Evaluate(), inputs, tmp_path, {"latency_items": 40})
    claims, found = (outcomes.read(one) for one in (made.outputs["claims"], asked.outputs["outcomes"]))
    assert np.abs(np.frombuffer(claims.loss, "<f4") - np.frombuffer(found.loss, "<f4")).max() < 1e-5
    assert asked.kpis["bits_per_byte"] == pytest.approx(made.kpis["validation_bits_per_byte"])
    assert "right_tokens" not in asked.kpis
    assert asked.kpis["latency_p95_ms"] > 0
    rows = [row for row in asked.facts["by_branch"] if row["items"]]
    assert sum(row["items"] for row in rows) == len(found.ids) // 8
    for row in rows:
        assert row["loss"] == pytest.approx(made.facts["by_branch"][row["branch"]]["tree"]["loss"], abs=1e-5)


def test_every_way_is_worth_what_the_tree_is_worth_that_mixes_so(
    made: Made, grown: dict[str, Path], tmp_path: Path
) -> None:
    choices = made.facts["choices"]
    assert len(choices) == 2 + 2 + 2
    corpus = read_corpus(grown["validation"])
    for number, one in enumerate(choices):
        mixing = {name: one[name] for name in ("routing", "top", "flat_share") if name in one}
        found = load_model(with_mixing(made, tmp_path / str(number), **mixing)).outcomes(corpus, CPU, lambda: None)
        assert outcomes.mean_loss(found) == pytest.approx(one["loss"], abs=2e-6)
    best = min(one["loss"] for one in choices)
    assert best - 1e-6 <= made.facts["tree"]["loss"] <= best * (1 + LOSS_GAIN_LEAST) + 1e-6
    assert {"specialist", "flat", "tree"} <= made.facts["by_branch"][0].keys()


def test_no_reading_sees_what_it_weighs() -> None:
    cut = tokens.bytewise()
    encoded = cut.encode(["abcdefgh" * 4, "short", ""], lambda: None)
    found = treelanguage.readings_of(encoded, cut, 8, 20)
    assert found.texts == ["abcdefgh", "abcdefgh" * 2, ("abcdefgh" * 3)[:20]]
    assert found.documents.tolist() == [0, 0, 0]
    lengths = [33, 6, 1]
    rows = [found.rows[first:last] for first, last in itertools.pairwise([0, *itertools.accumulate(lengths)])]
    assert rows[0].tolist() == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 9
    assert set(rows[1].tolist()) | set(rows[2].tolist()) == {0}


def test_byte_pairs_are_read_as_bytes_are() -> None:
    text = "card “arrive” ☃ money " * 3
    pairs = tokens.trained([text, *(text for text, _ in hand_routers.examples(200, 1))], 300)
    for cut in (pairs, tokens.bytewise()):
        own = cut.encode([text], lambda: None).tokens
        for read in range(1, len(own) + 1):
            found, is_whole = treelanguage.beginning(cut, own[:read], 20)
            assert text.startswith(found)
            assert len(found.encode()) <= 20
            assert is_whole or len(found) < 20
        assert treelanguage.beginning(cut, own, 20) == (text.encode()[:20].decode(errors="ignore"), True)


def test_a_tree_is_a_member_like_any_other(made: Made, grown: dict[str, Path], tmp_path: Path) -> None:
    outer = made_by(Tree(), {**grown, "member-0": made.outputs["model"]}, tmp_path, {**GRID, "routings": ["centres"]})
    assert outer.kpis["validation_loss"] > 0
    stream = load_model(outer.outputs["model"]).foreteller().stream([100, 101], CPU)  # type: ignore[attr-defined]
    assert np.exp(stream.following()).sum() == pytest.approx(1.0)


def test_another_tokenizer_is_refused(grown: dict[str, Path], tmp_path: Path) -> None:
    pairs = tokens.trained([text for text, _ in hand_routers.examples(200, 1)], 280)
    other = network(tmp_path / "other", 7, pairs)
    with pytest.raises(ModelRefused, match="'2' has another tokenizer"):
        made_by(Tree(), {**grown, "member-2": other}, tmp_path / "made", GRID)
