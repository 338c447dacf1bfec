"""Branch: can this topic's texts be divided so that specialists help, and how?

In:    `data`: the topic's source, as `profile` reads it; `router` (may be left out): of an earlier division
Out:   `router` (executors/routing.py), and `branch-0`, `branch-1` … : a dataset of each branch's examples of all
splits.
       None of both when the topic stays whole
How:   executors/branching/: TF-IDF, truncated SVD and balanced k-means on training texts; 2, 3, 4, 6, 8 … branches are
       tried, and judged by cheap models on validation. With a router: the same branches again while it still fits
Says:  `branches`, `sizes`, `names`, `keywords`, `files`, `helps` (with an interval), `why` (one sentence), `drift`,
       `losses` (of the flat stand-in on each branch)
Loses: nothing: it keeps no checkpoint and starts over; the same data, settings and seed give the same bytes
Not:   trains no specialist, promotes nothing: a branch is a hypothesis until the gate has judged its tree. Tables of
       numbers stay whole
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh import limits as caps
from mesh.errors import TaskRefused
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.branching.finding import Division, Found, Limits, Reported
    from executors.branching.material import Material

MIB = 1024 * 1024

CORPUS = "language-model"
"""The task whose data are documents without labels."""

DEFAULT_SALT = "ramify"
"""As the kind `profile` has it: the same salt, the same splits."""


class BranchSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user said about the data, as the profile got it; and how to divide it."""

    name: str = ""
    """The file's own name: its suffix tells the format."""
    text_column: str = ""
    """One column, or several with commas between them."""
    label_column: str = ""
    task: str = ""
    """'classify' or 'language-model'; '' to find out."""
    salt: str = DEFAULT_SALT
    """That of the topic's profile: it decides the split of an example."""
    branches: int = 0
    """How many; 0: as many as help, 1: none."""
    branches_max: int = 8
    """Tried at most."""
    examples_per_branch: int = 1_000
    """On average, over all splits: fewer are not tried. Of documents 400 do, if they have a million bytes."""
    terms_max: int = 20_000
    """Words of the vocabulary, the most frequent."""
    dims: int = 0
    """Directions of the truncated SVD; 0: 50, from 10,000 training texts on 100."""
    lead_bytes: int = 288
    """Of a document: what the router sees of it."""
    temperature: float = 0.1
    """Written into the router: how sharply it decides."""
    top: int = 2
    """Written into the router: branches that answer together."""
    seed: int = 0
    """Not the task's: the same data lead to the same branches, whoever asks and whenever."""

    def __post_init__(self) -> None:
        for name, low, high in BOUNDS:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low:g} to {high:g}, got {getattr(self, name)}")
        if not self.salt or len(self.salt) > 100:
            raise ValueError("a salt has 1 to 100 characters")


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("branches", 0, caps.BRANCHES_MAX),
    ("branches_max", 2, caps.BRANCHES_MAX),
    ("examples_per_branch", 40, 10_000_000),
    ("terms_max", 100, 500_000),
    ("dims", 0, 1_000),
    ("lead_bytes", 1, 1_000_000),
    ("temperature", 1e-6, 1e6),
    ("top", 1, caps.BRANCHES_MAX),
    ("seed", 0, 2**63 - 1),
)
"""Setting, least, most."""


class Branch:
    """The kind `branch`."""

    name: ClassVar[str] = "branch"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.SCIENCE
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("data",), ("router",))
    Settings: ClassVar[type[port.Settings]] = BranchSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for the libraries, the texts (as a table and as Python's), their words' numbers, the places
        of all texts, the directions while they are found, and the proxies' samples. facts: `bytes`, `examples`."""
        size = int(facts.get("bytes") or MIB)
        rows = int(facts.get("examples") or facts.get("rows") or size // 200)
        dims = settings.dims or 100
        vectors = 4 * rows * dims * 2 + 8 * min(rows, 100_000) * dims * 3 + 8 * settings.terms_max * dims * 4
        memory = 450 * MIB + 9 * size + 300 * rows + vectors
        return Needs(cores=1.0, memory_bytes=memory, disk_bytes=64 * MIB + 2 * size + 4 * settings.terms_max * dims)

    def run(self, job: Job, context: Context) -> Made:
        """Read, find, write. DataRefused with one sentence when the data can not be used."""
        from executors.branching import finding

        settings: BranchSettings = job.settings
        if "data" not in job.inputs:
            raise TaskRefused("a branch task needs the input 'data': a file, a folder, or builtin:NAME")
        reported = _reporter(context)
        material = _material(job, settings, reported)
        limits = _limits(settings)
        again = _again(job, material, limits, reported)
        if again is not None and again.found is not None:
            return _deliver(job, context, material, again.found, again.drift)
        found = finding.find(material, limits, reported)
        if again is not None:
            found = dataclasses.replace(found, why=f"{found.why}; divided anew, because {again.why}")
        return _deliver(job, context, material, found, again.drift if again is not None else {})


@dataclasses.dataclass(frozen=True, slots=True)
class _Again:
    """What became of an earlier division."""

    found: Found | None
    """None: it does not fit."""
    drift: dict[str, Any]
    why: str


def _reporter(context: Context) -> Reported:
    """Progress of the whole; stops when asked to."""
    step = 0

    def reported(phase: str, share: float) -> None:
        nonlocal step
        if reason := context.stop_requested():
            raise Stopped(reason)
        step += 1
        context.progress(step, share, {}, phase)

    return reported


def _limits(settings: BranchSettings) -> Limits:
    from executors.branching.finding import Limits

    return Limits(
        settings.branches, settings.branches_max, settings.examples_per_branch, settings.terms_max, settings.dims,
        settings.lead_bytes, settings.temperature, settings.top, settings.seed,
    )  # fmt: skip


def _material(job: Job, settings: BranchSettings, reported: Reported) -> Material:
    """The examples, as the kind `profile` takes them."""
    from executors.branching import material
    from executors.datasets import documents

    def reading(share: float) -> None:
        reported("reading", 0.15 * share)

    source = job.inputs["data"]
    unsaid = not (settings.task or settings.label_column)
    if settings.task == CORPUS or (unsaid and documents.fits(source, settings.name)):
        found = documents.read(source, settings.name, settings.salt, reading, column=settings.text_column)
        return material.Corpus(found)
    return material.read_labelled(
        source, settings.name, settings.text_column, settings.label_column, settings.task, settings.salt, reading
    )


def _again(job: Job, material: Material, limits: Limits, reported: Reported) -> _Again | None:
    """The earlier division of the input `router`, if it still fits; None without one."""
    import numpy as np

    from executors.branching import drift, finding
    from executors.branching.choosing import Trial, told
    from executors.branching.proxies import losses_by
    from executors.datasets import splits
    from executors.routing import Router

    if "router" not in job.inputs:
        return None
    router = Router.load(job.inputs["router"])
    if limits.branches and limits.branches != router.k:
        return _Again(None, {}, f"{limits.branches} branches are asked for and the earlier router has {router.k}")
    if router.card.modality != material.modality:
        return _Again(None, {}, f"the earlier router is one of {router.card.modality}, the data is {material.modality}")
    placed = router.embed(material.texts, lambda: reported("placing", 0.3))
    rows = np.flatnonzero(material.split == splits.TRAIN)
    moved = drift.measured(router, [material.texts[row] for row in rows.tolist()], placed[rows])
    if moved.advised:
        return _Again(None, moved.facts(), moved.sentence)
    branch, settled = finding.assigned(material, router, placed)
    if fault := material.fault(branch, router.k):
        return _Again(None, moved.facts(), fault)
    lead = router.embed([router.lead(text) for text in material.texts]) if router.card.lead_bytes else placed
    routed = branch if lead is placed else router.nearest_at(lead)
    proxy = material.proxy(router.card.lead_bytes, limits.seed, lambda: reported("trying", 0.6))
    wanted = dataclasses.replace(limits, branches=router.k)
    flat = proxy.flat()
    trial: Trial = finding.trial_of(material, router, branch, routed, proxy, flat, wanted)
    assert trial.measured is not None
    why = f"{router.k} branches as before: {moved.sentence}; {told(trial.measured, proxy.metric)}"
    division = finding.Division(router, branch, settled)
    losses = losses_by(proxy, flat, branch, router.k)
    return _Again(finding.Found(division, (trial,), trial, proxy.metric, why, losses), moved.facts(), "")


def _deliver(job: Job, context: Context, material: Material, found: Found, drift: dict[str, Any]) -> Made:
    import numpy as np

    from executors import room

    facts: dict[str, Any] = {
        "modality": material.modality,
        "examples": len(material.texts),
        "branches": found.division.router.k if found.division else 1,
        "why": found.why,
        "helps": _helps(found),
        "tried": [trial.facts() for trial in found.trials],
        "drift": drift,
        "reused": found.division is not None and bool(drift) and not drift.get("advised"),
        **material.columns(),
    }
    if found.division is None:
        return Made(kpis={"branches": 1.0, "examples": float(len(material.texts))}, facts=facts)
    division = found.division
    outputs: dict[str, Path] = {"router": room.written(context, job.scratch / "router", division.router.save)}
    media, facts_of = {"router": "router"}, {"router": {"k": division.router.k, "modality": material.modality}}
    for index in range(division.router.k):
        rows = np.flatnonzero(division.branch == index)
        place = job.scratch / f"branch-{index}.parquet"
        outputs[f"branch-{index}"] = room.written(context, place, functools.partial(material.write, rows))
        media[f"branch-{index}"] = "dataset"
    facts |= _told(material, division) | _losses(found)
    kpis = {"branches": float(division.router.k), "examples": float(len(material.texts))}
    return Made(outputs=outputs, media=media, facts_of=facts_of, kpis=kpis, facts=facts)


def _helps(found: Found) -> dict[str, Any]:
    """Numbers of the division that was taken, else of the best one."""
    measured = [trial for trial in found.trials if trial.measured is not None]
    best = found.taken or max(
        measured, key=lambda trial: trial.measured.effect if trial.measured else 0.0, default=None
    )
    if best is None or best.measured is None:
        return {}
    return {"metric": found.metric, "passes": best.passes, "confidence": 0.95, **best.facts()}


def _losses(found: Found) -> dict[str, Any]:
    """How hard each branch is for one model of all: the flat stand-in's mean loss there, in the order of branches."""
    if not any(loss is not None for loss in found.losses):
        return {}
    return {"losses": [None if loss is None else round(loss, 6) for loss in found.losses]}


def _told(material: Material, division: Division) -> dict[str, Any]:
    """What is known of the branches."""
    import numpy as np

    from executors.datasets import splits

    router, k = division.router, division.router.k
    return {
        "sizes": np.bincount(division.branch, minlength=k).tolist(),
        "splits": {
            name: np.bincount(division.branch[material.split == side], minlength=k).tolist()
            for side, name in enumerate(splits.SPLITS)
        },
        "names": list(router.card.names),
        "keywords": [list(words) for words in router.card.keywords],
        "files": [f"branch-{index}.parquet" for index in range(k)],
        "settled": division.settled,
        "dims": router.card.dims,
        "terms": router.card.terms,
        "entropy": round(router.card.fitted.entropy, 6),
        "lead_bytes": router.card.lead_bytes,
    }
