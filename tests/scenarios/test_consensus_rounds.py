"""Plays the transcripts in tests/scenarios/consensus/ against the mind that says what consensus has to do next.

Commands:

    plan [priority=N] [independent=require] [lines=evolver,...] [baseline=no] [fits=FORM] [base=MODEL] [yardstick=MODEL]
                                                          base: the lines put adapters on it
         [rounding=MODEL|evolver]                         the weights of MODEL, or of the evolver's, are to be rounded
    tree [flat=MODEL] [members=N] [family=MODEL] [baseline=yes]
                                                          the planner submitted the tree; its members go on from MODEL
    champion MODEL [holdout=…] [outcomes=…] [fits=FORM] [base=MODEL]    the champion's newest record
    ended TASK [by=INCARNATION] [model=...] [claims=...]  a task succeeded; an empty value leaves the output out
    parked TASK REASON                                    a task was set aside (canceled likewise)
    merged METHOD [members=N] [gain=X]                    a merge ended: how many it took in, what it is better by
    recommended [tree]                                    the ledger recorded the recommendation (of the tree's round)
    verdict CHOICE [tree] [before=MODEL] [base=MODEL] [before_base=MODEL]
                                                          the gate accepted: what took whose place, and what they adapt
    audited [tree]                                        the audit's record is published
    trust WORKER STREAK                                   so many clean checks in a row, of the kind classify
    ask LINE check|replay                                 it would become champion: what was kept in reserve is put
    next                                                  nothing new: what is to be done?

After each command the mind is asked; what it submits is put, and planned only when `accept` says so.
The form of the files is that of tests/support/transcripts.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.audits import Looks, looks_of
from consensus.checking import Known
from consensus.rounds import Round, Run, Step, next_step
from mesh.messages.base import Facts, Record
from mesh.messages.commands import Submit
from mesh.messages.judgement import Audit, Candidate, Champion, Choice, Recommendation, Verdict
from mesh.messages.results import RecommendationMade
from mesh.messages.tasks import Avoid, Line, TaskSpec, TaskState
from mesh.messages.trust import Streak
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
        self.trust: Known = {}

    def do(self, line: str) -> list[str]:
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        getattr(self, f"do_{command}")([word for word in words if "=" not in word], options)
        return self.told(next_step(self.records, self.champion, self.revision, self.trust), looks_of(self.records))

    def do_plan(self, _: list[str], options: dict[str, str]) -> None:
        lines = tuple(Line(name) for name in options.get("lines", "evolver,reinventor").split(","))
        facts: dict[str, Any] = {"independent": options.get("independent", "prefer"), "fits": options.get("fits", "")}
        baseline, priority = options.get("baseline") != "no", int(options.get("priority", "5"))
        facts |= {"yardstick": options["yardstick"]} if "yardstick" in options else {}
        if of := options.get("rounding"):
            facts["rounding"] = {"model": "" if of == "evolver" else of, "scheme": "dynamic-int8"}
        base = options.get("base", "")
        self.records.append(rounds.plan(priority=priority, baseline=baseline, lines=lines, base=base, **facts))

    def do_champion(self, words: list[str], options: dict[str, str]) -> None:
        self.champion = rounds.champion(model=words[0], **options)
        self.revision += 1

    def do_tree(self, _: list[str], options: dict[str, str]) -> None:
        members, flat = int(options.get("members", "2")), options.get("flat", "model-old")
        facts: Facts = {"baseline": f"{rounds.TOPIC}-baseline"} if "baseline" in options else {}
        if "family" in options:
            models = [f"model-child-{number}" for number in range(members)]
            facts["family"] = {"ancestor": options["family"], "models": models}
        self.records.append(rounds.tree_plan(facts, flat=flat, members=members))

    def do_merged(self, words: list[str], options: dict[str, str]) -> None:
        task, gain = self.task(words[0]), float(options.get("gain", "0.01"))
        members = [f"candidate-{number}" for number in range(int(options.get("members", "2")))]
        kpis = {"gain": gain, "evidence_accuracy": 0.8 + gain}
        outputs = {"model": f"model-{words[0]}", "claims": f"claims-{words[0]}"}
        record = rounds.ended(task, outputs=outputs, kpis=kpis)
        assert record.outcome is not None
        outcome = msgspec.structs.replace(record.outcome, facts={"members": members})
        self.records.append(msgspec.structs.replace(record, outcome=outcome))

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

    def do_recommended(self, words: list[str], _: dict[str, str]) -> None:
        self.records.append(
            RecommendationMade(
                topic=rounds.TOPIC,
                specialization=rounds.SPECIALIZATION,
                recommendation=recommendation(Choice.KEEP, "tree-" if "tree" in words else ""),
                ledger_seq=9,
                at_ms=0,
            )
        )

    def do_verdict(self, words: list[str], options: dict[str, str]) -> None:
        tag = "tree-" if "tree" in words else ""
        made = recommendation(
            Choice(words[0]), tag, *(options.get(name, "") for name in ("before", "base", "before_base"))
        )
        self.records.append(
            Verdict(
                id=f"t1-{tag}verdict", topic=rounds.TOPIC, specialization=rounds.SPECIALIZATION, accepted=True,
                choice=made.choice, checks=(), why="", recommendation=made,
            )
        )  # fmt: skip

    def do_audited(self, words: list[str], _: dict[str, str]) -> None:
        tag = "tree-" if "tree" in words else ""
        self.records.append(
            Audit(
                id=f"t1-{tag}audit", topic=rounds.TOPIC, specialization=rounds.SPECIALIZATION,
                verdict=f"t1-{tag}verdict", audit=rounds.SPLITS["audit"],
            )
        )  # fmt: skip

    def do_trust(self, words: list[str], _: dict[str, str]) -> None:
        self.trust[words[0], "classify", 1] = Streak(executor="classify", streak=int(words[1]))

    def do_ask(self, words: list[str], _: dict[str, str]) -> None:
        step = next_step(self.records, self.champion, self.revision, self.trust)
        assert step.weigh is not None
        run = next(run for run in step.weigh.lines if run.name == words[0])
        reserve = run.check_in_reserve if words[1] == "check" else run.replay_in_reserve
        assert reserve is not None
        self.submitted(reserve)
        self.records.append(rounds.accepted(reserve))

    def do_next(self, _: list[str], __: dict[str, str]) -> None:
        """Nothing new."""

    def task(self, name: str) -> TaskSpec:
        submitted = {task.id: task for put in self.put.values() for task in put.tasks}
        return {**rounds.tasks_of(self.records), **submitted}[f"{rounds.TOPIC}-{name}"]

    # -- what is printed ----------------------------------------------------------------------------------------------

    def told(self, step: Step, looks: Looks) -> list[str]:
        lines = [line for submit in (*step.submits, *looks.submits) for line in self.submitted(submit)]
        if step.weigh is not None:
            lines += weighed(step.weigh)
        lines += [f"look {due.id}: {due.missing or f'{due.after} against {due.before}'}" for due in looks.due]
        return lines or [step.why, *([looks.why] if looks.why else [])]

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
    if task.executor == "merge":
        given = " ".join(f"{name}={digest}" for name, digest in task.inputs.items())
        return f"{task.id}: merge by {task.settings['method']} of {given} budget={task.budget_s:g}s"
    if task.executor == "quantize":
        return f"{task.id}: {task.settings['scheme']} of {task.inputs['model']}, asked about {task.inputs['split']}"
    below = f" adapting {task.inputs['base']}" if "base" in task.inputs else ""
    what = f"{task.inputs['model']}{below} on {task.inputs['split']}"
    return f"{task.id}: {task.executor} {what} priority={task.priority} cores={task.needs.cores:g}{avoid}"


def recommendation(
    choice: Choice, tag: str, before: str = "", base: str = "", before_base: str = ""
) -> Recommendation:  # fmt: skip
    """What the ledger, or the gate, tells of a round."""
    taken = "" if choice is Choice.KEEP else choice.value
    one = Candidate(line=Line(taken), task=f"t1-{taken}", model=f"model-{taken}", base=base) if taken else None
    candidates = (one,) if one is not None else ()
    return Recommendation(
        id=f"t1-{tag}recommendation", topic=rounds.TOPIC, specialization=rounds.SPECIALIZATION, choice=choice,
        why="as the transcript says", effect=0.0, interval=(0.0, 0.0), candidates=candidates, taken=taken,
        champion_before=before, champion_base=before_base, audit=rounds.SPLITS["audit"],
    )  # fmt: skip


def weighed(round_: Round) -> list[str]:
    runs = (*round_.lines, round_.baseline, round_.champion_run)
    return [f"weigh {round_.id} at revision {round_.champion_revision}", *(f"  {told_run(run)}" for run in runs)]


def told_run(run: Run) -> str:
    if run.missing:
        return f"{run.name}: {run.missing}"
    parts = {"model": run.model, "claims": run.claims, "check": run.check, "holdout": run.holdout}
    told = " ".join(f"{name}={digest}" for name, digest in parts.items() if digest)
    how = f" checked by {run.checked_by}" if run.checked_by else " unchecked" if run.unchecked else ""
    rounded = f" rounded from {run.full} with {run.settings}" if run.full else ""
    return f"{run.name}: {told}{how}{rounded}"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path) -> None:
    transcripts.play(path, Play().do, REWRITE)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_whoever_comes_late_or_again_puts_the_same_commands(path: Path) -> None:
    """A crash at every step, and two of us: one reads the records of some moment, and the champion of any later one.
    (Trust is that of the moment: where it changed, a check is asked for by itself.)"""
    play = Play()
    moments: list[tuple[tuple[Record, ...], Champion | None, int, Known]] = [((), None, 0, {})]
    for line in commands_in(path):
        play.do(line)
        moments.append((tuple(play.records), play.champion, play.revision, dict(play.trust)))
    put: dict[str, Submit] = {}
    for number, (records, _, _, trust) in enumerate(moments):
        for _, champion, revision, _ in moments[number:]:
            step, looks = next_step(records, champion, revision, trust), looks_of(records)
            lines = step.weigh.lines if step.weigh is not None else ()
            kept = [one for run in lines for one in (run.check_in_reserve, run.replay_in_reserve) if one is not None]
            for submit in (*step.submits, *looks.submits, *kept):
                assert put.setdefault(submit.id, submit) == submit
            assert step == next_step(records, champion, revision, trust)
    assert play.put.keys() <= put.keys()


def commands_in(path: Path) -> list[str]:
    """The commands of a transcript, without what was answered."""
    blocks = path.read_text().split("\n\n")
    return [line for block in blocks for line in block.split("\n----")[0].splitlines() if not line.startswith("#")]


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 13
