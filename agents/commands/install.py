"""`bin/agent install GROUP`: packages that some kinds need and an agent does without.

The door itself installs them (bin/environment.py), before this file runs; here is told what they made possible. Called
without the door, it installs nothing and says so.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, output
from mesh.errors import EnvironmentUnfit

EXAMPLE = "bin/agent install kinds"

GROUPS = ("kinds",)
"""The groups that can be asked for."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which packages."""
    parser.add_argument("group", choices=GROUPS, metavar="GROUP", help="kinds: what some executor kinds need")
    flags.add_json(parser, "the kinds")


def run(given: argparse.Namespace) -> int:
    """Tells which kinds run here now. EnvironmentUnfit when the group is not installed after all."""
    from executors import kinds, mending

    output.check_target(given.json)
    rows, waiting = [], []
    for name, info in sorted(kinds.kind_infos().items()):
        lacking = kinds.missing(info)
        rows.append((name, info.distribution or "built in", "lacks " + ", ".join(lacking) if lacking else "ready"))
        waiting += [name] if kinds.remedy(info) == mending.INSTALL_KINDS else []
    if given.json:
        names = ("kind", "origin", "state")
        output.write_json(given.json, {"kinds": [dict(zip(names, row, strict=True)) for row in rows]})
    if given.json != "-":
        output.say(output.table(("kind", "from", "here"), rows))
    if waiting:
        raise EnvironmentUnfit(
            f"the packages of {', '.join(waiting)} are not installed: `{mending.INSTALL_KINDS}`, in just these words, "
            "installs them; running workers offer these kinds from their next start on."
        )
    return 0
