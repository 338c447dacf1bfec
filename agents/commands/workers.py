"""`bin/agent workers`: what each worker offers and holds."""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.reach import found, reach
from mesh.messages.services import WorkerRow
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
    if given.json:
        output.write_json(given.json, {"workers": status.workers, "left_out": status.left_out})
    if given.json != "-":
        output.say(picture(status.workers, status.left_out))
    return 0


def picture(workers: tuple[WorkerRow, ...], left_out: int) -> str:
    """One row per worker."""
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
            one.note or "-",
        )
        for one in workers
    ]
    headers = ("worker", "state", "beat", "cores", "memory", "gpus", "labels", "kinds", "holds", "note")
    more = f"\n… and {left_out} more" if left_out else ""
    return output.table(headers, rows) + more
