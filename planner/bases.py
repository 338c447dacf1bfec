"""May the lines go on from the base model that a topic names? Asked twice: of the model alone, before anything is done,
and of the model and the data, once the data is profiled.

    form      a folder of another library: no kind trains from one yet      refused at once
    kind      a model of a kind that no line trains, or not of the topic's  refused at once
    data      other columns, other modality                                 refused after the profile
    labels    none of them in common, where both sides name all of theirs   refused after the profile

Every answer is the rest of a sentence, '' where nothing stands against it. Not covered: labels beyond the first
hundred, and whether the model's files are what its record says; the kind looks at both when it loads them.
"""

from __future__ import annotations

from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.tasks import Needs
from planner import proposals
from planner.profile import Profile

PER_BYTE = {"train": (9, 22), "evaluate": (3, 1)}
"""Memory and disk that a byte of the base model takes beside what the data asks for. To train: weights, gradients, two
moments, the best weights, the model as it came, copies for a snapshot; its files, what comes of it, and its
checkpointed state, four times its size, up to five times over."""

_FORM_WORDS = {
    ModelFormat.RAMIFY: "a model of Ramify",
    ModelFormat.TRANSFORMERS: "a transformers folder",
    ModelFormat.ADAPTER: "a peft adapter",
}


def why_never(base: BaseModel, task: str | None) -> str:
    """Why no line could go on from this base model, whatever the data is; '' when one can."""
    kinds = [kind for kind, forms in sorted(proposals.STARTS_FROM.items()) if base.format in forms]
    if not kinds:
        able = ", ".join(sorted(proposals.STARTS_FROM))
        return (
            f"no executor kind of this mesh trains from {_FORM_WORDS[base.format]} yet (the lines go on from "
            f"models of: {able}); publish the topic without --base."
        )
    if base.task not in kinds:
        return f"it is a model of the kind {base.task or 'unknown'!r}, and the lines go on from: {', '.join(kinds)}."
    if task is not None and task != base.task:
        return f"it is a model of the kind {base.task!r}, and the topic asks for {task!r}."
    return ""


def needs(base: BaseModel | None, of_data: Needs, purpose: str) -> Needs:
    """What a task takes where the model came from this one: the data's estimate is made for a model of usual size.
    `purpose`: a key of PER_BYTE."""
    if base is None:
        return of_data
    memory, disk = PER_BYTE[purpose]
    return of_data.evolve(
        memory_bytes=of_data.memory_bytes + memory * base.size_bytes,
        disk_bytes=of_data.disk_bytes + disk * base.size_bytes,
        gpu_wish_bytes=of_data.gpu_wish_bytes and of_data.gpu_wish_bytes + memory * base.size_bytes,
    )


def words(base: BaseModel) -> str:
    """A base model as people know it."""
    return f"the base model {base.name} ({base.model[:12]})" if base.name else f"the base model {base.model[:12]}"


def why_not(base: BaseModel, profile: Profile) -> str:
    """Why the base model can not go on with this data; '' when it can, as far as is known here."""
    if base.task != profile.task:
        return f"it is a model of the kind {base.task!r}, and the data asks for {profile.task!r}."
    if base.fits not in ("", profile.fits):
        return f"it reads other data ({base.fits}) than the topic's ({profile.fits}): give it data of the same columns."
    known, wanted = set(base.label_names), set(profile.label_names)
    whole = len(known) == base.labels > 0 and len(wanted) == profile.labels
    if whole and not known & wanted:
        return (
            f"it knows none of the data's labels ({_some(profile.label_names)}), only its own "
            f"({_some(base.label_names)}): publish the topic without --base."
        )
    return ""


def _some(names: tuple[str, ...]) -> str:
    """The first of some names, in words."""
    shown = ", ".join(repr(name[:40]) for name in names[:3])
    return f"{shown} …" if len(names) > 3 else shown
