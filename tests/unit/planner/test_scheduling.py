"""The mind under random lives: leases, silence, deaths, late writes. Watched from outside, seeded, in virtual time."""

from __future__ import annotations

import random

import pytest

from mesh import limits
from mesh.messages.base import Epoch
from mesh.messages.commands import Cancel, Settle
from mesh.messages.ledger import (
    CheckpointRecorded,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskReopened,
    TaskSucceeded,
)
from mesh.messages.results import TopicSettled
from mesh.messages.tasks import TaskState
from planner.ledger import Ledger
from planner.scheduling import Policy, Scheduler
from tests.support.scheduler_stage import Stage, StagedWorker

WORKERS = ("w1", "w2", "w3")
STEPS = 250


def live(seed: int) -> Stage:
    """A random life of a small mesh."""
    chance = random.Random(seed)
    stage = Stage()
    planned = 0
    for name in WORKERS:
        stage.run(f"offer {name} leases=2 cores=2")
    for _ in range(STEPS):
        name = chance.choice(WORKERS)
        worker = stage.workers[name]
        held = sorted(worker.held)
        roll = chance.random()
        if roll < 0.15:
            planned += 1
            after = f" after=task{chance.randrange(1, planned)}" if planned > 1 and chance.random() < 0.2 else ""
            wait = " wait=30" if chance.random() < 0.2 else ""
            needs = f" input={chance.choice('abc')}" if chance.random() < 0.3 else ""
            stage.run(f"plan t{planned % 3} task{planned} priority={chance.randrange(10)}{after}{wait}{needs}")
        elif roll < 0.45:
            stage.run(f"beat {name}")
        elif roll < 0.65:
            silent = chance.choice([(), (name,), WORKERS[:2]])
            beating = [other for other in WORKERS if other not in silent]
            stage.run(f"advance {chance.choice([1, 2, 5, 15])} {' '.join(beating)}")
        elif roll < 0.70:
            stage.run(f"restart {name}")
            stage.run(f"offer {name} leases=2 cores=2")
        elif roll < 0.73:
            stage.run(f"gone {name} code={chance.choice([0, -9])}")
            stage.run(f"restart {name}")
            stage.run(f"offer {name} leases=2 cores=2")
        elif held and roll < 0.80:
            stage.run(f"checkpoint {name} {held[0]} number={chance.randrange(1, 9)}")
        elif held and roll < 0.88:
            task = chance.choice(held)
            stage.run(f"result {name} {task}")
            stage.run(f"beat {name} owed={task}")
        elif held and roll < 0.94:
            missing = f" missing={chance.choice('abc')}" if chance.random() < 0.5 else ""
            stage.run(f"failure {name} {held[0]} class={chance.choice(['retry', 'memory', 'retry'])}{missing}")
            lose(stage, chance)
        elif held and roll < 0.96:
            stage.run(f"give-back {name} {held[0]}")
        elif planned and roll < 0.98:
            stage.run(f"cancel task=task{chance.randrange(1, planned + 1)}")
        elif planned:
            # A late or foreign write, under an epoch that may be over.
            task, epoch = f"task{chance.randrange(1, planned + 1)}", f"1-{chance.randrange(1, 4)}"
            stage.run(f"result {name} {task} epoch={epoch} writer={chance.choice(WORKERS)}")
    return stage


def lose(stage: Stage, chance: random.Random) -> None:
    """The output of some ended task is found to be lost, and was perhaps made anew since."""
    ended = sorted({event.task for event in stage.events if isinstance(event, TaskSucceeded)})
    if ended:
        task = chance.choice(ended)
        result = chance.choice(["", "", " result=1"])
        stage.run(f"found t{int(task.removeprefix('task')) % 3} {chance.choice('abc')} task={task}{result}")


def check(stage: Stage) -> None:
    """The promises, from the events alone: a second, simple account."""
    holder: dict[str, tuple[Epoch, str]] = {}
    highest: dict[str, Epoch] = {}
    over: set[str] = set()
    for event in stage.events:
        name = getattr(event, "task", "")
        if isinstance(event, TaskReopened):
            over.remove(name)  # it had succeeded
        assert name not in over, f"{event} after the end of {name}"
        match event:
            case TaskLeased():
                assert name not in holder, f"{name} is leased twice"
                assert event.epoch > highest.get(name, Epoch(0, 0)), f"epoch of {name} does not rise"
                holder[name], highest[name] = (event.epoch, event.incarnation), event.epoch
            case CheckpointRecorded() | LeaseEnded():
                assert holder[name][0] == event.epoch
                if isinstance(event, LeaseEnded):
                    del holder[name]
            case TaskSucceeded():
                assert holder.pop(name) == (event.epoch, event.incarnation)
                over.add(name)
            case TaskParked() | TaskCanceled():
                holder.pop(name, None)
                over.add(name)


@pytest.mark.parametrize("seed", range(60))
def test_promises_hold_over_random_lives(seed: int) -> None:
    stage = live(seed)
    check(stage)
    again = Ledger()
    for event in stage.events:
        again.apply(event)
    assert again.tasks == stage.mind.ledger.tasks
    assert again.dependents == stage.mind.ledger.dependents
    assert all(name in again.tasks for waiting in again.dependents.values() for name in waiting)


@pytest.mark.parametrize("seed", range(20))
def test_every_task_ends_once_workers_behave(seed: int) -> None:
    stage = live(seed)
    for _ in range(400):
        for name in WORKERS:
            worker = stage.workers[name]
            if worker.offer.leases_max < 1 and not worker.held:
                stage.run(f"offer {name} leases=2 cores=2")
            for task in sorted(worker.held):
                stage.run(f"result {name} {task}")
                stage.run(f"beat {name} owed={task}")
            stage.run(f"beat {name}")
        stage.run(f"advance 2 {' '.join(WORKERS)}")
        if not stage.mind.ledger.tasks:
            break
    ledger = stage.mind.ledger
    assert not ledger.tasks, {name: task.state for name, task in ledger.tasks.items()}
    assert ledger.counts[TaskState.LEASED] == ledger.counts[TaskState.READY] == ledger.counts[TaskState.WAITING] == 0
    check(stage)


def test_a_decision_that_was_cut_off_between_two_entries_is_finished_by_the_next_leader() -> None:
    stage = Stage()
    for command in ("plan t a", "plan t b after=a", "plan t c after=b", "cancel task=a"):
        stage.run(command)
    cut = Ledger()
    for event in stage.events:
        cut.apply(event)
        if isinstance(event, TaskCanceled):
            break
    assert [task.state for task in cut.tasks.values()] == [TaskState.WAITING] * 2
    mind = Scheduler(cut, Policy(), 0.0)
    decided = [item.event for item in mind.take()]
    assert [event.task for event in decided if isinstance(event, TaskParked)] == ["b", "c"]
    assert not cut.tasks


def test_what_is_remembered_of_a_worker_does_not_grow_with_the_leases_it_did_not_take() -> None:
    stage = Stage()
    worker = StagedWorker("w1")
    stage.workers["w1"] = worker
    stage.run("plan t a")
    for _ in range(50):
        stage.run("offer w1 leases=1")
        worker.held.clear()  # the answer was lost, and the next offer overtakes the lease
    known = stage.mind.workers[worker.incarnation]
    assert len(known.granted) + len(known.unnamed_beats) <= 2


def test_a_lease_that_a_newer_offer_overtook_is_charged_to_that_one_and_repeated() -> None:
    stage = Stage()
    worker = StagedWorker("w1")
    stage.workers["w1"] = worker
    stage.run("plan t a")
    stage.run("offer w1 leases=1")
    epoch = stage.mind.ledger.tasks["a"].epoch
    worker.held.clear()  # the answer is on its way when the next offer leaves
    stage.run("plan t b")
    stage.run("offer w1 leases=1")
    assert stage.mind.ledger.tasks["a"].epoch == epoch
    assert stage.mind.ledger.tasks["b"].state is TaskState.READY  # its room is taken
    assert worker.held == {"a": epoch}


def test_a_worker_on_which_it_failed_is_passed_over_for_a_while_after_the_back_off_not_during_it() -> None:
    stage = Stage(Policy(back_off_s_first=20.0))
    for command in ("offer w1 leases=1", "plan t a", "beat w1", "offer w2 leases=0", "failure w1 a"):
        stage.run(command)
    stage.run("advance 22 w1 w2")
    assert stage.mind.ledger.tasks["a"].state is TaskState.READY
    stage.run("offer w2 leases=1")
    assert stage.mind.ledger.tasks["a"].incarnation == "w2.1"


def test_reasons_are_cut_to_what_a_person_reads() -> None:
    stage = Stage()
    for command in ("plan t a", "offer w1 leases=1", f"failure w1 a reason={'x' * 100_000}"):
        stage.run(command)
    stage.mind.command(9, "cli", Cancel(id="c", task="a", reason="y" * 100_000), stage.now)
    reasons = [item.reason for item in stage.events if isinstance(item, LeaseEnded)]
    reasons += [item.event.reason for item in stage.mind.take() if isinstance(item.event, TaskCanceled)]
    assert [len(reason) for reason in reasons] == [limits.TEXT_CHARS_MAX] * 2


def test_a_topic_is_settled_once_whoever_says_it_and_stays_so_after_a_take_over() -> None:
    mind = Scheduler(Ledger(), Policy(), 0.0)
    mind.command(1, "planner", Settle(topic="t1", specialization="s", why="over", facts={"champion": "c"}), 0.0)
    mind.command(2, "cli", Settle(topic="t1", why="enough", facts={"canceled": True}), 0.0)
    (decided,) = mind.take()
    assert isinstance(decided.record, TopicSettled)
    assert (decided.record.why, decided.record.specialization, decided.record.facts) == ("over", "s", {"champion": "c"})
    again = Scheduler(mind.ledger, Policy(), 1.0)
    again.command(3, "planner", Settle(topic="t1", why="over"), 1.0)
    again.command(4, "planner", Settle(topic="t2", why="over"), 1.0)
    assert [one.record.topic for one in again.take() if one.record is not None] == ["t2"]
