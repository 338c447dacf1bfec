"""Rounds: what consensus has to do next about a topic, from the records of that topic alone.

    planned with lines ──> a line's training ended ──> submit: check (validation), holdout
            │          ──> the baseline's ended    ──> submit: holdout
            └── a champion without outcomes on this holdout ──> submit: holdout champion
                                   every line ended, every evaluation ended ──> weigh ──> recommendation

Aim: to need no memory. The answer is a function of the records and of the champion's newest record, every id in it is
derived from the topic's id, and commands are put if absent: after a crash, or with two of us, the same input leads to
the same commands.

Promises: a line that was parked or canceled, or whose evaluation was, counts as missing with its reason and never
keeps the round from ending. The champion that is compared is the one of now, not the one that was planned with: if it
has changed meanwhile, it is evaluated under another task id; so is the model of a training that was done once more, and
what was begun for its first model does not count. Not covered: a topic with several specializations; the
first plan that names lines is the round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mesh.messages.base import Facts, Record, derived_id
from mesh.messages.commands import Submit
from mesh.messages.judgement import Champion
from mesh.messages.results import Planned, RecommendationMade, TaskEnded
from mesh.messages.tasks import Avoid, Line, Needs, TaskSpec, TaskState
from mesh.messages.topics import Independent

EVALUATE_WALL_S_MAX = 1_800.0
"""Life of an evaluation: some minutes even for a slow model on a large split; beyond half an hour it is stuck."""

PRIORITY_MAX = 9
CANDIDATES = (Line.EVOLVER, Line.REINVENTOR)
"""In the order in which they challenge a champion: fixed before anything is known of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one line (or the baseline, or the champion) has brought so far. Digests are '' where there is nothing."""

    name: str
    task: str = ""
    incarnation: str = ""
    model: str = ""
    claims: str = ""
    check: str = ""
    checked_by: str = ""
    holdout: str = ""
    kpis: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of the training, overlaid with those of the evaluation on the holdout."""
    stopped_by: str = ""
    settings: Facts = dataclasses.field(default_factory=dict)
    changed: str = ""
    missing: str = ""
    """Why it can not be judged; '' when all that is needed is there."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Outcomes that have to be read to judge it."""
        return tuple(digest for digest in (self.claims, self.check, self.holdout) if digest)


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """Everything that a recommendation rests on, except the outcomes themselves."""

    topic: str
    specialization: str
    validation: str
    holdout: str
    lines: tuple[Run, ...]
    baseline: Run
    champion: Champion | None
    champion_revision: int
    champion_run: Run
    independent_required: bool
    kpis: tuple[tuple[str, float | None, float | None], ...]
    fits: str = ""
    """Form of the topic's data."""

    @property
    def id(self) -> str:
        """Id of the recommendation that ends the round."""
        return derived_id(self.topic, "recommendation")

    @property
    def digests(self) -> tuple[str, ...]:
        """Every outcomes artifact that has to be read, each once."""
        runs = (*self.lines, self.baseline, self.champion_run)
        return tuple(dict.fromkeys(digest for run in runs for digest in run.digests))


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What to do now: submit these, or weigh this round, or neither (`why` says what is awaited)."""

    submits: tuple[Submit, ...] = ()
    weigh: Round | None = None
    why: str = ""


def specialization_of(records: Iterable[Record]) -> str:
    """The specialization whose champion `next_step` wants to know; '' while no plan names lines."""
    plan = _plan_of(records)
    return plan.specialization if plan is not None else ""


def next_step(records: Sequence[Record], champion: Champion | None, champion_revision: int) -> Step:
    """What consensus has to do next.

    records: a topic's results in order; champion: the newest record of the plan's specialization, with its revision (0:
    there is none).
    """
    plan = _plan_of(records)
    if plan is None:
        return Step(why="no plan with lines yet")
    if any(isinstance(record, RecommendationMade) for record in records):
        return Step(why="the recommendation is made")
    return _Fold(plan, records, champion, champion_revision).step()


def _plan_of(records: Iterable[Record]) -> Planned | None:
    planned = (record for record in records if isinstance(record, Planned))
    return next((record for record in planned if isinstance(record.facts.get("lines"), dict)), None)


class _Fold:
    """One pass over the records of a round: collects what is there, what to submit, and what is awaited."""

    def __init__(self, plan: Planned, records: Sequence[Record], champion: Champion | None, revision: int) -> None:
        self._plan = plan
        self._champion = champion
        self._revision = revision
        self._ended = {record.task.id: record for record in records if isinstance(record, TaskEnded)}
        self._first_models: dict[str, str] = {}
        for record in records:
            if isinstance(record, TaskEnded) and record.outcome is not None:
                self._first_models.setdefault(record.task.id, record.outcome.outputs.get("model", ""))
        self._known = {task.id for record in records if isinstance(record, Planned) for task in record.tasks}
        self._submits: list[Submit] = []
        self._awaited: list[str] = []

    def step(self) -> Step:
        lines = tuple(self._line(line) for line in CANDIDATES if self._task_of(line))
        baseline = self._baseline()
        champion = self._champion_run()
        if self._submits:
            return Step(submits=tuple(self._submits), why=f"awaits {', '.join(self._awaited)}")
        if self._awaited:
            return Step(why=f"awaits {', '.join(self._awaited)}")
        return Step(weigh=self._round(lines, baseline, champion), why="everything has ended")

    # -- the runs -----------------------------------------------------------------------------------------------------

    def _line(self, line: Line) -> Run:
        run = self._trained(line, self._task_of(line))
        if run.missing or not run.model:
            return run
        if not run.claims:
            return dataclasses.replace(run, missing="its training brought no per-item claims")
        again = self._again(run)
        check = self._evaluation(f"check-{line}{again}", f"check {line}", line, run, "validation")
        holdout = self._evaluation(f"holdout-{line}{again}", f"holdout {line}", line, run, "holdout")
        self._submit(f"evaluate-{line}{again}", line, (check, holdout))
        run, checked = self._measured(run, holdout), self._ended.get(check.id)
        digest, fault = self._outcomes(check)
        return dataclasses.replace(
            run, check=digest, checked_by=checked.incarnation if checked else "", missing=run.missing or fault
        )

    def _baseline(self) -> Run:
        task = self._plan.facts.get("baseline")
        if not isinstance(task, str) or not task:
            return Run(name=Line.BASELINE.value, missing="the plan has no baseline")
        run = self._trained(Line.BASELINE, task)
        if run.missing or not run.model:
            return run
        again = self._again(run)
        holdout = self._evaluation(f"holdout-baseline{again}", "holdout baseline", Line.BASELINE, run, "holdout")
        self._submit(f"evaluate-baseline{again}", Line.BASELINE, (holdout,))
        return self._measured(dataclasses.replace(run, claims=""), holdout)

    def _champion_run(self) -> Run:
        champion = self._champion
        if champion is None:
            return Run(name="champion", missing="there is no champion yet")
        run = Run(name="champion", task=champion.task, model=champion.model, kpis=champion.kpis)
        if champion.fits and self._fits() and champion.fits != self._fits():
            missing = f"it reads other data ({champion.fits}) than this topic's ({self._fits()})"
            return dataclasses.replace(run, missing=missing)
        if champion.outcomes and champion.holdout == self._split("holdout"):
            return dataclasses.replace(run, holdout=champion.outcomes)
        suffix = f"champion-{champion.model[:8]}"
        holdout = self._evaluation(f"holdout-{suffix}", "holdout champion", None, run, "holdout")
        self._submit(f"evaluate-{suffix}", None, (holdout,))
        return self._measured(run, holdout)

    def _again(self, run: Run) -> str:
        """What is added to the ids of evaluations when the training was done once more, because its first model was
        lost with the broker's store, and brought another one: that one is evaluated anew."""
        return "" if self._first_models.get(run.task) in (None, "", run.model) else f"-{run.model[:8]}"

    def _trained(self, line: Line, task: str) -> Run:
        """What the training of a line brought; awaited while it has not ended."""
        ended = self._ended.get(task)
        if ended is None:
            self._awaited.append(task)
            return Run(name=line.value, task=task)
        outcome = ended.outcome
        run = Run(name=line.value, task=task, incarnation=ended.incarnation, settings=ended.task.settings)
        run = dataclasses.replace(run, changed=self._changed(line))
        if ended.state is not TaskState.SUCCEEDED or outcome is None:
            return dataclasses.replace(run, missing=_how_ended(ended))
        model = outcome.outputs.get("model", "")
        return dataclasses.replace(
            run,
            model=model,
            claims=outcome.outputs.get("claims", ""),
            kpis=outcome.kpis,
            stopped_by=outcome.stopped_by,
            missing="" if model else "its training brought no model",
        )

    def _measured(self, run: Run, holdout: TaskSpec) -> Run:
        """The run with its outcomes on the holdout."""
        ended = self._ended.get(holdout.id)
        digest, fault = self._outcomes(holdout)
        kpis = ended.outcome.kpis if ended is not None and ended.outcome is not None else {}
        return dataclasses.replace(run, holdout=digest, kpis={**run.kpis, **kpis}, missing=run.missing or fault)

    def _outcomes(self, task: TaskSpec) -> tuple[str, str]:
        """(digest of an evaluation's outcomes, why there are none)."""
        ended = self._ended.get(task.id)
        if ended is None:
            self._awaited.append(task.id)
            return "", ""
        digest = ended.outcome.outputs.get("outcomes", "") if ended.outcome is not None else ""
        if ended.state is not TaskState.SUCCEEDED or not digest:
            return "", _how_ended(ended)
        return digest, ""

    # -- what is submitted --------------------------------------------------------------------------------------------

    def _submit(self, id_: str, line: Line | None, tasks: tuple[TaskSpec, ...]) -> None:
        """Unless the ledger has planned them already, or they have ended."""
        if all(task.id in self._known or task.id in self._ended for task in tasks):
            return
        facts: Facts = {"stage": "evaluate", "line": line.value if line is not None else "champion"}
        self._submits.append(
            Submit(
                id=derived_id(self._plan.topic, id_),
                topic=self._plan.topic,
                specialization=self._plan.specialization,
                tasks=tasks,
                facts=facts,
            )
        )

    def _evaluation(self, id_: str, purpose: str, line: Line | None, run: Run, split: str) -> TaskSpec:
        """One evaluate task. It passes over whoever trained the model: who claims does not also check."""
        avoid = dict.fromkeys(name for name in (run.incarnation, run.incarnation.rpartition(".")[0]) if name)
        return TaskSpec(
            id=derived_id(self._plan.topic, id_),
            topic=self._plan.topic,
            specialization=self._plan.specialization,
            executor="evaluate",
            line=line,
            purpose=purpose,
            inputs={"model": run.model, "split": self._split(split)},
            needs=_needs_of(self._plan.facts),
            priority=min(PRIORITY_MAX, self._priority() + 1),
            wall_s_max=EVALUATE_WALL_S_MAX,
            avoid=tuple(avoid),
            avoid_mode=Avoid.REQUIRE if self._required() and line in CANDIDATES else Avoid.PREFER,
            on_disconnect=self._plan.tasks[0].on_disconnect,
        )

    # -- what the plan says -------------------------------------------------------------------------------------------

    def _round(self, lines: tuple[Run, ...], baseline: Run, champion: Run) -> Round:
        return Round(
            topic=self._plan.topic,
            specialization=self._plan.specialization,
            validation=self._split("validation"),
            holdout=self._split("holdout"),
            lines=lines,
            baseline=baseline,
            champion=self._champion,
            champion_revision=self._revision,
            champion_run=champion,
            independent_required=self._required(),
            kpis=_kpis_of(self._plan.facts),
            fits=self._fits(),
        )

    def _task_of(self, line: Line) -> str:
        return str(self._plan.facts["lines"].get(line.value) or "")

    def _split(self, name: str) -> str:
        return str(_map(self._plan.facts, "splits").get(name) or "")

    def _changed(self, line: Line) -> str:
        return str(_map(self._plan.facts, "changed").get(line.value) or "")

    def _fits(self) -> str:
        return str(self._plan.facts.get("fits") or "")

    def _required(self) -> bool:
        return self._plan.facts.get("independent") == Independent.REQUIRE.value

    def _priority(self) -> int:
        return max(task.priority for task in self._plan.tasks)


def _how_ended(ended: TaskEnded) -> str:
    """One sentence about a task that brought nothing."""
    what = f"its task {ended.task.id} ({ended.task.purpose or ended.task.executor})"
    if ended.state is TaskState.SUCCEEDED:
        return f"{what} ended without outcomes"
    return f"{what} was {ended.state.value}: {ended.reason.strip() or 'no reason was given'}"[:600]


def _map(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _needs_of(facts: Facts) -> Needs:
    """What the plan says that an evaluation takes; the defaults where it says nothing usable."""
    stated, default = _map(_map(facts, "needs"), "evaluate"), Needs()
    return Needs(
        cores=_positive(stated.get("cores"), default.cores),
        memory_bytes=int(_positive(stated.get("memory_bytes"), default.memory_bytes)),
        disk_bytes=int(_positive(stated.get("disk_bytes"), default.disk_bytes)),
    )


def _positive(value: object, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else default


def _kpis_of(facts: Facts) -> tuple[tuple[str, float | None, float | None], ...]:
    """The topic's own conditions as (metric, minimum, maximum)."""
    rows = facts.get("kpis") or ()
    return tuple((str(row[0]), _bound(row[1]), _bound(row[2])) for row in rows if len(row) == 3)


def _bound(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
