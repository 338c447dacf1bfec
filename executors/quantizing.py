"""One task of the kind `quantize`: a model in few bits, and whether that was worth it.

    model ── fold (quantized.py) ── load: fastest ways here ──┐
      └───────────────── the original ────────────────────────┴── the same items, the same batches, in turn
                                                                  quality per item, latency, size ── recommendation

The recommendation is `quantized` when an answer is faster for at least one size of batch and slower for none, and the
loss rises by no more than allowed, the upper end of its 95 % interval included. Else it is `original`, with the reason:
a smaller file that is not faster here may still be what somebody wants, and is delivered either way.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from consensus import comparison
from consensus.evidence import items_of
from executors import device as devices
from executors import modelcard, modelfolder, outcomes, room
from executors.models import likeness, quantized, subjects
from executors.models.likeness import LikenessRespondent
from executors.models.subjects import Subject
from executors.port import Context, Job
from executors.pulse import Pulse
from mesh.errors import DataRefused
from mesh.messages.judgement import Outcomes

SAME = 0.03
"""Share by which two medians may differ and still be called the same."""

WARM_UP = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """What the task has to show."""

    folders: dict[str, Path]
    media: dict[str, str]
    kpis: dict[str, float]
    facts: dict[str, Any]


def make(job: Job, context: Context) -> Made:
    """Fold, measure, recommend. ModelRefused, DataRefused or TaskRefused when the inputs do not fit."""
    settings, source = job.settings, Path(job.inputs["model"])
    place = devices.choose(job.allotment)
    with Pulse(context, "quantizing") as pulse, devices.memory_translated("quantizing"):
        tick = pulse.stop_if_asked
        original = subjects.opened(source)
        items = _items(original, Path(job.inputs["split"]), tick)
        scheme = quantized.scheme_named(settings.scheme, settings.group, settings.symmetric)
        folder = job.scratch / "model"
        layout = room.written(
            context, folder, lambda into: quantized.fold(source, original, scheme, settings.keep, into, tick)
        )
        quantized.write_config(source, folder, {"scheme": settings.scheme})
        found = quantized.load(folder, way=settings.way, batches=settings.batches, scratch=job.scratch, tick=tick)
        pair = (original, found.subject)
        pulse.report(1, 0.4, {})
        answers = [subject.respondent.outcomes(items, place.torch, tick) for subject in pair]
        pulse.report(2, 0.7, {})
        times = {count: _interleaved(pair, items, count, settings, tick) for count in settings.batches}
    facts: dict[str, Any] = {
        "model": original.what, "scheme": settings.scheme, "device": place.name, "threads": place.threads,
        "layers": found.layers, "ways": _told(found), "batch_unit": original.unit, **_changed(layout),
    }  # fmt: skip
    return _delivered(job, context, folder, answers, items, times, facts, original.respondent)


def _items(original: Subject, split: Path, tick: Callable[[], None]) -> Any:
    items = original.respondent.read(split)
    original.respondent.check(items)
    if isinstance(original.respondent, LikenessRespondent):
        items = original.respondent.referred(items, tick)
    return items


def _interleaved(
    pair: tuple[Subject, Subject], items: Any, count: int, settings: Any, tick: Callable[[], None]
) -> tuple[float, float]:
    """Median milliseconds of (original, quantized) for a batch of `count`, each in its turn, whichever was first
    changing every round."""
    batches = [subject.batch(items, count) for subject in pair]
    took: tuple[list[float], list[float]] = ([], [])
    deadline, warm_up = time.monotonic() + settings.latency_s_max, WARM_UP
    for turn in range(WARM_UP + settings.latency_rounds):
        if time.monotonic() >= deadline - 0.75 * settings.latency_s_max:
            warm_up = min(warm_up, turn)  # rounds this long are warm after the first
        for which in ((0, 1), (1, 0))[turn % 2]:
            started = time.perf_counter()
            batches[which]()
            if turn >= warm_up:
                took[which].append((time.perf_counter() - started) * 1000.0)
        tick()
        if took[0] and time.monotonic() >= deadline:
            break
    return statistics.median(took[0]), statistics.median(took[1])


def _told(found: quantized.Loaded) -> dict[str, Any]:
    return {
        shape: {
            "way": chosen.way,
            "why": chosen.why,
            "times_ms": {way: [round(one, 4) for one in took] for way, took in chosen.times_ms.items()},
            "passed_over": chosen.passed_over,
        }
        for shape, chosen in found.ways.items()
    }


def _changed(layout: Mapping[str, Any]) -> dict[str, Any]:
    """How many tensors became what."""
    roles = [told["role"] for told in layout["matrices"].values()]
    return {
        "dense": roles.count(quantized.DENSE),
        "tables": roles.count(quantized.TABLE),
        "kept": len(layout["kept"]),
    }


# -- judging ----------------------------------------------------------------------------------------------------------


def _quality(answers: list[Outcomes], kpis_of: Callable[[Outcomes], dict[str, float]]) -> dict[str, float]:
    """Per-item change of the loss with its interval, and the measures of both."""
    before, after = (items_of(_apart(found)) for found in answers)
    compared = comparison.compare(("quantized", after), ("original", before), comparison.LOSS)
    measured = {
        f"{name}_{whose}": value
        for whose, found in zip(("original", "quantized"), answers, strict=True)
        for name, value in kpis_of(found).items()
    }
    return {
        **measured,
        "loss_rise": 0.0 - compared.effect,
        "loss_rise_low": 0.0 - compared.high,
        "loss_rise_high": 0.0 - compared.low,
        "items": float(compared.items),
    }


def _apart(found: Outcomes) -> Outcomes:
    """Items of one single file count each by itself: what is asked is how these answers change, and one cluster has no
    interval."""
    clusters = np.frombuffer(found.clusters, "<u4")
    if (clusters != clusters[0]).any():
        return found
    return msgspec.structs.replace(found, clusters=np.arange(found.items, dtype="<u4").tobytes())


def recommendation(kpis: Mapping[str, float], times: Mapping[int, tuple[float, float]], allowed: float) -> str:
    """'quantized: why' or 'original: why'."""
    shares = {count: quick / slow for count, (slow, quick) in times.items()}
    told = ", ".join(f"{share:.2f} of its time for {count}" for count, share in shares.items())
    size = f"{kpis['size_share']:.2f} of its size"
    if kpis["loss_rise_high"] > allowed:
        return (
            f"original: the loss may rise by {kpis['loss_rise_high']:.4f}, and {allowed:g} is allowed ({size}, {told})"
        )
    if any(share > 1.0 + SAME for share in shares.values()):
        return f"original: on this machine few bits are slower ({told}); for {size} and the same quality take the other"
    if not any(share < 1.0 - SAME for share in shares.values()):
        return f"original: on this machine few bits gain no time ({told}); for {size} take the other"
    return f"quantized: {told}, {size}, and the loss rises by {kpis['loss_rise_high']:.4f} at most"


def _delivered(
    job: Job,
    context: Context,
    folder: Path,
    answers: list[Outcomes],
    items: Any,
    times: dict[int, tuple[float, float]],
    facts: dict[str, Any],
    respondent: Any,
) -> Made:
    settings, source = job.settings, Path(job.inputs["model"])
    before = _bytes(source)
    kpis = _quality(answers, respondent.kpis)
    kpis |= {"original_bytes": float(before), "weights_share": _weights(folder) / max(1, _weights(source))}
    for count, (slow, quick) in times.items():
        kpis |= {
            f"latency_{count}_original_ms": slow,
            f"latency_{count}_ms": quick,
            f"time_share_{count}": quick / slow,
        }
    kpis["size_share"] = _bytes(folder) / before
    facts["recommendation"] = recommendation(kpis, times, settings.loss_rise_max)
    context.log(facts["recommendation"])
    quantized.write_config(
        source, folder, {"scheme": settings.scheme, "settings": msgspec.to_builtins(settings), "trained": facts}
    )
    (folder / "README.md").write_text(_card(facts, kpis), encoding="utf-8")
    kpis["size_bytes"] = float(_bytes(folder))
    kpis["size_share"] = kpis["size_bytes"] / before
    scratch, folders = job.scratch, {"model": folder}
    for name, found in zip(("original", "claims"), answers, strict=True):
        folders[name] = room.written(context, scratch / name, functools.partial(outcomes.write, found))
    media = {"model": "model", "original": "outcomes", "claims": "outcomes"}
    if isinstance(items, likeness.Compared):
        folders["reference"] = room.written(context, scratch / "reference", lambda into: likeness.write(into, items))
        media["reference"] = "split"
    return Made(folders, media, kpis, facts)


def _bytes(folder: Path) -> int:
    """Of the files that a model consists of; the original's other files do not count."""
    if (folder / quantized.LAYOUT).is_file():
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = sum((folder / name).stat().st_size for name in modelfolder.look(folder).files)
    if not found:
        raise DataRefused("the model's files are empty: copy them anew")
    return found


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _card(facts: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """README.md of a quantized model."""
    ways = [(shape, told["way"], told["why"]) for shape, told in facts["ways"].items()]
    return modelcard.joined(
        modelcard.block(["library_name: ramify", "tags:", "- ramify", "- quantized"]),
        f"# A {facts['model']} in few bits ({facts['scheme']})",
        f"Made by Ramify (kind `quantize`). Recommended: {modelcard.plain(facts['recommendation'])}.",
        "## Measured beside the original, in turn, on the same items",
        modelcard.table(("measure", "value"), [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]),
        f"A batch is so many {facts['batch_unit']}; times are medians in milliseconds with {facts['threads']} "
        "thread(s). `loss_rise` is the mean change per item with its 95 % interval.",
        modelcard.table(("dense layers", "computed by", "why"), ways) if ways else "",
        "## Files and limits",
        "`model.safetensors` holds each matrix NAME as `NAME.q`, `NAME.scale` and `NAME.zero`; `quantization.json` "
        "says how: value = (q - zero) * scale, group by group. Which way computes is chosen anew on each machine.",
    )
