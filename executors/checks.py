"""A check of somebody's claims: the model is held against its task before it is asked anything.

    readable   its files are a model of a known kind, finite, each tensor of its shape
    structure  kind, settings and data are those of its task (executors/structure.py)
    answers    the outcomes that the claims are compared with; finite
    own data   its loss on a sample of the data that it was given, beside that on data that it never saw

A fault that is the model's own ends the check with a result, not with a failure: the sentence stands in the fact
`structure`, and there are no outcomes. What is wrong with the check itself (its split, this machine) fails as ever. The
store vouches for the bytes of the model, so that a damaged one is its maker's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from executors import outcomes, structure, taken
from executors.data import read_split
from executors.models.loading import SplitRespondent, described
from executors.port import Context, Job, Made
from executors.structure import Trained
from mesh.errors import ArtifactCorrupt, ModelRefused, NonFinite, TaskRefused
from mesh.messages.judgement import Outcomes

if TYPE_CHECKING:
    from executors.device import Device
    from executors.models.loading import Respondent

FAULT_CHARS_MAX = 300


def checked(job: Job, context: Context, answered: Callable[[], Made]) -> Made:
    """What `answered` gives, or the fault of the model."""
    fault, made = "", Made()
    try:
        fault = _held_against(trained_of(job), job)
        made = Made() if fault else answered()
    except (ArtifactCorrupt, ModelRefused, NonFinite) as error:
        fault = f"the model can not be used: {error}"
    if fault:
        context.log(f"the check ends: {fault}")
        return Made(facts={"structure": fault[:FAULT_CHARS_MAX]})
    return made


def trained_of(job: Job) -> Trained:
    """What the check was told of the training. TaskRefused when it can not be read."""
    try:
        return msgspec.convert(job.settings.trained, Trained)
    except msgspec.ValidationError as error:
        raise TaskRefused(f"what the check was told of the training can not be read: {error}") from None


def own_data(job: Job, model: Respondent, found: Outcomes, place: Device, tick: Callable[[], None]) -> dict[str, float]:
    """Loss on a sample of the data that the training was given, and how much lower it is than that of `found`, data
    that it never saw; {} where that can not be asked."""
    if job.settings.trained is None or "train" not in job.inputs or not isinstance(model, SplitRespondent):
        return {}  # of documents it would be read at length, of pairs ranked
    own = structure.sample(read_split(Path(job.inputs["train"])), trained_of(job).task)
    asked = model.outcomes(own, place.torch, tick)
    loss, error = outcomes.mean_loss(asked), math.hypot(_error(asked), _error(found))
    return {"own_loss": loss, "own_gain": outcomes.mean_loss(found) - loss, "own_gain_error": error}


def _error(found: Outcomes) -> float:
    """Standard error of the mean loss."""
    losses = np.frombuffer(found.loss, "<f4").astype(np.float64)
    return float(losses.std() / math.sqrt(len(losses)))


def _held_against(trained: Trained, job: Job) -> str:
    if fault := structure.model_fault(described(Path(job.inputs["model"])), trained):
        return fault
    inputs = {name: Path(path) for name, path in job.inputs.items()}
    rows = taken.read(trained.kind, trained.settings, {**inputs, "validation": inputs["split"]})
    return structure.data_fault(trained, rows) if rows is not None else ""
