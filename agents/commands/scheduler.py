"""`bin/agent scheduler`: one scheduler in this process; it keeps the ledger and gives out leases."""

from __future__ import annotations

import argparse

from agents.commands.role import add_flags, run_role

__all__ = ["EXAMPLE", "add_flags", "run"]

EXAMPLE = """bin/agent scheduler
bin/agent scheduler --server nats://HOST:4222 --creds scheduler.creds"""


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C."""
    from agents.scheduler import body

    return run_role("scheduler", body, given)
