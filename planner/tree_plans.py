"""The two tasks that make a tree: the search for branches, and what puts their champions together.

    branch_submit   one task, kind `branch`: the topic's own data, as its profile looked at them
    tree_submit     one task, kind `tree`, line MERGE: router, flat model, the branches' champions, validation of the
                    first round. Its facts are those of a plan with lines, so consensus opens a second round with it

Pure: the same records make the same commands. Not here: when they are due (planner/trees.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mesh.messages.base import Facts, Record, derived_id
from mesh.messages.commands import Submit
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line, Needs, Outcome, TaskSpec
from mesh.messages.topics import Topic
from planner import branches, plans
from planner.branches import Found
from planner.branching import Answer
from planner.profile import Profile

KIND = "tree"

BUDGET_S = 900.0
"""A search for branches, or the putting together of a tree, ends long before; the kill comes with wall_s_max."""

MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """The champion of a branch."""

    model: str
    size_bytes: int
    continued: str
    """The model from which it went on; '' when it began from zero."""


@dataclasses.dataclass(frozen=True, slots=True)
class Profiled:
    """The topic's profile, as its records tell it."""

    profile: Profile
    task: TaskSpec
    outcome: Outcome


def tree_id(topic: str) -> str:
    """Id of the task that puts a tree together, and of its submit."""
    return derived_id(topic, KIND)


def recommendation_id(topic: str) -> str:
    """Id of the recommendation of the round that the tree opens."""
    return derived_id(topic, f"{KIND}-recommendation")


def newest(records: Iterable[Record], task: str) -> TaskEnded | None:
    """The newest end of a task: one that was started again has several."""
    found = [one for one in records if isinstance(one, TaskEnded) and one.task.id == task]
    return found[-1] if found else None


def profiled(records: Iterable[Record], topic: str) -> Profiled | None:
    """The topic's profile; None when it is not known, or can not be used."""
    ended = newest(records, derived_id(topic, "profile"))
    profile = plans.profile_of(ended.outcome) if ended is not None and ended.outcome is not None else None
    if profile is None or ended is None or ended.outcome is None or not ended.task.inputs.get("data"):
        return None
    return Profiled(profile, ended.task, ended.outcome)


def branch_submit(
    topic: Topic, specialization: str, source: Profiled, flat: Facts, answer: Answer, estimate: plans.Estimate,
    router: str = "",
) -> Submit:  # fmt: skip
    """Look for branches in the topic's data. flat: the model that answers for the whole (`model`, `settings`,
    `size_bytes`): pinned here, whatever becomes champion meanwhile. router: of the tree that is champion: where it
    still fits the branches stay what they are."""
    id_, profile = branches.task_id(topic.id), source.profile
    told = source.task.settings
    chosen = {
        "name": told.get("name"),
        "salt": told.get("salt"),
        "text_column": branches.text_column(topic, profile),
        "label_column": profile.label_column or topic.label_column,
        "task": profile.task,
    }
    settings: Facts = {name: value for name, value in chosen.items() if value} | {"branches": answer.branches}
    needs = estimate(branches.KIND, settings, source.outcome.facts)
    task = TaskSpec(
        id=id_,
        topic=topic.id,
        specialization=specialization,
        executor=branches.KIND,
        purpose=branches.KIND,
        settings=settings,
        inputs={"data": source.task.inputs["data"], **({"router": router} if router else {})},
        needs=needs or _needs_of_branch(profile),
        priority=topic.priority,
        budget_s=BUDGET_S,
        on_disconnect=topic.on_disconnect,
        wait_s=topic.wait_s,
    )
    facts: Facts = {"stage": branches.KIND, "flat": flat, "why": answer.why}
    return Submit(id=id_, topic=topic.id, specialization=specialization, tasks=(task,), facts=facts)


def tree_submit(
    topic: Topic,
    first: Planned,
    flat: Mapping[str, Any],
    source: Profiled,
    found: Found,
    members: Mapping[int, Member],
    champion: str,
    estimate: plans.Estimate,
) -> Submit:
    """Put the branches' champions together. first: the plan of the topic's first round; flat: as in `branch_submit`;
    champion: digest of the one that the first verdict left."""
    id_, splits = tree_id(topic.id), first.facts.get("splits", {})
    inputs = {"router": found.router, "flat": str(flat.get("model") or "")}
    inputs |= {f"member-{index}": member.model for index, member in members.items()}
    inputs["validation"] = str(splits.get("validation") or "")
    sizes = {"flat": _size(flat), **{f"member-{index}": member.size_bytes for index, member in members.items()}}
    needs = estimate(KIND, {}, {**source.outcome.facts, "input_bytes": sizes})
    task = TaskSpec(
        id=id_,
        topic=topic.id,
        specialization=first.specialization,
        executor=KIND,
        line=Line.MERGE,
        purpose=KIND,
        inputs={name: digest for name, digest in inputs.items() if digest},
        needs=needs or _with_models(Needs(memory_bytes=768 * MIB + 4 * source.profile.bytes), list(sizes.values())),
        priority=topic.priority,
        budget_s=BUDGET_S,
        on_disconnect=topic.on_disconnect,
        wait_s=topic.wait_s,
    )
    facts = _tree_facts(first, id_, flat, source.profile, found, members, champion)
    return Submit(id=id_, topic=topic.id, specialization=first.specialization, tasks=(task,), facts=facts)


def _tree_facts(
    first: Planned,
    id_: str,
    flat: Mapping[str, Any],
    profile: Profile,
    found: Found,
    members: Mapping[int, Member],
    champion: str,
) -> Facts:
    """The facts of a plan with lines: those of the first round, with the one line of this one."""
    sizes = [_size(flat), *(member.size_bytes for member in members.values())]
    evaluate = _with_models(profile.needs_of("evaluate"), sizes)
    needs, model = first.facts.get("needs"), str(flat.get("model") or "")
    described = f"a tree of {len(members)} specialists over {len(found.branches)} branches, and the flat model"
    family = [member.model for member in members.values() if member.continued == model]
    return {
        **first.facts,
        "stage": KIND,
        "lines": {Line.MERGE.value: id_},
        "changed": {Line.MERGE.value: described},
        "champion": champion,
        "flat": model,
        "family": {"ancestor": model, "models": family},
        "needs": {**(needs if isinstance(needs, dict) else {}), "evaluate": plans.plain_needs(evaluate)},
        "branches": len(found.branches),
        "members": {str(index): member.model for index, member in members.items()},
    }


def _size(flat: Mapping[str, Any]) -> int:
    size = flat.get("size_bytes")
    return int(size) if isinstance(size, int | float) else 0


def _needs_of_branch(profile: Profile) -> Needs:
    """Texts in memory, their vectors, and the branches' data on the disk; where the kind itself does not say."""
    return Needs(memory_bytes=768 * MIB + 8 * profile.bytes, disk_bytes=256 * MIB + 4 * profile.bytes)


def _with_models(needs: Needs, sizes: Sequence[int]) -> Needs:
    """The same with all of these models in memory and on the disk."""
    return needs.evolve(memory_bytes=needs.memory_bytes + 3 * sum(sizes), disk_bytes=needs.disk_bytes + 2 * sum(sizes))
