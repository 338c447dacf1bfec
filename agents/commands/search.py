"""`bin/agent search`: look for good settings of a training kind; its trials run side by side on all workers.

    look at kind, space and settings -> broker -> missing agents -> store the inputs -> submit trials -> follow -> table

Every trial is a task of the kind `search-step`; what they tell each other is a log in the mesh (docs/executors). With
`--parallel` the next one is submitted when one has ended. The search succeeds when there is a trial that was trained to
its end; trials that ended early or came to infinite numbers are results like others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agents.commands import errands, flags, loop, output, take_out, task
from agents.commands.display import display_for
from agents.commands.errands import Errands
from agents.commands.following import follow
from agents.commands.reach import Reach
from agents.commands.report import exit_code
from agents.commands.run import how_to_continue
from agents.commands.starting import started
from agents.commands.story import Ending, Story
from agents.runtime import within
from executors import kinds
from executors.searches import PRUNERS, SearchStepSettings
from mesh.errors import DataRefused, SettingsInvalid
from mesh.messages.base import Facts
from mesh.messages.tasks import TaskSpec
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent search classify --space space.json --trials 12 --input train=train --input validation=validation
bin/agent search language-model --space space.json --trials 40 --parallel 4 --input train=notes/ --out best"""

KIND = "search-step"

TRIALS_MAX = 1_000
"""Trials of one command; a study may go on with another."""

SPACE_BYTES_MAX = 1 << 20

LOOK_S = 0.3
"""How often it is looked whether a trial has ended, where only so many may run."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What `task` takes, the space, and how many trials."""
    task.add_flags(parser)
    parser.add_argument(
        "--space", metavar="FILE", required=True,
        help='JSON: setting to {"type": "log-float", "low": 1e-4, "high": 0.1} and the like; docs/executors says more',
    )  # fmt: skip
    parser.add_argument(
        "--trials", metavar="N", type=flags.whole(1, TRIALS_MAX), default=20, help="trials to run (default: 20)"
    )
    parser.add_argument(
        "--parallel", metavar="N", type=flags.whole(1, TRIALS_MAX),
        help="most trials in the mesh at once (default: as many as there is room for)",
    )  # fmt: skip
    parser.add_argument("--study", metavar="NAME", help="its name: an earlier study of that name goes on")
    parser.add_argument("--metric", metavar="KPI", default="validation_loss", help="default: validation_loss")
    parser.add_argument("--direction", choices=("minimize", "maximize"), default="minimize")
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="who draws")
    parser.add_argument("--pruner", choices=PRUNERS, default="median", help="who ends bad trials early")


def run(given: argparse.Namespace) -> int:
    """0 when a trial was trained to its end, 7 when none was, 130 after Ctrl-C."""
    output.check_target(given.json)
    if not 1 <= given.budget <= 30 * 86_400:
        raise SettingsInvalid(f"--budget is 1 second to 30 days, got {given.budget:g} s.")
    wanted = trials_wanted(given)
    if given.out:
        take_out.check_folder(Path(given.out), "--out")
    settings = flags.settings_of(given)
    return loop.run_stoppable(lambda stop: _run(given, wanted, settings, stop))


def trials_wanted(given: argparse.Namespace) -> Errands:
    """One trial, as a task that is wanted. SettingsInvalid for a kind, settings or a space that can not be, DataRefused
    for a file that is not there."""
    inner = Errands.of(given)
    told: Facts = {
        "study": given.study or f"{inner.info.name}-{secrets.token_hex(4)}",
        "kind": inner.info.name,
        "space": space_in(Path(given.space).expanduser()),
        "fixed": inner.settings,
        "metric": given.metric,
        "direction": given.direction,
        "sampler": given.sampler,
        "pruner": given.pruner,
    }
    try:
        msgspec.convert(told, SearchStepSettings)
    except ValueError as error:
        raise SettingsInvalid(
            f"this can not be searched: {str(error).rstrip('.')}; docs/executors says more."
        ) from None
    return Errands(kinds.kind_infos()[KIND], told, inner.inputs, given)


def space_in(file: Path) -> dict[str, Any]:
    """The space in a file. DataRefused when it can not be read, SettingsInvalid when it is none."""
    try:
        if file.stat().st_size > SPACE_BYTES_MAX:
            raise SettingsInvalid(f"--space takes at most {SPACE_BYTES_MAX} bytes of JSON, {str(file)!r} has more.")
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise DataRefused(f"{str(file)!r} can not be read ({error.strerror or error}): check --space.") from None
    except (ValueError, RecursionError) as error:
        raise SettingsInvalid(f"--space is a file of JSON, {str(file)!r} is none: {error}.") from None
    if not isinstance(found, dict):
        raise SettingsInvalid(f"--space maps settings to what may be drawn, {str(file)!r} holds something else.")
    return found


class SearchStory(Story):
    """The records of a search; it ends with its last trial."""

    def __init__(self, topic: str, trials: int) -> None:
        super().__init__(topic, alone=True)
        self._trials = trials

    def ending(self) -> Ending | None:
        """DONE when all trials have ended and one has succeeded."""
        if len(self.ended) < self._trials:
            return None
        return Ending.FAILED if len(self.failures()) == self._trials else Ending.DONE


async def _run(given: argparse.Namespace, wanted: Errands, settings: Settings, stop: asyncio.Event) -> int:
    display = display_for(sys.stderr if given.json == "-" else sys.stdout)
    ending, story, made = Ending.INTERRUPTED, SearchStory("", 0), {}
    try:
        async with started(settings, stop, display.note) as mesh:
            if not stop.is_set():
                trials = trials_of(await wanted.spec(mesh.reach, display.note), given.trials)
                story = SearchStory(trials[0].topic, len(trials))
                state = await mesh.reach.broker.state(mesh.reach.stream("RESULTS"))
                feeding = Feeding(mesh.reach, story, trials, given.parallel or len(trials))
                display.note(f"study {wanted.settings['study']}: {len(trials)} trials as {story.topic}")

                def watch() -> None:
                    mesh.check()
                    feeding.check()

                async with feeding.going(stop):
                    ending = await follow(
                        mesh.reach, story, display, from_seq=state.last_seq + 1, stop=stop, watch=watch,
                        ask_again=feeding.again,
                    )  # fmt: skip
            if ending is Ending.DONE and given.out and (best := best_of(story, given.direction)):
                made = await errands.taken_out(mesh.reach, story.ended[best["task"]], Path(given.out))
            if stop.is_set():
                display.note("stopping what was started …")
    finally:
        display.close()
    if ending is Ending.INTERRUPTED:
        output.note(
            "bin/agent search: " + how_to_continue(story.topic, settings.nats.named, partial(flags.again, given))
        )
        return exit_code(ending)
    _tell(given, wanted.settings, story, made)
    return exit_code(ending)


def trials_of(one: TaskSpec, count: int) -> list[TaskSpec]:
    """The tasks of a search: as one another, but for their names."""
    return [one.evolve(id=f"{one.id}-{number}", purpose="trial") for number in range(count)]


class Feeding:
    """Submits the trials, so many at once."""

    def __init__(self, there: Reach, story: Story, trials: Sequence[TaskSpec], parallel: int) -> None:
        self._there, self._story, self._trials, self._parallel = there, story, trials, parallel
        self._submitted = 0
        self._feeding: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def going(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Submit in the background while the caller follows; `check` says when that went wrong."""
        self._feeding = asyncio.create_task(self._feed(stop), name="submitting trials")
        try:
            yield
        finally:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)

    def check(self) -> None:
        """Raise what ended the submitting, if something did."""
        if self._feeding is not None and self._feeding.done():
            self._feeding.result()

    async def again(self) -> None:
        """The store is older than what was submitted: submit it once more; under its name it is there once."""
        for trial in self._trials[: self._submitted]:
            await errands.submit(self._there, trial)

    async def _feed(self, stop: asyncio.Event) -> None:
        while self._submitted < len(self._trials) and not stop.is_set():
            if self._submitted - len(self._story.ended) < self._parallel:
                await errands.submit(self._there, self._trials[self._submitted])
                self._submitted += 1
            else:
                await within(LOOK_S, stop)


# -- the end ----------------------------------------------------------------------------------------------------------


def records_of(story: Story) -> list[dict[str, Any]]:
    """What the trials said of themselves, in the study's order."""
    found = []
    for end in story.ended.values():
        search = end.outcome.facts.get("search") if end.outcome is not None else None
        if isinstance(search, dict):
            found.append({"task": end.task.id, **search})
    return sorted(found, key=lambda one: int(one["trial"]))


def best_of(story: Story, direction: str) -> dict[str, Any] | None:
    """The best of this search's trials that were trained to their end."""
    done = [one for one in records_of(story) if one["state"] == "complete"]
    sign = 1 if direction == "minimize" else -1
    return min(done, key=lambda one: (sign * float(one["value"]), int(one["trial"])), default=None)


def _tell(given: argparse.Namespace, told: Mapping[str, Any], story: Story, made: dict[str, str]) -> None:
    records, best = records_of(story), best_of(story, given.direction)
    if given.json:
        failed = [{"task": end.task.id, "state": end.state.value, "reason": end.reason} for end in story.failures()]
        output.write_json(given.json, {**told, "trials": records, "failed": failed, "best": best, "folders": made})
    if given.json != "-":
        names = sorted(told["space"])
        rows = [
            (
                one["trial"],
                one["state"],
                output.number(one["value"]),
                *(_shown(one["settings"][name]) for name in names),
            )
            for one in records
        ]
        output.say(output.table(("trial", "state", given.metric, *names), rows))
        if best is not None:
            output.say(f"best: trial {best['trial']} with " + " ".join(
                f"--set {name}={json.dumps(best['settings'][name])}" for name in names
            ))  # fmt: skip
        if made:
            output.say(output.table(("output", "folder"), sorted(made.items())))
    if story.failures():
        output.note(f"bin/agent search: {story.why_failed()}.")


def _shown(value: Any) -> str:
    return output.number(value) if isinstance(value, float) else json.dumps(value)
