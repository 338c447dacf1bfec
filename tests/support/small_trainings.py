"""A small training of every kind that says which rows its steps took, for those who check it afterwards.

honest     its inputs
other      the same, but other data of the same form in place of its own
checked    what a check reads: the split that it is asked about, and the data that the training was given
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executors import kinds
from executors.child import seed_of
from executors.port import Made
from tests.support.causal_models import write_causal
from tests.support.encoders import write_encoder
from tests.support.executing import Recorder, job_for
from tests.support.pairs import made_up, write_pairs
from tests.support.splits import write_four

TASK = "t1-evolver"

KEPT: dict[str, Any] = {"checkpoint_steps": 8, "checkpoint_overhead": 1.0, "checkpoint_s": 600.0, "compile": "off"}
"""How often checkpoints are taken."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training, as the mesh has it: its result, and its recorded checkpoints, newest first."""

    made: Made
    checkpoints: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Small:
    """A training that takes a second."""

    kind: str
    settings: dict[str, Any]
    honest: Mapping[str, Path]
    other: Mapping[str, Path]
    checked: Mapping[str, Path]
    """Without `split` where the training itself sets it aside: its output `held_out`."""

    def trained(self, folder: Path, inputs: Mapping[str, Path] | None = None, **settings: Any) -> Trained:
        """Train with these inputs (its own), as its task says or otherwise."""
        kind, recorder = kinds.load(self.kind), Recorder(folder / "kept")
        job = job_for(
            kind, inputs or self.honest, folder / "scratch", {**self.settings, **settings}, task=TASK,
            seed=seed_of(TASK),
        )  # fmt: skip
        return Trained(kind.run(job, recorder), tuple(row[0] for row in reversed(recorder.checkpoints)))


NAMES = ("contrastive", "language-model", "lora of labels", "lora of the next token")


def small(name: str, folder: Path) -> Small:
    """The training of that name, with its data below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "contrastive": _contrastive, "language-model": _language, "lora of labels": _labels,
        "lora of the next token": _next,
    }[name](folder)  # fmt: skip


def _contrastive(folder: Path) -> Small:
    own, other = (write_pairs(folder / f"{seed}.jsonl", made_up(240, seed)) for seed in (1, 2))
    settings = {
        **KEPT, "batch": 32, "width": 16, "learning_rate": 0.02, "epochs_max": 3, "warmup_steps": 4,
        "evaluate_every": 5, "dropout": 0.1, "method": "moco", "queue": 64,
    }  # fmt: skip
    return Small("contrastive", settings, {"pairs": own}, {"pairs": other}, {"pairs": own})


def _documents(folder: Path) -> dict[str, Path]:
    for name, seed in (("train", 1), ("other", 4), ("validation", 2)):
        texts = [f"{seed * 7 + number} little ducks went swimming {number} times" for number in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return {name: folder / f"{name}.jsonl" for name in ("train", "other", "validation")}


def _language(folder: Path) -> Small:
    found = _documents(folder)
    settings = {
        **KEPT, "vocabulary": 300, "layers": 1, "width": 16, "heads": 2, "inner": 24, "sequence": 32, "batch": 8,
        "sample_tokens": 0, "steps_max": 24, "evaluate_every": 6, "dropout": 0.1,
    }  # fmt: skip
    return _of_corpora("language-model", settings, found, {})


def _next(folder: Path) -> Small:
    found, base = _documents(folder), write_causal(folder / "base")
    return _of_corpora("lora", {**_adapting(), "task": "language-model", "tokens_max": 32}, found, {"base": base})


def _of_corpora(kind: str, settings: dict[str, Any], found: dict[str, Path], more: dict[str, Path]) -> Small:
    given = {"train": found["train"], "validation": found["validation"], **more}
    checked = {"train": found["train"], "split": found["validation"], **more}
    return Small(kind, settings, given, {**given, "train": found["other"]}, checked)


def _labels(folder: Path) -> Small:
    words = {"cat": "purr", "cow": "moo", "dog": "bark"}
    base = write_encoder(folder / "base", words=("the", "is", *words.values()))
    y = [row % 3 for row in range(240)]
    texts = [f"the {list(words.values())[label]} is {row}" for row, label in enumerate(y)]
    splits = write_four(folder / "splits", texts, y, sorted(words))
    given = {"base": base, "train": splits / "train", "validation": splits / "validation"}
    checked = {"base": base, "train": splits / "train", "split": splits / "validation"}
    return Small("lora", _adapting(), given, {**given, "train": splits / "holdout"}, checked)


def _adapting() -> dict[str, Any]:
    return {
        **KEPT, "batch": 16, "learning_rate": 5e-3, "steps_max": 20, "evaluate_every": 5, "warmup_steps": 2,
        "targets": ["all-linear"], "precision": "fp32",
    }  # fmt: skip
