"""Topics that ask for adapters: their base, their lines, and what they are measured by."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from executors import kinds
from mesh.messages.base import Facts
from mesh.messages.commands import Refuse, Submit
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.tasks import Line, Outcome, TaskSpec
from mesh.messages.topics import DataRef, Topic
from planner import bases, branching, plans, profile
from planner.graph import Source
from planner.past import Candidacy, Past
from tests.unit.planner.test_plans import FACTS, SPLITS, by_profile

BASE = BaseModel(
    model="b" * 64, name="my-llama", format=ModelFormat.TRANSFORMERS, size_bytes=400_000_000,
    architecture="LlamaForCausalLM",
)  # fmt: skip
DATA = DataRef(source="d" * 64, name="questions.csv", size_bytes=1_000_000)
SOURCE = Source(DATA, None, None)
TOPIC = Topic(id="intents-0a1b2c3d", text="intents", data=DATA, task="lora", base=BASE, budget_s=40.0)

TEXTS: Facts = {**FACTS, "task": "lora", "modality": "text", "features": 0}
CORPUS: Facts = {**TEXTS, "modality": "corpus", "labels": 0, "label_names": [], "label_column": ""}
OFFERED = frozenset({"search-step", "lora"})


def champion(**fields: Any) -> Champion:
    values: dict[str, Any] = {
        "specialization": "x", "version_number": 1, "model": "c" * 64, "topic": "t", "task": "t-evolver",
        "line": Line.EVOLVER, "verdict": "v", "base": BASE.model, "fits": "text",
        "settings": {"task": "classify", "rank": 4, "learning_rate": 5e-4},
    }  # fmt: skip
    return Champion(**{**values, **fields})


def planned(
    facts: Facts = TEXTS, before: Champion | None = None, topic: Topic = TOPIC, known: Past | None = None,
    estimate: plans.Estimate = by_profile,
) -> Submit:  # fmt: skip
    made = plans.plan(
        topic, SOURCE, Outcome(outputs=SPLITS, facts=facts), {}, before, 1 if before is not None else 0, estimate,
        known=known or Past(),
    )  # fmt: skip
    assert isinstance(made, plans.Plan), made
    return made.submit


def lines(submit: Submit) -> dict[Line | None, TaskSpec]:
    return {task.line: task for task in submit.tasks}


def test_the_profile_is_told_what_is_wanted() -> None:
    submit = plans.profile_submit(TOPIC, SOURCE)
    assert isinstance(submit, Submit)
    assert submit.tasks[0].settings["task"] == "lora"


def test_without_a_base_or_with_one_that_takes_no_adapter_a_sentence_says_what_to_do() -> None:
    refused = plans.profile_submit(TOPIC.evolve(base=None), SOURCE)
    assert isinstance(refused, Refuse)
    assert "models push DIR" in refused.reason
    assert "--base" in refused.reason
    for form in (ModelFormat.RAMIFY, ModelFormat.ADAPTER):
        refused = plans.profile_submit(TOPIC.evolve(base=msgspec.structs.replace(BASE, format=form)), SOURCE)
        assert isinstance(refused, Refuse)
        assert "an adapter is put on a transformers folder" in refused.reason
    assert "--task lora" in bases.why_never(BASE, None), "who did not ask for an adapter is told of them"


def test_plain_text_needs_a_base_that_foretells() -> None:
    encoder = msgspec.structs.replace(BASE, architecture="BertModel")
    outcome = Outcome(outputs=SPLITS, facts=CORPUS)
    refused = plans.plan(TOPIC.evolve(base=encoder), SOURCE, outcome, {}, None, 0, by_profile)
    assert isinstance(refused, Refuse)
    assert "BertModel, which foretells no text" in refused.reason
    planned(topic=TOPIC.evolve(base=encoder))
    planned(CORPUS, topic=TOPIC.evolve(base=msgspec.structs.replace(BASE, architecture="GPT2LMHeadModel")))


def test_every_line_adapts_the_same_base_and_says_what_it_learns() -> None:
    submit = planned()
    found = lines(submit)
    assert [found[line].executor for line in (Line.EVOLVER, Line.REINVENTOR)] == ["lora", "lora"]
    for line in (Line.EVOLVER, Line.REINVENTOR):
        assert found[line].inputs == {"train": SPLITS["train"], "validation": SPLITS["validation"], "base": BASE.model}
        assert found[line].settings["task"] == "classify"
    assert found[Line.EVOLVER].settings == {"task": "classify"}
    assert found[Line.REINVENTOR].settings["rank"] in (4, 8, 16, 32)
    assert found[Line.BASELINE].inputs.keys() == {"train", "validation"}, "the linear model adapts nothing"
    assert submit.facts["baseline"] == found[Line.BASELINE].id
    assert submit.facts["yardstick"] == ""
    assert "an adapter to the base model my-llama" in submit.facts["changed"]["evolver"]


def test_of_plain_text_the_base_itself_is_the_yardstick() -> None:
    submit = planned(CORPUS)
    assert Line.BASELINE not in lines(submit)
    assert (submit.facts["baseline"], submit.facts["yardstick"]) == ("", BASE.model)
    assert lines(submit)[Line.EVOLVER].settings == {"task": "language-model"}
    assert "tokenizer" not in lines(submit)[Line.REINVENTOR].inputs


def test_the_evolver_goes_on_from_the_champions_adapter_whose_rank_never_falls() -> None:
    submit = planned(before=champion())
    evolver = lines(submit)[Line.EVOLVER]
    assert evolver.inputs["champion"] == "c" * 64
    assert evolver.inputs["base"] == BASE.model
    assert evolver.settings["rank"] in (4, 8)
    assert evolver.settings["learning_rate"] < 5e-4
    assert "learning_rate" in submit.facts["changed"]["evolver"]
    assert "champion" not in lines(submit)[Line.REINVENTOR].inputs


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"base": "e" * 64}, "an adapter to another one (eeeeeeeeeeee)"),
        ({"fits": "corpus"}, "reads other data (corpus)"),
    ],
)
def test_a_champion_on_another_base_or_other_data_is_not_gone_on_from(other: Facts, why: str) -> None:
    submit = planned(before=champion(**other))
    evolver = lines(submit)[Line.EVOLVER]
    assert "champion" not in evolver.inputs
    assert evolver.settings == {"task": "classify"}
    assert why in submit.facts["changed"]["evolver"]
    assert submit.facts["champion"] == "c" * 64, "it is challenged all the same"


def test_the_reinventor_goes_on_with_a_candidate_of_the_same_base_only() -> None:
    def last(base: str) -> Past:
        before = Candidacy(
            topic="t0", task="t0-reinventor", model="f" * 64, settings={"task": "classify"},
            curve=tuple((float(t), 0.2 + 1.0 / t**0.5) for t in range(1, 12)), cost=Past().champion,
            validation=SPLITS["validation"], base=base,
        )  # fmt: skip
        return Past(candidacy=before, rival_validation=SPLITS["validation"], rival_loss=0.3)

    assert "adapter to another model" in planned(known=last("e" * 64)).facts["extrapolated"]
    assert "adapter to another model" not in planned(known=last(BASE.model)).facts["extrapolated"]


def test_a_search_knows_what_all_its_trials_share() -> None:
    submit = planned(topic=TOPIC.evolve(budget_s=100.0), known=Past(offered=OFFERED))
    trials = [task for task in submit.tasks if task.purpose == "trial"]
    assert len(trials) == 3
    for task in (*trials, lines(submit)[Line.REINVENTOR]):
        assert task.executor == "search-step"
        assert task.inputs["base"] == BASE.model
        assert task.settings["fixed"] == {"task": "classify"}


def test_the_kinds_accept_what_is_planned_and_ask_for_room_for_the_base() -> None:
    facts = {**TEXTS, "needs": {"evaluate": {"memory_bytes": 600_000_000}}}
    submit = planned(facts, estimate=kinds.needs_of)
    for line in (Line.EVOLVER, Line.REINVENTOR):
        task = lines(submit)[line]
        assert kinds.needs_of("lora", task.settings, {}) is not None
        assert task.needs.memory_bytes > BASE.size_bytes + 460 * 1024 * 1024
    assert submit.facts["needs"]["evaluate"]["memory_bytes"] > 2 * BASE.size_bytes


def test_an_adapter_is_a_specialization_of_its_own_that_stays_whole() -> None:
    whole = {**TEXTS, "task": "classify"}
    assert planned().specialization != planned(whole, topic=TOPIC.evolve(task=None, base=None)).specialization
    answer = branching.may_branch(TOPIC, 0, None, None, canceled=False)  # type: ignore[arg-type]
    assert not answer.may
    assert "adapters" in answer.why


def test_a_profile_of_a_table_is_none_for_an_adapter() -> None:
    outcome = Outcome(outputs=SPLITS, facts={**FACTS, "task": "lora"})
    refused = plans.plan(TOPIC, SOURCE, outcome, {}, None, 0, by_profile)
    assert isinstance(refused, Refuse)
    assert "no tables" in refused.reason
    assert profile.ADAPTER == "lora"
