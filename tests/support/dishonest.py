"""A round with real kinds and no mesh: small models really trained, honestly or not, checked, and weighed.

    plan ──> each line's worker trains (`honest`, or what a test puts in its place)
         ──> what consensus submits is run by another worker, in this process
         ──> until nothing is wanted any more: the recommendation

Artifacts are folders that are named by the digest of their files, as in a worker's cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from consensus import checking, checks
from consensus.candidates import Read
from consensus.checking import Known
from consensus.evidence import items_of
from consensus.recommendation import recommend
from consensus.rounds import Round, next_step
from executors import kinds, outcomes
from executors.child import seed_of
from executors.port import Made
from mesh.errors import Reject
from mesh.messages.base import Facts, Record
from mesh.messages.commands import Submit
from mesh.messages.judgement import Recommendation
from mesh.messages.results import Kept, TaskEnded
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from tests.support import rounds
from tests.support.executing import Recorder, job_for

SETTINGS = {
    "architecture": "deep", "hidden": [16], "epochs_max": 4, "batch": 32, "evaluate_every": 41, "linear_path": False,
    "checkpoint_steps": 30, "checkpoint_overhead": 1.0, "checkpoint_s": 600.0, "learning_rate": 0.003,
}  # fmt: skip

TURNS_MAX = 20
"""Turns of one round: a step of submits each."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a worker hands in."""

    made: Made
    checkpoints: tuple[Path, ...]
    """Newest first."""


Worker = Callable[["Room", TaskSpec, Path], Trained]


def honest(room: Room, task: TaskSpec, folder: Path) -> Trained:
    """Trains as the task says."""
    return room.trained(task, folder)


class Room:
    """Splits, artifacts, and the records of one round."""

    def __init__(self, folder: Path, splits: Path, kind: str = "classify", settings: Facts = SETTINGS) -> None:
        self.folder, self.splits, self.kind, self.settings = folder, splits, kind, settings
        self.digests: dict[str, Path] = {}
        self.records: list[Record] = []
        self.ran: list[str] = []
        self._count = 0

    def stored(self, path: Path) -> str:
        """Digest of a folder that is an artifact now."""
        found = hashlib.sha256()
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            found.update(f"{file.relative_to(path)} ".encode() + hashlib.sha256(file.read_bytes()).digest())
        digest = found.hexdigest()
        target = self.folder / "artifacts" / digest
        if not target.exists():
            shutil.copytree(path, target)
        self.digests[digest] = target
        return digest

    def trained(
        self, task: TaskSpec, folder: Path, *, train: Path | None = None, settings: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> Trained:  # fmt: skip
        """A real training of this task; on other data, with other settings, or under another task's name."""
        kind = kinds.load(task.executor)
        inputs = {one: self.digests[digest] for one, digest in task.inputs.items()}
        inputs["train"] = train or inputs["train"]
        recorder, id_ = Recorder(folder / "kept"), name or task.id
        job = job_for(
            kind, inputs, folder / "scratch", {**task.settings, **(settings or {})}, task=id_, seed=seed_of(id_)
        )
        return Trained(kind.run(job, recorder), tuple(row[0] for row in reversed(recorder.checkpoints)))

    def play(self, trust: Known | None = None, *, independent: str = "prefer", **workers: Worker) -> Recommendation:
        """The round of these lines' workers."""
        split = {name: self.stored(self.splits / name) for name in ("train", "validation", "holdout", "audit")}
        plan = rounds.plan(
            lines=tuple(Line(name) for name in workers), baseline=False, splits=split, independent=independent
        )
        given = {"train": split["train"], "validation": split["validation"]}
        asked = {"executor": self.kind, "inputs": given, "settings": self.settings}
        plan = plan.evolve(tasks=tuple(task.evolve(**asked) for task in plan.tasks))
        self.records.append(plan)
        for task in plan.tasks:
            self.records.append(self._handed_in(task, workers[str(task.line)](self, task, self._place())))
        return self._weighed(trust or {})

    # -- consensus and those who check --------------------------------------------------------------------------------

    def _weighed(self, trust: Known) -> Recommendation:
        for _ in range(TURNS_MAX):
            step = next_step(self.records, None, 0, trust)
            if step.weigh is None:
                assert step.submits, step.why
                self._do(step.submits)
                continue
            read = self._read(step.weigh)
            made = recommend(step.weigh, read)
            wanted = checks.wanted(step.weigh, made, trust, read)
            if not wanted:
                return made
            self._do(wanted)
        raise AssertionError(f"the round did not end in {TURNS_MAX} turns")

    def _do(self, submits: tuple[Submit, ...]) -> None:
        for submit in submits:
            self.records.append(rounds.accepted(submit))
            self.records += [self._done(task) for task in submit.tasks]

    def _done(self, task: TaskSpec) -> TaskEnded:
        self.ran.append(task.id)
        kind = kinds.load(task.executor)
        kinds.check_inputs(kind, task.inputs)
        inputs = {name: self.digests[digest] for name, digest in task.inputs.items()}
        settings = {"latency_items": 0, **task.settings} if task.executor == "evaluate" else task.settings
        folder = self._place()
        try:
            made = kind.run(
                job_for(kind, inputs, folder / "scratch", settings, task=task.id), Recorder(folder / "kept")
            )
        except Reject as error:
            return rounds.ended(task, state=TaskState.PARKED, reason=str(error), incarnation="w2.bb")
        return self._ended(task, made, "w2.bb")

    def _handed_in(self, task: TaskSpec, trained: Trained) -> TaskEnded:
        kept = []
        for number, path in enumerate(reversed(trained.checkpoints), start=1):
            manifest = bytes.fromhex(self.stored(path))
            kept.append(Kept(number=number, step=int(path.name), manifest=manifest))
        worker = {Line.EVOLVER: "w1.aa", Line.REINVENTOR: "w3.cc"}[Line(str(task.line))]
        return self._ended(task, trained.made, worker).evolve(checkpoints=tuple(reversed(kept[-2:])))

    def _ended(self, task: TaskSpec, made: Made, incarnation: str) -> TaskEnded:
        outputs = {name: self.stored(path) for name, path in made.outputs.items() if path.is_dir()}
        outcome = Outcome(outputs=outputs, kpis=dict(made.kpis), facts=dict(made.facts), stopped_by=made.stopped_by)
        record = rounds.ended(task, outputs={}, incarnation=incarnation)
        self._count += 1
        return record.evolve(outcome=outcome, ledger_seq=self._count)

    def _read(self, round_: Round) -> Read:
        return {digest: items_of(outcomes.read(self.digests[digest])) for digest in round_.digests}

    def _place(self) -> Path:
        self._count += 1
        return self.folder / f"work-{self._count}"


def failures(made: Recommendation) -> dict[str, str]:
    """By worker what the round's checks say against it."""
    found = {}
    for worker in ("w1", "w3"):
        for row in checking.after(None, worker, made, 1).streaks:
            if row.failed:
                found[worker] = row.why
    return found


def forged(made: Made, **changes: Any) -> Made:
    """The same result with other outputs or facts."""
    return dataclasses.replace(made, **changes)


def claims_of(folder: Path, made: Made, **arrays: bytes) -> Path:
    """Its claims with other answers."""
    told = msgspec.structs.replace(outcomes.read(made.outputs["claims"]), **arrays)
    return outcomes.write(told, folder / "forged-claims")
