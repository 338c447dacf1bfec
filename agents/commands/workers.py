"""`bin/agent workers`: what each worker offers and holds, and how its claims have stood up to their checks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.reach import Reach, found, reach
from agents.commands.stored import bucket
from mesh import streams
from mesh.errors import NotFound
from mesh.messages.services import WorkerRow
from mesh.messages.trust import Trust
from mesh.setting_tree import Settings

EXAMPLE = "bin/agent workers"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "the workers")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        status = await ask(there, "workers")
        trust = await _trust(there)
    if given.json:
        known = {one.name: trust[one.name].streaks for one in status.workers if one.name in trust}
        output.write_json(given.json, {"workers": status.workers, "left_out": status.left_out, "trust": known})
    if given.json != "-":
        output.say(picture(status.workers, status.left_out, trust))
    return 0


async def _trust(there: Reach) -> dict[str, Trust]:
    """What checks of each worker's claims have come to."""
    try:
        return await bucket(there, streams.TRUST, Trust)
    except NotFound:  # a mesh that an older program made
        return {}


def picture(workers: tuple[WorkerRow, ...], left_out: int, trust: Mapping[str, Trust]) -> str:
    """One row per worker; below them what was wrong where a worker's claims have failed a check."""
    if not workers:
        return "no worker has been heard; start one with `bin/agent worker`."
    rows = [
        (
            one.name,
            "drained" if one.drained and one.state == "live" else one.state,
            output.age(one.beat_age_s),
            one.cores_free,
            output.size(one.memory_free_bytes),
            one.gpus_free,
            ",".join(one.labels) or "-",
            " ".join(sorted(one.kinds)),
            " ".join(one.held) or "-",
            _streaks(trust.get(one.name)),
            one.note or "-",
        )
        for one in workers
    ]
    headers = ("worker", "state", "beat", "cores", "memory", "gpus", "labels", "kinds", "holds", "checks", "note")
    more = f"\n… and {left_out} more" if left_out else ""
    failed = [sentence for one in workers if one.name in trust for sentence in _failures(trust[one.name])]
    return "\n".join([output.table(headers, rows) + more, *failed])


def _streaks(trust: Trust | None) -> str:
    """Clean checks in a row, by kind."""
    rows = [f"{row.executor} {row.streak}" for row in (trust.streaks if trust is not None else ())]
    return " ".join(sorted(rows)) or "-"


def _failures(trust: Trust) -> list[str]:
    return [
        f"{trust.worker}: {row.failed} of {row.clean + row.failed} checks of its {row.executor} claims failed, "
        f"the last: {row.why}"
        for row in trust.streaks
        if row.failed
    ]
