"""How to train: the recipe that the loop follows, and the settings by which every kind that trains is told.

A kind's settings inherit `TrainingSettings`, give their own defaults and add their own fields; executors/training.py
makes the recipe of them. Bounds are checked when the settings are made, before anything is loaded. Light: no torch, so
that a kind's declaration can be read cheaply.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from executors import cadence, port
from executors.schedules import SHAPES
from mesh.messages.tasks import Needs

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE = ("auto", "on", "off")
SHARDING = ("none", "full")
ACCOUNTS = ("marginal", "amortised", "lineage")


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How to train."""

    batch: int
    micro_batch: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    epochs_max: int
    evaluate_every: int
    """Steps."""
    patience: int
    """Evaluations without a better one before an early stop."""
    clip: float
    budget_s: float
    seed: int
    steps_max: int = 0
    """Length of the run in steps; 0: in epochs."""
    schedule: str = "linear"
    accumulate_float64: bool = False
    compile: str = "off"
    checkpoint_s: float = 30.0
    checkpoint_steps: int = 0
    """0: by time only."""
    overhead: float = cadence.OVERHEAD
    """Share of the run's time that checkpoints may cost; they come less often than asked for to stay below it; 1: no
    bound."""


class TrainingSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every training can be told. A kind overrides defaults by naming the field again."""

    batch: int = 32
    """Examples per step."""
    micro_batch: int = 0
    """Examples computed at once; a step adds up their gradients. 0: all of them."""
    learning_rate: float = 1e-3
    """At its peak."""
    weight_decay: float = 0.01
    warmup_steps: int = 50
    schedule: str = "linear"
    """'constant', 'linear', 'cosine', or 'wsd' (warm-up, stable, decay)."""
    epochs_max: int = 10
    steps_max: int = 0
    """Length of the run in steps, whatever `epochs_max` says; 0: in epochs."""
    evaluate_every: int = 100
    """Steps between two validations."""
    patience: int = 10
    """Validations without a better one before an early stop."""
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    precision: str = "auto"
    """'fp32'; 'bf16' where the hardware has it; 'fp16' on a GPU; or 'auto'."""
    accumulate_float64: bool = False
    """Add up a step's gradients in float64: sums of many parts, or of half-precision ones, lose nothing. Eight bytes
    more per parameter."""
    compile: str = "auto"
    """torch.compile: 'on', 'off', or 'auto' where it pays."""
    processes: int = 1
    """Processes of one machine that train together, each with a GPU of its own where GPUs are leased
    (executors/parallel.py)."""
    sharding: str = "none"
    """What each of them holds of network and moments: 'none', all of it (DDP); 'full', a part of it (FSDP2)."""
    checkpoint_s: float = 30.0
    checkpoint_steps: int = 0
    """A checkpoint also every so many steps; 0: by time only."""
    checkpoint_overhead: float = cadence.OVERHEAD
    """Share of the training time that checkpoints may cost: they come less often than asked for to stay below it.
    1: no bound."""
    account: str = "amortised"
    """By which rule it is charged for the compute in the weights that it starts from: 'marginal', 'amortised' or
    'lineage' (docs/lines.md). It changes nothing in the training: it is said beforehand, so that nobody can choose
    it when the result is known."""

    def __post_init__(self) -> None:
        one_of(self, "schedule", SHAPES)
        one_of(self, "precision", PRECISIONS)
        one_of(self, "compile", COMPILE)
        one_of(self, "sharding", SHARDING)
        one_of(self, "account", ACCOUNTS)
        within(self, BOUNDS)
        batch: int | None = self.batch  # a kind may leave it open
        if batch is not None and self.micro_batch > batch:
            raise ValueError(f"micro_batch is at most batch ({batch}), got {self.micro_batch}")


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("batch", 1, 65_536),
    ("micro_batch", 0, 65_536),
    ("learning_rate", 1e-7, 10.0),
    ("weight_decay", 0.0, 10.0),
    ("warmup_steps", 1, 100_000),
    ("epochs_max", 1, 10_000),
    ("steps_max", 0, 100_000_000),
    ("evaluate_every", 1, 10_000_000),
    ("patience", 1, 10_000),
    ("clip", 1e-6, 1e6),
    ("processes", 1, 64),
    ("checkpoint_s", 0.1, 86_400.0),
    ("checkpoint_steps", 0, 10_000_000),
    ("checkpoint_overhead", 1e-5, 1.0),
)
"""Setting, least, most."""


def shared_out(needs: Needs, settings: Any) -> Needs:
    """What a training takes in all its processes, from what it takes in one."""
    count = settings.processes
    if count == 1:
        return needs
    return msgspec.structs.replace(needs, cores=max(needs.cores, float(count)), memory_bytes=needs.memory_bytes * count)


GPU_MARGIN = 1.25
"""What a GPU's allocator leaves unused between the blocks that it hands out."""


def wishing(needs: Needs, size_bytes: int, settings: Any) -> Needs:
    """The same, with the wish for a share of a GPU on which the work itself takes so many bytes. Several processes on
    one network share the cores of a machine, and wish for none."""
    return needs if settings.processes > 1 else needs.evolve(gpu_wish_bytes=int(GPU_MARGIN * size_bytes))


def within(settings: Any, bounds: tuple[tuple[str, float, float], ...]) -> None:
    """ValueError for the first setting that is out of its bounds; None is within any."""
    for name, low, high in bounds:
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} must be {low:g} to {high:g}, got {value}")


def one_of(settings: Any, name: str, choices: tuple[str, ...]) -> None:
    """ValueError when the setting is none of the choices."""
    if (value := getattr(settings, name)) not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, got {value!r}")
