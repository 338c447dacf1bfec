"""Merging the weights of models that come from one ancestor, piece by piece, so that memory stays bounded.

    average      mean of the candidates                                             Wortsman et al. 2022, Model soups
    arithmetic   ancestor + scale * sum of (candidate - ancestor)                   Ilharco et al. 2023, Task arithmetic
    ties         ancestor + scale * disjoint mean of the trimmed differences        Yadav et al. 2023, TIES-Merging
                 that have the elected sign

TIES proceeds as its authors' program does: of each candidate's differences the `density` largest by magnitude are kept,
over all tensors together; for each number the sign with the greater sum wins; the mean is taken over the candidates
that agree with it. The bound of the largest is found exactly, in two passes over the bits of the magnitudes.

Sums are made in float64 and rounded once: the order of the candidates changes next to nothing.

Memory: at most BYTES_PER_NUMBER * PIECE, 42 MB, whatever the size of the model and the number of candidates. All of it
is arithmetic number by number, so a tensor never has to be there as a whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from executors.models.stored import Layout

PIECE = 1 << 20
"""Numbers that are merged at once: enough that reading them is one stroke, few enough to cost little memory."""

BYTES_PER_NUMBER = 40
"""At once, per number of a piece: two pieces as they are stored (8), two sums in float64 (16), sign and count (3), a
difference, its magnitude and masks (9), the result (4)."""

Tick = Callable[[], None]


class Source(Protocol):
    """The numbers of one model that take part."""

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Names, types and shapes."""

    def piece(self, name: str, start: int, count: int) -> Tensor:
        """`count` numbers of a tensor from its number `start` on, flat, in memory of their own."""


Merged = Callable[[str, int, int], Tensor]
"""(name, start, count) to that piece of the merged tensor, in float64."""


def pieces_of(layout: Layout) -> Iterator[tuple[int, int]]:
    """(start, count) of each piece."""
    for start in range(0, layout.numbers, PIECE):
        yield start, min(PIECE, layout.numbers - start)


def average(sources: Sequence[Source]) -> Merged:
    """The mean of all."""

    def merged(name: str, start: int, count: int) -> Tensor:
        total = torch.zeros(count, dtype=torch.float64)
        for source in sources:
            total.add_(source.piece(name, start, count))
        return total.div_(len(sources))

    return merged


def arithmetic(sources: Sequence[Source], ancestor: Source, scale: float) -> Merged:
    """The ancestor plus the scaled sum of what each has learned."""

    def merged(name: str, start: int, count: int) -> Tensor:
        total = ancestor.piece(name, start, count).double().mul_(1.0 - scale * len(sources))
        for source in sources:
            total.add_(source.piece(name, start, count), alpha=scale)
        return total

    return merged


@dataclasses.dataclass(slots=True)
class Ties:
    """Trimmed, elected, averaged. The bounds are found once for all scales."""

    sources: Sequence[Source]
    ancestor: Source
    bounds: list[float]
    """Of each candidate, the least magnitude of a difference that is kept."""

    @classmethod
    def of(cls, sources: Sequence[Source], ancestor: Source, density: float, tick: Tick) -> Ties:
        """density: share of each candidate's differences that is kept. tick: called once per tensor and pass."""
        return cls(sources, ancestor, [bound_of_largest(source, ancestor, density, tick) for source in sources])

    def scaled(self, scale: float) -> Merged:
        """The merge at this scale."""

        def merged(name: str, start: int, count: int) -> Tensor:
            begin = self.ancestor.piece(name, start, count)
            sign = torch.zeros(count, dtype=torch.float64)
            for source, bound in zip(self.sources, self.bounds, strict=True):
                sign.add_(_trimmed(source.piece(name, start, count), begin, bound))
            sign = sign.sign().to(torch.int8)
            total, agreeing = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.int16)
            for source, bound in zip(self.sources, self.bounds, strict=True):
                delta = _trimmed(source.piece(name, start, count), begin, bound)
                delta.mul_(delta.sign() == sign)
                total.add_(delta)
                agreeing.add_(delta != 0)
            return total.div_(agreeing.clamp_(min=1)).mul_(scale).add_(begin)

        return merged


def _trimmed(piece: Tensor, begin: Tensor, bound: float) -> Tensor:
    """Differences to the ancestor in float32; those below the bound are 0."""
    delta = piece.float().sub_(begin)
    return delta.mul_(delta.abs() >= bound)


def bound_of_largest(source: Source, ancestor: Source, density: float, tick: Tick) -> float:
    """The magnitude of the k-th largest difference, k = ceil(density * numbers). Exact: first the upper, then the lower
    halves of the bits are counted; as whole numbers they stand in the order of the magnitudes."""
    numbers = sum(layout.numbers for layout in source.layouts.values())
    wanted = max(1, math.ceil(density * numbers))
    above, high = _kth(_counted(source, ancestor, None, tick), wanted)
    _, low = _kth(_counted(source, ancestor, high, tick), wanted - above)
    return float(torch.tensor([(high << 16) | low], dtype=torch.int32).view(torch.float32))


def _counted(source: Source, ancestor: Source, high: int | None, tick: Tick) -> Tensor:
    """How often each upper half occurs, or each lower half below the upper half `high`. [65536]"""
    counts = torch.zeros(1 << 16, dtype=torch.int64)
    for name, layout in source.layouts.items():
        for start, count in pieces_of(layout):
            delta = source.piece(name, start, count).float().sub_(ancestor.piece(name, start, count)).abs_()
            bits = delta.view(torch.int32)
            upper = bits >> 16
            counts += torch.bincount(upper if high is None else (bits & 0xFFFF)[upper == high], minlength=1 << 16)
        tick()
    return counts


def _kth(counts: Tensor, wanted: int) -> tuple[int, int]:
    """(how many stand in higher bins, the bin that holds the wanted-th from above)."""
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, wanted))
    return (int(from_above[place - 1]) if place else 0), len(counts) - 1 - place
