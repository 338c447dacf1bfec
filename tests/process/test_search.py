"""A study over real workers: trials side by side in one log, each its own, and a search that one command runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from executors import kinds
from executors.kinds.profile import Profile
from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.messages.commands import Submit
from mesh.messages.results import TaskEnded
from mesh.messages.studies import StudyEntry
from mesh.messages.tasks import TaskSpec
from tests.support.executing import made_by
from tests.support.fleet import SUBJECTS, Fleet, fleet

pytestmark = pytest.mark.process

TRIALS = 6

SEARCH: dict[str, Any] = {
    "study": "digits",
    "kind": "classify",
    "space": {
        "learning_rate": {"type": "log-float", "low": 1e-6, "high": 3e-2},
        "hidden": {"type": "categorical", "choices": [[16], [32, 16]]},
    },
    "fixed": {"architecture": "deep", "epochs_max": 3, "evaluate_every": 10, "compile": "off", "linear_path": False},
    "metric": "validation_loss",
    "random_trials": 3,
    "pruner_trials": 2,
    "pruner_steps": 20,
}


async def stored_splits(there: Fleet, folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The digits' splits in the mesh, and what their profile says."""
    made = made_by(Profile(), {"data": Path("builtin:digits")}, folder / "profile")
    store = ArtifactStore(there.broker, SUBJECTS, cache=folder / "cache", cache_bytes_max=1 << 30)
    stored = {name: await store.put(made.outputs[name], media="split") for name in ("train", "validation")}
    return stored, dict(made.facts)


async def test_two_workers_run_the_trials_of_one_study(tmp_path: Path) -> None:
    async with fleet(tmp_path, RAMIFY_WORKER_CORES="1", RAMIFY_WORKER_MEMORY_BYTES=str(4 << 30)) as there:
        await asyncio.gather(*(there.start_worker(name) for name in ("w1", "w2")))
        inputs, facts = await stored_splits(there, tmp_path)
        needs = kinds.needs_of("search-step", SEARCH, facts)
        assert needs is not None
        tasks = tuple(
            TaskSpec(
                id=f"trial{number}", topic="search", executor="search-step", settings=SEARCH, inputs=inputs,
                needs=needs, budget_s=60.0,
            )
            for number in range(TRIALS)
        )  # fmt: skip
        submit = Submit(id="submit-search", topic="search", tasks=tasks)
        await there.broker.append(SUBJECTS.command("test", "submit", submit.id), codec.encode(submit), subject_seq=0)
        ended = [await there.ended(task.id) for task in tasks]
        records = [search_of(one) for one in ended]
        entries = await there.broker.read("MESH_STUDIES", SUBJECTS.study("digits"), messages_max=5_000)
    assert sorted(one["trial"] for one in records) == list(range(TRIALS))
    assert {one["state"] for one in records} <= {"complete", "pruned"}
    assert sum(one["state"] == "complete" for one in records) >= 2
    written = {codec.decode(one.data, StudyEntry).by.split(".")[0] for one in entries}
    assert written == {"w1", "w2"}
    best = min((one for one in records if one["state"] == "complete"), key=lambda one: one["value"])
    last = max(records, key=lambda one: sum(one["trials"].get(state, 0) for state in ("complete", "pruned")))
    assert last["best"]["value"] == best["value"]
    assert last["best"]["settings"] == best["settings"]
    for one, record in zip(ended, records, strict=True):
        assert one.outcome is not None
        assert ("model" in one.outcome.outputs) == (record["state"] == "complete")
        assert "trial" in one.outcome.outputs


def search_of(ended: TaskEnded) -> dict[str, Any]:
    """What a trial's result says of it."""
    assert ended.outcome is not None, ended.reason
    found = ended.outcome.facts["search"]
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found)) == found
    return found
