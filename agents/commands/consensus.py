"""`bin/agent consensus`: one consensus in this process; it has results checked and compares the lines."""

from __future__ import annotations

import argparse

from agents.commands.role import add_flags, run_role

__all__ = ["EXAMPLE", "add_flags", "run"]

EXAMPLE = """bin/agent consensus
bin/agent consensus --server nats://HOST:4222 --creds consensus.creds"""


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C."""
    from agents.consensus import body

    return run_role("consensus", body, given)
