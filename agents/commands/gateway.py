"""`bin/agent gateway`: a way into the mesh over HTTP, for people and machines without NATS (docs/http.md)."""

from __future__ import annotations

import argparse

from agents.commands import flags, role
from mesh.errors import SettingsInvalid

EXAMPLE = """bin/agent gateway
bin/agent gateway --listen 0.0.0.0:8380
bin/agent gateway --listen 127.0.0.1:8380 --behind-proxy"""

FLAGS: dict[str, tuple[str, str, str]] = {
    "cert": ("--cert", "FILE", "its TLS certificate with the chain; else the mesh's own authority makes one"),
    "key": ("--key", "FILE", "that certificate's private key"),
    "requests_per_s": ("--requests-per-s", "N", "requests a second of one token, in the long run (default: 200)"),
    "requests_max": ("--requests-max", "N", "most requests at a time (default: 256)"),
    "streams_max": ("--streams-max", "N", "most streams of events and long waits at a time (default: 1024)"),
}
"""Setting to its flag, the word for its value, and what it does."""

NO_PORT = -1
"""Stands for a port that was not said: the setting decides."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Its name, where it listens, and how much it takes."""
    role.add_flags(parser)
    group = parser.add_argument_group("the way in")
    group.add_argument(
        "--listen", metavar="ADDRESS[:PORT]",
        help="where it listens (default: 127.0.0.1:8380); off loopback with TLS",
    )  # fmt: skip
    group.add_argument(
        "--behind-proxy", action="store_true", default=None,
        help="a proxy on this machine ends TLS before it, and X-Forwarded-For says who asks",
    )  # fmt: skip
    for name, (flag, metavar, text) in FLAGS.items():
        group.add_argument(flag, dest=name, metavar=metavar, help=text)


def run(given: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C."""
    from agents.gateway import body
    from agents.runtime import run as live

    settings = role.reached("gateway", given, flags.settings_of(given, told(given)))
    return live("gateway", settings, body, name=given.name or "")


def told(given: argparse.Namespace) -> dict[str, object]:
    """Settings of the gateway that this command line gives."""
    values: dict[str, object] = {f"gateway.{name}": getattr(given, name) for name in FLAGS}
    values["gateway.behind_proxy"] = given.behind_proxy
    found = {name: value for name, value in values.items() if value is not None}
    return found | (listening(given.listen, "--listen") if given.listen is not None else {})


def listening(text: str, option: str) -> dict[str, object]:
    """Settings for a place to listen. SettingsInvalid for what is none."""
    from mesh.setting_values import place

    where = place(text, NO_PORT)
    if where is None:
        raise SettingsInvalid(f"{option} expects ADDRESS or ADDRESS:PORT, got {text!r}.")
    return {"gateway.host": where[0], **({"gateway.port": where[1]} if where[1] != NO_PORT else {})}
