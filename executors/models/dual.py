"""A dual encoder: two towers that send partners to the same place on a sphere.

    text ── input ──────────────────────────── tower ── length 1 ── similarity / temperature
            hashed n-grams, TF-IDF (sparse)    linear map, or the same with a residual layer behind it
            a frozen encoder's vector (dense)
            a tuned encoder (tokens)

Both towers begin alike, so that the first similarities are those of the inputs: a random projection of sparse features
keeps their cosines (Johnson, Lindenstrauss), a dense map begins as the identity. What training adds is the difference.
The temperature is a parameter, learned or fixed, kept within TEMPERATURES.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from executors.models.encoder import Pooled, Tokens, whole
from executors.models.network import Entry, Rows

TEMPERATURES = (0.01, 0.5)
"""Bounds of a learned temperature: below, single negatives decide everything; above, none does."""

Input = Rows | Tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What the towers look like: enough to rebuild them."""

    inputs: int
    width: int
    sparse: bool
    tower: str
    """'linear' or 'mlp'."""
    shared: bool
    """One tower for both sides."""

    def config(self) -> dict[str, Any]:
        """For config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The inverse of `config`. KeyError, TypeError or ValueError when it is none."""
        found = cls(
            inputs=int(config["inputs"]), width=int(config["width"]), sparse=bool(config["sparse"]),
            tower=str(config["tower"]), shared=bool(config["shared"]),
        )  # fmt: skip
        if found.tower not in ("linear", "mlp") or min(found.inputs, found.width) < 1:
            raise ValueError(f"these are no towers: {found}")
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Some pairs as the towers take them."""

    left: Input
    right: Input
    left_ids: Tensor
    """int64 [n], equal for equal texts."""
    right_ids: Tensor

    def __len__(self) -> int:
        return len(self.left_ids)

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(self.left.to(device), self.right.to(device), self.left_ids.to(device), self.right_ids.to(device))


class Tower(nn.Module):
    """One side: inputs to vectors of length one."""

    def __init__(self, shape: Shape, dropout: float, input_dropout: float) -> None:
        super().__init__()
        self.dropout, self.input_dropout = dropout, input_dropout
        self.entry = Entry(shape.inputs, shape.width, shape.sparse)
        self.wider, self.narrower = None, None
        if shape.tower == "mlp":
            self.wider, self.narrower = nn.Linear(shape.width, 2 * shape.width), nn.Linear(2 * shape.width, shape.width)
            nn.init.zeros_(self.narrower.weight)
            nn.init.zeros_(self.narrower.bias)
        if shape.sparse:
            nn.init.normal_(self.entry.weight, std=1.0 / math.sqrt(shape.width))
        elif shape.inputs == shape.width:
            nn.init.eye_(self.entry.weight)
        else:
            nn.init.orthogonal_(self.entry.weight)

    def forward(self, rows: Rows) -> Tensor:
        """[n, width]."""
        if self.training and self.input_dropout:
            rows = dataclasses.replace(rows, values=nn.functional.dropout(rows.values, self.input_dropout))
        hidden = self.entry(rows)
        if self.wider is not None and self.narrower is not None:
            inner = nn.functional.gelu(self.wider(hidden))
            hidden = hidden + self.narrower(nn.functional.dropout(inner, self.dropout, self.training))
        return nn.functional.normalize(whole(hidden), dim=-1)


class Dual(nn.Module):
    """Both towers, the encoder before them when it is tuned, and the temperature."""

    def __init__(
        self,
        shape: Shape,
        *,
        temperature: float = 0.05,
        learned: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        body: Pooled | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.body = shape, body
        self.left = Tower(shape, dropout, input_dropout)
        self.right = self.left if shape.shared else copy.deepcopy(self.left)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learned)

    @property
    def temperature(self) -> Tensor:
        """A scalar within TEMPERATURES."""
        low, high = (math.log(bound) for bound in TEMPERATURES)
        return self.log_temperature.clamp(low, high).exp()

    def encode(self, side: str, given: Input) -> Tensor:
        """Vectors [n, width] of one side, 'left' or 'right'."""
        tower = self.left if side == "left" else self.right
        if isinstance(given, Tokens):
            assert self.body is not None
            given = Rows(self.body(given))
        vectors: Tensor = tower(given)
        return vectors

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors of both sides."""
        return self.encode("left", batch.left), self.encode("right", batch.right)

    def tower_parameters(self) -> list[nn.Parameter]:
        """All but the temperature, each once."""
        return [parameter for parameter in self.parameters() if parameter is not self.log_temperature]
