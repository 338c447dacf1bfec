"""Matrices in few bits: how numbers become int8 and int4 and back, and how they stand in a file. torch only.

Of a matrix NAME, [rows, columns] of floats, model.safetensors holds instead (docs/executors/quantize.md):

    NAME.q      int8 [rows, columns], or uint8 [rows, ceil(columns / 2)] with two 4-bit numbers a byte, the even
                column in the low half
    NAME.scale  float16 or float32 [rows, groups]      a group is `group` columns of one row, the last may be shorter
    NAME.zero   uint8 [rows, groups]                    4 bits, asymmetric, only

    value[r, c] = (q[r, c] - zero[r, c // group]) * scale[r, c // group]        zero is 0 for int8, 8 for symmetric int4

int8: one group a row, symmetric. int4: for each group the range is tried whole and a little narrower, and what errs
least in squares is taken: one outlier would cost all others their precision. (Dettmers et al. 2022; Frantar et al.
2023 for groups of 4 bits.)

A scale is rounded to float16 before it is used, where float16 can hold it, so that what is stored is what was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mesh.errors import ArtifactCorrupt

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of a group's range that are tried."""

ROWS_AT_ONCE = 1 << 22
"""Numbers that are worked on at once: the trials make several copies of them."""

HALF_LEAST, HALF_MOST = 6.2e-5, 60_000.0
"""Scales that float16 holds with all of its digits."""

WHOLE_ROW = 0
"""As a group: all columns of a row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How one matrix is stored."""

    bits: int
    group: int
    """Columns of a group; WHOLE_ROW for all of them."""
    symmetric: bool

    def __post_init__(self) -> None:
        if (self.bits, self.symmetric) not in ((8, True), (4, True), (4, False)):
            raise ValueError(f"forms are int8 symmetric and int4, got {self.bits} bits, symmetric {self.symmetric}")
        if self.group not in (0, 16, 32, 64, 128, 256) or (self.bits == 8 and self.group):
            raise ValueError(f"a group is 16, 32, 64, 128 or 256 columns of int4, or the row of int8, got {self.group}")

    @property
    def zero(self) -> int:
        """What stands for zero where no NAME.zero does."""
        return 0 if self.bits == 8 else 8


INT8 = Form(8, WHOLE_ROW, True)


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """One matrix in few bits."""

    form: Form
    q: Tensor
    scale: Tensor
    zero: Tensor | None
    columns: int

    @property
    def rows(self) -> int:
        """Of the matrix."""
        return int(self.q.shape[0])

    @property
    def size_bytes(self) -> int:
        """As stored."""
        return sum(part.numel() * part.element_size() for part in (self.q, self.scale, self.zero) if part is not None)

    @property
    def group(self) -> int:
        """Columns of a group, never 0."""
        return self.form.group or self.columns

    def numbers(self) -> Tensor:
        """[rows, columns] of the stored whole numbers: int8, or 0 to 15 as uint8."""
        if self.form.bits == 8:
            return self.q
        both = torch.stack((self.q & 15, self.q >> 4), dim=-1).flatten(1)
        return both[:, : self.columns]

    def zeros(self) -> Tensor:
        """[rows, groups], float32."""
        if self.zero is not None:
            return self.zero.float()
        return torch.full(self.scale.shape, float(self.form.zero))

    def expanded(self) -> Tensor:
        """[rows, columns], float32."""
        groups = self.scale.shape[1]
        if groups == 1:
            return (self.numbers().float() - self.zeros()) * self.scale.float()
        wide = torch.repeat_interleave(self.zeros(), self.group, 1)[:, : self.columns]
        found = self.numbers().float() - wide
        return found * torch.repeat_interleave(self.scale.float(), self.group, 1)[:, : self.columns]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """As they stand in the file."""
        parts = {f"{name}.q": self.q, f"{name}.scale": self.scale}
        return parts if self.zero is None else {**parts, f"{name}.zero": self.zero}


def pack(matrix: Tensor, form: Form) -> Packed:
    """A float matrix [rows, columns] in few bits. ValueError when it is no finite matrix."""
    if matrix.ndim != 2 or not matrix.is_floating_point() or not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"expected a finite matrix of floats, got {matrix.dtype}{list(matrix.shape)}")
    rows, columns = matrix.shape
    at_once = max(1, ROWS_AT_ONCE // columns)
    parts = [_packed_rows(matrix[start : start + at_once].float(), form) for start in range(0, rows, at_once)]
    scale = torch.cat([part[1] for part in parts])
    if bool(((scale >= HALF_LEAST) & (scale <= HALF_MOST)).all()):
        scale = scale.half()
    q = torch.cat([part[0] for part in parts])
    return Packed(form, q, scale, None if form.symmetric else torch.cat([part[2] for part in parts]), columns)


def _packed_rows(matrix: Tensor, form: Form) -> tuple[Tensor, Tensor, Tensor]:
    """(q, scale float32, zero) of some rows."""
    rows, columns = matrix.shape
    group = form.group or columns
    groups = -(-columns // group)
    padded = torch.nn.functional.pad(matrix, (0, groups * group - columns)).view(rows, groups, group)
    if form.bits == 8:
        scale = _kept(padded.abs().amax(-1) / 127.0)
        q = (padded / scale.unsqueeze(-1)).round().clamp_(-127, 127)
        return q.view(rows, -1)[:, :columns].to(torch.int8), scale, torch.zeros_like(scale, dtype=torch.uint8)
    scale, zero = _best(padded, form.symmetric)
    q = ((padded / scale.unsqueeze(-1)).round() + zero.unsqueeze(-1)).clamp_(0, 15)
    whole = q.view(rows, -1)[:, :columns].to(torch.uint8)
    whole = torch.nn.functional.pad(whole, (0, columns % 2))
    return whole[:, 0::2] | (whole[:, 1::2] << 4), scale, zero.to(torch.uint8)


def _best(padded: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """(scale, zero) [rows, groups] of 4 bits that err least."""
    low, high = padded.amin(-1).clamp_max_(0.0), padded.amax(-1).clamp_min_(0.0)
    best: tuple[Tensor, Tensor] | None = None
    least = torch.full_like(low, torch.inf)
    for shrink in SHRINKS:
        if symmetric:
            scale = _kept(shrink * torch.maximum(-low, high) / 7.0)
            zero = torch.full_like(scale, 8.0)
        else:
            scale = _kept(shrink * (high - low) / 15.0)
            zero = (-shrink * low / scale).round().clamp_(0, 15)
        wide, at = scale.unsqueeze(-1), zero.unsqueeze(-1)
        again = (((padded / wide).round() + at).clamp_(0, 15) - at) * wide
        error = (again - padded).square_().sum(-1)
        if best is None:
            best, least = (scale, zero), error
            continue
        wins = error < least
        best = (torch.where(wins, scale, best[0]), torch.where(wins, zero, best[1]))
        least = torch.minimum(error, least)
    assert best is not None
    return best


def _kept(scale: Tensor) -> Tensor:
    """Scales as they will be stored; those of groups without a number but zero are 1."""
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    halves = (scale >= HALF_LEAST) & (scale <= HALF_MOST)
    return torch.where(halves, scale.half().float(), scale)


def described(packed: Packed, role: str) -> dict[str, Any]:
    """For quantization.json."""
    form = packed.form
    return {
        "bits": form.bits, "group": form.group, "symmetric": form.symmetric,
        "shape": [packed.rows, packed.columns], "role": role,
    }  # fmt: skip


def restored(name: str, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Packed:
    """The inverse of `tensors` and `described`. ArtifactCorrupt when they do not fit each other."""
    try:
        form = Form(int(told["bits"]), int(told["group"]), bool(told["symmetric"]))
        rows, columns = (int(size) for size in told["shape"])
        groups = 1 if not form.group else -(-columns // form.group)
        wanted: dict[str, tuple[tuple[torch.dtype, ...], tuple[int, int]]] = {
            "q": ((torch.int8,), (rows, columns)) if form.bits == 8 else ((torch.uint8,), (rows, -(-columns // 2))),
            "scale": ((torch.float16, torch.float32), (rows, groups)),
        }
        if not form.symmetric:
            wanted["zero"] = ((torch.uint8,), (rows, groups))
        parts = {part: tensors[f"{name}.{part}"] for part in wanted}
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"the matrix {name[:80]} is not stored as described: {str(error)[:120]}") from None
    for part, (dtypes, shape) in wanted.items():
        found = parts[part]
        if found.dtype not in dtypes or tuple(found.shape) != shape:
            raise ArtifactCorrupt(
                f"expected {name[:80]}.{part} as {dtypes[0]}{list(shape)}, found {found.dtype}{list(found.shape)}"
            )
    if not bool(torch.isfinite(parts["scale"]).all()):
        raise ArtifactCorrupt(f"the scales of {name[:80]} hold values that are not finite")
    return Packed(form, parts["q"], parts["scale"], parts.get("zero"), columns)
