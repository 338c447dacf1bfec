"""Models that people bring into the mesh, and what has to be known of a model to start from it."""

from __future__ import annotations

import enum
from typing import ClassVar

from mesh.messages.base import Facts, Part, Record, check_digest, check_name

LABEL_NAMES_MAX = 100
"""Label names of a base model that travel with a topic: as many as a profile names."""


class ModelFormat(enum.StrEnum):
    """How a model's folder is laid out, and so which programs read it."""

    RAMIFY = "ramify"
    """A classifier of this program: config.json with the part `ramify`, model.safetensors."""
    TRANSFORMERS = "transformers"
    """config.json, safetensors in one file or several with an index, tokenizer files where there are some."""
    ADAPTER = "adapter"
    """peft: adapter_config.json and adapter_model.safetensors, to be put on the model that they name."""


class BaseModel(Part, frozen=True, kw_only=True):
    """A model from which the evolver of a topic starts, with what planning needs to know of it."""

    model: str
    """Digest of the model's artifact."""
    name: str = ""
    """What the publisher called it: a pushed model's name, or a specialization."""
    format: ModelFormat = ModelFormat.RAMIFY
    task: str = ""
    """Executor kind that goes on training it; empty when none does yet."""
    fits: str = ""
    """Form of the data that it reads, as in `champion`; empty when it does not say."""
    labels: int = 0
    label_names: tuple[str, ...] = ()
    """Its first 100 labels; fewer when they are very long."""
    settings: Facts = {}
    """Settings of the kind with which it was trained."""
    license: str = ""
    """As its card says it; empty when it says none."""
    size_bytes: int = 0
    """Of all of its files: who trains it needs room for it; 0 when it is not known."""
    architecture: str = ""
    """Of a transformers folder: the first of its config's `architectures`; empty when it is not known."""

    def __post_init__(self) -> None:
        check_digest(self.model, "a base model")
        if len(self.label_names) > LABEL_NAMES_MAX:
            raise ValueError(f"a base model names at most {LABEL_NAMES_MAX} labels, got {len(self.label_names)}")


class PushedModel(Record, frozen=True, kw_only=True):
    """A model that a person pushed. One record per name, by compare-and-set; a push under a name that is taken by
    another model becomes its next version."""

    kind: ClassVar[str] = "pushed-model"

    name: str
    version_number: int
    """1 for the first model of this name; rises by one with every other model that is pushed under it."""
    base: BaseModel
    """The model, as a topic that starts from it says it."""
    architecture: str = ""
    """`model_type` of its config, or this program's architecture; for an adapter its `peft_type`."""
    parameters: int = 0
    """Numbers in all of its tensors."""
    files: int = 0
    adapts: str = ""
    """For an adapter, the model that it is put on, as adapter_config.json names it."""
    pushed_by: str = ""
    pushed_at_ms: int = 0

    def __post_init__(self) -> None:
        check_name(self.name, "a pushed model's name")
        if self.version_number < 1:
            raise ValueError(f"versions of a pushed model count from 1, got {self.version_number}")

    @property
    def model(self) -> str:
        """Digest of the model's artifact."""
        return self.base.model
