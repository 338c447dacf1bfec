"""What lives, what is awaited and what is dead; and when to look."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import codec
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Epoch
from mesh.messages.packs import Pack
from mesh.messages.tasks import TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from planner.collecting import (
    PRESSED_WAIT_S,
    Named,
    Pace,
    Rules,
    Standing,
    digests_in,
    digests_of,
    judge,
    objects_of,
    portions,
)
from planner.ledger import Checkpoint, Ended, Ledger

RULES = Rules(every_s=100.0, wait_s=50.0, unnamed_keep_s=1_000.0)
ONE, TWO, THREE, FOUR = (f"{number:064x}" for number in range(1, 5))
DIGESTS = st.integers(0, 2**256 - 1).map("{:064x}".format)


def manifest(media: str = "model", **facts: Any) -> Manifest:
    entry = FileEntry(path="f", size_bytes=1, objects=(ONE,), sizes=(1,))
    return Manifest(media=media, files=(entry,), facts=facts)


def ledger(*, newest: int = 5, older: tuple[int, ...] = (4,)) -> Ledger:
    made, epoch = Ledger(), Epoch(1, 3)
    made._plan(TaskSpec(id="open", topic="t1", executor="noop", inputs={"a": ONE, "b": "builtin:digits"}))
    task = made.tasks["open"]
    task.epoch = epoch
    task.checkpoint = Checkpoint(newest, TWO, newest, 1.0)
    task.older = tuple(Checkpoint(number, THREE, number, 1.0) for number in older)
    made.ended.put(Ended("done", "t1", TaskState.SUCCEEDED, epoch, None))
    return made


def trained(state: TaskState = TaskState.SUCCEEDED) -> Ledger:
    made = Ledger()
    rows = " 1-1/checkpoint/1 1-1/checkpoint/2 1-2/checkpoint/3 1-2/checkpoint/4 1-2/result/0 "
    made.ended.put(Ended("t1-evolver", "t1", state, Epoch(1, 2), None, recorded=rows))
    return made


def test_the_last_two_checkpoints_of_a_training_wait_for_the_recommendation_of_its_topic() -> None:
    found = trained()

    def standings(ledger: Ledger) -> list[Standing]:
        facts = [("1-1", 2), ("1-2", 3), ("1-2", 4), ("1-1", 4)]
        every = [manifest("checkpoint", task="t1-evolver", epoch=epoch, number=number) for epoch, number in facts]
        return [judge(one, Named.NOT, ledger, RULES).standing for one in every]

    dead = [Standing.DEAD] * 4
    assert standings(found) == [Standing.DEAD, Standing.AWAITED, Standing.AWAITED, Standing.DEAD]
    assert standings(trained(TaskState.PARKED)) == dead
    found.said_before(["recommended t2-recommendation"])
    assert standings(found) != dead
    found.said_before(["recommended t1-recommendation"])
    assert standings(found) == dead


@given(st.lists(DIGESTS, max_size=6), st.integers(0, 255), st.text(alphabet="0123456789abcdef", max_size=70))
def test_every_digest_in_a_record_is_found_whatever_stands_beside_it(
    digests: list[str], number: int, text: str
) -> None:
    nested = {"list": [item for digest in digests for item in (digest, number)], "text": text, text: digests}
    found = set(digests_in(msgspec.msgpack.encode(nested)))
    wanted = set(digests) | ({text} if len(text) == 64 else set())
    assert found >= wanted


def test_digests_are_found_in_packs_of_records() -> None:
    rows = tuple(codec.encode(Topic(id="t1", text="x", data=DataRef(source=one))) for one in (ONE, TWO))
    assert set(digests_in(codec.encode(Pack(rows=rows)))) == {ONE, TWO}


def test_a_task_needs_its_inputs_its_settings_and_the_checkpoints_that_it_remembers() -> None:
    task = ledger().tasks["open"]
    task.spec = task.spec.evolve(settings={"base": {"model": [FOUR]}, "rate": 0.1})
    assert set(digests_of(task)) == {ONE, TWO, THREE, FOUR}


def test_a_delta_needs_its_base() -> None:
    entry = FileEntry(path="f", size_bytes=2, objects=(ONE, TWO), sizes=(1, 1), bases=("", THREE))
    assert set(objects_of(Manifest(media="model", files=(entry,)))) == {
        object_names.whole(ONE), object_names.delta(TWO, THREE), object_names.whole(THREE),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("media", "named", "standing", "keep_s"),
    [
        ("model", Named.BY_RECORD, Standing.NAMED, 0),
        ("checkpoint", Named.BY_RECORD, Standing.NAMED, 0),
        ("split", Named.BY_TOPIC, Standing.NAMED, 0),
        ("model", Named.BY_TOPIC, Standing.AWAITED, 1_000),
        ("model", Named.NOT, Standing.AWAITED, 1_000),
        ("upload", Named.NOT, Standing.AWAITED, 100),
        ("snapshot", Named.NOT, Standing.AWAITED, 100),
    ],
)
def test_how_a_manifest_stands(media: str, named: Named, standing: Standing, keep_s: float) -> None:
    found = judge(manifest(media), named, ledger(), RULES)
    assert (found.standing, found.keep_s) == (standing, keep_s)


@pytest.mark.parametrize(
    ("facts", "standing"),
    [
        ({"task": "open", "epoch": "1-3", "number": 6}, Standing.AWAITED),
        ({"task": "open", "epoch": "1-3", "number": 5}, Standing.DEAD),
        ({"task": "open", "epoch": "1-2", "number": 9}, Standing.DEAD),
        ({"task": "open", "epoch": "1-4", "number": 1}, Standing.AWAITED),
        ({"task": "open", "epoch": "0-9", "number": 1}, Standing.AWAITED),
        ({"task": "done", "epoch": "1-3", "number": 1}, Standing.DEAD),
        ({"task": "never heard of", "epoch": "1-3", "number": 1}, Standing.AWAITED),
        ({"task": "open", "epoch": "third", "number": 1}, Standing.AWAITED),
        ({"task": "open", "epoch": "1-3", "number": "1"}, Standing.AWAITED),
        ({"task": ["open"], "epoch": "1-3", "number": 1}, Standing.AWAITED),
        ({}, Standing.AWAITED),
    ],
)
def test_checkpoints_are_judged_by_the_ledger(facts: dict[str, Any], standing: Standing) -> None:
    assert judge(manifest("checkpoint", **facts), Named.NOT, ledger(), RULES).standing is standing


def test_a_checkpoint_is_awaited_while_none_is_recorded() -> None:
    made = ledger()
    made.tasks["open"].checkpoint = None
    found = judge(manifest("checkpoint", task="open", epoch="1-3", number=1), Named.NOT, made, RULES)
    assert found.standing is Standing.AWAITED


def test_a_round_begins_once_in_a_period_and_at_once_when_the_store_is_nearly_full() -> None:
    pace = Pace(RULES, 0.0)
    assert pace.due_in(30.0, 10, 100) == 70.0
    assert pace.due_in(30.0, 81, 100) == 0.0
    assert pace.due_in(130.0, 10, 100) == 0.0
    assert pace.due_in(30.0, 81, -1) == 70.0
    pace.began(130.0)
    pace.ended(removed=0)
    assert pace.due_in(140.0, 81, 100) == 90.0
    pace.began(230.0)
    pace.ended(removed=7)
    assert pace.due_in(240.0, 81, 100) == 0.0
    assert pace.rules(pressed=False) == RULES
    assert pace.rules(pressed=True).unnamed_keep_s < RULES.unnamed_keep_s
    assert pace.rules(pressed=True).wait_s == RULES.wait_s < PRESSED_WAIT_S
    assert Pace(dataclasses.replace(RULES, wait_s=900.0), 0.0).rules(pressed=True).wait_s == PRESSED_WAIT_S


@given(st.lists(st.sampled_from([object_names.whole(ONE), object_names.delta(ONE, TWO)]), max_size=30))
def test_portions_keep_the_order_and_the_size(names: list[object_names.ObjectName]) -> None:
    cut = list(portions(names, 128))
    assert [name for portion in cut for name in portion] == names
    assert all(sum(64 if name.base else 32 for name in portion) <= 128 for portion in cut)
    assert all(cut)
