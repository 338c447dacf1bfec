"""`bin/agent members`: who has joined the mesh of this home, and which invitations are open."""

from __future__ import annotations

import argparse
import asyncio
import time

import msgspec

from agents.commands import flags, loop, output
from agents.commands.asking import ask_if_any
from agents.commands.invite import check_own
from agents.commands.reach import reach, with_nats
from mesh import keeper, limits, members
from mesh.errors import RamifyError
from mesh.setting_tree import Settings

EXAMPLE = "bin/agent members"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "members and open invitations")


def run(given: argparse.Namespace) -> int:
    """The list is read from its file: nothing has to run for it."""
    output.check_target(given.json)
    settings = flags.settings_of(given)
    check_own(settings, "members")
    return loop.run_simply(_run(given, settings))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    now_ms = int(time.time() * 1000)
    found = members.load(keeper.folder_of(settings)).live(now_ms)
    seen = await _seen(settings)
    if given.json:
        document = msgspec.to_builtins(found)
        output.write_json(
            given.json, {name: document[name] for name in ("members", "invitations")} | {"seen_age_s": seen}
        )
    if given.json != "-":
        output.say(picture(found, seen, now_ms))
    return 0


async def _seen(settings: Settings) -> dict[str, float]:
    """Seconds since each agent was heard, by name; empty when no mesh runs here."""
    try:
        nats = await asyncio.to_thread(keeper.peek, settings)
        if nats is None:
            return {}
        async with reach(with_nats(settings, nats)) as there:
            agents = await ask_if_any(there, "agents")
            workers = await ask_if_any(there, "workers")
    except RamifyError:
        return {}
    rows = {one.name: one.seen_age_s for one in agents.agents} if agents is not None else {}
    if workers is not None:
        rows |= {one.name: one.beat_age_s for one in workers.workers[: limits.SERVICE_ANSWER_ROWS_MAX]}
    return rows


def picture(found: members.Members, seen: dict[str, float], now_ms: int) -> str:
    """Members, then invitations."""
    rows = [
        (
            one.name,
            one.role,
            output.age((now_ms - one.since_ms) / 1000),
            output.age(seen[one.name]) if one.name in seen else "-",
            output.age((one.expires_ms - now_ms) / 1000) if one.expires_ms else "-",
            one.host or "-",
        )
        for one in found.members
    ]
    headers = ("member", "role", "joined", "heard", "ends in", "host")
    text = output.table(headers, rows) if rows else "nobody has joined; `bin/agent invite` prints a line for who shall."
    waiting = [one for one in found.invitations if one.uses_left]
    if not waiting:
        return text
    open_ = [
        (one.id, one.role, one.uses_left, output.age((one.expires_ms - now_ms) / 1000), one.name or "-")
        for one in waiting
    ]
    return f"{text}\n\n{output.table(('invitation', 'role', 'uses left', 'ends in', 'name'), open_)}"
