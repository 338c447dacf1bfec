"""What a topic over plain text becomes."""

from __future__ import annotations

import hashlib

from executors import kinds
from mesh.messages.base import Facts
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.tasks import Line, Outcome, TaskSpec
from mesh.messages.topics import DataRef, Topic
from planner import plans, profile
from planner.graph import Source

SPLITS = {name: name[0] * 64 for name in profile.SPLITS}
FACTS: Facts = {
    "task": "language-model",
    "modality": "corpus",
    "rows": 2_400,
    "examples": 2_400,
    "labels": 0,
    "label_names": [],
    "label_digest": hashlib.sha256(b"").hexdigest(),
    "label_column": "",
    "splits": {"train": 1_700, "validation": 350, "holdout": 230, "audit": 120},
    "sources": 168,
    "dropped": {},
    "bytes": 4_700_000,
    "needs": {"language-model": {"cores": 1.0, "memory_bytes": 10**9, "disk_bytes": 10**8}},
}
DATA = DataRef(source="d" * 64, name="notes", size_bytes=4_700_000)
TOPIC = Topic(id="notes-0a1b2c3d", text="notes", data=DATA, task="language-model")


def tasks(topic: Topic = TOPIC, champion: Champion | None = None) -> dict[Line | None, TaskSpec]:
    found = plans.plan(
        topic, Source(DATA, None, None), Outcome(outputs=SPLITS, facts=FACTS), {}, champion, 1 if champion else 0,
        kinds.needs_of,
    )  # fmt: skip
    assert isinstance(found, plans.Plan), found
    assert found.submit.facts["baseline"] == ""
    assert found.submit.facts["fits"] == "corpus"
    return {task.line: task for task in found.submit.tasks}


def test_plain_text_has_two_lines_that_train_language_models_and_no_yardstick() -> None:
    found = tasks()
    assert set(found) - {None} == {Line.EVOLVER, Line.REINVENTOR}
    assert found[Line.EVOLVER].executor == "language-model"
    assert found[Line.EVOLVER].inputs == {"train": SPLITS["train"], "validation": SPLITS["validation"]}


def test_who_begins_anew_cuts_texts_as_those_before() -> None:
    champion = Champion(
        specialization="x", version_number=1, model="c" * 64, flat="f" * 64, topic="t", task="t-evolver",
        line=Line.EVOLVER, verdict="v", fits="corpus",
    )  # fmt: skip
    found = tasks(champion=champion)
    assert found[Line.EVOLVER].inputs["champion"] == "f" * 64
    assert found[Line.REINVENTOR].inputs["tokenizer"] == "f" * 64
    base = BaseModel(model="b" * 64, name="whole", format=ModelFormat.RAMIFY, task="language-model", fits="corpus")
    branch = tasks(TOPIC.evolve(base=base))
    assert branch[Line.EVOLVER].inputs["base"] == branch[Line.REINVENTOR].inputs["tokenizer"] == "b" * 64
    assert "tokenizer" not in branch[Line.EVOLVER].inputs
