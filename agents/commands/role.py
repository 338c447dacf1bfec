"""What the commands of single agents share: one agent in this process, on a broker that runs."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from agents.commands import flags
from agents.commands.reach import found

if TYPE_CHECKING:
    from agents.runtime import Agent


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Its name; everything else is a global option or a setting."""
    parser.add_argument("--name", metavar="NAME", type=flags.name, help="the agent's name (default: its role)")


def run_role(role: str, body: Callable[[Agent], Awaitable[None]], given: argparse.Namespace) -> int:
    """Run the agent until it is asked to stop; its exit code."""
    from agents.runtime import run

    return run(role, found(flags.settings_of(given), role=role, name=given.name or ""), body, name=given.name or "")
