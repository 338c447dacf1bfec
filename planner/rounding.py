"""May a champion in few bits be worth a challenge? Decided when the lines of a topic are planned.

    asked for    the topic has a maximum for bytes or time of an answer, or the gate's bounds are near
    can be       a model of a kind that `quantize` rounds, whole, and a worker that offers it
    of what      the champion, once for each champion: that changes one thing of it. Where there is none yet, or it is
                 rounded itself, the evolver's new model

It is one of the changes that the evolver may try (setting `quantisation`), made by a task of its own behind the line,
because nothing is trained by it: consensus has it made and judged (consensus/rounding.py).

Pure; every answer is a sentence. Not covered: whether fewer bits pay on this machine, which the task measures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from mesh.messages.base import Facts
from mesh.messages.judgement import Champion, Verdict
from mesh.messages.topics import Kpi
from planner.lessons import QUANTISATION

KIND, SCHEME, NAME, FACT = "quantize", "dynamic-int8", "evolver-int8", "rounding"
"""The executor kind; weights int8, activations int8 row by row; what consensus calls the candidate; the plan's fact."""

KINDS = frozenset({"classify", "language-model"})
"""Kinds of the lines whose models can be rounded as they are."""

ASKED = ("size_bytes", "latency_p50_ms", "latency_p95_ms")
"""What fewer bits may lower."""

POLICIES = {"size": "size_bytes", "latency p95": "latency_p95_ms"}
"""Bounds of the gate, and what they bound."""

NEAR = 0.5
"""Share of a bound of the gate from which on a model counts as near to it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rounding:
    """What is rounded in a topic, and why."""

    model: str
    """Digest of the champion's model; '' for the evolver's new one."""
    asked: tuple[str, ...]
    """Metrics of which one has to become clearly lower."""
    why: str
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """With which the champion's model was trained."""

    @property
    def facts(self) -> Facts:
        """For the plan."""
        return {
            "scheme": SCHEME, "model": self.model, "asked": list(self.asked), "why": self.why,
            "settings": dict(self.settings),
        }  # fmt: skip


def rounding_of(
    executor: str, kpis: Sequence[Kpi], champion: Champion | None, tried: frozenset[tuple[str, str]],
    bounds: Mapping[str, float], offered: frozenset[str],
) -> tuple[Rounding | None, str]:  # fmt: skip
    """(what is rounded, or None; why).

    champion: the one whose model the evolver goes on from; tried: models whose rounded form was judged before, see
    `tried_of`; bounds: the gate's, by policy, as the last verdict kept them; offered: kinds that workers offer.
    """
    if executor not in KINDS:
        return None, f"models of the kind {executor} are not rounded"
    asked, why = _asked(kpis, champion, bounds)
    if not asked:
        return None, "nobody asks for a smaller or faster model"
    if KIND not in offered:
        return None, f"{why}, but no worker offers the kind {KIND} (bin/agent install kinds)"
    if champion is None:
        return Rounding("", asked, f"{why}: the evolver's new model, rounded, as there is no champion yet"), why
    if champion.flat or champion.base:
        return None, f"{why}, but the champion is a {'tree' if champion.flat else 'model of two parts'}"
    if champion.full:
        return Rounding("", asked, f"{why}: the evolver's new model, rounded as the champion is"), why
    if (champion.model, "") in tried or (champion.model, _told(_maxima(kpis))) in tried:
        return None, f"{why}, but the champion's weights were rounded before, and that was not taken"
    return Rounding(champion.model, asked, f"{why}: the champion's weights rounded", champion.settings), why


def tried_of(verdicts: Iterable[Verdict]) -> frozenset[tuple[str, str]]:
    """(model whose rounded form was judged, '' where it lost; else the conditions under which the gate turned it down:
    it may be worth another try under others)."""
    found = set()
    for verdict in verdicts:
        made = verdict.recommendation
        maxima = {metric: maximum for metric, _, maximum in made.kpis if metric in ASKED and maximum is not None}
        for one in made.candidates:
            if one.full:
                found.add((one.full, _told(maxima) if one.name == made.taken else ""))
    return frozenset(found)


def bounds_of(verdicts: Sequence[Verdict]) -> Mapping[str, float]:
    """The gate's bounds as the newest verdict kept them."""
    return next((verdict.bounds for verdict in reversed(verdicts) if verdict.bounds), {})


def changed(rounding: Rounding) -> str:
    """For people, before anything is measured."""
    return f"{QUANTISATION} {SCHEME} instead of none; {rounding.why}"


def _maxima(kpis: Sequence[Kpi]) -> dict[str, float]:
    return {kpi.metric: kpi.maximum for kpi in kpis if kpi.metric in ASKED and kpi.maximum is not None}


def _told(maxima: Mapping[str, float]) -> str:
    return " and ".join(f"{metric} <= {bound:g}" for metric, bound in sorted(maxima.items())) or "no maximum"


def _asked(
    kpis: Sequence[Kpi], champion: Champion | None, bounds: Mapping[str, float]
) -> tuple[tuple[str, ...], str]:  # fmt: skip
    """(metrics that should be lower, who says so)."""
    own = _maxima(kpis)
    if own:
        return tuple(own), f"the topic wants {_told(own)}"
    near = {
        metric: bounds[policy]
        for policy, metric in POLICIES.items()
        if champion is not None and bounds.get(policy) and champion.kpis.get(metric, 0.0) > NEAR * bounds[policy]
    }
    if near:
        told = " and ".join(f"{metric} is above half of what the gate allows" for metric in near)
        return tuple(near), f"the champion's {told}"
    return (), ""
