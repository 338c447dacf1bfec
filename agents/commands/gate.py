"""`bin/agent gate`: one gate in this process; it accepts or rejects what consensus recommends."""

from __future__ import annotations

import argparse

from agents.commands.role import add_flags, run_role

__all__ = ["EXAMPLE", "add_flags", "run"]

EXAMPLE = """bin/agent gate
bin/agent gate --server nats://HOST:4222 --creds gate.creds"""


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C."""
    from agents.gate import body

    return run_role("gate", body, given)
