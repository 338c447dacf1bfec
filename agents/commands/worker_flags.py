"""What a worker offers: options that `worker`, `run` and `up` share. The defaults leave its owner's desktop usable."""

from __future__ import annotations

import argparse

from agents.commands import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The worker's options."""
    group = parser.add_argument_group("what the worker offers")
    group.add_argument("--cores", metavar="N", help="processor cores; fractions are allowed (default: all, yielding)")
    group.add_argument("--memory", metavar="SIZE", help="memory, for example 8GiB (default: 75%% of what is free)")
    group.add_argument("--gpus", metavar="N", help="number of GPUs (default: all that the driver shows)")
    group.add_argument("--disk", metavar="SIZE", help="disk, for example 50GiB (default: half of what is free)")
    group.add_argument("--labels", metavar="WORDS", help="words that tasks may ask for, with commas between them")
    group.add_argument("--max-tasks", metavar="N", help="most tasks at a time (default: one per core)")
    group.add_argument("--name", metavar="NAME", type=flags.name, help="the worker's name (default: this host's)")


def settings(given: argparse.Namespace) -> dict[str, object]:
    """The given ones by setting; mesh/settings.py reads and checks the values."""
    found = {
        "worker.cores": given.cores,
        "worker.memory_bytes": given.memory,
        "worker.gpus": given.gpus,
        "worker.disk_bytes": given.disk,
        "worker.labels": given.labels,
        "worker.max_tasks": given.max_tasks,
        "worker.name": given.name,
    }
    return {name: value for name, value in found.items() if value is not None}
