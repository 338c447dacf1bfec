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

A checkpoint falls between whole steps. A step of several parts that is asked to stop between two of them is given up:
its gradients are dropped and the generators put back to where it began, so that whoever takes it again takes the same.
(A network whose forward pass changes buffers, as batch normalisation does, finishes the step first.)
Checkpoints are copied into memory and leave from there (executors/saving.py, executors/cadence.py): the loop waits for
the copy alone.

Bad numbers stop a run before the weights move. Running out of memory ends the process (OutOfMemory): the next attempt
computes half as many examples at once and still takes `batch` of them per step.

Not covered: several devices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from executors import cadence, checkpoint, schedules
from executors.cadence import Cadence
from executors.checkpoint import Snapshot
from executors.data import Ahead, Ints, batches
from executors.device import Device, fingerprint, memory_translated
from executors.port import Context, Stopped
from executors.saving import Mark, Saver
from executors.state import HISTORY_MAX, Moving, State
from mesh.errors import ArtifactCorrupt, NonFinite

REPORT_S = 0.5
"""Seconds between two reports: a bar that moves, and a sign of life well below any stall limit."""

SCALE_LEAST = 2.0**-14
"""A gradient scale below it means that the gradient itself is not finite, whatever it is scaled by."""


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
    overhead: float = cadence.OVERHEAD
    """Share of the run's time that checkpoints may cost; they come less often than asked for to stay below it; 1: no
    bound."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended. The trainable's network holds the best weights."""

    stopped_by: str
    state: State
    digest: str
    """SHA-256 of weights, moments, best weights and generators after the last step."""
    examples_per_s: float
    checkpoints: Mapping[str, float]
    """Of this attempt: taken, skipped, postponed, lost; what one cost, all of them as a share of the time, and what
    came once."""


class StopAsked(Exception):
    """Leaves an evaluation when the run is asked to stop."""


class Trainer:
    """One run of one trainable."""

    def __init__(
        self,
        trainable: Trainable,
        recipe: Recipe,
        device: Device,
        context: Context,
        folder: Path,
        *,
        number: int = 0,
        kind: str = "",
    ) -> None:
        """folder: where checkpoints are written, if they are; number: of the checkpoint that came before; kind: name
        and version of whose training it is."""
        self.trainable, self.recipe, self.device, self.context = trainable, recipe, device, context
        self._per_epoch = -(-trainable.rows // recipe.batch)
        scaler = torch.amp.GradScaler(device.torch.type, enabled=device.precision == "fp16")
        self._moving = Moving(trainable.network, _optimizer(trainable.network, recipe), scaler)
        self._saver = Saver(context, folder, number)
        self._pace = Pace()
        self._shown: dict[str, float] = {}
        self._evaluation_s = 0.0
        self._reported_at = self._started = time.monotonic()
        self._saves_seen = 0
        self._skips_told = 0
        self.state = State(
            rows=trainable.rows,
            batch=recipe.batch,
            schedule=schedules.first(recipe.epochs_max * self._per_epoch, recipe.warmup_steps),
            fingerprint={**self._fingerprint(), "kind": kind},
        )
        self._before_s = 0.0
        self._cadence = self._new_cadence()

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
        self._started, self._cadence = time.monotonic(), self._new_cadence()
        try:
            stopped_by = self._loop()
        finally:
            self._saver.close()
        digest = self._moving.digest()
        self._moving.take_best()
        return Finished(stopped_by, self.state, digest, self._pace.examples_per_s, self._checkpoints())

    def _loop(self) -> str:
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
                if stopped_by:
                    self._last_checkpoint()
                    return stopped_by
                self._checkpoint_if_due()
                self._step(ahead.next())
                if self._saver.empty():
                    self._saver.prepare(self._moving.tensors())
                self._report()

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
        packing = not self._saver.free()
        self._pace.begin()
        network, scaler = self.trainable.network, self._moving.scaler
        rate = self.recipe.learning_rate * self.state.schedule.factor(self.state.step)
        network.train()
        self._moving.optimizer.zero_grad(set_to_none=True)
        targets = sum(self.trainable.targets(part) for part in batch)
        total = self._gradients(batch, targets)
        scaler.unscale_(self._moving.optimizer)
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip))
        if not math.isfinite(norm) and (not scaler.is_enabled() or scaler.get_scale() < SCALE_LEAST):
            raise NonFinite(self._sentence("the gradient's norm", norm))
        for group in self._moving.optimizer.param_groups:
            group["lr"] = rate
        scaler.step(self._moving.optimizer)
        scaler.update()
        self.state.step += 1
        self.state.trace = hashlib.sha256(
            self.state.trace + struct.pack("<qddd", self.state.step, total, norm, rate)
        ).digest()
        mean = self.state.loss_mean
        self.state.loss_mean = 0.95 * mean + 0.05 * total if self.state.step > 1 else total
        self._shown.update(loss=self.state.loss_mean, grad_norm=norm, learning_rate=rate)
        took = self._pace.end(targets)
        if took is not None:
            self._cadence.stepped(took, packing=packing)

    def _gradients(self, batch: list[Any], targets: int) -> float:
        """Add up the gradients of a step's parts; its loss. Stopped between two parts when that is asked for."""
        total = 0.0
        began = checkpoint.generators() if len(batch) > 1 else {}
        for number, part in enumerate(batch):
            if number:
                self._give_up_if_asked(began)
            with self.device.autocast():
                loss = self.trainable.loss(part) / targets
            total += float(loss.detach())
            if not math.isfinite(total):
                raise NonFinite(self._sentence("the loss", total))
            self._moving.scaler.scale(loss).backward()
        return total

    def _give_up_if_asked(self, began: Mapping[str, Any]) -> None:
        """Leave a step between two of its parts, as if it had not begun, where that can be made true."""
        self._report()
        why = self.context.stop_requested()
        if why and not (why == "checkpoint" and self._moving.remembers_forward()):
            self._moving.optimizer.zero_grad(set_to_none=True)
            checkpoint.restore_generators(began)
            self._stop(why)

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
            self._moving.remember_best()
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
            self._last_checkpoint()
        raise Stopped(f"stopped at step {self.state.step} as asked: {why}")

    def _checkpoint_if_due(self) -> None:
        """Take the newest state, when something asked for it, nobody reads the last one, and it is affordable."""
        saves, now, step = self.context.saves_requested(), time.monotonic(), self.state.step
        why = self._cadence.why_now(
            now,
            step,
            improved=self.state.best_step == step,
            asked=saves > self._saves_seen,
            free=self._saver.free(),
        )
        self._saves_seen = saves
        if why:
            first = not self._cadence.taken  # may have to wait until its memory is there
            made = self._saver.take(self.snapshot(), self._moving.still(), self._mark())
            ended = time.monotonic()
            self._cadence.took(ended, step, ended - now, once=first, made=made)

    def _last_checkpoint(self) -> None:
        """Hand over the state at the end of a run, and see it taken."""
        began = time.monotonic()
        self._saver.take_last(
            self.snapshot, self._moving.still(), self._mark(), lambda: self._report(phase="checkpoint")
        )
        self._cadence.took(time.monotonic(), self.state.step, time.monotonic() - began, once=True)

    def _mark(self) -> Mark:
        state, skipped = self.state, self._cadence.skipped
        state.trained_s = self.trained_s
        news, self._skips_told = skipped - self._skips_told, skipped
        facts = {"fingerprint": state.fingerprint, "exact": state.exact}
        return Mark(state.step, state.best_step == state.step, state.trained_s, facts, news)

    def _new_cadence(self) -> Cadence:
        recipe = self.recipe
        return Cadence(
            every_steps=recipe.checkpoint_steps,
            every_s=recipe.checkpoint_s,
            overhead=recipe.overhead,
            now=time.monotonic(),
            step=self.state.step,
        )

    def _checkpoints(self) -> dict[str, float]:
        """What the checkpoints of this attempt were, and what they cost."""
        kept, run_s = self._cadence, max(1e-9, time.monotonic() - self._started)
        return {
            "taken": kept.taken,
            "skipped": kept.skipped,
            "postponed": kept.postponed,
            "lost": self._saver.lost,
            "cost_s": round(kept.cost_s, 6),
            "share": round(kept.spent_s / run_s, 6),
            "once_s": round(kept.once_s, 6),
        }

    def snapshot(self) -> Snapshot:
        """Everything as it is after the last step; copy it before the next."""
        return self._moving.snapshot(self.state)

    def resume(self, folder: Path, trained_s: float = 0.0) -> None:
        """Continue from a checkpoint. trained_s: what the mesh knows of earlier attempts. ArtifactCorrupt when the
        checkpoint is damaged or belongs to another task; nothing has changed then."""
        try:
            self.state = self._moving.restore(checkpoint.load(folder), self.state)
        except ArtifactCorrupt as error:
            raise ArtifactCorrupt(f"{error} ({folder.name})", resume=True) from None
        self._before_s = max(self.state.trained_s, trained_s)

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

    def end(self, examples: int) -> float | None:
        """It is done; the seconds that it took, if they count."""
        took = time.monotonic() - self._begun
        if self._skip:
            self._skip -= 1
            return None
        self._steps, self._seconds, self._examples = self._steps + 1, self._seconds + took, self._examples + examples
        self._all_seconds, self._all_examples = self._all_seconds + took, self._all_examples + examples
        return took

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
