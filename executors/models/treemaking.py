"""One task of the kind `tree`, from its inputs to its outputs.

    router, members, flat ── do they belong together? ── each asked once on validation ── every way tried ── the best
                                                                                              │
    model: links to the inputs' files, config.json, card <── facts: its numbers ────────────────┘
      └── loaded as anybody loads it, asked as `evaluate` asks ── claims

The tree may be worse than the flat model on validation: then facts, card and log say so in a sentence, and it is handed
over all the same; promotion is for those who compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from executors import device as devices
from executors import outcomes, room
from executors.data import digest_of
from executors.device import Device
from executors.models import store, treecounting, treewriting
from executors.models.foretelling import foreteller_of
from executors.models.loading import SplitRespondent, load_model
from executors.models.tree import FLAT, KIND, Members, Tree, names_of
from executors.models.treechoosing import Worths, grid
from executors.models.treecounting import Counted
from executors.models.treelabels import labelling_of
from executors.models.treelanguage import member_foreteller
from executors.port import Context, Job, Made, Stopped
from executors.routing import Router
from mesh.errors import ModelRefused, TaskRefused

MEMBER = re.compile(r"member-(0|[1-9][0-9]{0,3})")
"""Name of an input that is a specialist."""

Tick = Callable[[], None]


def make(job: Job, context: Context) -> Made:
    """Make the tree as the job says. TaskRefused or ModelRefused when its parts do not belong together."""

    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped while the tree was made as asked: {why}")
        context.progress(0, 0.5, {}, "mixing")

    place = devices.choose(job.allotment)
    with devices.memory_translated("making the tree"):
        tree, items = _opened(job, place)
        counted = _counted(job, tree, items, place, tick)
        way = counted.worths.chosen()
        tree.mixing = counted.worths.ways[way]
        facts = _facts(job, tree, counted, way)
        folder = room.written(
            context, job.scratch / "model", lambda target: treewriting.write(target, tree, _folders(job), facts)
        )
        made = load_model(folder, _base(job), job.scratch)
        made.to(place.torch)
        claims = made.outcomes(items, place.torch, tick)
        kpis = {f"validation_{name}": value for name, value in made.kpis(claims).items()}
    if "warning" in facts:
        context.log(facts["warning"])
    kpis |= {f"apart_{name}": value for name, value in facts["apart"].items()}
    kpis |= {
        "members": float(len(tree.branches)),
        "entropy": facts["entropy"],
        "size_bytes": float(store.size_bytes(folder)),
    }
    kpis |= {"gain": facts["gain"]} if "gain" in facts else {}
    treewriting.write_card(folder, tree, facts, kpis)
    claimed = room.written(context, job.scratch / "claims", lambda target: outcomes.write(claims, target))
    return Made(
        outputs={"model": folder, "claims": claimed},
        media={"model": "model", "claims": "outcomes"},
        facts_of={"model": {"kind": KIND, "architecture": KIND}},
        kpis=kpis,
        facts={**facts, "device": place.name, "precision": place.precision, "reason": place.reason},
    )


# -- what it is made of -----------------------------------------------------------------------------------------------


def _base(job: Job) -> Path | None:
    return Path(job.inputs["base"]) if "base" in job.inputs else None


def _folders(job: Job) -> dict[str, Path]:
    """Folders by the names that a tree gives them."""
    numbered = {match[1]: Path(path) for name, path in job.inputs.items() if (match := MEMBER.fullmatch(name))}
    found = {number: numbered[number] for number in sorted(numbered, key=int)}
    return {**found, "router": Path(job.inputs["router"])} | (
        {FLAT: Path(job.inputs[FLAT])} if FLAT in job.inputs else {}
    )


def _opened(job: Job, place: Device) -> tuple[Tree, Any]:
    """(the tree, not yet told how to mix; the validation items), checked among each other."""
    router = Router.load(job.inputs["router"])
    folders = _folders(job)
    del folders["router"]
    branches = tuple(int(name) for name in folders if name != FLAT)
    if not branches:
        raise TaskRefused("a tree has one specialist at least: give it as the input member-0, member-1 …")
    if max(branches) >= router.k:
        raise TaskRefused(
            f"the router knows {router.k} branches, 0 to {router.k - 1}, and member-{max(branches)} is given"
        )
    if FLAT not in folders and len(branches) < router.k:
        raise TaskRefused(
            f"{router.k - len(branches)} of the router's {router.k} branches have no specialist: give them theirs, or "
            "the model that answers there as the input 'flat'"
        )
    members = Members(folders, _base(job))
    members.place(place.torch)
    first = members.open(next(iter(folders)))
    items = first.read(Path(job.inputs["validation"]))
    first.check(items)
    tree = Tree(router, members, branches, treecounting.PLAIN)
    if isinstance(first, SplitRespondent):
        _check_labels(tree)
        if tree.modality != "text":
            raise TaskRefused(
                f"a router reads texts, and the specialists read {tree.modality} data: no tree can be made"
            )
    else:
        _check_tokenizers(tree)
    return tree, items


def _check_labels(tree: Tree) -> None:
    """All of its models label the same kind of data; the union of what they know, the flat model's labels first."""
    known: list[str] = []
    modalities = {}
    for name in reversed(tree.columns):
        model = labelling_of(tree.members, name)
        known += model.labels
        modalities[model.modality] = name
    if len(modalities) > 1:
        raise TaskRefused(
            f"the specialists read different data ({', '.join(sorted(modalities))}): they can not be mixed"
        )
    tree.labels, (tree.modality,) = tuple(dict.fromkeys(known)), modalities


def _check_tokenizers(tree: Tree) -> None:
    """All of its models cut texts alike."""
    vocabulary = None
    for name in tree.columns:
        found = tree.members.open(name)
        if isinstance(found, SplitRespondent):
            raise ModelRefused(
                f"the tree's model {name!r} names labels, and others foretell text: they can not be mixed"
            )
        vocabulary = vocabulary or foreteller_of(found, name).vocabulary
        member_foreteller(tree.members, name, vocabulary)


def _counted(job: Job, tree: Tree, items: Any, place: Device, tick: Tick) -> Counted:
    """Every model asked once, every way of the grid tried."""
    settings = job.settings
    is_text = not tree.labels
    reread = settings.reread
    ways = grid(
        settings.temperatures, settings.tops, settings.flat_shares, settings.routings if is_text else ("centres",),
        tree.router.k, tree.has_flat, reread,
    )  # fmt: skip
    if not ways:
        raise TaskRefused("models that label are routed by centres: 'routings' has to name it")
    count = treecounting.of_documents if is_text else treecounting.of_examples
    return count(tree, items, ways, place.torch, tick)


# -- what is told -----------------------------------------------------------------------------------------------------


def _facts(job: Job, tree: Tree, counted: Counted, way: int) -> dict[str, Any]:
    """Choices, branches, and whether it is better than the flat model."""
    worths, mixing = counted.worths, counted.worths.ways[way]
    names, digests = names_of(tree.router), {name: digest_of(folder) for name, folder in _folders(job).items()}
    apart = worths.apart(counted.ids)
    facts: dict[str, Any] = {
        "routing": mixing.routing, "temperature": mixing.temperature, "top": mixing.top,
        "flat_share": mixing.flat_share, "branches": tree.router.k, "names": [name[:80] for name in names],
        "items": len(counted.ids),
        "tree": worths.on(way), "apart": apart, "entropy": float(counted.entropy(tree, mixing).mean()),
        "by_branch": _by_branch(tree, counted, way, names),
        "choices": [_choice(worths, number) for number in range(len(worths.ways))],
        "models": digests, "flat": digests.get(FLAT, ""),
    }  # fmt: skip
    if not tree.has_flat:
        return facts
    flat = counted.alone(len(tree.columns) - 1)
    measure = "accuracy" if "accuracy" in flat else "loss"
    gain = (apart[measure] - flat[measure]) * (1 if measure == "accuracy" else -1)
    facts |= {"flat_alone": flat, "measure": measure, "gain": gain, "better": gain > 0}
    if gain <= 0:
        facts["warning"] = (
            f"the tree is {'worse than' if gain < 0 else 'no better than'} the flat model on validation "
            f"({measure} {apart[measure]:.4g} against {flat[measure]:.4g}, items judged by what others chose)"
        )
    return facts


def _choice(worths: Worths, way: int) -> dict[str, Any]:
    mixing = worths.ways[way]
    told = {"routing": mixing.routing, "flat_share": mixing.flat_share}
    if mixing.routing == "centres":
        told |= {"temperature": mixing.temperature, "top": mixing.top}
    return {**told, **{name: round(value, 6) for name, value in worths.on(way).items()}}


def _by_branch(tree: Tree, counted: Counted, way: int, names: list[str]) -> list[dict[str, Any]]:
    """Of each branch the items whose nearest centre it is, and what its specialist, the flat model and the tree are
    worth there."""
    found = []
    for branch in range(tree.router.k):
        rows = np.flatnonzero(counted.nearest == branch)
        told: dict[str, Any] = {"branch": branch, "name": names[branch][:80], "items": len(rows)}
        if len(rows):
            told["tree"] = counted.worths.on(way, rows)
            if branch in tree.branches:
                told["specialist"] = counted.alone(tree.branches.index(branch), rows)
            if tree.has_flat:
                told["flat"] = counted.alone(len(tree.columns) - 1, rows)
        found.append(told)
    return found
