"""`bin/agent leave`: this home forgets the mesh that it has joined, its key included.

The mesh is not told: `bin/agent revoke NAME`, given where its broker runs, takes the name out there.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, output
from mesh.errors import EnvironmentUnfit, NotFound
from mesh.membership import Place

EXAMPLE = "bin/agent leave"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "what was forgotten")


def run(given: argparse.Namespace) -> int:
    """6 and a sentence when nothing was joined."""
    output.check_target(given.json)
    place = Place(flags.settings_of(given).home)
    try:
        known = place.load()
    except EnvironmentUnfit:  # damaged: that is a reason to leave
        known = None
    if not place.forget():
        raise NotFound(f"this machine has joined no mesh (home {place.home}).")
    if given.json:
        output.write_json(
            given.json, {"name": known.name if known else None, "prefix": known.prefix if known else None}
        )
    if given.json != "-":
        what = f"the mesh {known.prefix!r} and the key of {known.name!r}" if known else "what was left of a membership"
        output.say(f"forgot {what}.")
    if known is not None and given.json != "-":
        output.note(f"where the mesh's broker runs, `bin/agent revoke {known.name}` takes the name out of its list.")
    return 0
