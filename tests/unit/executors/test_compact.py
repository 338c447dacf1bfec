"""Matrices in few bits: against a slow rounding of our own, and read again by a program that knows the layout alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save_file

from executors.models import compact
from executors.models.compact import INT8, Form
from mesh.errors import ArtifactCorrupt

FORMS = [INT8, *(Form(4, group, symmetric) for group in (0, 16, 64) for symmetric in (False, True))]


def matrix(rows: int = 7, columns: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed)) * 0.1 + 0.02


def read_by_layout(tensors: dict[str, NDArray[Any]], told: dict[str, Any], name: str) -> NDArray[np.float64]:
    """What docs/executors/quantize.md says, one number after the other."""
    rows, columns = told["shape"]
    group = told["group"] or columns
    found = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            if told["bits"] == 8:
                q, zero = int(tensors[f"{name}.q"][row, column]), 0
            else:
                byte = int(tensors[f"{name}.q"][row, column // 2])
                q, zero = (byte >> 4 if column % 2 else byte & 15), 8
            if f"{name}.zero" in tensors:
                zero = int(tensors[f"{name}.zero"][row, column // group])
            found[row, column] = (q - zero) * float(tensors[f"{name}.scale"][row, column // group])
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("columns", [50, 64, 33])
def test_another_program_reads_the_same_numbers(tmp_path: Path, form: Form, columns: int) -> None:
    packed = compact.pack(matrix(columns=columns), form)
    save_file(packed.tensors("a.weight"), tmp_path / "model.safetensors")
    told = compact.described(packed, "dense")
    slow = read_by_layout(load_file(tmp_path / "model.safetensors"), told, "a.weight")
    assert np.allclose(packed.expanded().numpy(), slow, rtol=1e-6, atol=0)
    again = compact.restored("a.weight", told, packed.tensors("a.weight"))
    assert torch.equal(again.expanded(), packed.expanded())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_number_moves_further_than_half_a_step(form: Form) -> None:
    """But those outside of a range that was narrowed, which move at most by what was cut off."""
    whole, packed = matrix(), compact.pack(matrix(), form)
    steps = torch.repeat_interleave(packed.scale.float(), packed.group, 1)[:, : packed.columns]
    moved = (packed.expanded() - whole).abs()
    bound = 0.5 * steps if form.bits == 8 else steps * 15 * (1 - min(compact.SHRINKS)) + steps
    assert bool((moved <= bound * 1.001).all())
    assert float(moved.norm() / whole.norm()) < (0.01 if form.bits == 8 else 0.2)


def test_a_narrower_range_is_taken_where_it_errs_less() -> None:
    outlier = matrix(1, 64)
    outlier[0, 5] = 3.0
    chosen = compact.pack(outlier, Form(4, 64, False)).expanded()
    low, high = float(outlier.min()), float(outlier.max())
    step = (high - low) / 15
    plain = (outlier / step + round(-low / step)).round().clamp(0, 15).sub(round(-low / step)).mul(step)
    assert float((chosen - outlier).norm()) <= float((plain - outlier).norm())


def test_groups_follow_the_numbers_and_zero_points_follow_their_middle() -> None:
    shifted = matrix(4, 128) + 1.0
    errors = [
        float((compact.pack(shifted, Form(4, 32, symmetric)).expanded() - shifted).norm())
        for symmetric in (True, False)
    ]
    assert errors[1] < errors[0]
    spread = matrix(4, 128) * torch.logspace(-3, 0, 128)
    fine, coarse = (
        float((compact.pack(spread, Form(4, group, False)).expanded() - spread).norm()) for group in (16, 0)
    )
    assert fine < coarse


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nothing_but_zeros_stays_nothing_but_zeros(form: Form) -> None:
    assert not compact.pack(torch.zeros(3, 40), form).expanded().any()


def test_scales_that_half_precision_can_not_hold_are_kept_whole() -> None:
    tiny = compact.pack(matrix() * 1e-6, INT8)
    assert tiny.scale.dtype == torch.float32
    assert float((tiny.expanded() - matrix() * 1e-6).norm() / (matrix() * 1e-6).norm()) < 0.01
    assert compact.pack(matrix(), INT8).scale.dtype == torch.float16


def test_large_matrices_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compact.pack(matrix(40), Form(4, 16, False))
    monkeypatch.setattr(compact, "ROWS_AT_ONCE", 120)
    parts = compact.pack(matrix(40), Form(4, 16, False))
    assert torch.equal(whole.expanded(), parts.expanded())


def test_sizes_are_what_was_promised() -> None:
    assert compact.pack(matrix(64, 256), INT8).size_bytes == 64 * 256 + 64 * 2
    assert compact.pack(matrix(64, 256), Form(4, 64, False)).size_bytes == 64 * 128 + 64 * 4 * 3


@pytest.mark.parametrize("values", [(2, 64, True), (8, 64, True), (8, 0, False), (4, 7, True)])
def test_forms_that_there_are_not_are_refused(values: tuple[int, int, bool]) -> None:
    with pytest.raises(ValueError, match="int4"):
        Form(*values)


def test_what_is_no_finite_matrix_is_refused() -> None:
    for wrong in (torch.zeros(3), torch.zeros(3, 3, dtype=torch.int64), torch.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match="finite matrix of floats"):
            compact.pack(wrong, INT8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told, parts: told.update(shape=[7, 51]), r"expected a.q as torch.uint8\[7, 26\]"),
        (lambda told, parts: told.update(bits=3), "not stored as described"),
        (lambda told, parts: parts.pop("a.zero"), "not stored as described"),
        (lambda told, parts: parts["a.scale"].fill_(math.inf), "scales of a hold values that are not finite"),
        (lambda told, parts: parts.update({"a.q": parts["a.q"].to(torch.int8)}), "found torch.int8"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: Any, said: str) -> None:
    packed = compact.pack(matrix(), Form(4, 16, False))
    told, parts = compact.described(packed, "dense"), packed.tensors("a")
    change(told, parts)
    with pytest.raises(ArtifactCorrupt, match=said):
        compact.restored("a", told, parts)
