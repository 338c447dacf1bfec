"""A trial of a study, from its settings to its record.

    open the study, or begin it          its definition is the first one that stands in the log
    the trial of this task, or a new one its settings are drawn at once, by a sampler seeded with the trial's number
    train                                every validation is told to the study; a bad trial is ended early
    tell                                 complete (value), pruned, or fail (reason)

A trial's draw is a function of the log before it and its number. The task's name stands in the trial from its first
entry on, so that the next attempt of the task finds it, whatever the last one had come to: still running, it goes on
from its checkpoint; complete, it is trained to its end again, for its outputs, and told nothing.

A task with `best_of` is no trial: it reads what the trials of these tasks came to, takes the best settings, and trains
with them for its own budget. It tells the study nothing: a value after another budget could not be compared. A study
that can not be used any more (it is full, or its beginning is gone) is no reason to set it aside: `otherwise` is
trained with; trials that are not `required` end without a model then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from executors.journal import Journal
from executors.port import Context, Job, Kind, Made, Stopped
from executors.searches import SearchStepSettings, inner_settings
from executors.spaces import Dimension, text_of
from mesh import limits
from mesh.errors import NonFinite, Reject, TaskRefused

TASK = "task"
"""Where a trial says whose it is."""

CURVE_POINTS = 50
CURVE_GROWTH = 1.02
"""Points of a learning curve that are all told; after them only those at steps 2 % later than the last: some hundred
more in a million steps."""

REASON_CHARS = 300

ROOM_SHARE = 0.9
"""Of a study's entries, beyond which no trial begins that nobody requires."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Pruned(Stopped):
    """The study has seen enough of this trial."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    reason: str = ""
    made: Made = dataclasses.field(default_factory=Made)


def searched(job: Job, context: Context, kind: Kind, journal: Journal) -> Made:
    """Run the task's trial; what it made."""
    settings: SearchStepSettings = job.settings
    if settings.best_of:
        return _best_trained(job, context, kind, journal)
    try:
        study = opened(settings, journal)
        _check_room(settings, journal)
    except TaskRefused as refused:
        if settings.required:
            raise
        context.log(f"nothing is tried: {refused}")
        return Made(stopped_by="no study", facts={"search": {"study": settings.study, "reason": str(refused)}})
    trial, found = begun(study, settings, job.task)
    drawn = drawn_of(trial, settings)
    context.log(f"trial {trial.number} of study {settings.study}: {json.dumps(drawn)}")
    if found is TrialState.PRUNED or found is TrialState.FAIL:
        ended = Ended(found, reason="it had ended before this attempt")
    else:
        hearing = Hearing(context, trial, settings, over=found.is_finished())
        ended = _trained(job, hearing, kind, trial, drawn)
        if not found.is_finished():
            study.tell(trial, ended.value, state=ended.state)
    return _made(job, settings, study, trial, drawn, ended)


def opened(settings: SearchStepSettings, journal: Journal) -> Study:
    """The study; begun when it is not there. TaskRefused when it was begun with other settings."""
    storage = JournalStorage(journal)
    definition = json.dumps(settings.definition(), sort_keys=True)
    name = hashlib.sha256(definition.encode()).hexdigest()[:16]
    direction = optuna.study.StudyDirection[settings.direction.upper()]
    with contextlib.suppress(DuplicatedStudyError):
        storage.create_new_study([direction], name)  # an entry in any case: earlier attempts of the task are over
    first = min(storage.get_all_studies(), key=lambda one: one._study_id)
    if first.study_name != name:
        raise TaskRefused(
            f"the study {settings.study!r} was begun with other settings (kind, space, metric or the like): give this "
            "one another name"
        )
    return optuna.load_study(study_name=name, storage=storage, pruner=_pruner(settings))


def _check_room(settings: SearchStepSettings, journal: Journal) -> None:
    """TaskRefused where a trial might fill the study before it has ended, and nobody insists."""
    if not settings.required and journal.entries > ROOM_SHARE * limits.STUDY_ENTRIES_MAX:
        raise TaskRefused(f"the study {settings.study!r} is nearly full, it has {journal.entries} entries")


def begun(study: Study, settings: SearchStepSettings, task: str) -> tuple[Trial, TrialState]:
    """The task's own trial, or a new one; and its state when it was found."""
    own = [one for one in study.get_trials(deepcopy=False) if one.user_attrs.get(TASK) == task]
    if own:
        id_, state = own[0]._trial_id, own[0].state
    else:
        template = FrozenTrial(
            number=-1, trial_id=-1, state=TrialState.RUNNING, value=None, datetime_start=None, datetime_complete=None,
            params={}, distributions={}, user_attrs={TASK: task}, system_attrs={}, intermediate_values={},
        )  # fmt: skip
        id_, state = study._storage.create_new_trial(study._study_id, template), TrialState.RUNNING
    number = study._storage.get_trial(id_).number
    study.sampler = _sampler(settings, number)
    return Trial(study, id_), state


def _sampler(settings: SearchStepSettings, number: int) -> optuna.samplers.BaseSampler:
    """Seeded by study and number: what it draws follows from the log."""
    seed = int.from_bytes(hashlib.sha256(f"{settings.study} {number}".encode()).digest()[:4], "big")
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.random_trials, constant_liar=True)


def _pruner(settings: SearchStepSettings) -> optuna.pruners.BasePruner:
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(settings.pruner_trials, settings.pruner_steps)
    if settings.pruner == "quartile":
        return optuna.pruners.PercentilePruner(75.0, settings.pruner_trials, settings.pruner_steps)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, settings.pruner_steps))
    return optuna.pruners.NopPruner()


def drawn_of(trial: Trial, settings: SearchStepSettings) -> dict[str, Any]:
    """Every setting of the space; what an earlier attempt had drawn stays."""
    return {name: _drawn(trial, name, settings.space[name]) for name in sorted(settings.space)}


def _drawn(trial: Trial, name: str, dimension: Dimension) -> Any:
    if dimension.type == "categorical":
        return json.loads(trial.suggest_categorical(name, [text_of(choice) for choice in dimension.choices]))
    low, high = dimension.ends()
    log = dimension.type.startswith("log-")
    suggest: Any = trial.suggest_int if dimension.whole else trial.suggest_float
    return suggest(name, low, high, log=log)


# -- training ---------------------------------------------------------------------------------------------------------


class Hearing:
    """The task's context, for the kind that is trained: all as it is, and validations go to the study."""

    def __init__(self, context: Context, trial: Trial, settings: SearchStepSettings, *, over: bool) -> None:
        """over: the trial has ended in the study; nothing more is told."""
        self._context, self._trial, self._settings, self._over = context, trial, settings, over
        told = trial.storage.get_trial(trial._trial_id).intermediate_values
        self.curve: dict[int, float] = dict(told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Tell the study; Pruned when it has seen enough."""
        if self._over:
            return
        value = values.get(self._settings.metric)
        if value is None:
            self._check_curve(values)
            return
        last = max(self.curve, default=0)  # before the first step the network says nothing about the draw
        if step <= last or (len(self.curve) >= CURVE_POINTS and step < CURVE_GROWTH * last):
            return
        self._trial.report(float(value), step)
        self.curve[step] = float(value)
        if self._trial.should_prune():
            raise Pruned(f"ended early at step {step}: {self._settings.metric} was {value:g}")

    def _check_curve(self, values: Mapping[str, float]) -> None:
        if self._settings.pruner != "none":
            raise TaskRefused(
                f"validation of {self._settings.kind} says nothing of {self._settings.metric!r}, so no trial can be "
                f"ended early by it: it says {', '.join(sorted(values))}; take one of them, or pruner 'none'"
            )


def _trained(job: Job, hearing: Hearing, kind: Kind, trial: Trial, drawn: Mapping[str, Any]) -> Ended:
    """Train with these settings. What is wrong with the task itself, and not with the draw, ends it."""
    settings: SearchStepSettings = job.settings
    try:
        inner = _inner(kind, settings, drawn)
        made = kind.run(dataclasses.replace(job, kind=kind.name, settings=inner), cast(Context, hearing))
        return Ended(TrialState.COMPLETE, _value(made, settings), made=made)
    except Pruned as early:
        return Ended(TrialState.PRUNED, reason=str(early))
    except NonFinite as error:
        return Ended(TrialState.FAIL, reason=str(error)[:REASON_CHARS])
    except Reject:
        trial.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _inner(kind: Kind, settings: SearchStepSettings, drawn: Mapping[str, Any]) -> Any:
    try:
        return inner_settings(kind, settings, drawn)
    except ValueError as error:
        raise TaskRefused(str(error)) from None


def _value(made: Made, settings: SearchStepSettings) -> float:
    """The KPI that is searched by."""
    value = made.kpis.get(settings.metric)
    if value is None:
        raise TaskRefused(
            f"{settings.kind} gives no KPI {settings.metric!r} to search by: it gives {', '.join(sorted(made.kpis))}"
        )
    if not math.isfinite(value):
        raise NonFinite(f"{settings.metric} of the trained model is {value}")
    return float(value)


# -- the best of some trials ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The settings that trials have found, and where."""

    drawn: dict[str, Any]
    why: str
    trial: int | None = None
    value: float | None = None


def best_found(settings: SearchStepSettings, journal: Journal) -> Found:
    """The best settings of the named tasks' trials: of those that ended with a value; else, as all were ended early,
    of their values at the last step that all of these had seen; else `otherwise`."""
    try:
        trials = opened(settings, journal).get_trials(deepcopy=False)
    except TaskRefused as refused:
        return Found(dict(settings.otherwise), f"settings drawn without a search: {refused}")
    own = [one for one in trials if one.user_attrs.get(TASK) in settings.best_of]
    sign = 1 if settings.direction == "minimize" else -1
    for complete in (True, False):
        until = min((max(one.intermediate_values) for one in own if one.intermediate_values), default=0)
        valued = [
            (sign * value, one.number, value, one)
            for one in own
            if (value := _ended_with(one) if complete else _reached(one, until)) is not None
        ]
        if valued:
            _, number, value, best = min(valued, key=lambda row: row[:2])
            how = "" if complete else ", ended early"
            why = f"trial {number} of study {settings.study} ({settings.metric} {value:.4g}{how}), best of {len(own)}"
            return Found(_params(best, settings), why, number, value)
    return Found(
        dict(settings.otherwise), f"settings drawn without a search: none of {len(own)} trials came to a value"
    )


def _ended_with(trial: FrozenTrial) -> float | None:
    """The value of a trial that was trained to its end."""
    done = trial.state is TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)
    return trial.value if done else None


def _reached(trial: FrozenTrial, step: int) -> float | None:
    """What a trial had last reported at that step; None where that is nothing, or no number."""
    known = [at for at in trial.intermediate_values if at <= step]
    value = trial.intermediate_values[max(known)] if known else None
    return value if value is not None and math.isfinite(value) else None


def _params(trial: FrozenTrial, settings: SearchStepSettings) -> dict[str, Any]:
    """What a trial drew, as the kind takes it."""
    return {
        name: json.loads(value) if settings.space[name].type == "categorical" else value
        for name, value in trial.params.items()
    }


def _best_trained(job: Job, context: Context, kind: Kind, journal: Journal) -> Made:
    """Train with the best settings; the result names them as what they are."""
    settings: SearchStepSettings = job.settings
    found = best_found(settings, journal)
    shown = ", ".join(f"{name} {_short(value)}" for name, value in sorted(found.drawn.items()))
    context.log(f"trains with {shown}: {found.why}")
    made = kind.run(dataclasses.replace(job, kind=kind.name, settings=_inner(kind, settings, found.drawn)), context)
    search = {"study": settings.study, "kind": settings.kind, "chosen": found.trial, "value": found.value}
    facts = {
        **made.facts,
        "settings": {**settings.fixed, **found.drawn, **settings.then},
        "changed": f"from zero with {shown}: {found.why}",
        "search": {**search, "settings": found.drawn, "why": found.why},
    }
    return dataclasses.replace(made, facts=facts)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


# -- the record -------------------------------------------------------------------------------------------------------


def _made(
    job: Job, settings: SearchStepSettings, study: Study, trial: Trial, drawn: Mapping[str, Any], ended: Ended
) -> Made:
    trials = study.get_trials(deepcopy=False)
    own = next(one for one in trials if one.number == trial.number)
    record: dict[str, Any] = {
        "study": settings.study,
        "kind": settings.kind,
        "trial": trial.number,
        "state": ended.state.name.lower(),
        "settings": dict(drawn),
        "metric": settings.metric,
        "direction": settings.direction,
        "value": own.value,
        "curve": [[step, value] for step, value in sorted(own.intermediate_values.items())],
        "reason": ended.reason,
        "kpis": dict(ended.made.kpis),
        "best": _best(trials, settings),
        "trials": {state.name.lower(): sum(one.state is state for one in trials) for state in TrialState},
    }
    kpis = {**ended.made.kpis, "trial": float(trial.number)}
    if own.value is not None:
        kpis["trial_value"] = own.value
    return dataclasses.replace(
        ended.made,
        outputs={**ended.made.outputs, "trial": _written(record, job.scratch / "trial")},
        media={**ended.made.media, "trial": "document"},
        kpis=kpis,
        stopped_by="pruned" if ended.state is TrialState.PRUNED else ended.made.stopped_by,
        facts={**ended.made.facts, "search": {**record, "curve": record["curve"][-1:]}},
    )


def _best(trials: list[FrozenTrial], settings: SearchStepSettings) -> dict[str, Any] | None:
    """The best complete trial so far."""
    done = [one for one in trials if one.state is TrialState.COMPLETE and one.value is not None]
    if not done:
        return None
    sign = 1 if settings.direction == "minimize" else -1
    best = min(done, key=lambda one: (sign * cast(float, one.value), one.number))
    task, params = best.user_attrs.get(TASK, ""), _params(best, settings)
    return {"trial": best.number, "task": task, "value": best.value, "settings": params}


def _written(record: Mapping[str, Any], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "trial.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    return folder
