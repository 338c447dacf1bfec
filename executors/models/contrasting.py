"""One training task of `contrastive`, from its inputs to its outputs.

    pairs ── divided ── reader ── towers ── trainer ── temperature ── ranking of the held-out pairs ── model, claims
                        (fitted on train)              (validation)   (and BM25's, in the same pool)

The pool is every right text of the data, or of the held-out pairs alone: it goes out with the held-out pairs as an
artifact of its own, so that `evaluate` ranks the very same texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from executors import device as devices
from executors import ngrams, outcomes, pairs, room, structure, taken, training
from executors.device import Device
from executors.models import contrastcard, ranking, sides
from executors.models import encoder as encoders
from executors.models.contrastlearner import VALIDATION_MAX, ContrastLearner, Side
from executors.models.dual import Dual, Shape
from executors.models.dualencoder import DualEncoder, outcomes_of
from executors.models.probabilities import fitted_temperature
from executors.models.queues import Queues
from executors.models.sides import Reader
from executors.pairs import Divided, Pairs
from executors.port import Context, Job, Made, Stopped
from executors.trainer import Finished
from mesh.errors import TaskRefused

USUAL = {
    "n-grams": {"width": 256, "batch": 128, "learning_rate": 5e-4, "epochs_max": 10},
    "frozen encoder": {"width": 0, "batch": 256, "learning_rate": 1e-3, "epochs_max": 10},
    "tuned encoder": {"width": 0, "batch": 64, "learning_rate": 2e-4, "epochs_max": 3},
}
"""What the settings leave open, by what the towers read; width 0 is the encoder's own."""

EVALUATIONS = 20
"""Validations in a run, about."""


def learn(job: Job, context: Context) -> Made:
    """Train as the job says. TaskRefused, DataRefused or ModelRefused when its inputs do not fit together."""
    place = training.begin(job, context)
    tick = _ticker(context)
    data = _divided(job)
    with devices.memory_translated("reading the texts"):
        reader = _reader(job, data.train, place, tick)
        validation = data.validation.take(np.arange(min(VALIDATION_MAX, len(data.validation))))
        train, beside = (_side(reader, part, tick) for part in (data.train, validation))
    chosen = _chosen(job, reader, len(data.train))
    network = _network(job, reader, chosen["width"]).to(place.torch)
    settings = job.settings
    learner = ContrastLearner(
        network,
        train,
        beside,
        place.torch,
        queues=Queues(network, settings.queue, settings.momentum) if settings.method == "moco" else None,
        body_rate=settings.encoder_learning_rate,
        effective_rank_min=settings.effective_rank_min,
        stops=settings.collapse == "stop",
    )
    learner.start = ranking.spread(*learner.validation_vectors(tick))
    width = chosen.pop("width")
    recipe = training.recipe_of(job, **chosen)
    finished = training.train(job, context, learner, recipe, place)
    facts = {
        "reader": reader.config(),
        "choices": {"width": width, **{name: chosen[name] for name in sorted(chosen)}},
        "pairs": {name: len(getattr(data, name)) for name in pairs.PARTS},
        **training.facts_of(job, recipe, place, finished),
        "data": structure.data_of(taken.of_pairs(data.train), job.seed, finished.state.batch, finished.state.step),
    }
    if learner.collapsed:
        facts["collapsed"] = learner.collapsed
    with devices.memory_translated("ranking the held-out pairs"):
        return _deliver(job, context, DualEncoder(reader, network), learner, data, facts, finished, tick)


def _ticker(context: Context) -> Callable[[], None]:
    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped before or after the training as asked: {why}")
        context.progress(0, 0.0, {}, "texts")

    return tick


def _divided(job: Job) -> Divided:
    """The pairs in three parts, the pool's distractors with the held-out ones."""
    aside = job.inputs.get("held_out")
    data = pairs.divide(pairs.read(Path(job.inputs["pairs"])), pairs.read(Path(aside)) if aside else None)
    if job.settings.pool == "held-out":
        return data
    known = set(data.held_out.right) | set(data.held_out.distractors)
    more = dict.fromkeys(text for part in (data.train, data.validation) for text in part.right if text not in known)
    further = [*data.held_out.distractors, *more]
    own = len(np.unique(data.held_out.right_ids))
    kept = further[: max(0, job.settings.pool_max - own)]
    return dataclasses.replace(data, held_out=dataclasses.replace(data.held_out, distractors=kept))


def _reader(job: Job, train: Pairs, place: Device, tick: Callable[[], None]) -> Reader:
    settings, folder = job.settings, job.inputs.get("encoder")
    if folder is None:
        grams = ngrams.Ngrams(word_max=settings.word_max, char_min=settings.char_min, char_max=settings.char_max)
        vocabulary = ngrams.fit(
            [*train.left, *train.right], grams, documents_min=settings.documents_min,
            features_max=settings.features_max, tick=tick,
        )  # fmt: skip
        if not len(vocabulary):
            raise TaskRefused(
                f"no n-gram stands in {settings.documents_min} of the training texts: set documents_min to 1"
            )
        return sides.HashedReader(vocabulary)
    tuned = settings.encoder_mode == "tuned"
    precision = "bf16" if place.precision == "bf16" and not tuned else "fp32"
    encoder = encoders.load(Path(folder), tokens_max=settings.tokens_max, precision=precision)
    encoder.network.to(place.torch)
    return sides.TunedReader(encoder) if tuned else sides.FrozenReader(encoder, {})


def _side(reader: Reader, part: Pairs, tick: Callable[[], None]) -> Side:
    return Side(reader.inputs(part.left, tick), reader.inputs(part.right, tick), part)


def _chosen(job: Job, reader: Reader, rows: int) -> dict[str, Any]:
    """Numbers for what the settings leave open."""
    settings, usual = job.settings, USUAL[reader.config()["reads"]]
    found: dict[str, Any] = {
        name: value if (value := getattr(settings, name)) is not None else default for name, default in usual.items()
    }
    found["width"] = found["width"] or reader.width
    found["batch"] = max(2, min(found["batch"], rows))
    per_epoch = -(-rows // found["batch"])
    steps = settings.steps_max or per_epoch * found["epochs_max"]
    found["evaluate_every"] = settings.evaluate_every or max(1, -(-steps // EVALUATIONS))
    if settings.micro_batch:
        found["micro_batch"] = min(settings.micro_batch, found["batch"])
    return found


def _network(job: Job, reader: Reader, width: int) -> Dual:
    settings = job.settings
    body = reader.encoder.network if isinstance(reader, sides.TunedReader) else None
    return Dual(
        Shape(reader.width, width, reader.sparse, settings.tower, settings.shared),
        temperature=settings.temperature,
        learned=settings.temperature_learned,
        dropout=settings.dropout,
        input_dropout=settings.input_dropout,
        body=body,
    )


def _deliver(
    job: Job,
    context: Context,
    model: DualEncoder,
    learner: ContrastLearner,
    data: Divided,
    facts: dict[str, Any],
    finished: Finished,
    tick: Callable[[], None],
) -> Made:
    """Rank, compare, describe and store."""
    model.temperature = _temperature(learner, tick)
    pool = ranking.pool_of(data.held_out)
    ranked = model.ranked(data.held_out, pool, tick)
    by_words = ranking.measures(ranking.bm25(data.held_out.left, pool, tick))
    claims = outcomes_of(data.held_out, pool, ranked)
    kpis = {
        **ranking.measures(ranked),
        **{f"bm25_{name}": value for name, value in by_words.items()},
        "loss": outcomes.mean_loss(claims),
        "pool": float(len(pool)),
        "held_out_pairs": float(len(data.held_out)),
        "validation_mrr": finished.state.best_score,
        "train_examples_per_s": finished.examples_per_s,
        "parameters": float(sum(each.numel() for each in learner.network.parameters())),
    }
    stored = {"kind": job.kind, "settings": msgspec.to_builtins(job.settings), "trained": facts}
    card, step = contrastcard.card(model.described(stored), kpis), finished.state.step
    folder = room.written(context, job.scratch / "model", lambda to: model.save(to, stored, card), step=step)
    kpis["size_bytes"] = float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    claimed = room.written(context, job.scratch / "claims", lambda to: outcomes.write(claims, to), step=step)
    aside = room.written(context, job.scratch / "held-out", lambda to: pairs.write(data.held_out, to), step=step)
    return Made(
        outputs={"model": folder, "claims": claimed, "held_out": aside},
        media={"model": "model", "claims": "outcomes", "held_out": "pairs"},
        facts_of={"model": {"kind": job.kind, "architecture": facts["reader"]["reads"]}},
        kpis=kpis,
        stopped_by=finished.stopped_by,
        facts=facts,
        exact=finished.state.exact,
    )


def _temperature(learner: ContrastLearner, tick: Callable[[], None]) -> float:
    """What makes scores honest probabilities on the validation pairs."""
    left, right = learner.validation_vectors(tick)
    pool = ranking.pool_of(learner.validation.pairs)
    in_pool = np.empty((len(pool), right.shape[1]), np.float32)
    in_pool[pool.truth] = right
    own = float(learner.network.temperature.detach())
    logits = left @ in_pool.T / np.float32(own)
    for number, others in enumerate(pool.others):
        logits[number, others] = -1e9
    return own * fitted_temperature(logits, pool.truth)
