"""Evaluate: per-item outcomes of a model on a split, and how long one answer takes.

In:    `model`, `split`; `base`, where the model is an adapter: what it adapts; of a check the data that the model's
       training was given: `train`, or `pairs` and perhaps `held_out`
Out:   `outcomes`, and of a tree the fact `by_branch` (items, mean loss, deviation); of a check whose model is not what
       its task asked for none, and the fact `structure` says why
Says:  `size_bytes` of an adapter with what it adapts: only together they answer
First: structural checks: the files are a model, every tensor is finite and has its shape, the split has examples and
       they are of the modality and the columns that the model reads, it knows at least one of their labels
How:   executors/models/loading.py finds what the model's kind takes to ask it
Not:   compares nothing, and says nothing about who should win
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.device import Device
    from executors.models.loading import Respondent

MIB = 1024 * 1024

TREE = "tree"
"""The kind whose models have branches."""


class EvaluateSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to measure."""

    latency_items: int = 200
    """Single answers that are timed (0: none); the same example may be asked again."""
    latency_s_max: float = 3.0
    """Time after which no further answer is timed."""
    trained: dict[str, Any] | None = None
    """Of a check: what the mesh knows of the training (executors/structure.py, `Trained`). The model is held against
    it, and its loss on `train` against that on the split."""

    def __post_init__(self) -> None:
        if not 0 <= self.latency_items <= 100_000 or not 0 < self.latency_s_max <= 600:
            raise ValueError("latency_items is 0 to 100000, latency_s_max up to 600")


class Evaluate:
    """The kind `evaluate`."""

    name: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("model", "split"), ("base", "train", "pairs", "held_out"))
    Settings: ClassVar[type[port.Settings]] = EvaluateSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch, the model twice, and the encoded split. facts: the profile's, or `input_bytes`,
        by input."""
        given = facts.get("input_bytes") or {}
        rows, labels = int(facts.get("examples") or facts.get("rows") or 10_000), int(facts.get("labels") or 10)
        size = int(given.get("split") or facts.get("bytes") or rows * 200)
        width = int(facts.get("features") or 100) if facts.get("modality") == "tabular" else min(200_000, size // 4)
        usual = 4 * width * (2 * labels + 256)  # the network, and the linear path beside it
        model = sum(int(given.get(name, 0)) for name in ("model", "base")) or usual
        return Needs(cores=1.0, memory_bytes=512 * MIB + 2 * model + 8 * size, disk_bytes=64 * MIB + model + size)

    def run(self, job: Job, context: Context) -> Made:
        """Check, answer every item, time single answers."""
        from executors import checks
        from executors import device as devices

        place = devices.choose(job.allotment)
        if job.settings.trained is None:
            return _answered(job, context, place)
        return checks.checked(job, context, lambda: _answered(job, context, place))


def _answered(job: Job, context: Context, place: Device) -> Made:
    from executors import checks, outcomes, room
    from executors import device as devices
    from executors.data import digest_of
    from executors.models import store
    from executors.models.loading import described, is_plain, load_model

    model_folder, split_folder = Path(job.inputs["model"]), Path(job.inputs["split"])
    base = Path(job.inputs["base"]) if "base" in job.inputs else None
    model = load_model(model_folder, base, job.scratch)
    items = model.read(split_folder)
    model.check(items)
    tick = _ticker(context)
    with devices.memory_translated("evaluating"):
        model.to(place.torch)
        digests = {"model": digest_of(model_folder), "split": digest_of(split_folder)}
        found = model.outcomes(items, place.torch, tick, **digests)
        own = checks.own_data(job, model, found, place, tick)
    kpis = {
        **model.kpis(found),
        **own,
        "size_bytes": float(sum(store.size_bytes(folder) for folder in (model_folder, base) if folder)),
        "items": float(found.items),
        **_latencies(model, items, place, job.settings, tick),
    }
    folder = room.written(context, job.scratch / "outcomes", lambda place: outcomes.write(found, place))
    facts: dict[str, Any] = {"device": place.name, "precision": place.precision, "reason": place.reason}
    if schema := getattr(items, "schema", None):
        facts["split"] = schema.split
    if not is_plain(model_folder) and described(model_folder).get("kind") == TREE:
        from executors.models.treebranches import losses_by_branch

        facts["by_branch"] = losses_by_branch(model, items, found)
    return Made(outputs={"outcomes": folder}, media={"outcomes": "outcomes"}, kpis=kpis, facts=facts)


def _ticker(context: Context) -> Callable[[], None]:
    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped while evaluating as asked: {why}")
        context.progress(0, 0.5, {}, "evaluation")

    return tick


def _latencies(
    model: Respondent, items: Any, place: Device, settings: Any, tick: Callable[[], None]
) -> dict[str, float]:
    """Milliseconds from raw input to answer, one item at a time. The items go round in turn, after a warm-up that does
    not count, so that no cache of one item makes it look fast."""
    import numpy as np

    if settings.latency_items == 0:
        return {}
    took: list[float] = []
    warm_up, deadline = min(10, settings.latency_items), time.monotonic() + settings.latency_s_max
    for turn in range(warm_up + settings.latency_items):
        started = time.perf_counter()
        model.answer(items, turn * 7919, place.torch)
        if turn >= warm_up:
            took.append((time.perf_counter() - started) * 1000.0)
        if turn % 50 == 0:
            tick()
        if took and time.monotonic() >= deadline:
            break
    return {f"latency_p{share}_ms": float(np.percentile(took, share)) for share in (50, 95)}
