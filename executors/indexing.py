"""One task of the kind `index`, from vectors or texts to an index that was measured.

    vectors | texts ── encoder ── choice ── train ── add ── search width ── recall, time, memory ── index, truth, claims
                                  (size)                    (first half     (the other half)
                                                             of the queries)

The truth is what comparing all vectors finds. The width of a search (cells looked into, candidates kept) is the least
that reaches the recall asked for on one half of the queries; what is reported was measured on the other half. Queries
that are rows of the corpus are not their own neighbours.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from executors import modelcard, room, vectorfiles
from executors.data import order
from executors.models.indexed import Truth, outcomes_of, write_config, write_truth
from executors.port import Context, Job, Stopped
from executors.pulse import Pulse
from executors.vectorfiles import Vectors
from mesh.errors import DataRefused, TaskRefused
from mesh.messages.judgement import Outcomes
from retrieval import recall, stored
from retrieval.choices import PROGRAM_BYTES, Wishes, choose
from retrieval.vectors import VectorIndex, prepared

ADD_ROWS = 65_536
"""Vectors added at once: each call makes a copy of length one for the cosine, and a stop is heard between two calls."""

TRAINING_ROWS_PER_CENTRE = 256
"""FAISS uses no more; fewer make k-means faster and worse."""

UNBOUNDED = 1 << 60
"""Bytes; of a task whose memory nobody bounds."""

Tick = Callable[[], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """What the task has to show."""

    folders: dict[str, Path]
    kpis: dict[str, float]
    facts: dict[str, Any]


def make(job: Job, context: Context) -> Made:
    """Build and measure as the job says. DataRefused or TaskRefused when its inputs do not fit together."""
    settings = job.settings
    with Pulse(context, "indexing") as pulse:
        vectors, queries, source = _inputs(job, pulse.stop_if_asked)
        wishes = Wishes(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Wishes)})
        spec, why = choose(len(vectors), vectors.dimension, wishes, _room_bytes(job, vectors))
        context.log(why)
        vectors = dataclasses.replace(vectors, rows=prepared(vectors.rows, vectors.dimension, settings.metric))
        index, times = _built(VectorIndex(spec, seed=job.seed, threads=job.allotment.threads), vectors, pulse)
        truth = _truth(job, vectors, queries, pulse.stop_if_asked)
        tuned = _tuned(index, truth, settings, pulse.stop_if_asked)
        return _measured(job, context, index, truth, {**source, "why": why, **times, **tuned})


def _room_bytes(job: Job, vectors: Vectors) -> int:
    """What the index may take of the task's memory, as the kind's `needs` divides it."""
    if not job.allotment.memory_bytes:
        return UNBOUNDED
    return max(0, job.allotment.memory_bytes - PROGRAM_BYTES - 3 * vectors.rows.nbytes)


# -- inputs -----------------------------------------------------------------------------------------------------------


def _inputs(job: Job, tick: Tick) -> tuple[Vectors, Vectors | None, dict[str, Any]]:
    """(vectors, queries of their own if there are any, facts about where they came from)."""
    given = {name for name in ("vectors", "corpus") if job.inputs.get(name)}
    if len(given) != 1:
        raise TaskRefused(
            f"an index is made of `vectors` or of a `corpus`, got {' and '.join(sorted(given)) or 'none'}"
        )
    asked = job.inputs.get("queries")
    if "corpus" in given:
        return _encoded(job, tick)
    vectors = vectorfiles.read(Path(job.inputs["vectors"]))
    queries = vectorfiles.read(Path(asked)) if asked else None
    if queries is not None and queries.dimension != vectors.dimension:
        raise DataRefused(f"the queries have {queries.dimension} numbers each, the vectors {vectors.dimension}")
    return vectors, queries, {"source": "vectors"}


def _encoded(job: Job, tick: Tick) -> tuple[Vectors, Vectors | None, dict[str, Any]]:
    """Texts through an encoder."""
    from executors import device as devices
    from executors.corpus import read_corpus
    from executors.models import encoder as encoders

    if not job.inputs.get("encoder"):
        raise TaskRefused("a corpus of texts becomes vectors by an `encoder`: give the folder of one as an input")
    place = devices.choose(job.allotment)
    encoder = encoders.load(Path(job.inputs["encoder"]))
    encoder.network.to(place.torch)
    made = []
    for name in ("corpus", "queries"):
        if not job.inputs.get(name):
            continue
        corpus = read_corpus(job.inputs[name], tick)
        ids = (corpus.ids >> np.uint64(1)).astype(np.int64)  # 63 bits, so that no id is negative
        first = np.sort(np.unique(ids, return_index=True)[1])
        with devices.memory_translated("encoding"):
            made.append(Vectors(encoder.encode([corpus.texts[row] for row in first], tick), ids[first]))
    facts = {"source": "texts", "encoder": encoder.digest, "tokens_max": encoder.tokens_max}
    return made[0], made[1] if len(made) > 1 else None, facts


# -- building ---------------------------------------------------------------------------------------------------------


def _built(index: VectorIndex, vectors: Vectors, pulse: Pulse) -> tuple[VectorIndex, dict[str, float]]:
    spec, rows = index.spec, len(vectors)
    started, cpu_s = time.perf_counter(), time.process_time()
    if not index.trained:
        most = TRAINING_ROWS_PER_CENTRE * max(spec.cells, 2**spec.bits if spec.bits else 0)
        sample = vectors.rows if rows <= most else vectors.rows[np.sort(order(index.seed, 0, rows)[:most])]
        index.train(sample)
    trained_at = time.perf_counter()
    for start in range(0, rows, ADD_ROWS):
        pulse.stop_if_asked()
        block = slice(start, start + ADD_ROWS)
        index.add(vectors.rows[block], vectors.ids[block])
        pulse.report(start, min(0.9, (start + ADD_ROWS) / rows), {"rows": float(len(index))})
    added_at = time.perf_counter()
    took_s = {"train_s": trained_at - started, "add_s": added_at - trained_at}
    return index, {**took_s, "build_cpu_s": time.process_time() - cpu_s}


# -- measuring --------------------------------------------------------------------------------------------------------


def _truth(job: Job, vectors: Vectors, queries: Vectors | None, tick: Tick) -> Truth:
    """Queries and their true neighbours."""
    settings, own = job.settings, queries is None
    asked = vectors if queries is None else queries
    chosen = order(job.seed, 1, len(asked))[: settings.queries_max]
    rows = prepared(asked.rows[chosen], vectors.dimension, settings.metric)
    k = max(1, min(settings.k, len(vectors) - own))
    ids = recall.exact(
        vectors.rows, vectors.ids, rows, k + own, settings.metric, threads=job.allotment.threads, tick=tick
    )
    asked_ids = asked.ids[chosen]
    return Truth(rows, asked_ids, recall.without_self(ids, asked_ids) if own else ids, own)


def _tuned(index: VectorIndex, truth: Truth, settings: Any, tick: Tick) -> dict[str, Any]:
    """Set the least width of a search that reaches the recall asked for, on the first half of the queries."""
    field = "probes" if index.spec.has_cells else "breadth"
    asked = getattr(settings, field)
    if index.spec.family in ("flat", "pq") or asked or not settings.recall_target or len(truth.ids) < 2:
        return {}
    half, tried = truth.part(slice(0, None, 2)), {}
    most = index.spec.cells if index.spec.has_cells else 4_096
    width = 1 if index.spec.has_cells else max(16, truth.k + truth.own)
    while True:
        index.search_width(width)
        tried[width] = float(recall.recalls(half.neighbours, half.found_by(index, tick)).mean())
        ahead = [wider for wider in tried if wider < width]
        stuck = len(ahead) > 1 and width > most // 4 and tried[width] - tried[max(ahead)] < 1e-3
        if tried[width] >= settings.recall_target or width >= most or stuck:
            break
        width = min(most, 2 * width)
    reached = tried[width] >= settings.recall_target
    best = width if reached else min(one for one in tried if tried[one] >= max(tried.values()) - 1e-3)
    chosen: dict[str, Any] = {field: best}
    index.spec = dataclasses.replace(index.spec, **chosen)
    index.search_width(best)
    aim = f"recall {settings.recall_target:g}"
    why = f"{field} {best}: the least tried that reaches {aim}" if reached else f"{field} {best}: {aim} is not reached"
    return {"width_why": why, "width_tried": {str(one): round(rate, 4) for one, rate in tried.items()}}


def _measured(job: Job, context: Context, index: VectorIndex, truth: Truth, facts: dict[str, Any]) -> Made:
    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped while measuring as asked: {why}")

    settings = job.settings
    judged = truth.part(slice(1, None, 2)) if "width_tried" in facts else truth
    claims = outcomes_of(index, judged, tick)
    took = recall.single_latencies(index, judged.queries, judged.k, settings.latency_items, settings.latency_s_max)
    rates = 1.0 - np.frombuffer(claims.loss, "<f4").astype(np.float64)
    kpis = {
        f"recall_at_{judged.k}": float(rates.mean()),
        "recall_at_1": _first_right(claims),
        "queries": float(claims.items),
        "vectors": float(len(index)),
        "build_s": facts["train_s"] + facts["add_s"],
        "build_cpu_s": facts["build_cpu_s"],
        **{f"latency_p{share}_ms": float(np.percentile(took, share)) for share in (50, 95) if took},
    }
    facts = {
        **facts, "spec": dataclasses.asdict(index.spec), "seed": index.seed, "threads": index.threads,
        "index_bytes": index.spec.index_bytes(len(index)), "k": judged.k, "queries_from_corpus": judged.own,
    }  # fmt: skip

    def write(folder: Path) -> Path:
        stored.save(index, folder, facts)
        write_config(folder, job.kind, msgspec.to_builtins(settings), facts)
        kpis["size_bytes"] = float(sum(path.stat().st_size for path in folder.iterdir()))
        (folder / "README.md").write_text(_card(facts, kpis), encoding="utf-8")
        return folder

    from executors import outcomes

    scratch = job.scratch
    folders = {
        "index": room.written(context, scratch / "index", write),
        "truth": room.written(context, scratch / "truth", lambda folder: write_truth(folder, judged)),
        "claims": room.written(context, scratch / "claims", lambda folder: outcomes.write(claims, folder)),
    }
    return Made(folders, kpis, facts)


def _first_right(claims: Outcomes) -> float:
    label, predicted = (np.frombuffer(part, "<i4") for part in (claims.label, claims.predicted))
    return float((label == predicted).mean())


def _card(facts: dict[str, Any], kpis: dict[str, float]) -> str:
    """README.md of an index."""
    rows: list[tuple[str, str]] = [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]
    sample = "rows of the corpus, which are not their own neighbours" if facts["queries_from_corpus"] else "a set given"
    return modelcard.joined(
        modelcard.block(["library_name: ramify", "tags:", "- ramify", "- vector-index"]),
        f"# An index of {int(kpis['vectors'])} vectors of {facts['spec']['dimension']} numbers",
        "Made by Ramify (kind `index`).",
        ". ".join(modelcard.plain(facts[name]) for name in ("why", "width_why") if name in facts) + ".",
        "## Measured against comparing all vectors",
        modelcard.table(("measure", "value"), rows),
        f"The queries are {sample}. Recall is the share of the true nearest that the index finds.",
        "## Files and limits",
        "`index.faiss` holds FAISS's bytes, `ids.safetensors` the id of each row, `index.json` how it was made and "
        "the digests of both: verify them before FAISS reads the bytes, as `retrieval.stored.load` does. Vectors are "
        "added, never removed.",
    )
