"""`bin/agent invite`: one line with which another machine, or a person, joins the mesh of this home.

The line holds a secret until it was used: send it over a way that only the other one reads. What it gives is the role,
and nothing else; `bin/agent members` lists what is open, `bin/agent revoke` takes it back.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, output
from agents.commands.joining import AGENTS
from mesh import keeper
from mesh.errors import BusUnavailable, SettingsInvalid
from mesh.membership import ARTIFACTS
from mesh.setting_tree import ArtifactSettings, Settings

EXAMPLE = """bin/agent invite
bin/agent invite --role publisher --name anna --expires 2h
bin/agent invite --uses 20 --lasts 30d"""

EXPIRES = "1d"
ANSWER_S = 15.0
"""Patience with the keeper: it has its broker read the new list."""

PERSONS = ("publisher", "observer", "operator")
ROLES = (*AGENTS, *PERSONS)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the invitation gives, for how long, how often."""
    parser.add_argument("--role", metavar="ROLE", default="worker", help=f"{', '.join(ROLES)} (default: worker)")
    parser.add_argument(
        "--expires", metavar="DURATION", type=flags.duration_s, default=EXPIRES,
        help=f"how long it can be used (default: {EXPIRES})",
    )  # fmt: skip
    parser.add_argument(
        "--uses", metavar="N", type=flags.whole(1, 1_000), default=1, help="how many may join by it (default: 1)"
    )
    parser.add_argument("--name", metavar="NAME", type=flags.name, help="the member's name (default: its host's)")
    parser.add_argument(
        "--lasts", metavar="DURATION", type=flags.duration_s, help="how long the membership lasts (default: for good)"
    )
    flags.add_json(parser, "the line, the token, and when it expires")


def run(given: argparse.Namespace) -> int:
    """Print the line; 4 when no mesh runs in this home, 3 when its broker listens on loopback only."""
    output.check_target(given.json)
    if given.role not in ROLES:
        raise SettingsInvalid(f"--role is one of {', '.join(ROLES)}; got {given.role[:40]!r}.")
    settings = flags.settings_of(given)
    check_own(settings, "invite")
    said = keeper.ask(
        settings, "invite", timeout_s=ANSWER_S, role=given.role, expires_s=given.expires, uses=given.uses,
        name=given.name or "", lasts_s=given.lasts or 0, artifacts=_artifacts(settings.artifacts),
    )  # fmt: skip
    if said is None:
        raise BusUnavailable(
            f"no mesh runs here (home {settings.home}): start it with `bin/agent up --listen ADDRESS`, then invite."
        )
    line = line_of(given.role, said["token"])
    if given.json:
        output.write_json(given.json, {"line": line, **{name: said[name] for name in ("token", "id", "expires_ms")}})
    if given.json != "-":
        uses = "once" if given.uses == 1 else f"{given.uses} times"
        output.note(
            f"paste this on the other machine, in its checkout, within {output.age(given.expires)}; it works {uses}, "
            f"and lets whoever has it in as {given.role}:"
        )
        output.say(line)
    return 0


def line_of(role: str, token: str) -> str:
    """What is pasted: agents join as they start, people join once."""
    return f"bin/agent {role} --join {token}" if role in AGENTS else f"bin/agent join {token}"


def check_own(settings: Settings, what: str) -> None:
    """SettingsInvalid where the mesh's broker is not this home's: its keeper is who decides."""
    from mesh.membership import Place

    if settings.nats.named:
        raise SettingsInvalid(
            f"`{what}` is for the broker of this home, but another one is named (from {settings.origin('nats.url')}): "
            "its users are made where it runs (docs/operations.md)."
        )
    if not (keeper.folder_of(settings) / "guard.json").exists() and Place(settings.home).note.exists():
        raise SettingsInvalid(
            f"`{what}` is given where the mesh's broker runs; this machine has only joined it, through another one."
        )


def _artifacts(chosen: ArtifactSettings) -> dict[str, str]:
    """Where artifacts lie, when a machine that joins could not know it."""
    if chosen.backend == ArtifactSettings().backend:
        return {}
    return {name: str(getattr(chosen, name)) for name in ARTIFACTS if getattr(chosen, name)}
