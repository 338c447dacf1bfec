"""Merge: one model from the weights of several that come from one ancestor.

In:    `candidate-1`, `candidate-2` … (two to sixteen models of one kind), `validation` (what they answer: a split,
       documents); `ancestor` for task arithmetic and TIES; `base`, where the candidates are adapters
Out:   `model`, of the candidates' own kind; `claims`, its per-item outcomes on validation
How:   executors/models/merging.py, on tensors checked by executors/models/candidates.py; what there is to choose (which
       candidates, which scale, the temperature) is chosen on half of the validation items and measured on the other
Says:  what every candidate and the merge are worth on that other half, and whether the merge is better than the best
Not:   trains nothing; merges no models without a common past, for the mean of unrelated networks is no network
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime
from executors.recipe import one_of
from mesh.messages.tasks import Needs

METHODS = ("greedy", "average", "arithmetic", "ties")

CANDIDATE = "candidate-"
"""How the names of the inputs begin that are merged."""

CANDIDATES_MAX = 16

MIB = 1024 * 1024


class MergeSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to merge."""

    method: str = "greedy"
    """'greedy' (soup: the best first, each further one only if it does no harm), 'average' (of all), 'arithmetic' (the
    ancestor plus what all have learned), 'ties' (the same, trimmed and with elected signs)."""
    scales: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)
    """Of arithmetic and TIES: how much of what was learned is added; the best one is chosen."""
    density: float = 0.2
    """Of TIES: share of each candidate's differences that is kept, the largest ones."""

    def __post_init__(self) -> None:
        one_of(self, "method", METHODS)
        if not 1 <= len(self.scales) <= 16 or not all(0.0 < scale <= 4.0 for scale in self.scales):
            raise ValueError(f"scales are 1 to 16 numbers above 0 and at most 4, got {self.scales}")
        if not 0.0 < self.density <= 1.0:
            raise ValueError(f"density is above 0 and at most 1, got {self.density}")


class Merge:
    """The kind `merge`."""

    name: ClassVar[str] = "merge"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(
        ("candidate-1", "candidate-2", "validation"),
        (*(f"{CANDIDATE}{number}" for number in range(3, CANDIDATES_MAX + 1)), "ancestor", "base"),
    )
    Settings: ClassVar[type[port.Settings]] = MergeSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory to ask one model at a time, and a constant for merging. facts: `input_bytes`, by input."""
        sizes = {name: int(size) for name, size in (facts.get("input_bytes") or {}).items()}
        model = max((size for name, size in sizes.items() if name.startswith(CANDIDATE)), default=4 * MIB)
        whole = max(model, sizes.get("base", 0), sizes.get("ancestor", 0))
        items = int(sizes.get("validation") or facts.get("bytes") or MIB)
        libraries = 460 * MIB if whole > 8 * MIB or "base" in sizes else 300 * MIB
        memory = libraries + 48 * MIB + 2 * whole + 12 * items
        return Needs(cores=1.0, memory_bytes=memory, disk_bytes=64 * MIB + 3 * whole + items)

    def run(self, job: Job, context: Context) -> Made:
        """Check, merge, measure."""
        from executors.models import merger

        return merger.merge(job, context)
