"""The arithmetic of merging, piece by piece, against a slow obvious version that holds everything."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from executors.models import merging, stored
from executors.models.merging import Merged, Ties
from executors.models.stored import Layout
from mesh.errors import ModelRefused


class Held:
    """A model in memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @property
    def layouts(self) -> dict[str, Layout]:
        return {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()}

    def piece(self, name: str, start: int, count: int) -> Tensor:
        return self.tensors[name].reshape(-1)[start : start + count].clone()


def models(count: int, dtype: torch.dtype = torch.float32) -> list[Held]:
    """An ancestor and its descendants, some differences of which are equal or none at all."""
    draw = torch.Generator().manual_seed(count)
    start = {"a": torch.randn(7, 13, generator=draw), "b": torch.randn(101, generator=draw)}
    found = [Held({name: tensor.to(dtype) for name, tensor in start.items()})]
    for _ in range(count):
        moved = {name: tensor + torch.randn(tensor.shape, generator=draw).mul(8).round().div(8) * (
            torch.rand(tensor.shape, generator=draw) < 0.6) for name, tensor in start.items()}  # fmt: skip
        found.append(Held({name: tensor.to(dtype) for name, tensor in moved.items()}))
    return found


def whole(merged: Merged, like: Held) -> dict[str, Tensor]:
    return {
        name: torch.cat([merged(name, start, count) for start, count in merging.pieces_of(layout)])
        for name, layout in like.layouts.items()
    }


def obvious_ties(held: list[Held], ancestor: Held, density: float, scale: float) -> dict[str, Tensor]:
    """As the paper says, on flat vectors."""
    names = list(ancestor.tensors)
    start = torch.cat([ancestor.tensors[name].float().reshape(-1) for name in names])
    deltas = [torch.cat([each.tensors[name].float().reshape(-1) for name in names]) - start for each in held]
    kept = []
    for delta in deltas:
        bound = delta.abs().sort(descending=True).values[max(1, math.ceil(density * len(delta))) - 1]
        kept.append(torch.where(delta.abs() >= bound, delta, torch.zeros(())).double())
    sign = torch.stack(kept).sum(0).sign()
    found = start.double()
    for number in range(len(start)):
        agreeing = [
            float(delta[number]) for delta in kept if delta[number] != 0 and delta[number].sign() == sign[number]
        ]
        if agreeing:
            found[number] += scale * sum(agreeing) / len(agreeing)
    sizes = [ancestor.tensors[name].numel() for name in names]
    return dict(zip(names, torch.split(found, sizes), strict=True))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces per tensor, the last one shorter."""
    monkeypatch.setattr(merging, "PIECE", 16)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_ties_is_what_the_paper_says(density: float) -> None:
    ancestor, *held = models(3)
    ties = Ties.of(held, ancestor, density, lambda: None)
    for scale in (0.5, 1.0):
        found, wanted = whole(ties.scaled(scale), ancestor), obvious_ties(held, ancestor, density, scale)
        for name, tensor in wanted.items():
            assert torch.allclose(found[name], tensor, rtol=0, atol=1e-12)


def test_averages_and_sums_of_differences() -> None:
    ancestor, *held = models(4)
    start = {name: tensor.double().reshape(-1) for name, tensor in ancestor.tensors.items()}
    each = [{name: tensor.double().reshape(-1) for name, tensor in model.tensors.items()} for model in held]
    mean, summed = (
        whole(merged, ancestor) for merged in (merging.average(held), merging.arithmetic(held, ancestor, 0.3))
    )
    for name in start:
        assert torch.allclose(mean[name], torch.stack([one[name] for one in each]).mean(0), atol=1e-12)
        wanted = start[name] + 0.3 * sum(one[name] - start[name] for one in each)
        assert torch.allclose(summed[name], wanted, atol=1e-12)


def test_a_mean_in_half_precision_is_rounded_once() -> None:
    _, *held = models(3, torch.bfloat16)
    found = whole(merging.average(held), held[0])
    wanted = torch.stack([model.tensors["b"].double() for model in held]).mean(0)
    assert torch.equal(found["b"].to(torch.bfloat16), wanted.to(torch.bfloat16))


@pytest.mark.parametrize("wanted", [1, 2, 37, 96])
def test_the_bound_of_the_largest_is_exact(wanted: int) -> None:
    draw = torch.Generator().manual_seed(wanted)
    tensor = torch.randn(96, generator=draw) * 10.0 ** torch.randint(-9, 9, (96,), generator=draw)
    bound = merging.bound_of_largest(Held({"a": tensor}), Held({"a": torch.zeros(96)}), wanted / 96, lambda: None)
    assert bound == float(tensor.abs().sort(descending=True).values[wanted - 1])


def test_what_is_written_is_read_again_in_any_piece(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {"half": torch.arange(6, dtype=torch.float16), "wide": torch.randn(3, 5), "whole": torch.tensor(7)}
    layouts = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    path = stored.write(tmp_path / "a.safetensors", layouts, lambda name: tensors[name].reshape(-1).chunk(8))
    assert all(torch.equal(load_file(path)[name], tensor) for name, tensor in tensors.items())
    found = stored.Stored([path])
    assert torch.equal(found.piece("wide", 4, 7), tensors["wide"].reshape(-1)[4:11])
    assert torch.equal(found.read("whole"), tensors["whole"])
    with pytest.raises(ValueError, match="15 numbers, 2 came"):
        stored.write(tmp_path / "b.safetensors", {"wide": layouts["wide"]}, lambda name: [torch.zeros(2)])
    bad = stored.write(
        tmp_path / "c.safetensors", {"wide": layouts["wide"]}, lambda name: [torch.full((15,), math.nan)]
    )
    with pytest.raises(ModelRefused, match="not finite"):
        stored.Stored([bad]).read("wide")


def test_a_digest_does_not_depend_on_how_the_tensors_are_cut_into_files(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(4), "b": torch.randn(2, 2)}

    def file(name: str, *names: str) -> Path:
        layouts = {each: Layout(torch.float32, tuple(tensors[each].shape)) for each in names}
        return stored.write(tmp_path / name, layouts, lambda each: [tensors[each]])

    one, two = stored.Stored([file("whole", "a", "b")]), stored.Stored([file("1", "b"), file("2", "a")])
    assert one.digest() == two.digest()
    tensors["a"] = tensors["a"] + 1
    assert one.digest() != stored.Stored([file("other", "a", "b")]).digest()
    with pytest.raises(ModelRefused, match="stands in two files"):
        stored.Stored([tmp_path / "1", tmp_path / "whole"])
