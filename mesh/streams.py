"""The streams and buckets of a mesh: one declared table, brought about idempotently.

    TOPICS      what users publish                          30 days
    COMMANDS    what is asked of the ledger                 refuses when full: a writer keeps what it owes
    LEDGER      what happened, written by the leader        for ever
    RESULTS     what subscribers read                       7 days
    ARTIFACTS   chunks and manifests, each once             refuses when full
    CONDEMNED   what may be removed from there soon         refuses when full: then nothing more is condemned
    STUDIES     logs of studies: what their trials drew     30 days; refuses when full
    KV graph, KV champions, KV models, KV trust             the last 64 values of each key

`Log.ensure` makes the broker follow the table, `Log.differences` says where it does not. Each stream carries the
version of its declaration: a program that declares an older one is refused, so that two releases in one mesh can not
undo each other's settings in turns.

How much ARTIFACTS may hold is no matter of releases but of the broker's disk: only who has the broker's home folder
knows it (`make`). Schedulers elsewhere leave that limit as it is, or they would undo each other's, too. Likewise how
many servers of a cluster keep a copy: only `bin/agent provision` says it, everybody else leaves it as it is.

Where all is as declared nothing is written: an agent whose credentials may not administer streams lives well on what an
operator has provisioned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mesh import limits
from mesh.bus import Log, StreamSpec
from mesh.errors import BrokerRefused, Conflict, DiskFull, NotFound
from mesh.subjects import Subjects

SCHEMA = 1
"""Raise it whenever a line of the table changes. One that is added needs no raise: older programs do not know it."""

TOPICS, COMMANDS, LEDGER, RESULTS, ARTIFACTS = "TOPICS", "COMMANDS", "LEDGER", "RESULTS", "ARTIFACTS"
CONDEMNED, STUDIES = "CONDEMNED", "STUDIES"
GRAPH, CHAMPIONS, MODELS, TRUST = "graph", "champions", "models", "trust"

ARTIFACTS_BYTES_LEAST = 64 << 20
"""With less room than this for artifacts a mesh does not begin."""


REPLICAS_AS_FOUND = 0
"""The number of copies that a stream has; one, where it is made."""


def table(subjects: Subjects, *, artifact_bytes_max: int, replicas: int = REPLICAS_AS_FOUND) -> tuple[StreamSpec, ...]:
    """Every stream of the mesh. `artifact_bytes_max`: bytes that chunks and manifests may fill in all."""
    return (
        _stream(subjects, TOPICS, subjects.topics(), "what users publish", replicas, max_age_s=limits.TOPICS_AGE_S),
        _stream(subjects, COMMANDS, subjects.commands(), "what is asked of the ledger", replicas, discard_new=True),
        _stream(subjects, LEDGER, subjects.ledger(), "what happened, in order", replicas, discard_new=True),
        _stream(subjects, RESULTS, subjects.results(), "what people read", replicas, max_age_s=limits.RESULTS_AGE_S),
        _stream(
            subjects, ARTIFACTS, subjects.artifacts(), "chunks and manifests", replicas,
            discard_new=True, max_bytes=artifact_bytes_max, max_per_subject=1,
        ),
        _stream(
            subjects, CONDEMNED, subjects.condemned(), "what may soon be removed from there", replicas,
            discard_new=True, max_bytes=limits.CONDEMNED_BYTES_MAX,
        ),
        _stream(
            subjects, STUDIES, subjects.studies(), "what trials of studies tell each other", replicas,
            discard_new=True, max_bytes=limits.STUDIES_BYTES_MAX, max_age_s=limits.STUDIES_AGE_S, max_per_subject=1,
        ),
        _bucket(subjects, GRAPH, "specializations, by compare-and-set", replicas),
        _bucket(subjects, CHAMPIONS, "accepted models, by compare-and-set", replicas),
        _bucket(subjects, MODELS, "models that people pushed, by compare-and-set", replicas),
        _bucket(subjects, TRUST, "what checks of workers came to, by compare-and-set", replicas),
    )  # fmt: skip


def _stream(
    subjects: Subjects, name: str, subject: str, why: str, replicas: int,
    *, max_age_s: float = 0.0, max_bytes: int = -1, max_per_subject: int = -1, discard_new: bool = False,
) -> StreamSpec:  # fmt: skip
    return StreamSpec(
        name=subjects.stream(name),
        subjects=(subject,),
        why=why,
        max_age_s=max_age_s,
        max_bytes=max_bytes,
        max_per_subject=max_per_subject,
        discard_new=discard_new,
        max_consumers=limits.STREAM_CONSUMERS_MAX,
        replicas=replicas,
        schema=SCHEMA,
    )


def _bucket(subjects: Subjects, name: str, why: str, replicas: int) -> StreamSpec:
    return StreamSpec(
        name=subjects.bucket(name),
        subjects=(subjects.keys(name),),
        why=why,
        max_per_subject=limits.KEY_HISTORY_MAX,
        discard_new=True,
        max_consumers=limits.STREAM_CONSUMERS_MAX,
        replicas=replicas,
        schema=SCHEMA,
    )


def is_bucket(spec: StreamSpec) -> bool:
    """Is this a key-value bucket, which the broker's own tools then show as one?"""
    return spec.name.startswith("KV_")


def names(subjects: Subjects) -> tuple[str, ...]:
    """Names of every stream of the mesh, as the broker knows them."""
    return tuple(spec.name for spec in table(subjects, artifact_bytes_max=-1))


async def ensure_all(log: Log, specs: Iterable[StreamSpec]) -> list[str]:
    """Make every stream as declared; what was found to differ, in words. Doing it twice changes nothing."""
    found: list[str] = []
    for spec in specs:
        found += await log.ensure(spec)
    return found


async def make(
    log: Log, subjects: Subjects, *, artifact_bytes_max: int, owner: bool, replicas: int = REPLICAS_AS_FOUND
) -> int:
    """Make every stream as declared; most bytes that the artifact stream may hold now (-1: no limit of its own).

    artifact_bytes_max: what it should be. A broker that has less room (a smaller one than was thought, or one that
    several meshes share) gets half of it, and so on down to ARTIFACTS_BYTES_LEAST. An artifact stream that is there
    keeps its limit, unless the caller is the `owner` of the broker's home folder and there is room for the new one.
    replicas: how many servers of a cluster keep a copy of each. DiskFull when there is no room at all; BrokerRefused
    for streams of a newer program, and where something has to be changed that these credentials may not.
    """
    try:
        found: int | None = (await log.state(subjects.stream(ARTIFACTS))).limit_bytes
    except NotFound:
        found = None
    wanted = artifact_bytes_max if found is None or owner else found
    while True:
        specs = table(subjects, artifact_bytes_max=wanted, replicas=replicas)
        try:
            await ensure_all(log, specs)
            return wanted
        except BrokerRefused as error:
            if "not_let" not in error.facts:
                raise
            raise BrokerRefused(
                f"the streams are not as this program needs them ({await _first_difference(log, specs)}), and it can "
                f"not change that ({error}): run `bin/agent provision` with credentials that may"
            ) from None
        except DiskFull:
            if found not in (None, wanted):
                wanted = found
            elif found is None and wanted // 2 >= ARTIFACTS_BYTES_LEAST:
                wanted //= 2
            else:
                raise


async def _first_difference(log: Log, specs: Iterable[StreamSpec]) -> str:
    """In words. BrokerRefused when it is that a newer program has declared them."""
    for spec in specs:
        if found := await log.differences(spec):
            return found[0]
    return "another program changes them just now"


def compare(declared: StreamSpec, found: StreamSpec | None) -> list[str]:
    """How a stream differs from its declaration, in words; empty when it does not. BrokerRefused for a newer one."""
    if found is None:
        return [f"{declared.name}: missing"]
    if found.schema > declared.schema:
        raise BrokerRefused(
            f"stream {declared.name} was declared by a newer program (schema {found.schema}, this one knows "
            f"{declared.schema}): update this program"
        )
    fields = [field.name for field in dataclasses.fields(StreamSpec) if field.name != "name"]
    return [
        f"{declared.name}: {name} is {_words(getattr(found, name))}, declared {_words(getattr(declared, name))}"
        for name in fields
        if getattr(found, name) != getattr(declared, name) and (name != "replicas" or declared.replicas)
    ]


def other_history(name: str, seen: int, last_seq: int) -> Conflict:
    """The error of a reader whose stream is not the one that it has read so far: the store came back older, or anew."""
    return Conflict(
        f"stream {name} is not the one that was read up to {seen}: it ends at {last_seq} now; read it from its start",
        stream=name,
        seen=seen,
        last_seq=last_seq,
    )


def _words(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else repr(value) if isinstance(value, str) else f"{value}"
