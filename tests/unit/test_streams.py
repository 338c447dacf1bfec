"""The table of streams: what it declares, and that it can be brought about twice, changed, and not taken back."""

from __future__ import annotations

import dataclasses

import pytest

from mesh import streams, wire
from mesh.bus import StreamSpec
from mesh.errors import BrokerRefused
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.base import Epoch, Key
from mesh.subjects import Subjects

SUBJECTS = Subjects("lab")
TABLE = streams.table(SUBJECTS, artifact_bytes_max=10**9, replicas=3)


def _of(name: str) -> StreamSpec:
    return next(spec for spec in TABLE if spec.name.endswith(name))


def test_the_table_names_what_the_mesh_keeps_and_for_how_long() -> None:
    assert [spec.name for spec in TABLE] == [
        "LAB_TOPICS", "LAB_COMMANDS", "LAB_LEDGER", "LAB_RESULTS", "LAB_ARTIFACTS", "LAB_CONDEMNED", "LAB_STUDIES",
        "KV_lab_graph", "KV_lab_champions", "KV_lab_models", "KV_lab_trust",
    ]  # fmt: skip
    assert _of("TOPICS").max_age_s == 30 * 86_400
    assert _of("RESULTS").max_age_s == 7 * 86_400
    assert _of("LEDGER").max_age_s == 0
    assert _of("COMMANDS").discard_new
    assert _of("ARTIFACTS").discard_new
    assert _of("ARTIFACTS").max_bytes == 10**9
    assert _of("ARTIFACTS").max_per_subject == 1
    assert _of("CONDEMNED").discard_new
    assert _of("STUDIES").discard_new
    assert _of("STUDIES").max_bytes == 32 << 20
    assert _of("STUDIES").max_age_s == 30 * 86_400
    assert _of("graph").max_per_subject == _of("champions").max_per_subject == 64
    assert all(spec.replicas == 3 for spec in TABLE)


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        (SUBJECTS.topic("digits"), "TOPICS"),
        (SUBJECTS.command("cli", "submit", "x"), "COMMANDS"),
        (SUBJECTS.owed("w1", Key("t", Epoch(1, 2), "result", 3)), "COMMANDS"),
        (SUBJECTS.ledger(), "LEDGER"),
        (SUBJECTS.result("digits", "verdict", "v1"), "RESULTS"),
        (SUBJECTS.stored(object_names.whole("a" * 64)), "ARTIFACTS"),
        (SUBJECTS.stored(object_names.delta("a" * 64, "b" * 64)), "ARTIFACTS"),
        (SUBJECTS.stored(object_names.manifest("a" * 64)), "ARTIFACTS"),
        (SUBJECTS.condemned(), "CONDEMNED"),
        (SUBJECTS.study_entry("w1", "digits", "t", Epoch(1, 2), "a1-1"), "STUDIES"),
        (SUBJECTS.key("graph", "root"), "graph"),
        (SUBJECTS.key("champions", "root"), "champions"),
        (SUBJECTS.key("models", "tiny-bert"), "models"),
        (SUBJECTS.key("trust", "w1"), "trust"),
    ],
)
def test_every_stored_subject_has_exactly_one_stream(subject: str, stream: str) -> None:
    storing = [spec for spec in TABLE if any(wire.matches(pattern, subject) for pattern in spec.subjects)]
    assert storing == [_of(stream)]


def test_only_buckets_look_like_buckets() -> None:
    assert [spec.name for spec in TABLE if streams.is_bucket(spec)] == [
        "KV_lab_graph",
        "KV_lab_champions",
        "KV_lab_models",
        "KV_lab_trust",
    ]


async def test_making_everything_twice_changes_nothing() -> None:
    broker = MemoryServer().connect("cli")
    first = await streams.ensure_all(broker, TABLE)
    assert first == [f"{spec.name}: missing" for spec in TABLE]
    assert await streams.ensure_all(broker, TABLE) == []


def test_differences_are_said_in_words() -> None:
    declared = _of("RESULTS")
    found = dataclasses.replace(declared, max_age_s=60.0, why="old", schema=0)
    assert streams.compare(declared, found) == [
        "LAB_RESULTS: why is 'old', declared 'what people read'",
        "LAB_RESULTS: max_age_s is 60.0, declared 604800.0",
        "LAB_RESULTS: schema is 0, declared 1",
    ]


def test_an_older_program_does_not_undo_a_newer_declaration() -> None:
    newer = dataclasses.replace(_of("TOPICS"), schema=streams.SCHEMA + 1)
    with pytest.raises(BrokerRefused, match="update this program"):
        streams.compare(_of("TOPICS"), newer)
