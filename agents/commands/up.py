"""`bin/agent up`: a broker and one of each agent here, until Ctrl-C; says how other machines join."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import socket
import sys
from urllib.parse import urlsplit

from agents.commands import flags, loop, output, worker_flags
from agents.commands.starting import started
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent up
bin/agent up --server nats://HOST:4222 --cores 4"""

LOOK_EVERY_S = 1.0
"""How soon a role that gave up is noticed."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The worker's options, and --json."""
    worker_flags.add_flags(parser)
    flags.add_json(parser, "the broker's address and the roles that run here")


def run(given: argparse.Namespace) -> int:
    """Stays until Ctrl-C or SIGTERM, then 0; 3 with a sentence when a role can not be kept alive."""
    output.check_target(given.json)
    settings = flags.settings_of(given, worker_flags.settings(given))
    return loop.run_stoppable(lambda stop: _run(given, settings, stop))


async def _run(given: argparse.Namespace, settings: Settings, stop: asyncio.Event) -> int:
    async with started(settings, stop, output.note) as mesh:
        url = mesh.reach.settings.nats.url
        if given.json:
            output.write_json(given.json, {"server": mesh.reach.where, "roles": mesh.together.roles})
        if given.json != "-" and not stop.is_set():
            output.say(f"the mesh {settings.prefix!r} runs on {mesh.reach.where}; Ctrl-C stops what was started here.")
            output.say(join_line(url, mesh.reach.where, own=mesh.lease is not None))
        while not stop.is_set():
            mesh.check()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue
        output.note("stopping what was started …")
    sys.stdout.flush()
    return 0


def join_line(url: str, shown: str, *, own: bool) -> str:
    """How another machine adds a worker. The embedded broker listens on loopback only: it is reached by a tunnel."""
    if not own:
        return f"join from another machine:  bin/agent worker --server {shown}"
    port = urlsplit(url).port
    here = f"{_user()}@{socket.gethostname()}"
    return (
        "join from another machine:  "
        f"ssh -N -L 4222:127.0.0.1:{port} {here} &  bin/agent worker --server nats://127.0.0.1:4222"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "USER"
