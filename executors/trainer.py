"""The training loop, for every kind that learns by gradient steps.

    while True:                               rare work first, the step in the middle, reporting last
        evaluate, when it is due              a better network is remembered
        aim the schedule, when the machine turned out slower than planned
        checkpoint, when it is due
        leave, when there is a reason         'epochs', 'steps', 'early stop', 'budget', or a stop from outside
        one step                              executors/stepping.py
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

Several processes that train one network are a `Team` (executors/team.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from executors import checkpoint, compiling, peak, schedules
from executors.cadence import Cadence
from executors.checkpoint import Snapshot
from executors.compiling import Compiled
from executors.data import Ahead, Ints, batches
from executors.device import Device, fingerprint, memory_translated
from executors.pace import Pace
from executors.port import Context, Listening, Stopped
from executors.recipe import Recipe
from executors.saving import Mark, Saver
from executors.state import HISTORY_MAX, PLANS_MAX, Moving, State, digest_of
from executors.stepping import Stepper, Taken
from executors.team import StopAsked, Team
from executors.trainable import Evaluation, Trainable
from mesh.errors import ArtifactCorrupt, NonFinite

REPORT_S = 0.5
"""Seconds between two reports: a bar that moves, and a sign of life well below any stall limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended. The trainable's network holds the best weights."""

    stopped_by: str
    state: State
    digest: str
    """SHA-256 of weights, moments, best weights and generators after the last step."""
    examples_per_s: float
    cost: Mapping[str, float]
    """Of a step in this attempt, checkpoints and validation included: seconds, processor seconds of this process, and
    the share of its time that it waited for batches; and the peak of memory in bytes."""
    compiled: Compiled
    checkpoints: Mapping[str, float]
    """Of this attempt: taken, skipped, postponed, lost; what one cost, all of them as a share of the time, and what
    came once."""


Value = TypeVar("Value")


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
        team: Team | None = None,
    ) -> None:
        """folder: where checkpoints are written, if they are; number: of the checkpoint that came before; kind: name
        and version of whose training it is; team: the processes that train together, this one alone if there is
        none."""
        self.trainable, self.recipe, self.device, self.context = trainable, recipe, device, context
        self.team = team or Team()
        self._per_epoch = -(-trainable.rows // recipe.batch)
        self.compiled = compiling.compiled(trainable.network, recipe.compile, device, self.steps_max)
        if self.compiled.on or recipe.compile == "on":
            context.log(f"the network is {'' if self.compiled.on else 'not '}compiled: {self.compiled.reason}")
        self._moving = self._prepared()
        self._stepper = Stepper(trainable, recipe, device, self._moving, self.team, self._between)
        self._saver = Saver(context, folder, number)
        self._pace = Pace()
        self._shown: dict[str, float] = {}
        self._evaluation_s = 0.0
        self._reported_at = self._started = time.monotonic()
        self._saves_seen = 0
        self._compiles: set[str] = set()
        """What was done with compiled code in this process."""
        self._skips_told = 0
        self.state = State(
            rows=trainable.rows,
            batch=recipe.batch,
            schedule=schedules.first(self.steps_max, recipe.warmup_steps, recipe.schedule),
            fingerprint={**self._fingerprint(), "kind": kind},
        )
        self._before_s = 0.0
        self._cadence = self._new_cadence()

    def _prepared(self) -> Moving:
        """The network as it is to be trained, with its optimizer. ValueError for a frozen name that it has not."""
        network, recipe = self.trainable.network, self.recipe
        parameters = dict(network.named_parameters(remove_duplicate=False))
        for name in self.trainable.frozen():
            if name not in parameters:
                raise ValueError(f"the network has no parameter {name!r} to freeze")
            parameters[name].requires_grad_(False)
        self.team.wrap(network)
        groups = self.trainable.parameter_groups(recipe)
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        scaler = torch.amp.GradScaler(self.device.torch.type, enabled=self.device.precision == "fp16")
        return Moving(network, optimizer, scaler, extra=self.trainable.state)

    @property
    def steps_max(self) -> int:
        """Steps of a run that neither time nor patience ends."""
        return self.recipe.steps_max or self.recipe.epochs_max * self._per_epoch

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
        digest = self._digest()
        self._moving.take_best()
        self.team.unwrap(self.trainable.network)
        return Finished(
            stopped_by,
            self.state,
            digest,
            self._pace.targets_per_s,
            self._cost(),
            self.compiled,
            self._checkpoints(),
        )

    def _loop(self) -> str:
        source = batches(self.recipe.seed, self.trainable.rows, self.recipe.batch, self.state.step)
        with memory_translated("training"), Ahead(source, self._build) as ahead:
            while True:
                stopped_by = self._over()
                if self._evaluation_due() or (stopped_by and self.state.evaluated != self.state.step):
                    self._evaluate()
                    stopped_by = stopped_by or self._over()
                if self.state.step == self.state.schedule.warmup:
                    self._aim()
                self._stop_if_asked()
                if stopped_by:
                    self._last_checkpoint()
                    return stopped_by
                self._checkpoint_if_due()
                self._step(ahead)
                if self.team.rank == 0 and self._saver.empty():
                    self._saver.prepare(self._moving.tensors())
                self._report()

    def _over(self) -> str:
        """'' or why the run is over; what its steps cost is settled then."""
        if reason := self._reason():
            self._pace.end(time.monotonic(), time.process_time())
        return reason

    def _reason(self) -> str:
        """'' or why the run is over."""
        if self.state.step >= self.steps_max:
            return "steps" if self.recipe.steps_max else "epochs"
        if self.state.stale >= self.recipe.patience:
            return "early stop"
        if self.state.step >= self.state.schedule.end or self._agreed(self.trained_s >= self.recipe.budget_s):
            return "budget"
        return ""

    def _step(self, ahead: Ahead[list[Any]]) -> None:
        """Take the next batch's step and write it down."""
        packing, asked_at = not self._saver.free(), time.monotonic()
        batch, number = ahead.next(), self.state.step
        began = time.monotonic()
        factor = self.state.schedule.factor(number)
        taken = self._compiling("step", lambda: self._stepper.take(batch, number, factor))
        self._note(taken)
        now = time.monotonic()
        took = now - began
        if self._pace.stepped(took, began - asked_at, taken.targets):
            self._cadence.stepped(took, packing=packing)
        elif self._pace.warm:
            self._pace.begin(now, time.process_time())

    def _compiling(self, what: str, work: Callable[[], Value]) -> Value:
        """Step or evaluation; once more without compiled code, if the first one shows that there can be none."""
        if not self.compiled.on or what in self._compiles:
            return work()
        before = checkpoint.generators()
        try:
            done = work()
            self._compiles.add(what)
            return done
        except compiling.failures() as error:
            self.compiled = compiling.given_up(self.trainable.network, error)
        self._stepper.undo(before)
        self.state.fingerprint["compile"] = False
        if self.state.step:
            self.state.exact, self.state.differed = False, [*self.state.differed, "compile: True, now False"]
        self.context.log(f"the network is not compiled: {self.compiled.reason}")
        return work()

    def _note(self, taken: Taken) -> None:
        """One step more."""
        state = self.state
        state.step += 1
        said = struct.pack("<qddd", state.step, taken.loss, taken.norm, taken.rate)
        state.trace = hashlib.sha256(state.trace + said).digest()
        state.loss_mean = 0.95 * state.loss_mean + 0.05 * taken.loss if state.step > 1 else taken.loss
        self._shown["loss"] = state.loss_mean
        self._shown["grad_norm"] = taken.norm
        self._shown["learning_rate"] = taken.rate

    def _between(self, undo: Callable[[], None]) -> None:
        """Leave a step between two of its parts, as if it had not begun, where that can be made true."""
        self._report()
        why = self._stop_asked()
        if why and not (why == "checkpoint" and self._moving.remembers_forward()):
            undo()
            self._stop(why)

    def _build(self, rows: Ints) -> list[Any]:
        return [self.trainable.build(part) for part in self.team.parts(rows, self.recipe.micro_batch)]

    # -- evaluation and plan ------------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        return self.state.evaluated != self.state.step and self.state.step % self.recipe.evaluate_every == 0

    def _evaluate(self) -> None:
        """Measure the network, remember it when it is the best so far, aim the schedule anew when time is short."""
        started = time.monotonic()
        state, network = self.state, self.trainable.network
        self._stepper.put_aside()
        network.eval()
        try:
            found = self._compiling("evaluation", self._evaluated)
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
        if self.team.rank == 0 and isinstance(self.context, Listening):
            self.context.evaluated(state.step, {**found.metrics, "validation_loss": found.loss})
        self._evaluation_s = time.monotonic() - started
        self._aim()

    def _evaluated(self) -> Evaluation:
        return self.team.evaluated(lambda: self.trainable.evaluate(self._tick))

    def _aim(self) -> None:
        """End the schedule where the time ends, as far as the last steps tell."""
        per_step_s = self._pace.seconds_per_step
        if per_step_s is not None:
            per_step_s += self._evaluation_s / self.recipe.evaluate_every
            left_s = self.recipe.budget_s - self.trained_s
            planned = schedules.replanned(self.state.schedule, self.state.step, left_s, per_step_s)
            planned = self._agreed(planned)
            if planned != self.state.schedule:
                self.state.plans = [*self.state.plans, planned][-PLANS_MAX:]
            self.state.schedule = planned
        self._pace.renew()

    def _tick(self) -> None:
        """The sign of life of a long evaluation."""
        if self.team.evaluates_alone and (why := self.context.stop_requested()):
            raise StopAsked(why)
        self._report(phase="validation")

    # -- stopping and checkpoints -------------------------------------------------------------------------------------

    def _agreed(self, value: Value) -> Value:
        """What a clock or somebody outside decides, decided for all processes."""
        return self.team.agreed(value)

    def _stop_asked(self) -> str:
        return self._agreed(self.context.stop_requested())

    def _stop_if_asked(self) -> None:
        if why := self._stop_asked():
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
        if self._agreed(why):
            first = not self._cadence.taken  # may have to wait until its memory is there
            snapshot = self.snapshot()
            made = self.team.rank > 0 or self._saver.take(snapshot, self._moving.still(), self._mark())
            ended = time.monotonic()
            self._cadence.took(ended, step, ended - now, once=first, made=made)

    def _last_checkpoint(self) -> None:
        """Hand over the state at the end of a run, and see it taken."""
        began = time.monotonic()
        if self.team.size > 1:
            snapshot = self.snapshot()  # all of them have to take part, once; nothing moves any more
            take: Callable[[], Snapshot] = lambda: snapshot  # noqa: E731
        else:
            take = self.snapshot
        if self.team.rank == 0:
            self._saver.take_last(take, self._moving.still(), self._mark(), lambda: self._report(phase="checkpoint"))
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

    def _cost(self) -> dict[str, float]:
        pace = self._pace
        return {
            "step_s": round(pace.step_s, 6),
            "step_cpu_s": round(pace.step_cpu_s, 6),
            "waiting_share": round(pace.waiting_share, 6),
            "memory_peak_bytes": float(peak.memory_bytes(self.device.torch)),
        }

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
        taken = self._moving.snapshot(self.state)
        return Snapshot(self.team.whole(taken.tensors), taken.state)

    def resume(self, folder: Path, trained_s: float = 0.0) -> None:
        """Continue from a checkpoint. trained_s: what the mesh knows of earlier attempts. ArtifactCorrupt when the
        checkpoint is damaged or belongs to another task; nothing has changed then."""
        try:
            saved = checkpoint.load(folder)
            mine = Snapshot(self.team.divided(saved.tensors, self.trainable.network), saved.state)
            self.state = self._moving.restore(mine, self.state)
        except ArtifactCorrupt as error:
            raise ArtifactCorrupt(f"{error} ({folder.name})", resume=True) from None
        self._before_s = max(self.state.trained_s, trained_s)

    def _digest(self) -> str:
        """Of everything after the last step."""
        return digest_of(self.team.whole(self._moving.tensors()))

    def _fingerprint(self) -> dict[str, Any]:
        told = {**fingerprint(self.device), "micro_batch": min(self.recipe.micro_batch, self.recipe.batch)}
        told["compile"] = self.compiled.on
        told |= self.team.facts()
        return {**told, "accumulate": "float64"} if self.recipe.accumulate_float64 else told

    # -- reporting ----------------------------------------------------------------------------------------------------

    def _report(self, phase: str = "training") -> None:
        now = time.monotonic()
        if now - self._reported_at < REPORT_S:
            return
        self._reported_at = now
        done = max(self.state.step / max(1, self.state.schedule.end), self.trained_s / self.recipe.budget_s)
        metrics = {
            **self._shown,
            "examples_per_s": self._pace.targets_per_s,
            "examples": float(self._pace.targets),
            "epoch": self.state.step / self._per_epoch,
            "batch_s": self._pace.batch_s,
            "waiting_share": self._pace.waiting_share,
            "memory_peak_bytes": float(peak.memory_bytes(self.device.torch)),
        }
        self.context.progress(self.state.step, min(1.0, done), metrics, phase)
