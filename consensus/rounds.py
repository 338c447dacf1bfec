"""Rounds: what consensus has to do next about a topic, from the records of that topic alone.

    planned with lines ──> a line's training ended ──> submit: check (validation), holdout
            │          ──> the baseline's ended    ──> submit: holdout
            ├── a champion without outcomes on this holdout ──> submit: holdout champion
            └── the lines have one ancestor ──> submit: merges of them, one of which challenges, too (merging.py)
                                   every line ended, every evaluation ended ──> weigh ──> recommendation

Every plan that names lines opens a round: first the lines of the topic, later the tree that grew from it. They are
weighed in their order, each against the champion of then.

Aim: to need no memory. The answer is a function of the records and of the champion's newest record, every id in it is
derived from the topic's id and the round's stage, and commands are put if absent: after a crash, or with two of us, the
same input leads to the same commands.

Promises: a line that was parked or canceled, or whose evaluation was, counts as missing with its reason and never
keeps the round from ending. The champion that is compared is the one of now, not the one that was planned with: if it
has changed meanwhile, it is evaluated under another task id; so is the model of a training that was done once more, and
what was begun for its first model does not count. Not covered: a topic whose rounds belong to several specializations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from consensus import checking, checks, merging, rounding
from consensus.checking import Known
from consensus.evaluations import (
    evaluation,
    how_ended,
    independent_required,
    map_of,
    outcomes_of,
    split_of,
)
from mesh.messages.base import Facts, Record, derived_id
from mesh.messages.commands import Submit
from mesh.messages.judgement import Champion
from mesh.messages.results import Planned, RecommendationMade, TaskEnded
from mesh.messages.tasks import Line, TaskSpec, TaskState

FIRST_STAGE = "lines"
"""Stage of a topic's first plan with lines: nothing is added to its ids."""

CANDIDATES = (Line.EVOLVER, Line.REINVENTOR, Line.MERGE)
"""In the order in which they challenge a champion: fixed before anything is known of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one line (or the baseline, or the champion) has brought so far. Digests are '' where there is nothing."""

    name: str
    """The line's word; several of one line are told apart by what follows a dash: 'merge-soup'."""
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
    continued: str = ""
    """Digest of the model from which its training went on."""
    flat: str = ""
    """Digest of the flat model that a tree holds."""
    base: str = ""
    """Digest of the model that an adapter adapts."""
    full: str = ""
    """Digest of the model whose weights were rounded."""
    missing: str = ""
    """Why it can not be judged; '' when all that is needed is there."""
    executor: str = ""
    executor_version: int = 1
    unchecked: bool = False
    """Its claims were let through (checking.py)."""
    fault: str = ""
    """What its checks say against it."""
    gain: float | None = None
    """How much lower its loss is on its own data than on data that it never saw."""
    gain_error: float = 0.0
    replayed: float | None = None
    """Distance of a segment that was trained again."""
    check_in_reserve: Submit | None = None
    replay_in_reserve: Submit | None = None
    """What else can be asked for before it is believed."""

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
    tag: str = ""
    """What its ids begin with behind the topic's id; '' for the first round of a topic."""
    audit: str = ""
    """Digest of the audit split, which nobody reads before a promotion."""
    rounding: tuple[str, ...] = ()
    """Of what a challenger in fewer bits has to save."""

    @property
    def id(self) -> str:
        """Id of the recommendation that ends the round."""
        return recommendation_id(self.topic, self.tag)

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


def recommendation_id(topic: str, tag: str = "") -> str:
    """Of the round with this tag."""
    return derived_id(topic, f"{tag}recommendation")


def line_of(name: str) -> Line | None:
    """The line that a candidate of this name belongs to: 'merge-soup' is a merge. None when there is no such line."""
    try:
        return Line(name.partition("-")[0])
    except ValueError:
        return None


def specialization_of(records: Iterable[Record]) -> str:
    """The specialization whose champion `next_step` wants to know; '' while no plan names lines."""
    plans = [plan for _, plan in rounds_of(records)]
    return plans[0].specialization if plans else ""


def rounds_of(records: Iterable[Record]) -> list[tuple[str, Planned]]:
    """(tag, plan) of each round in the order of the plans."""
    found: dict[str, Planned] = {}
    for record in records:
        if not isinstance(record, Planned) or not isinstance(record.facts.get("lines"), dict):
            continue
        stage, count = str(record.facts.get("stage") or FIRST_STAGE), 1
        while (tag := _tag(stage, count)) in found and found[tag].submit != record.submit:
            count += 1
        found.setdefault(tag, record)
    return list(found.items())


def _tag(stage: str, count: int) -> str:
    if stage == FIRST_STAGE and count == 1:
        return ""
    return f"{stage}-" if count == 1 else f"{stage}-{count}-"


def next_step(
    records: Sequence[Record], champion: Champion | None, champion_revision: int, trust: Known | None = None
) -> Step:
    """What consensus has to do next.

    records: a topic's results in order; champion: the newest record of the plan's specialization, with its revision (0:
    there is none); trust: in the workers that trained, none of it by default.
    """
    rounds = rounds_of(records)
    if not rounds:
        return Step(why="no plan with lines yet")
    made = {record.recommendation.id for record in records if isinstance(record, RecommendationMade)}
    for tag, plan in rounds:
        if recommendation_id(plan.topic, tag) not in made:
            return _Fold(tag, plan, records, champion, champion_revision, trust or {}).step()
    return Step(why="the recommendation is made")


def round_of(id_: str, records: Sequence[Record], champion: Champion | None, champion_revision: int) -> Step:
    """The step that led to the recommendation `id_`, from the records before it: its round, where all is there.

    champion, champion_revision: as they stood then.
    """
    for tag, plan in rounds_of(records):
        if recommendation_id(plan.topic, tag) == id_:
            return _Fold(tag, plan, records, champion, champion_revision, None).step()
    return Step(why="its plan is no longer among the topic's records")


class _Fold:
    """One pass over the records of a round: collects what is there, what to submit, and what is awaited."""

    def __init__(
        self, tag: str, plan: Planned, records: Sequence[Record], champion: Champion | None, revision: int,
        trust: Known | None,
    ) -> None:  # fmt: skip
        """trust: None when the round is over, so that nothing more is asked for."""
        self._tag = tag
        self._plan = plan
        self._champion = champion
        self._revision = revision
        self._trust = trust
        self._ended = {record.task.id: record for record in records if isinstance(record, TaskEnded)}
        self._first_models: dict[str, str] = {}
        for record in records:
            if isinstance(record, TaskEnded) and record.outcome is not None:
                self._first_models.setdefault(record.task.id, record.outcome.outputs.get("model", ""))
        self._known = {task.id for record in records if isinstance(record, Planned) for task in record.tasks}
        self._submits: list[Submit] = []
        self._awaited: list[str] = []

    def step(self) -> Step:
        lines = [self._line(name, task) for name, task in self._lines()]
        lines += [*self._rounded(), *self._merged()]
        recorded = {task: ended.ledger_seq for task, ended in self._ended.items()}
        lines = list(checks.without_copies(lines, self._champion.model if self._champion else "", recorded))
        baseline = self._baseline()
        champion = self._champion_run()
        if self._submits:
            return Step(submits=tuple(self._submits), why=f"awaits {', '.join(self._awaited)}")
        if self._awaited:
            return Step(why=f"awaits {', '.join(self._awaited)}")
        return Step(weigh=self._round(tuple(lines), baseline, champion), why="everything has ended")

    def _lines(self) -> list[tuple[str, str]]:
        """(name, id of the training task) of the plan's lines, in the order in which they challenge."""
        named = {str(name): str(task) for name, task in self._plan.facts["lines"].items() if task}
        order = {line: place for place, line in enumerate(CANDIDATES)}
        known = [(order[line], name) for name in named if (line := line_of(name)) in order]
        return [(name, named[name]) for _, name in sorted(known)]

    # -- the runs -----------------------------------------------------------------------------------------------------

    def _line(self, name: str, task: str) -> Run:
        return self._judged(self._trained(name, task))

    def _judged(self, run: Run) -> Run:
        """The run with its check and its outcomes on the holdout, which are asked for where they are not there."""
        if run.missing or not run.model:
            return run
        if not run.claims:
            return dataclasses.replace(run, missing="its training brought no per-item claims")
        line, name, again = line_of(run.name), run.name, self._again(run)
        trained = self._ended[run.task]
        run = dataclasses.replace(run, executor=trained.task.executor, executor_version=trained.task.executor_version)
        holdout = self._evaluation(f"holdout-{name}{again}", f"holdout {name}", line, run, "holdout")
        check = self._evaluation(f"check-{name}{again}", f"check {name}", line, run, "validation")
        check = checks.check_of(check, trained)
        due = self._is_known(check) or self._check_is_due(run, holdout)
        together = due and not self._is_known(holdout)
        self._submit(f"evaluate-{name}{again}", name, (check, holdout) if together else (holdout,))
        run = self._measured(run, holdout)
        if not due:
            return dataclasses.replace(
                run, unchecked=True, check_in_reserve=self._asked(f"check-{name}{again}", name, check)
            )
        if not together:
            self._submit(f"check-{name}{again}", name, (check,))
        return self._replayed(self._checked(run, check), f"replay-{name}{again}", trained)

    def _check_is_due(self, run: Run, holdout: TaskSpec) -> bool:
        """Are its claims checked whether or not it would become champion?"""
        if self._trust is None:
            return False
        streak = self._trust.get(
            (checking.worker_of(run.incarnation), run.executor, run.executor_version), checking.NEW
        )
        measured, _ = outcomes_of(self._ended.get(holdout.id))
        return checking.decide(streak, recommendation_id(self._plan.topic, self._tag), run.claims, measured).check

    def _checked(self, run: Run, check: TaskSpec) -> Run:
        """The run with what its check has found."""
        ended = self._ended.get(check.id)
        digest, missing = self._outcomes(check)
        fault, (gain, error) = checks.structure_of(ended), checks.gain_of(ended)
        return dataclasses.replace(
            run,
            check=digest,
            checked_by=ended.incarnation if ended else "",
            missing=run.missing or (missing if not fault else ""),
            fault=fault,
            gain=gain,
            gain_error=error,
        )

    def _replayed(self, run: Run, id_: str, trained: TaskEnded) -> Run:
        """The run with what the replay of its training has found, where one was asked for."""
        task = derived_id(self._plan.topic, f"{self._tag}{id_}")
        replay = checks.replay_of(self._plan, task, run.name, line_of(run.name), trained)
        if replay is None:
            return run
        if not self._is_known(replay):
            return dataclasses.replace(run, replay_in_reserve=self._asked(id_, run.name, replay))
        if replay.id not in self._ended:
            self._awaited.append(replay.id)
        ended = self._ended.get(replay.id)
        fault = run.fault or checks.replay_fault(ended)
        return dataclasses.replace(run, fault=fault, replayed=checks.replay_distance(ended))

    def _rounded(self) -> list[Run]:
        """The challenger in few bits, where the plan asks for one; the evolver's, once that has ended."""
        task = rounding.wanted(self._plan, self._tag, self._ended)
        if task is None:
            return []
        self._submit(task.id.removeprefix(f"{self._plan.topic}-{self._tag}"), rounding.NAME, (task,))
        run = self._line(rounding.NAME, task.id)
        settings = rounding.settings_of(self._plan, self._ended, task.settings["scheme"])
        return [dataclasses.replace(run, settings=settings)]

    def _merged(self) -> list[Run]:
        """Merges of the round's models, where there is something to merge: only the best of them challenges."""
        if any(task not in self._ended for _, task in self._lines()):
            return []
        wanted = merging.wanted(self._plan, self._tag, self._ended)
        for merge in wanted.tasks:
            self._submit(merge.id.removeprefix(f"{self._plan.topic}-{self._tag}"), merging.NAME, (merge,))
            if merge.id not in self._ended:
                self._awaited.append(merge.id)
        return [self._line(merging.NAME, wanted.best)] if wanted.best else []

    def _baseline(self) -> Run:
        task, yardstick = (str(self._plan.facts.get(name) or "") for name in ("baseline", "yardstick"))
        if not task and not yardstick:
            return Run(name=Line.BASELINE.value, missing="the plan has no baseline")
        run = self._trained(Line.BASELINE.value, task) if task else Run(name=Line.BASELINE.value, model=yardstick)
        if run.missing or not run.model:
            return run
        again = self._again(run)
        holdout = self._evaluation(f"holdout-baseline{again}", "holdout baseline", Line.BASELINE, run, "holdout")
        holdout = self._measured_before(holdout)
        self._submit(f"evaluate-baseline{again}", Line.BASELINE.value, (holdout,))
        return self._measured(dataclasses.replace(run, claims=""), holdout)

    def _champion_run(self) -> Run:
        champion = self._champion
        if champion is None:
            return Run(name="champion", missing="there is no champion yet")
        run = Run(
            name="champion", task=champion.task, model=champion.model, kpis=champion.kpis, flat=champion.flat,
            base=champion.base,
        )  # fmt: skip
        if champion.fits and self._fits() and champion.fits != self._fits():
            missing = f"it reads other data ({champion.fits}) than this topic's ({self._fits()})"
            return dataclasses.replace(run, missing=missing)
        if champion.outcomes and champion.holdout == split_of(self._plan, "holdout"):
            return dataclasses.replace(run, holdout=champion.outcomes)
        suffix = f"champion-{champion.model[:8]}"
        holdout = self._evaluation(f"holdout-{suffix}", "holdout champion", None, run, "holdout")
        self._submit(f"evaluate-{suffix}", "champion", (holdout,))
        return self._measured(run, holdout)

    def _measured_before(self, evaluation_: TaskSpec) -> TaskSpec:
        """An evaluation of the same model on the same split that an earlier round of the topic has had done, or this
        one."""
        alike = (
            ended.task
            for ended in self._ended.values()
            if ended.task.executor == evaluation_.executor
            and ended.task.inputs == evaluation_.inputs
            and ended.state is TaskState.SUCCEEDED
        )
        return next(alike, evaluation_)

    def _again(self, run: Run) -> str:
        """What is added to the ids of evaluations when the training was done once more, because its first model was
        lost with the broker's store, and brought another one: that one is evaluated anew."""
        return "" if self._first_models.get(run.task) in (None, "", run.model) else f"-{run.model[:8]}"

    def _trained(self, name: str, task: str) -> Run:
        """What the training of a line brought; awaited while it has not ended."""
        ended = self._ended.get(task)
        if ended is None:
            self._awaited.append(task)
            return Run(name=name, task=task)
        outcome, inputs, adapted = ended.outcome, ended.task.inputs, checks.adapted_by(ended)
        run = Run(
            name=name,
            task=task,
            incarnation=ended.incarnation,
            settings=ended.task.settings,
            changed=rounding.told(ended) or self._changed(name) or merging.told(ended),
            continued=inputs.get("champion") or ("" if adapted else inputs.get("base", "")),
            flat=inputs.get("flat", ""),
            base=adapted,
            full=rounding.rounded_from(ended),
        )
        if ended.state is not TaskState.SUCCEEDED or outcome is None:
            return dataclasses.replace(run, missing=how_ended(ended))
        model = outcome.outputs.get("model", "")
        return dataclasses.replace(
            run,
            model=model,
            claims=outcome.outputs.get("claims", ""),
            kpis=outcome.kpis,
            stopped_by=outcome.stopped_by,
            settings=dict(map_of(outcome.facts, "settings")) or run.settings,  # of a line that searched: what it found
            changed=str(outcome.facts.get("changed") or run.changed),
            missing="" if model else "its training brought no model",
        )

    def _measured(self, run: Run, holdout: TaskSpec) -> Run:
        """The run with its outcomes on the holdout."""
        ended = self._ended.get(holdout.id)
        digest, fault = self._outcomes(holdout)
        kpis = ended.outcome.kpis if ended is not None and ended.outcome is not None else {}
        return dataclasses.replace(run, holdout=digest, kpis={**run.kpis, **kpis}, missing=run.missing or fault)

    def _outcomes(self, task: TaskSpec) -> tuple[str, str]:
        """(digest of an evaluation's outcomes, why there are none); awaited while it has not ended."""
        if task.id not in self._ended:
            self._awaited.append(task.id)
        return outcomes_of(self._ended.get(task.id))

    # -- what is submitted --------------------------------------------------------------------------------------------

    def _submit(self, id_: str, name: str, tasks: tuple[TaskSpec, ...]) -> None:
        """Unless the ledger has planned them already, or they have ended."""
        if not all(self._is_known(task) for task in tasks):
            self._submits.append(self._asked(id_, name, *tasks))

    def _asked(self, id_: str, name: str, *tasks: TaskSpec) -> Submit:
        facts: Facts = {"stage": tasks[0].executor, "line": name}
        return Submit(
            id=derived_id(self._plan.topic, f"{self._tag}{id_}"),
            topic=self._plan.topic,
            specialization=self._plan.specialization,
            tasks=tasks,
            facts=facts,
        )

    def _is_known(self, task: TaskSpec) -> bool:
        """Has the ledger planned it?"""
        return task.id in self._known or task.id in self._ended

    def _evaluation(self, id_: str, purpose: str, line: Line | None, run: Run, split: str) -> TaskSpec:
        """One evaluate task of this round."""
        return evaluation(
            self._plan,
            f"{self._tag}{id_}",
            purpose,
            model=run.model,
            split=split_of(self._plan, split),
            base=run.base,
            line=line,
            incarnation=run.incarnation,
        )

    # -- what the plan says -------------------------------------------------------------------------------------------

    def _round(self, lines: tuple[Run, ...], baseline: Run, champion: Run) -> Round:
        return Round(
            topic=self._plan.topic,
            specialization=self._plan.specialization,
            validation=split_of(self._plan, "validation"),
            holdout=split_of(self._plan, "holdout"),
            lines=lines,
            baseline=baseline,
            champion=self._champion,
            champion_revision=self._revision,
            champion_run=champion,
            independent_required=independent_required(self._plan),
            kpis=_kpis_of(self._plan.facts),
            fits=self._fits(),
            tag=self._tag,
            audit=split_of(self._plan, "audit"),
            rounding=tuple(map(str, map_of(self._plan.facts, rounding.FACT).get("asked") or ())),
        )

    def _changed(self, name: str) -> str:
        return str(map_of(self._plan.facts, "changed").get(name) or "")

    def _fits(self) -> str:
        return str(self._plan.facts.get("fits") or "")


def _kpis_of(facts: Mapping[str, Any]) -> tuple[tuple[str, float | None, float | None], ...]:
    """The topic's own conditions as (metric, minimum, maximum)."""
    rows = facts.get("kpis") or ()
    return tuple((str(row[0]), _bound(row[1]), _bound(row[2])) for row in rows if len(row) == 3)


def _bound(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
