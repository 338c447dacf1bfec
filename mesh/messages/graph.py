"""The graph of specializations, as it is stored in the mesh."""

from __future__ import annotations

import enum
from typing import ClassVar

from mesh.messages.base import Record, check_name


class NodeState(enum.StrEnum):
    """What a node is to the graph."""

    SEED = "seed"
    """Stands there from the beginning and groups others; nothing is trained for it yet."""
    ACTIVE = "active"
    """A specialization of its own."""
    HYPOTHESIS = "hypothesis"
    """A branch whose specialists have not shown yet that they are worth it."""
    MERGED = "merged"
    """A branch that brought nothing, or a node that a person merged: its parent answers for it."""
    RETIRED = "retired"
    """Given up by a person; its record stays."""


class Specialization(Record, frozen=True, kw_only=True):
    """A node of the graph. One record per node, by compare-and-set."""

    kind: ClassVar[str] = "specialization"

    id: str
    """Slug and six hex digits of the normalised text, task kind and label set; a seed's or a person's own word else."""
    name: str
    parent: str = ""
    """Id of the parent node; empty only at the root."""
    task: str = ""
    """Executor kind that trains it; empty for a node that only groups others."""
    labels: int = 0
    keywords: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    """Ids of the last topics that touched it, newest last, a bounded list."""
    examples: int = 0
    data: str = ""
    """Where its newest dataset is (see DataRef.source): a topic without data under this node uses it."""
    data_name: str = ""
    text_column: str | None = None
    label_column: str | None = None
    why: str = ""
    """Why the node exists: an expansion always says."""
    names: dict[str, str] = {}
    """Its name in other languages, by language code."""
    state: NodeState = NodeState.ACTIVE
    by: str = ""
    """Who made this change: a person, an agent's role, or a topic's id."""
    changed_at_ms: int = 0
    event: str = ""
    """What changed with this record: 'seeded', 'expanded', 'data', 'branched', 'merged', 'retired', 'imported' …"""

    def __post_init__(self) -> None:
        check_name(self.id, "a specialization's id")
        if self.parent:
            check_name(self.parent, "a parent's id")
