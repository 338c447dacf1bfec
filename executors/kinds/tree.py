"""Tree: one model of several specialists under a router, which answers as one.

In:    `router` (made by `branch`), `member-0`, `member-1` … (the specialists of its branches, any of them),
       `validation` (what they answer: a split, documents); `flat` (the model of all branches: it answers where a branch
       has no specialist, and may have a share everywhere); `base`, where they are adapters
Out:   `model`, a folder that holds them all; `claims`, its per-item outcomes on validation
How:   executors/models/tree.py loads, treemixing.py mixes; temperature, how many are asked, and the flat model's share
       are chosen on validation over the grid in the settings
Says:  what every way of the grid is worth, each branch's specialist against the flat model, and whether the tree is
       better than the flat model on items that did not choose
Not:   trains nothing; does not mix language models that cut texts in different ways
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime
from mesh.messages.tasks import Needs

MIB = 1024 * 1024

ROUTINGS = ("centres", "likelihood")

GRID_MAX = 192
"""Ways of mixing that are tried at most."""

ARRAYS_BYTES = 384 * MIB
"""Answers of all models to a block of items, and what is computed from them."""

LOADED_BYTES_MAX = 1024 * MIB
"""Of specialists in memory at once (ROOM_BYTES of executors/models/tree.py)."""


class TreeSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is tried."""

    temperatures: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    """Of exp(-squared distance from a centre / temperature)."""
    tops: tuple[int, ...] = (1, 2, 4)
    """How many branches are asked at most."""
    flat_shares: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75)
    """Shares of the flat model in every answer."""
    routings: tuple[str, ...] = ROUTINGS
    """Of language models: 'centres' (the router reads the beginning of a text), 'likelihood' (every model reads along,
    and counts as much as it has foretold the text so far). Models that label are always routed by centres."""
    reread: int = 64
    """Of language models: tokens after which the router reads the beginning of the text again."""

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0.0 < one < math.inf for one in self.temperatures):
            raise ValueError(f"temperatures are one number or more, all above 0, got {self.temperatures}")
        if not self.tops or not all(1 <= one <= 256 for one in self.tops):
            raise ValueError(f"tops are one whole number or more from 1 to 256, got {self.tops}")
        if not self.flat_shares or not all(0.0 <= one <= 1.0 for one in self.flat_shares):
            raise ValueError(f"flat_shares are one number or more from 0 to 1, got {self.flat_shares}")
        if not self.routings or not set(self.routings) <= set(ROUTINGS):
            raise ValueError(f"routings are some of {', '.join(ROUTINGS)}, got {self.routings}")
        if not 1 <= self.reread <= 65_536:
            raise ValueError(f"reread is 1 to 65536 tokens, got {self.reread}")
        ways = len(self.flat_shares) * (len(self.temperatures) * len(self.tops) + 1)
        if ways > GRID_MAX:
            raise ValueError(f"the grid has {ways} ways and may have {GRID_MAX}: name fewer")


class Tree:
    """The kind `tree`."""

    name: ClassVar[str] = "tree"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("router", "validation"), ("flat", "base"), ("member-",))
    Settings: ClassVar[type[port.Settings]] = TreeSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for as many of its models as are loaded at once, and for the answers of all of them to a
        block of items. facts: `input_bytes`, by input. Its own files are links, unless it is made on another disk."""
        sizes = {name: int(size) for name, size in (facts.get("input_bytes") or {}).items()}
        models = [size for name, size in sizes.items() if name not in ("router", "validation")] or [8 * MIB]
        items = int(sizes.get("validation") or facts.get("bytes") or MIB)
        loaded = max(max(models), min(sum(models), LOADED_BYTES_MAX))
        memory = 400 * MIB + ARRAYS_BYTES + 2 * loaded + 3 * sizes.get("router", MIB) + 8 * items
        return Needs(cores=1.0, memory_bytes=memory, disk_bytes=64 * MIB + sum(sizes.values()) + items)

    def run(self, job: Job, context: Context) -> Made:
        """Check, ask, choose, write, ask again."""
        from executors.models import treemaking

        return treemaking.make(job, context)
