"""`bin/agent status`: one question to the leader, one picture of the mesh."""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output, waiting
from agents.commands.asking import ask
from agents.commands.reach import found, reach
from mesh.messages.services import Status
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent status
bin/agent status --json -"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "the leader's view")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        status = await ask(there, "status")
        where = there.where
    if given.json:
        output.write_json(given.json, status)
    if given.json != "-":
        output.say(picture(status, where))
    return 0


def picture(status: Status, where: str) -> str:
    """The mesh in a few lines and two small tables, and why ready tasks wait."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(status.counts.items()) if count) or "none yet"
    lines = [
        f"broker   {where}",
        f"leader   {status.leader} (term {status.term}, ledger entry {status.ledger_seq})",
        f"tasks    {counts}",
    ]
    if status.stale_writes:
        lines.append(f"stale    {status.stale_writes} writes of ended epochs were refused")
    if status.agents:
        rows = [(one.role, one.name, one.host, one.pid, output.age(one.seen_age_s)) for one in status.agents]
        lines += ["", output.table(("agent", "name", "host", "pid", "seen"), rows)]
    if status.workers:
        rows_ = [(one.name, one.state, one.cores_free, len(one.held), one.host) for one in status.workers]
        lines += ["", output.table(("worker", "state", "cores free", "tasks", "host"), rows_)]
    return "\n".join([*lines, *waiting.lines(status.tasks)])
