"""One training task of `classify`, from its inputs to its outputs.

    splits ── features ── network ── trainer ── linear path, blend ── temperature ── model, claims
              (fitted on train,                 (answering.py)
              or the champion's)

A run from the champion, or from a base model, keeps its features, its architecture and its labels (new ones are
appended); that model itself is measured, too, so that the result is never worse on validation than what it came from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from executors import device as devices
from executors import features, modelcard, outcomes, room, structure, taken, training
from executors.data import Split, digest_of, read_split
from executors.device import Device
from executors.models import answering, encoding, store
from executors.models import classifier as classifiers
from executors.models.answering import Answer
from executors.models.choices import Choices, choose
from executors.models.classifier import Classifier, indices_of
from executors.models.encoded import EncoderFeatures
from executors.models.learner import ClassifierLearner, Part, weights_of
from executors.models.linear import ABSENT_BIAS
from executors.models.network import Network, Shape, continued
from executors.models.probabilities import check_finite, fitted_temperature, log_softmax
from executors.ngrams import Ngrams
from executors.port import Context, Job, Made
from executors.recipe import Recipe
from executors.trainer import Finished
from mesh.errors import TaskRefused


def learn(job: Job, context: Context) -> Made:
    """Train as the job says. TaskRefused or DataRefused when its inputs do not fit together."""
    splits = {name: read_split(Path(job.inputs[name])) for name in ("train", "validation")}
    if splits["train"].schema.features != splits["validation"].schema.features:
        raise TaskRefused(
            "the training and the validation split have different columns: they come from different datasets"
        )
    place = training.begin(job, context)
    start = _start(job)
    schema, rows = splits["train"].schema, len(splits["train"])
    with devices.memory_translated("preparing the encoder"):
        start, read = encoding.read_by(job, context, splits, start, place)
    if read is not None and read.tuned:  # a linear path over vectors that still change would be fitted for nothing
        job = dataclasses.replace(job, settings=msgspec.structs.replace(job.settings, linear_path=False))
    form = encoding.form(read) or schema.modality
    choices = choose(job.settings, form, rows, len(schema.labels), continued=start is not None)
    with devices.memory_translated("preparing the features"):
        model = _continue(start, splits, choices) if start else _begin(job, context, splits["train"], choices, read)
    model.to(place.torch)
    finished = _trained(job, context, model, splits, choices, place)
    before = None
    if start is not None and form != "tuned":
        before = _as_it_was(start, model.labels).to(place.torch)
    with devices.memory_translated("fitting the linear path"):
        answer = answering.settle(job, context, model, before, splits, place.torch, finished.state.trained_s)
    if start is not None and form == "tuned":  # the first validation was that of the model to go on from
        seen = {**answer.facts, "before": {"accuracy": finished.state.history[0][3]}}
        answer = dataclasses.replace(answer, kept_champion=finished.state.best_step == 0, facts=seen)
    return _deliver(job, context, answer, splits, choices, place, finished)


def _trained(
    job: Job, context: Context, model: Classifier, splits: dict[str, Split], choices: Choices, place: Device
) -> Finished:
    """Train the model's network; the encoded splits are given up afterwards, the linear path needs their room."""
    if isinstance(model.features, EncoderFeatures) and model.features.tuned:
        with devices.memory_translated("preparing the features"):
            tuned = encoding.learner(job, context, model, splits, choices, place)
        return training.train(job, context, tuned, _recipe(job, choices), place)
    with devices.memory_translated("preparing the features"):
        train, validation = (_part(model, splits[name], context) for name in ("train", "validation"))
    weights = weights_of(train.labels, len(model.labels), job.settings.balance)
    weights = weights.to(place.torch) if weights is not None else None
    learner = ClassifierLearner(model, train, validation, place.torch, choices.label_smoothing, weights)
    return training.train(job, context, learner, _recipe(job, choices), place)


def _start(job: Job) -> Classifier | None:
    """The model to go on from: a topic's base model stands before the champion."""
    folder = job.inputs.get("base") or job.inputs.get("champion")
    return classifiers.load(Path(folder)) if folder else None


def _begin(job: Job, context: Context, train: Split, choices: Choices, read: EncoderFeatures | None) -> Classifier:
    """A new classifier for the training split. read: the features, where they come from an encoder."""
    found: features.Features
    found, inputs = (read, read.width) if read else _fitted_features(job, train, choices, _tick(context))
    labels = train.schema.labels
    wide = choices.architecture != "deep"
    shape = Shape(inputs, len(labels), found.sparse, wide, choices.hidden)
    network = Network(shape, dropout=choices.dropout, feature_dropout=choices.feature_dropout)
    return Classifier(found, network, labels, choices.architecture)


def _fitted_features(
    job: Job, train: Split, choices: Choices, tick: Callable[[], None]
) -> tuple[features.Features, int]:
    """The features of a training split, and how many of them the network reads. The linear path reads all of them: the
    n-grams of a single text, too, which would only make a network larger."""
    if train.schema.modality != "text":
        table = features.fit_table(train)
        return table, table.width
    settings, least, most = job.settings, choices.documents_min, choices.features_max
    if settings.linear_path:
        least, most = 1, max(most, answering.linear_features_max(len(train.schema.labels)))
    ngrams = Ngrams(word_max=settings.word_max, char_min=settings.char_min, char_max=settings.char_max)
    text = features.fit_text(train, ngrams, documents_min=least, features_max=most, tick=tick)
    frequent = text.vocabulary.frequent(len(train), choices.documents_min)
    return text, max(1, min(choices.features_max, frequent))


def _continue(start: Classifier, splits: dict[str, Split], choices: Choices) -> Classifier:
    """The model to go on from, with the labels that it does not know yet appended."""
    schema = splits["train"].schema
    if schema.modality != start.features.modality:
        raise TaskRefused(
            f"the model to go on from reads {start.features.modality} data, the split is {schema.modality}: start anew"
        )
    if not set(schema.labels) & set(start.labels):
        raise TaskRefused(
            f"the model to go on from knows none of the data's {len(schema.labels)} labels (it knows "
            f"{start.labels[0][:40]!r} …, the data {schema.labels[0][:40]!r} …): start anew"
        )
    labels = (*start.labels, *(label for label in schema.labels if label not in start.labels))
    network = continued(
        start.network, start.labels, labels, dropout=choices.dropout, feature_dropout=choices.feature_dropout
    )
    return Classifier(start.features, network, labels, start.architecture)


def _as_it_was(start: Classifier, labels: tuple[str, ...]) -> Classifier:
    """The model to go on from with the columns of labels that it does not know, which it never names."""
    if labels == start.labels:
        return start
    network, linear = (
        continued(path, start.labels, labels, bias_new=-ABSENT_BIAS) if path is not None else None
        for path in (start.network, start.linear)
    )
    assert network is not None
    return dataclasses.replace(start, network=network, linear=linear, labels=labels)


def _part(model: Classifier, split: Split, context: Context) -> Part:
    return Part(model.head(model.encode(split, _tick(context))), indices_of(split, model.labels))


def _tick(context: Context) -> Any:
    return lambda: context.progress(0, 0.0, {}, "features")


def _recipe(job: Job, choices: Choices) -> Recipe:
    chosen = {
        name: getattr(choices, name)
        for name in ("batch", "learning_rate", "weight_decay", "epochs_max", "evaluate_every")
    }
    share = 1.0 - answering.LINEAR_SHARE if job.settings.linear_path else 1.0
    return training.recipe_of(job, budget_s=job.budget_s * share, **chosen)


def _deliver(
    job: Job, context: Context, answer: Answer, splits: dict[str, Split], choices: Choices, place: Device,
    finished: Finished,
) -> Made:  # fmt: skip
    """Calibrate, claim, describe and store."""
    model, logits, validation = answer.classifier, answer.logits, splits["validation"]
    context.progress(finished.state.step, 1.0, {}, "claims")
    labels = indices_of(validation, model.labels)
    known = np.flatnonzero(labels >= 0)
    model.temperature = fitted_temperature(logits[known], labels[known])
    log_probabilities = log_softmax(logits / np.float32(model.temperature))
    check_finite(log_probabilities)
    claims = outcomes.outcomes_of(validation, log_probabilities, model.labels)
    facts = _facts(job, answer, choices, place, finished)
    rows = taken.of_split(splits["train"])
    facts["data"] = structure.data_of(rows, job.seed, finished.state.batch, finished.state.step)
    kpis = {
        "validation_accuracy": outcomes.accuracy(claims),
        "validation_loss": outcomes.mean_loss(claims),
        "train_examples_per_s": finished.examples_per_s,
        "epochs": finished.state.step * finished.state.batch / finished.state.rows,
        "parameters": float(model.parameter_count()),
    }
    stored = {"kind": job.kind, "settings": msgspec.to_builtins(job.settings), "trained": facts}
    card = modelcard.card(classifiers.described(model, stored), kpis)
    step = finished.state.step
    folder = room.written(context, job.scratch / "model", lambda place: model.save(place, stored, card), step=step)
    kpis["size_bytes"] = float(store.size_bytes(folder))
    claimed = room.written(context, job.scratch / "claims", lambda place: outcomes.write(claims, place), step=step)
    return training.made(job, folder, claimed, model.architecture, kpis, facts, finished)


def _facts(job: Job, answer: Answer, choices: Choices, place: Device, finished: Finished) -> dict[str, Any]:
    model = answer.classifier
    facts: dict[str, Any] = {
        "architecture": model.architecture,
        "choices": {name: list(value) if isinstance(value, tuple) else value for name, value in _rows(choices)},
        "features": model.features.width,
        "network_features": model.network.shape.inputs,
        **training.facts_of(job, _recipe(job, choices), place, finished),
        **{name: value for name, value in answer.facts.items() if name != "before"},
    }
    if "before" in answer.facts:
        improved = not answer.kept_champion
        role = "base" if job.inputs.get("base") else "champion"
        facts["continued"] = {
            "improved": improved,
            "start_accuracy": answer.facts["before"]["accuracy"],
            "from": role,
            "model": digest_of(Path(job.inputs[role])),
        }
        if not improved:
            facts["continued"]["note"] = "nothing was better on validation than the model it started from"
    return facts


def _rows(choices: Choices) -> list[tuple[str, Any]]:
    return list(dataclasses.asdict(choices).items())
