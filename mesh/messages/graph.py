"""The graph of specializations, as it is stored in the mesh."""

from __future__ import annotations

from typing import ClassVar

from mesh.messages.base import Record, check_name


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

    def __post_init__(self) -> None:
        check_name(self.id, "a specialization's id")
        if self.parent:
            check_name(self.parent, "a parent's id")
