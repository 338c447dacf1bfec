"""`bin/agent provision`: for the operator of a nats-server, so that agents need no rights to administer streams.

    bin/agent provision --users FOLDER    a key for each role, and accounts for a nats-server's configuration
    bin/agent provision                   makes the streams, as a user who may; agents leave them as they are afterwards

What the first writes needs no broker: it comes before it. The second may be said again at any time, and after each
update of this program; it changes only what is not as it should be.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.commands import flags, loop, output
from agents.commands.reach import found, reach
from mesh import streams
from mesh.errors import EnvironmentUnfit, SettingsInvalid
from mesh.identity import Identity, Role, accounts
from mesh.setting_tree import Settings
from mesh.subjects import Subjects

EXAMPLE = """bin/agent provision --users mesh-users --member worker:gpu1 --member publisher:ann
bin/agent provision --config mesh-users/operator.toml --server nats://a:4222,nats://b:4222,nats://c:4222 --replicas 3"""

AGENTS = (Role.SCHEDULER, Role.PLANNER, Role.CONSENSUS, Role.GATE, Role.FEEDER, Role.GATEWAY, Role.OPERATOR)
"""Roles that get a user without being asked for; each bears the name of its role."""

ARTIFACT_BYTES = 10 << 30
"""What chunks and manifests may fill where nothing else is said, and the broker has that room."""

ADMINISTER = ("STREAM.CREATE.", "STREAM.UPDATE.", "STREAM.NAMES")
"""Rights of a role that makes streams: only the operator's are left where streams are provisioned."""

REPLICAS_MOST = 5
"""More copies only cost: nats-server knows 1, 3 and 5."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Copies, room, and the users."""
    copies = flags.whole(1, REPLICAS_MOST, "number of servers")
    parser.add_argument(
        "--replicas", metavar="N", type=copies, help="copies of each stream: 1, 3 or 5 (default: as it is)"
    )
    parser.add_argument(
        "--artifacts",
        metavar="SIZE",
        type=flags.size_bytes,
        help="most that artifacts may fill (default: as it is, or 10GiB)",
    )
    group = parser.add_argument_group("users for a server's configuration")
    group.add_argument(
        "--users", metavar="FOLDER", type=Path, help="write keys and accounts there; no broker is needed"
    )
    group.add_argument(
        "--member", metavar="ROLE:NAME", action="append", default=[], help="one more user, for example worker:gpu1"
    )
    flags.add_json(parser, "what the streams are now")


def run(given: argparse.Namespace) -> int:
    """0, also when everything was in place; a refusal of the broker has its own code."""
    output.check_target(given.json)
    settings = flags.settings_of(given)
    if given.users is not None:
        return write_users(given.users, given.member, settings)
    if given.member:
        raise SettingsInvalid("--member names a user to write: say where, with --users FOLDER.")
    if given.replicas in (2, 4):
        raise SettingsInvalid(f"--replicas is 1, 3 or 5, not {given.replicas}: an even number survives no more losses.")
    return loop.run_simply(_run(given, found(settings, flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        wanted = streams.table(there.subjects, artifact_bytes_max=-1, replicas=given.replicas or 0)
        differed = [line for spec in wanted for line in await there.broker.differences(spec) if "max_bytes" not in line]
        room = await streams.make(
            there.broker, there.subjects, artifact_bytes_max=given.artifacts or ARTIFACT_BYTES,
            owner=given.artifacts is not None, replicas=given.replicas or streams.REPLICAS_AS_FOUND,
        )  # fmt: skip
        if given.json:
            names = [spec.name for spec in wanted]
            output.write_json(given.json, {"streams": names, "changed": differed, "artifact_bytes_max": room})
        if given.json != "-":
            for line in differed:
                output.say(f"mended    {line}")
            output.say(
                f"the {len(wanted)} streams of the mesh {settings.prefix!r} are on {there.where} as they should be; "
                f"artifacts may fill {'what the server has' if room < 0 else f'{room >> 20:,} MiB'}."
            )
            output.say(
                "agents need no right to administer streams now: STREAM.CREATE and STREAM.UPDATE can be withheld."
            )
    return 0


# -- users ------------------------------------------------------------------------------------------------------------


def write_users(folder: Path, wished: Sequence[str], settings: Settings) -> int:
    """A seed and a file of settings for each, and `accounts.conf`. A seed that is there stays, so that it can be said
    again with more users."""
    from mesh import nkeypairs

    who = [(role, role.value) for role in AGENTS] + [_wish(text) for text in wished]
    names = [name for _, name in who]
    for name in names:
        if names.count(name) > 1:
            raise SettingsInvalid(
                f"{name!r} is wished twice, and a name belongs to one: choose another for one of both."
            )
    everybody = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role, name in who:
            seed = folder / f"{name}.nk"
            key = nkeypairs.public_key(seed) if seed.exists() else nkeypairs.make(seed)
            everybody.append(Identity(role, name, key))
            (folder / f"{name}.toml").write_text(_settings_text(name, settings), "utf-8")
        (folder / "accounts.conf").write_text(config_text(everybody, settings), "utf-8")
    except OSError as error:
        raise EnvironmentUnfit(f"The folder {folder} must be writable: {error.strerror}; choose another.") from None
    output.say(f"{len(who)} users of the mesh {settings.prefix!r} are in {folder}. What comes next:")
    conf = folder / "accounts.conf"
    output.say(f"  server    include {conf} in nats-server.conf, with JetStream and TLS; reload a running one twice")
    output.say(f"  streams   bin/agent provision --config {folder / 'operator.toml'} --server URL")
    output.say(f"  agents    bin/agent ROLE --config {folder / 'ROLE.toml'} --server URL   (its .nk beside it)")
    return 0


def config_text(everybody: Sequence[Identity], settings: Settings) -> str:
    """The accounts as a part of a nats-server's configuration."""
    found = accounts(everybody, Subjects(settings.prefix))
    operators = {one.key for one in everybody if one.role is Role.OPERATOR}
    for account in found.values():
        for user in account["users"]:
            if user["nkey"] not in operators:
                _withhold(user)
    lines = [f"  {json.dumps(name)}: {json.dumps(account, indent=1)}" for name, account in found.items()]
    return (
        f"# The users of the mesh {settings.prefix!r}, by role; made by `bin/agent provision --users`.\n"
        "# Only `operator` may make streams and change them.\n"
        "accounts: {\n" + ",\n".join(lines) + "\n}\n"
    )


def _withhold(user: dict[str, Any]) -> None:
    """Take the rights to administer streams out of a user's permissions."""
    allowed = user["permissions"]["publish"]
    allowed["allow"] = [one for one in allowed["allow"] if not any(right in one for right in ADMINISTER)]


def _wish(text: str) -> tuple[Role, str]:
    from mesh.messages.base import check_name

    role, colon, name = text.partition(":")
    known = [one.value for one in Role if one not in (Role.KEEPER, Role.INVITED)]
    if role not in known or not colon:
        raise SettingsInvalid(f"--member is ROLE:NAME with a role of {', '.join(known)}, not {text[:80]!r}.")
    try:
        check_name(name, "the name of a user")
    except ValueError as error:
        raise SettingsInvalid(f"{error}.") from None
    return Role(role), name


def _settings_text(name: str, settings: Settings) -> str:
    """What this user's program has to know, as a file of settings: the seed lies beside it."""
    values = {"nkey": f"{name}.nk", "name": name}
    if settings.nats.url:
        values["url"] = settings.nats.url
    if settings.nats.ca:
        values["ca"] = settings.nats.ca
    lines = [f"prefix = {json.dumps(settings.prefix)}", "", "[nats]"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]) + "\n"
