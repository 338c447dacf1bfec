"""One network for every classifier: a linear path, a deep path, or both side by side.

    features ──┬── wide: one weight per feature and label ───────────────────────────┐
               │                                                                     + ── logits
               └── deep: first layer ── ReLU ── dropout ── … ── hidden ── one weight ┘
                                                                          per label

The wide path is the tuned linear model that is hard to beat on little data; the deep path shares strength between
features and labels. Both see the same features, sparse (an EmbeddingBag sums the rows of the present n-grams) or dense
(a table). The wide path starts at zero, so a new network begins as its deep half and learns what that can not say.
(Cheng et al. 2016, Wide & Deep Learning; Joulin et al. 2017, Bag of Tricks for Efficient Text Classification.)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from executors.features import Encoded
from executors.ngrams import Sparse

FIRST_LAYER_SPREAD = 0.1
"""Standard deviation of new n-gram vectors: a text of length-one features then starts near 0.14, where ReLU is
lively."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What a network looks like: enough to rebuild it."""

    inputs: int
    labels: int
    sparse: bool
    wide: bool
    hidden: tuple[int, ...]

    def config(self) -> dict[str, Any]:
        """For config.json."""
        return {**dataclasses.asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The inverse of `config`. KeyError or TypeError when it is incomplete."""
        return cls(
            inputs=int(config["inputs"]),
            labels=int(config["labels"]),
            sparse=bool(config["sparse"]),
            wide=bool(config["wide"]),
            hidden=tuple(int(width) for width in config["hidden"]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Encoded examples as tensors: dense values [n, d], or CSR without its last offset."""

    values: Tensor
    indices: Tensor | None = None
    offsets: Tensor | None = None

    def to(self, device: torch.device) -> Rows:
        """The same rows on `device`."""
        if self.indices is None or self.offsets is None:
            return Rows(self.values.to(device))
        return Rows(self.values.to(device), self.indices.to(device), self.offsets.to(device))


def rows_of(encoded: Encoded) -> Rows:
    """Encoded features as tensors, without a copy."""
    if isinstance(encoded, Sparse):
        starts = torch.from_numpy(encoded.offsets[:-1].copy())
        return Rows(torch.from_numpy(encoded.values), torch.from_numpy(encoded.indices), starts)
    return Rows(torch.from_numpy(encoded))


class Entry(nn.Module):
    """The first layer: features to `width` numbers, without a bias. weight is [inputs, width] for sparse features (a
    row per feature, as EmbeddingBag wants it), [width, inputs] for dense ones."""

    def __init__(self, inputs: int, width: int, sparse: bool) -> None:
        super().__init__()
        self.sparse = sparse
        self.weight = nn.Parameter(torch.empty((inputs, width) if sparse else (width, inputs)))

    def forward(self, rows: Rows) -> Tensor:
        """[n, width]."""
        if self.sparse and rows.indices is not None:
            return nn.functional.embedding_bag(
                rows.indices, self.weight, rows.offsets, mode="sum", per_sample_weights=rows.values
            )
        return nn.functional.linear(rows.values, self.weight)


class Network(nn.Module):
    """Rows to logits [n, labels]."""

    def __init__(self, shape: Shape, *, dropout: float = 0.0, feature_dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout, self.feature_dropout = shape, dropout, feature_dropout
        self.wide = Entry(shape.inputs, shape.labels, shape.sparse) if shape.wide else None
        widths = list(shape.hidden)
        self.entry = Entry(shape.inputs, widths[0], shape.sparse) if widths else None
        self.entry_bias = nn.Parameter(torch.zeros(widths[0])) if widths else None
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], shape.labels, bias=False) if widths else None
        self.bias = nn.Parameter(torch.zeros(shape.labels))
        self._start()

    def _start(self) -> None:
        if self.wide is not None:
            nn.init.zeros_(self.wide.weight)
        if self.entry is not None and self.shape.sparse:
            nn.init.normal_(self.entry.weight, std=FIRST_LAYER_SPREAD)
        elif self.entry is not None:
            nn.init.kaiming_normal_(self.entry.weight, nonlinearity="relu")

    def forward(self, rows: Rows) -> Tensor:
        """Logits [n, labels]."""
        if self.training and self.feature_dropout:
            rows = dataclasses.replace(rows, values=nn.functional.dropout(rows.values, self.feature_dropout))
        logits = self.bias.expand(self._count(rows), -1)
        if self.wide is not None:
            logits = logits + self.wide(rows)
        if self.entry is not None and self.head is not None:
            hidden = self._drop(torch.relu(self.entry(rows) + self.entry_bias))
            for layer in self.layers:
                hidden = self._drop(torch.relu(layer(hidden)))
            logits = logits + self.head(hidden)
        return logits

    def _drop(self, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(hidden, self.dropout, self.training)

    @staticmethod
    def _count(rows: Rows) -> int:
        return len(rows.values) if rows.offsets is None else len(rows.offsets)

    def label_axes(self) -> dict[str, int]:
        """Parameters that have one entry per label, and along which axis."""
        axes = {"bias": 0}
        if self.wide is not None:
            axes["wide.weight"] = 1 if self.shape.sparse else 0
        if self.head is not None:
            axes["head.weight"] = 0
        return axes

    def parameter_count(self) -> int:
        """Numbers that training moves."""
        return sum(parameter.numel() for parameter in self.parameters())


def continued(
    old: Network, labels_old: Sequence[str], labels_new: Sequence[str], *, bias_new: float = 0.0, **dropouts: float
) -> Network:
    """A network that starts from the weights of `old` and knows `labels_new`, which begin with `labels_old`. New labels
    start with weights of zero and a bias of `bias_new`, until training moves them."""
    if list(labels_new[: len(labels_old)]) != list(labels_old):
        raise ValueError("labels are matched by name: the old ones come first, in their order")
    new = Network(dataclasses.replace(old.shape, labels=len(labels_new)), **dropouts)
    axes, state = old.label_axes(), new.state_dict()
    for name, tensor in old.state_dict().items():
        if name in axes:
            state[name].zero_()
            state[name].narrow(axes[name], 0, len(labels_old)).copy_(tensor)
        else:
            state[name].copy_(tensor)
    with torch.no_grad():
        new.bias[len(labels_old) :] = bias_new
    return new
