"""The training loop, for every kind that learns by gradient steps.

    while True:                               rare work first, the step in the middle, reporting last
        evaluate, when it is due              a better network is remembered
        aim the schedule, when the machine turned out slower than planned
        checkpoint, when it is due
        leave, when there is a reason         'epochs', 'early stop', 'budget', or a stop from outside
        one step                              forward, backward, clip, check, move
        report

A kind brings a `Trainable` (what to learn) and a `Recipe` (how long, how fast); the loop brings everything else. All
that a run needs to continue stands in one record, `State`, beside weights and moments. A run that was killed and
resumed under the same fingerprint ends bit-identical to one that was not: batches and rates are functions of the step,
generators are saved, and nothing that a clock decides moves a weight, except the plan when the budget is short, which
is part of the state.

Bad numbers stop a run before the weights move. Running out of memory ends the process (OutOfMemory): the next attempt
computes half as many examples at once and still takes `batch` of them per step.

Not covered: several devices, gradient scaling for fp16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import msgspec
import torch
from torch import Tensor, nn

from executors import checkpoint, schedules
from executors.data import Ahead, Ints, batches
from executors.device import Device, differences, fingerprint, memory_translated
from executors.port import Context, Stopped
from mesh.errors import ArtifactCorrupt, NonFinite

REPORT_S = 0.5
"""Seconds between two reports: a bar that moves, and a sign of life well below any stall limit."""

BEST_GAP_S = 5.0
"""Least time between two checkpoints made only because the network got better."""

SAVE_SHARE = 20.0
"""Such a checkpoint also waits this many times the last save's duration: saving stays near 5 % of a run."""

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""

HISTORY_MAX = 2_000
"""Evaluations remembered in the state."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network is worth on validation. `score`: higher is better, what 'best' is chosen by."""

    score: float
    loss: float
    metrics: Mapping[str, float]


class Trainable(Protocol):
    """What a kind brings to the loop."""

    @property
    def network(self) -> nn.Module:
        """What is trained, on its device."""

    @property
    def rows(self) -> int:
        """Training examples."""

    def build(self, rows: Ints) -> Any:
        """A batch of these training examples. Runs in another thread, draws no random numbers."""

    def targets(self, batch: Any) -> int:
        """How many predictions a batch asks for."""

    def loss(self, batch: Any) -> Tensor:
        """Sum of the loss over the batch's targets."""

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """The network on validation. Calls `tick` at least every second; it may raise. Draws no random numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How to train."""

    batch: int
    micro_batch: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    epochs_max: int
    evaluate_every: int
    """Steps."""
    patience: int
    """Evaluations without a better one before an early stop."""
    clip: float
    budget_s: float
    seed: int
    checkpoint_s: float = 30.0
    checkpoint_steps: int = 0
    """0: by time only."""


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


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended. The trainable's network holds the best weights."""

    stopped_by: str
    state: State
    examples_per_s: float
    checkpoints_skipped: int


class StopAsked(Exception):
    """Leaves an evaluation when the run is asked to stop."""


class Trainer:
    """One run of one trainable."""

    def __init__(
        self, trainable: Trainable, recipe: Recipe, device: Device, context: Context, folder: Path, *, number: int = 0
    ) -> None:
        """folder: where checkpoints are written; number: of the checkpoint that came before."""
        self.trainable, self.recipe, self.device, self.context = trainable, recipe, device, context
        self._folder, self._number = folder, number
        self._per_epoch = -(-trainable.rows // recipe.batch)
        self._optimizer = _optimizer(trainable.network, recipe)
        self._best: dict[str, Tensor] = {}
        self._saver = checkpoint.Saver()
        self._pace = Pace()
        self._shown: dict[str, float] = {}
        self._evaluation_s = 0.0
        self._saved_at = self._reported_at = self._started = time.monotonic()
        self._save_took_s = 0.0
        self.state = State(
            rows=trainable.rows,
            batch=recipe.batch,
            schedule=schedules.first(recipe.epochs_max * self._per_epoch, recipe.warmup_steps),
            fingerprint=self._fingerprint(),
        )
        self._before_s = 0.0

    @property
    def steps_max(self) -> int:
        """Steps of a run that neither time nor patience ends."""
        return self.recipe.epochs_max * self._per_epoch

    @property
    def trained_s(self) -> float:
        """Training seconds of all attempts."""
        return self._before_s + time.monotonic() - self._started

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> Finished:
        """Train until there is a reason to stop; leave the best weights in the network. Stopped, NonFinite,
        OutOfMemory as the module says."""
        self._started = self._saved_at = time.monotonic()
        source = batches(self.recipe.seed, self.trainable.rows, self.recipe.batch, self.state.step)
        with memory_translated("training"), Ahead(source, self._build) as ahead:
            while True:
                stopped_by = self._reason()
                if self._evaluation_due() or (stopped_by and self.state.evaluated != self.state.step):
                    self._evaluate()
                    stopped_by = stopped_by or self._reason()
                if self.state.step == self.state.schedule.warmup:
                    self._aim()
                self._stop_if_asked()
                if stopped_by or self._checkpoint_due():
                    self._checkpoint(last=bool(stopped_by))
                if stopped_by:
                    break
                self._step(ahead.next())
                self._report()
        self.trainable.network.load_state_dict(self._best)
        return Finished(stopped_by, self.state, self._pace.examples_per_s, self._saver.skipped)

    def _reason(self) -> str:
        """'' or why the run is over."""
        if self.state.step >= self.steps_max:
            return "epochs"
        if self.state.stale >= self.recipe.patience:
            return "early stop"
        if self.state.step >= self.state.schedule.end or self.trained_s >= self.recipe.budget_s:
            return "budget"
        return ""

    def _step(self, batch: list[Any]) -> None:
        """Forward, backward, clip, check, move."""
        self._pace.begin()
        network, rate = self.trainable.network, self.recipe.learning_rate * self.state.schedule.factor(self.state.step)
        network.train()
        self._optimizer.zero_grad(set_to_none=True)
        targets = sum(self.trainable.targets(part) for part in batch)
        total = 0.0
        for part in batch:
            with self.device.autocast():
                loss = self.trainable.loss(part) / targets
            total += float(loss.detach())
            if not math.isfinite(total):
                raise NonFinite(self._sentence("the loss", total))
            loss.backward()
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip))
        if not math.isfinite(norm):
            raise NonFinite(self._sentence("the gradient's norm", norm))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.state.step += 1
        self.state.trace = hashlib.sha256(
            self.state.trace + struct.pack("<qddd", self.state.step, total, norm, rate)
        ).digest()
        mean = self.state.loss_mean
        self.state.loss_mean = 0.95 * mean + 0.05 * total if self.state.step > 1 else total
        self._shown.update(loss=self.state.loss_mean, grad_norm=norm, learning_rate=rate)
        self._pace.end(targets)

    def _sentence(self, what: str, value: float) -> str:
        return (
            f"{what} became {value} at step {self.state.step + 1}; the weights were not moved: "
            "try a lower learning_rate, or look at the data"
        )

    def _build(self, rows: Ints) -> list[Any]:
        size = self.recipe.micro_batch
        return [self.trainable.build(rows[start : start + size]) for start in range(0, len(rows), size)]

    # -- evaluation and plan ------------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        return self.state.evaluated != self.state.step and self.state.step % self.recipe.evaluate_every == 0

    def _evaluate(self) -> None:
        """Measure the network, remember it when it is the best so far, aim the schedule anew when time is short."""
        started = time.monotonic()
        state, network = self.state, self.trainable.network
        network.eval()
        try:
            found = self.trainable.evaluate(self._tick)
        except StopAsked as asked:
            self._stop(str(asked))
        if not math.isfinite(found.score) or not math.isfinite(found.loss):
            raise NonFinite(f"validation gave a loss of {found.loss} at step {state.step}; the last checkpoint is kept")
        state.evaluated = state.step
        if (found.score, -found.loss) > (state.best_score, -state.best_loss):
            state.best_step, state.best_score, state.best_loss = state.step, found.score, found.loss
            state.best_metrics, state.stale = dict(found.metrics), 0
            self._best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        else:
            state.stale += 1
        if len(state.history) < HISTORY_MAX:
            state.history.append([float(state.step), state.loss_mean, found.loss, found.score])
        self._shown.update(found.metrics, validation_loss=found.loss)
        self._evaluation_s = time.monotonic() - started
        self._aim()

    def _aim(self) -> None:
        """End the schedule where the time ends, as far as the last steps tell."""
        per_step_s = self._pace.seconds_per_step
        if per_step_s is not None:
            per_step_s += self._evaluation_s / self.recipe.evaluate_every
            left_s = self.recipe.budget_s - self.trained_s
            self.state.schedule = schedules.replanned(self.state.schedule, self.state.step, left_s, per_step_s)
        self._pace.renew()

    def _tick(self) -> None:
        """The sign of life of a long evaluation."""
        if why := self.context.stop_requested():
            raise StopAsked(why)
        self._report(phase="validation")

    # -- stopping and checkpoints -------------------------------------------------------------------------------------

    def _stop_if_asked(self) -> None:
        if why := self.context.stop_requested():
            self._stop(why)

    def _stop(self, why: str) -> NoReturn:
        if why == "checkpoint":
            self._checkpoint(last=True)
        raise Stopped(f"stopped at step {self.state.step} as asked: {why}")

    def _checkpoint_due(self) -> bool:
        since_s = time.monotonic() - self._saved_at
        every = self.recipe.checkpoint_steps
        if every and self.state.step and self.state.step % every == 0:
            return True
        if since_s >= self.recipe.checkpoint_s:
            return True
        improved = self.state.step > 0 and self.state.best_step == self.state.step
        return improved and since_s >= max(BEST_GAP_S, SAVE_SHARE * self._save_took_s)

    def _checkpoint(self, *, last: bool) -> None:
        """Copy now, write in the background; the last one is waited for."""
        if last:
            self._saver.wait()
        self.state.trained_s = self.trained_s
        number, step = self._number + 1, self.state.step
        best, trained_s, started = self.state.best_step == step, self.state.trained_s, time.monotonic()

        def done(folder: Path) -> None:
            self._save_took_s = time.monotonic() - started
            self.context.checkpoint(folder, number=number, step=step, best=best, trained_s=trained_s)

        if self._saver.offer(self._folder / f"{number:06d}", self.snapshot, done):
            self._number, self._saved_at = number, started
        if last:
            self._saver.wait()

    def snapshot(self) -> checkpoint.Snapshot:
        """A copy of everything as it is after the last step."""
        weights = self.trainable.network.state_dict()
        tensors = {f"model.{name}": tensor.detach().clone() for name, tensor in weights.items()}
        for name, parameter in self.trainable.network.named_parameters():
            for moment, tensor in self._optimizer.state[parameter].items():
                tensors[f"{moment}.{name}"] = tensor.detach().clone()
        if self.state.best_step != self.state.step:
            tensors.update({f"best.{name}": tensor for name, tensor in self._best.items()})
        state = {"run": msgspec.to_builtins(self.state, builtin_types=(bytes,)), "generators": checkpoint.generators()}
        return checkpoint.Snapshot(tensors, state)

    def resume(self, folder: Path, trained_s: float = 0.0) -> None:
        """Continue from a checkpoint. trained_s: what the mesh knows of earlier attempts. ArtifactCorrupt when the
        checkpoint is damaged or belongs to another task."""
        saved = checkpoint.load(folder)
        try:
            state = msgspec.convert(saved.state["run"], State)
            if (state.rows, state.batch) != (self.state.rows, self.state.batch):
                raise ValueError(f"it was made with {state.rows} examples in batches of {state.batch}")
            self._fill(saved.tensors, state)
            checkpoint.restore_generators(saved.state["generators"])
        except (KeyError, ValueError, TypeError, RuntimeError, msgspec.ValidationError) as error:
            raise ArtifactCorrupt(f"the checkpoint {folder.name} does not fit this task: {str(error)[:200]}") from None
        changed = differences(state.fingerprint, self.state.fingerprint)
        state.fingerprint = self.state.fingerprint
        if changed:
            state.exact, state.differed = False, [*state.differed, *changed][:50]
        self.state = state
        self._before_s = max(state.trained_s, trained_s)

    def _fill(self, tensors: Mapping[str, Tensor], state: State) -> None:
        network = self.trainable.network
        model = _under(tensors, "model")
        network.load_state_dict(model)
        for name, parameter in network.named_parameters():
            if state.step:
                self._optimizer.state[parameter] = {
                    moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS
                }
        best = model if state.best_step == state.step else _under(tensors, "best")
        self._best = {name: tensor.to(self.device.torch).clone() for name, tensor in best.items()}

    def _fingerprint(self) -> dict[str, Any]:
        return {**fingerprint(self.device), "micro_batch": min(self.recipe.micro_batch, self.recipe.batch)}

    # -- reporting ----------------------------------------------------------------------------------------------------

    def _report(self, phase: str = "training") -> None:
        now = time.monotonic()
        if now - self._reported_at < REPORT_S:
            return
        self._reported_at = now
        done = max(self.state.step / max(1, self.state.schedule.end), self.trained_s / self.recipe.budget_s)
        epoch = self.state.step / self._per_epoch
        metrics = {**self._shown, "examples_per_s": self._pace.examples_per_s, "epoch": epoch}
        self.context.progress(self.state.step, min(1.0, done), metrics, phase)


class Pace:
    """How long steps take, since the last evaluation; the first two of a process are slow and do not count."""

    def __init__(self) -> None:
        self._skip = 2
        self._steps, self._seconds, self._examples = 0, 0.0, 0
        self._all_seconds, self._all_examples = 0.0, 0
        self._begun = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._begun = time.monotonic()

    def end(self, examples: int) -> None:
        """It is done."""
        took = time.monotonic() - self._begun
        if self._skip:
            self._skip -= 1
            return
        self._steps, self._seconds, self._examples = self._steps + 1, self._seconds + took, self._examples + examples
        self._all_seconds, self._all_examples = self._all_seconds + took, self._all_examples + examples

    def renew(self) -> None:
        """Start the window anew."""
        self._steps, self._seconds, self._examples = 0, 0.0, 0

    @property
    def seconds_per_step(self) -> float | None:
        """None until enough steps were seen."""
        return self._seconds / self._steps if self._steps >= 3 else None

    @property
    def examples_per_s(self) -> float:
        """Over the whole process, steps only."""
        return self._all_examples / self._all_seconds if self._all_seconds > 0 else 0.0


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Fused AdamW; biases do not decay."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    found: Iterator[tuple[str, Tensor]] = (
        (key[len(name) + 1 :], tensor) for key, tensor in tensors.items() if key.startswith(name + ".")
    )
    return dict(found)
