"""How a classifier's task comes to its encoder: from an input, or from the model that it goes on from.

    input `encoder`   model to go on from        the run
    given             none, or on another one    begins anew on the encoder (the log says why)
    given             on the same encoder        goes on
    none              on an encoder              goes on, with that model's encoder
    none              without one                has no encoder

`train_vectors` and `validation_vectors`, where the kind `embed` made them, spare the encoding; what does not belong to
the split or the encoder at hand is not used, and the log says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from executors.data import Split
from executors.device import Device
from executors.models import encoder as encoders
from executors.models.choices import Choices
from executors.models.classifier import Classifier, indices_of
from executors.models.encoded import EncoderFeatures
from executors.models.sides import TunedReader
from executors.models.tunedclassifier import TokenPart, TunedLearner, TunedNetwork
from executors.port import Context, Job, Stopped
from mesh.errors import TaskRefused


def read_by(
    job: Job, context: Context, splits: Mapping[str, Split], start: Classifier | None, place: Device
) -> tuple[Classifier | None, EncoderFeatures | None]:
    """(the model to go on from, if any; the encoder's features, if any). TaskRefused, ModelRefused."""
    folder, mode = job.inputs.get("encoder"), job.settings.encoder_mode
    own = start.features if start is not None and isinstance(start.features, EncoderFeatures) else None
    if folder is None and own is None:
        return start, None
    modality = splits["train"].schema.modality
    if modality != "text":
        raise TaskRefused(f"a sentence encoder reads texts, and the data is {modality}: leave the encoder out")
    found = own
    if folder is not None:
        precision = "bf16" if place.precision == "bf16" and mode == "frozen" else "fp32"
        encoder = encoders.load(Path(folder), tokens_max=job.settings.tokens_max, precision=precision)
        if own is None or own.origin != encoder.digest or (own.tuned and mode == "frozen"):
            if start is not None:
                context.log("begins anew: the model to go on from was not made with this encoder, or it was tuned")
            start, found = None, EncoderFeatures(encoder, encoder.digest)
    assert found is not None
    found.tuned, found.kept = found.tuned or mode == "tuned", {}
    found.encoder.network.to(place.torch)
    for name, split in splits.items():
        kept = job.inputs.get(f"{name}_vectors")
        if kept is not None and not found.tuned and (why := found.take_over(Path(kept), split, job.seed)):
            context.log(f"the {name} split is encoded here, its kept vectors are not used: {why}")
    return start, found


def form(read: EncoderFeatures | None) -> str:
    """What the choices are made for: 'vectors', 'tuned', or '' without an encoder."""
    return "" if read is None else "tuned" if read.tuned else "vectors"


def learner(
    job: Job, context: Context, model: Classifier, splits: Mapping[str, Split], choices: Choices, place: Device
) -> TunedLearner:
    """The training of a classifier together with its encoder."""
    assert isinstance(model.features, EncoderFeatures)

    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped while the texts were read as asked: {why}")
        context.progress(0, 0.0, {}, "features")

    found, reader = model.features, TunedReader(model.features.encoder)
    found.encoder.precision, found.kept = "fp32", None
    parts = [
        TokenPart(reader.inputs(splits[name].texts, tick), indices_of(splits[name], model.labels))
        for name in ("train", "validation")
    ]
    network = TunedNetwork(found.encoder.network, model.network, found.scale).to(place.torch)
    return TunedLearner(
        network, parts[0], parts[1], place.torch, job.settings.encoder_learning_rate, choices.label_smoothing
    )
