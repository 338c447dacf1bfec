"""One task of the kind `lora`, from its inputs to its outputs.

    base ── checked ── network + head ── adapter ── trained ── temperature ── claims, adapter (and merged model)
    train, validation ── tokens ─────────────────────┘

The claims are computed in fp32 by the very code that `evaluate` asks later, so that another worker finds the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from executors import checkpoint, outcomes, room, structure, taken, training
from executors.corpus import Corpus, held_out, read_corpus
from executors.data import Split, read_split
from executors.device import Device, memory_translated
from executors.modelfolder import FORM_WHOLE
from executors.models import adaptercard, adapters, hf_folder, store, tuned, tuning
from executors.models.classifier import indices_of
from executors.models.hf_folder import CLASSIFY, LANGUAGE, Loaded
from executors.models.loading import Respondent, SplitRespondent, described
from executors.models.probabilities import fitted_temperature
from executors.models.tuned import TunedClassifier, TunedLanguageModel
from executors.models.tuning import LabelTuning, NextTuning, Texts
from executors.port import Context, Job, Made, Stopped
from executors.taken import Taken
from executors.trainable import Trainable
from executors.trainer import Finished
from mesh.errors import DataRefused, TaskRefused

Tick = Callable[[], None]


@dataclasses.dataclass(slots=True)
class Prepared:
    """All that a training takes."""

    base: Loaded
    network: Any
    tokens_max: int
    model: TunedClassifier | TunedLanguageModel
    trainable: Trainable
    validation: Split | Corpus
    rows: int
    taken: Taken
    labels: tuple[str, ...] = ()


def adapt(job: Job, context: Context) -> Made:
    """Train as the job says. TaskRefused, DataRefused or ModelRefused when its inputs do not fit together."""
    if "base" not in job.inputs:
        raise TaskRefused("expected the input 'base', a transformers folder to adapt, and it is not there: name one")
    place = training.begin(job, context)

    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped before the first step as asked: {why}")
        context.progress(0, 0.0, {}, "tokens")

    with memory_translated("preparing the model"):
        prepare = _labels if job.settings.task == CLASSIFY else _language
        found = prepare(job, place, tick)
        found.network.to(place.torch)
    recipe = training.recipe_of(job)
    finished = training.train(job, context, found.trainable, recipe, place)
    facts = {**training.facts_of(job, recipe, place, finished), **_facts(job, found)}
    facts["data"] = structure.data_of(found.taken, job.seed, finished.state.batch, finished.state.step)
    return _deliver(job, context, found, place, finished, facts)


# -- what is trained --------------------------------------------------------------------------------------------------


def _labels(job: Job, place: Device, tick: Tick) -> Prepared:
    train, validation = (read_split(Path(job.inputs[name])) for name in ("train", "validation"))
    for split in (train, validation):
        if split.schema.modality != "text":
            raise TaskRefused(f"an adapter to a language model reads text, the split is {split.schema.modality}")
    labels = train.schema.labels
    if not (indices_of(validation, labels) >= 0).any():
        raise TaskRefused(
            "none of the validation examples has one of the training split's labels: they are of different data"
        )
    base, network, tokens_max = _network(job, labels)
    model = TunedClassifier(base, network, labels, tokens_max)
    parts = [
        Texts(tuned.tokens_of(base, split.texts, tokens_max, tick), indices_of(split, labels))
        for split in (train, validation)
    ]
    learner = LabelTuning(model, parts[0], parts[1], place)
    return Prepared(base, network, tokens_max, model, learner, validation, len(train), taken.of_split(train), labels)


def _language(job: Job, place: Device, tick: Tick) -> Prepared:
    train = read_corpus(job.inputs["train"], tick)
    if "validation" in job.inputs:
        validation = read_corpus(job.inputs["validation"], tick)
    else:
        train, validation = held_out(train, job.settings.held_out)
    base, network, tokens_max = _network(job, ())
    model = TunedLanguageModel(base, network, tokens_max)
    windows = tuning.packed_windows(base, train, tokens_max, tick)
    if not any(len(window) > 1 for window in windows):
        raise DataRefused("the training corpus has no token: give more text")
    learner = NextTuning(model, windows, validation, place)
    return Prepared(base, network, tokens_max, model, learner, validation, len(windows), taken.of_documents(train))


def _network(job: Job, labels: tuple[str, ...]) -> tuple[Loaded, Any, int]:
    """(the base, the base with a fresh adapter or the champion's, tokens of a text)."""
    settings = job.settings
    base = hf_folder.load(Path(job.inputs["base"]), settings.task, labels)
    checkpoint.seed_generators(job.seed)
    if champion := job.inputs.get("champion"):
        before = described(Path(champion))
        if tuple(before.get("labels") or ()) != labels:
            raise TaskRefused("the adapter to go on from knows other labels, or has them in another order: start anew")
        network = adapters.load(base, Path(champion), settings.task, settings.dropout, settings.rank)
    else:
        network = adapters.wrap(
            base, settings.task, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout,
            bias=settings.bias, targets=settings.targets,
        )  # fmt: skip
    return base, network, min(settings.tokens_max, base.tokens_max or settings.tokens_max)


# -- what is handed over ----------------------------------------------------------------------------------------------


def _deliver(
    job: Job, context: Context, found: Prepared, place: Device, finished: Finished, facts: dict[str, Any]
) -> Made:
    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped behind the last checkpoint as asked: {why}")
        context.progress(finished.state.step, 1.0, {}, "claims")

    claims, measured = _claims(found, place, tick)
    ramify = _described(job, found, facts)
    kpis = {
        **{f"validation_{name}": value for name, value in measured.items()},
        "train_examples_per_s": finished.examples_per_s,
        "epochs": finished.state.step * finished.state.batch / finished.state.rows,
        "parameters": float(adapters.trained_parameters(found.network)),
    }
    card = adaptercard.card(ramify, kpis)
    name = job.settings.base_name or f"sha256-{found.base.digest}"
    step = finished.state.step

    def written(output: str, write: Callable[[Path], Path]) -> Path:
        return room.written(context, job.scratch / output, write, step=step)

    outputs = {
        "model": written("model", lambda folder: adapters.save(found.network, folder, name, ramify, card)),
        "claims": written("claims", lambda folder: outcomes.write(claims, folder)),
    }
    kpis["size_bytes"] = float(store.size_bytes(outputs["model"]))
    if job.settings.merge_adapter:
        found.network.to("cpu")
        whole = adaptercard.card({**ramify, "form": FORM_WHOLE}, kpis)
        outputs["merged"] = written(
            "merged", lambda folder: adapters.merge(found.network, found.base, folder, ramify, whole)
        )
    media = {"model": "model", "claims": "outcomes", "merged": "model"}
    return Made(
        outputs=outputs,
        media={output: media[output] for output in outputs},
        facts_of={"model": {"kind": job.kind, "architecture": found.base.architecture}},
        kpis=kpis,
        stopped_by=finished.stopped_by,
        facts=facts,
        exact=finished.state.exact,
    )


def _claims(found: Prepared, place: Device, tick: Tick) -> tuple[Any, dict[str, float]]:
    """(outcomes on validation, what they come to), with the temperature fitted before."""
    respondent: Respondent = (
        found.model if isinstance(found.model, TunedLanguageModel) else SplitRespondent(found.model)
    )
    if isinstance(found.model, TunedClassifier):
        assert isinstance(found.validation, Split)
        rows = tuned.tokens_of(found.base, found.validation.texts, found.tokens_max, tick)
        labels = indices_of(found.validation, found.labels)
        known = np.flatnonzero(labels >= 0)
        logits = found.model.logits([rows[row] for row in known], place.torch, tick)
        found.model.temperature = fitted_temperature(logits, labels[known])
    claims = respondent.outcomes(found.validation, place.torch, tick)
    return claims, respondent.kpis(claims)


def _described(job: Job, found: Prepared, facts: dict[str, Any]) -> dict[str, Any]:
    """The model's "ramify" part."""
    return {
        "kind": job.kind,
        "task": job.settings.task,
        "architecture": found.base.architecture,
        "modality": "text",
        "labels": list(found.labels),
        "temperature": getattr(found.model, "temperature", 1.0),
        "tokens_max": found.tokens_max,
        "base": {"digest": found.base.digest, "name": job.settings.base_name},
        "settings": msgspec.to_builtins(job.settings),
        "trained": facts,
    }


def _facts(job: Job, found: Prepared) -> dict[str, Any]:
    targets = getattr(found.network.peft_config["default"], "target_modules", ())
    return {
        "architecture": found.base.architecture,
        "base": found.base.digest,
        "targets": sorted(targets) if not isinstance(targets, str) else targets,
        "heads": list(found.base.heads),
        "rows": found.rows,
        "continued": "champion" in job.inputs,
    }


# -- for the check of gradients ---------------------------------------------------------------------------------------


def tiny() -> dict[str, Trainable]:
    """Both tasks on networks of a few hundred trained numbers, made up from nothing."""
    with hf_folder.translated("tiny"):
        from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

        place = Device("cpu", "fp32", 1, "a check of gradients")
        sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}
        labels = ("a", "b", "c")
        encoder = BertForSequenceClassification(
            BertConfig(vocab_size=19, hidden_size=8, intermediate_size=16, id2label=dict(enumerate(labels)), **sizes)
        )
        causal = GPT2LMHeadModel(GPT2Config(vocab_size=19, n_embd=8, n_layer=2, n_head=2, n_positions=16))
    draw = np.random.Generator(np.random.Philox(key=7))
    rows = [draw.integers(1, 19, size=length).astype(np.int32) for length in (3, 7, 5, 8)]
    known = Texts(rows, np.array([0, 1, 2, 1], np.int64))
    bases = [
        Loaded(Path(), network, None, "", name, of, heads, 16, pad=0)
        for network, name, of, heads in ((encoder, "bert", labels, ("classifier",)), (causal, "gpt2", (), ()))
    ]
    tuned_ = [
        adapters.wrap(base, task, rank=2, alpha=4.0, dropout=0.1, bias="lora_only", targets=())
        for base, task in zip(bases, hf_folder.TASKS, strict=True)
    ]
    documents = Corpus(["x"], np.zeros(1, np.uint64), np.zeros(1, np.int32), np.ones(1, np.int64))
    return {
        CLASSIFY: LabelTuning(TunedClassifier(bases[0], tuned_[0], labels, 16), known, known, place),
        LANGUAGE: NextTuning(TunedLanguageModel(bases[1], tuned_[1], 16), rows, documents, place),
    }
