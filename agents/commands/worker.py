"""`bin/agent worker`: offers this machine to a mesh, under a small supervisor that starts it again when it dies."""

from __future__ import annotations

import argparse
import os

from agents.commands import flags, output, worker_flags
from agents.commands.joining import joined
from agents.commands.reach import environment, found

EXAMPLE = """bin/agent worker --join TOKEN
bin/agent worker --server nats://HOST:4222 --creds worker.creds
bin/agent worker --cores 4 --memory 8GiB --labels lab,fast"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What it offers."""
    worker_flags.add_flags(parser)
    flags.add_join(parser)
    parser.add_argument("--alone", action="store_true", help="without the supervisor: who starts it watches over it")


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C; 3 after five quick deaths."""
    settings = flags.settings_of(given, worker_flags.settings(given))
    if given.join:
        settings = joined(settings, given.join, output.note, role="worker", name=given.name or "")
    else:
        settings = found(settings, role="worker", name=settings.worker.name)
    if given.alone:
        from agents import runtime
        from agents.worker import body

        return runtime.run("worker", settings, body, name=settings.worker.name)
    from agents import supervisor

    return supervisor.run(settings, environment(settings, os.environ))
