"""How the tests of datasets write a file and profile it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from executors.kinds.profile import Profile, ProfileSettings
from executors.port import Allotment, Job, Made
from mesh.errors import DataRefused
from tests.support.executing import Unpacked


@dataclasses.dataclass
class Watching(Unpacked):
    """A context that keeps what it is told; asks to stop after `stop_after` reports."""

    stop_after: int | None = None
    stop_as: str = "checkpoint"
    reports: list[tuple[int, float, str]] = dataclasses.field(default_factory=list)
    checkpoints: list[tuple[Path, int, float]] = dataclasses.field(default_factory=list)

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        self.reports.append((step, done, phase))

    def checkpoint(self, folder: Path, *, number: int, step: int, best: bool, trained_s: float) -> None:
        self.checkpoints.append((folder, number, trained_s))

    def stop_requested(self) -> str:
        return self.stop_as if self.stop_after is not None and len(self.reports) >= self.stop_after else ""

    def log(self, text: str) -> None:
        pass


def job(
    scratch: Path, settings: Any, kind: str = "profile", inputs: Mapping[str, str] | None = None, **more: Any
) -> Job:
    """A task's job with everything that a kind may look at."""
    scratch.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "task": "t-1",
        "kind": kind,
        "settings": settings,
        "inputs": inputs or {},
        "scratch": scratch,
        "allotment": Allotment(cores=1.0, memory_bytes=1 << 30),
        "budget_s": 60.0,
        "trained_s": 0.0,
        "resume": None,
        "checkpoint_number": 0,
        "memory_attempts": 0,
        "seed": 7,
    }
    return Job(**{**values, **more})


def profile(source: Path | str, tmp_path: Path, **settings: Any) -> Made:
    """Run the kind `profile` on a file, folder or built-in."""
    scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
    return Profile().run(job(scratch, ProfileSettings(**settings), inputs={"data": str(source)}), Watching())


def refused(source: Path | str, tmp_path: Path, **settings: Any) -> DataRefused:
    """The refusal of a dataset; it is one line of text."""
    with pytest.raises(DataRefused) as caught:
        profile(source, tmp_path, **settings)
    assert "\n" not in str(caught.value)
    return caught.value


def texts_of(split: Path) -> list[str]:
    """The texts of a split artifact."""
    tensors = load_file(split / "examples.safetensors")
    data, ends = tensors["text"].tobytes(), tensors["text_offsets"]
    return [data[start:end].decode() for start, end in itertools.pairwise(ends)]


def tensors_of(split: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of a split artifact."""
    return dict(load_file(split / "examples.safetensors"))


def questions(count: int = 240, labels: tuple[str, ...] = ("card", "loan", "fees")) -> list[tuple[str, str]]:
    """Different made-up questions with their labels."""
    return [
        (f"what about the {labels[k % len(labels)]} number {k} please", labels[k % len(labels)]) for k in range(count)
    ]


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("text", "label"), separator: str = ",") -> str:
    """Rows as a delimited text, quoted where needed."""

    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if set(text) & {separator, '"', "\n", "\r"} else text

    return "".join(separator.join(map(cell, row)) + "\n" for row in [*([header] if header else []), *rows])


def written(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    """`path` with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path
