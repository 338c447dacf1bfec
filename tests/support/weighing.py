"""Rounds with outcomes made to measure, for recommendation, gate and champions."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.evidence import Items
from consensus.rounds import Round, Run
from mesh.messages.judgement import Champion
from tests.support.outcomes import first, items
from tests.support.rounds import SPECIALIZATION, SPLITS, TOPIC

Kpis = tuple[tuple[str, float | None, float | None], ...]
VALIDATION = 60
"""Items of the validation split: enough to prove a rate of 0.90."""


class Bench:
    """Builds a round and what is read for it: `line` for each candidate, then `round`."""

    def __init__(self) -> None:
        self.read: dict[str, Items | str] = {}
        self.lines: list[Run] = []
        self.baseline = Run(name="baseline", missing="the plan has no baseline")

    def line(
        self, name: str, right: Sequence[bool], *, size_bytes: float = 1e6, reproduced: int = VALIDATION,
        checked_by: str = "w2.bb", missing: str = "", loss: Sequence[float] | None = None, latency_p95_ms: float = 3.0,
        clusters: Sequence[int] | None = None, label: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """A candidate that is right on these holdout items; another worker got `reproduced` of its claims, too."""
        run = Run(
            name=name, task=f"t1-{name}", incarnation="w1.aa", model=f"model-{name}", claims=f"claims-{name}",
            check=f"check-{name}", checked_by=checked_by, holdout=f"holdout-{name}", stopped_by="budget",
            settings={"width": 8}, changed="learning rate x 0.8", missing=missing,
            kpis={"size_bytes": size_bytes, "latency_p95_ms": latency_p95_ms, "accuracy": 0.123},
        )  # fmt: skip
        self.lines.append(run)
        self.read[run.claims] = items(first(VALIDATION, VALIDATION))
        self.read[run.check] = items(first(reproduced, VALIDATION))
        self.read[run.holdout] = items(right, loss=loss, clusters=clusters, label=label)

    def linear(self, right: Sequence[bool], **more: object) -> None:
        """The baseline."""
        self.baseline = Run(name="baseline", task="t1-baseline", model="model-baseline", holdout="holdout-baseline")
        self.read["holdout-baseline"] = items(right, **more)

    def round(
        self, *, champion: Champion | None = None, old: Sequence[bool] = (), required: bool = False, kpis: Kpis = (),
        loss: Sequence[float] | None = None,
    ) -> Round:  # fmt: skip
        """The round, against a champion that is right on the `old` items if there is one."""
        run = Run(name="champion", missing="there is no champion yet")
        if champion is not None:
            run = Run(name="champion", model=champion.model, holdout="holdout-champion")
            self.read["holdout-champion"] = items(old, loss=loss)
        return Round(
            topic=TOPIC, specialization=SPECIALIZATION, validation=SPLITS["validation"], holdout=SPLITS["holdout"],
            lines=tuple(self.lines), baseline=self.baseline, champion=champion,
            champion_revision=7 if champion is not None else 0, champion_run=run,
            independent_required=required, kpis=kpis, audit=SPLITS["audit"],
        )  # fmt: skip
