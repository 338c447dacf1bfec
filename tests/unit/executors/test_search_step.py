"""The kind `search-step`: what may be asked, what is drawn, whose trial it is, when it is ended early, what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import optuna
import pytest

from executors import kinds, port, searching, spaces
from executors.kinds import KindInfo
from executors.kinds.search_step import SearchStep
from executors.port import Context, Job, Listening, Made, Runtime, Stopped
from executors.recipe import TrainingSettings
from executors.searches import SearchStepSettings
from executors.spaces import Dimension
from mesh.errors import DataRefused, NonFinite, OutOfMemory, TaskRefused
from mesh.messages.tasks import Needs
from tests.support import studies
from tests.support.executing import Recorder, job_for
from tests.support.studies import Child, Desk

LOW_IS_GOOD = {"type": "float", "low": 0.0, "high": 1.0}
GOOD_OR_BAD = {"level": {"type": "categorical", "choices": [0.1, 0.9]}}


class CurveSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A learning curve that is known beforehand."""

    level: float = 0.5
    width: int = 1
    way: Any = ""


class Curve:
    """A training kind whose validation loss is `level` at all of five steps."""

    name: ClassVar[str] = "curve"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs((), ("train",))
    Settings: ClassVar[type[port.Settings]] = CurveSettings
    breaks: ClassVar[BaseException | None] = None
    steps: ClassVar[list[int]] = []
    jobs: ClassVar[list[Job]] = []

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """More width, more memory."""
        return Needs(cores=2.0, memory_bytes=settings.width << 20, disk_bytes=settings.width)

    def run(self, job: Job, context: Context) -> Made:
        """Tell the curve."""
        self.jobs.append(job)
        for step in range(5):
            if isinstance(context, Listening):
                context.evaluated(step, {"validation_loss": job.settings.level})
            self.steps.append(step)
            if step == 2 and self.breaks is not None:
                raise self.breaks
        (job.scratch / "model").mkdir(exist_ok=True)
        kpis = {"validation_loss": job.settings.level, "size_bytes": 3.0}
        return Made(outputs={"model": job.scratch / "model"}, media={"model": "model"}, kpis=kpis, facts={"steps": 5})


@pytest.fixture(autouse=True)
def curve(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Curve]]:
    """The kind is installed."""
    known = {**kinds.kind_infos(), "curve": KindInfo("curve", __name__, "Curve", 1, Runtime.TORCH)}
    monkeypatch.setattr(kinds, "kind_infos", lambda: known)
    Curve.breaks, Curve.steps, Curve.jobs = None, [], []
    yield Curve
    Curve.breaks = None


@pytest.fixture
def desk() -> Iterator[Desk]:
    with studies.desk() as made:
        yield made


def asked(**more: Any) -> dict[str, Any]:
    return {"study": "s", "kind": "curve", "space": {"level": LOW_IS_GOOD}, "sampler": "random", **more}


def trial(desk: Desk, folder: Path, task: str, count: int = 1, *, settings: Mapping[str, Any] | None = None,
          child: Child | None = None, **changes: Any) -> dict[str, Any]:  # fmt: skip
    """Run one attempt; its record."""
    made = made_of(desk, folder, task, count, settings=settings, child=child, **changes)
    found: dict[str, Any] = json.loads((made.outputs["trial"] / "trial.json").read_text())
    return found


def made_of(desk: Desk, folder: Path, task: str, count: int = 1, *, settings: Mapping[str, Any] | None = None,
            child: Child | None = None, **changes: Any) -> Made:  # fmt: skip
    kind, place = SearchStep(), folder / f"{task}-{count}"
    job = job_for(kind, {}, place, settings or asked(), task=task, **changes)
    return kind.run(job, child or desk.child(task, count, place / "kept"))


def test_a_trial_draws_trains_and_tells(desk, tmp_path):
    made = made_of(desk, tmp_path, "a")
    record = json.loads((made.outputs["trial"] / "trial.json").read_text())
    level = record["settings"]["level"]
    assert 0.0 <= level <= 1.0
    assert (record["trial"], record["state"], record["value"]) == (0, "complete", level)
    assert record["best"] == {"trial": 0, "task": "a", "value": level, "settings": {"level": level}}
    assert record["curve"] == [[step, level] for step in range(1, 5)]
    assert set(made.outputs) == {"model", "trial"}
    assert made.media == {"model": "model", "trial": "document"}
    assert made.kpis == {"validation_loss": level, "size_bytes": 3.0, "trial": 0.0, "trial_value": level}
    assert made.facts["steps"] == 5
    assert made.facts["search"]["state"] == "complete"
    inner = Curve.jobs[0]
    assert (inner.kind, inner.settings.level, inner.task) == ("curve", level, "a")


def test_the_same_log_gives_the_same_draw(tmp_path):
    space = {
        "level": LOW_IS_GOOD,
        "learning_rate": {"type": "log-float", "low": 1e-4, "high": 1e-1},
        "width": {"type": "int", "low": 1, "high": 9},
        "way": {"type": "categorical", "choices": ["a", [1, 2], None]},
    }
    settings = asked(space=space, sampler="tpe", random_trials=2, pruner="none")
    seen = []
    for turn in range(2):
        with studies.desk() as desk:
            seen.append([trial(desk, tmp_path / str(turn), f"t{n}", settings=settings)["settings"] for n in range(5)])
    assert seen[0] == seen[1]
    assert len({json.dumps(one) for one in seen[0]}) == 5
    assert all(one["way"] in ("a", [1, 2], None) and isinstance(one["width"], int) for one in seen[0])


def test_a_bad_trial_is_ended_early(desk, tmp_path):
    """The log decides: who is worse than the finished ones at the first look that counts goes no further."""
    settings = asked(study="p", space=GOOD_OR_BAD, pruner_trials=1, pruner_steps=1)
    made = [made_of(desk, tmp_path, f"t{number}", settings=settings) for number in range(6)]
    found = [one.facts["search"] for one in made]
    assert [one["settings"]["level"] for one in found] == [0.1, 0.1, 0.9, 0.1, 0.9, 0.9]
    assert [one["state"] for one in found] == ["complete", "complete", "pruned", "complete", "pruned", "pruned"]
    assert Curve.steps == [*range(5)] * 2 + [0] + [*range(5)] + [0, 0]
    assert found[-1]["best"]["value"] == 0.1
    early = made[2]
    assert set(early.outputs) == {"trial"}
    assert early.stopped_by == "pruned"
    assert early.facts["search"]["reason"] == "ended early at step 1: validation_loss was 0.9"
    record = json.loads((early.outputs["trial"] / "trial.json").read_text())
    assert record["curve"] == [[1, 0.9]]
    assert record["value"] == 0.9, "what it had come to"


def test_hyperband_and_maximizing_run(desk, tmp_path):
    settings = asked(pruner="hyperband", direction="maximize")
    records = [trial(desk, tmp_path, f"t{number}", settings=settings) for number in range(4)]
    values = [one["value"] for one in records if one["state"] == "complete"]
    assert records[-1]["best"]["value"] == max(values)


# -- attempts ---------------------------------------------------------------------------------------------------------


def test_the_next_attempt_goes_on_with_the_same_trial(desk, tmp_path):
    Curve.breaks = OutOfMemory()
    with pytest.raises(OutOfMemory):
        made_of(desk, tmp_path, "a", 1)
    Curve.breaks = None
    other = trial(desk, tmp_path, "b")
    again = trial(desk, tmp_path, "a", 2, resume=tmp_path, trained_s=4.0)
    assert (again["trial"], other["trial"]) == (0, 1)
    assert Curve.jobs[0].settings == Curve.jobs[2].settings
    assert Curve.jobs[2].resume == tmp_path
    assert again["curve"] == [[step, again["value"]] for step in range(1, 5)]
    assert again["trials"]["complete"] == 2
    assert sum(again["trials"].values()) == 2


def test_an_attempt_that_died_between_two_entries_leaves_no_second_trial(desk, tmp_path):
    """Whatever the last entry was that came through, there is one trial in the end, and the same draw."""
    with studies.desk() as undisturbed:
        whole = trial(undisturbed, tmp_path / "whole", "a")
        entries = len(undisturbed.stored())
    for died_after in range(entries):
        with studies.desk() as one:
            folder = tmp_path / str(died_after)
            with pytest.raises(Dead):
                trial(one, folder, "a", child=Dying(one, folder, died_after))
            again = trial(one, folder, "a", 2)
            assert again["settings"] == whole["settings"]
            assert (again["state"], again["trial"], sum(again["trials"].values())) == ("complete", 0, 1)
            assert again["curve"] == whole["curve"]


class Dead(Exception):
    """The child is no more."""


class Dying(Child):
    """A child that dies after so many entries were stored."""

    def __init__(self, desk: Desk, folder: Path, after: int) -> None:
        super().__init__(desk, "a", studies.Epoch(1, 1), folder / "dying")
        self._left = after

    def consult(self, study: str, from_seq: int, entry: str = "", entry_id: str = "", *, wait_s: float) -> Any:
        """Die in place of one entry more."""
        if entry:
            if not self._left:
                raise Dead
            self._left -= 1
        return super().consult(study, from_seq, entry, entry_id, wait_s=wait_s)


def test_a_trial_that_was_complete_is_trained_again_for_its_outputs_and_told_nothing(desk, tmp_path):
    first = trial(desk, tmp_path, "a", 1)
    before = len(desk.stored())
    made = made_of(desk, tmp_path, "a", 2)
    assert "model" in made.outputs
    assert made.facts["search"]["value"] == first["value"]
    assert len(desk.stored()) == before + 1, "one entry says that there is a new attempt"


def test_numbers_that_became_infinite_are_a_failed_trial_and_no_failed_task(desk, tmp_path):
    Curve.breaks = NonFinite("the loss became nan at step 2")
    found = trial(desk, tmp_path, "a")
    assert (found["state"], found["value"], found["best"]) == ("fail", None, None)
    assert found["reason"] == "the loss became nan at step 2"
    assert trial(desk, tmp_path, "a", 2)["state"] == "fail", "the next attempt trains no failed trial"
    assert len(Curve.jobs) == 1


def test_data_that_is_refused_fails_the_trial_and_the_task(desk, tmp_path):
    Curve.breaks = DataRefused("no rows")
    with pytest.raises(DataRefused):
        trial(desk, tmp_path, "a")
    Curve.breaks = None
    assert trial(desk, tmp_path, "b")["trials"]["fail"] == 1


def test_a_stop_from_outside_is_no_early_end(desk, tmp_path):
    Curve.breaks = Stopped("checkpoint")
    with pytest.raises(Stopped):
        trial(desk, tmp_path, "a")
    Curve.breaks = None
    assert trial(desk, tmp_path, "a", 2)["trial"] == 0


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_study_has_one_definition(desk, tmp_path):
    trial(desk, tmp_path, "a")
    with pytest.raises(TaskRefused, match="'s' was begun with other settings"):
        trial(desk, tmp_path, "b", settings=asked(pruner="none"))
    assert trial(desk, tmp_path, "c")["trial"] == 1
    assert len(Curve.jobs) == 2


def test_a_metric_that_nobody_knows_is_refused_at_the_first_validation(desk, tmp_path):
    with pytest.raises(TaskRefused, match=r"says nothing of 'beauty'.*it says validation_loss"):
        trial(desk, tmp_path, "a", settings=asked(metric="beauty"))
    assert Curve.steps == []
    with pytest.raises(TaskRefused, match=r"no KPI 'beauty'.*size_bytes, validation_loss"):
        trial(desk, tmp_path, "b", settings=asked(metric="beauty", pruner="none", study="t"))


def test_a_context_without_a_mesh_is_refused(tmp_path):
    kind = SearchStep()
    with pytest.raises(TaskRefused, match="needs a worker"):
        kind.run(job_for(kind, {}, tmp_path / "scratch", asked()), Recorder(tmp_path / "kept"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"study": "no.name"}, "a study must be"),
        ({"kind": "noop"}, "no training kind"),
        ({"kind": "search-step"}, "no training kind"),
        ({"kind": "unheard"}, "no training kind"),
        ({"space": {}}, "1 to 32 settings, got 0"),
        ({"space": {"level": LOW_IS_GOOD}, "fixed": {"level": 0.3}}, "in both space and fixed"),
        ({"space": {"unheard": LOW_IS_GOOD}}, "unheard"),
        ({"space": {"learning_rate": {"type": "float", "low": 0.1, "high": 20.0}}}, "learning_rate must be 1e-07"),
        ({"space": {"schedule": {"type": "categorical", "choices": ["linear", "zigzag"]}}}, "schedule is one of"),
        ({"space": {"width": LOW_IS_GOOD}}, "int"),
        ({"fixed": {"batch": 0}}, "batch must be 1"),
        ({"fixed": {"processes": 2}}, "one process"),
        ({"direction": "sideways"}, "direction is one of"),
        ({"pruner": "axe"}, "pruner is one of"),
        ({"random_trials": 0}, "random_trials must be"),
    ],
)  # fmt: skip
def test_what_can_not_be_searched_is_refused_before_anything_runs(changes, why):
    with pytest.raises((msgspec.ValidationError, ValueError), match=why):
        msgspec.convert(asked(**changes), SearchStepSettings)


@pytest.mark.parametrize(
    "dimension",
    [
        {"type": "gauss", "low": 0, "high": 1},
        {"type": "float", "low": 1.0},
        {"type": "float", "low": 2.0, "high": 1.0},
        {"type": "log-float", "low": 0.0, "high": 1.0},
        {"type": "int", "low": 0.5, "high": 2},
        {"type": "float", "low": 0.0, "high": float("inf")},
        {"type": "float", "low": 0.0, "high": 1.0, "choices": [1]},
        {"type": "categorical", "choices": []},
        {"type": "categorical", "choices": [1, 1]},
        {"type": "categorical", "choices": [1], "low": 0},
        {"type": "int", "low": 0, "high": 1, "step": 2},
    ],
)
def test_dimensions_have_bounds(dimension):
    with pytest.raises((msgspec.ValidationError, ValueError)):
        msgspec.convert(dimension, Dimension)


def test_it_takes_what_the_worst_draw_takes():
    space = {
        "width": {"type": "int", "low": 2, "high": 64},
        "way": {"type": "categorical", "choices": ["a", "b"]},
    }
    settings = msgspec.convert(asked(space=space), SearchStepSettings)
    needs = SearchStep().needs(settings, {})
    assert needs.cores == 2.0
    assert needs.memory_bytes == (64 << 20) + (48 << 20)
    assert needs.disk_bytes == 64
    found = spaces.worst(settings.space, lambda drawn: -drawn["width"])
    assert found["width"] == 2


# -- the best of some trials ------------------------------------------------------------------------------------------


def best(tasks: list[str], **more: Any) -> dict[str, Any]:
    return {"best_of": tasks, "otherwise": {"level": 0.5}, "then": {"width": 3}, **more}


def test_the_best_of_the_named_trials_is_trained_and_the_study_hears_nothing(desk, tmp_path):
    records = [trial(desk, tmp_path, name) for name in ("a", "b", "c", "foreign")]
    values = {record["settings"]["level"]: number for number, record in enumerate(records[:3])}
    before = len(desk.operations())
    made = made_of(desk, tmp_path, "line", settings=asked(**best(["a", "b", "c"])))
    trained = Curve.jobs[-1].settings
    assert (trained.level, trained.width) == (min(values), 3)
    assert set(made.outputs) == {"model"}
    assert made.facts["settings"] == {"level": min(values), "width": 3}
    assert made.facts["search"]["chosen"] == values[min(values)]
    assert f"trial {values[min(values)]} of study s" in made.facts["changed"]
    assert "best of 3" in made.facts["changed"]
    assert [json.loads(entry)["op_code"] for entry in desk.operations()[before:]] == [0]  # it only looked


def test_a_trial_that_never_ended_leaves_the_choice_to_the_others(desk, tmp_path):
    """Its task was set aside while it ran: the study still has it as running, with a curve below all values."""
    record = trial(desk, tmp_path, "a")
    settings = msgspec.convert(asked(), SearchStepSettings)
    study = searching.opened(settings, desk.child("b", 1, tmp_path / "kept").journal())
    begun, _ = searching.begun(study, settings, "b")
    searching.drawn_of(begun, settings)
    begun.report(-9.0, 1)
    made = made_of(desk, tmp_path, "line", settings=asked(**best(["a", "b"])))
    assert made.facts["settings"]["level"] == record["settings"]["level"]
    made = made_of(desk, tmp_path, "other", settings=asked(**best(["b"])))
    assert "ended early" in made.facts["search"]["why"]  # better than nothing: what it had come to


def test_of_trials_that_were_all_ended_early_the_one_that_had_come_furthest_is_taken(desk, tmp_path):
    settings = asked(study="p", space=GOOD_OR_BAD, pruner_trials=1, pruner_steps=1)
    found = [trial(desk, tmp_path, f"t{number}", settings=settings) for number in range(6)]
    early = [f"t{number}" for number, record in enumerate(found) if record["state"] == "pruned"]
    assert early
    made = made_of(desk, tmp_path, "line", settings={**settings, **best(early)})
    assert made.facts["settings"]["level"] == 0.9
    assert "ended early" in made.facts["search"]["why"]


def test_the_quartile_ends_fewer_of_the_same_trials_than_the_median(tmp_path):
    ended = {}
    for pruner in ("median", "quartile"):
        settings = asked(pruner_trials=4, pruner_steps=1, pruner=pruner)
        with studies.desk() as desk:
            found = [trial(desk, tmp_path / pruner, f"t{number}", settings=settings) for number in range(16)]
        ended[pruner] = sum(record["state"] == "pruned" for record in found)
    assert 0 < ended["quartile"] < ended["median"]


def test_trials_that_were_ended_early_are_compared_at_the_step_that_all_had_seen():
    early = optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, intermediate_values={1: 2.0, 5: 0.5})
    assert [searching._reached(early, step) for step in (0, 1, 4, 5)] == [None, 2.0, 2.0, 0.5]
    assert searching._ended_with(early) is None
    assert searching._ended_with(optuna.trial.create_trial(value=1.5)) == 1.5


def test_without_a_value_what_was_drawn_is_trained(desk, tmp_path):
    made = made_of(desk, tmp_path, "line", settings=asked(**best(["never"])))
    assert made.facts["settings"] == {"level": 0.5, "width": 3}
    assert made.facts["search"]["why"] == "settings drawn without a search: none of 0 trials came to a value"
    assert made.facts["search"]["chosen"] is None


def test_a_study_that_can_not_be_used_costs_the_search_and_not_the_line(desk, tmp_path):
    trial(desk, tmp_path, "a")
    other = {**asked(), "direction": "maximize"}
    with pytest.raises(TaskRefused, match="other settings"):
        made_of(desk, tmp_path, "b", settings=other)
    skipped = made_of(desk, tmp_path, "c", settings={**other, "required": False})
    assert (dict(skipped.outputs), skipped.stopped_by) == ({}, "no study")
    assert "other settings" in skipped.facts["search"]["reason"]
    made = made_of(desk, tmp_path, "line", settings={**other, **best(["c"])})
    assert made.facts["settings"]["level"] == 0.5
    assert "other settings" in made.facts["changed"]


def test_a_trial_that_nobody_requires_leaves_room_in_the_study(desk, tmp_path, monkeypatch):
    trial(desk, tmp_path, "a")
    monkeypatch.setattr("mesh.limits.STUDY_ENTRIES_MAX", len(desk.operations()) + 1)
    made = made_of(desk, tmp_path, "b", settings=asked(required=False))
    assert "nearly full" in made.facts["search"]["reason"]


def test_what_belongs_to_one_task_is_no_part_of_the_study(desk, tmp_path):
    trial(desk, tmp_path, "a", settings=asked(required=False))
    assert trial(desk, tmp_path, "b", settings=asked(required=True))["trial"] == 1
    for wrong, words in (
        ({"otherwise": {"level": 0.1}}, "belong to best_of"),
        ({"best_of": ["a"], "otherwise": {"level": "high"}}, "level"),
        ({"best_of": [str(number) for number in range(65)]}, "at most 64"),
    ):
        with pytest.raises(msgspec.ValidationError, match=words):
            msgspec.convert(asked(**wrong), SearchStepSettings)
