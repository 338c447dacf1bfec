"""`bin/agent drain`: a worker gets no new tasks, in this life and the next ones, until `--undo`.

Without `--now` it finishes what it has; with it, it makes a last checkpoint of each task and hands it on. The worker
itself goes on running: stopping its process is up to whoever started it.
"""

from __future__ import annotations

import argparse

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.commanding import command, new_id
from agents.commands.reach import Reach, found, reach
from mesh import limits
from mesh.errors import SettingsInvalid
from mesh.messages.commands import Drain
from mesh.messages.services import WorkerRow
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent drain lab-3
bin/agent drain lab-3 --now --reason "it moves to another rack"
bin/agent drain lab-3 --undo"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which worker, and how."""
    parser.add_argument("worker", metavar="WORKER", type=flags.name, help="the worker's name")
    parser.add_argument("--now", action="store_true", help="it hands on what it has, after a last checkpoint")
    parser.add_argument("--undo", action="store_true", help="take it back into service")
    parser.add_argument("--reason", metavar="TEXT", default="drained by a person", help="why, for the worker's log")
    flags.add_json(parser, "the worker")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs."""
    if given.now and given.undo:
        raise SettingsInvalid("drain takes --now or --undo, and not both.")
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        id_, reason = new_id(), given.reason.strip() or "drained by a person"
        await command(there, Drain(id=id_, worker=given.worker, now=given.now, undo=given.undo, reason=reason), id_)
        row = await _row(there, given.worker)
    if given.json:
        output.write_json(given.json, {"worker": given.worker, "drained": not given.undo, "row": row})
    if given.json != "-":
        output.say(told(given.worker, row, now=given.now, undo=given.undo))
    return 0


async def _row(there: Reach, worker: str) -> WorkerRow | None:
    status = await ask(there, "workers", rows_max=limits.SERVICE_ANSWER_ROWS_MAX)
    return next((row for row in status.workers if row.name == worker), None)


def told(worker: str, row: WorkerRow | None, *, now: bool, undo: bool) -> str:
    """What happens next, for the person who asked."""
    if undo:
        return f"{worker} is back in service."
    if row is None:
        return f"{worker} will get no tasks when it comes; now the mesh does not hear a worker of this name."
    if not row.held:
        return f"{worker} is drained: it holds nothing and gets no tasks."
    what = "hands on" if now else "finishes"
    return f"{worker} gets no new tasks and {what} {', '.join(row.held)}."
