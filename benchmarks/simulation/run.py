"""Many seeds: one after the other or spread over processes, their verdicts in the order of the seeds, their totals.

Every process gets runs of neighbouring seeds; a seed's outcome does not depend on which process it runs in or on what
ran there before, so the totals and their digest are the same for any number of jobs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from benchmarks.simulation.trace import TAIL_MAX
from benchmarks.simulation.world import Verdict, home_folder, simulate

CHUNK = 8
"""Seeds that a process is given at once: a second's work, so that progress is seen and no job waits long at the end."""

AHEAD = 4
"""Chunks handed out per process before the first one is back."""


@dataclasses.dataclass(slots=True)
class Totals:
    """What many seeds came to."""

    seeds: int = 0
    broken: list[Verdict] = dataclasses.field(default_factory=list)
    """Verdicts of seeds that broke a promise; at most BROKEN_KEPT of them."""
    broken_seeds: int = 0
    events: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    wall_s: float = 0.0
    digest: str = ""
    """Of all traces: the same for the same seeds and the same program."""


BROKEN_KEPT = 100
"""Stories kept; a defect that breaks every seed is told often enough by then."""


def run(
    first_seed: int,
    seeds: int,
    *,
    jobs: int = 1,
    older: bool = False,
    tail_max: int = TAIL_MAX,
    hear: Callable[[Verdict], None] = lambda verdict: None,
) -> Totals:
    """Live through seeds first_seed, first_seed + 1, …; `hear` gets each verdict, in order."""
    totals, digest, began = Totals(), hashlib.sha256(), time.monotonic()
    for verdict in _verdicts(first_seed, seeds, jobs, older, tail_max):
        totals.seeds += 1
        totals.events += verdict.events
        totals.virtual_s += verdict.virtual_s
        totals.faults.update(verdict.faults)
        totals.counts.update(verdict.counts)
        digest.update(verdict.digest.encode())
        if verdict.broken:
            totals.broken_seeds += 1
            if len(totals.broken) < BROKEN_KEPT:
                totals.broken.append(verdict)
        hear(verdict)
    totals.wall_s, totals.digest = time.monotonic() - began, digest.hexdigest()
    return totals


def _verdicts(first_seed: int, seeds: int, jobs: int, older: bool, tail_max: int) -> Iterator[Verdict]:
    if jobs == 1:
        with home_folder() as home:
            for seed in range(first_seed, first_seed + seeds):
                yield simulate(seed, home, older=older, tail_max=tail_max)
        return
    end = first_seed + seeds
    chunks = iter([(start, min(CHUNK, end - start)) for start in range(first_seed, end, CHUNK)])
    waiting: list[Future[list[Verdict]]] = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                while len(waiting) < jobs * AHEAD and (chunk := next(chunks, None)) is not None:
                    waiting.append(pool.submit(_chunk, *chunk, older, tail_max))
                if not waiting:
                    return
                yield from waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chunk(first_seed: int, seeds: int, older: bool, tail_max: int) -> list[Verdict]:
    with home_folder() as home:
        return [simulate(seed, home, older=older, tail_max=tail_max) for seed in range(first_seed, first_seed + seeds)]
