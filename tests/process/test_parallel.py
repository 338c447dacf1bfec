"""Two processes train one network as one process does, stop together, and go on exactly; whole copies and shards."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from executors import gathering
from executors.frames import Start
from executors.kinds.classify import Classify
from executors.port import Allotment, Made, Stopped
from mesh.errors import DataRefused, OutOfMemory, Retry, TaskRefused
from tests.support.executing import Recorder, job_for
from tests.support.splits import write_four

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "architecture": "deep", "hidden": [12, 8], "linear_path": False, "batch": 30, "micro_batch": 8, "epochs_max": 3,
    "dropout": 0.0, "feature_dropout": 0.0, "learning_rate": 0.01, "checkpoint_s": 3600.0,
}  # fmt: skip

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = np.random.default_rng(3)
    rows = drawn.normal(size=(160, 5)).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] ** 2 > 0.8).astype(int).tolist()
    return write_four(tmp_path_factory.mktemp("parallel") / "splits", rows, labels, ["no", "yes"], list("abcde"))


@pytest.fixture(autouse=True)
def _peers_find_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def trained(
    splits: Path,
    folder: Path,
    *,
    stop: Callable[[int], str] = lambda polls: "",
    resume: Path | None = None,
    **more: Any,
) -> tuple[Made, Recorder]:
    """The first process, in this one, and its peers."""
    settings: Mapping[str, Any] = {**SETTINGS, **more}
    inputs = {"train": splits / "train", "validation": splits / "validation"}
    processes = int(settings.get("processes", 1))
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    start = Start(
        run=1, task="test-classify", kind="classify", kind_version=Classify.version, settings=dict(settings),
        inputs={name: str(path) for name, path in inputs.items()}, scratch=str(scratch), cores=2.0,
        memory_bytes=4 << 30, budget_s=600.0, resume=str(resume or ""),
    )  # fmt: skip
    recorder = Recorder(folder / "kept", stop)
    with gathering.gathered(start, processes) as meeting:
        allotment = Allotment(cores=2.0, memory_bytes=4 << 30, processes=processes, meeting=meeting)
        job = job_for(Classify(), inputs, scratch, settings, allotment=allotment, resume=resume, seed=seed())
        return Classify().run(job, recorder), recorder


def seed() -> int:
    """That of the task, which the peers derive from its name."""
    from executors.child import seed_of

    return seed_of("test-classify")


def weights(made: Made) -> dict[str, Any]:
    return {
        name: array
        for name, array in load_file(made.outputs["model"] / "model.safetensors").items()
        if "network" in name
    }


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_do_what_one_does_and_go_on_exactly(sharding: str, splits: Path, tmp_path: Path) -> None:
    alone, _ = trained(splits, tmp_path / "alone")
    team = {"processes": 2, "sharding": sharding}
    both, _ = trained(splits, tmp_path / "both", **team)
    assert both.facts["steps"] == alone.facts["steps"] == 12
    expected, found = weights(alone), weights(both)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-6, err_msg=name)
    assert both.kpis["validation_loss"] == pytest.approx(alone.kpis["validation_loss"], rel=1e-4)

    recorder = Recorder(tmp_path / "unused")
    with pytest.raises(Stopped):
        _, recorder = trained(splits, tmp_path / "cut", stop=lambda polls: "checkpoint" if polls > 17 else "", **team)
    kept = sorted((tmp_path / "cut" / "kept").iterdir())[-1]
    again, _ = trained(splits, tmp_path / "again", resume=kept, **team)
    assert again.exact
    assert (again.facts["trace"], again.facts["state"]) == (both.facts["trace"], both.facts["state"])
    assert recorder.checkpoints == []


def test_a_peer_that_fails_is_what_the_first_process_says(splits: Path, tmp_path: Path) -> None:
    from executors import parallel

    (tmp_path / "failed-1.json").write_text(json.dumps({"rank": 1, "class": "memory", "reason": "no room"}))
    with pytest.raises(OutOfMemory, match="process 1 of the team: no room"), parallel.said_why(str(tmp_path)):
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(Retry, match="lost each other"), parallel.said_why(""):
        raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4711")
    with pytest.raises(RuntimeError, match="a defect"), parallel.said_why(""):
        raise RuntimeError("a defect")


def peers() -> list[psutil.Process]:
    """Live peers of this process; one that has ended and is not yet waited for is none."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie counts as one, too
            if "executors.peer" in one.cmdline():
                found.append(one)
    return found


def test_a_peer_that_is_killed_ends_the_training_at_once(splits: Path, tmp_path: Path) -> None:
    def kill_once(polls: int) -> str:
        if polls == 12:
            (peer,) = peers()
            assert os.getpgid(peer.pid) == os.getpgid(0), "who ends the group ends it, too"
            peer.kill()
        return ""

    with pytest.raises(Retry, match="lost each other"):
        trained(splits, tmp_path, stop=kill_once, processes=2, epochs_max=500, patience=1_000)
    assert peers() == []


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_batch_is_shared_out_once_and_in_as_many_parts_everywhere(processes: int, most: int) -> None:
    import torch

    from executors import parallel

    for count in range(1, 40):
        rows = np.arange(count) * 3
        shares = [
            parallel._Together(rank, processes, torch.device("cpu"), 1).parts(rows, most) for rank in range(processes)
        ]
        assert np.array_equal(np.concatenate([part for share in shares for part in share]), rows)
        numbers = {len(share) for share in shares}
        assert len(numbers) == 1 or (count < processes and numbers == {0, 1})
        assert max(len(part) for share in shares for part in share) <= most + 1


def test_what_can_not_be_shared_out_is_refused_before_training(tmp_path: Path) -> None:
    from executors import parallel
    from executors.trainable import Base

    class Contrastive(Base):
        rows = 61

        def moved(self) -> None:
            """A queue moves."""

    class Plain(Base):
        rows = 61

    def job(**changes: Any) -> Any:
        settings = {"batch": 30, **changes.pop("settings", {})}
        allotment = Allotment(cores=2.0, memory_bytes=1 << 30, processes=2, **changes)
        return job_for(Classify(), {}, tmp_path / "scratch", settings, allotment=allotment)

    with pytest.raises(TaskRefused, match="brings its own moved"):
        parallel.refuse_lonely(job(), Contrastive())  # type: ignore[arg-type]
    with pytest.raises(TaskRefused, match="1 are leased"):
        parallel.refuse_lonely(job(gpus=1), Plain())  # type: ignore[arg-type]
    with pytest.raises(DataRefused, match="has 1 examples, fewer than the 2 processes"):
        parallel.refuse_lonely(job(settings={"sharding": "full"}), Plain())  # type: ignore[arg-type]
    parallel.refuse_lonely(job(), Plain())  # type: ignore[arg-type]
