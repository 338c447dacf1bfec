"""What a user publishes: a topic, with data, wishes and limits."""

from __future__ import annotations

import enum
from typing import ClassVar

from mesh import limits
from mesh.messages.base import Part, Record, check_name, check_text
from mesh.messages.models import BaseModel
from mesh.messages.tasks import OnDisconnect


class Independent(enum.StrEnum):
    """Whether the check of a candidate must run on another incarnation than the one that trained it."""

    PREFER = "prefer"
    REQUIRE = "require"


class DataRef(Part, frozen=True, kw_only=True):
    """Where the dataset is: an artifact's digest, or a scheme every worker can resolve."""

    source: str
    """64 hex digits of an artifact, or `builtin:NAME`."""
    name: str = ""
    """The file's or folder's own name, for people and for the format's suffix."""
    size_bytes: int = 0


class Kpi(Part, frozen=True, kw_only=True):
    """One condition of the quality gate that a topic adds: `metric` at least / at most `bound`."""

    metric: str
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if (self.minimum is None) == (self.maximum is None):
            raise ValueError(f"a KPI has a minimum or a maximum, and {self.metric!r} has both or neither")


class Topic(Record, frozen=True, kw_only=True):
    """A sentence to train specialists for. `id` is unique per publication; the specialization's id is derived from
    text, task kind and labels, so that publishing the same topic again continues the same champion."""

    kind: ClassVar[str] = "topic"

    id: str
    text: str
    data: DataRef | None = None
    text_column: str | None = None
    label_column: str | None = None
    task: str | None = None
    """Executor kind that trains it; inferred from the data when None."""
    node: str | None = None
    """Node of the graph under which the specialization is put by hand."""
    kpis: tuple[Kpi, ...] = ()
    budget_s: float = 180.0
    """Training seconds for each line."""
    priority: int = 5
    independent: Independent = Independent.PREFER
    on_disconnect: OnDisconnect = OnDisconnect.REPLACE
    wait_s: float = 600.0
    """With `on_disconnect: wait`, how long a worker that is cut off keeps its tasks."""
    publisher: str = ""
    published_at_ms: int = 0
    base: BaseModel | None = None
    """Model from which the evolver starts, in place of the champion or of nothing."""
    encoder: DataRef | None = None
    """Sentence encoder by which the lines read texts: the artifact of a transformers folder."""
    parent: str = ""
    """Id of the topic of which this one is a branch, published by the planner; its specialization is then `node`."""
    branches: int | None = None
    """Into how many branches its data are divided: null lets the planner decide, 1 keeps the topic whole."""
    trace: str = ""
    """Span that published it, as W3C `traceparent` writes it; '' has its trace follow from the id."""

    def __post_init__(self) -> None:
        check_name(self.id, "a topic's id")
        check_text(self.text, "a topic's text")
        if self.node is not None:
            check_name(self.node, "a node's id")
        if self.parent:
            check_name(self.parent, "a topic's parent")
            if self.node is None:
                raise ValueError("a topic that is a branch of another one names its node")
        if self.branches is not None and not 1 <= self.branches <= limits.BRANCHES_MAX:
            raise ValueError(f"a topic has 1 to {limits.BRANCHES_MAX} branches, got {self.branches}")
        if not 0 <= self.priority <= 9:
            raise ValueError(f"a topic's priority is 0 to 9, got {self.priority}")
        if not 0 <= self.wait_s <= 30 * 86_400:
            raise ValueError(f"a topic waits at most 30 days for a worker that is cut off, got {self.wait_s} s")
        if not 1 <= self.budget_s <= 30 * 86_400:
            raise ValueError(f"a topic's budget is 1 second to 30 days per line, got {self.budget_s} s")
