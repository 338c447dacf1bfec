"""All that a training needs to continue, and the two ways that it goes: into a snapshot, and back.

    State        counters, plan, the best so far, trace, fingerprint     a record; msgpack carries it
    Moving       network, optimizer, gradient scaler, best weights,      tensors by name: model.*, best.*, extra.*, and
                 what else a kind's training goes on from                what AdamW remembers of each trained parameter
    generators   of python, numpy, torch and its devices                 executors/checkpoint.py

The order of the data needs no state: it is a function of the step (executors/data.py). A snapshot falls between whole
steps; one that was interrupted between two of its parts is taken anew, with the generators as they stood before it.

`restore` believes nothing: it looks at every name, shape, type and number first, and only then moves anything, so that
a checkpoint of another task, a torn one or one that was made up leaves the network as it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from executors import checkpoint, schedules
from executors.checkpoint import Snapshot
from executors.device import differences
from mesh import codec
from mesh.errors import ArtifactCorrupt

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""

HISTORY_MAX = 2_000
"""Evaluations remembered in the state."""

PLANS_MAX = 500
"""Turns of the schedule remembered in the state: a run turns when it is a tenth slower than was planned."""

DIFFERED_MAX = 50
"""Differences between machines remembered in the state."""

STEP_MAX = 2**53
"""No run is longer; a number beyond it was made up."""


class State(msgspec.Struct, kw_only=True):
    """Everything that a run needs to continue, beside tensors and generators."""

    rows: int
    batch: int
    schedule: schedules.Schedule
    fingerprint: dict[str, Any]
    step: int = 0
    """Finished steps; epoch and place in it follow from it."""
    evaluated: int = -1
    """The last step that was evaluated."""
    best_step: int = -1
    best_score: float = -math.inf
    best_loss: float = math.inf
    best_metrics: dict[str, float] = {}
    stale: int = 0
    """Evaluations since the best one."""
    loss_mean: float = 0.0
    """Running mean of the training loss."""
    trained_s: float = 0.0
    exact: bool = True
    differed: list[str] = []
    """What changed between the machines of a run that is not exact."""
    trace: bytes = b""
    """Hash chain over (step, loss, gradient norm, rate): two runs with equal traces did the same."""
    history: list[list[float]] = []
    """Per evaluation: step, training loss, validation loss, score."""
    plans: list[schedules.Schedule] = []
    """Schedules into which the run turned because its time was short, in order: with them, whoever trains a part of it
    again takes the same rates."""

    def __post_init__(self) -> None:
        numbers = (self.loss_mean, self.trained_s, self.schedule.anchor)
        counts = (self.schedule.warmup, self.schedule.end, self.schedule.anchor_step, self.stale)
        if not -1 <= self.best_step <= self.evaluated <= self.step <= STEP_MAX or self.step < 0:
            raise ValueError(f"its steps contradict each other: {self.step}, {self.evaluated}, {self.best_step}")
        if not all(map(math.isfinite, numbers)) or self.trained_s < 0 or not all(0 <= n <= STEP_MAX for n in counts):
            raise ValueError("its counters are out of range")
        if (
            len(self.history) > HISTORY_MAX
            or len(self.plans) > PLANS_MAX
            or len(self.differed) > DIFFERED_MAX
            or len(self.trace) not in (0, 32)
        ):
            raise ValueError("its history is not what a run remembers")
        if math.isnan(self.best_score) or math.isnan(self.best_loss):
            raise ValueError("its best result is no number")


@dataclasses.dataclass(slots=True)
class Moving:
    """What a step, or an evaluation, changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The best weights so far; frozen ones are left out."""
    extra: Callable[[], Mapping[str, Tensor]] = dict
    """A kind's further tensors, changed in place by its steps."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    def remember_best(self) -> None:
        """These weights are the best so far."""
        frozen = self._frozen()
        weights = self.network.state_dict()
        self.best = {name: tensor.detach().clone() for name, tensor in weights.items() if name not in frozen}

    def take_best(self) -> None:
        """Put the best weights back into the network."""
        self.network.load_state_dict({**self.network.state_dict(), **self.best})

    def remembers_forward(self) -> bool:
        """True when the network has saved buffers, which a forward pass may change."""
        parameters = dict(self.network.named_parameters(remove_duplicate=False))
        return any(name not in parameters for name in self.network.state_dict())

    def still(self) -> set[str]:
        """Names in a snapshot whose tensors are replaced, but never changed in place."""
        return {f"model.{name}" for name in self._frozen()} | {f"best.{name}" for name in self.best}

    def snapshot(self, state: State) -> Snapshot:
        """Everything as it is after the last step. Its tensors are the training's own: copy them before the next."""
        values = {
            "run": msgspec.to_builtins(state, builtin_types=(bytes,)),
            "scaler": self.scaler.state_dict(),
            "generators": checkpoint.generators(),
        }
        return Snapshot(self.tensors(), values)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a snapshot by name; the training's own, not copies."""
        frozen = self._frozen()
        weights = {**self.network.state_dict(), **frozen}
        tensors = {
            f"model.{name}": tensor.detach() if name not in frozen else tensor for name, tensor in weights.items()
        }
        for name, parameter in self.network.named_parameters():
            for moment, tensor in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}.{name}"] = tensor
        tensors |= {f"extra.{name}": tensor.detach() for name, tensor in self.extra().items()}
        return tensors | {f"best.{name}": tensor for name, tensor in self.best.items()}

    def digest(self) -> str:
        """SHA-256 of all tensors and generators: equal for runs that did the same, bit by bit."""
        return digest_of(self.tensors())

    def restore(self, saved: Snapshot, mine: State) -> State:
        """Continue from a snapshot; the state to go on with. mine: that of a run which begins here. ArtifactCorrupt
        when it is not one of this task, and nothing was changed."""
        try:
            state = msgspec.convert(saved.state["run"], State)
            if (state.rows, state.batch) != (mine.rows, mine.batch):
                raise ValueError(f"it was made with {state.rows} examples in batches of {state.batch}")
            self._check(saved.tensors, state)
            scale = self._checked_scale(saved.state.get("scaler"))
            left = checkpoint.restore_generators(saved.state["generators"])
        except (KeyError, ValueError, TypeError, RuntimeError, msgspec.ValidationError) as error:
            raise ArtifactCorrupt(f"the checkpoint does not fit this task: {str(error)[:200]}") from None
        self._fill(saved.tensors, state)
        if scale:
            self.scaler.load_state_dict(scale)
        changed = differences(state.fingerprint, mine.fingerprint)
        changed += [f"the random generators of {device} could not be restored here" for device in left]
        state.fingerprint = mine.fingerprint
        if changed:
            state.exact, state.differed = False, [*state.differed, *changed][:DIFFERED_MAX]
        return state

    # -- inside -------------------------------------------------------------------------------------------------------

    def _frozen(self) -> dict[str, nn.Parameter]:
        """Parameters that are not trained."""
        return {name: one for name, one in self.network.named_parameters() if not one.requires_grad}

    def _expected(self, tensors: Mapping[str, Tensor], state: State) -> Iterator[tuple[str, Tensor, bool]]:
        """(name, a tensor of its shape and type, whether it must be finite) of everything in a snapshot of `state`."""
        frozen = self._frozen()
        for name, tensor in self.network.state_dict().items():
            yield f"model.{name}", tensor, True
            if state.best_step >= 0 and name not in frozen:
                yield f"best.{name}", tensor, True
        for name, tensor in self.extra().items():
            yield f"extra.{name}", tensor, True
        if state.step:
            for name, parameter in self._moved(tensors):
                yield f"step.{name}", torch.zeros(()), True
                yield f"exp_avg.{name}", parameter, False
                yield f"exp_avg_sq.{name}", parameter, False

    def _moved(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of which the optimizer remembered something: not one that never had a gradient."""
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad and f"step.{name}" in tensors:
                yield name, parameter

    def _check(self, tensors: Mapping[str, Tensor], state: State) -> None:
        """ValueError or KeyError unless these are the tensors of such a network, no more and no fewer."""
        names = set()
        for name, like, finite in self._expected(tensors, state):
            found = tensors[name]
            if found.shape != like.shape or found.dtype != like.dtype:
                wanted = f"{like.dtype} {list(like.shape)}"
                raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, expected {wanted}")
            if finite and found.is_floating_point() and not bool(torch.isfinite(found).all()):
                raise ValueError(f"{name} holds numbers that are not finite")
            names.add(name)
        if foreign := tensors.keys() - names:
            raise ValueError(f"it holds {sorted(foreign)[0]!r}, which this network has not")

    def _checked_scale(self, saved: Any) -> dict[str, Any]:
        """The gradient scaler's state; {} when it is off. ValueError when it is none."""
        own = self.scaler.state_dict()
        if not own:
            return {}
        if not isinstance(saved, dict) or saved.keys() != own.keys():
            return {}  # made with another precision, which the fingerprint says: it begins anew
        if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in saved.values()):
            raise ValueError("its gradient scale is no number")
        return dict(saved)

    def _fill(self, tensors: Mapping[str, Tensor], state: State) -> None:
        self.network.load_state_dict(_under(tensors, "model"))
        for name, tensor in self.extra().items():
            with torch.no_grad():
                tensor.copy_(tensors[f"extra.{name}"])
        if state.step:
            for name, parameter in self._moved(tensors):
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
                self.optimizer.state[parameter] = moments
        self.best = {name: tensor.to(self.device).clone() for name, tensor in _under(tensors, "best").items()}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of these tensors and of this process's generators."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        data = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {data.dtype} {list(data.shape)}\n".encode())
        total.update(data.reshape(-1).view(torch.uint8).numpy().data)
    total.update(codec.pack(checkpoint.generators()))
    return total.hexdigest()


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(name + ".")}
