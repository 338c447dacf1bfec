"""Plays the transcripts in tests/scenarios/consensus/ against the mind that says what consensus has to do next.

Commands:

    plan [priority=N] [independent=require] [lines=evolver,...] [baseline=no] [fits=FORM]
    champion MODEL [holdout=…] [outcomes=…] [fits=FORM]   the champion's newest record
    ended TASK [by=INCARNATION] [model=...] [claims=...]  a task succeeded; an empty value leaves the output out
    parked TASK REASON                                    a task was set aside (canceled likewise)
    recommended                                           the ledger recorded the recommendation
    next                                                  nothing new: what is to be done?

After each command the mind is asked; what it submits is put, and planned only when `accept` says so.
The form of the files is that of tests/support/transcripts.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.rounds import Round, Run, Step, next_step
from mesh.messages.base import Record
from mesh.messages.commands import Submit
from mesh.messages.judgement import Champion, Choice, Recommendation
from mesh.messages.results import RecommendationMade
from mesh.messages.tasks import Avoid, Line, TaskSpec, TaskState
from tests.support import rounds, transcripts

FOLDER = Path(__file__).parent / "consensus"
FILES = sorted(FOLDER.glob("*.txt"))
REWRITE = bool(os.environ.get("REWRITE_TRANSCRIPTS"))
"""REWRITE_TRANSCRIPTS=1 writes down what is seen; the difference is then reviewed like code."""


class Play:
    """One transcript's mesh: the records so far, the champion, and the submits that were put."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.champion: Champion | None = None
        self.revision = 0
        self.put: dict[str, Submit] = {}

    def do(self, line: str) -> list[str]:
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        getattr(self, f"do_{command}")([word for word in words if "=" not in word], options)
        return self.told(next_step(self.records, self.champion, self.revision))

    def do_plan(self, _: list[str], options: dict[str, str]) -> None:
        lines = tuple(Line(name) for name in options.get("lines", "evolver,reinventor").split(","))
        facts = {"independent": options.get("independent", "prefer"), "fits": options.get("fits", "")}
        baseline, priority = options.get("baseline") != "no", int(options.get("priority", "5"))
        self.records.append(rounds.plan(priority=priority, baseline=baseline, lines=lines, **facts))

    def do_champion(self, words: list[str], options: dict[str, str]) -> None:
        self.champion = rounds.champion(model=words[0], **options)
        self.revision += 1

    def do_accept(self, _: list[str], __: dict[str, str]) -> None:
        known = rounds.tasks_of(self.records)
        self.records += [rounds.accepted(put) for put in self.put.values() if put.tasks[0].id not in known]

    def do_ended(self, words: list[str], options: dict[str, str]) -> None:
        incarnation = options.pop("by", "w1.aa")
        outputs = {name: digest for name, digest in options.items() if digest} if options else None
        self.records.append(rounds.ended(self.task(words[0]), incarnation=incarnation, outputs=outputs))

    def do_parked(self, words: list[str], _: dict[str, str]) -> None:
        task = self.task(words[0])
        self.records.append(rounds.ended(task, state=TaskState.PARKED, reason=" ".join(words[1:])))

    def do_canceled(self, words: list[str], _: dict[str, str]) -> None:
        task = self.task(words[0])
        self.records.append(rounds.ended(task, state=TaskState.CANCELED, reason=" ".join(words[1:])))

    def do_recommended(self, _: list[str], __: dict[str, str]) -> None:
        recommendation = Recommendation(
            id="t1-recommendation", topic=rounds.TOPIC, specialization=rounds.SPECIALIZATION, choice=Choice.KEEP,
            why="as the transcript says", effect=0.0, interval=(0.0, 0.0), candidates=(),
        )  # fmt: skip
        self.records.append(
            RecommendationMade(
                topic=rounds.TOPIC,
                specialization=rounds.SPECIALIZATION,
                recommendation=recommendation,
                ledger_seq=9,
                at_ms=0,
            )
        )

    def do_next(self, _: list[str], __: dict[str, str]) -> None:
        """Nothing new."""

    def task(self, name: str) -> TaskSpec:
        submitted = {task.id: task for put in self.put.values() for task in put.tasks}
        return {**rounds.tasks_of(self.records), **submitted}[f"{rounds.TOPIC}-{name}"]

    # -- what is printed ----------------------------------------------------------------------------------------------

    def told(self, step: Step) -> list[str]:
        lines = [line for submit in step.submits for line in self.submitted(submit)]
        if step.weigh is not None:
            lines += weighed(step.weigh)
        return lines or [step.why]

    def submitted(self, submit: Submit) -> list[str]:
        if submit.id in self.put:
            assert self.put[submit.id] == submit, "the same id must always name the same command"
            return [f"submit {submit.id} again"]
        self.put[submit.id] = submit
        return [f"submit {submit.id}", *(f"  {told_task(task)}" for task in submit.tasks)]


def told_task(task: TaskSpec) -> str:
    avoid = (
        f" {'never' if task.avoid_mode is Avoid.REQUIRE else 'rather not'} {','.join(task.avoid)}" if task.avoid else ""
    )
    what = f"{task.inputs['model']} on {task.inputs['split']}"
    return f"{task.id}: {task.executor} {what} priority={task.priority} cores={task.needs.cores:g}{avoid}"


def weighed(round_: Round) -> list[str]:
    runs = (*round_.lines, round_.baseline, round_.champion_run)
    return [f"weigh {round_.id} at revision {round_.champion_revision}", *(f"  {told_run(run)}" for run in runs)]


def told_run(run: Run) -> str:
    if run.missing:
        return f"{run.name}: {run.missing}"
    parts = {"model": run.model, "claims": run.claims, "check": run.check, "holdout": run.holdout}
    told = " ".join(f"{name}={digest}" for name, digest in parts.items() if digest)
    return f"{run.name}: {told}" + (f" checked by {run.checked_by}" if run.checked_by else "")


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path) -> None:
    transcripts.play(path, Play().do, REWRITE)


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 7
