"""`bin/agent ask`: ask the champion of a topic about a text, or have it go on with one.

    texts -> broker -> which champion? -> scheduler, worker -> a task of the kind `answer` -> its facts

The model is loaded by a worker of the mesh; this machine needs no torch. What is missing is started as `task` does it,
but no planner, consensus or gate. The answer comes as the end of a task like any other: the texts stand in the mesh's
ledger from then on. Nobody who answers in time: the task is withdrawn, and a sentence says what it waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import secrets
import sys
from pathlib import Path
from typing import Any

import msgspec

from agents.commands import asked, errands, flags, known_models, loop, output
from agents.commands.asked import Asked
from agents.commands.asking import ask, ask_if_any
from agents.commands.commanding import command, new_id
from agents.commands.following import follow
from agents.commands.reach import Reach, reach_stored
from agents.commands.report import exit_code
from agents.commands.starting import Started, started
from agents.commands.story import Ending, Story
from executors import kinds
from executors.questions import TEMPERATURE_MAX, TEXTS_BYTES_MAX, TOKENS_MAX, TOP_MAX, AnswerSettings
from mesh.errors import BusUnavailable, DataRefused, EnvironmentUnfit, Reject, SettingsInvalid
from mesh.messages.base import Facts, Record
from mesh.messages.commands import Cancel
from mesh.messages.results import Progress
from mesh.messages.tasks import Needs, TaskSpec
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent ask customers-questions "where is my card?"
bin/agent ask "python sources" "def main(" --tokens 80 --temperature 0.5"""

KIND = "answer"
ROLES = ("scheduler", "worker")
"""Who has to be there for an answer."""

WAIT_S_DEFAULT = 120.0
"""Long enough for a cold worker to fetch a model of some hundred megabytes and to start torch."""

PRIORITY = 9
"""A person waits."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Whom, what, and how."""
    parser.add_argument(
        "name", metavar="NAME", help="a specialization, a topic (its id or sentence), or a model's name"
    )
    parser.add_argument("text", metavar="TEXT", nargs="*", help="a text; without any, lines of --file or of stdin")
    parser.add_argument("--file", metavar="FILE", help="ask about each line of a file (-: stdin)")
    parser.add_argument("--whole", action="store_true", help="take --file or stdin as one text")
    parser.add_argument(
        "--top", metavar="N", type=flags.whole(1, TOP_MAX), default=5, help="labels shown for each text (default: 5)"
    )
    parser.add_argument(
        "--tokens", metavar="N", type=flags.whole(1, TOKENS_MAX), default=64,
        help="of a language model: at most so many tokens follow (default: 64)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", metavar="T", type=temperature, default=0.8,
        help="of a language model: 0 takes the likeliest token, more is more daring (default: 0.8)",
    )  # fmt: skip
    parser.add_argument("--seed", metavar="N", type=flags.whole(0, 2**63 - 1), default=0, help="of its draws")
    parser.add_argument(
        "--wait", metavar="DURATION", type=flags.duration_s, default=WAIT_S_DEFAULT,
        help="how long to wait for the answer (default: 2m)",
    )  # fmt: skip
    flags.add_json(parser, "the answers")


def temperature(text: str) -> float:
    """0 to 10."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= TEMPERATURE_MAX:
        raise argparse.ArgumentTypeError(f"expected a temperature from 0 to {TEMPERATURE_MAX:g}, got {text!r}")
    return value


def run(given: argparse.Namespace) -> int:
    """0 with an answer; 4 when nobody answers, 6 when there is no such champion, 7 when the task came to nothing."""
    output.check_target(given.json)
    if not 1 <= given.wait <= 86_400:
        raise SettingsInvalid(f"--wait is 1 second to a day, got {given.wait:g} s.")
    wanted = wanted_of(given, texts_of(given))
    settings = flags.settings_of(given)
    return loop.run_stoppable(lambda stop: _run(given, wanted, settings, stop))


def texts_of(given: argparse.Namespace) -> list[str]:
    """What is asked. SettingsInvalid for nothing, DataRefused for a file that can not be read."""
    if given.text and given.file:
        raise SettingsInvalid("texts stand on the command line or in --file, not both.")
    if given.text:
        return [text.encode("utf-8", "replace").decode() for text in given.text]
    if not given.file and sys.stdin.isatty():
        raise SettingsInvalid(
            'there is nothing to ask: give a text (`bin/agent ask NAME "…"`), --file, or lines on stdin.'
        )
    whole = _read(given.file or "-")
    texts = [whole] if given.whole else [line for line in whole.splitlines() if line.strip()]
    if not texts:
        raise SettingsInvalid("there is nothing to ask: the file holds no line of text.")
    return texts


def _read(name: str) -> str:
    """A text of bounded size."""
    try:
        if name == "-":
            found = sys.stdin.buffer.read(TEXTS_BYTES_MAX + 1)
        else:
            with Path(name).expanduser().open("rb") as file:
                found = file.read(TEXTS_BYTES_MAX + 1)
    except OSError as error:
        raise DataRefused(f"{name!r} can not be read ({error.strerror or error}): check --file.") from None
    if len(found) > TEXTS_BYTES_MAX:
        raise SettingsInvalid(
            f"at most {TEXTS_BYTES_MAX // 1024} KiB are asked at once, and {name!r} has more: for a whole data set "
            "there is `bin/agent task evaluate`."
        )
    return found.decode("utf-8", "replace")


def wanted_of(given: argparse.Namespace, texts: list[str]) -> Facts:
    """The settings of the task. SettingsInvalid with what is too much."""
    wanted: Facts = {
        "texts": texts, "top": given.top, "tokens": given.tokens, "temperature": given.temperature, "seed": given.seed,
    }  # fmt: skip
    try:
        msgspec.convert(wanted, AnswerSettings)
    except ValueError as error:
        raise SettingsInvalid(
            f"this can not be asked at once: {str(error).rstrip('.')}; for a whole data set there is "
            "`bin/agent task evaluate`."
        ) from None
    return wanted


# -- asking -----------------------------------------------------------------------------------------------------------


class Quietly:
    """Tells what a person has to know while waiting for an answer, and no more."""

    def record(self, record: Record) -> None:
        """An answer is awaited, not a story."""

    def progress(self, progress: Progress) -> None:
        """Nor where it stands."""

    def call(self, topic: str, label: str) -> None:
        """Nothing is told of a topic."""

    def note(self, text: str) -> None:
        """A sentence."""
        output.note(text)

    def close(self) -> None:
        """Nothing is open."""


async def _run(given: argparse.Namespace, wanted: Facts, settings: Settings, stop: asyncio.Event) -> int:
    can_answer = not kinds.missing(kinds.kind_infos()[KIND])
    async with reach_stored(settings) as there:  # a name that means nothing starts no agent
        found = await asked.find(there, given.name)
        for digest in filter(None, (found.model, found.base)):
            await known_models.check_there(there, digest)
        async with started(settings, stop, output.note, ROLES if can_answer else ROLES[:1]) as mesh:
            if stop.is_set():
                return exit_code(Ending.INTERRUPTED)
            await check_worker(mesh.reach)
            story = await _answered(mesh, await task_of(mesh.reach, found, wanted), given.wait, stop)
    ending = story.ending() or Ending.INTERRUPTED
    if ending is not Ending.DONE:
        if ending is not Ending.INTERRUPTED:
            output.note(f"bin/agent ask: {found.name} did not answer: {story.why_failed()}.")
        return exit_code(ending)
    (end,) = story.ended.values()
    assert end.outcome is not None
    tell(given, found, wanted["texts"], end.outcome.facts)
    return 0


async def check_worker(there: Reach) -> None:
    """EnvironmentUnfit with what to do when no worker of the mesh can answer. One that starts just now counts: it is
    waited for."""
    status = await ask_if_any(there, "workers")
    alive = [one for one in status.workers if one.state != "lost"] if status is not None else []
    if alive and not any(KIND in one.kinds for one in alive):
        raise EnvironmentUnfit(
            f"none of the {len(alive)} workers here has the kind {KIND!r} (torch is missing there, or the program is "
            "older): run `bin/agent install torch` on one of them, or start another with `bin/agent worker`."
        )
    if not alive and kinds.missing(kinds.kind_infos()[KIND]):
        raise EnvironmentUnfit(
            "no worker is there to answer, and this machine lacks torch to be one: start `bin/agent worker` on "
            "another, or run `bin/agent install torch` here."
        )


async def task_of(there: Reach, found: Asked, wanted: Facts) -> TaskSpec:
    """The task that brings the answer."""
    inputs = {"model": found.model} | ({"base": found.base} if found.base else {})
    sizes = {name: (await there.store().manifest(digest)).size_bytes for name, digest in inputs.items()}
    needs = kinds.needs_of(KIND, wanted, {"input_bytes": sizes}) or Needs()
    id_ = f"{KIND}-{secrets.token_hex(4)}"
    return TaskSpec(
        id=id_, topic=id_, executor=KIND, executor_version=kinds.kind_infos()[KIND].version, purpose=KIND,
        settings=wanted, inputs=inputs, needs=needs, priority=PRIORITY, budget_s=600.0,
        wall_s_max=1_800.0,
    )  # fmt: skip


async def _answered(mesh: Started, task: TaskSpec, wait_s: float, stop: asyncio.Event) -> Story:
    """The task's story, told to its end. BusUnavailable when that takes too long; then, and when it is interrupted,
    the task is withdrawn: nobody waits for it."""
    story = Story(task.topic, alone=True)
    state = await mesh.reach.broker.state(mesh.reach.stream("RESULTS"))
    await errands.submit(mesh.reach, task)
    ending = Ending.INTERRUPTED
    why = ""
    try:
        async with asyncio.timeout(wait_s):
            ending = await follow(
                mesh.reach, story, Quietly(), from_seq=state.last_seq + 1, stop=stop, watch=mesh.check,
                ask_again=lambda: errands.submit(mesh.reach, task),
            )  # fmt: skip
    except TimeoutError:
        why = await _why(mesh.reach, task)
    if ending is Ending.INTERRUPTED:
        id_ = new_id()
        await command(mesh.reach, Cancel(id=id_, reason="nobody waits for the answer any more", task=task.id), id_)
    if why:
        raise BusUnavailable(f"no answer came within {wait_s:.0f} s: {why}; ask again with a longer --wait.")
    return story


async def _why(there: Reach, task: TaskSpec) -> str:
    """What the task waits for."""
    try:
        rows = (await ask(there, "tasks", task=task.id)).tasks
    except (BusUnavailable, Reject) as error:
        return str(error).rstrip(".")
    if not rows:
        return "the scheduler does not know the task"
    return rows[0].reason.rstrip(".") or f"the task is {rows[0].state.value}" + (
        f" on {rows[0].incarnation}" if rows[0].incarnation else ""
    )


def tell(given: argparse.Namespace, found: Asked, texts: list[str], facts: dict[str, Any]) -> None:
    """The answers."""
    if given.json:
        output.write_json(given.json, asked.document(found, texts, facts))
    if given.json != "-":
        output.say(asked.shown(texts, facts))
