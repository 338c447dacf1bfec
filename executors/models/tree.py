"""A tree: specialists under one router that answer as one model. This file is the folder and who is loaded from it.

    config.json      under "ramify": kind "tree", how it mixes, which branches have a specialist, the union of labels
    router/          executors/routing.py: texts to distances from the branch centres
    members/0/ …     the specialist of branch 0, a whole model folder; the flat model answers for branches without one
    flat/            the model of all branches together; may be missing where every branch has a specialist
    README.md        the card

A specialist is any model that executors/models/loading.py opens, a tree as well. What is mixed, and how, stands in
treemixing.py; models that label in treelabels.py, language models in treelanguage.py.

Specialists are loaded when they are first asked, and kept while they have room together (ROOM_BYTES on the disk, what
a quantized one unfolds to counted whole); the one that was asked longest ago goes first. One is always kept. A tree
inside counts as a whole: its own specialists never take more than that.

Not covered: generating text needs its specialists at once, whatever they take together.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from executors.modelfolder import FORMAT
from executors.models import store, treemixing
from executors.models.loading import SCRATCH, Respondent, described, load_model
from executors.models.treemixing import Floats
from executors.routing import BRANCHES_MAX, Router
from mesh.errors import ArtifactCorrupt

KIND = "tree"
MEMBERS, FLAT, ROUTER = "members", "flat", "router"

CENTRES, LIKELIHOOD = "centres", "likelihood"
ROUTINGS = (CENTRES, LIKELIHOOD)

REREAD_MAX = 65_536

ROOM_BYTES = 1024 * 1024 * 1024
"""Of specialists in memory at once. Less loads large ones again for every group of items; more may not be there: who
estimates a task's memory counts all of them, so this bounds trees that are larger than that."""

UNFOLDED = 4
"""A quantized model takes so many times its files when it is loaded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mixing:
    """How a tree mixes. ValueError when it can not be."""

    routing: str = CENTRES
    temperature: float = 0.1
    """Of exp(-squared distance / temperature)."""
    top: int = 2
    """Branches that count at most."""
    flat_share: float = 0.0
    reread: int = 64
    """Language models by centres: tokens after which the router reads the beginning of the text again."""

    def __post_init__(self) -> None:
        if self.routing not in ROUTINGS:
            raise ValueError(f"a tree routes by {' or '.join(ROUTINGS)}, got {self.routing!r}")
        if not (0 < self.temperature < math.inf and 0 <= self.flat_share <= 1):
            raise ValueError(f"temperature is above 0, flat_share 0 to 1, got {self.temperature}, {self.flat_share}")
        if not (1 <= self.top <= BRANCHES_MAX and 1 <= self.reread <= REREAD_MAX):
            raise ValueError(f"top is 1 to {BRANCHES_MAX}, reread 1 to {REREAD_MAX}, got {self.top}, {self.reread}")


class Members:
    """The models of a tree by name ('0', '3', 'flat'), loaded when asked for."""

    def __init__(self, folders: Mapping[str, Path], base: Path | None = None, room_bytes: int = ROOM_BYTES) -> None:
        """base: what those of them that are adapters adapt."""
        self.folders = dict(folders)
        self.loads = 0
        """How often one was read from the disk."""
        self._base, self._room_bytes, self._scratch = base, room_bytes, SCRATCH.get()
        self._device = torch.device("cpu")
        self._loaded: OrderedDict[str, tuple[Respondent, int]] = OrderedDict()

    def open(self, name: str) -> Respondent:
        """The model of that name, where it computes. ModelRefused, ArtifactCorrupt, TaskRefused as of `load_model`."""
        if name not in self._loaded:
            size = taken_bytes(self.folders[name])
            while self._loaded and self.loaded_bytes + size > self._room_bytes:
                self._loaded.popitem(last=False)
            found = load_model(self.folders[name], self._base, self._scratch)
            found.to(self._device)
            self._loaded[name] = (found, size)
            self.loads += 1
        self._loaded.move_to_end(name)
        return self._loaded[name][0]

    @property
    def loaded_bytes(self) -> int:
        """What those in memory count."""
        return sum(size for _, size in self._loaded.values())

    def place(self, device: torch.device) -> None:
        """Where they compute from now on."""
        self._device = device
        for found, _ in self._loaded.values():
            found.to(device)


def taken_bytes(folder: Path) -> int:
    """What a model in memory counts."""
    return store.size_bytes(folder) * (UNFOLDED if described(folder).get("kind") == "quantize" else 1)


@dataclasses.dataclass(slots=True)
class Tree:
    """An opened tree."""

    router: Router
    members: Members
    branches: tuple[int, ...]
    """Those that have a specialist, ascending."""
    mixing: Mixing
    labels: tuple[str, ...] = ()
    """That any of its models knows; none of language models."""
    modality: str = "text"

    @property
    def has_flat(self) -> bool:
        """Is there a model of all branches?"""
        return FLAT in self.members.folders

    @property
    def flat_share(self) -> float | None:
        """As treemixing.py wants it."""
        return self.mixing.flat_share if self.has_flat else None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its models in the order of shares."""
        return (*map(str, self.branches), *((FLAT,) if self.has_flat else ()))

    @property
    def prior(self) -> Floats:
        """[k], how much each branch counts before anything is known: its share of the training texts."""
        return prior_of(self.router)

    def shares(self, texts: Sequence[str]) -> Floats:
        """[n, m]: how much each of its models counts for each text."""
        weights = self.router.weights(texts, self.mixing.temperature, self.mixing.top).astype(np.float64)
        return treemixing.shares_of(weights, self.branches, self.flat_share)

    def name(self, column: int) -> str:
        """What people call the model of a column."""
        name = self.columns[column]
        return name if name == FLAT else names_of(self.router)[int(name)]


def prior_of(router: Router) -> Floats:
    """[k], sums to 1."""
    shares = np.array(router.card.shares or [1.0] * router.k, np.float64) + 1e-12
    return shares / shares.sum()


def names_of(router: Router) -> list[str]:
    """What people call its branches; their numbers where it does not say."""
    return [str(name) for name in router.card.names] or [str(number) for number in range(router.k)]


# -- reading ----------------------------------------------------------------------------------------------------------


def opened(folder: Path, base: Path | None = None, room_bytes: int = ROOM_BYTES) -> Tree:
    """The tree in `folder`. ArtifactCorrupt when its description, its router and its folders do not fit together."""
    ramify = described(folder)
    try:
        if ramify["format"] != FORMAT:
            raise ValueError(f"models of format {FORMAT} are read here, got {str(ramify['format'])[:20]}")
        branches = tuple(int(branch) for branch in ramify["members"])
        labels = tuple(str(label) for label in ramify.get("labels") or ())
        mixing = Mixing(**{field.name: ramify[field.name] for field in dataclasses.fields(Mixing)})
        count, has_flat, modality = int(ramify["branches"]), bool(ramify["flat"]), str(ramify["modality"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"the tree's config is incomplete: {type(error).__name__} {str(error)[:160]}") from None
    router = Router.load(folder / ROUTER)
    fits = router.k == count and list(branches) == sorted(set(branches)) and all(0 <= one < count for one in branches)
    whole = branches and (has_flat or len(branches) == count)
    if not fits or not whole or len(set(labels)) != len(labels):
        raise ArtifactCorrupt(
            f"the tree says {count} branches, specialists of {len(branches)} and {'a' if has_flat else 'no'} flat "
            f"model; its router knows {router.k} branches: they do not fit together"
        )
    places = {str(branch): folder / MEMBERS / str(branch) for branch in branches}
    if has_flat:
        places[FLAT] = folder / FLAT
    lacking = sorted(name for name, place in places.items() if not place.is_dir())
    if lacking:
        raise ArtifactCorrupt(f"the tree's config names the model {lacking[0]!r}, whose folder is not there")
    return Tree(router, Members(places, base, room_bytes), branches, mixing, labels, modality)


def config_of(tree: Tree, facts: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a tree. facts: how it was made, for its "ramify" part."""
    inner = {
        "format": FORMAT, "kind": KIND, "architecture": KIND, "modality": tree.modality, "labels": list(tree.labels),
        **dataclasses.asdict(tree.mixing), "branches": tree.router.k, "names": names_of(tree.router),
        "members": list(tree.branches), "flat": tree.has_flat, **facts,
    }  # fmt: skip
    naming = {} if not tree.labels else {
        "num_labels": len(tree.labels),
        "id2label": {str(number): label for number, label in enumerate(tree.labels)},
        "label2id": {label: number for number, label in enumerate(tree.labels)},
    }  # fmt: skip
    return {"model_type": "ramify-tree", **naming, "ramify": inner}


def config_text(tree: Tree, facts: Mapping[str, Any]) -> str:
    """The same as a file has it."""
    return json.dumps(config_of(tree, facts), indent=1, ensure_ascii=False) + "\n"
