"""What a search is told: the study, the kind that is trained, its space, and how to draw and end trials. Light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from executors import kinds, port, spaces
from executors.port import Kind
from executors.recipe import TrainingSettings, one_of, within
from executors.spaces import Dimension
from mesh.messages.base import check_name


class SearchStepSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to search, and how."""

    study: str
    """Its name in the mesh: trials of one study have one name, and all settings but that alike."""
    kind: str
    """The training kind that the settings are for."""
    space: dict[str, Dimension]
    """What is drawn: setting to `{"type": "log-float", "low": 1e-4, "high": 1e-1}` and the like."""
    fixed: dict[str, Any] = msgspec.field(default_factory=dict)
    """Further settings of the kind, the same in all trials."""
    metric: str = "validation_loss"
    """A KPI of the kind; its learning curve decides about an early end where validation knows it."""
    direction: str = "minimize"
    sampler: str = "tpe"
    """'tpe' (tree-structured Parzen estimator: more of what did well), or 'random'."""
    random_trials: int = 10
    """Trials that 'tpe' draws at random at first."""
    pruner: str = "median"
    """Who ends trials early: 'median' (worse than half of the finished ones at that step), 'quartile' (worse than three
    quarters of them), 'hyperband' or 'none'."""
    pruner_trials: int = 4
    """Finished trials before the median ends one."""
    pruner_steps: int = 0
    """Steps of a trial before it may be ended early."""
    required: bool = True
    """False: where the study can not be used (it is full, or its beginning is gone), a trial ends without a model
    instead of being set aside. Not part of what trials share, as the next three."""
    best_of: tuple[str, ...] = ()
    """Tasks whose trials are over: this one is no trial, it trains with the best settings of theirs."""
    otherwise: dict[str, Any] = msgspec.field(default_factory=dict)
    """With `best_of`: what is trained with where none of these trials came to a value, in place of the drawn."""
    then: dict[str, Any] = msgspec.field(default_factory=dict)
    """With `best_of`: settings of this training alone, over `fixed`."""

    def __post_init__(self) -> None:
        check_name(self.study, "a study")
        one_of(self, "direction", ("minimize", "maximize"))
        one_of(self, "sampler", ("tpe", "random"))
        one_of(self, "pruner", PRUNERS)
        within(self, (("random_trials", 1, 1_000), ("pruner_trials", 1, 1_000), ("pruner_steps", 0, 100_000_000)))
        if not 1 <= len(self.space) <= spaces.DIMENSIONS_MAX:
            raise ValueError(f"space names 1 to {spaces.DIMENSIONS_MAX} settings, got {len(self.space)}")
        if both := sorted(set(self.space) & set(self.fixed)):
            raise ValueError(f"{both[0]!r} is in both space and fixed")
        if len(self.best_of) > BEST_OF_MAX:
            raise ValueError(f"best_of names at most {BEST_OF_MAX} tasks, got {len(self.best_of)}")
        if (self.otherwise or self.then) and not self.best_of:
            raise ValueError("otherwise and then belong to best_of: a trial's settings are drawn")
        kind = trained(self.kind)
        for corner in spaces.corners(self.space):
            inner_settings(kind, self, corner)
        if self.best_of:
            inner_settings(kind, self, self.otherwise)

    def definition(self) -> dict[str, Any]:
        """What all trials of a study share."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in told.items() if name not in ALONE}


PRUNERS = ("median", "quartile", "hyperband", "none")

BEST_OF_MAX = 64

ALONE = ("required", "best_of", "otherwise", "then")
"""Settings of one task; what trials share has none of them."""


def trained(name: str) -> Kind:
    """The kind that is to be trained. ValueError when it is none that trains."""
    info = kinds.kind_infos().get(name)
    kind = None if info is None or info.problem else kinds.declared(info)
    if kind is None or not issubclass(kind.Settings, TrainingSettings):
        raise ValueError(f"kind {name[:80]!r} is no training kind of this installation")
    return kind


def inner_settings(kind: Kind, settings: SearchStepSettings, drawn: Mapping[str, Any]) -> Any:
    """The trained kind's own settings. ValueError when it refuses them."""
    try:
        found: Any = msgspec.convert({**settings.fixed, **drawn, **settings.then}, kind.Settings)
    except ValueError as error:  # msgspec's own is one
        shown = ", ".join(f"{name}={value}" for name, value in drawn.items())
        raise ValueError(f"{kind.name} can not be set to {shown[:300]}: {error}") from None
    if found.processes > 1:
        raise ValueError("a trial trains in one process: leave `processes` at 1")
    return found
