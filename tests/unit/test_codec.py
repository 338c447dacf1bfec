"""The border: what comes back is what was sent, and whatever else arrives is Malformed with a reason."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import codec, limits
from mesh.errors import Malformed
from mesh.messages.base import Record
from mesh.messages.commands import Recommend, Refuse
from mesh.messages.judgement import Outcomes
from mesh.messages.leases import Beat, Gone, LeaderBeat
from mesh.messages.results import Planned, Progress, TaskEnded
from mesh.messages.services import Problem
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from tests.support.samples import sample

GONE = Gone(worker="w", incarnation="w.1a", exit_code=None)


@pytest.mark.parametrize("record", codec.RECORDS.values(), ids=codec.RECORDS)
@pytest.mark.parametrize("full", [True, False])
def test_every_record_comes_back_as_it_was(record: type[Record], full: bool) -> None:
    there = sample(record, full=full)
    back = codec.decode(codec.encode(there), record)
    assert back == there
    assert codec.encode(back) == codec.encode(there)


def test_the_wanted_kind_is_chosen_among_several() -> None:
    assert codec.decode(codec.encode(GONE), Beat, Gone, LeaderBeat) == GONE


def test_unknown_fields_are_ignored() -> None:
    body = codec.unpack(codec.encode(GONE)) | {"added_later": [1, 2]}
    assert codec.decode(codec.pack(body), Gone) == GONE


def _changed(**changes: Any) -> bytes:
    body = codec.unpack(codec.encode(GONE)) | changes
    return codec.pack({key: value for key, value in body.items() if value != "absent"})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (b"\x81\xa4kind", "no msgpack"),
        (codec.pack([1, 2]), "is a map, got list"),
        (codec.pack({"v": 1}), "expected a record of kind 'gone', got 'None'"),
        (_changed(kind="beat"), "expected a record of kind 'gone', got 'beat'"),
        (_changed(kind=[1]), r"got '\[1\]', which this version does not know"),
        (_changed(kind="no-such"), "which this version does not know"),
        (_changed(kind="x" * 10_000), "expected a record of kind 'gone'"),
        (_changed(v=2), "up to version 1, got 2: update the older side"),
        (_changed(v=0), "up to version 1, got 0"),
        (_changed(v="absent"), "got None"),
        (_changed(worker="absent"), "missing required field `worker`"),
        (_changed(worker=7), "Expected `str`, got `int`"),
        (_changed(incarnation="v.1"), "is not one of 'w'"),
        (_changed(worker="w.>", incarnation="w.>.1"), "a worker's name must be"),
        (_changed(exit_code="1"), "Expected `int"),
    ],
)
def test_anything_else_is_malformed_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        codec.decode(data, Gone)


def test_a_broken_invariant_is_malformed() -> None:
    body = codec.unpack(codec.encode(sample(Beat, full=True))) | {"incarnation": "somebody-else.1"}
    with pytest.raises(Malformed, match=r"an incarnation is NAME\.RANDOM"):
        codec.decode(codec.pack(body), Beat)


def test_size_and_depth_are_bounded_both_ways() -> None:
    large = Problem(reason="x" * limits.RECORD_BYTES_MAX)
    with pytest.raises(Malformed, match="send less"):
        codec.encode(large)
    data = codec.encode(large, bytes_max=2 * limits.RECORD_BYTES_MAX)
    with pytest.raises(Malformed, match="expected at most"):
        codec.decode(data, Problem)
    assert codec.decode(data, Problem, bytes_max=2 * limits.RECORD_BYTES_MAX) == large
    deep: Any = 1
    for _ in range(limits.NEST_DEPTH_MAX):
        deep = [deep]
    assert codec.unpack(codec.pack(deep)) == deep
    deep = [deep]
    with pytest.raises(Malformed, match="levels deep"):
        codec.unpack(codec.pack(deep))
    with pytest.raises(Malformed, match="no msgpack"):
        codec.unpack(b"\x91" * 100_000)


def test_what_msgpack_can_not_say_is_malformed() -> None:
    for value in (2**64, object(), {"a": {1, 2}}):
        with pytest.raises(Malformed, match="can not be packed"):
            codec.pack(value)


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_decode_or_be_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        codec.decode(data, *codec.RECORDS.values())


@given(st.integers(0, 300), st.integers(0, 255))
def test_a_flipped_byte_is_noticed_or_harmless(position: int, byte: int) -> None:
    data = bytearray(codec.encode(sample(Progress, full=True)))
    data[position % len(data)] = byte
    with contextlib.suppress(Malformed):
        assert isinstance(codec.decode(bytes(data), Progress), Progress)


def test_a_digest_names_bytes() -> None:
    assert codec.digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_what_was_recorded_can_be_told_however_large_its_parts_are() -> None:
    """A task and its outcome may each be as large as a record; the task's end repeats both."""
    task = TaskSpec(id="a", topic="t", executor="noop", settings={"x": "y" * (limits.RECORD_BYTES_MAX - 2_000)})
    outcome = Outcome(facts={"x": "y" * (limits.RECORD_BYTES_MAX - 2_000)})
    ended = TaskEnded(
        topic="t", specialization="s", task=task, state=TaskState.PARKED, outcome=outcome,
        reason="\N{SNOWMAN}" * limits.TEXT_CHARS_MAX, ledger_seq=1, at_ms=1,
    )  # fmt: skip
    assert codec.decode(codec.encode(ended), TaskEnded, Planned) == ended


@pytest.mark.parametrize("bad", ["a.b", "*", "", "x" * 97])
def test_names_that_become_subjects_are_checked_at_the_border(bad: str) -> None:
    refuse = {"kind": "refuse", "v": 1, "topic": bad, "reason": "no"}
    made = codec.unpack(codec.encode(sample(Recommend, full=True)))
    with pytest.raises(Malformed):
        codec.decode(codec.pack(refuse), Refuse)
    for field in ("id", "topic", "specialization"):
        with pytest.raises(Malformed):
            codec.decode(codec.pack(made | {"recommendation": made["recommendation"] | {field: bad}}), Recommend)


def test_bytes_travel_as_bytes() -> None:
    outcomes = sample(Outcomes, full=True)
    assert codec.unpack(codec.encode(outcomes))["ids"] == outcomes.ids
