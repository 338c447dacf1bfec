"""`bin/agent keeper`: the process that holds the embedded broker. Commands start it; people seldom do."""

from __future__ import annotations

import argparse

from agents.commands import flags

EXAMPLE = "bin/agent keeper --home /srv/ramify"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(given: argparse.Namespace) -> int:
    """Until nobody uses the broker any more, or SIGTERM. 75 when another keeper holds the store."""
    from agents import keeper

    return keeper.run(flags.settings_of(given))
