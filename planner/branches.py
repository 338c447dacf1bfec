"""Branches of a topic: the names, the nodes and the topics that an ended `branch` task becomes.

    branch ended ──> Found ──> child nodes    state hypothesis, under the topic's node
                          └──> child topics   <topic>-b0, <topic>-b1, … each with its data and its share of the budget

Every id is derived, so that making the branches twice makes the same ones: a child's topic from its parent topic, its
node from the parent node and the branch's name. The same data lead to the same names, so a later run of the topic finds
its children's champions again.

The facts of the task came from a worker: what is not as it should be is a sentence, and the topic stays whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

from mesh import limits
from mesh.messages.base import NAME, derived_id
from mesh.messages.graph import NodeEvent, NodeState, Specialization
from mesh.messages.judgement import Champion
from mesh.messages.models import LABEL_NAMES_MAX, BaseModel, ModelFormat
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import TaskState
from mesh.messages.topics import DataRef, Topic
from planner import branching, changes, graph, sizes
from planner.profile import Profile

KIND = "branch"

NAME_CHARS_SHOWN = 120
"""A branch's name: some distinguishing terms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """One branch, as the task found it."""

    index: int
    name: str
    keywords: tuple[str, ...]
    examples: int
    data: str
    """Digest of its dataset."""
    data_name: str
    loss: float | None = None
    """The flat model's on it: how hard it is. None where the task does not tell."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a branch task found: two branches or more, or none and why."""

    branches: tuple[Branch, ...]
    router: str
    why: str
    helps: Mapping[str, Any]


def child_id(topic: str, index: int) -> str:
    """Id of the topic of this branch."""
    return derived_id(topic, f"b{index}")


def child_node_id(parent: str, name: str) -> str:
    """Id of the node of a branch of this name below the node `parent`."""
    identity = "\x00".join((parent, graph.normalised(name)))
    return f"{graph.slug(name)}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"


def task_id(topic: str) -> str:
    """Id of the task that looks for branches, and of its submit."""
    return derived_id(topic, KIND)


def found_by(ended: TaskEnded) -> Found:
    """What the task found; no branches, and the reason, when it did not succeed or says what can not be."""
    outcome = ended.outcome
    if ended.state is not TaskState.SUCCEEDED or outcome is None:
        return _none(f"the search for branches was {ended.state.value}: {ended.reason.strip() or 'without a reason'}")
    facts, outputs = outcome.facts, outcome.outputs
    told, helps = facts.get("why"), facts.get("helps")
    why = told if isinstance(told, str) else ""
    names = sorted((name for name in outputs if _index(name) is not None), key=lambda name: _index(name) or 0)
    if len(names) < 2:
        return _none(why or "splitting its data did not help")
    if names != [f"{KIND}-{index}" for index in range(len(names))] or not outputs.get("router"):
        return _none(f"the search for branches brought {', '.join(sorted(outputs))[:200]}, which is no whole set")
    if len(names) > limits.BRANCHES_MAX:
        return _none(f"{len(names)} branches were found, and a topic has at most {limits.BRANCHES_MAX}")
    branches = tuple(_branch(index, facts, outputs[name]) for index, name in enumerate(names))
    return Found(_named_apart(branches), outputs["router"], why, helps if isinstance(helps, dict) else {})


def _none(why: str) -> Found:
    return Found((), "", why, {})


def _index(name: str) -> int | None:
    prefix, dash, number = name.rpartition("-")
    return int(number) if dash and prefix == KIND and number.isdecimal() else None


def _branch(index: int, facts: Mapping[str, Any], data: str) -> Branch:
    name, size = _at(facts, "names", index), _at(facts, "sizes", index)
    words, file = _at(facts, "keywords", index), _at(facts, "files", index)
    keywords = tuple(str(word) for word in words) if isinstance(words, list | tuple) else ()
    told = str(name).strip() if isinstance(name, str) else ""
    return Branch(
        index=index,
        name=(told or ", ".join(keywords[:3]) or f"branch {index + 1}")[:NAME_CHARS_SHOWN],
        keywords=keywords[: graph.KEYWORDS_PER_NODE_MAX],
        examples=int(size) if isinstance(size, int) and size > 0 else 1,
        data=data,
        data_name=file if isinstance(file, str) and file else f"{KIND}-{index}.parquet",
        loss=_loss(_at(facts, "losses", index)),
    )


def _loss(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _at(facts: Mapping[str, Any], name: str, index: int) -> Any:
    rows = facts.get(name)
    return rows[index] if isinstance(rows, list | tuple) and index < len(rows) else None


def _named_apart(branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
    """The same with names that differ, so that each has a node of its own."""
    seen: set[str] = set()
    apart = []
    for branch in branches:
        name, count = branch.name, 1
        while graph.normalised(name) in seen:
            count += 1
            name = f"{branch.name} ({count})"
        seen.add(graph.normalised(name))
        apart.append(dataclasses.replace(branch, name=name))
    return tuple(apart)


# -- nodes ------------------------------------------------------------------------------------------------------------


def nodes(
    topic: Topic, parent: str, profile: Profile, found: Found, known: Mapping[str, Specialization], at_ms: int
) -> tuple[Specialization, ...]:
    """The nodes of the branches as they should be. known: the graph as read: a branch that is part of the champion's
    tree stays active while it is tried anew. at_ms: when the branches were found."""
    made = []
    why = f"a branch of {parent} that topic {topic.id} showed: {found.why}"[: limits.TEXT_CHARS_MAX]
    for branch in found.branches:
        id_, child = child_node_id(parent, branch.name), child_id(topic.id, branch.index)
        before = known.get(id_)
        base = before if before is not None else Specialization(id=id_, name=branch.name, parent=parent)
        if before is not None and child in before.topics:
            continue  # made before, and perhaps further along by now
        active = before is not None and before.state is NodeState.ACTIVE
        made.append(
            base.evolve(
                task=profile.task,
                keywords=branch.keywords,
                topics=(*base.topics, child)[-graph.TOPICS_PER_NODE_MAX :],
                examples=branch.examples,
                data=branch.data,
                data_name=branch.data_name,
                text_column=text_column(topic, profile),
                label_column=profile.label_column or topic.label_column,
                why=base.why or why,
                state=NodeState.ACTIVE if active else NodeState.HYPOTHESIS,
                by=topic.id,
                event=NodeEvent.BRANCHED,
                reason=why,
                into="",
                changed_at_ms=at_ms,
            )
        )
    return tuple(made)


def settled_nodes(
    topic: Topic, parent: str, found: Found, known: Mapping[str, Specialization], state: NodeState, why: str, at_ms: int
) -> tuple[Specialization, ...]:
    """The nodes of the branches once it is known what they are worth. A branch of the champion's own tree that is not
    bettered stays what it is; one that is merged back takes along what lives below it."""
    there = [known[id_] for branch in found.branches if (id_ := child_node_id(parent, branch.name)) in known]
    if state is NodeState.MERGED:
        ids = [node.id for node in there if node.state is NodeState.HYPOTHESIS]
        back = changes.merged_back(known, ids, by=topic.id, why=why)
        return tuple(node.evolve(changed_at_ms=at_ms) for node in back.nodes)
    reason = why[: limits.TEXT_CHARS_MAX]
    return tuple(
        node.evolve(state=state, event=NodeEvent.ACCEPTED, by=topic.id, reason=reason, into="", changed_at_ms=at_ms)
        for node in there
        if node.state is not state
    )


def older_nodes(
    topic: Topic, parent: str, found: Found | None, known: Mapping[str, Specialization], why: str, at_ms: int
) -> tuple[Specialization, ...]:
    """Once `parent` has another champion: the active branches of an older tree that it does not contain, merged back
    with what lives below them. found: the branches of the tree that is champion now; None: it is no tree. What people
    or topics made is no branch, and a branch that such a node lives below stays as well."""
    new = {child_node_id(parent, branch.name) for branch in found.branches} if found is not None else set()
    old = [
        node.id
        for node in changes.children(known, parent)
        if node.state is NodeState.ACTIVE and node.id not in new and _is_whole_branch(known, node)
    ]
    back = changes.merged_back(known, old, by=topic.id, why=why)
    return tuple(node.evolve(changed_at_ms=at_ms) for node in back.nodes)


def _is_whole_branch(known: Mapping[str, Specialization], node: Specialization) -> bool:
    """Was it made by branching, as all that lives below it? Ids of branches are made in a way of their own; what a
    person has moved or renamed is that person's."""
    return all(one.id == child_node_id(one.parent, one.name) for one in (node, *changes.descendants(known, node.id)))


def text_column(topic: Topic, profile: Profile) -> str | None:
    """The text columns as a profile's setting says them."""
    return ",".join(profile.text_columns) or topic.text_column


# -- topics -----------------------------------------------------------------------------------------------------------


def topics(
    topic: Topic,
    parent: str,
    profile: Profile,
    found: Found,
    flat: BaseModel | None,
    champions: Mapping[str, Champion],
) -> tuple[Topic, ...]:
    """The topics of the branches. flat: the model that answers for the whole, from which a child's evolver goes on
    where its node has no champion yet (champions: by node)."""
    budgets = branching.shared_budget(topic.budget_s, [branch.examples for branch in found.branches])
    budgets = sizes.stretched(budgets, [branch.loss for branch in found.branches])
    made = []
    for branch, budget_s in zip(found.branches, budgets, strict=True):
        node = child_node_id(parent, branch.name)
        made.append(
            Topic(
                id=child_id(topic.id, branch.index),
                text=branch.name,
                data=DataRef(source=branch.data, name=branch.data_name),
                text_column=text_column(topic, profile),
                label_column=profile.label_column or topic.label_column,
                task=profile.task,
                node=node,
                budget_s=max(1.0, round(budget_s, 3)),
                priority=topic.priority,
                independent=topic.independent,
                on_disconnect=topic.on_disconnect,
                wait_s=topic.wait_s,
                publisher=topic.publisher,
                published_at_ms=topic.published_at_ms,
                base=None if node in champions else flat,
                encoder=topic.encoder,
                parent=topic.id,
                branches=None if topic.branches is None else 1,
            )
        )
    return tuple(made)


def base_of(plan: Planned, profile: Profile) -> BaseModel | None:
    """The flat model as the branch task's plan names it; None when it can not be gone on from."""
    flat = plan.facts.get("flat")
    if not isinstance(flat, dict) or not NAME.match(str(flat.get("model") or "")):
        return None
    settings, size = flat.get("settings"), flat.get("size_bytes")
    try:
        return BaseModel(
            model=str(flat["model"]),
            name=plan.specialization,
            format=ModelFormat.RAMIFY,
            task=profile.task,
            fits=profile.fits,
            labels=profile.labels,
            label_names=profile.label_names[:LABEL_NAMES_MAX],
            settings=settings if isinstance(settings, dict) else {},
            size_bytes=int(size) if isinstance(size, int | float) and math.isfinite(size) else 0,
        )
    except ValueError:  # a digest that is none
        return None
