"""Two processes that hold a share of every layer train one language model as one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from executors import gathering
from executors.child import seed_of
from executors.frames import Start
from executors.kinds.language_model import LanguageModel
from executors.port import Allotment, Made
from tests.support.executing import Recorder, job_for

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "layers": 2, "width": 16, "heads": 2, "inner": 24, "sequence": 16, "vocabulary": 300, "batch": 7, "micro_batch": 2,
    "steps_max": 6, "evaluate_every": 3, "warmup_steps": 2, "learning_rate": 0.01, "dropout": 0.0, "sample_tokens": 5,
    "compile": "off",
}  # fmt: skip

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def trained(corpus: Path, folder: Path, **more: Any) -> Made:
    """The first process, in this one, and its peers."""
    settings = {**SETTINGS, **more}
    processes = int(settings.get("processes", 1))
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    start = Start(
        run=1, task="test-language", kind="language-model", kind_version=1, settings=settings,
        inputs={"train": str(corpus)}, scratch=str(scratch), cores=2.0, memory_bytes=4 << 30, budget_s=600.0,
    )  # fmt: skip
    with gathering.gathered(start, processes) as meeting:
        allotment = Allotment(cores=2.0, memory_bytes=4 << 30, processes=processes, meeting=meeting)
        job = job_for(
            LanguageModel(), {"train": corpus}, scratch, settings, allotment=allotment, seed=seed_of("test-language")
        )
        return LanguageModel().run(job, Recorder(folder / "kept"))


def test_two_processes_end_where_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": f"line {n} of {n * n % 97} is like {n % 7}"}) for n in range(120)))
    alone = trained(corpus, tmp_path / "alone")
    both = trained(corpus, tmp_path / "both", processes=2, sharding="full")
    one, two = (load_file(made.outputs["model"] / "model.safetensors") for made in (alone, both))
    assert one.keys() == two.keys()
    assert all(np.allclose(tensor, two[name], atol=2e-5) for name, tensor in one.items())
    assert both.kpis["validation_bits_per_byte"] == pytest.approx(alone.kpis["validation_bits_per_byte"], rel=1e-4)
