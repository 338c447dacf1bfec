"""What topics become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mesh import codec, limits
from mesh.messages.base import Facts
from mesh.messages.commands import Refuse, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.tasks import Line, Needs, OnDisconnect, Outcome, TaskSpec
from mesh.messages.topics import DataRef, Independent, Kpi, Topic
from planner import encoders, plans, profile, proposals
from planner.accounts import Inherited
from planner.graph import Source
from planner.past import Candidacy, Past

SPLITS = {name: name[0] * 64 for name in profile.SPLITS}
FACTS: Facts = {
    "task": "classify",
    "modality": "tabular",
    "rows": 1_797,
    "examples": 1_790,
    "labels": 10,
    "label_digest": "ab" * 32,
    "label_names": [str(digit) for digit in range(10)],
    "label_column": "digit",
    "features": 64,
    "splits": {"train": 1_253, "validation": 268, "holdout": 179, "audit": 90},
    "dropped": {"empty": 7},
    "keywords": ["digit"],
    "needs": {"classify": {"cores": 2, "memory_bytes": 900_000_000, "disk_bytes": 1_000_000}},
    "warnings": ["w" * 1_000],
}
DATA = DataRef(source="d" * 64, name="digits.csv", size_bytes=1_000_000)
TOPIC = Topic(id="digits-0a1b2c3d", text="handwritten digits", data=DATA, label_column="label", priority=8)
PROFILE = Outcome(outputs=SPLITS, facts=FACTS)
SOURCE = Source(DATA, None, "label")


def by_profile(executor: str, settings: object, facts: object) -> None:
    """An estimate of one who knows no kind."""


def planned(topic: Topic = TOPIC, champion: Champion | None = None, revision: int = 0) -> Submit:
    made = plans.plan(topic, SOURCE, PROFILE, {}, champion, revision, by_profile)
    assert isinstance(made, plans.Plan)
    return made.submit


def by_line(submit: Submit) -> dict[Line | None, TaskSpec]:
    return {task.line: task for task in submit.tasks}


def champion(**settings: object) -> Champion:
    return Champion(
        specialization="x", version_number=1, model="c" * 64, topic="t", task="t-evolver", line=Line.EVOLVER,
        verdict="v", settings=dict(settings),
    )  # fmt: skip


def test_a_topic_with_data_becomes_a_profile_task() -> None:
    submit = plans.profile_submit(TOPIC, SOURCE)
    assert isinstance(submit, Submit)
    (task,) = submit.tasks
    assert submit.id == task.id == "digits-0a1b2c3d-profile"
    assert task.executor == "profile"
    assert task.inputs == {"data": DATA.source}
    assert task.settings == {"name": "digits.csv", "label_column": "label", "salt": plans.SALT}
    assert task.priority == 8
    assert task.needs.memory_bytes > 6 * DATA.size_bytes
    assert plans.profiled_source(TOPIC, task) == SOURCE


def test_what_a_disconnected_worker_keeps_is_the_publishers_choice_for_every_task() -> None:
    topic = TOPIC.evolve(on_disconnect=OnDisconnect.WAIT, wait_s=90.0)
    profile = plans.profile_submit(topic, SOURCE)
    assert isinstance(profile, Submit)
    policies = {(task.on_disconnect, task.wait_s) for task in (*profile.tasks, *planned(topic).tasks)}
    assert policies == {(OnDisconnect.WAIT, 90.0)}
    assert {(task.on_disconnect, task.wait_s) for task in planned().tasks} == {(OnDisconnect.REPLACE, 600.0)}


def test_a_topic_without_data_is_refused_in_one_sentence_that_helps() -> None:
    bare = Topic(id="t-1", text="coins", node="stats-bayesian")
    refused = plans.source_of(bare, {"a": Specialization(id="a", name="a", parent="root", data="builtin:digits")})
    assert isinstance(refused, Refuse)
    assert "stats-bayesian" in refused.reason
    assert "--data" in refused.reason
    assert "these have: a" in refused.reason


def test_a_topic_without_data_uses_its_nodes_data_and_columns() -> None:
    node = Specialization(id="a", name="a", parent="root", data="builtin:digits", data_name="digits", label_column="y")
    source = plans.source_of(Topic(id="t-1", text="coins", node="a"), {"a": node})
    assert source == Source(DataRef(source="builtin:digits", name="digits"), None, "y")


def test_an_unknown_task_kind_is_refused_before_anything_runs() -> None:
    refused = plans.profile_submit(Topic(id="t-1", text="x", data=DATA, task="clasify"), SOURCE)
    assert isinstance(refused, Refuse)
    assert "'clasify'" in refused.reason
    assert "classify" in refused.reason.split("train:")[1]


def test_the_plan_has_two_lines_and_a_yardstick_that_see_two_splits() -> None:
    tasks = by_line(planned())
    assert set(tasks) == {Line.EVOLVER, Line.REINVENTOR, Line.BASELINE}
    for task in tasks.values():
        assert task.inputs == {"train": SPLITS["train"], "validation": SPLITS["validation"]}
        assert task.specialization.startswith("handwritten-digits-")
        assert task.priority == 8
    assert tasks[Line.EVOLVER].settings == {}
    assert tasks[Line.REINVENTOR].settings != {}
    assert tasks[Line.BASELINE].executor == "baseline"
    assert tasks[Line.EVOLVER].needs.cores == 2
    assert tasks[Line.EVOLVER].needs.memory_bytes == 900_000_000


def test_the_plans_facts_say_what_consensus_needs() -> None:
    wishes = Topic(
        id="t-1", text="digits", data=DATA, budget_s=60, kpis=(Kpi(metric="accuracy", minimum=0.9),),
        independent=Independent.REQUIRE,
    )  # fmt: skip
    facts = planned(wishes).facts
    assert facts["lines"] == {"evolver": "t-1-evolver", "reinventor": "t-1-reinventor"}
    assert facts["baseline"] == "t-1-baseline"
    assert facts["splits"] == SPLITS
    assert facts["kpis"] == [["accuracy", 0.9, None]]
    assert facts["independent"] == "require"
    assert (facts["champion"], facts["champion_revision"]) == ("", 0)
    assert (facts["parent"], facts["examples"], facts["budget_s"]) == ("root", 1_790, 60)
    assert "label_names" not in facts["profile"]
    assert len(facts["profile"]["warnings"][0]) == 300


def test_with_a_champion_the_evolver_continues_it_and_says_what_changed() -> None:
    before = champion(learning_rate=0.005, hidden=[64])
    submit = planned(champion=before, revision=7)
    task = by_line(submit)[Line.EVOLVER]
    assert task.inputs["champion"] == "c" * 64
    assert task.settings["hidden"] == [64]
    different = {name for name in task.settings if task.settings[name] != before.settings.get(name)}
    assert 1 <= len(different) <= 2
    assert all(name in submit.facts["changed"]["evolver"] for name in different)
    assert submit.facts["champion_revision"] == 7
    assert "champion" not in by_line(submit)[Line.REINVENTOR].inputs


def test_a_champion_that_reads_other_data_is_not_continued_and_the_plan_says_why() -> None:
    fits = planned().facts["fits"]
    assert fits == "tabular, 64 inputs, unnamed"
    same = planned(champion=champion().evolve(fits=fits), revision=3)
    assert by_line(same)[Line.EVOLVER].inputs["champion"] == "c" * 64
    for other in ("text", "tabular, 63 inputs, 0123456789ab"):
        submit = planned(champion=champion(learning_rate=0.005).evolve(fits=other), revision=3)
        task = by_line(submit)[Line.EVOLVER]
        assert "champion" not in task.inputs
        assert task.settings == {}
        assert submit.facts["changed"]["evolver"].startswith("starts from zero")
        assert other in submit.facts["changed"]["evolver"]
        assert fits in submit.facts["changed"]["evolver"]
        assert (submit.facts["champion"], submit.facts["champion_revision"]) == ("c" * 64, 3)


def test_each_line_gets_room_for_the_settings_that_it_was_given() -> None:
    asked: list[tuple[str, dict[str, object], object]] = []

    def estimate(executor: str, settings: Facts, facts: Mapping[str, Any]) -> Needs | None:
        asked.append((executor, dict(settings), facts["examples"]))
        return None if executor == "baseline" else Needs(memory_bytes=len(asked) << 30)

    made = plans.plan(TOPIC, SOURCE, PROFILE, {}, champion(hidden=[4_096]), 3, estimate)
    assert isinstance(made, plans.Plan)
    tasks = by_line(made.submit)
    assert [task.needs.memory_bytes >> 30 for task in tasks.values()] == [1, 2, 0]
    assert [(task.executor, task.settings, 1_790) for task in tasks.values()] == asked
    assert tasks[Line.EVOLVER].settings["hidden"] == [4_096]


def test_planning_again_submits_the_same_bytes() -> None:
    assert codec.encode(planned()) == codec.encode(planned())


def test_different_topics_draw_different_settings() -> None:
    drawn = {str(proposals.reinventor(f"t-{number}", "classify", "tabular").settings) for number in range(50)}
    assert len(drawn) > 1
    turned = {
        proposals.evolver(f"t-{number}", "classify", "text", {"learning_rate": 0.01}).changed for number in range(50)
    }
    assert len(turned) > 2


def test_dials_stay_within_their_bounds() -> None:
    dial = proposals.Dial(0.1, (0.5,), 0.01, 1.0)
    assert dial.turned(0.0, 0.5) == 0.05
    assert dial.turned(0.012, 0.5) == 0.01
    assert dial.turned(5.0, 0.5) == 1.0


def test_a_profile_that_says_too_little_is_refused() -> None:
    for outcome in (Outcome(outputs={"train": "t" * 64}, facts=FACTS), Outcome(outputs=SPLITS, facts={"labels": 3})):
        refused = plans.plan(TOPIC, SOURCE, outcome, {}, None, 0, by_profile)
        assert isinstance(refused, Refuse)
        assert TOPIC.id in refused.reason
        assert plans.specialization_id(TOPIC, Outcome(facts={"labels": 3})) == ""


def test_a_task_that_no_line_can_train_is_refused() -> None:
    folding = Outcome(outputs=SPLITS, facts={**FACTS, "task": "fold"})
    refused = plans.plan(TOPIC, SOURCE, folding, {}, None, 0, by_profile)
    assert isinstance(refused, Refuse)
    assert "'fold'" in refused.reason


def test_a_refusal_always_has_a_reason_of_bounded_length() -> None:
    assert plans.refusal_of("t-1", " ").reason
    assert len(plans.refusal_of("t-1", "x" * 9_999).reason) == limits.TEXT_CHARS_MAX


def test_a_plan_fits_into_one_command_even_with_long_texts() -> None:
    long = Topic(id="x" * 90, text="word " * 399, data=DATA)
    assert len(codec.encode(planned(long))) < limits.RECORD_BYTES_MAX / 4


# -- base models ------------------------------------------------------------------------------------------------------

BASE = BaseModel(
    model="b" * 64, name="digits-net", task="classify", fits="tabular, 64 inputs, unnamed", labels=10,
    label_names=tuple(str(digit) for digit in range(10)), settings={"dropout": 0.25, "hidden": [64]},
)  # fmt: skip


def refused(base: BaseModel, task: str | None = None) -> str:
    """The sentence with which a topic with this base model is refused, before or after its profile."""
    topic = TOPIC.evolve(base=base, task=task)
    first = plans.profile_submit(topic, SOURCE)
    answer = first if isinstance(first, Refuse) else plans.plan(topic, SOURCE, PROFILE, {}, None, 0, by_profile)
    assert isinstance(answer, Refuse)
    assert "the base model digits-net (bbbbbbbbbbbb)" in answer.reason
    return answer.reason


def test_the_evolver_starts_from_the_base_model_and_nobody_else_does() -> None:
    submit = planned(TOPIC.evolve(base=BASE))
    tasks = by_line(submit)
    assert tasks[Line.EVOLVER].inputs["base"] == BASE.model
    assert tasks[Line.EVOLVER].settings["hidden"] == [64]
    assert "base" not in tasks[Line.REINVENTOR].inputs
    assert "base" not in tasks[Line.BASELINE].inputs
    assert submit.facts["base"] == BASE.model
    changed = submit.facts["changed"]["evolver"]
    assert changed.startswith("starts from the base model digits-net (bbbbbbbbbbbb); learning_rate ")
    assert planned().facts["base"] == ""


def test_a_large_base_model_asks_for_room_where_it_is_trained_and_evaluated() -> None:
    facts = {**FACTS, "needs": {kind: {"memory_bytes": 1_000_000_000} for kind in ("classify", "baseline", "evaluate")}}
    topic = TOPIC.evolve(base=msgspec.structs.replace(BASE, size_bytes=10**9))
    plan = plans.plan(topic, SOURCE, Outcome(outputs=SPLITS, facts=facts), {}, None, 0, by_profile)
    assert isinstance(plan, plans.Plan)
    needs = {line: task.needs.memory_bytes for line, task in by_line(plan.submit).items()}
    assert needs == {Line.EVOLVER: 10**10, Line.REINVENTOR: 10**9, Line.BASELINE: 10**9}
    assert plan.submit.facts["needs"]["evaluate"]["memory_bytes"] == 4 * 10**9
    assert plan.submit.facts["needs"]["classify"]["memory_bytes"] == 10**9


def test_a_base_model_stands_before_the_champion_which_is_still_compared_with() -> None:
    submit = planned(TOPIC.evolve(base=BASE), champion(dropout=0.5), 7)
    evolver = by_line(submit)[Line.EVOLVER]
    assert evolver.inputs["base"] == BASE.model
    assert "champion" not in evolver.inputs
    assert submit.facts["champion"] == "c" * 64
    assert submit.facts["champion_revision"] == 7


def test_the_champion_as_base_model_is_a_topic_like_any_other() -> None:
    evolver = by_line(planned(TOPIC.evolve(base=BaseModel(model="c" * 64, task="classify")), champion(dropout=0.5), 7))
    assert evolver[Line.EVOLVER].inputs["champion"] == "c" * 64
    assert "base" not in evolver[Line.EVOLVER].inputs


def test_a_folder_of_another_library_is_refused_before_anything_runs() -> None:
    for form, words in ((ModelFormat.TRANSFORMERS, "a transformers folder"), (ModelFormat.ADAPTER, "a peft adapter")):
        reason = refused(BaseModel(model="b" * 64, name="digits-net", format=form))
        assert f"no executor kind of this mesh goes on training {words}" in reason
        assert "without --base" in reason


def test_a_base_model_that_does_not_fit_is_refused_with_what_differs() -> None:
    assert "asks for 'classify'" not in refused(BaseModel(model="b" * 64, name="digits-net", task="rank"))
    assert "of the kind 'unknown'" in refused(BaseModel(model="b" * 64, name="digits-net"))
    other = BaseModel(model="b" * 64, name="digits-net", task="classify", fits="text")
    assert "reads other data (text) than the topic's (tabular, 64 inputs, unnamed)" in refused(other)
    labels = BaseModel(model="b" * 64, name="digits-net", task="classify", labels=2, label_names=("cat", "dog"))
    assert "knows none of the data's labels ('0', '1', '2' …), only its own ('cat', 'dog')" in refused(labels)


def test_labels_that_are_not_all_named_prove_nothing() -> None:
    topic = TOPIC.evolve(base=BaseModel(model="b" * 64, task="classify", labels=3, label_names=("cat", "dog")))
    assert by_line(planned(topic))[Line.EVOLVER].inputs["base"] == "b" * 64


def test_a_line_that_goes_on_from_a_large_champion_gets_room_for_the_encoder_that_it_may_hold() -> None:
    needs = Needs(memory_bytes=500, disk_bytes=100)
    champion = Champion(
        specialization="s", version_number=1, model="c" * 64, topic="t", task="t-evolver", line=Line.EVOLVER,
        verdict="v", kpis={"size_bytes": 92e6},
    )  # fmt: skip
    assert encoders.going_on(needs, None) == needs
    small = encoders.going_on(needs, champion.evolve(kpis={"size_bytes": 1e6}))
    assert small.memory_bytes == 500 + 2_000_000
    large = encoders.evaluating(needs, None, champion)
    assert large.memory_bytes == 500 + encoders.PROGRAM_BYTES + 184_000_000
    assert large.disk_bytes == 100 + 184_000_000
    named = encoders.evaluating(needs, DataRef(source="e" * 64, size_bytes=1_000), champion)
    assert named.memory_bytes == 500 + encoders.PROGRAM_BYTES + 2_000


# -- searched reinventors, corpora ------------------------------------------------------------------------------------


def known(**more: Any) -> Past:
    return Past(offered=frozenset({"search-step"}), **more)


def test_a_searched_reinventor_waits_for_its_trials_and_stays_one_line() -> None:
    made = plans.plan(TOPIC, SOURCE, PROFILE, {}, None, 0, by_profile, known=known())
    assert isinstance(made, plans.Plan)
    trials = [task for task in made.submit.tasks if task.purpose == "trial"]
    line = by_line(made.submit)[Line.REINVENTOR]
    assert [task.line for task in trials] == [None] * 3
    assert line.after == tuple(task.id for task in trials)
    assert line.regardless  # a trial that is set aside costs the search, not the line
    for task in (*trials, line):
        assert task.executor == "search-step"
        assert task.inputs == {"train": SPLITS["train"], "validation": SPLITS["validation"]}
        assert task.needs.memory_bytes == 900_000_000
    assert sum(task.budget_s for task in (*trials, line)) == TOPIC.budget_s
    assert made.submit.facts["study"]["trials"] == [task.id for task in trials]
    assert line.id == made.submit.facts["lines"]["reinventor"]


def test_a_reinventor_that_goes_on_starts_from_its_own_model_with_room_for_it() -> None:
    curve = tuple((float(t), 0.3 + 2.0 * t**-0.5) for t in range(10, 110, 10))
    last = Candidacy(
        topic="t-0", task="t-0-reinventor", model="9" * 64, settings={"hidden": [64]}, curve=curve,
        cost=Inherited(core_s=100.0), validation=SPLITS["validation"], size_bytes=10**9,
    )  # fmt: skip
    past = known(candidacy=last, rival_loss=0.48, rival_validation=SPLITS["validation"])
    made = plans.plan(TOPIC, SOURCE, PROFILE, {}, champion(), 3, by_profile, known=past)
    assert isinstance(made, plans.Plan)
    tasks = by_line(made.submit)
    assert tasks[Line.REINVENTOR].inputs["champion"] == "9" * 64
    assert tasks[Line.REINVENTOR].settings["hidden"] == [64]
    assert tasks[Line.REINVENTOR].needs.memory_bytes > 2 * 10**9
    assert tasks[Line.EVOLVER].inputs["champion"] == "c" * 64
    assert len(made.submit.tasks) == 3


def test_a_corpus_gets_two_lines_and_no_linear_yardstick() -> None:
    facts = {**FACTS, "task": "language-model", "modality": "corpus", "labels": 0, "label_names": [], "features": 0}
    made = plans.plan(TOPIC, SOURCE, Outcome(outputs=SPLITS, facts=facts), {}, None, 0, by_profile)
    assert isinstance(made, plans.Plan)
    assert [task.line for task in made.submit.tasks] == [Line.EVOLVER, Line.REINVENTOR]
    assert {task.executor for task in made.submit.tasks} == {"language-model"}
    assert made.submit.facts["baseline"] == ""
