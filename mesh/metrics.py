"""What an agent counts, for Prometheus: one declared table, an own registry, the text format.

Counting is a dictionary and a lock (some two microseconds, from any thread); prometheus_client, which takes some 60 ms
to import, is loaded when somebody looks for the first time. It then writes the text format from what was counted.

Names follow the Prometheus conventions: base units (seconds, bytes), `_total` for what only rises. A name, a kind of
use or a label that the table does not hold is a defect and raises ValueError (a test looks at every use beforehand), so
docs/metrics.md, which a test compares with this table, is complete. Labels have few values: roles, kinds, states,
reasons of a fixed set; never ids of tasks or topics. A metric takes at most SERIES_MAX combinations of them; what is
beyond is counted under `other`.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
import math
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Metric

SERIES_MAX = 200
"""Label combinations of one metric: beyond it a label was an id after all, and every scrape would grow."""

OTHER = "other"

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of the buckets for durations, in seconds: from an append on a fast disk to a broker that is in trouble."""


class Kind(enum.StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    """Only rises, from 0 at the agent's start."""
    GAUGE = "gauge"
    """Rises and falls."""
    HISTOGRAM = "histogram"
    """Counts observations by size, with their number and sum."""


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """One metric: its kind, what it says, its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _counter(name: str, help_: str, *labels: str) -> Declared:
    return Declared(name, Kind.COUNTER, help_, labels)


def _gauge(name: str, help_: str, *labels: str) -> Declared:
    return Declared(name, Kind.GAUGE, help_, labels)


def _histogram(name: str, help_: str, *labels: str) -> Declared:
    return Declared(name, Kind.HISTOGRAM, help_, labels)


TABLE: tuple[Declared, ...] = (
    # every agent
    _gauge("mesh_agent_info", "Always 1; the labels say who this is.", "role", "name", "version"),
    _gauge("mesh_build_info", "Always 1; the labels say what runs.", "version", "python", "system"),
    _gauge("mesh_broker_connected", "1 while the broker is connected, else 0."),
    _counter("mesh_bus_reconnects_total", "Connections to the broker after the first one."),
    _counter("mesh_bus_dropped_total", "Core messages dropped because a handler was too slow."),
    _gauge("mesh_loop_lag_seconds", "How late the event loop's last turn was.", "role"),
    _counter("mesh_records_handled_total", "Records handled and acknowledged.", "role", "kind"),
    _histogram("mesh_record_seconds", "Time of handling one record, also where it failed.", "kind"),
    _counter("mesh_handler_failures_total", "Handlers that failed, by what went wrong.", "role", "reason"),
    _histogram("mesh_request_seconds", "Time of answering one question of another agent or a command.", "endpoint"),
    # the scheduler
    _gauge("mesh_leading", "1 while this scheduler leads, else 0."),
    _gauge("mesh_tasks", "Tasks in the ledger, by state: the length of each queue.", "state"),
    _gauge("mesh_workers", "Workers that the leader has heard, by how it stands with them.", "state"),
    _counter("mesh_leases_total", "Leases given."),
    _counter("mesh_lease_expirations_total", "Leases that ended because their worker was lost.", "reason"),
    _counter("mesh_results_total", "Results recorded in the ledger, by the task's outcome.", "outcome"),
    _counter("mesh_stale_writes_total", "Writes refused because their epoch was over or another worker's."),
    _counter("mesh_tasks_reopened_total", "Ended tasks that are done once more, because an output was lost."),
    _counter("mesh_ledger_entries_total", "Entries appended to the ledger."),
    _counter("mesh_ledger_events_total", "Events in those entries."),
    _histogram("mesh_ledger_append_seconds", "Time of one append to the ledger, until it is on the broker's disk."),
    _gauge("mesh_store_bytes", "Bytes in the artifact store, as the broker counts them."),
    _gauge("mesh_store_limit_bytes", "Most bytes that it may hold; -1 when it has no limit."),
    _gauge("mesh_store_garbage", "Objects and manifests that the last look found nothing to name."),
    _counter("mesh_collections_total", "Rounds of the collector of garbage: done, or broken off.", "outcome"),
    _counter("mesh_collected_total", "Objects and manifests that it removed.", "kind"),
    _counter("mesh_corrupt_removed_total", "Corrupt objects that were removed, to be stored again."),
    _gauge("mesh_ledger_sequence", "Last sequence of the ledger that this scheduler has seen."),
    _gauge("mesh_ledger_lag_entries", "Entries of which the leader has told and that this scheduler has not folded."),
    _gauge("mesh_commands_uncovered", "Commands that the leader has read and no entry of the ledger covers yet."),
    _counter("mesh_inputs_dropped_total", "Beats dropped because the scheduler's inbox was full."),
    # the worker
    _counter("mesh_beats_total", "Beats sent."),
    _counter("mesh_beats_missed_total", "Beats that could not be sent."),
    _gauge("mesh_leases_held", "Leases that this worker holds."),
    _counter("mesh_tasks_run_total", "Tasks that ended here, by executor kind and outcome.", "kind", "outcome"),
    _gauge("mesh_outbox_rows", "Rows that wait for a receipt."),
    _gauge("mesh_outbox_bytes", "Bytes of those rows."),
    _gauge("mesh_outbox_age_seconds", "Age of the oldest row that waits."),
    _counter("mesh_receipts_total", "Receipts for outbox rows.", "outcome"),
    _counter(
        "mesh_checkpoints_total", "Checkpoints: made, skipped for a newer one, lost, unusable to go on from.", "outcome"
    ),
    _counter("mesh_checkpoint_bytes_total", "Bytes of packed checkpoints: of their state, and of new objects.", "what"),
    _gauge("mesh_checkpoint_age_seconds", "Of the running task whose newest stored checkpoint is oldest: its age."),
    _gauge("mesh_checkpoints_paused", "Running tasks whose checkpoints wait: no room, or no broker."),
    _gauge("mesh_outputs_paused", "Tasks that have computed their outputs and wait: no room, or no broker."),
    _counter("mesh_child_kills_total", "Child processes that were killed, by reason.", "reason"),
    _counter("mesh_gpu_fallbacks_total", "Runs with leased GPUs that went to the CPU, by reason.", "reason"),
    _histogram("mesh_child_start_seconds", "From the start of a child to its first frame."),
    _counter("mesh_training_steps_total", "Steps of trainings, by executor kind.", "kind"),
    _counter("mesh_training_examples_total", "Predictions (labels, tokens) that trainings have learnt from.", "kind"),
    _gauge("mesh_training_loss", "Running mean of the training loss, in the newest report of a kind.", "kind"),
    _gauge("mesh_training_gradient_norm", "Norm of the gradient before it is clipped, in the same report.", "kind"),
    _gauge("mesh_training_learning_rate", "Learning rate of that step.", "kind"),
    _gauge("mesh_training_batch_seconds", "Time of a step lately, with the wait for its batch.", "kind"),
    _gauge("mesh_training_waiting_ratio", "Share of the steps' time that was spent waiting for batches.", "kind"),
    _gauge("mesh_training_examples_per_second", "Predictions learnt from per second, over the whole attempt.", "kind"),
    _gauge("mesh_training_memory_peak_bytes", "Most memory of the training process; on a GPU, of the GPU.", "kind"),
    # artifacts
    _counter("mesh_artifact_bytes_total", "Bytes of chunks moved to (out) and from (in) the store.", "direction"),
    _counter("mesh_artifact_chunks_total", "Chunks: moved out or in, already there, or here.", "outcome"),
    _counter("mesh_artifact_corrupt_total", "Chunks whose bytes did not match their digest."),
    _gauge("mesh_cache_bytes", "Bytes in the local cache of artifacts."),
    # the gate
    _counter("mesh_verdicts_total", "Verdicts of the gate.", "outcome"),
    _gauge("mesh_holdout_alpha_spent_ratio", "Share of its alpha that the newest verdict's holdout has spent."),
    _gauge("mesh_holdout_challengers", "Challengers that were compared on that holdout so far."),
    # the feeder
    _counter("mesh_fed_topics_total", "Topics that the feeder published."),
    # the gateway
    _counter("mesh_http_requests_total", "Requests that the gateway answered, by row of its table.", "route", "status"),
    _histogram("mesh_http_request_seconds", "Time of an answer of the gateway, streams left out.", "route"),
    _gauge("mesh_http_watchers", "Streams of events that the gateway serves now."),
    _counter("mesh_http_watchers_cut_total", "Streams that it ended because they were read too slowly."),
    _counter("mesh_http_events_total", "Records of the result stream that it made into events, each once for all."),
)  # fmt: skip
"""Every metric of every agent. An agent shows those that it has touched."""

_BY_NAME = {declared.name: declared for declared in TABLE}
_LABELS = {declared.name: frozenset(declared.labels) for declared in TABLE}

Labels = tuple[str, ...]


@dataclasses.dataclass(slots=True)
class _Observed:
    counts: list[int]
    """Observations per bucket, the last one without a bound."""
    sum: float = 0.0


class Metrics:
    """Values of one process. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._observed: dict[str, dict[Labels, _Observed]] = {}

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Add to a counter. ValueError for an unknown name or label, or a negative amount."""
        if by < 0:
            raise ValueError(f"{name} only rises; got {by}")
        self._put(name, Kind.COUNTER, by, labels, add=True)

    def set_total(self, name: str, value: float, /, **labels: str) -> None:
        """Bring a counter to a total that is kept elsewhere; a lower one than before is ignored."""
        self._put(name, Kind.COUNTER, value, labels, add=False)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._put(name, Kind.GAUGE, value, labels, add=False)

    def forget(self, *names: str) -> None:
        """Show these gauges no more: what they told is somebody else's to tell now."""
        with self._lock:
            for name in names:
                self._values.pop(name, None)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add one observation to a histogram."""
        key = _key(name, Kind.HISTOGRAM, labels)
        with self._lock:
            series = self._observed.setdefault(name, {})
            key = _bounded(series, key)
            observed = series.setdefault(key, _Observed([0] * (len(SECONDS) + 1)))
            observed.counts[bisect.bisect_left(SECONDS, value)] += 1
            observed.sum += value

    def value(self, name: str, /, **labels: str) -> float:
        """The present value of a counter or gauge (0: untouched), the number of observations of a histogram."""
        kind = _BY_NAME[name].kind if name in _BY_NAME else Kind.GAUGE
        key = _key(name, kind, labels)
        with self._lock:
            if kind is Kind.HISTOGRAM:
                observed = self._observed.get(name, {}).get(key)
                return float(sum(observed.counts)) if observed else 0.0
            return self._values.get(name, {}).get(key, 0.0)

    def render(self) -> bytes:
        """Everything that was touched, in the Prometheus text format (version 0.0.4)."""
        return rendered((self,))

    def copied(self) -> tuple[dict[str, dict[Labels, float]], dict[str, dict[Labels, _Observed]]]:
        """A consistent copy of the values, and of what was observed."""
        with self._lock:
            values = {name: dict(series) for name, series in self._values.items()}
            observed = {
                name: {key: _Observed(list(found.counts), found.sum) for key, found in series.items()}
                for name, series in self._observed.items()
            }
        return values, observed

    def _put(self, name: str, kind: Kind, value: float, labels: dict[str, str], *, add: bool) -> None:
        key = _key(name, kind, labels)
        with self._lock:
            series = self._values.setdefault(name, {})
            key = _bounded(series, key)
            before = series.get(key, 0.0)
            if add:
                value += before
            series[key] = max(before, value) if kind is Kind.COUNTER else value


def _key(name: str, kind: Kind, labels: dict[str, str]) -> Labels:
    declared = _BY_NAME.get(name)
    if declared is None or declared.kind is not kind or labels.keys() != _LABELS[name]:
        wanted = f"a {declared.kind} with labels {declared.labels}" if declared else "in no table"
        raise ValueError(f"{name} is {wanted}; used as a {kind} with labels {tuple(labels)}")
    return tuple(labels[label] for label in declared.labels)


def _bounded(series: dict[Labels, float] | dict[Labels, _Observed], key: Labels) -> Labels:
    return key if key in series or len(series) < SERIES_MAX else (OTHER,) * len(key)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    """(upper bound, observations at or below it), as the format wants them."""
    total, found = 0, []
    for bound, number in zip((*SECONDS, math.inf), counts, strict=True):
        total += number
        found.append(("+Inf" if bound == math.inf else repr(bound), float(total)))
    return found


class _Together:
    """The values of several, as one collector for prometheus_client: each metric once, however many of them feed it."""

    def __init__(self, parts: Iterable[Metrics]) -> None:
        self._values: dict[str, dict[Labels, float]] = {}
        self._observed: dict[str, dict[Labels, _Observed]] = {}
        for part in parts:
            values, observed = part.copied()
            for name, series in values.items():
                self._add(name, series)
            for name, found in observed.items():
                self._observed.setdefault(name, {}).update(found)

    def _add(self, name: str, series: dict[Labels, float]) -> None:
        """Counters of the same labels add up; of a gauge the later one counts."""
        held = self._values.setdefault(name, {})
        for key, value in series.items():
            held[key] = value + (held.get(key, 0.0) if _BY_NAME[name].kind is Kind.COUNTER else 0.0)

    def collect(self) -> Iterator[Metric]:
        """Every metric that was touched, in the table's order."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for declared in TABLE:
            name, help_, labels = declared.name, declared.help, declared.labels
            if declared.kind is Kind.HISTOGRAM:
                histogram = HistogramMetricFamily(name, help_, labels=labels)
                for key, found in self._observed.get(name, {}).items():
                    histogram.add_metric(key, _cumulative(found.counts), found.sum)
                family: Metric = histogram
            else:
                simple = (CounterMetricFamily if declared.kind is Kind.COUNTER else GaugeMetricFamily)(
                    name, help_, labels=labels
                )
                for key, value in self._values.get(name, {}).items():
                    simple.add_metric(key, value)
                family = simple
            if family.samples:
                yield family


def rendered(parts: Iterable[Metrics]) -> bytes:
    """Everything that these have touched, as one text in the Prometheus format: a metric stands in it once."""
    from prometheus_client import CollectorRegistry, generate_latest  # 60 ms, spent at the first look only

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Together(parts))
    return generate_latest(registry)


PROCESS = Metrics()
"""The values of this process; the functions below speak of them."""

count = PROCESS.count
set_total = PROCESS.set_total
set = PROCESS.set
observe = PROCESS.observe
value = PROCESS.value
render = PROCESS.render
