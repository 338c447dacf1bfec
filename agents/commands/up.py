"""`bin/agent up`: a broker and one of each agent here, until Ctrl-C; says how other machines join.

With `--listen` other machines reach this home's own broker. It then asks everybody for TLS and a key, on this machine
too, and stays so (mesh/guard.py): what has been stored there by others is not this machine's alone any more.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import shlex
import socket
import sys
from urllib.parse import urlsplit

from agents.commands import flags, loop, output, worker_flags
from agents.commands.reach import has_joined
from agents.commands.starting import started
from agents.together import ROLES, WITH_GATEWAY
from mesh.errors import SettingsInvalid
from mesh.guard import Guard
from mesh.setting_tree import ArtifactSettings, Settings
from mesh.setting_values import mask_url
from mesh.settings import variable

EXAMPLE = """bin/agent up
bin/agent up --listen 0.0.0.0 --advertise mesh.example.org
bin/agent up --server nats://HOST:4222 --cores 4"""

DEFAULT = ArtifactSettings()

SHARED = {"folder": ("folder",), "s3": ("s3_bucket", "s3_prefix", "s3_endpoint", "s3_region")}
"""Settings of each backend that a joining machine needs as they are here."""

NEEDED = {
    "folder": "  there, that folder has to be the same shared disk; if it is mounted elsewhere, give its path there.",
    "s3": "  there, the bucket's key is needed: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role.",
}
"""What the line itself can not bring along."""

LOOK_EVERY_S = 1.0
"""How soon a role that gave up is noticed."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where to listen, the worker's options, and --json."""
    group = parser.add_argument_group("for other machines")
    group.add_argument(
        "--listen", metavar="ADDRESS[:PORT]",
        help="let other machines reach this broker there, with TLS and keys (0.0.0.0: everywhere; port: 4222)",
    )  # fmt: skip
    group.add_argument(
        "--advertise", metavar="HOST[:PORT]", action="append",
        help="a name or address by which others reach it, when they can not see this machine's own; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--gateway", metavar="ADDRESS[:PORT]", nargs="?", const="",
        help="start the HTTP gateway as well (default: 127.0.0.1:8380), as `bin/agent gateway` does",
    )  # fmt: skip
    worker_flags.add_flags(parser)
    flags.add_json(parser, "the broker's address and the roles that run here")


def run(given: argparse.Namespace) -> int:
    """Stays until Ctrl-C or SIGTERM, then 0; 3 with a sentence when a role can not be kept alive."""
    output.check_target(given.json)
    settings = flags.settings_of(given, worker_flags.settings(given) | _listening(given) | _gateway(given))
    check(settings)
    return loop.run_stoppable(lambda stop: _run(given, settings, stop))


async def _run(given: argparse.Namespace, settings: Settings, stop: asyncio.Event) -> int:
    roles = ROLES if given.gateway is None else WITH_GATEWAY
    async with started(settings, stop, output.note, roles) as mesh:
        url = mesh.reach.settings.nats.url
        if given.json:
            output.write_json(given.json, {"server": mesh.reach.where, "roles": mesh.together.roles})
        if given.json != "-" and not stop.is_set():
            output.say(f"the mesh {settings.prefix!r} runs on {mesh.reach.where}; Ctrl-C stops what was started here.")
            guarded = mesh.lease is not None and bool(mesh.reach.settings.nats.nkey)
            for line in listens(url, settings) if guarded else ():
                output.say(line)
            if not guarded:
                output.say(join_line(url, mesh.reach.where, settings, own=mesh.lease is not None))
            if not guarded and mesh.lease is not None:
                output.say("without a tunnel:  start this with --listen ADDRESS, then  bin/agent invite")
            if given.gateway is not None:
                output.say(f"over HTTP: {gateway_url(settings)}/docs")
                output.say("let people in over HTTP:  bin/agent token issue --role publisher")
            if settings.artifacts.backend != DEFAULT.backend:
                output.say(NEEDED[settings.artifacts.backend])
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


def _listening(given: argparse.Namespace) -> dict[str, object]:
    said = {"broker.listen": given.listen, "broker.advertise": tuple(given.advertise or ()) or None}
    return {name: value for name, value in said.items() if value is not None}


def _gateway(given: argparse.Namespace) -> dict[str, object]:
    from agents.commands.gateway import listening

    return listening(given.gateway, "--gateway") if given.gateway else {}


def gateway_url(settings: Settings) -> str:
    """Where the gateway is reached that is started here."""
    chosen = settings.gateway
    here = chosen.host in ("localhost", "127.0.0.1", "::1")
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    return f"http{'' if here and not chosen.cert else 's'}://{host}:{chosen.port}"


def check(settings: Settings) -> None:
    """SettingsInvalid for wishes that exclude each other."""
    broker = settings.broker
    if settings.nats.named and broker.listen:
        raise SettingsInvalid(
            f"--listen is about the broker of this home, but another one is named ({mask_url(settings.nats.url)} from "
            f"{settings.origin('nats.url')}): leave one of both out."
        )
    if not settings.nats.named and not broker.listen and has_joined(settings):
        raise SettingsInvalid(
            f"this home ({settings.home}) has joined the mesh of another machine: `bin/agent worker` works for that; "
            "for a mesh of its own choose another --home, or `bin/agent leave` first."
        )
    if broker.advertise and not broker.listen and Guard.found(settings.home / "broker") is None:
        raise SettingsInvalid("--advertise names a broker that listens for other machines: give --listen ADDRESS, too.")


def listens(url: str, settings: Settings) -> list[str]:
    """Where a guarded broker is reached, and how machines join it."""
    from mesh import guard

    folder, port = settings.home / "broker", urlsplit(url).port or guard.PORT
    shown = ", ".join(guard.addresses(settings.broker, port))
    lines = [
        f"it asks everybody for TLS and a key; its authority is {folder / 'tls' / 'ca.pem'}",
        "add a machine or a person:  bin/agent invite  prints one line for them to paste",
    ]
    if not shown:
        return [*lines, "it listens on loopback only: --listen ADDRESS lets other machines reach it"]
    return [f"other machines reach it at {shown}", *lines]


def join_line(url: str, shown: str, settings: Settings, *, own: bool) -> str:
    """How another machine adds a worker: with the mesh's name and the place of its artifacts, where they are not the
    usual ones. An open embedded broker listens on loopback only: it is reached by a tunnel, or with --listen."""
    worker = " ".join((*_artifacts(settings), "bin/agent worker"))
    mesh = f" --prefix {settings.prefix}" if settings.prefix != Settings().prefix else ""
    if not own:
        return f"join from another machine:  {worker} --server {shown}{mesh}"
    port = urlsplit(url).port
    here = f"{_user()}@{socket.gethostname()}"
    return (
        "join from another machine:  "
        f"ssh -N -L 4222:127.0.0.1:{port} {here} &  {worker} --server nats://127.0.0.1:4222{mesh}"
    )


def _artifacts(settings: Settings) -> list[str]:
    """What the environment of the other machine's worker has to say of the artifacts' place; never a secret."""
    chosen, default = settings.artifacts, DEFAULT
    if chosen.backend == default.backend:
        return []
    values = {name: getattr(chosen, name) for name in SHARED[chosen.backend]}
    if "s3_endpoint" in values:
        values["s3_endpoint"] = mask_url(values["s3_endpoint"] or os.environ.get("AWS_ENDPOINT_URL", ""))
        values["s3_region"] = values["s3_region"] or os.environ.get("AWS_REGION", "")
    return [
        f"{variable(f'artifacts.{name}')}={shlex.quote(str(value))}"
        for name, value in {"backend": chosen.backend, **values}.items()
        if value
    ]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "USER"
