"""One training task of `language-model`, from its corpora to its outputs.

    corpora ── tokenizer ── stream of tokens ── trainer ── best network ── all validation documents ── model, claims
               (the model's to go on from, the checkpoint's, one that was given, or trained here)

What does not fit together is refused before anything is trained: a tokenizer that is not the continued model's, sizes
that it has not, a corpus without documents. Training documents that also stand in validation are left out and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from executors import checkpoint, corpus, outcomes, room, structure, taken, training
from executors import device as devices
from executors.corpus import Corpus
from executors.data import digest_of
from executors.models import language, languagecard, store, tokens
from executors.models.language import LanguageModel
from executors.models.languageanswering import LanguageRespondent
from executors.models.languagelearner import HeldOut, LanguageLearner, RememberingLearner, stream_of
from executors.models.tokens import Vocabulary
from executors.models.transformer import Shape, Transformer, generated
from executors.port import Context, Job, Made
from executors.pulse import Pulse
from executors.taken import Taken
from executors.trainer import Finished
from mesh.errors import DataRefused, TaskRefused
from mesh.messages.judgement import Outcomes

SHAPE_SETTINGS = ("layers", "width", "heads", "kv_heads", "inner", "tied", "theta")

HELD_OUT_BYTES_MAX = 1_000_000
"""About so much is held out of a large corpus, whatever share is asked for: every byte of it is read for the claims,
and a million says enough (minutes of a core, with the usual model). A validation corpus that is given is read whole."""


VALIDATION_BYTES_PER_S = 1_000.0
"""Of the training's time: a validation that reads more would cost a core a tenth of a short budget, twice at least.
From 200 s on the setting `validation_bytes_max` is what counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """What is read: of the training corpus only the tokens are kept."""

    vocabulary: Vocabulary
    validation: Corpus
    stream: tokens.Tokens
    taken: Taken
    facts: dict[str, Any]
    remember: bool
    """The tokenizer was trained for this task, and by one process: several train the same one anew."""


def learn(job: Job, context: Context) -> Made:
    """Train as the job says. TaskRefused or DataRefused when its inputs do not fit together."""
    place = training.begin(job, context)
    start = _start(job)
    with devices.memory_translated("reading the corpus"), Pulse(context, "reading the corpus") as pulse:
        data = _data(job, pulse.stop_if_asked, start)
        shape = start.shape if start else _shape(job.settings, data.vocabulary)
        sequence = min(job.settings.sequence, shape.context)
        network = start.network if start else Transformer(shape, dropout=job.settings.dropout)
        network.to(place.torch)
        held_out = _held_out(job, data, pulse.stop_if_asked)
    made = RememberingLearner if data.remember else LanguageLearner
    learner = made(network, data.vocabulary, data.stream, held_out, sequence, place.torch)
    rate = job.settings.learning_rate or job.settings.rate(continued=start is not None)
    recipe = training.recipe_of(job, learning_rate=rate)
    finished = training.train(job, context, learner, recipe, place)
    model = LanguageModel(network, data.vocabulary)
    asked, step = LanguageRespondent(model), finished.state.step
    with devices.memory_translated("claiming"), Pulse(context, "claims", step=step, done=1.0) as pulse:
        claims = asked.outcomes(data.validation, place.torch, pulse.stop_if_asked)
    facts = {
        "shape": dataclasses.asdict(shape),
        "tokenizer": {
            "tokens": data.vocabulary.size,
            "digest": data.vocabulary.digest,
            "bytes": data.vocabulary.bytewise,
        },
        "learning_rate": rate,
        "sequence": sequence,
        **data.facts,
        **training.facts_of(job, recipe, place, finished),
        **_continued(job, start, finished),
        "data": structure.data_of(data.taken, job.seed, finished.state.batch, finished.state.step),
    }
    return _deliver(job, context, asked, claims, facts, finished)


# -- the model to go on from, and the shape ---------------------------------------------------------------------------


def _start(job: Job) -> LanguageModel | None:
    """The model to go on from: a base stands before the champion. TaskRefused when settings ask for another shape."""
    folder = job.inputs.get("base") or job.inputs.get("champion")
    if not folder:
        return None
    found = language.load(Path(folder), dropout=job.settings.dropout)
    for name in SHAPE_SETTINGS:
        asked, has = getattr(job.settings, name), getattr(found.shape, name)
        if asked is not None and asked != has:
            raise TaskRefused(
                f"the model to go on from has {name} {has}, and {asked} is asked for: leave it out, or start anew"
            )
    return found


def _shape(settings: Any, vocabulary: Vocabulary) -> Shape:
    """Of a new network."""
    sizes = settings.sizes(vocabulary.size)
    try:
        return Shape(context=settings.sequence, **sizes)
    except ValueError as error:
        raise TaskRefused(f"the settings describe no network: {error}") from None


def _continued(job: Job, start: LanguageModel | None, finished: Finished) -> dict[str, Any]:
    if start is None:
        return {}
    role = "base" if job.inputs.get("base") else "champion"
    improved = finished.state.best_step > 0
    return {"continued": {"from": role, "model": digest_of(Path(job.inputs[role])), "improved": improved}}


# -- corpora and tokenizer --------------------------------------------------------------------------------------------


def _data(job: Job, tick: Callable[[], None], start: LanguageModel | None) -> Data:
    settings = job.settings
    train = corpus.read_corpus(job.inputs["train"], tick)
    facts: dict[str, Any] = {"left_out": {"empty": train.empty}}
    if job.inputs.get("validation"):
        validation = corpus.read_corpus(job.inputs["validation"], tick)
        read = len(train)
        train = corpus.without(train, validation)
        facts["left_out"]["in validation"] = read - len(train)
        if not len(train):
            raise DataRefused("every training document stands in the validation corpus, too: give others")
    else:
        share = min(settings.validation_share, HELD_OUT_BYTES_MAX / train.size_bytes)
        train, validation = corpus.held_out(train, share, settings.salt)
    vocabulary = _vocabulary(job, start, train)
    encoded = vocabulary.encode(train.texts, tick)
    facts["train"] = {"documents": len(train), "bytes": train.size_bytes, "tokens": len(encoded.tokens)}
    facts["validation"] = {"documents": len(validation), "bytes": validation.size_bytes}
    own = start is None and not job.inputs.get("tokenizer") and not vocabulary.bytewise
    remember = own and job.allotment.processes == 1
    return Data(vocabulary, validation, stream_of(encoded, vocabulary), taken.of_documents(train), facts, remember)


def _vocabulary(job: Job, start: LanguageModel | None, train: Corpus) -> Vocabulary:
    """The tokenizer: of the model to go on from, of the checkpoint, as given, or trained on the training documents."""
    given = tokens.load(Path(job.inputs["tokenizer"])) if job.inputs.get("tokenizer") else None
    if start is not None:
        if given is not None and given.json() != start.vocabulary.json():
            raise TaskRefused(
                f"the tokenizer given ({given.size} tokens) is not that of the model to go on from "
                f"({start.vocabulary.size} tokens): leave it out, or start anew"
            )
        return start.vocabulary
    if given is not None:
        return given
    if job.settings.tokenizer == "bytes":
        return tokens.bytewise()
    if job.resume is not None and (saved := _saved(job.resume)):
        return tokens.of_json(saved, name="the checkpoint's tokenizer")
    return tokens.trained(train.texts, job.settings.vocabulary)


def _saved(folder: Path) -> bytes:
    """The tokenizer in a checkpoint; nothing when it holds none: the loop says what it thinks of such a checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / checkpoint.TENSORS, "pt") as opened:
            return bytes(opened.get_tensor("extra.tokenizer").numpy().tobytes())
    except (OSError, SafetensorError, ValueError):
        return b""


def _held_out(job: Job, data: Data, tick: Callable[[], None]) -> HeldOut:
    """The documents that are read in each validation: the first by their ids, as many as settings and time allow."""
    order = np.argsort(corpus.places(data.validation.ids, "validation"), kind="stable")
    sizes = np.cumsum(data.validation.sizes[order])
    most = min(job.settings.validation_bytes_max, job.budget_s * VALIDATION_BYTES_PER_S)
    rows = order[: max(1, int(np.searchsorted(sizes, most, side="right")))]
    part = data.validation.take(rows)
    return HeldOut(data.vocabulary.encode(part.texts, tick), part.sizes)


# -- outputs ----------------------------------------------------------------------------------------------------------


def _deliver(
    job: Job,
    context: Context,
    asked: LanguageRespondent,
    claims: Outcomes,
    facts: dict[str, Any],
    finished: Finished,
) -> Made:
    """Describe and store."""
    model, state = asked.model, finished.state
    kpis = {
        **{f"validation_{name}": value for name, value in asked.kpis(claims).items()},
        "train_tokens_per_s": finished.examples_per_s,
        "epochs": state.step * state.batch / state.rows,
        "parameters": float(model.shape.parameters),
    }
    sample = _sample(job, model)
    stored = {"kind": job.kind, "settings": msgspec.to_builtins(job.settings), "trained": facts}
    card = languagecard.card(stored, kpis, sample)
    folder = room.written(
        context, job.scratch / "model", lambda place: language.save(model, place, stored, card), step=state.step
    )
    kpis["size_bytes"] = float(store.size_bytes(folder))
    claimed = room.written(
        context, job.scratch / "claims", lambda place: outcomes.write(claims, place), step=state.step
    )
    return training.made(job, folder, claimed, "LlamaForCausalLM", kpis, facts, finished)


def _sample(job: Job, model: LanguageModel) -> str:
    """A text that the model writes from nothing; '' when none is asked for."""
    settings = job.settings
    if not settings.sample_tokens:
        return ""
    generator = torch.Generator().manual_seed(job.seed & 0x7FFFFFFFFFFFFFFF)
    device = next(model.network.parameters()).device
    drawn = generated(
        model.network,
        torch.tensor([model.vocabulary.start], device=device),
        settings.sample_tokens,
        temperature=settings.sample_temperature,
        generator=generator,
        end=model.vocabulary.end,
    )
    return model.vocabulary.decode(drawn)
