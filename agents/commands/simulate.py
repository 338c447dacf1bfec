"""`bin/agent simulate`: the control plane under seeded faults in virtual time (docs/simulation.md says what it covers).

Nothing is started or touched: broker, disks, children and clocks are simulated. A seed that breaks a promise is told at
once, with the end of its story and the command that lives through it again; the last line is the totals.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from agents.commands import flags, output
from mesh.errors import EnvironmentUnfit

if TYPE_CHECKING:
    from benchmarks.simulation.run import Totals
    from benchmarks.simulation.world import Verdict

EXAMPLE = """bin/agent simulate --seeds 1000
bin/agent simulate --seeds 100000 --first-seed 5000 --jobs 8 --json totals.json
bin/agent simulate --first-seed 4711 --seeds 1 --story"""

EXIT_BROKEN = 1
"""A promise was broken in some seed."""

SEEDS_MAX = 10_000_000
"""Ten days on one core; more is a typing error."""

JOBS_MAX = 256

SAY_EVERY_S = 10.0
"""How often it is said how far it is."""

STORY_MAX = 1_000_000
"""Events of a whole story: a seed has some hundred."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which seeds, on how many processes, and what is told."""
    parser.add_argument("--seeds", metavar="N", type=flags.whole(1, SEEDS_MAX), default=1_000, help="so many (1000)")
    parser.add_argument(
        "--first-seed", metavar="S", type=flags.whole(0, 10**15), default=0, help="from this one on (0)"
    )
    parser.add_argument(
        "--jobs", metavar="J", type=flags.whole(1, JOBS_MAX), default=1, help="processes beside each other"
    )
    parser.add_argument(
        "--older-broker",
        action="store_true",
        help="in every seed the broker may come back with an older store, not only in some",
    )
    parser.add_argument("--story", action="store_true", help="tell a broken seed from its beginning, not only its end")
    flags.add_json(parser, "the totals and the broken seeds")


def run(given: argparse.Namespace) -> int:
    """0 when every seed kept every promise, else 1."""
    output.check_target(given.json)
    try:
        from benchmarks.simulation import run as simulation
        from benchmarks.simulation.trace import TAIL_MAX
    except ModuleNotFoundError as error:
        raise EnvironmentUnfit(
            f"the simulation is not installed here ({error.name} is missing in {sys.prefix}): run this in a checkout."
        ) from None
    listener = _Listener(given)
    totals = simulation.run(
        given.first_seed,
        given.seeds,
        jobs=min(given.jobs, given.seeds, 2 * (os.cpu_count() or 1)),
        older=given.older_broker,
        tail_max=STORY_MAX if given.story else TAIL_MAX,
        hear=listener.hear,
    )
    if given.json:
        output.write_json(given.json, document(given.first_seed, totals))
    if given.json != "-":
        output.say(last_line(totals))
    return EXIT_BROKEN if totals.broken_seeds else 0


class _Listener:
    """Tells of broken seeds at once, and now and then how far it is."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given, self._heard, self._said_at = given, 0, time.monotonic()

    def hear(self, verdict: Verdict) -> None:
        self._heard += 1
        if verdict.broken:
            output.note(story(verdict, older=self._given.older_broker))
        if time.monotonic() > self._said_at + SAY_EVERY_S and self._heard < self._given.seeds:
            self._said_at = time.monotonic()
            output.note(f"{self._heard:,} of {self._given.seeds:,} seeds")


def story(verdict: Verdict, *, older: bool) -> str:
    """What was broken, what happened before, and how to see it again."""
    again = f"bin/agent simulate --first-seed {verdict.seed} --seeds 1 --story{' --older-broker' if older else ''}"
    lines = [
        f"seed {verdict.seed} broke a promise:",
        *(f"  {sentence}" for sentence in verdict.broken),
        f"the last {len(verdict.tail)} of its {verdict.events} events (virtual seconds):",
        *(f"  {event}" for event in verdict.tail),
        f"again: {again}",
    ]
    return "\n".join(output.plain(line) for line in lines)


def last_line(totals: Totals) -> str:
    """One line of totals."""
    counts = totals.counts
    seeds = f"{totals.seeds:,} {'seed' if totals.seeds == 1 else 'seeds'}"
    kept = (
        f"{totals.broken_seeds:,} of {seeds} broke a promise" if totals.broken_seeds else f"{seeds} kept all promises"
    )
    return (
        f"{kept}: {counts['tasks']:,} tasks under {counts['leases']:,} leases, {counts['worker lives']:,} lives of "
        f"workers, {counts['terms']:,} terms of leaders, {sum(totals.faults.values()):,} faults, "
        f"{counts['stale writes refused']:,} stale writes refused; {totals.virtual_s / 3_600:.1f} virtual hours in "
        f"{totals.wall_s:.0f} s; digest {totals.digest[:12]}"
    )


def document(first_seed: int, totals: Totals) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "first_seed": first_seed,
        "seeds": totals.seeds,
        "broken_seeds": totals.broken_seeds,
        "broken": [
            {"seed": verdict.seed, "promises": list(verdict.broken), "tail": list(verdict.tail)}
            for verdict in totals.broken
        ],
        "events": totals.events,
        "faults": dict(sorted(totals.faults.items())),
        "counts": dict(sorted(totals.counts.items())),
        "virtual_s": round(totals.virtual_s, 3),
        "wall_s": round(totals.wall_s, 3),
        "digest": totals.digest,
    }
