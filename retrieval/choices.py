"""Which index suits a corpus: family and parameters by its size, each with a reason. Decides only; computes nothing.

    flat      every vector is compared: exact, and fast enough for some ten thousand rows
    ivf       k-means cells; a query looks into a few of them: nearly exact, a fraction of the work
    pq        vectors as short codes (product quantization): a small fraction of the memory, compared one by one
    ivf-pq    cells and codes: large corpora in little memory, at a price in recall
    hnsw      a graph of neighbours: fast at high recall, larger than the vectors, slow to build

Cells: 4 times the square root of the rows (between the cost of finding the cell and of searching it), at least
ROWS_PER_CELL rows each, for k-means places a centre by fewer only badly. (Jegou et al. 2011, product quantization;
Malkov and Yashunin 2016, HNSW; the FAISS guidelines.)

`auto` never takes `hnsw`: on the corpora that were measured, cells built five times faster and answered as well.
What it can not know is how well a corpus clusters: recall is measured afterwards (retrieval/recall.py).
"""

from __future__ import annotations

import dataclasses
import math

from mesh.errors import TaskRefused

FAMILIES = ("flat", "ivf", "pq", "ivf-pq", "hnsw")
METRICS = ("cosine", "inner-product", "l2")

FLAT_ROWS_MAX = 20_000
"""Rows up to which exact search is chosen: some 2 ms a query on one core at 384 numbers a vector."""

ROWS_PER_CELL = 39
"""FAISS's own least number of training rows per centre."""

PROGRAM_BYTES = 350 * 1024 * 1024
"""Memory of a child with torch and FAISS that has read nothing yet (measured: 315 MiB)."""

DIMENSION_MAX = 65_536
ROWS_MAX = 2**31 - 1
"""HNSW numbers its rows in 32 bits."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One index, described completely. 0: the family does not use it."""

    family: str
    metric: str
    dimension: int
    cells: int = 0
    """Cells of `ivf` and `ivf-pq`."""
    probes: int = 0
    """Cells that a query looks into."""
    codes: int = 0
    """Codes per vector of `pq` and `ivf-pq`; divides the dimension."""
    bits: int = 0
    """Bits per code, 4 to 8."""
    links: int = 0
    """Neighbours per node of `hnsw`."""
    breadth_build: int = 0
    """Candidates that hnsw keeps while it builds."""
    breadth: int = 0
    """Candidates that hnsw keeps while it searches."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family is one of {', '.join(FAMILIES)}, got {self.family!r}")
        if self.metric not in METRICS:
            raise ValueError(f"metric is one of {', '.join(METRICS)}, got {self.metric!r}")
        for name, low, high in _bounds(self):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} of a {self.family} index is {low} to {high}, got {value!r}")
        if self.codes and self.dimension % self.codes:
            raise ValueError(f"codes must divide the dimension: {self.dimension} is no multiple of {self.codes}")

    @property
    def has_cells(self) -> bool:
        """True for the families with k-means cells."""
        return self.family in ("ivf", "ivf-pq")

    @property
    def has_codes(self) -> bool:
        """True for the families that keep codes instead of vectors."""
        return self.family in ("pq", "ivf-pq")

    @property
    def training_rows_min(self) -> int:
        """Vectors that `train` needs at least; 0 when the family needs no training."""
        return max(self.cells if self.has_cells else 0, 2**self.bits if self.has_codes else 0)

    def index_bytes(self, rows: int) -> int:
        """Memory of the index over `rows` vectors, its ids included."""
        per_row = 8 + (self.codes * self.bits + 7) // 8 if self.has_codes else 8 + 4 * self.dimension
        fixed = 4 * self.dimension * (self.cells + (2**self.bits if self.has_codes else 0))
        if self.has_cells:
            per_row += 8  # each cell names its rows
        if self.family == "hnsw":
            per_row += 4 * (2 * self.links + 2 * self.links // max(1, self.links - 1)) + 16
        return rows * per_row + fixed


def _bounds(spec: Spec) -> list[tuple[str, int, int]]:
    """(field, least, most) of what the family uses."""
    bounds = [("dimension", 1, DIMENSION_MAX)]
    bounds += [("cells", 1, 2**24), ("probes", 1, spec.cells)] if spec.has_cells else [("cells", 0, 0)]
    bounds += [("codes", 1, spec.dimension), ("bits", 4, 8)] if spec.has_codes else [("codes", 0, 0), ("bits", 0, 0)]
    if spec.family == "hnsw":
        return [*bounds, ("links", 2, 512), ("breadth_build", 1, 100_000), ("breadth", 1, 100_000)]
    return [*bounds, ("links", 0, 0), ("breadth_build", 0, 0), ("breadth", 0, 0)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What somebody asked for; 0 or `auto`: choose."""

    family: str = "auto"
    metric: str = "cosine"
    cells: int = 0
    probes: int = 0
    codes: int = 0
    bits: int = 0
    links: int = 0
    breadth_build: int = 0
    breadth: int = 0


def choose(rows: int, dimension: int, wishes: Wishes, memory_bytes: int) -> tuple[Spec, str]:
    """The index for `rows` vectors of `dimension` numbers that has `memory_bytes` for itself, and why it is this one.
    TaskRefused when the wishes contradict each other or the corpus."""
    if not 0 < rows <= ROWS_MAX:
        raise TaskRefused(f"an index has 1 to {ROWS_MAX} vectors, got {rows}")
    family, why = (wishes.family, "asked for") if wishes.family != "auto" else _family(rows, dimension, memory_bytes)
    try:
        spec = _filled(family, rows, dimension, wishes)
    except ValueError as error:
        raise TaskRefused(f"{error}: change that setting or leave it at 0") from None
    if spec.training_rows_min > rows:
        what = f"{spec.cells} cells" if spec.cells > 2**spec.bits else f"codes of {spec.bits} bits"
        raise TaskRefused(
            f"{what} need at least {spec.training_rows_min} vectors to learn from, there are {rows}: "
            "ask for fewer cells or bits, or for family flat"
        )
    return spec, f"{family}: {why}{_told(spec)}"


def _family(rows: int, dimension: int, memory_bytes: int) -> tuple[str, str]:
    if rows <= FLAT_ROWS_MAX:
        return "flat", f"{rows} vectors are few enough to compare all of them (at most {FLAT_ROWS_MAX})"
    whole = rows * (4 * dimension + 16)
    if whole <= memory_bytes:
        return "ivf", f"{rows} vectors are more than {FLAT_ROWS_MAX}, and whole they fit into {memory_bytes >> 20} MiB"
    return "ivf-pq", f"{rows} whole vectors take {whole >> 20} MiB, there are {memory_bytes >> 20} MiB"


def _filled(family: str, rows: int, dimension: int, wishes: Wishes) -> Spec:
    chosen = {"family": family, "metric": wishes.metric, "dimension": dimension}
    if family in ("ivf", "ivf-pq"):
        cells = wishes.cells or max(1, min(round(4 * math.sqrt(rows)), rows // ROWS_PER_CELL))
        chosen |= {"cells": cells, "probes": wishes.probes or max(1, min(cells, round(math.sqrt(cells))))}
    if family in ("pq", "ivf-pq"):
        enough = max((bits for bits in (4, 5, 6, 7, 8) if ROWS_PER_CELL * 2**bits <= rows), default=4)
        chosen |= {"codes": wishes.codes or codes_for(dimension), "bits": wishes.bits or enough}
    if family == "hnsw":
        chosen |= {"links": wishes.links or 32, "breadth_build": wishes.breadth_build or 200}
        chosen |= {"breadth": wishes.breadth or 64}
    return Spec(**chosen)  # type: ignore[arg-type]


def codes_for(dimension: int) -> int:
    """The largest divisor of the dimension that leaves a code four numbers or more to stand for; 1 for a prime."""
    return max(count for count in range(1, max(1, dimension // 4) + 1) if dimension % count == 0)


def _told(spec: Spec) -> str:
    """The parameters, in words."""
    parts = []
    if spec.has_cells:
        parts.append(f"{spec.cells} cells, {spec.probes} looked into")
    if spec.has_codes:
        parts.append(f"{spec.codes} codes of {spec.bits} bits")
    if spec.family == "hnsw":
        parts.append(f"{spec.links} links, breadth {spec.breadth} ({spec.breadth_build} while building)")
    return f"; {', '.join(parts)}" if parts else ""
