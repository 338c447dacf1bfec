"""`bin/agent task`: one task of any executor kind, without a topic's lines and verdict.

    look at kind and settings -> broker -> missing agents -> store the inputs -> submit -> follow -> outputs in --out

The task is a task like any other: leased, checkpointed, taken over by another worker when its own dies. Its id is also
its topic's, so `watch`, `cancel`, `checkpoint` and `resubmit` know it by one name. Ctrl-C stops what this command
started, in order; the task stays in the mesh and goes on with the next `run`, `up` or `task` of the same home folder.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

from agents.commands import errands, flags, loop, output, take_out
from agents.commands.display import display_for
from agents.commands.errands import Errands
from agents.commands.following import follow
from agents.commands.report import exit_code
from agents.commands.run import how_to_continue
from agents.commands.starting import started
from agents.commands.story import Ending, Story
from mesh.errors import SettingsInvalid
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Outcome
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent task profile --input data=questions.csv --out splits
bin/agent task classify --input train=splits/train --input validation=splits/validation --set epochs_max=5 --out made"""

BUDGET_S_DEFAULT = 180.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The kind, what it gets, and what it may take."""
    parser.add_argument("executor", metavar="KIND", help="executor kind; `bin/agent doctor` lists them")
    parser.add_argument(
        "--input", metavar="NAME=VALUE", action="append", default=[], type=errands.pair,
        help="an input: a file or folder here, a model's name, a digest, or builtin:NAME; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], type=errands.pair,
        help="a setting of the kind, as JSON where it is some, else as text; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="new folder for its outputs, each under its name")
    parser.add_argument(
        "--budget", metavar="DURATION", type=flags.duration_s, default=BUDGET_S_DEFAULT,
        help="training time, for example 5m (default: 3m)",
    )  # fmt: skip
    parser.add_argument("--cores", metavar="N", type=errands.cores, help="cores it takes (default: what its kind says)")
    parser.add_argument(
        "--memory", metavar="SIZE", type=flags.size_bytes, help="memory it takes (default: what its kind says)"
    )
    parser.add_argument(
        "--gpus", metavar="N", type=flags.whole(0, 64), help="GPUs it takes (default: what its kind says)"
    )
    parser.add_argument(
        "--gpu-memory", metavar="SIZE", type=flags.size_bytes,
        help="memory of its one GPU that it takes, so that others may share it (default: the GPU is its own)",
    )  # fmt: skip
    parser.add_argument(
        "--priority", metavar="N", type=flags.priority, default=5, help="0 (last) to 9 (first); default 5"
    )
    flags.add_json(parser, "how it ended")


def run(given: argparse.Namespace) -> int:
    """0 when it succeeded, 7 when it was set aside or withdrawn, 130 after Ctrl-C."""
    output.check_target(given.json)
    if not 1 <= given.budget <= 30 * 86_400:
        raise SettingsInvalid(f"--budget is 1 second to 30 days, got {given.budget:g} s.")
    wanted = Errands.of(given)
    if given.out:
        take_out.check_folder(Path(given.out), "--out")
    settings = flags.settings_of(given)
    return loop.run_stoppable(lambda stop: _run(given, wanted, settings, stop))


async def _run(given: argparse.Namespace, wanted: Errands, settings: Settings, stop: asyncio.Event) -> int:
    display = display_for(sys.stderr if given.json == "-" else sys.stdout)
    ending, story, made = Ending.INTERRUPTED, Story(""), {}
    try:
        async with started(settings, stop, display.note) as mesh:
            if not stop.is_set():
                task = await wanted.spec(mesh.reach, display.note)
                story = Story(task.topic, alone=True)
                state = await mesh.reach.broker.state(mesh.reach.stream("RESULTS"))
                await errands.submit(mesh.reach, task)
                display.note(f"submitted {task.id}")
                ending = await follow(
                    mesh.reach, story, display, from_seq=state.last_seq + 1, stop=stop, watch=mesh.check,
                    ask_again=partial(errands.submit, mesh.reach, task),
                )  # fmt: skip
            if ending is Ending.DONE and given.out:
                (end,) = story.ended.values()
                made = await errands.taken_out(mesh.reach, end, Path(given.out))
            if stop.is_set():
                display.note("stopping what was started …")
    finally:
        display.close()
    if ending is Ending.INTERRUPTED:
        output.note("bin/agent task: " + how_to_continue(story.topic, settings.nats.named, partial(flags.again, given)))
        return exit_code(ending)
    (end,) = story.ended.values()
    if given.json:
        output.write_json(given.json, _document(end, made))
    if end.outcome is None:
        output.note(f"bin/agent task: {story.why_failed()}.")
    elif given.json != "-":
        _tell(end.outcome, made)
    return exit_code(ending)


def _document(end: TaskEnded, made: dict[str, str]) -> dict[str, Any]:
    """What came of it: the record of its end, and where its outputs are."""
    return {
        "task": end.task.id,
        "state": end.state.value,
        "reason": end.reason,
        "outcome": end.outcome,
        "folders": made,
    }


def _tell(outcome: Outcome, made: dict[str, str]) -> None:
    rows = [(name, output.number(value)) for name, value in sorted(outcome.kpis.items())]
    output.say(output.table(("figure", "value"), rows))
    if made:
        output.say(output.table(("output", "folder"), sorted(made.items())))
    else:
        outputs = sorted(outcome.outputs.items())
        output.say(output.table(("output", "artifact"), [(name, digest[:12]) for name, digest in outputs]))
