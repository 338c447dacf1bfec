"""A topic whose texts are read by a sentence encoder: one task more between the profile and the lines.

    profile ──ended──> embed ──ended──> lines, each with the encoder and the vectors of its splits as inputs

Both lines read the same two splits by the same encoder, and encoding is what costs: it is done once. Holdout and audit
are not encoded here: whoever evaluates a model encodes for himself, or the check of a claim would rest on the
claimant's vectors. What the profile said travels in the embed task's own record and comes back with its end, so that
the plan needs no other stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.messages.base import Facts, derived_id
from mesh.messages.commands import Refuse, Submit
from mesh.messages.judgement import Champion
from mesh.messages.tasks import Needs, Outcome, TaskSpec
from mesh.messages.topics import DataRef, Topic
from planner.profile import Profile

KIND = "embed"

READS = "classify"
"""The kind whose lines take an encoder."""

ENCODED = ("train", "validation")

BUDGET_S = 3_600.0

PROGRAM_BYTES, PER_BYTE = 300 * 1024 * 1024, 2
"""What an evaluation takes beside: transformers, and the encoder's weights on the disk and in memory."""


ENCODER_LEAST = 16 * 1024 * 1024
"""Size of a model from which on it may hold a sentence encoder."""


def why_not(profile: Profile) -> str:
    """Why no encoder can read this data; '' when one can."""
    if profile.task != READS:
        return f"lines of the kind {profile.task!r} take no sentence encoder: publish it without --encoder."
    if profile.modality != "text":
        return f"a sentence encoder reads texts, and the data is {profile.modality}: publish it without --encoder."
    return ""


def submit(topic: Topic, profiled: TaskSpec, outcome: Outcome, needs: Needs | None) -> Submit:
    """The task that encodes the splits of a profiled topic. profiled: its profile task; needs: what its kind says."""
    assert topic.encoder is not None
    id_ = derived_id(topic.id, KIND)
    carried: Facts = {
        "inputs": dict(profiled.inputs),
        "settings": dict(profiled.settings),
        "outputs": dict(outcome.outputs),
        "facts": dict(outcome.facts),
    }
    task = TaskSpec(
        id=id_,
        topic=topic.id,
        executor=KIND,
        purpose=KIND,
        settings={"for_plan": carried},
        inputs={"encoder": topic.encoder.source, **{name: outcome.outputs[name] for name in ENCODED}},
        needs=needs or Needs(memory_bytes=1 << 30),
        priority=topic.priority,
        budget_s=BUDGET_S,
        wall_s_max=2.0 * BUDGET_S,
        on_disconnect=topic.on_disconnect,
        wait_s=topic.wait_s,
    )
    return Submit(id=id_, topic=topic.id, tasks=(task,), facts={"stage": KIND})


def carried(embed: TaskSpec) -> tuple[TaskSpec, Outcome]:
    """(the profile task, its outcome) as `submit` packed them. ValueError when they are not there."""
    found = embed.settings.get("for_plan")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in _CARRIED):
        raise ValueError("the embed task does not say what the profile was")
    id_ = derived_id(embed.topic, "profile")
    task = TaskSpec(id=id_, topic=embed.topic, executor="profile", inputs=found["inputs"], settings=found["settings"])
    return task, Outcome(outputs=found["outputs"], facts=found["facts"])


_CARRIED = ("inputs", "settings", "outputs", "facts")


def refused(topic: Topic, why: str) -> Refuse:
    """The topic asks for an encoder that its data can not be read by."""
    return Refuse(topic=topic.id, reason=f"The topic {topic.id} asks for a sentence encoder: {why}")


def with_encoder(facts: Mapping[str, Any], encoder: DataRef | None) -> Facts:
    """A profile's facts for an estimate, with the encoder's size."""
    return {**facts, "input_bytes": {"encoder": encoder.size_bytes}} if encoder is not None else dict(facts)


def inputs(encoder: DataRef | None, vectors: Mapping[str, str]) -> dict[str, str]:
    """What a line gets beside its splits."""
    if encoder is None:
        return {}
    return {"encoder": encoder.source, **{f"{name}_vectors": vectors[f"{name}_vectors"] for name in ENCODED}}


def evaluating(needs: Needs, encoder: DataRef | None, champion: Champion | None) -> Needs:
    """What an evaluation of a model on this encoder takes; or of one that goes on from a champion, which may hold an
    encoder that the topic does not name."""
    if encoder is not None:
        return _and(needs, PROGRAM_BYTES, encoder.size_bytes)
    return going_on(needs, champion)


def going_on(needs: Needs, champion: Champion | None) -> Needs:
    """What a line that goes on from a champion takes: a large one may hold an encoder."""
    return going_on_from(needs, int(champion.kpis.get("size_bytes", 0)) if champion is not None else 0)


def going_on_from(needs: Needs, size: int) -> Needs:
    """The same for any model of so many bytes."""
    return _and(needs, PROGRAM_BYTES if size >= ENCODER_LEAST else 0, size)


def _and(needs: Needs, program: int, size: int) -> Needs:
    return needs.evolve(
        memory_bytes=needs.memory_bytes + program + PER_BYTE * size, disk_bytes=needs.disk_bytes + PER_BYTE * size,
        gpu_wish_bytes=needs.gpu_wish_bytes and needs.gpu_wish_bytes + PER_BYTE * size,
    )  # fmt: skip
