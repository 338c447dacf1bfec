"""`bin/agent revoke NAME`: turns a member out of the mesh of this home, or makes an invitation void.

Its connection is cut at once, its key opens nothing any more, and what it was working on goes to others. What it has
stored and finished stays. Where the mesh is down, it is out from the next start on.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, output
from agents.commands.invite import ANSWER_S, check_own
from mesh import keeper, members, platform
from mesh.errors import EnvironmentUnfit, SettingsInvalid
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent revoke lab-3
bin/agent revoke --invitation a5k2v0p3x7qm"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Who, or which invitation."""
    parser.add_argument("name", metavar="NAME", nargs="?", type=flags.name, help="the member's name")
    parser.add_argument("--invitation", metavar="ID", type=flags.name, help="an open invitation, as `members` names it")
    flags.add_json(parser, "what was revoked")


def run(given: argparse.Namespace) -> int:
    """6 and a sentence when there is nobody of that name."""
    output.check_target(given.json)
    if bool(given.name) == bool(given.invitation):
        raise SettingsInvalid("revoke takes the NAME of a member, or --invitation ID; `bin/agent members` lists both.")
    settings = flags.settings_of(given)
    check_own(settings, "revoke")
    asked = {"invitation": given.invitation} if given.invitation else {"name": given.name}
    said = keeper.ask(settings, "revoke", timeout_s=ANSWER_S, **asked)
    runs = said is not None
    if not runs:
        _offline(settings, given)
    if given.json:
        output.write_json(given.json, {**asked, "mesh_runs": runs})
    if given.json != "-":
        output.say(told(given.name, given.invitation, runs=runs))
    return 0


def told(name: str | None, invitation: str | None, *, runs: bool) -> str:
    """What it means."""
    if invitation:
        return f"the invitation {invitation} is void; whoever has joined by it stays."
    if runs:
        return f"{name} is out: its key opens nothing any more, and its tasks go on elsewhere."
    return f"{name} is out from the next start of the mesh on."


def _offline(settings: Settings, given: argparse.Namespace) -> None:
    """No keeper runs: change the list in its place, holding its lock."""
    folder = keeper.folder_of(settings)
    lock = platform.FileLock(folder / "lock")
    if not lock.acquire():
        raise EnvironmentUnfit(f"The keeper of {folder} starts or stops just now: try again in a moment.")
    with lock:
        found = members.load(folder)
        after = found.without_invitation(given.invitation) if given.invitation else found.without(given.name)
        members.store(folder, after)
