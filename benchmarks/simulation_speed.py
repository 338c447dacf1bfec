"""What the seeded simulation costs, and what it finds: many seeds in one process, one after the other.

    as always       seeds 1, 2, …
    older broker    the same number, each with a broker that comes back with an older store at least once

Wall time and processor time of one process; the judge's own work is in it. `--tasks N` lives through N seeds.
"""

from __future__ import annotations

import time

from benchmarks.document import SHARE
from benchmarks.frame import Frame
from benchmarks.simulation import run as simulation

NAME = "simulation"
WHY = "How long a thousand simulated meshes under seeded faults take on one core, and whether all promises are kept."

SEEDS, QUICK_SEEDS = 1_000, 40
SECONDS_AIM = 120.0
"""For a thousand seeds on one core: often enough to be run before each change."""


def run(frame: Frame) -> None:
    """Both kinds of seeds; the aims are for a thousand of the first kind."""
    seeds = frame.tasks or (QUICK_SEEDS if frame.quick else SEEDS)
    first_seed = 1 if frame.seed is None else frame.seed
    per_thousand, broken = measure(frame, "as always", first_seed, seeds, older=False)
    _, broken_older = measure(frame, "older broker", first_seed, seeds if not frame.quick else seeds // 4, older=True)
    frame.at_most("seconds for a thousand seeds on one core", SECONDS_AIM, "s", [per_thousand])
    frame.at_most("seeds that broke a promise", 0, SHARE, [broken + broken_older])


def measure(frame: Frame, who: str, first_seed: int, seeds: int, *, older: bool) -> tuple[float, int]:
    """(wall seconds for a thousand seeds, seeds that broke a promise)."""
    began_cpu_s = time.process_time()
    totals = simulation.run(first_seed, seeds, older=older)
    cpu_s = time.process_time() - began_cpu_s
    frame.row(who, "seeds", totals.seeds, SHARE, f"from {first_seed}")
    frame.row(who, "wall time for a thousand seeds", 1_000 * totals.wall_s / seeds, "s")
    frame.row(who, "processor time for a thousand seeds", 1_000 * cpu_s / seeds, "s")
    frame.row(who, "virtual hours", totals.virtual_s / 3_600, "h")
    frame.row(who, "faults", sum(totals.faults.values()), SHARE)
    for count in ("tasks", "leases", "worker lives", "terms", "stale writes refused"):
        frame.row(who, count, totals.counts[count], SHARE)
    first = totals.broken[0].seed if totals.broken else None
    frame.row(who, "seeds that broke a promise", totals.broken_seeds, SHARE, "" if first is None else f"first: {first}")
    return 1_000 * totals.wall_s / seeds, totals.broken_seeds
