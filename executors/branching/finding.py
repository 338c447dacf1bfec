"""The way from a topic's texts to a division: fit, try, choose. Fitted on training texts only.

    training texts ── words, TF-IDF, SVD ──> a space in which every text has its place (Space)
    places of training texts ── balanced k-means, for each k ──> centres ── nearest, settled ──> a division
    division ── faults, proxies on validation ──> a trial: executors/branching/choosing.py takes one
    taken division ── names, shares, what was seen ──> the router

Rows of validation, holdout and audit are placed and assigned, and nothing is fitted on them; of validation alone the
proxies ask how well it is answered. Promises: the same material, settings and seed give the same division.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executors.branching import choosing, clusters, counting, drift, naming, projecting, proxies
from executors.branching.counting import Counts, Weighing
from executors.branching.material import Material
from executors.branching.words import STOP_WORDS
from executors.datasets import splits
from executors.routing import Floats, Ints, Router, card_of

FIT_MAX = 100_000
"""Training texts that vocabulary, directions and centres are fitted on, evenly spread; others are placed by them."""

LEAD_SHARE = 4
"""A document's beginning, by which it is routed, is at most so small a part of the median one."""

Reported = Callable[[str, float], None]
"""Called with (phase, share of the whole); may raise to stop."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What is looked for."""

    branches: int = 0
    """How many are wanted; 0: as many as help."""
    branches_max: int = 8
    per_branch: int = 1_000
    """Examples for a branch, on average."""
    terms_max: int = 20_000
    dims: int = 0
    """0: by the number of texts."""
    lead_bytes: int = 288
    """Of a document."""
    temperature: float = 0.1
    top: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """Where the texts are."""

    weighing: Weighing
    counts: Counts
    """Of the texts that it was fitted on."""
    fitted_on: Ints
    """Their rows."""
    components: Floats
    placed: Floats
    """[n, dims], of all texts."""
    lead_placed: Floats
    """[n, dims], of what is known of them when they are routed; the same object where that is all of a text."""
    lead_bytes: int

    def router(self, centres: Floats, **more: Any) -> Router:
        """A router of these centres. more: fields of its card."""
        card = card_of(self.weighing.terms, centres, lead_bytes=self.lead_bytes, **more)
        return Router(card, self.weighing.terms, self.weighing.idf, self.components, centres)


@dataclasses.dataclass(frozen=True, slots=True)
class Division:
    """A router and the branch of every example."""

    router: Router
    branch: Ints
    settled: int
    """Examples that went to another branch than the nearest, because theirs knows no such label."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What came out."""

    division: Division | None
    """None: the topic stays whole."""
    trials: tuple[choosing.Trial, ...]
    taken: choosing.Trial | None
    metric: str
    why: str
    losses: tuple[float | None, ...] = ()
    """Of the flat stand-in on each branch of the division, None where it has no validation item."""


def find(material: Material, limits: Limits, reported: Reported) -> Found:
    """The division that helps, or none and why. DataRefused when the texts share next to no words."""
    if material.size_bytes:
        fewer = min(limits.per_branch, choosing.DOCUMENTS_PER_BRANCH)
        limits = dataclasses.replace(limits, per_branch=fewer)
    train = np.flatnonzero(material.split == splits.TRAIN)
    wanted, why_few = _wanted(material, limits)
    if not wanted:
        return Found(None, (), None, "", why_few)
    space = space_of(material, train, limits, reported)
    proxy = material.proxy(space.lead_bytes, limits.seed, lambda: reported("trying", 0.4))
    flat = proxy.flat()
    trials: list[choosing.Trial] = []
    divisions: dict[int, Division] = {}
    for number, k in enumerate(wanted):
        reported("trying", 0.4 + 0.5 * number / len(wanted))
        trial, division = _tried(material, space, proxy, flat, k, limits, reported)
        trials.append(trial)
        if division is not None:
            divisions[k] = division
    taken = _taken(trials, limits)
    if taken is None:
        return Found(None, tuple(trials), None, proxy.metric, choosing.sentence(trials, None, proxy.metric))
    if limits.branches and taken.measured is not None:
        why = f"{taken.k} branches, as many as were asked for: {choosing.told(taken.measured, proxy.metric)}"
    else:
        why = choosing.sentence(trials, taken, proxy.metric)
    reported("naming", 0.9)
    division = _finished(material, space, divisions[taken.k], limits)
    losses = proxies.losses_by(proxy, flat, division.branch, taken.k)
    return Found(division, tuple(trials), taken, proxy.metric, why, losses)


def space_of(material: Material, train: Ints, limits: Limits, reported: Reported) -> Space:
    """Vocabulary and directions of the training texts, and the place of every text."""

    def tick() -> None:
        reported("placing", 0.2)

    rows = proxies.sampled(train, FIT_MAX)
    counts = counting.count([material.texts[row] for row in rows.tolist()], tick=tick)
    weighing = counting.weighing(counts, terms_max=limits.terms_max)
    tf_idf = weighing.tf_idf(counts)
    dims = projecting.dims_for(len(rows), len(weighing.terms), limits.dims)
    components = projecting.components_of(tf_idf, dims, limits.seed)
    bare = Router(
        card_of(weighing.terms, np.zeros((1, dims), np.float32), lead_bytes=_lead_bytes(material, limits)),
        weighing.terms, weighing.idf, components, np.zeros((1, dims), np.float32),
    )  # fmt: skip
    placed = bare.embed(material.texts, tick)
    lead = bare.card.lead_bytes
    lead_placed = bare.embed([bare.lead(text) for text in material.texts], tick) if lead else placed
    return Space(weighing, counts, rows, components, placed, lead_placed, lead)


def assigned(material: Material, router: Router, placed: Floats) -> tuple[Ints, int]:
    """(the branch of every example, how many of them are not in the nearest one)."""
    nearest = router.nearest_at(placed)
    settled = material.settle(nearest, router.distances(placed))
    return settled, int((settled != nearest).sum())


def trial_of(
    material: Material, router: Router, branch: Ints, routed: Ints, proxy: proxies.Proxy, flat: proxies.Values,
    limits: Limits,
) -> choosing.Trial:  # fmt: skip
    """What a division is worth. routed: the branch of each text by what is known when it is routed."""
    k = router.k
    sizes = np.bincount(branch, minlength=k)
    if not limits.branches and sizes.min() * choosing.LEAST_SHARE < limits.per_branch:
        few = f"of {k} branches one has {int(sizes.min()):,} examples, fewer than {limits.per_branch // 4:,}"
        return choosing.Trial(k, None, few)
    if fault := material.fault(branch, k):
        return choosing.Trial(k, None, fault)
    return choosing.Trial(k, proxies.measured(proxy, branch, routed, k, limits.seed, flat))


def _tried(
    material: Material, space: Space, proxy: proxies.Proxy, flat: proxies.Values, k: int, limits: Limits,
    reported: Reported,
) -> tuple[choosing.Trial, Division | None]:  # fmt: skip
    somewhere = space.fitted_on[space.placed[space.fitted_on].any(axis=1)]
    if len(somewhere) < 2 * k:
        return choosing.Trial(k, None, f"{len(somewhere)} training texts have a known word, too few to divide"), None
    vectors = space.placed[somewhere]
    centres = clusters.fit(vectors, k, limits.seed, lambda: reported("dividing", 0.4))
    near = clusters.squared_distances(vectors.astype(np.float64), centres.astype(np.float64)).argmin(axis=1)
    shares = np.bincount(near, minlength=k) / len(near)
    router = space.router(
        centres, shares=tuple(float(share) for share in shares), modality=material.modality,
        temperature=limits.temperature, top=min(limits.top, k),
    )  # fmt: skip
    branch, moved = assigned(material, router, space.placed)
    routed = branch if space.lead_placed is space.placed else router.nearest_at(space.lead_placed)
    return trial_of(material, router, branch, routed, proxy, flat, limits), Division(router, branch, moved)


def _finished(material: Material, space: Space, division: Division, limits: Limits) -> Division:
    """With names, keywords and what was seen."""
    router = division.router
    usable: NDArray[np.bool_] = np.isin(np.array(space.counts.terms), np.array(space.weighing.terms))
    usable &= np.array([term not in STOP_WORDS for term in space.counts.terms], np.bool_)
    words = naming.keywords(space.counts, division.branch[space.fitted_on], router.k, usable)
    named = naming.names(words)
    validation = np.flatnonzero(material.split == splits.VALIDATION)
    seen = drift.seen(
        router, [material.texts[row] for row in validation.tolist()], space.placed[validation], len(space.fitted_on)
    )
    card = card_of(
        router.vocabulary, router.centres, names=named, keywords=words, fitted=seen, lead_bytes=space.lead_bytes,
        shares=router.card.shares, modality=material.modality, temperature=router.card.temperature,
        top=router.card.top,
    )  # fmt: skip
    return dataclasses.replace(division, router=dataclasses.replace(router, card=card))


def _wanted(material: Material, limits: Limits) -> tuple[tuple[int, ...], str]:
    """(numbers of branches to try, why there are none)."""
    if limits.branches == 1:
        return (), "it stays whole, as was asked for"
    if limits.branches:
        return (limits.branches,), ""
    examples = len(material.texts)
    found = choosing.candidates(examples, limits.per_branch, limits.branches_max, material.size_bytes)
    if found:
        return found, ""
    if material.size_bytes and examples >= 2 * limits.per_branch:
        need = 2 * choosing.BYTES_PER_BRANCH
        return (), f"{material.size_bytes:,} bytes of documents are too few for two branches, which need {need:,}"
    return (), f"{examples:,} examples are too few for two branches, which need {2 * limits.per_branch:,}"


def _taken(trials: list[choosing.Trial], limits: Limits) -> choosing.Trial | None:
    if limits.branches:
        return next((trial for trial in trials if trial.measured is not None), None)
    return choosing.chosen(trials)


def _lead_bytes(material: Material, limits: Limits) -> int:
    """Of documents: what is wanted, at most a part of the median document; of labelled texts 0, all of it."""
    if material.modality != "corpus":
        return 0
    lengths = [len(text) for text in material.texts]
    return max(1, min(limits.lead_bytes, int(np.median(lengths)) // LEAD_SHARE))
