"""`bin/agent feeder`: one feeder in this process; it publishes topics where more training is expected to help."""

from __future__ import annotations

import argparse

from agents.commands import flags, role

__all__ = ["EXAMPLE", "add_flags", "run"]

EXAMPLE = """bin/agent feeder
bin/agent feeder --min-queue 8 --burst 4 --sleep-s 60 --priority 2 --budget-per-day 6h"""

FLAGS = {
    "min_queue": ("--min-queue", "N", "tasks that should wait for a worker (default: 4)"),
    "burst": ("--burst", "N", "most topics that are fed at once (default: 2)"),
    "sleep_s": ("--sleep-s", "SECONDS", "pause between two looks at the queue (default: 30)"),
    "priority": ("--priority", "N", "priority of what is fed, 0 to 9 (default: 1)"),
    "day_budget_s": ("--budget-per-day", "DURATION", "most training time given out in 24 hours (default: 4h)"),
    "round_budget_s": ("--round-budget", "DURATION", "training time of each line of a topic (default: 2m)"),
}
"""Setting to its flag, the word for its value, and what it does."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Its name, and how much to feed."""
    role.add_flags(parser)
    group = parser.add_argument_group("how much to feed")
    for name, (flag, metavar, text) in FLAGS.items():
        group.add_argument(flag, dest=name, metavar=metavar, help=text)


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C."""
    from agents.feeder import body
    from agents.runtime import run as live

    values = {f"feeder.{name}": getattr(given, name) for name in FLAGS}
    told = {name: value for name, value in values.items() if value is not None}
    return live(
        "feeder",
        role.reached("feeder", given, flags.settings_of(given, told)),
        body,
        name=given.name or "",
    )
