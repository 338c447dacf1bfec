"""`bin/agent token issue`, `list`, `revoke`: who may come in over HTTP, and as what.

They stand in a file of this home folder, which the gateway that runs with it reads again within a second: no broker and
no agent is asked. A token is shown once, when it is issued; the file keeps its digest alone.
"""

from __future__ import annotations

import argparse
import secrets
import time

from agents.commands import flags, output
from agents.gateway_tokens import Token, TokenRole, Tokens
from mesh import keeper, members
from mesh.errors import Conflict, SettingsInvalid
from mesh.guard import Guard
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent token issue --role publisher --expires 30d --name anna
bin/agent token list
bin/agent token revoke anna"""

ACTIONS = ("issue", "list", "revoke")

LIFE_S = 30 * 86_400.0
"""How long a token lives, unless it is said."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """An action, and what a new token is for."""
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("names", metavar="NAME", nargs="*", help="revoke: the token's name")
    parser.add_argument(
        "--role", metavar="ROLE", choices=[role.value for role in TokenRole],
        help="issue: " + ", ".join(role.value for role in TokenRole),
    )  # fmt: skip
    parser.add_argument(
        "--expires", metavar="DURATION", type=flags.duration_s, help="issue: how long it holds (default: 30d)"
    )
    parser.add_argument(
        "--name", metavar="NAME", type=flags.name, dest="called",
        help="issue: the holder's name in the mesh, a worker's as well; else one is made up",
    )  # fmt: skip
    flags.add_json(parser, "the token or tokens")


def run(given: argparse.Namespace) -> int:
    """Exit code 6 for a name that no token has, 2 for options that do not belong together."""
    output.check_target(given.json)
    check(given)
    settings = flags.settings_of(given)
    tokens = Tokens(settings.home)
    match given.action:
        case "issue":
            _check_free(given, settings)
            _issue(given, tokens)
        case "revoke":
            gone = tokens.revoke(given.names[0])
            _tell(given, {"revoked": shown(gone)}, f"revoked the token of {gone.name!r} ({gone.role}).")
        case _:
            found = tokens.listed()
            _tell(given, {"tokens": [shown(one) for one in found]}, picture(found, now_ms=time.time() * 1_000))
    return 0


def check(given: argparse.Namespace) -> None:
    """SettingsInvalid for words and options that the action does not take."""
    wanted = 1 if given.action == "revoke" else 0
    if len(given.names) != wanted:
        what = "NAME; `bin/agent token list` lists them" if wanted else "nothing more; --name names a new token"
        raise SettingsInvalid(f"token {given.action} expects {what}.")
    if given.action == "issue" and given.role is None:
        raise SettingsInvalid(f"token issue expects --role {'|'.join(TokenRole)}.")
    if given.action != "issue" and (given.role or given.expires or given.called):
        raise SettingsInvalid(f"--role, --expires and --name belong to token issue, not to token {given.action}.")


def _check_free(given: argparse.Namespace, settings: Settings) -> None:
    """Conflict when a machine that has joined works under that name: of two workers with one name, each would end the
    other's leases. What members another home has is not known here."""
    if given.role != TokenRole.WORKER or not given.called:
        return
    broker = keeper.folder_of(settings)
    if members.load(broker).member(given.called) is not None or given.called in Guard(broker, settings.prefix).taken():
        raise Conflict(
            f"{given.called!r} is a member of this mesh (bin/agent members): choose another --name for a worker "
            "over HTTP."
        )


def _issue(given: argparse.Namespace, tokens: Tokens) -> None:
    role = TokenRole(given.role)
    name = given.called or f"{role}-{secrets.token_hex(3)}"
    secret, token = tokens.issue(role, name, LIFE_S if given.expires is None else given.expires)
    if given.json:
        output.write_json(given.json, {**shown(token), "token": secret})
    if given.json != "-":
        output.note(
            f"a token of {token.name!r} ({token.role}), until {when(token.expires_at_ms)}; it is shown only now:"
        )
        output.say(secret)


def _tell(given: argparse.Namespace, document: object, text: str) -> None:
    if given.json:
        output.write_json(given.json, document)
    if given.json != "-":
        output.say(text)


def shown(token: Token) -> dict[str, object]:
    """A token for programs, without its digest."""
    return {
        "name": token.name,
        "role": token.role.value,
        "issued_at_ms": token.issued_at_ms,
        "expires_at_ms": token.expires_at_ms,
    }


def picture(tokens: tuple[Token, ...], *, now_ms: float) -> str:
    """One row per token."""
    if not tokens:
        return "nobody has a token; `bin/agent token issue --role publisher` makes one."
    rows = [
        (
            one.name,
            one.role.value,
            output.age(max(0.0, (now_ms - one.issued_at_ms) / 1_000)),
            when(one.expires_at_ms) if one.expires_at_ms > now_ms else "expired",
        )
        for one in sorted(tokens, key=lambda one: one.name)
    ]
    return output.table(("token", "role", "age", "until"), rows)


def when(at_ms: int) -> str:
    """UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(at_ms / 1_000))
