"""`bin/agent join TOKEN`: makes this home a member of the mesh that an invitation is from.

From then on every command here reaches that mesh, where no other broker is named and none runs in this home. A machine
that joins as an agent can do both at once: `bin/agent worker --join TOKEN`.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, output
from agents.commands.joining import AGENTS, joined
from mesh.membership import Place

EXAMPLE = """bin/agent join TOKEN
bin/agent join TOKEN --name anna --home ~/.ramify-lab"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The token, and the name that is wished."""
    parser.add_argument("token", metavar="TOKEN", help="what `bin/agent invite` printed")
    parser.add_argument(
        "--name", metavar="NAME", type=flags.name, help="the name that it wishes (default: this host's)"
    )
    flags.add_json(parser, "name, role, mesh and addresses")


def run(given: argparse.Namespace) -> int:
    """9 and a sentence when the invitation is over or the server another one, 4 when it can not be reached."""
    output.check_target(given.json)
    settings = flags.settings_of(given)
    found = joined(settings, given.token, output.note, name=given.name or "")
    known = Place(settings.home).load()
    assert known is not None
    if given.json:
        document = {"name": known.name, "role": known.role, "prefix": known.prefix, "servers": known.servers}
        output.write_json(given.json, document)
    if given.json != "-":
        then = known.role if known.role in AGENTS else "status"
        output.say(f"{found.nats.name} belongs to the mesh {known.prefix!r} now; next: {flags.again(given, then)}")
    return 0
