"""A small GPT, really trained on text: what the benchmarks of checkpoints take their states from.

Bytes of Python's own standard library, next-byte prediction, AdamW with weight decay, warm-up and cosine, clipped
gradients: weights and moments drift as those of any transformer do, which random numbers would not. With a `rank` the
network is frozen and gets low-rank adapters on query and value (Hu et al., 2021); only those are trained.

Everything is drawn from fixed seeds. Not covered: mixed precision, a GPU, a tokenizer.
"""

from __future__ import annotations

import dataclasses
import math
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

TEXT_BYTES = 4_000_000
WARM_UP_STEPS = 40
DECAY_STEPS = 600
"""Over so many steps the rate falls by a cosine; it stays at a tenth then."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """How large it is."""

    layers: int
    width: int
    heads: int
    context: int = 128
    batch: int = 4
    rank: int = 0
    """Of adapters; 0: everything is trained."""


class Adapted(nn.Module):
    """A frozen projection to query, key and value, with adapters on query and value."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        width = base.in_features
        self.base = base
        self.down = nn.ParameterList(nn.Parameter(torch.randn(rank, width) / math.sqrt(width)) for _ in range(2))
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(width, rank)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        query, value = (
            functional.linear(functional.linear(x, down), up) for down, up in zip(self.down, self.up, strict=True)
        )
        result: Tensor = self.base(x) + torch.cat([query, torch.zeros_like(query), value], dim=-1)
        return result


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend: nn.Module = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        parts = self.attend(self.before(x)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(count, length, width))
        result: Tensor = x + self.narrow(functional.gelu(self.widen(self.between(x))))
        return result


class Gpt(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, shape.width), nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm, self.head = nn.LayerNorm(shape.width), nn.Linear(shape.width, 256, bias=False)
        self.head.weight = self.tokens.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits

    def adapt(self, rank: int) -> None:
        """Freeze everything, and put adapters beside query and value."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for block in self.blocks:
            assert isinstance(block, Block)
            assert isinstance(block.attend, nn.Linear)
            block.attend = Adapted(block.attend, rank)


class Training:
    """A network, its optimizer and its data."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.shape = shape
        self.model = Gpt(shape)
        if shape.rank:
            self.model.adapt(shape.rank)
        self.moving = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self.optimizer = torch.optim.AdamW(self.moving.values(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        self.steps = 0
        self._text, self._draw = text(), torch.Generator().manual_seed(1)

    def step(self, count: int = 1) -> float:
        """So many steps; the last one's loss."""
        loss = torch.zeros(())
        for _ in range(count):
            for group in self.optimizer.param_groups:
                group["lr"] = 1e-3 * rate(self.steps)
            inputs, targets = self._batch()
            loss = functional.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.moving.values(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.steps += 1
        return float(loss.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Weights, frozen ones too, and moments, under the names that a checkpoint gives them."""
        found = {f"model.{name}": each.detach() for name, each in self.model.named_parameters()}
        for name, each in self.moving.items():
            state = self.optimizer.state[each]
            found[f"exp_avg.{name}"], found[f"exp_avg_sq.{name}"] = state["exp_avg"], state["exp_avg_sq"]
        return found

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights alone, rounded."""
        return {f"model.{name}": each.detach().to(dtype) for name, each in self.model.named_parameters()}

    def _batch(self) -> tuple[Tensor, Tensor]:
        length = self.shape.context + 1
        starts = torch.randint(len(self._text) - length, (self.shape.batch,), generator=self._draw)
        rows = torch.stack([self._text[start : start + length] for start in starts.tolist()]).long()
        return rows[:, :-1], rows[:, 1:]


def rate(step: int) -> float:
    """Share of the full learning rate: linear warm-up, then a cosine down to a tenth."""
    done = min(1.0, step / DECAY_STEPS)
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.55 + 0.45 * math.cos(math.pi * done))


def text() -> Tensor:
    """Python's standard library as bytes."""
    found = bytearray()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        found += path.read_bytes()
        if len(found) >= TEXT_BYTES:
            break
    return torch.frombuffer(found[:TEXT_BYTES], dtype=torch.uint8)
