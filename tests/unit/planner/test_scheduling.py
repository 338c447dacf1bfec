"""The mind under random lives: leases, silence, deaths, late writes. Watched from outside, seeded, in virtual time."""

from __future__ import annotations

import random

import pytest

from mesh.messages.base import Epoch
from mesh.messages.ledger import (
    CheckpointRecorded,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskSucceeded,
)
from mesh.messages.tasks import TaskState
from planner.ledger import Ledger
from tests.support.scheduler_stage import Stage

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
            stage.run(f"plan t{planned % 3} task{planned} priority={chance.randrange(10)}{after}{wait}")
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
            stage.run(f"failure {name} {held[0]} class={chance.choice(['retry', 'memory', 'retry'])}")
        elif held and roll < 0.96:
            stage.run(f"give-back {name} {held[0]}")
        elif planned and roll < 0.98:
            stage.run(f"cancel task=task{chance.randrange(1, planned + 1)}")
        elif planned:
            # A late or foreign write, under an epoch that may be over.
            task, epoch = f"task{chance.randrange(1, planned + 1)}", f"1-{chance.randrange(1, 4)}"
            stage.run(f"result {name} {task} epoch={epoch} writer={chance.choice(WORKERS)}")
    return stage


def check(stage: Stage) -> None:
    """The promises, from the events alone: a second, simple account."""
    holder: dict[str, tuple[Epoch, str]] = {}
    highest: dict[str, Epoch] = {}
    over: set[str] = set()
    for event in stage.events:
        name = getattr(event, "task", "")
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
