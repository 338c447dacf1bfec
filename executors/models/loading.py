"""Any trained model, ready to be asked: what `evaluate` and `merge` know of models is this page.

    folder ── described: its "ramify" part ── kind ── LOADERS ── Respondent: read, check, outcomes, kpis, answer

A transformers folder that no kind of this program made has no such part: one that foretells texts is asked as it is.

A kind whose model can be evaluated has one line in LOADERS, naming a function `(folder, base) -> Respondent`. `base` is
the model that an adapter adapts, where one was given. Models that label the examples of a split share
`SplitRespondent`: they bring the log probabilities, it does the rest.

Nothing is unpickled. A folder that is no model of a known kind raises ModelRefused or ArtifactCorrupt in one sentence.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from executors import outcomes
from executors.data import Split, read_split, single
from executors.modelfolder import ADAPTER_CONFIG, CONFIG, CONFIG_BYTES_MAX
from executors.models.probabilities import Floats, check_finite
from mesh.errors import ArtifactCorrupt, ModelRefused, TaskRefused
from mesh.messages.judgement import Outcomes

if TYPE_CHECKING:
    import torch

LOADERS = {
    "baseline": "executors.models.classifier:respondent",
    "classify": "executors.models.classifier:respondent",
    "contrastive": "executors.models.dualencoder:respondent",
    "language-model": "executors.models.languageanswering:respondent",
    "lora": "executors.models.tuned:respondent",
    "index": "executors.models.indexed:respondent",
    "quantize": "executors.models.quantized:respondent",
    "tree": "executors.models.treeanswering:respondent",
}
"""Kind that made the model to the function that loads it, as 'module:function'."""

PLAIN = "executors.models.tuned:plain"
"""Loads a transformers folder that no kind of this program made."""

BESIDE_ADAPTER = "ramify.json"
"""What stands in config.json elsewhere stands here beside an adapter, whose folder has no config.json of its own."""

SCRATCH: ContextVar[Path | None] = ContextVar("scratch", default=None)
"""Where a loader may write while it loads; None: the system's folder for temporary files."""

Tick = Callable[[], None]


def named(folder: Path) -> str:
    """What a person knows a folder by; in a worker's cache the digest above it."""
    return folder.parent.name[:12] if folder.name == "files" else folder.name


def nothing() -> None:
    """A tick that nobody waits for."""


class Respondent(Protocol):
    """A model that can be asked."""

    def read(self, folder: Path) -> Any:
        """The items in an input folder, in the form that this model answers: a split, documents, pairs. DataRefused."""

    def check(self, items: Any) -> None:
        """TaskRefused when these items are none for this model."""

    def to(self, device: torch.device) -> None:
        """Move to where it computes."""

    def outcomes(self, items: Any, device: torch.device, tick: Tick, *, model: str = "", split: str = "") -> Outcomes:
        """What it answers, per item; model, split: digests. `tick` is called at least every second and may raise.
        NonFinite when an answer is no number."""

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """The measures of its outcomes by name: `loss` always, `accuracy` where there are labels."""

    def answer(self, items: Any, number: int, device: torch.device) -> None:
        """Answer one item alone, for its time; number: from 0, taken modulo the items."""


class Labelling(Protocol):
    """What a model that names labels brings to a SplitRespondent."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that it may name."""

    @property
    def modality(self) -> str:
        """'text' or 'tabular'."""

    def place(self, device: torch.device) -> None:
        """Move to where it computes."""

    def answers(self, split: Split, device: torch.device, tick: Tick) -> Floats:
        """[n, labels], natural logarithms of probabilities."""


@dataclasses.dataclass(frozen=True, slots=True)
class SplitRespondent:
    """A model that labels the examples of a split."""

    model: Labelling

    def read(self, folder: Path) -> Split:
        """The split in `folder`."""
        return read_split(folder)

    def check(self, items: Split) -> None:
        """TaskRefused with what does not fit."""
        schema = items.schema
        if schema.modality != self.model.modality:
            raise TaskRefused(f"the model reads {self.model.modality} data, the split is {schema.modality}")
        if not set(self.model.labels) & set(schema.labels):
            raise TaskRefused(f"the model knows none of the split's {len(schema.labels)} labels: it is for other data")

    def to(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.model.place(device)

    def outcomes(self, items: Split, device: torch.device, tick: Tick, *, model: str = "", split: str = "") -> Outcomes:
        """One outcome per example."""
        found = self.model.answers(items, device, tick)
        check_finite(found)
        return outcomes.outcomes_of(items, found, self.model.labels, model=model, split_digest=split)

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """Share of right answers, and nats per example."""
        return {"accuracy": outcomes.accuracy(found), "loss": outcomes.mean_loss(found)}

    def answer(self, items: Split, number: int, device: torch.device) -> None:
        """From the raw input to probabilities."""
        self.model.answers(single(items, number % len(items)), device, nothing)


def load_model(folder: Path, base: Path | None = None, scratch: Path | None = None) -> Respondent:
    """The model in `folder`. base: of an adapter, the model that it adapts. scratch: below it a loader may write while
    it loads. ModelRefused, ArtifactCorrupt or TaskRefused when it can not be asked."""
    kind = "" if is_plain(folder) else described(folder).get("kind")
    if not isinstance(kind, str) or (kind and kind not in LOADERS):
        raise ModelRefused(
            f"expected a model that one of the kinds {', '.join(sorted(LOADERS))} made, got one of {str(kind)[:80]!r}: "
            "it can not be asked here"
        )
    module, function = LOADERS.get(kind, PLAIN).split(":")
    loader = getattr(importlib.import_module(module), function)
    before = SCRATCH.set(scratch)
    try:
        return cast(Respondent, loader(folder, base))
    finally:
        SCRATCH.reset(before)


def is_plain(folder: Path) -> bool:
    """Is it a transformers folder that nothing of this program describes?"""
    path = folder / CONFIG
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            return False
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "ramify" not in config and isinstance(config.get("model_type"), str)


def described(folder: Path) -> dict[str, Any]:
    """The "ramify" part of a model's config. ArtifactCorrupt when there is none."""
    beside = (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file()
    path = folder / (BESIDE_ADAPTER if beside else CONFIG)
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ArtifactCorrupt(f"a model's {path.name} has at most {CONFIG_BYTES_MAX} bytes, this one has more")
        found = json.loads(path.read_bytes())["ramify"]
        if not isinstance(found, dict):
            raise TypeError(f"a map was expected, got {type(found).__name__}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactCorrupt(
            f"expected {path.name} of a Ramify model in {named(folder)}: {type(error).__name__} {str(error)[:120]}"
        ) from None
    return found
