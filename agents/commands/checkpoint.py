"""`bin/agent checkpoint`: have a running task take a checkpoint now, and wait until it is on record.

The training goes on; the request does not count against its budget for checkpoints. It goes to the worker that runs the
task, without the ledger: a worker that dies before it was answered has taken none.
"""

from __future__ import annotations

import argparse
import asyncio

from agents.commands import flags, loop, output
from agents.commands.asking import ask
from agents.commands.reach import Reach, found, reach
from mesh import codec
from mesh.errors import BusUnavailable, NotFound, Reject, Retry
from mesh.messages.base import Record
from mesh.messages.services import Problem, SaveAnswer, SaveQuestion, TaskRow
from mesh.messages.tasks import TaskState
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent checkpoint handwritten-digits-3fa1c20b-evolver
bin/agent checkpoint handwritten-digits-3fa1c20b-evolver --wait 5m"""

ANSWER_S = 3.0
"""Patience with the worker: it answers within milliseconds, or it is away."""

WAIT_S_DEFAULT = 60.0
"""A copy takes a moment, packing and sending a gigabyte half a minute."""

PAUSE_S = 0.2
"""Between two looks at what is on record."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which task, and how patiently."""
    parser.add_argument("task", metavar="TASK", type=flags.name, help="a task that runs; `bin/agent tasks` lists them")
    parser.add_argument(
        "--wait", metavar="DURATION", type=flags.duration_s, default=WAIT_S_DEFAULT,
        help="how long to wait until the checkpoint is on record; default 60s",
    )  # fmt: skip
    flags.add_json(parser, "the checkpoint")


def run(given: argparse.Namespace) -> int:
    """Exit code 1 when there will be none or none came in time, 4 without a mesh, 6 for a task that is not open."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, found(flags.settings_of(given), flags.selected_of(given))))


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with reach(settings) as there:
        row = await _running(there, given.task)
        worker = row.incarnation.partition(".")[0]
        answer = await _asked(there, worker, given.task)
        made = await _recorded(there, row, answer, given.wait)
    if given.json:
        written = {"task": made.id, "number": made.checkpoint_number, "step": made.checkpoint_step, "worker": worker}
        output.write_json(given.json, written)
    if given.json != "-":
        output.say(
            f"checkpoint {made.checkpoint_number} of {made.id}, taken at step {made.checkpoint_step}, is on record."
        )
    return 0


async def _row(there: Reach, task: str) -> TaskRow | None:
    status = await ask(there, "tasks", task=task, open_only=True)
    return next((row for row in status.tasks if row.id == task), None)


async def _running(there: Reach, task: str) -> TaskRow:
    """The row of a task that runs. NotFound when it is not open, Reject when nobody runs it."""
    row = await _row(there, task)
    if row is None:
        raise NotFound(f"no open task is called {task!r}; `bin/agent tasks --open` lists them.")
    if row.state is not TaskState.LEASED:
        raise Reject(f"{task} does not run, so there is nothing new to keep: {row.reason or f'it is {row.state}'}.")
    return row


async def _asked(there: Reach, worker: str, task: str) -> SaveAnswer:
    """The worker's answer. BusUnavailable when it gives none, Reject with its reason when it took no request."""
    try:
        question = codec.encode(SaveQuestion(task=task))
        subject = there.subjects.ask_worker(worker, there.broker.name)
        message = await there.broker.request(subject, question, timeout_s=ANSWER_S)
    except (NotFound, BusUnavailable):
        raise BusUnavailable(
            f"{worker}, which runs {task}, did not answer: it is away, or an older program; `bin/agent workers` shows "
            "it."
        ) from None
    answer: Record = codec.decode(message.data, SaveAnswer, Problem)
    if not isinstance(answer, SaveAnswer):
        raise Reject(answer.reason if isinstance(answer, Problem) else f"{worker} answered with another record.")
    if not answer.asked:
        raise Reject(f"{task} takes no checkpoint now: {answer.reason}.")
    return answer


async def _recorded(there: Reach, asked: TaskRow, answer: SaveAnswer, wait_s: float) -> TaskRow:
    """The task's row when a checkpoint is on record that was handed over after the request. Retry when none is in
    time, Reject when the attempt is over."""
    now = asyncio.get_running_loop().time
    task, deadline = asked.id, now() + wait_s
    while True:
        row = await _row(there, task)
        if row is not None and row.checkpoint_number > answer.number:
            return row
        if row is None or row.state is not TaskState.LEASED or row.epoch != asked.epoch:
            raise Reject(
                f"this attempt at {task} ended before the checkpoint was on record; `bin/agent tasks` says what came "
                "of it."
            )
        if now() >= deadline:
            raise Retry(_in_vain(task, answer, wait_s))
        await asyncio.sleep(PAUSE_S)


def _in_vain(task: str, answer: SaveAnswer, wait_s: float) -> str:
    last = f"the newest on record is older than the request ({answer.number} was handed over before it)"
    why = answer.reason or (
        "it is taken as soon as the work comes to the next step and nobody reads the one before, and is then on record "
        "by itself"
    )
    return f"{task} was asked, and after {wait_s:g} s {last}: {why}."
