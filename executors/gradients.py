"""Are a kind's gradients those of its loss? Analytic ones against central differences, tensor by tensor, in float64.

    the kind offers tiny instances of its own training     gradcheck_instance(): a Trainable, or several by name
    network, data and state become float64                 every trained parameter moves a little off its start, so
                                                           that an adapter that begins at zero is checked elsewhere, too
    analytic     the kind's own `gradients`, or backward through its `loss`, divided by the targets
    numerical    (loss(w + h) - loss(w - h)) / 2h for the entries with the largest gradients and for some at random
    relative     |analytic - numerical| / the larger of the two, or of FLOOR where both are next to nothing

Random numbers are seeded alike before every forward pass: dropout leaves out the same units each time. Where a step
crosses a kink of the loss (ReLU) both sides differ honestly: an entry that disagrees is tried again with smaller steps,
and the best agreement counts; a wrong gradient stays wrong at all of them.

Not covered: an error in a gradient below FLOOR; what half precision or another device does to a right gradient; a kind
whose loss is computed in float32 whatever its inputs are (it fails, for float32 is too coarse to tell).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from executors import kinds
from executors.trainable import Step, Trainable
from mesh.errors import NonFinite, TaskRefused

THRESHOLD = 1e-3
"""Largest relative error of a right gradient. Central differences of a smooth loss in float64 agree to 1e-6; mistakes
(a missing term, a wrong factor, a detached branch) show as 1e-1 and more."""

ENTRIES = 32
"""Entries of a tensor that are looked at: half of them those with the largest gradients, the others at random."""

STEPS = (1e-5, 1e-6, 1e-7)
"""How far a parameter is moved, in units of the larger of 1 and its own size; the later ones for kinks."""

FLOOR = 1e-6
"""Gradients below it, in units of the larger of 1 and the loss, are compared with it: rounding alone moves a central
difference of step 1e-5 by 1e-10."""

MOVED = 0.02
"""Standard deviation by which the parameters are moved off their start."""

WORST_MAX = 20
"""Entries that a report names."""

ROWS_MAX = 256
"""Rows of an instance: it is to be tiny."""

SEED = 20_240_229


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One number of a parameter, and what the two ways say of it."""

    case: str
    tensor: str
    index: list[int]
    analytic: float
    numerical: float
    relative: float


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """One parameter tensor."""

    case: str
    tensor: str
    shape: list[int]
    entries: int
    """Looked at."""
    relative: float
    """The largest of them."""
    reached: bool
    """False when the loss does not depend on it at all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was found of one kind."""

    kind: str
    version: int
    ok: bool
    threshold: float
    relative: float
    """The largest of all."""
    losses: dict[str, float]
    """By case, per target."""
    tensors: list[Checked]
    worst: list[Entry]
    """The largest relative errors, largest first."""
    seconds: float

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def _nothing() -> None:
    """A tick that nobody waits for."""


def check_kind(
    name: str, *, threshold: float = THRESHOLD, entries: int = ENTRIES, tick: Callable[[], None] = _nothing
) -> Report:
    """Check every instance that the kind `name` offers. TaskRefused when it offers none; tick: called once per entry,
    may raise to stop."""
    began = time.monotonic()
    kind: Any = kinds.load(name)
    offer = getattr(kind, "gradcheck_instance", None)
    if offer is None:
        raise TaskRefused(
            f"the kind {name!r} offers no instance to check: it does not train, or lacks gradcheck_instance"
        )
    with _seeded():
        offered = offer()
    cases: Mapping[str, Trainable] = offered if isinstance(offered, Mapping) else {"": offered}
    losses: dict[str, float] = {}
    tensors: list[Checked] = []
    found: list[Entry] = []
    for case, trainable in cases.items():
        losses[case], rows, more = check(trainable, case=case, entries=entries, tick=tick)
        tensors += rows
        found += more
    found.sort(key=lambda entry: -entry.relative)
    largest = found[0].relative
    return Report(
        kind=name,
        version=kind.version,
        ok=largest <= threshold,
        threshold=threshold,
        relative=largest,
        losses=losses,
        tensors=tensors,
        worst=found[:WORST_MAX],
        seconds=round(time.monotonic() - began, 3),
    )


def check(
    trainable: Trainable, *, case: str = "", entries: int = ENTRIES, tick: Callable[[], None] = _nothing
) -> tuple[float, list[Checked], list[Entry]]:
    """(loss per target, a row per trained tensor, all entries that were looked at). The instance is spoilt by it."""
    if not 0 < trainable.rows <= ROWS_MAX:
        raise TaskRefused(f"an instance to check has 1 to {ROWS_MAX} rows, this one has {trainable.rows}")
    trained = _prepared(trainable)
    rows = np.arange(trainable.rows)
    batch = _doubled(trainable.build(rows))
    targets = trainable.targets(batch)

    def loss() -> float:
        with _seeded(), torch.no_grad():
            return float(trainable.loss(batch)) / targets

    value = loss()
    if not math.isfinite(value):
        raise NonFinite(f"the loss of the instance {case or 'to check'!r} is {value}: there is nothing to compare")
    analytic = _analytic(trainable, batch, rows, targets, trained)
    floor = FLOOR * max(1.0, abs(value))
    tensors, found = [], []
    for number, (name, parameter) in enumerate(trained.items()):
        looked_at = []
        for position in _positions(analytic[name], entries, number):
            tick()
            looked_at.append(_entry(case, name, parameter, analytic[name], position, loss, floor))
        reached = any(entry.analytic or entry.numerical for entry in looked_at)
        worst = max(entry.relative for entry in looked_at)
        tensors.append(Checked(case, name, list(parameter.shape), len(looked_at), worst, reached))
        found += looked_at
    return value, tensors, found


# ------------------------------------------------------------------------------------------------------- the two ways


def _analytic(
    trainable: Trainable, batch: Any, rows: Any, targets: int, trained: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The gradients by the kind's own way, else through its loss; zero where there is none."""
    step = Step(
        number=0,
        targets=targets,
        autocast=contextlib.nullcontext,
        backward=lambda loss: loss.backward(),
        between=_nothing,
    )
    half = max(1, len(rows) // 2)
    with _seeded():
        parts = [_doubled(trainable.build(part)) for part in (rows[:half], rows[half:]) if len(part)]
        if trainable.gradients(parts, step) is None:
            with _seeded():
                (trainable.loss(batch) / targets).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
        for name, parameter in trained.items()
    }


def _entry(
    case: str,
    name: str,
    parameter: nn.Parameter,
    gradients: Tensor,
    position: int,
    loss: Callable[[], float],
    floor: float,
) -> Entry:
    """One number both ways, with the step at which they agree best."""
    analytic = float(gradients.reshape(-1)[position])
    best: tuple[float, float] | None = None
    for step in STEPS:
        numerical = _difference(parameter, position, step, loss)
        relative = abs(analytic - numerical) / max(abs(analytic), abs(numerical), floor)
        relative = relative if math.isfinite(relative) else math.inf
        best = (relative, numerical) if best is None else min(best, (relative, numerical))
        if best[0] <= THRESHOLD / 10:
            break
    assert best is not None
    index = [int(each) for each in np.unravel_index(position, parameter.shape)]
    return Entry(case, name, index, analytic, best[1], best[0])


def _difference(parameter: nn.Parameter, position: int, step: float, loss: Callable[[], float]) -> float:
    """The central difference of the loss along one number; the number is put back."""
    numbers = parameter.data.view(-1)
    before = float(numbers[position])
    moved = step * max(1.0, abs(before))
    try:
        numbers[position] = before + moved
        above, up = float(numbers[position]), loss()
        numbers[position] = before - moved
        below, down = float(numbers[position]), loss()
    finally:
        numbers[position] = before
    return (up - down) / (above - below)


def _positions(gradients: Tensor, most: int, seed: int) -> list[int]:
    """Which numbers of a tensor to look at: all of a small one, else the largest gradients and some at random."""
    count = gradients.numel()
    if count <= most:
        return list(range(count))
    largest = torch.topk(gradients.reshape(-1).abs(), most // 2).indices.tolist()
    drawn = np.random.default_rng([SEED, seed]).permutation(count)
    others = [int(position) for position in drawn[:most] if int(position) not in set(largest)]
    return [*largest, *others[: most - len(largest)]]


# ---------------------------------------------------------------------------------------------------------- in float64


def _prepared(trainable: Trainable) -> dict[str, nn.Parameter]:
    """The trained parameters by name, in float64 and a little off their start; the network in training."""
    _double_within(trainable, set(), depth=4)
    network = trainable.network
    network.double()
    network.train()
    floats = {name: tensor.dtype for name, tensor in trainable.state().items() if tensor.is_floating_point()}
    coarse = [name for name, dtype in floats.items() if dtype is not torch.float64]
    if coarse:
        raise TaskRefused(f"{', '.join(coarse)} can not be turned into float64: float32 is too coarse to compare in")
    frozen = set(trainable.frozen())
    trained = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and name not in frozen
    }
    if not trained:
        raise TaskRefused("an instance without trained parameters was offered: there is nothing to check")
    noise = torch.Generator().manual_seed(SEED)
    for parameter in trained.values():
        parameter.data = parameter.data.contiguous()
        parameter.data += MOVED * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
        parameter.grad = None
    return trained


def _double_within(holder: Any, seen: set[int], depth: int) -> None:
    """Turn every module and floating tensor that an object holds in its attributes into float64."""
    if id(holder) in seen or depth == 0:
        return
    seen.add(id(holder))
    names = [
        *getattr(holder, "__dict__", {}),
        *(name for each in type(holder).__mro__ for name in getattr(each, "__slots__", ())),
    ]
    for name in names:
        value = getattr(holder, name, None)
        if isinstance(value, nn.Module):
            value.double()
        elif isinstance(value, Tensor) and value.is_floating_point() and value.dtype is not torch.float64:
            object.__setattr__(holder, name, value.detach().double())
        elif type(value).__module__.startswith(type(holder).__module__.partition(".")[0]):
            _double_within(value, seen, depth - 1)


def _doubled(value: Any) -> Any:
    """A batch with its floating tensors in float64, however it is nested."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_doubled, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_doubled, value))
    if isinstance(value, Mapping):
        return {name: _doubled(each) for name, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _doubled(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **fields)
    return value


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Draw the same random numbers inside, every time; leave the generator as it was."""
    before = torch.get_rng_state()
    torch.manual_seed(SEED)
    try:
        yield
    finally:
        torch.set_rng_state(before)
