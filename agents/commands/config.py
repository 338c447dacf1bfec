"""`bin/agent config`: every setting, its value, and where that came from. Secrets are masked."""

from __future__ import annotations

import argparse

from agents.commands import flags, output

EXAMPLE = """bin/agent config
bin/agent config --changed"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Show less."""
    parser.add_argument("--changed", action="store_true", help="only settings that are not defaults")
    flags.add_json(parser, "the settings")


def run(given: argparse.Namespace) -> int:
    """Reads the settings and prints them; connects to nothing."""
    output.check_target(given.json)
    rows = flags.settings_of(given).printable()
    if given.changed:
        rows = [row for row in rows if row[2] != "default"]
    if given.json:
        fields = [{"setting": name, "value": value, "origin": origin} for name, value, origin in rows]
        output.write_json(given.json, {"settings": fields})
    if given.json != "-":
        output.say(output.table(("setting", "value", "from"), rows))
    return 0
