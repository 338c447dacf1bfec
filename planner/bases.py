"""May the lines go on from the base model that a topic names? Asked twice: of the model alone, before anything is done,
and of the model and the data, once the data is profiled.

    form      a folder of another library: an adapter is put on it (task    refused at once
              `lora`), and no kind goes on training it whole
    kind      a model of a kind that no line trains, or not of the topic's  refused at once
    data      other columns, other modality                                 refused after the profile
    labels    none of them in common, where both sides name all of theirs   refused after the profile

An adapter's base is asked about likewise: a transformers folder, one that foretells where the data is plain text.

Every answer is the rest of a sentence, '' where nothing stands against it. Not covered: labels beyond the first
hundred, and whether the model's files are what its record says; the kind looks at both when it loads them.
"""

from __future__ import annotations

from mesh.messages.base import Facts
from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.tasks import Needs
from mesh.messages.topics import Topic
from planner import proposals
from planner.profile import ADAPTER, CORPUS, Profile

PER_BYTE = {"train": (9, 22), "evaluate": (3, 1)}
"""Memory and disk that a byte of the base model takes beside what the data asks for. To train: weights, gradients, two
moments, the best weights, the model as it came, copies for a snapshot; its files, what comes of it, and its
checkpointed state, four times its size, up to five times over."""

_FORM_WORDS = {
    ModelFormat.RAMIFY: "a model of Ramify",
    ModelFormat.TRANSFORMERS: "a transformers folder",
    ModelFormat.ADAPTER: "a peft adapter",
}


FORETELLING = ("CausalLM", "LMHeadModel", "LMHead")
"""How the architectures of transformers folders end that foretell the next token."""


def missing(topic: Topic) -> str:
    """Why the topic can not be without a base model; '' when it can, or has one."""
    if topic.task != ADAPTER or topic.base is not None:
        return ""
    return (
        f"the task kind {ADAPTER!r} adapts a model, and none is named: push a transformers folder with "
        "`bin/agent models push DIR`, then name it with --base."
    )


def adapted(topic: Topic) -> BaseModel | None:
    """The model that the topic's lines put adapters on; None where they train models of their own."""
    return topic.base if topic.task == ADAPTER else None


def fixed(executor: str, modality: str) -> Facts:
    """Settings of every line of a kind that follow from the data: an adapter learns labels, or the next token."""
    if executor != ADAPTER:
        return {}
    return {"task": "language-model" if modality == CORPUS else "classify"}


def why_never(base: BaseModel, task: str | None) -> str:
    """Why no line could go on from this base model, whatever the data is; '' when one can."""
    if task == ADAPTER:
        if base.format is ModelFormat.TRANSFORMERS:
            return ""
        return f"it is {_FORM_WORDS[base.format]}, and an adapter is put on a transformers folder."
    kinds = [kind for kind, forms in sorted(proposals.STARTS_FROM.items()) if base.format in forms]
    if not kinds:
        able = ", ".join(sorted(proposals.STARTS_FROM))
        return (
            f"no executor kind of this mesh goes on training {_FORM_WORDS[base.format]} (the lines go on from "
            f"models of: {able}); {_instead(base)}publish the topic without --base."
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


def _instead(base: BaseModel) -> str:
    whole = base.format is ModelFormat.TRANSFORMERS
    return f"ask for an adapter to it with --task {ADAPTER}, or " if whole else ""


def words(base: BaseModel) -> str:
    """A base model as people know it."""
    return f"the base model {base.name} ({base.model[:12]})" if base.name else f"the base model {base.model[:12]}"


def why_not(base: BaseModel, profile: Profile) -> str:
    """Why the base model can not go on with this data; '' when it can, as far as is known here."""
    if profile.task == ADAPTER:
        if profile.modality != CORPUS or not base.architecture or base.architecture.endswith(FORETELLING):
            return ""
        return (
            f"it is a {base.architecture[:80]}, which foretells no text, and the data is plain text without labels: "
            "name a …ForCausalLM, or data with labels."
        )
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
