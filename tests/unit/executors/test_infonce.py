"""InfoNCE: what it is, what it masks; gradients of a batch in parts are those of the whole; queues remember."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from executors.models.dual import Batch, Dual, Shape
from executors.models.infonce import Keys, gradients, info_nce
from executors.models.network import Rows
from executors.models.queues import Queues
from executors.trainable import Step

SHAPE = Shape(inputs=12, width=12, sparse=False, tower="mlp", shared=False)


def step(targets: int, between: Callable[[], None] = lambda: None) -> Step:
    return Step(0, targets, contextlib.nullcontext, torch.autograd.backward, between)


def batch(rows: int, seed: int = 0, *, dtype: Any = torch.float32) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(rows, SHAPE.inputs, generator=draw, dtype=dtype) for _ in range(2))
    ids = torch.arange(rows) + 1_000 * seed
    return Batch(Rows(left), Rows(right), ids, ids + 1_000_000)


def cut(whole: Batch, size: int) -> list[Batch]:
    parts = []
    for start in range(0, len(whole), size):
        rows = slice(start, start + size)
        assert isinstance(whole.left, Rows)
        assert isinstance(whole.right, Rows)
        parts.append(
            Batch(Rows(whole.left.values[rows]), Rows(whole.right.values[rows]), whole.left_ids[rows],
                  whole.right_ids[rows])
        )  # fmt: skip
    return parts


def dual(**changes: Any) -> Dual:
    torch.manual_seed(5)
    network = Dual(SHAPE, **changes)
    with torch.no_grad():
        for parameter in network.tower_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def grads(network: Dual) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None}


def plainly(left: Tensor, right: Tensor, left_ids: Tensor, right_ids: Tensor, temperature: float) -> float:
    """The loss written out in loops."""
    total = 0.0
    for this, that, these, those in ((left, right, left_ids, right_ids), (right, left, right_ids, left_ids)):
        for i in range(len(this)):
            allowed = [j for j in range(len(that)) if j == i or (these[j] != these[i] and those[j] != those[i])]
            scores = [math.exp(float(this[i] @ that[j]) / temperature) for j in allowed]
            total -= math.log(math.exp(float(this[i] @ that[i]) / temperature) / sum(scores)) / 2.0
    return total


def test_the_loss_is_what_the_formula_says_and_repeated_texts_are_no_negatives() -> None:
    draw = torch.Generator().manual_seed(1)
    left, right = (
        torch.nn.functional.normalize(torch.randn(8, 5, generator=draw, dtype=torch.float64), dim=1) for _ in range(2)
    )
    left_ids, right_ids = torch.tensor([1, 2, 3, 1, 5, 6, 7, 8]), torch.tensor([11, 12, 13, 14, 15, 12, 17, 18])
    found = info_nce(left, right, left_ids, right_ids, torch.tensor(0.3, dtype=torch.float64))
    assert float(found) == pytest.approx(plainly(left, right, left_ids, right_ids, 0.3), rel=1e-9)
    assert float(found) != pytest.approx(plainly(left, right, torch.arange(8), torch.arange(8) + 50, 0.3), rel=1e-3)


@pytest.mark.parametrize("size", [1, 4, 7, 16])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("queue", [0, 8])
def test_gradients_in_parts_are_those_of_the_whole_batch(size: int, dropout: float, queue: int) -> None:
    whole = batch(16, 3)
    if dropout and size == 16:
        pytest.skip("one part draws what the whole draws")
    network = dual(dropout=dropout, input_dropout=dropout)
    memory = Queues(network, queue, 0.99) if queue else None
    if memory is not None:
        memory.keys([batch(6, 9)])
        memory.moved()
    network.train()
    torch.manual_seed(11)
    loss = gradients(network, cut(whole, size), step(16), lambda: memory.keys([whole]) if memory else None)
    ended = torch.get_rng_state()
    cached = grads(network)
    network.zero_grad()
    torch.manual_seed(11)
    vectors = [network(part) for part in cut(whole, size)]  # every part draws in its turn, as above
    left, right = (torch.cat([each[side] for each in vectors]) for side in (0, 1))
    keys = memory.keys([whole]) if memory else None
    plain = info_nce(left, right, whole.left_ids, whole.right_ids, network.temperature, keys) / 16
    torch.autograd.backward(plain)
    assert loss == pytest.approx(float(plain.detach()), rel=1e-6)
    assert grads(network).keys() == cached.keys()
    assert "log_temperature" in cached
    for name, one in grads(network).items():
        assert float((cached[name] - one).norm()) <= 1e-5 * max(1e-6, float(one.norm())), name
    assert torch.equal(torch.get_rng_state(), ended)


def test_negatives_of_other_parts_count() -> None:
    whole, network = batch(16, 3), dual()
    together = gradients(network, cut(whole, 4), step(16), lambda: None)
    apart = sum(gradients(network, [part], step(16), lambda: None) for part in cut(whole, 4))
    assert together > apart + 0.1


def test_a_step_may_be_left_between_two_parts() -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    network = dual()
    with pytest.raises(Left):
        gradients(network, cut(batch(8), 4), step(8, leave), lambda: None)
    assert not grads(network)


def test_keys_of_the_same_text_are_masked_in_the_queue() -> None:
    network = dual()
    one = batch(4, 1)
    left, right = network(one)
    base = {"left": left.detach(), "right": right.detach()}
    other = batch(4, 2)
    there = [each.detach() for each in network(other)]
    ids = (other.left_ids, other.right_ids)
    temperature = network.temperature

    def loss(queue_ids: tuple[Tensor, Tensor]) -> float:
        keys = Keys(**base, queue_left=there[0], queue_right=there[1], queue_left_ids=queue_ids[0],
                    queue_right_ids=queue_ids[1])  # fmt: skip
        return float(info_nce(left, right, one.left_ids, one.right_ids, temperature, keys).detach())

    none = (one.left_ids[:0], one.right_ids[:0])
    empty = Keys(**base, queue_left=there[0][:0], queue_right=there[1][:0], queue_left_ids=none[0],
                 queue_right_ids=none[1])  # fmt: skip
    alone = float(info_nce(left, right, one.left_ids, one.right_ids, temperature, empty).detach())
    assert loss(ids) > alone + 1e-4
    masked = (ids[0], torch.full_like(ids[1], int(one.right_ids[0])))
    assert alone < loss(masked) < loss(ids)


def test_queues_take_the_newest_keys_and_the_copies_follow_slowly() -> None:
    network = dual()
    memory = Queues(network, 6, 0.9)
    before = {name: tensor.clone() for name, tensor in memory.state().items()}
    with torch.no_grad():
        for parameter in network.tower_parameters():
            parameter.add_(1.0)
    for seed, filled in ((1, 4), (2, 6), (3, 6)):
        memory.keys([batch(4, seed)])
        memory.moved()
        assert memory.filled == filled
    state = memory.state()
    assert state.keys() == before.keys()
    kept = sorted(state["queue.left_ids"].tolist())
    assert kept == [2_002, 2_003, 3_000, 3_001, 3_002, 3_003]
    fast = dict(network.named_parameters())["left.entry.weight"]
    assert torch.allclose(state["slow.left.entry.weight"], fast - 0.9**3, atol=1e-5)
    assert torch.equal(state["slow.log_temperature"], before["slow.log_temperature"])


def test_a_batch_larger_than_the_queue_fills_it_once() -> None:
    memory = Queues(dual(), 3, 0.99)
    memory.keys([batch(5, 1)])
    memory.moved()
    assert sorted(memory.state()["queue.left_ids"].tolist()) == [1_002, 1_003, 1_004]
