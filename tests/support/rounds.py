"""Records of one topic, as the ledger would tell them, for the mind that reads them."""

from __future__ import annotations

from mesh.messages.base import Facts, Record
from mesh.messages.commands import Submit
from mesh.messages.judgement import Champion
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState

TOPIC, SPECIALIZATION = "t1", "digits-0a1b2c"
SPLITS = {"train": "split-train", "validation": "split-validation", "holdout": "split-holdout", "audit": "split-audit"}
LINES = (Line.EVOLVER, Line.REINVENTOR)
TREE = "tree-"
"""What the ids of the second round begin with."""


def plan(
    *, priority: int = 5, baseline: bool = True, lines: tuple[Line, ...] = LINES, base: str = "", **facts: object
) -> Planned:  # fmt: skip
    """The plan of topic t1: one training task per line, and the baseline. base: what the lines put adapters on."""
    trained = (*lines, Line.BASELINE) if baseline else lines
    tasks = tuple(
        TaskSpec(
            id=f"{TOPIC}-{line}", topic=TOPIC, specialization=SPECIALIZATION, line=line, purpose="train",
            executor="lora" if base and line is not Line.BASELINE else "classify",
            priority=priority, settings={"width": 8}, inputs={"base": base} if base else {},
        )
        for line in trained
    )  # fmt: skip
    known: Facts = {
        "lines": {line.value: f"{TOPIC}-{line}" for line in lines},
        "baseline": f"{TOPIC}-baseline" if baseline else "",
        "splits": SPLITS,
        "changed": {"evolver": "learning rate x 0.8"},
        "needs": {"evaluate": {"cores": 1.5, "memory_bytes": 300, "disk_bytes": 200}},
        **facts,
    }
    return planned(f"{TOPIC}-plan", tasks, known)


def tree_plan(facts: Facts, *, priority: int = 5, flat: str = "model-old", members: int = 2) -> Planned:
    """The plan of t1's second round: a tree of its branches' specialists, which challenges the flat model."""
    inputs = {"router": "router", "flat": flat, "validation": SPLITS["validation"]}
    inputs |= {f"member-{number}": f"model-child-{number}" for number in range(members)}
    task = TaskSpec(
        id=f"{TOPIC}-tree", topic=TOPIC, specialization=SPECIALIZATION, executor="tree", line=Line.MERGE,
        purpose="tree", priority=priority, inputs=inputs, settings={"top": 2},
    )  # fmt: skip
    known: Facts = {
        "stage": "tree",
        "lines": {"merge": task.id},
        "splits": SPLITS,
        "changed": {"merge": f"a tree of {members} specialists"},
        "needs": {"evaluate": {"cores": 1.5, "memory_bytes": 300, "disk_bytes": 200}},
        **facts,
    }
    return planned(f"{TOPIC}-tree", (task,), known)


def planned(submit: str, tasks: tuple[TaskSpec, ...], facts: Facts) -> Planned:
    """What the ledger says after a submit."""
    return Planned(
        topic=TOPIC, specialization=SPECIALIZATION, submit=submit, tasks=tasks, facts=facts, ledger_seq=1, at_ms=0
    )


def accepted(submit: Submit) -> Planned:
    """The ledger took this submit."""
    return planned(submit.id, submit.tasks, submit.facts)


def ended(
    task: TaskSpec,
    *,
    state: TaskState = TaskState.SUCCEEDED,
    outputs: dict[str, str] | None = None,
    kpis: dict[str, float] | None = None,
    incarnation: str = "w1.aa",
    reason: str = "",
) -> TaskEnded:
    """A task has ended; a trained one brings a model and claims, an evaluated one outcomes, named after the task."""
    if outputs is None and task.executor == "evaluate":
        outputs = {"outcomes": f"outcomes-{task.id}"}
    elif outputs is None:
        outputs = {"model": f"model-{task.line}", "claims": f"claims-{task.line}"}
    outcome = Outcome(outputs=outputs, kpis=kpis or {}, stopped_by="early stop")
    return TaskEnded(
        topic=TOPIC,
        specialization=SPECIALIZATION,
        task=task,
        state=state,
        incarnation=incarnation,
        outcome=outcome if state is TaskState.SUCCEEDED else None,
        reason=reason,
        ledger_seq=2,
        at_ms=0,
    )


def champion(
    *, model: str = "model-old", holdout: str = SPLITS["holdout"], outcomes: str = "outcomes-old", fits: str = "",
    base: str = "",
) -> Champion:  # fmt: skip
    """A champion that was judged on the round's holdout, unless told otherwise."""
    return Champion(
        specialization=SPECIALIZATION, version_number=1, model=model, topic="t0", task="t0-evolver", line=Line.EVOLVER,
        verdict="t0-verdict", holdout=holdout, outcomes=outcomes, holdout_uses=2, kpis={"size_bytes": 7.0},
        fits=fits, base=base,
    )  # fmt: skip


def tasks_of(records: list[Record]) -> dict[str, TaskSpec]:
    """Every planned task by its id."""
    return {task.id: task for record in records if isinstance(record, Planned) for task in record.tasks}
