"""`bin/agent planner`: one planner in this process; it turns topics into tasks."""

from __future__ import annotations

import argparse

from agents.commands.role import add_flags, run_role

__all__ = ["EXAMPLE", "add_flags", "run"]

EXAMPLE = """bin/agent planner
bin/agent planner --server nats://HOST:4222 --creds planner.creds"""


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C."""
    from agents.planner import body

    return run_role("planner", body, given)
