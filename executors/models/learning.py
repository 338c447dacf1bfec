"""One training task of `classify`, from its inputs to its outputs.

    splits ── features (fitted on train, or the champion's) ── network ── trainer ── temperature ── model, claims

A run from the champion keeps its features, its architecture and its labels (new ones are appended); the champion itself
is evaluated first, so that the result is never worse on validation than what it started from.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from executors import checkpoint, features, modelcard, outcomes
from executors import device as devices
from executors.data import Split, read_split
from executors.device import Device
from executors.models import classifier as classifiers
from executors.models import store
from executors.models.choices import Choices, choose
from executors.models.classifier import Classifier, indices_of
from executors.models.learner import ClassifierLearner, Part
from executors.models.network import Network, Shape, continued
from executors.models.probabilities import check_finite, fitted_temperature, log_softmax
from executors.ngrams import Ngrams
from executors.port import Context, Job
from executors.trainer import Finished, Recipe, Trainer
from mesh.errors import TaskRefused


@dataclasses.dataclass(frozen=True, slots=True)
class Learned:
    """What a training task has to show."""

    model: Path
    claims: Path
    kpis: dict[str, float]
    facts: dict[str, Any]
    stopped_by: str
    exact: bool


def learn(job: Job, context: Context) -> Learned:
    """Train as the job says. TaskRefused or DataRefused when its inputs do not fit together."""
    splits = {name: read_split(Path(job.inputs[name])) for name in ("train", "validation")}
    if splits["train"].schema.features != splits["validation"].schema.features:
        raise TaskRefused(
            "the training and the validation split have different columns: they come from different datasets"
        )
    place = devices.choose(job.allotment, job.settings.precision)
    context.log(f"computes on {place.name} in {place.precision} with {place.threads} threads: {place.reason}")
    checkpoint.seed_generators(job.seed)
    start = _champion(job)
    schema, rows = splits["train"].schema, len(splits["train"])
    choices = choose(job.settings, schema.modality, rows, len(schema.labels), continued=start is not None)
    with devices.memory_translated("preparing the features"):
        model = _continue(start, splits, choices) if start else _begin(job, context, splits["train"], choices)
        parts = {name: _part(model, split, context) for name, split in splits.items()}
    model.network.to(place.torch)
    learner = ClassifierLearner(model, parts["train"], parts["validation"], place.torch, choices.label_smoothing)
    trainer = Trainer(
        learner, _recipe(job, choices), place, context, job.scratch / "checkpoints", number=job.checkpoint_number
    )
    if job.resume is not None:
        trainer.resume(job.resume, job.trained_s)
    finished = trainer.run()
    return _deliver(job, context, learner, splits["validation"], choices, place, finished)


def _champion(job: Job) -> Classifier | None:
    return classifiers.load(Path(job.inputs["champion"])) if job.inputs.get("champion") else None


def _begin(job: Job, context: Context, train: Split, choices: Choices) -> Classifier:
    """A new classifier for the training split."""
    settings, tick = job.settings, _tick(context)
    found: features.Features
    if train.schema.modality == "text":
        ngrams = Ngrams(word_max=settings.word_max, char_min=settings.char_min, char_max=settings.char_max)
        found = features.fit_text(
            train, ngrams, documents_min=choices.documents_min, features_max=choices.features_max, tick=tick
        )
    else:
        found = features.fit_table(train)
    labels = train.schema.labels
    wide = choices.architecture != "deep"
    shape = Shape(found.width, len(labels), train.schema.modality == "text", wide, choices.hidden)
    network = Network(shape, dropout=choices.dropout, feature_dropout=choices.feature_dropout)
    return Classifier(found, network, labels, choices.architecture)


def _continue(start: Classifier, splits: dict[str, Split], choices: Choices) -> Classifier:
    """The champion, with the labels that it does not know yet appended."""
    schema = splits["train"].schema
    if schema.modality != start.features.modality:
        raise TaskRefused(
            f"the champion reads {start.features.modality} data, the split is {schema.modality}: start anew"
        )
    labels = (*start.labels, *(label for label in schema.labels if label not in start.labels))
    network = continued(
        start.network, start.labels, labels, dropout=choices.dropout, feature_dropout=choices.feature_dropout
    )
    return Classifier(start.features, network, labels, start.architecture)


def _part(model: Classifier, split: Split, context: Context) -> Part:
    return Part(model.encode(split, _tick(context)), indices_of(split, model.labels))


def _tick(context: Context) -> Any:
    return lambda: context.progress(0, 0.0, {}, "features")


def _recipe(job: Job, choices: Choices) -> Recipe:
    settings = job.settings
    return Recipe(
        batch=choices.batch,
        micro_batch=devices.micro_batch(choices.batch, job.memory_attempts),
        learning_rate=choices.learning_rate,
        weight_decay=choices.weight_decay,
        warmup_steps=settings.warmup_steps,
        epochs_max=choices.epochs_max,
        evaluate_every=choices.evaluate_every,
        patience=settings.patience,
        clip=settings.clip,
        budget_s=job.budget_s,
        seed=job.seed,
        checkpoint_s=settings.checkpoint_s,
        checkpoint_steps=settings.checkpoint_steps,
    )


def _deliver(
    job: Job,
    context: Context,
    learner: ClassifierLearner,
    validation: Split,
    choices: Choices,
    place: Device,
    finished: Finished,
) -> Learned:
    """Calibrate, claim, describe and store."""
    model = learner.classifier
    context.progress(finished.state.step, 1.0, {}, "claims")
    logits = model.logits(learner.validation.encoded, place.torch)
    known = np.flatnonzero(learner.validation.labels >= 0)
    model.temperature = fitted_temperature(logits[known], learner.validation.labels[known])
    log_probabilities = log_softmax(logits / np.float32(model.temperature))
    check_finite(log_probabilities)
    claims = outcomes.outcomes_of(validation, log_probabilities, model.labels)
    facts = _facts(job, learner, choices, place, finished)
    kpis = {
        "validation_accuracy": outcomes.accuracy(claims),
        "validation_loss": outcomes.mean_loss(claims),
        "train_examples_per_s": finished.examples_per_s,
        "epochs": finished.state.step * finished.state.batch / finished.state.rows,
        "parameters": float(model.network.parameter_count()),
    }
    stored = {"kind": job.kind, "settings": msgspec.to_builtins(job.settings), "trained": facts}
    card = modelcard.card(classifiers.described(model, stored), kpis)
    folder = model.save(job.scratch / "model", stored, card)
    kpis["size_bytes"] = float(store.size_bytes(folder))
    claimed = outcomes.write(claims, job.scratch / "claims")
    return Learned(folder, claimed, kpis, facts, finished.stopped_by, finished.state.exact)


def _facts(job: Job, learner: ClassifierLearner, choices: Choices, place: Device, finished: Finished) -> dict[str, Any]:
    state = finished.state
    facts: dict[str, Any] = {
        "architecture": learner.classifier.architecture,
        "choices": {name: list(value) if isinstance(value, tuple) else value for name, value in _rows(choices)},
        "features": learner.classifier.features.width,
        "device": {"name": place.name, "precision": place.precision, "threads": place.threads, "reason": place.reason},
        "steps": state.step,
        "best_step": state.best_step,
        "trained_s": round(state.trained_s, 3),
        "checkpoints_skipped": finished.checkpoints_skipped,
        "trace": state.trace.hex(),
    }
    if job.memory_attempts:
        facts["micro_batch"] = devices.micro_batch(choices.batch, job.memory_attempts)
    if state.differed:
        facts["fingerprint"] = state.differed
    if job.inputs.get("champion"):
        facts["continued"] = {"improved": state.best_step > 0, "start_accuracy": state.history[0][3]}
        if state.best_step == 0:
            facts["continued"]["note"] = "no step was better on validation than the champion it started from"
    return facts


def _rows(choices: Choices) -> list[tuple[str, Any]]:
    return list(dataclasses.asdict(choices).items())
