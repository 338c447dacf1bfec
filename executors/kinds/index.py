"""Index: an index over vectors, or over texts through an encoder, measured against comparing all of them.

In:    `vectors` (executors/vectorfiles.py), or `corpus` (texts) and `encoder` (a Hugging Face folder); `queries` of the
       same form, else rows of the corpus
Out:   `index`; `truth`, queries with their true neighbours, which `evaluate` takes as its split; `claims`, recall per
       query
How:   family and parameters by size where they are left open (retrieval/choices.py), the width of a search by the
       recall asked for; seeded
Not:   a GPU index; removing vectors; corpora larger than memory
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime
from mesh.messages.tasks import Needs
from retrieval.choices import FAMILIES, METRICS, PROGRAM_BYTES, codes_for

MIB = 1024 * 1024


class IndexSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to build. 0 or 'auto': chosen by size, with the reason in the result's facts."""

    family: str = "auto"
    """'flat', 'ivf', 'pq', 'ivf-pq', 'hnsw', or 'auto'."""
    metric: str = "cosine"
    """'cosine', 'inner-product' or 'l2'."""
    cells: int = 0
    """Cells of `ivf` and `ivf-pq`."""
    probes: int = 0
    """Cells that a query looks into; 0: as many as `recall_target` takes."""
    codes: int = 0
    """Codes per vector of `pq` and `ivf-pq`; divides the dimension."""
    bits: int = 0
    """Bits per code, 4 to 8."""
    links: int = 0
    """Neighbours per node of `hnsw`."""
    breadth_build: int = 0
    """Candidates that `hnsw` keeps while it builds."""
    breadth: int = 0
    """Candidates that `hnsw` keeps while it searches; 0: as many as `recall_target` takes."""
    k: int = 10
    """Neighbours that recall is measured at."""
    recall_target: float = 0.95
    """Recall@k for which the width of a search is chosen; 0: the usual width."""
    queries_max: int = 1_000
    """Queries that are measured, half of them for choosing the width."""
    latency_items: int = 200
    """Single queries that are timed (0: none)."""
    latency_s_max: float = 3.0

    def __post_init__(self) -> None:
        if self.family not in ("auto", *FAMILIES):
            raise ValueError(f"family is one of auto, {', '.join(FAMILIES)}, got {self.family!r}")
        if self.metric not in METRICS:
            raise ValueError(f"metric is one of {', '.join(METRICS)}, got {self.metric!r}")
        for name, low, high in BOUNDS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low:g} to {high:g}, got {value}")
        if self.bits and self.bits < 4:
            raise ValueError(f"bits must be 4 to 8, or 0 to choose, got {self.bits}")
        if self.cells and self.probes > self.cells:
            raise ValueError(f"probes must not exceed cells, got {self.probes} and {self.cells}")


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("cells", 0, 2**24),
    ("probes", 0, 2**24),
    ("codes", 0, 4_096),
    ("bits", 0, 8),
    ("links", 0, 512),
    ("breadth_build", 0, 100_000),
    ("breadth", 0, 100_000),
    ("k", 1, 1_000),
    ("recall_target", 0.0, 1.0),
    ("queries_max", 10, 100_000),
    ("latency_items", 0, 100_000),
    ("latency_s_max", 0.01, 600.0),
)
"""Setting, least, most."""


class Index:
    """The kind `index`."""

    name: ClassVar[str] = "index"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs((), ("vectors", "corpus", "encoder", "queries"))
    Settings: ClassVar[type[port.Settings]] = IndexSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch and FAISS, the vectors three times (the file, the array, and that of length one or
        a copy while they are added), and the index. With texts: the encoder, its activations, and the texts besides."""
        given = facts.get("input_bytes") or {}
        encoder, texts = int(given.get("encoder") or 0), int(given.get("corpus") or 0)
        width = int(facts.get("dimension") or facts.get("features") or 384)
        if texts or encoder:
            rows = int(facts.get("rows") or facts.get("examples") or texts // 200 or 10_000)
            vectors = 4 * rows * width
            encoding = 200 * MIB + 2 * encoder + 160 * MIB + 3 * texts
        else:
            vectors = int(given.get("vectors") or 4 * width * int(facts.get("rows") or 10_000))
            rows, encoding = vectors // (4 * width), 0
        whole = vectors + 16 * rows
        if settings.family in ("pq", "ivf-pq"):
            index = rows * (16 + (settings.codes or codes_for(width)))
        else:
            index = whole + (4 * rows * 2 * (settings.links or 32) if settings.family == "hnsw" else 0)
        queries = 3 * 4 * width * settings.queries_max + int(given.get("queries") or 0)
        memory = PROGRAM_BYTES + encoding + 3 * vectors + index + queries
        return Needs(cores=1.0, memory_bytes=memory, disk_bytes=64 * MIB + index + queries + 8 * rows)

    def run(self, job: Job, context: Context) -> Made:
        """Build, measure, claim."""
        from executors import indexing

        made = indexing.make(job, context)
        return Made(
            outputs=made.folders,
            media={"index": "model", "truth": "split", "claims": "outcomes"},
            facts_of={"index": {"kind": job.kind, "architecture": made.facts["spec"]["family"]}},
            kpis=made.kpis,
            facts=made.facts,
        )
