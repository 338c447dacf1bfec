"""The journal of a study: one order for all, nothing twice, nothing from a deposed attempt, patience, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from executors.port import Stopped
from mesh import codec, limits
from mesh.errors import Retry, TaskRefused
from mesh.messages.base import Epoch
from mesh.messages.studies import StudyEntry
from tests.support import studies
from tests.support.studies import SUBJECTS, Desk

optuna.logging.set_verbosity(optuna.logging.ERROR)

BEGIN = {"op_code": 0, "worker_id": "x", "study_name": "n", "directions": [1]}


def noted(number: int, worker: str = "x") -> dict[str, object]:
    return {"op_code": 2, "worker_id": worker, "study_id": 0, "user_attr": {"n": number}}


@pytest.fixture
def desk() -> Iterator[Desk]:
    with studies.desk() as made:
        yield made


def test_what_is_appended_is_read_from_any_number_on(desk):
    journal = desk.child("a").journal()
    journal.append_logs([BEGIN, noted(1), noted(2)])
    assert list(journal.read_logs(0)) == [BEGIN, noted(1), noted(2)]
    assert list(journal.read_logs(2)) == [noted(2)]
    assert list(desk.child("b").journal().read_logs(1)) == [noted(1), noted(2)]


def test_children_side_by_side_see_one_order(desk):
    first = desk.child("begin").journal()
    first.append_logs([BEGIN])
    journals = [desk.child(f"t{number}").journal() for number in range(3)]

    def write(number: int) -> None:
        for turn in range(25):
            journals[number].append_logs([noted(turn, worker=f"w{number}")])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    seen = [list(journal.read_logs(0)) for journal in (first, *journals)]
    assert len(seen[0]) == 76
    assert all(one == seen[0] for one in seen)
    for number in range(3):
        own = [one["user_attr"]["n"] for one in seen[0] if one["worker_id"] == f"w{number}"]
        assert own == list(range(25))


def test_more_than_one_page_is_read_to_its_end(desk, monkeypatch):
    monkeypatch.setattr(limits, "STUDY_PAGE_ENTRIES_MAX", 4)
    journal = desk.child("a").journal()
    journal.append_logs([BEGIN, *(noted(number) for number in range(10))])
    assert len(list(desk.child("b").journal().read_logs(0))) == 11


def test_an_entry_whose_answer_was_lost_stands_there_once(desk):
    child = desk.child("a", lose=lambda number: number % 2 == 1)
    journal = child.journal()
    journal.append_logs([BEGIN, noted(1), noted(2)])
    assert list(journal.read_logs(0)) == [BEGIN, noted(1), noted(2)]
    assert [json.loads(one) for one in desk.operations()] == [BEGIN, noted(1), noted(2)]
    assert child.questions > 3


def test_a_broker_that_is_away_is_waited_for_with_signs_of_life(desk):
    child = desk.child("a", away=lambda number: number < 6)
    journal = child.journal()
    journal.append_logs([BEGIN])
    assert len(desk.stored()) == 1
    assert [phase for *_, phase in child.reports] == ["waiting for the study"] * 5


def test_patience_ends(desk):
    times = iter(range(0, 100_000, 100))
    child = desk.child("a", away=lambda number: True)
    with pytest.raises(Retry, match="could not be reached for 300 s: the broker is away"):
        child.journal(clock=lambda: float(next(times))).append_logs([BEGIN])
    assert child.questions == 3


def test_who_waits_can_be_stopped(desk):
    child = desk.child("a", away=lambda number: True, stop=lambda polls: "stop" if polls == 3 else "")
    with pytest.raises(Stopped):
        child.journal().append_logs([BEGIN])


def test_what_a_deposed_attempt_writes_does_not_count(desk):
    old = desk.child("a", 1).journal()
    old.append_logs([BEGIN, noted(1)])
    new = desk.child("a", 2).journal()
    new.append_logs([noted(2)])
    with pytest.raises(Retry, match="newer attempt of a"):
        old.append_logs([noted(3)])
    other = desk.child("b").journal()
    assert len(desk.stored()) == 4
    assert list(new.read_logs(0)) == list(other.read_logs(0)) == [BEGIN, noted(1), noted(2)]


def test_what_is_no_entry_is_passed_over(desk):
    journal = desk.child("a").journal()
    journal.append_logs([BEGIN])
    strays = [
        (SUBJECTS.study_entry("w", "s", "b", Epoch(1, 1), "x-1"), b"\x00nothing"),
        (SUBJECTS.study_entry("w", "s", "b", Epoch(1, 1), "x-2"), entry("a", 9, json.dumps(noted(7)))),
        (SUBJECTS.study_entry("w", "s", "b", Epoch(1, 1), "x-3"), entry("b", 1, "no json")),
        (SUBJECTS.study_entry("w", "s", "b", Epoch(1, 1), "x-4"), entry("b", 1, '{"op_code": 99, "worker_id": "x"}')),
        (SUBJECTS.study_entry("w", "s", "b", Epoch(1, 1), "x-5"), entry("b", 1, "[" * 5_000)),
        (SUBJECTS.study_entry("v", "s", "b", Epoch(1, 1), "x-6"), entry("b", 1, json.dumps(noted(8)))),
    ]
    for subject, data in strays:
        desk.wait(desk.broker.append(subject, data))
    journal.append_logs([noted(1)])
    assert list(journal.read_logs(0)) == [BEGIN, noted(1)]


def entry(task: str, count: int, text: str) -> bytes:
    return codec.encode(StudyEntry(task=task, epoch=Epoch(1, count), by="w.1", entry=text))


def test_a_full_study_and_a_long_entry_are_refused(desk, monkeypatch):
    journal = desk.child("a").journal()
    journal.append_logs([BEGIN])
    with pytest.raises(TaskRefused, match="may have 16384 bytes"):
        journal.append_logs([{**noted(1), "user_attr": {"n": "x" * 20_000}}])
    monkeypatch.setattr(limits, "STUDY_ENTRIES_MAX", 2)
    journal.append_logs([noted(1)])
    with pytest.raises(TaskRefused, match="is full, it has 2 entries"):
        journal.append_logs([noted(2)])


def test_a_study_whose_beginning_is_gone_is_refused(desk):
    desk.child("a").journal().append_logs([BEGIN, noted(1)])
    desk.wait(desk.broker.purge("MESH_STUDIES", below_seq=2))
    with pytest.raises(TaskRefused, match="beginning of the study 's' is not kept"):
        list(desk.child("b").journal().read_logs(0))


def test_a_name_that_is_no_name_is_refused(desk):
    with pytest.raises(TaskRefused, match="can not be used"):
        list(desk.child("a").journal("no.name").read_logs(0))


def test_optuna_s_own_storage_works_over_it_and_two_processes_agree(desk):
    """The contract that Optuna's JournalStorage asks of a backend: its own study, trials, values and attributes."""
    storages = [JournalStorage(desk.child(name).journal()) for name in ("a", "b")]
    studies_ = [optuna.create_study(storage=one, study_name="n", load_if_exists=True) for one in storages]
    asked = [study.ask() for study in studies_ for _ in range(2)]
    assert sorted(trial.number for trial in asked) == [0, 1, 2, 3]
    for trial in asked:
        x = trial.suggest_float("x", -1.0, 1.0)
        trial.suggest_categorical("c", ["p", "q"])
        trial.report(x, 1)
        trial.set_user_attr("who", trial.number)
    studies_[0].tell(asked[0], 0.5)
    studies_[1].tell(asked[3], state=TrialState.PRUNED)
    seen = [[plain(trial) for trial in study.get_trials()] for study in studies_]
    assert seen[0] == seen[1]
    assert [one[1] for one in seen[0]] == ["COMPLETE", "RUNNING", "RUNNING", "PRUNED"]
    assert studies_[1].best_trial.number == 0


def plain(trial: optuna.trial.FrozenTrial) -> tuple[object, ...]:
    return trial.number, trial.state.name, trial.params, trial.intermediate_values, trial.user_attrs, trial.value
