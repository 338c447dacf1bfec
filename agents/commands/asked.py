"""Which model `bin/agent ask` asks, and what people see of its answers.

name ── a specialization, a pushed model, a digest ──────────────────────────────┐
     ── a topic's id ── its specialization, as its plan or its champion says ────┼── champion ── model
     ── a topic's sentence ── the newest topic of that sentence ─────────────────┘
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from agents.commands import known_models, output
from agents.commands.known_models import Models
from agents.commands.reach import Reach
from agents.commands.stored import records
from mesh.errors import NotFound
from mesh.messages.judgement import Champion
from mesh.messages.models import PushedModel
from mesh.messages.results import Planned
from mesh.messages.topics import Topic

LABEL_SHARE_LEAST = 0.0005
"""Labels below are no news to people; `--json` has them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """The model that is asked."""

    model: str
    """Digest."""
    name: str
    """Of the specialization, or of the pushed model."""
    version_number: int
    base: str = ""
    """Digest of the model that it adapts; '' of a whole model."""


async def find(there: Reach, name: str) -> Asked:
    """The model that `name` means. NotFound with a sentence."""
    models = await known_models.known(there)
    try:
        return _of(models.choose(name))
    except NotFound:
        specialization = await _specialization(there, models, name)
        if not specialization:
            if name in models.nodes:
                raise
            raise NotFound(_unknown(models, name)) from None
    return _of(models.choose(specialization))


def _unknown(models: Models, name: str) -> str:
    near = difflib.get_close_matches(name, [*models.champions, *models.pushed], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no model, specialization or topic is called {name[:80]!r}; {hint}`bin/agent models` lists them."


def _of(found: Champion | PushedModel) -> Asked:
    name = found.specialization if isinstance(found, Champion) else found.name
    return Asked(found.model, name, found.version_number, known_models.adapted_by(found))


async def _specialization(there: Reach, models: Models, name: str) -> str:
    """Of a topic by its id or its sentence; '' when there is none."""
    wanted = " ".join(name.split()).casefold()
    topics = await records(there, there.stream("TOPICS"), there.subjects.topics(), Topic)
    ids = [one.id for one in topics if one.id == name or " ".join(one.text.split()).casefold() == wanted]
    for id_ in [*reversed(ids), name]:
        by_champion = next((node for node, one in models.champions.items() if one.topic == id_), "")
        if by_champion:
            return by_champion
    for id_ in reversed(ids):
        plans = await records(there, there.stream("RESULTS"), there.subjects.results(id_, Planned.kind), Planned)
        if named := [one.specialization for one in plans if one.specialization]:
            return named[-1]
    return ""


# -- what people see --------------------------------------------------------------------------------------------------


def document(asked: Asked, texts: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, for programs."""
    answers = []
    for text, one in zip(texts, facts["answers"], strict=True):
        told: dict[str, Any] = {"text": text}
        if facts["form"] == "labels":
            told["labels"] = [{"label": label, "probability": share} for label, share in one["labels"]]
        else:
            told |= {"continuation": one["text"], "tokens": one["tokens"], "ended": one["ended"]}
        answers.append({**told, "through": [{"name": name, "share": share} for name, share in one["through"]]})
    return {
        "model": asked.model, "name": asked.name, "version": asked.version_number, "form": facts["form"],
        "answers": answers,
    }  # fmt: skip


def shown(texts: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The same, to be read."""
    if facts["form"] == "text":
        return "\n\n".join(_goes_on(text, one) for text, one in zip(texts, facts["answers"], strict=True))
    return "\n\n".join(_labelled(text, one, len(texts) > 1) for text, one in zip(texts, facts["answers"], strict=True))


def _labelled(text: str, one: Mapping[str, Any], with_text: bool) -> str:
    rows = [(label, f"{share:.3f}") for label, share in one["labels"] if share >= LABEL_SHARE_LEAST]
    table = output.table(("label", "probability"), rows or [(label, "0.000") for label, _ in one["labels"][:1]])
    return "\n".join([*([output.plain(text)] if with_text else []), table, *_through(one)])


def _goes_on(text: str, one: Mapping[str, Any]) -> str:
    whole = "\n".join(output.plain(line) for line in (text + one["text"]).split("\n"))
    return "\n".join([whole + (" [ends]" if one["ended"] else " […]"), *_through(one)])


def _through(one: Mapping[str, Any]) -> list[str]:
    """Who of a tree answered."""
    if not one["through"]:
        return []
    return ["through " + ", ".join(f"{output.plain(name)} ({share:.2f})" for name, share in one["through"])]
