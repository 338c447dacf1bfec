"""Why a ready task waits: one cause after another, many workers, many tasks. Figures and words: why_it_waits.txt."""

from __future__ import annotations

import pytest

from mesh import limits
from planner import waiting
from planner.waiting import WORKERS_NAMED_MAX
from tests.support.scheduler_stage import MIB, Stage


def why(stage: Stage, task: str) -> str:
    return stage.mind.why_waits(stage.mind.ledger.tasks[task], stage.now)


def test_only_ready_tasks_wait() -> None:
    stage = Stage()
    stage.run("plan t a")
    stage.run("plan t b after=a")
    assert why(stage, "a") == "no worker is there"
    assert why(stage, "b") == ""
    stage.run("offer w leases=1")
    assert why(stage, "a") == ""


def test_a_question_changes_nothing() -> None:
    stage = Stage()
    stage.run("plan t a memory=9000")
    stage.run("offer w leases=1")
    before = (dict(stage.mind.ledger.tasks), stage.mind.take(), list(stage.mind.workers))
    assert why(stage, "a") == why(stage, "a")
    assert (dict(stage.mind.ledger.tasks), stage.mind.take(), list(stage.mind.workers)) == before
    assert stage.run("offer w leases=1 memory=9000")[0] == "leased a to w.1 epoch 1-1 attempt 1"


def test_a_leader_that_only_listens_says_so() -> None:
    stage = Stage()
    stage.mind.leases_from = 10.0
    stage.run("offer w leases=1")
    stage.run("plan t a")
    assert why(stage, "a") == "the new leader listens 10 s more before it leases"


def test_the_last_failure_stands_behind_the_reason() -> None:
    stage = Stage()
    stage.run("offer w leases=1")
    stage.run("plan t a")
    stage.run("failure w a reason=broken")
    assert why(stage, "a") == "back-off for 1 s after attempt 1 failed; lastly: broken"


def test_a_worker_whose_leases_are_not_all_known_is_busy_and_not_too_small() -> None:
    """A task that was canceled is still held for a moment: what it uses is not known here any more."""
    stage = Stage()
    stage.run("offer w leases=4 memory=1000")
    stage.run("plan t first memory=800")
    stage.run("beat w")
    stage.run("plan t second memory=900")
    assert why(stage, "second") == "w is busy (200 MiB of 1,000 MiB of memory free, 900 MiB needed)"
    stage.workers["w"].deaf = True
    stage.run("cancel task=first")
    stage.run("beat w")
    assert "is busy" in why(stage, "second")


def test_a_worker_is_never_told_too_small_by_a_byte_that_nobody_sees() -> None:
    stage = Stage()
    stage.run("offer w leases=1 memory=100")
    stage.workers["w"].renew(memory_bytes=100 * MIB - 1)
    stage.run("beat w")
    stage.run("plan t a memory=100")
    assert why(stage, "a") == "no worker can take it: w offers 99 MiB of memory, 100 MiB needed"


def test_a_drained_worker_that_is_too_small_is_told_too_small() -> None:
    stage = Stage()
    stage.run("offer w leases=1 memory=100")
    stage.run("drain w")
    stage.run("plan t a memory=200")
    assert why(stage, "a") == "no worker can take it: w offers 100 MiB of memory, 200 MiB needed"


def test_a_worker_that_takes_nothing_now_is_not_busy() -> None:
    stage = Stage()
    stage.run("offer w leases=0")
    stage.run("plan t a")
    assert why(stage, "a") == "no worker takes it now: w takes no more tasks now"


def test_a_few_workers_are_named_and_the_others_counted() -> None:
    stage = Stage()
    for number in range(20):
        stage.run(f"offer w{number:02} leases=1 kinds=noop labels={'x' * 400}")
    stage.run(f"plan t a labels={'y' * 900}")
    sentence = why(stage, "a")
    assert len(sentence) <= limits.TEXT_CHARS_MAX
    assert sentence.endswith("; and 17 more")
    assert sentence.count(" lacks the labels ") == WORKERS_NAMED_MAX
    assert "w02" in sentence
    assert "w03" not in sentence


def test_a_long_failure_does_not_make_the_sentence_too_long() -> None:
    stage = Stage()
    stage.run("offer w leases=1")
    stage.run("plan t a")
    stage.run(f"failure w a reason={'x' * limits.TEXT_CHARS_MAX}")
    assert len(why(stage, "a")) == limits.TEXT_CHARS_MAX


def test_one_answer_looks_at_a_bounded_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOKS_MAX", 7)
    stage = Stage()
    for name in ("w1", "w2", "w3"):
        stage.run(f"offer {name} leases=1 memory=100")
    for size in (1_001, 1_002, 1_003):
        stage.run(f"plan t a{size} memory={size}")
        stage.run(f"plan t b{size} memory={size}")
    waits = stage.mind.waits(stage.now)
    tasks = sorted(stage.mind.ledger.tasks.values(), key=lambda task: task.order)
    told = [bool(stage.mind.why_waits(task, stage.now, waits)) for task in tasks]
    assert told == [True, True, True, True, False, False]


@pytest.mark.parametrize(("policy", "keeps_s"), [("wait=600", 600), ("", 10)])
def test_a_lease_whose_worker_is_silent_says_how_long_it_is_kept(policy: str, keeps_s: int) -> None:
    stage = Stage()
    stage.run("offer w leases=1")
    stage.run(f"plan t a {policy}".strip())
    stage.now += 6.0
    assert why(stage, "a") == "", "three beats may be late"
    stage.now += 2.0
    stage.mind.tick(stage.now)
    assert why(stage, "a") == f"w is silent (8 s): after {keeps_s} s of silence the task goes to another worker"
    stage.run("beat w")
    assert why(stage, "a") == ""
