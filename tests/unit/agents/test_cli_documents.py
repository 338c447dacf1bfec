"""A topic's story, its result document, and how it reads."""

from __future__ import annotations

import functools
import io
import json
import os
from pathlib import Path

import msgspec
import pytest

from agents import cli
from agents.commands import flags, output
from agents.commands.display import LINE_EVERY_S, Lines, sentence
from agents.commands.following import left_alone
from agents.commands.report import exit_code, verdict_text
from agents.commands.result_document import build
from agents.commands.story import ALONE, Ending, Story
from mesh.errors import EnvironmentUnfit
from mesh.messages.base import Epoch, Record
from mesh.messages.judgement import Audit, Candidate, Check, Choice, Comparison, Evidence, Recommendation, Verdict
from mesh.messages.results import (
    Planned,
    Progress,
    RecommendationMade,
    TaskEnded,
    TaskMoved,
    TopicSettled,
    TopicTurnedDown,
)
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic

TOPIC = Topic(id="t-1", text="digits", data=DataRef(source="builtin:digits", name="digits"), published_at_ms=5)
EVOLVER, REINVENTOR = (
    TaskSpec(id=f"t-1-{line.value}", topic="t-1", executor="classify", line=line, purpose="train")
    for line in (Line.EVOLVER, Line.REINVENTOR)
)
CHECK = TaskSpec(id="t-1-check", topic="t-1", executor="evaluate", line=Line.EVOLVER, purpose="check evolver")
PLAN = Planned(
    topic="t-1", specialization="digits-aaaaaa", submit="t-1-plan", tasks=(EVOLVER, REINVENTOR), ledger_seq=3, at_ms=1,
    facts={
        "lines": {"evolver": EVOLVER.id, "reinventor": REINVENTOR.id}, "name": "digits", "parent": "root",
        "examples": 1_797, "champion": "", "why": "under the root: no node was named",
        "changed": {"evolver": "", "reinventor": "from zero"}, "profile": {"splits": {"train": 1_257}},
    },
)  # fmt: skip


def ended(task: TaskSpec, state: TaskState = TaskState.SUCCEEDED, reason: str = "") -> TaskEnded:
    outcome = Outcome(
        outputs={"model": "m" * 64}, kpis={"validation_accuracy": 0.98}, stopped_by="early stop", seconds=9.5
    )
    return TaskEnded(
        topic="t-1", specialization="digits-aaaaaa", task=task, state=state, incarnation="w.1",
        outcome=outcome if state is TaskState.SUCCEEDED else None, reason=reason, attempts=1, ledger_seq=4, at_ms=2,
    )  # fmt: skip


def candidate(line: Line, accuracy: float) -> Candidate:
    evidence = Evidence(claims=100, reproduced=99, rate=0.99, lower=0.95, independent=False, checked_by="w.2")
    return Candidate(
        line=line, task=f"t-1-{line.value}", incarnation="w.1", model=line.value[0] * 64,
        kpis={"accuracy": accuracy, "loss": 0.1, "size_bytes": 2_048.0}, evidence=evidence, stopped_by="budget",
    )  # fmt: skip


def recommendation(choice: Choice = Choice.REINVENTOR) -> Recommendation:
    return Recommendation(
        id="t-1-recommendation", topic="t-1", specialization="digits-aaaaaa", choice=choice, why="it is better.",
        effect=0.02, interval=(0.01, 0.03),
        candidates=(candidate(Line.EVOLVER, 0.97), candidate(Line.REINVENTOR, 0.98)),
        holdout="h" * 64, holdout_examples=180,
        tree={"metric": "accuracy", "value": 0.98, "baseline": 0.98, "baseline_linear": 0.96, "interval": [0.0, 0.04]},
    )  # fmt: skip


def verdict(accepted: bool = True, choice: Choice = Choice.REINVENTOR) -> Verdict:
    check = Check(name="accuracy", passed=accepted, value=0.98, bound=0.9, why="0.98 is at least 0.9")
    return Verdict(
        id="t-1-verdict", topic="t-1", specialization="digits-aaaaaa", accepted=accepted, choice=choice,
        checks=(check,), why="all checks passed.", recommendation=recommendation(choice),
        champion="r" * 64 if accepted else "", champion_version=1 if accepted else 0, decided_at_ms=9,
    )  # fmt: skip


def story(*records: Record) -> Story:
    told = Story("t-1")
    for record in records:
        told.add(record)
    return told


SETTLED = TopicSettled(
    topic="t-1", specialization="digits-aaaaaa", why="It stays whole: its data is a table of numbers.",
    facts={"champion": "r" * 64, "branches": 1}, ledger_seq=9, at_ms=4,
)  # fmt: skip

WHOLE = (
    PLAN, ended(EVOLVER), ended(REINVENTOR), ended(CHECK),
    RecommendationMade(
        topic="t-1", specialization="digits-aaaaaa", recommendation=recommendation(), ledger_seq=8, at_ms=3
    ),
    verdict(), SETTLED,
)  # fmt: skip


def test_a_story_ends_when_it_is_settled_and_not_with_the_verdict_before() -> None:
    told = story(*WHOLE[:-1])
    assert told.ending() is None
    assert told.next_hand()[0] == "planner"
    assert told.add(SETTLED)
    assert told.ending() is Ending.VERDICT
    assert not told.add(SETTLED.evolve(topic="t-2"))


def test_a_story_in_which_both_lines_fail_ends_without_a_verdict() -> None:
    told = story(PLAN, ended(EVOLVER, TaskState.PARKED, "NaN in step 3."), ended(REINVENTOR))
    assert told.ending() is None, "one line is enough to go on"
    told = story(
        PLAN, ended(EVOLVER, TaskState.PARKED, "NaN in step 3."), ended(REINVENTOR, TaskState.CANCELED, "enough")
    )
    assert told.ending() is Ending.FAILED
    assert told.why_failed() == "t-1-evolver was parked: NaN in step 3; t-1-reinventor was canceled: enough"


def test_a_parked_line_that_is_started_again_is_open_again() -> None:
    def moved(ledger_seq: int) -> TaskMoved:
        return TaskMoved(topic="t-1", task=EVOLVER.id, state=TaskState.READY, ledger_seq=ledger_seq, at_ms=1)

    told = story(PLAN, ended(EVOLVER, TaskState.PARKED, "NaN"), ended(REINVENTOR, TaskState.PARKED, "NaN"))
    assert told.ending() is Ending.FAILED
    told.add(moved(3))  # an old one, told late
    assert told.ending() is Ending.FAILED
    told.add(moved(9))
    assert told.ending() is None


def test_a_canceled_profile_ends_the_story_and_a_check_is_no_line() -> None:
    profile = TaskSpec(id="t-1-profile", topic="t-1", executor="profile")
    assert story(ended(profile, TaskState.CANCELED, "x")).ending() is Ending.FAILED
    assert story(ended(profile)).ending() is None
    assert story(ended(CHECK)).line(Line.EVOLVER) is None


def test_the_document_has_every_field_with_measured_values() -> None:
    document = build(TOPIC, story(*WHOLE), seconds=12.3456, ending=Ending.VERDICT)
    json.dumps(document, allow_nan=False)
    assert document["seconds"] == 12.346
    assert document["ending"] == "verdict"
    assert document["topic"]["id"] == "t-1"
    (found,) = document["specializations"]
    assert (found["id"], found["name"], found["parent"], found["examples"]) == (
        "digits-aaaaaa",
        "digits",
        "root",
        1_797,
    )
    line = found["lines"]["evolver"]
    assert line["kpis"]["accuracy"] == 0.97
    assert line["kpis"]["validation_accuracy"] == 0.98
    assert (line["task"], line["worker"], line["stopped_by"]) == ("t-1-evolver", "w.1", "budget")
    assert found["lines"]["reinventor"]["changed"] == "from zero"
    assert found["evidence"]["rate"] == 0.99
    assert found["evidence"]["lower"] == 0.95
    assert found["evidence"]["independent"] is False
    assert found["recommendation"]["choice"] == "reinventor"
    assert found["recommendation"]["interval"] == [0.01, 0.03]
    assert found["verdict"]["accepted"] is True
    assert found["verdict"]["checks"][0]["name"] == "accuracy"
    assert found["champion"] == {"model": "r" * 64, "version": 1, "promoted": True}
    assert document["tree"] == {
        "metric": "accuracy", "value": 0.98, "baseline": 0.98, "baseline_linear": 0.96, "interval": [0.0, 0.04],
        "holdout_examples": 180, "against": "baseline_linear", "branches": 1, "routed": None, "promoted": False,
        "merged_back": False, "recommendation": None, "verdict": None, "why": SETTLED.why,
    }  # fmt: skip
    assert (found["topic"], found["state"]) == ("t-1", "active")


def test_a_training_that_went_on_elsewhere_says_what_differed() -> None:
    whole = ended(EVOLVER)
    assert whole.outcome is not None
    differed: list[object] = ["processor: A avx2, now B avx512f", "threads: 1, now 2"]
    outcome = msgspec.structs.replace(whole.outcome, exact=False, facts={"fingerprint": differed})
    elsewhere = msgspec.structs.replace(whole, outcome=outcome)
    assert sentence(elsewhere).endswith("; resumed elsewhere, not exact: " + "; ".join(map(str, differed)))
    found = build(TOPIC, story(PLAN, elsewhere, ended(REINVENTOR)), seconds=1, ending=Ending.FAILED)
    lines = found["specializations"][0]["lines"]
    assert (lines["evolver"]["exact"], lines["evolver"]["differed"]) == (False, differed)
    assert (lines["reinventor"]["exact"], lines["reinventor"]["differed"]) == (True, [])
    strange = msgspec.structs.replace(whole.outcome, exact=False, facts={"fingerprint": 7})
    assert "the machines differ" in sentence(msgspec.structs.replace(whole, outcome=strange))


def test_what_is_not_known_is_null() -> None:
    document = build(TOPIC, story(PLAN), seconds=1, ending=Ending.INTERRUPTED)
    (found,) = document["specializations"]
    assert found["lines"] == {"evolver": None, "reinventor": None}
    assert [found[name] for name in ("evidence", "recommendation", "verdict", "champion")] == [None] * 4
    assert document["tree"] is None
    turned = story(TopicTurnedDown(topic="t-1", reason="row 7 has no label.", ledger_seq=1, at_ms=1))
    document = build(TOPIC, turned, seconds=1, ending=Ending.TURNED_DOWN)
    assert (document["specializations"], document["reason"]) == ([], "row 7 has no label.")


def test_a_kept_champion_shows_the_better_lines_evidence_and_the_model_that_stays() -> None:
    plan = PLAN.evolve(facts={**PLAN.facts, "champion": "c" * 64})
    told = story(plan, ended(EVOLVER), ended(REINVENTOR), verdict(accepted=False, choice=Choice.KEEP))
    (found,) = build(TOPIC, told, seconds=1, ending=Ending.VERDICT)["specializations"]
    assert found["evidence"]["checked_by"] == "w.2"
    assert found["champion"] == {"model": "c" * 64, "version": None, "promoted": False}


def test_a_failed_task_is_listed_with_its_reason() -> None:
    told = story(PLAN, ended(EVOLVER, TaskState.PARKED, "NaN"), ended(REINVENTOR), verdict())
    (failure,) = build(TOPIC, told, seconds=1, ending=Ending.VERDICT)["failures"]
    assert (failure["task"], failure["state"], failure["reason"]) == ("t-1-evolver", "parked", "NaN")


def test_the_end_reads_well_and_says_how_to_go_on() -> None:
    text = verdict_text(story(*WHOLE), Ending.VERDICT)
    for words in (
        "recommendation: reinventor",
        "+0.0200",
        "verdict: accepted",
        "models pull digits-aaaaaa",
        "same worker",
    ):
        assert words in text
    assert "bin/agent watch t-1" in verdict_text(story(PLAN), Ending.INTERRUPTED)
    assert "row 7" in verdict_text(
        story(TopicTurnedDown(topic="t-1", reason="row 7", ledger_seq=1, at_ms=1)), Ending.TURNED_DOWN
    )


def test_a_single_task_is_the_whole_story() -> None:
    task = TaskSpec(id="t-1", topic="t-1", executor="noop")
    planned = Planned(
        topic="t-1", submit="t-1", specialization="", tasks=(task,), facts={"stage": ALONE}, ledger_seq=1, at_ms=1
    )
    told = story(planned)
    assert told.ending() is None
    assert told.next_hand()[0] == "scheduler"
    told.add(ended(task))
    assert told.ending() is Ending.DONE
    assert story(planned, ended(task, TaskState.PARKED, "no room")).ending() is Ending.FAILED


def test_every_ending_has_its_exit_code() -> None:
    assert [exit_code(ending) for ending in Ending] == [0, 5, 7, 130, 0]


def test_who_is_missing_is_named() -> None:
    assert "planner" in left_alone(story(), 60)
    assert "consensus" in left_alone(story(PLAN), 60)
    assert "gate" in left_alone(story(*WHOLE[:-2]), 60)
    assert "no planner has said what becomes of the verdict" in left_alone(story(*WHOLE[:-1]), 60)


# -- lines ------------------------------------------------------------------------------------------------------------


def test_plain_lines_of_progress_are_rationed_per_task() -> None:
    now, stream = [0.0], io.StringIO()
    lines = Lines(stream, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        for task in ("a", "b"):
            lines.progress(
                Progress(
                    topic="t-1", task=task, epoch=Epoch(0, 1), worker="w", line=Line.EVOLVER, purpose="train",
                    done=0.5, metrics={"loss": 0.25, "validation_loss": 0.5, "examples_per_s": 12_345.0},
                )
            )  # fmt: skip
    shown = stream.getvalue().splitlines()
    assert len(shown) == 2 * (1 + int(11 // LINE_EVERY_S))
    assert shown[0] == "evolver train  50%  loss 0.25  validation loss 0.5  examples/s 12,345"


def test_every_record_has_its_sentence_or_none() -> None:
    moved = TaskMoved(
        topic="t-1", task="t-1-evolver", state=TaskState.LEASED, incarnation="w.1", line=Line.EVOLVER, purpose="train",
        ledger_seq=1, at_ms=1,
    )  # fmt: skip
    assert sentence(moved) == "evolver train runs on w.1"
    assert "1797 examples" in sentence(PLAN)
    assert "budgets" not in sentence(PLAN)
    shifted = {**PLAN.facts, "shares": {"evolver": 0.6, "why": "evolver 60%, for it won"}}
    assert sentence(PLAN.evolve(facts=shifted)).endswith("; budgets: evolver 60%, for it won")
    assert sentence(ended(EVOLVER)).startswith(
        "evolver train done in 9.5 s, stopped by early stop (validation accuracy"
    )
    assert sentence(ended(CHECK, TaskState.PARKED, "bad")) == "check evolver parked: bad"
    assert sentence(verdict(False)).startswith("the gate rejects")


def test_what_others_wrote_can_not_move_the_cursor() -> None:
    stream = io.StringIO()
    Lines(stream).note("a\x1b[2Jb\nc")
    assert stream.getvalue() == "a?[2Jb?c\n"
    assert "\x1b" not in output.table(("x",), [("\x1b[31m",)])


# -- output -----------------------------------------------------------------------------------------------------------


def test_a_table_is_aligned_numbers_to_the_right() -> None:
    text = output.table(("name", "count"), [("a", 5), ("longer", 12_345)])
    assert text.splitlines() == ["name    count", "a           5", "longer  12345"]
    assert output.table(("name", "count"), []) == "name  count"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.123456, "0.1235"), (123_456.7, "123,457"), (None, "-"), (float("nan"), "nan"), (0.0, "0")],
)
def test_numbers_are_short(value: float | None, wanted: str) -> None:
    assert output.number(value) == wanted


def test_what_the_audit_split_said_stands_beside_the_verdict() -> None:
    audit = Audit(
        id="t-1-audit", topic="t-1", specialization="digits-aaaaaa", verdict="t-1-verdict", audit="a" * 64, looks=2,
        comparisons=(Comparison(a="after", b="before", metric="accuracy", effect=-0.1, low=-0.2, high=-0.05,
                                p_value=0.01, items=90),),
        worse=True, why="The promoted model is significantly worse on the audit split.", items=90,
    )  # fmt: skip
    (found,) = build(TOPIC, story(*WHOLE, audit), seconds=1.0, ending=Ending.VERDICT)["specializations"]
    assert found["verdict"]["audit"] == {
        "worse": True, "metric": "accuracy", "effect": -0.1, "interval": [-0.2, -0.05], "items": 90, "looks": 2,
        "why": audit.why,
    }  # fmt: skip
    assert f"audit: {audit.why}" in verdict_text(story(*WHOLE, audit), Ending.VERDICT)
    (without,) = build(TOPIC, story(*WHOLE), seconds=1.0, ending=Ending.VERDICT)["specializations"]
    assert without["verdict"]["audit"] is None


def test_a_document_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    output.write_json(str(target), {"a": float("nan"), "b": [float("inf"), 1.5], "c": PLAN})
    found = json.loads(target.read_text())
    assert found["a"] is None
    assert found["b"] == [None, 1.5]
    with pytest.raises(TypeError):
        output.write_json(str(target), {"a": object()})
    assert json.loads(target.read_text()) == found
    assert list(tmp_path.iterdir()) == [target]


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        output.write_json(str(pipe), {"a": 1})
        assert json.loads(os.read(reader, 1_000)) == {"a": 1}
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_to_keep_a_champion_is_no_promotion() -> None:
    kept = keeping()
    (found,) = build(TOPIC, story(*WHOLE[:-1], kept), seconds=1.0, ending=Ending.VERDICT)["specializations"]
    assert found["champion"] == {"model": "b" * 64, "version": 3, "promoted": False}
    text = verdict_text(story(*WHOLE[:-1], kept), Ending.VERDICT)
    assert "verdict: accepted, the champion stays" in text
    assert "accepts to keep the champion" in sentence(kept)


def keeping() -> Verdict:
    return Verdict(
        id="t-1-verdict", topic="t-1", specialization="digits-aaaaaa", accepted=True, choice=Choice.KEEP, checks=(),
        why="no candidate is better.", recommendation=recommendation(Choice.KEEP), champion="b" * 64,
        champion_version=3, decided_at_ms=9,
    )  # fmt: skip


def test_a_proposed_line_leads_to_the_same_mesh() -> None:
    given = cli.parser_of("run", cli.load("run")).parse_args(
        ["x", "--home", "my home", "-s", "nats://me:secret@h:1", "--password", "hunter2"]
    )
    text = verdict_text(story(*WHOLE), Ending.VERDICT, functools.partial(flags.again, given))
    assert "models pull digits-aaaaaa DIR --server 'nats://********@h:1' --home 'my home'" in text
    assert "hunter2" not in text


def test_a_folder_is_no_file_for_a_document(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match="is a folder"):
        output.check_target(str(tmp_path))
    output.check_target("-")
    output.check_target(None)
    output.check_target(str(tmp_path / "new.json"))
