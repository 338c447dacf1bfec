"""What the commands of single agents share: one agent in this process, on a broker that runs."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from agents.commands import flags, output
from agents.commands.joining import joined
from agents.commands.reach import found
from mesh.setting_tree import Settings

if TYPE_CHECKING:
    from agents.runtime import Agent


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Its name, and how it joins; everything else is a global option or a setting."""
    flags.add_join(parser)
    parser.add_argument("--name", metavar="NAME", type=flags.name, help="the agent's name (default: its role)")


def reached(role: str, given: argparse.Namespace, settings: Settings) -> Settings:
    """The settings with the address of the broker, and with the credentials of this role where it asks for them; joined
    first, with --join."""
    if given.join:
        return joined(settings, given.join, output.note, role=role, name=given.name or "")
    return found(settings, role=role, name=given.name or "")


def run_role(role: str, body: Callable[[Agent], Awaitable[None]], given: argparse.Namespace) -> int:
    """Run the agent until it is asked to stop; its exit code."""
    from agents.runtime import run

    return run(role, reached(role, given, flags.settings_of(given)), body, name=given.name or "")
