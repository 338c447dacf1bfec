"""The task `embed`, from splits to their vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from executors import device as devices
from executors import room
from executors.data import Split, read_split
from executors.models import encoder as encoders
from executors.models import vectors
from executors.models.encoder import Encoder
from executors.port import Context, Job, Made, Stopped
from mesh.errors import TaskRefused


def embed(job: Job, context: Context, names: Sequence[str]) -> Made:
    """Vectors of the splits among the inputs. TaskRefused, DataRefused, ModelRefused when they are none."""
    if not names or "encoder" not in job.inputs:
        raise TaskRefused("embed needs an `encoder` and a split among its inputs: train, validation, holdout or audit")
    place = devices.choose(job.allotment, job.settings.precision)
    context.log(f"encodes on {place.name} in {place.precision} with {place.threads} threads: {place.reason}")
    splits = {name: read_split(Path(job.inputs[name])) for name in names}
    for name, split in splits.items():
        if split.schema.modality != "text":
            raise TaskRefused(f"a sentence encoder reads texts, and the {name} split is {split.schema.modality}")
    with devices.memory_translated("encoding"):
        precision = "bf16" if place.precision == "bf16" else "fp32"
        encoder = encoders.load(Path(job.inputs["encoder"]), tokens_max=job.settings.tokens_max, precision=precision)
        encoder.network.to(place.torch)
        return _made(job, context, splits, encoder)


def _made(job: Job, context: Context, splits: dict[str, Split], encoder: Encoder) -> Made:
    texts = sum(map(len, splits.values()))
    began, done, outputs = time.monotonic(), 0, {}
    for name, split in splits.items():

        def tick(done: int = done) -> None:
            if why := context.stop_requested():
                raise Stopped(f"stopped while encoding as asked: {why}")
            context.progress(done, done / texts, {}, "encodes texts")

        matrix = encoder.encode(split.texts, tick)
        done += len(split)

        def write(folder: Path, split: Split = split, matrix: vectors.Floats = matrix) -> Path:
            return vectors.write(folder, split, matrix, encoder)

        outputs[f"{name}_vectors"] = room.written(context, job.scratch / f"{name}_vectors", write, step=done)
    took_s = time.monotonic() - began
    return Made(
        outputs=outputs,
        media=dict.fromkeys(outputs, "vectors"),
        kpis={"texts": float(texts), "texts_per_s": texts / max(1e-9, took_s), "width": float(encoder.width)},
        facts={"encoder": encoder.digest, "tokens_max": encoder.tokens_max, "precision": encoder.precision},
    )
