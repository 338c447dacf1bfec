"""The transformer: transformers' own Llama gives the same logits; the future is not seen; a cache changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from executors.models.transformer import IGNORED, Cache, Shape, Transformer, described, generated

SMALL = Shape(vocabulary=61, width=24, layers=2, heads=4, kv_heads=2, head_width=8, inner=40, context=32)


def network(shape: Shape = SMALL) -> Transformer:
    torch.manual_seed(3)
    made = Transformer(shape).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.3)  # far from the start, where a slip would not show
    return made


def tokens(count: int = 20) -> torch.Tensor:
    return torch.randint(0, SMALL.vocabulary, (3, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_llama_gives_the_same_logits(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    mine = network(dataclasses.replace(SMALL, tied=tied))
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**described(mine.shape))).eval()
    left = theirs.load_state_dict(mine.state_dict(), strict=False)
    assert left.missing_keys == (["lm_head.weight"] if tied else [])
    assert not left.unexpected_keys
    theirs.tie_weights()
    with torch.inference_mode():
        expected = theirs(tokens()).logits
        difference = (mine(tokens()) - expected).abs().max()
    assert float(expected.abs().max()) > 0.5
    assert float(difference) < 1e-5


def test_a_token_sees_nothing_that_comes_after_it() -> None:
    before, after = tokens(), tokens()
    after[:, 12:] = (after[:, 12:] + 1) % SMALL.vocabulary
    with torch.inference_mode():
        one, other = network()(before), network()(after)
    assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.allclose(one[:, 12:], other[:, 12:])


def test_reading_on_with_a_cache_gives_what_reading_at_once_gives() -> None:
    made, cache = network(), Cache()
    with torch.inference_mode():
        whole = made(tokens())
        parts = [made(part, cache) for part in torch.split(tokens(), [5, 7, 1, 1, 6], dim=1)]
    assert cache.tokens == 20
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def test_the_count_of_parameters_is_what_the_network_has() -> None:
    for shape in (SMALL, dataclasses.replace(SMALL, tied=False, kv_heads=4)):
        assert sum(one.numel() for one in Transformer(shape).parameters()) == shape.parameters


def test_a_loss_counts_only_the_targets_that_are_asked_for() -> None:
    made, read = network(), tokens()
    targets = read.roll(-1, 1)
    masked = targets.clone()
    masked[:, 10:] = IGNORED
    with torch.inference_mode():
        assert torch.allclose(made.loss(read, masked), made.loss(read[:, :10], targets[:, :10]), rtol=1e-5)


def test_more_than_its_context_is_refused_and_generation_ends_there() -> None:
    made = network()
    with pytest.raises(ValueError, match="32 tokens at once, got 33"):
        made(tokens(33))
    drawn = generated(made, tokens()[0], 100, temperature=1.0, generator=torch.Generator().manual_seed(2))
    again = generated(made, tokens()[0], 100, temperature=1.0, generator=torch.Generator().manual_seed(2))
    assert len(drawn) == 32 - 20 + 1
    assert drawn == again
    ended = generated(made, tokens()[0], 100, temperature=1.0, generator=torch.Generator().manual_seed(2), end=drawn[3])
    assert ended == drawn[: drawn.index(drawn[3])]


def test_impossible_shapes_are_refused() -> None:
    for change in ({"kv_heads": 3}, {"head_width": 7}, {"layers": 0}, {"theta": 0.5}):
        with pytest.raises(ValueError):
            dataclasses.replace(SMALL, **change)
