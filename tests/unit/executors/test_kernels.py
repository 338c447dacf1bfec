"""Ways to compute dense layers in few bits: each that there is here gives the same answer, and the choice is honest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from executors.models import compact, kernels
from executors.models.compact import INT8, Form, Packed
from executors.models.kernels import EXPANDED, PackedLinear


def packed(form: Form, rows: int = 96, columns: int = 128) -> Packed:
    return compact.pack(torch.randn((rows, columns), generator=torch.Generator().manual_seed(2)) * 0.05, form)


def inputs(count: int, columns: int = 128) -> torch.Tensor:
    return torch.randn((count, columns), generator=torch.Generator().manual_seed(5))


CASES = [
    (way, form)
    for form in (INT8, Form(4, 32, False), Form(4, 64, True))
    for way in {*kernels.ways_for(packed(form), True), *kernels.ways_for(packed(form), False)}
]


@pytest.mark.parametrize(("way", "form"), sorted(CASES, key=str), ids=str)
def test_every_way_gives_the_answer_of_the_expanded_matrix(way: str, form: Form) -> None:
    matrix, bias = packed(form), inputs(1, 96)[0]
    wanted = nn.functional.linear(inputs(6), matrix.expanded(), bias).view(2, 3, 96)
    try:
        layer = PackedLinear(matrix, bias, way)
        found = layer(inputs(6).view(2, 3, 128))
    except (ImportError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"not on this machine: {error}"[:100])
    assert found.shape == (2, 3, 96)
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < kernels.ERROR_MAX
    assert torch.equal(layer.weight, matrix.expanded())


@pytest.mark.parametrize("way", ["torch-int8-int8", "onnx-int8-int8"])
def test_an_answer_does_not_depend_on_what_else_is_asked(way: str) -> None:
    """A neighbour with large numbers would spoil it where activations are rounded over a batch."""
    try:
        layer = PackedLinear(packed(INT8), None, way)
        together = layer(torch.cat([inputs(3), 1_000.0 * inputs(1)]))[:3]
    except (ImportError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"not on this machine: {error}"[:100])
    assert torch.allclose(together, layer(inputs(3)), rtol=1e-5, atol=1e-6)


def test_rows_of_zeros_are_answered_by_zeros() -> None:
    for way in ("torch-int8-int8", "onnx-int8-int8"):
        try:
            found = PackedLinear(packed(INT8), None, way)(torch.zeros(2, 128))
        except (ImportError, RuntimeError, NotImplementedError):
            continue
        assert not found.any()


def test_the_fastest_is_one_of_those_that_work_and_says_why() -> None:
    chosen = kernels.fastest(packed(INT8), True, (1, 8), lambda: None)
    assert chosen.way in chosen.times_ms
    assert EXPANDED in chosen.times_ms
    assert all(len(took) == 2 and min(took) > 0 for took in chosen.times_ms.values())
    assert chosen.why


def test_ways_that_fail_or_err_or_lack_something_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Packed) -> kernels.Compute:
        raise RuntimeError("this processor has no such instruction")

    monkeypatch.setitem(kernels.WAYS, "torch-int8", fails)
    monkeypatch.setitem(kernels.WAYS, "torch-int8-int8", lambda matrix: lambda x: 1.1 * x @ matrix.expanded().T)
    monkeypatch.setattr(kernels, "_installed", lambda name: name != "onnxruntime")
    weights = kernels.fastest(packed(INT8), False, (1,), lambda: None)
    assert weights.way == EXPANDED
    assert weights.passed_over == {"torch-int8": "RuntimeError: this processor has no such instruction"}
    assert weights.why == "no way in few bits works here"
    both = kernels.fastest(packed(INT8), True, (1,), lambda: None)
    assert "errs 0.100" in both.passed_over["torch-int8-int8"]
    assert both.passed_over["onnx-int8-int8"] == "onnxruntime is not installed"


def test_the_least_product_of_times_wins_but_not_by_a_hair() -> None:
    times = {EXPANDED: (1.0, 10.0), "torch-int8": (0.2, 12.0), "other": (0.9, 9.0)}
    assert kernels._judged(times, {}).way == "torch-int8"
    even = kernels._judged({EXPANDED: (1.0, 10.0), "torch-int8": (0.98, 9.9)}, {})
    assert (even.way, even.why) == (EXPANDED, "no way in few bits is faster here")


def test_a_kernel_that_reads_beyond_odd_rows_never_sees_one() -> None:
    odd = packed(INT8, columns=70)
    assert kernels.fastest(odd, False, (1,), lambda: None).passed_over == {
        "torch-int8": "ValueError: its columns are no multiple of 32"
    }


def test_on_another_device_the_expanded_matrix_computes() -> None:
    layer = PackedLinear(packed(INT8), None, EXPANDED)
    found = layer(torch.zeros((2, 128), device="meta"))
    assert (found.shape, found.device.type) == ((2, 96), "meta")
