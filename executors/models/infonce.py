"""The contrastive loss, and a way to its gradient in bounded memory.

InfoNCE (van den Oord et al. 2018): of all keys the partner is to be named, in both directions; the loss of a pair is
the mean of the two, in nats. Keys that carry the same text as the partner, or whose own partner is the same text, are
no negatives: they are masked (a second copy of the right answer must not count as wrong).

With `Keys` from momentum encoders and queues (momentum contrast, He et al. 2020, on both sides) positives and
negatives are those keys; the batch's own pairs are a second task beside it.

Gradient caching (Gao et al. 2021): a batch is computed in parts.

    1  all parts forward without gradients, remembering the random generators before each
    2  the loss over all vectors; its gradient by each vector
    3  part by part forward again with the same random numbers, backward from its vectors' gradients

The sums are those of the whole batch at once (but for the order of additions); memory is that of one part and of all
vectors. The price is one more forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from executors.models.dual import Batch, Dual
from executors.trainable import Step


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """Vectors of the momentum encoders: of this batch, and of earlier ones in the queues (without gradients)."""

    left: Tensor
    right: Tensor
    """[n, d] of this batch."""
    queue_left: Tensor
    queue_right: Tensor
    """[k, d]"""
    queue_left_ids: Tensor
    queue_right_ids: Tensor
    """int64 [k]"""


def info_nce(
    left: Tensor, right: Tensor, left_ids: Tensor, right_ids: Tensor, temperature: Tensor, keys: Keys | None = None
) -> Tensor:
    """Summed loss of n pairs with vectors [n, d]."""
    same = _same(left_ids, right_ids, left_ids, right_ids)
    same.fill_diagonal_(False)
    own = _both((left @ right.T) / temperature, (right @ left.T) / temperature, same)
    if keys is None:
        return own
    waiting = _same(left_ids, right_ids, keys.queue_left_ids, keys.queue_right_ids)
    masks = torch.cat([same, waiting], dim=1)
    to_right = left @ torch.cat([keys.right, keys.queue_right]).T / temperature
    to_left = right @ torch.cat([keys.left, keys.queue_left]).T / temperature
    return 0.5 * (own + _both(to_right, to_left, masks))


def _same(left: Tensor, right: Tensor, key_left: Tensor, key_right: Tensor) -> Tensor:
    """[n, k]: is the key one that the pair can not be told from?"""
    return (left.unsqueeze(1) == key_left) | (right.unsqueeze(1) == key_right)


def _both(to_right: Tensor, to_left: Tensor, masked: Tensor) -> Tensor:
    truth = torch.arange(len(to_right), device=to_right.device)
    losses = [
        nn.functional.cross_entropy(logits.masked_fill(masked, -torch.inf), truth, reduction="sum")
        for logits in (to_right, to_left)
    ]
    return 0.5 * (losses[0] + losses[1])


def gradients(network: Dual, parts: Sequence[Batch], step: Step, keys: Callable[[], Keys | None]) -> float:
    """Add up the gradients of InfoNCE over all parts as one batch; its loss divided by `step.targets`. keys: called
    once, without gradients."""
    left_ids, right_ids = (torch.cat([getattr(part, name) for part in parts]) for name in ("left_ids", "right_ids"))
    with torch.no_grad(), step.autocast():
        found = keys()
    if len(parts) == 1:
        with step.autocast():
            left, right = network(parts[0])
        loss = info_nce(left, right, left_ids, right_ids, network.temperature, found) / step.targets
        step.backward(loss)
        return float(loss.detach())
    draws, lefts, rights = [], [], []
    for number, part in enumerate(parts):
        if number:
            step.between()
        draws.append(_generators())
        with torch.no_grad(), step.autocast():
            left, right = network(part)
        lefts.append(left)
        rights.append(right)
    left, right = torch.cat(lefts).requires_grad_(), torch.cat(rights).requires_grad_()
    loss = info_nce(left, right, left_ids, right_ids, network.temperature, found) / step.targets
    step.backward(loss)
    assert left.grad is not None
    assert right.grad is not None
    _replay(network, parts, step, draws, (left.grad, right.grad))
    return float(loss.detach())


def _replay(
    network: Dual, parts: Sequence[Batch], step: Step, draws: Sequence[Any], by_vector: tuple[Tensor, Tensor]
) -> None:
    """The second forward pass of each part, and backward through it."""
    start = 0
    for part, draw in zip(parts, draws, strict=True):
        step.between()
        _restore(draw)
        rows = slice(start, start := start + len(part))
        with step.autocast():
            vectors = network(part)
        torch.autograd.backward(vectors, [each[rows] for each in by_vector])


def _generators() -> list[Tensor]:
    found = [torch.get_rng_state()]
    return [*found, *torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else found


def _restore(draw: Sequence[Tensor]) -> None:
    torch.set_rng_state(draw[0])
    if len(draw) > 1:
        torch.cuda.set_rng_state_all(list(draw[1:]))
