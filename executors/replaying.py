"""Training a recorded segment again: does a worker's training go where it says that it went?

    checkpoints of one training, by step   0 ──── A ──── B ──── C          0: the network before the first step
    segments between neighbours               1      2      3
    trained again                          the one in which the weights went furthest, and one that is drawn
    distance                               |w_again - w_recorded| / |w_recorded - w_before|, over trained weights
    of a segment that is too long          its beginning, as far as a validation that stands in the later checkpoint:
                                           |loss_again - loss_recorded| / loss_recorded, of training and of validation

Who trained as the task says comes out where the recorded checkpoint is; who did not train, trained on other data, or
with other settings, comes out elsewhere (Jia et al., Proof-of-Learning, arXiv:2103.05633). Tolerance by what differs:

    same fingerprint, on a CPU      SAME       the sums are the same sums: bit by bit the same
    other threads, processor, GPU   FP32       1e-4 was measured after 60 steps; a learning rate 10 % off gives 1e-1
    half precision on either side   HALF       2e-2 was measured; so small a lie as 10 % has little room to hide

How it proceeds: the kind sets its training up as ever, from the task's own settings and seed. Where it would train
(executors/training.py), the loop of this module takes over: it restores the first checkpoint of a segment, takes the
same steps, and compares. The turns of the schedule, which a clock decided, are taken from the later checkpoint.

What does not fit this task at all (other tensors, a torn file) is a fault of who made it: the store vouches for the
bytes. Promises: nothing of a checkpoint is run. Not covered: a segment that was trained honestly beside segments that
were not, when those were not recorded; what comes behind the part of a long one; a long one without a validation in
its first `steps_max` steps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from executors import checkpoint, training
from executors.checkpoint import Snapshot
from executors.child import seed_of
from executors.device import HALVES, Device
from executors.modelfolder import ADAPTER_WEIGHTS as ADAPTER
from executors.modelfolder import WEIGHTS
from executors.port import Context, Job, Kind
from executors.recipe import Recipe
from executors.saving import Saver
from executors.schedules import Schedule
from executors.state import State
from executors.trainable import Trainable
from executors.trainer import Trainer
from mesh.errors import ArtifactCorrupt, NonFinite, TaskRefused

SAME, FP32, HALF = 1e-6, 1e-2, 5e-2
"""Largest distance of a segment that counts as the same."""

LOSS_LEAST = 1e-3
"""Losses below it are compared as if they had it: a network that knows its data by heart has rounding left."""

STEPS_PREFERRED = 60
"""A segment of at most so many steps is drawn before longer ones: what rounding does grows with it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A segment that was trained again."""

    begin: int
    end: int
    """Steps."""
    distance: float
    displacement: float
    """Euclidean distance that the recorded weights went."""
    tolerance: float
    identical: bool
    """All weights are the same, bit by bit; of a part, both losses."""
    part_of: int = 0
    """Last step of the recorded segment, where its beginning alone was trained again, and compared by its losses; 0:
    the whole was, and the weights were compared."""

    @property
    def same(self) -> bool:
        """Is it what was recorded?"""
        return self.distance <= self.tolerance


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What came of it."""

    segments: tuple[Segment, ...] = ()
    fault: str = ""
    """What can not be, whatever was trained again."""
    bound: bool | None = None
    """Are the weights of the model those of the last checkpoint? None: it has none of these names."""

    @property
    def distance(self) -> float:
        """The largest one; -1 when nothing was trained again."""
        return max((one.distance for one in self.segments), default=-1.0)

    @property
    def ok(self) -> bool | None:
        """True: as recorded. None: it can not be said."""
        if self.fault or self.bound is False or not all(one.same for one in self.segments):
            return False
        return True if self.segments else None

    @property
    def why(self) -> str:
        """One sentence."""
        if self.fault:
            return self.fault
        if off := next((one for one in self.segments if not one.same), None):
            far = f"{off.distance:.2g}"
            end = f"end {far} of their way from where they were"
            if off.part_of:
                end = f"come to losses {far} off those that were"
            return (
                f"trained again, steps {off.begin} to {off.end} {end} recorded, and {off.tolerance:g} is what machines "
                "of these kinds differ by"
            )
        if self.bound is False:
            return "the model's weights are not those of its training's last checkpoint"
        if not self.segments:
            return "no recorded segment is short enough to be trained again, or begins with one that is"
        told = ", ".join(f"{one.begin} to {one.end} ({one.distance:.2g})" for one in self.segments)
        return f"trained again, steps {told} end where they were recorded"

    def document(self) -> dict[str, Any]:
        """For the report and the result's facts."""
        rows = [dataclasses.asdict(one) for one in self.segments]
        return {"ok": self.ok, "why": self.why, "bound": self.bound, "segments": rows}


class Replayed(Exception):
    """Leaves the kind's run when its segments have been trained again."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.why)
        self.found = found


def replayed(job: Job, context: Context, kind: Kind, inputs: Mapping[str, str], states: Mapping[str, str]) -> Found:
    """Train segments between these checkpoints again. TaskRefused when the kind does not train by steps."""
    settings = job.settings
    try:
        own = msgspec.convert(settings.settings, kind.Settings)
    except (msgspec.ValidationError, ValueError) as error:
        raise TaskRefused(f"the settings of the task {settings.task!r} are none of {kind.name!r}: {error}") from None
    try:
        points = sorted((checkpoint.load(Path(path)) for path in states.values()), key=_step)
    except (ArtifactCorrupt, KeyError, TypeError, ValueError) as error:
        return Found(fault=f"a recorded checkpoint can not be read: {str(error)[:200]}")
    allotment = dataclasses.replace(job.allotment, processes=1, rank=0, meeting="")
    inner = dataclasses.replace(
        job, task=settings.task, kind=kind.name, settings=own, inputs=dict(inputs), seed=seed_of(settings.task),
        resume=None, checkpoint_number=0, trained_s=0.0, memory_attempts=0, allotment=allotment,
    )  # fmt: skip
    before = training.INSTEAD.set(_Replaying(points, settings, job.inputs.get("model", "")).run)
    try:
        kind.run(inner, context)
    except Replayed as done:
        return done.found
    finally:
        training.INSTEAD.reset(before)
    raise TaskRefused(f"{kind.name!r} does not train by steps: there is nothing to train again")


@dataclasses.dataclass(frozen=True, slots=True)
class _Replaying:
    """What stands in for the training of one run."""

    points: Sequence[Snapshot]
    settings: Any
    model: str

    def run(self, job: Job, context: Context, trainable: Trainable, recipe: Recipe, place: Device) -> None:
        """Train the chosen segments again, from where the kind's own training would begin. Raises Replayed."""
        parts = self.points[-1].state["run"].get("fingerprint", {}).get("micro_batch", recipe.batch)
        recipe = dataclasses.replace(recipe, micro_batch=max(1, min(int(parts), recipe.batch)), budget_s=math.inf)
        again = Again(trainable, recipe, place, context, job.scratch / "checkpoints", kind=training.name_of(job))
        raise Replayed(self._found(again))

    def _found(self, again: Again) -> Found:
        begin = _copied(again.snapshot())
        points = [begin, *(one for one in self.points if _step(one) > 0)]
        try:
            for one in points:
                again.take_up(one)
            segments = [(one, two) for one, two in itertools.pairwise(points) if _step(one) < _step(two)]
            pieces = [piece for one in segments if (piece := piece_of(*one, self.settings.steps_max)) is not None]
            done = tuple(again.piece(one) for one in chosen(pieces, self.settings.draw))
        except (ArtifactCorrupt, NonFinite) as error:
            return Found(fault=f"a recorded checkpoint is none of this task's: {str(error)[:300]}")
        last = self.points[-1]
        known = self.model and self.settings.steps in (0, _step(last))
        try:
            return Found(done, bound=bound(Path(self.model), last) if known else None)
        except ArtifactCorrupt as error:
            return Found(done, fault=str(error)[:300])


class Again(Trainer):
    """The loop, from one recorded step to another: nothing is evaluated, saved or planned."""

    until = 0
    turns: tuple[Schedule, ...] = ()
    """Schedules into which the recorded run turned on its way, in order."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._saver = _Nowhere(self.context, Path(), 0)
        self._mine = self.state

    def take_up(self, point: Snapshot) -> None:
        """Stand where a checkpoint stands. ArtifactCorrupt when it is none of this task's."""
        mine = msgspec.structs.replace(self._mine, fingerprint=dict(self._mine.fingerprint))
        self.state = self._moving.restore(point, mine)
        if self.state.step == 0:
            self._moving.optimizer.state.clear()

    def piece(self, piece: Piece) -> Segment:
        """Train a recorded segment again, or its beginning, and compare."""
        one, two = piece.one, piece.two
        self.take_up(one)
        then = msgspec.convert(two.state["run"], State)
        self.until = piece.end
        self.turns = tuple(plan for plan in then.plans if plan.anchor_step >= self.state.step)
        self._started = time.monotonic()
        self._cadence = self._new_cadence()
        self._loop()
        frozen = set(self.trainable.frozen())
        names = [name for name in two.tensors if name.startswith("model.") and name[len("model.") :] not in frozen]
        way = _distance(one.tensors, two.tensors, names)
        distance, same = self._by_losses(piece) if piece.row else self._by_weights(two, names, way)
        return Segment(
            begin=_step(one), end=piece.end, distance=_finite(distance), displacement=way, identical=same,
            tolerance=tolerance(
                piece.length, self._mine.fingerprint, then.fingerprint, one.state["run"]["fingerprint"]
            ),
            part_of=then.step if piece.row else 0,
        )  # fmt: skip

    def _by_weights(self, two: Snapshot, names: Sequence[str], way: float) -> tuple[float, bool]:
        """(distance of the weights from the recorded ones, relative to their way; are they the same?)."""
        now = self._moving.tensors()
        far = _distance(now, two.tensors, names)
        same = far == 0.0 and all(torch.equal(now[name].cpu(), two.tensors[name]) for name in names)
        return (0.0 if far == 0.0 else far / way if way > 0.0 else math.inf), same

    def _by_losses(self, piece: Piece) -> tuple[float, bool]:
        """(the larger distance of the two losses from those that the recorded run found there, relative to them; are
        they the same?)."""
        self._stepper.put_aside()
        self.trainable.network.eval()
        found = self._evaluated()
        pairs = ((self.state.loss_mean, piece.row[1]), (found.loss, piece.row[2]))
        off = [abs(own - told) / max(abs(told), LOSS_LEAST) for own, told in pairs]
        if not all(map(math.isfinite, off)):
            raise NonFinite(f"a loss of step {piece.end} is no number")
        return max(off), all(own == told for own, told in pairs)

    def _reason(self) -> str:
        while self.turns and self.state.step >= self.turns[0].anchor_step:
            self.state.schedule, self.turns = self.turns[0], self.turns[1:]
        return "replayed" if self.state.step >= self.until else ""

    def _evaluation_due(self) -> bool:
        return False

    def _evaluate(self) -> None:
        """The loop evaluates at its end, but what it would find is known."""

    def _aim(self) -> None:
        """The plan is the recorded one."""

    def _checkpoint_if_due(self) -> None:
        """Nothing is kept."""

    def _last_checkpoint(self) -> None:
        """Nothing is kept."""


class _Nowhere(Saver):
    """Takes no snapshot."""

    def empty(self) -> bool:
        """As if it had its memory already."""
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What can be trained again of a recorded segment."""

    one: Snapshot
    two: Snapshot
    end: int
    """The last step."""
    row: tuple[float, ...] = ()
    """Of a beginning: what the recorded run said at its end (step, training loss, validation loss)."""

    @property
    def length(self) -> int:
        """Steps."""
        return self.end - _step(self.one)


def piece_of(one: Snapshot, two: Snapshot, steps_max: int) -> Piece | None:
    """The whole segment; where it is too long its beginning, as far as the last validation within `steps_max` steps;
    None where there was none."""
    begin, end = _step(one), _step(two)
    if end - begin <= steps_max:
        return Piece(one, two, end)
    told = msgspec.convert(two.state["run"], State).history
    rows = [row for row in told if len(row) >= 3 and begin < row[0] <= begin + steps_max and row[0] == int(row[0])]
    return Piece(one, two, int(rows[-1][0]), tuple(rows[-1])) if rows else None


def chosen(pieces: Sequence[Piece], draw: str) -> list[Piece]:
    """The one in whose segment the weights went furthest, short and whole ones before all others; and one that is
    drawn of all, by their steps: nobody can hide what he did behind a short segment."""
    if not pieces:
        return []
    whole = [one for one in pieces if not one.row] or list(pieces)
    short = [one for one in whole if one.length <= STEPS_PREFERRED] or whole
    furthest = max(short, key=lambda one: _way(one.one, one.two))
    drawn = pieces[int.from_bytes(hashlib.sha256(draw.encode()).digest()[:8], "big") % len(pieces)]
    return [one for one in pieces if one is furthest or one is drawn]


def tolerance(steps: int, mine: Mapping[str, Any], *others: Mapping[str, Any]) -> float:
    """Largest distance after so many steps that these machines' arithmetic explains: rounding errors add up like the
    steps of a random walk."""
    every = [mine, *others]
    longer = math.sqrt(max(1.0, steps / STEPS_PREFERRED))
    if any(one.get("precision") in HALVES for one in every):
        return HALF * longer
    exact = all(dict(one) == dict(mine) for one in others) and mine.get("device") == "cpu"
    return SAME if exact else FP32 * longer


def bound(model: Path, last: Snapshot) -> bool | None:
    """Are the weights in a model folder those that the training ended with? None when it has none of their names."""
    from safetensors import SafetensorError, safe_open

    best = {name[len("best.") :]: tensor for name, tensor in last.tensors.items() if name.startswith("best.")}
    try:
        with safe_open(model / (ADAPTER if (model / ADAPTER).is_file() else WEIGHTS), "pt") as file:
            names = list(file.keys())
            written = {own: saved_as(own) for own in best}
            pairs = [(name, own) for own, as_ in written.items() for name in names if f".{name}".endswith(f".{as_}")]
            pairs = [pair for pair in pairs if file.get_slice(pair[0]).get_shape() == list(best[pair[1]].shape)]
            found = [(own, file.get_tensor(name)) for name, own in pairs]
            found = [(own, tensor) for own, tensor in found if tensor.dtype == best[own].dtype]
            equal = {own for own, tensor in found if torch.equal(tensor, best[own])}
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactCorrupt(f"the model can not be read: {str(error)[:160]}") from None
    met = {own for own, _ in found}
    return equal == met if met else None


def saved_as(name: str) -> str:
    """The name that a trained tensor has in a model's file: an adapter's are named without what peft puts into them."""
    return name.removeprefix("inner.").replace(".modules_to_save.default.", ".").replace(".default.", ".")


def _step(point: Snapshot) -> int:
    return int(point.state["run"]["step"])


def _way(one: Snapshot, two: Snapshot) -> float:
    return _distance(one.tensors, two.tensors, [name for name in two.tensors if name.startswith("model.")])


def _distance(one: Mapping[str, Tensor], two: Mapping[str, Tensor], names: Sequence[str]) -> float:
    """Euclidean, over the floating point tensors of these names, in float64."""
    total = 0.0
    for name in names:
        if name in one and two[name].is_floating_point():
            total += float((one[name].detach().cpu().double() - two[name].double()).square().sum())
    return math.sqrt(total)


def _copied(snapshot: Snapshot) -> Snapshot:
    return Snapshot({name: one.detach().cpu().clone() for name, one in snapshot.tensors.items()}, snapshot.state)


def _finite(value: float) -> float:
    """What JSON can carry: 'infinitely far' is a million times the way."""
    return value if value < 1e6 else 1e6
