"""Policies: what must hold before a candidate is promoted, as a table.

    name        what the check is called
    rule        how it judges (gate.py)
    metric      what it looks at
    bound       bound or margin in the metric's unit; the setting of the table [gate] named beside it overrides it
    why         the reason, told when the check fails

The bounds that were in force stand in each verdict, so that it can be computed again when they have changed.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from consensus import evidence
from consensus.comparison import ACCURACY, LOSS


class Rule(enum.Enum):
    """How a policy judges."""

    EVIDENCE = "evidence"
    """The Wilson lower end of the evidence rate reaches the bound, or what so few claims can prove at best."""
    INDEPENDENCE = "independence"
    """Another incarnation did the check, where the topic requires it."""
    CHANCE = "better than chance"
    """Accuracy above the majority label's; or within the margin of it, with less loss than chance. Without labels: less
    loss than of who knows nothing."""
    REGRESSION = "no regression"
    """At most the margin worse than the champion on the same items. One about accuracy is left out where the items
    have no labels."""
    AT_MOST = "at most"
    """The measured value is at most the bound; a value that nobody measured fails."""
    RATIO = "ratio"
    """The measured value is at most so many times the champion's, where both are known."""
    IF_KNOWN = "at most, if known"
    """The value is at most the bound, where anybody says it; a bound of 0 is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """One condition of a promotion."""

    name: str
    rule: Rule
    metric: str
    bound: float
    """Bound or margin, in the metric's unit."""
    unit: str
    why: str
    setting: str = ""
    """Name of the setting in [gate] that overrides the bound; '' when nothing does."""
    setting_unit: float = 1.0
    """What one of the setting is in the metric's unit."""


POLICIES = (
    Policy(
        "evidence", Rule.EVIDENCE, "evidence_lower", evidence.RATE_WANTED, "", "claims must be reproducible",
        "evidence_lower",
    ),
    Policy("independence", Rule.INDEPENDENCE, "independent", 1.0, "", "who claims does not also check"),
    Policy(
        "better than chance", Rule.CHANCE, ACCURACY, 0.01, "", "a model must know more than the label frequencies",
        "chance_margin",
    ),
    Policy(
        "accuracy", Rule.REGRESSION, ACCURACY, 0.005, "", "a new champion must not answer fewer items right",
        "accuracy_margin",
    ),
    Policy(
        "loss", Rule.REGRESSION, LOSS, 0.05, "nats", "a new champion must not be surer of wrong answers", "loss_margin"
    ),
    Policy(
        "latency p95", Rule.AT_MOST, "latency_p95_ms", 1_000.0, "ms", "an answer within a second for 19 of 20 items",
        "latency_p95_ms",
    ),
    Policy(
        "latency ratio", Rule.RATIO, "latency_p95_ms", 10.0, "times", "what answers stays usable where the old one was",
        "latency_ratio",
    ),
    Policy(
        "size", Rule.AT_MOST, "size_bytes", 8e9, "bytes", "a model must fit on the machines of the mesh",
        "size_gb_max", 1e9,
    ),
    Policy("price", Rule.IF_KNOWN, "price", 0.0, "", "an answer must be worth what it costs", "price_max"),
)  # fmt: skip
"""Defaults for every specialization; a topic's own KPIs come on top. The loss margin is what two equally accurate
models of different make differ by in calibration; a champion's lead in accuracy weighs more."""

LATENCY_MS_FREE = 20.0
"""An answer within this is fast whatever the champion's was: of two models that answer within milliseconds, one is ten
times slower on a busy machine."""


def with_settings(values: Mapping[str, float]) -> tuple[Policy, ...]:
    """The policies with the bounds of the settings [gate], by the settings' names. KeyError for a name of none."""
    known = {policy.setting for policy in POLICIES if policy.setting}
    if unknown := sorted(values.keys() - known):
        raise KeyError(f"no policy has the setting {unknown[0]!r}")
    return tuple(
        dataclasses.replace(policy, bound=values[policy.setting] * policy.setting_unit)
        if policy.setting in values
        else policy
        for policy in POLICIES
    )


def bounds_of(policies: tuple[Policy, ...]) -> dict[str, float]:
    """Bound by name: what a verdict keeps."""
    return {policy.name: policy.bound for policy in policies}


def with_bounds(bounds: Mapping[str, float]) -> tuple[Policy, ...]:
    """The policies of a verdict that kept these bounds; one that it does not name was not there and is left out. All
    defaults for a verdict that kept none."""
    if not bounds:
        return POLICIES
    kept = (policy for policy in POLICIES if policy.name in bounds)
    return tuple(dataclasses.replace(policy, bound=bounds[policy.name]) for policy in kept)
