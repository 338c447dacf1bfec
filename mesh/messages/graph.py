"""The graph of specializations, as it is stored in the mesh: one record per node, each stored value one event.

A node's newest value says what it is, and what made it so: `event` (what changed), `by` (who), `changed_at_ms` (when),
`reason` (why). Its earlier values are its history, at most `limits.KEY_HISTORY_MAX` of them.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from mesh.messages.base import Record, check_name

ROOT = "root"
"""Id of the node above all others: the only one without a parent."""


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
    PROPOSED = "proposed"
    """What a topic without data would need: nothing hangs below it and nothing is trained for it until data comes."""


OVER = (NodeState.MERGED, NodeState.RETIRED)
"""States of nodes that are history: no topic is placed there, and nothing that lives hangs below them."""


class NodeEvent(enum.StrEnum):
    """What changed with a stored value of a node."""

    SEEDED = "seeded"
    """Written with the seeds."""
    EXPANDED = "expanded"
    """Made by a person, or by a topic that found no node of its own."""
    DATA = "data"
    """A later topic brought data, or touched it again."""
    PROPOSED = "proposed"
    """Proposed for a topic without data."""
    BRANCHED = "branched"
    """Made as a branch of its parent."""
    ACCEPTED = "accepted"
    """A branch that proved itself."""
    MERGED = "merged"
    """Merged into another node, or took one in."""
    RETIRED = "retired"
    RENAMED = "renamed"
    """Another name, or other keywords."""
    MOVED = "moved"
    """Another parent."""
    REVIVED = "revived"
    """Retired or merged before, and in use again."""
    IMPORTED = "imported"


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
    """What changed with this value: one of `NodeEvent`; a reader takes others as they are."""
    reason: str = ""
    """Why it changed."""
    into: str = ""
    """Of a merged node: the node that answers for it now."""

    @property
    def is_over(self) -> bool:
        """Merged or retired: history, and no place for a topic."""
        return self.state in OVER

    def __post_init__(self) -> None:
        check_name(self.id, "a specialization's id")
        if self.parent:
            check_name(self.parent, "a parent's id")
