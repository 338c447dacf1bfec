"""Evidence, recommendation, verdict, champion: what consensus and the gate say about a candidate."""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Self

import msgspec

from mesh import limits
from mesh.messages.base import Facts, Part, Record, check_name
from mesh.messages.tasks import Line


class Outcomes(Record, frozen=True, kw_only=True):
    """Per-item outcomes of one model on one split: what claims and checks are made of. Travels as an artifact of one
    file, `outcomes.msgpack`. All arrays are little-endian and have the same number of items, in the split's order."""

    kind: ClassVar[str] = "outcomes"

    model: str
    """Digest of the model artifact; '' in a claim, whose model is named by the result that carries it."""
    split: str
    """Digest of the split artifact; '' where the executor was not told."""
    items: int
    ids: bytes
    """uint64 per item: first eight bytes of the SHA-256 of the normalised input."""
    clusters: bytes
    """uint32 per item: items of one cluster (source file, or one and the same input) are not independent."""
    label: bytes
    """int32 per item: the true label's index."""
    predicted: bytes
    """int32 per item."""
    loss: bytes
    """float32 per item: negative log likelihood of the true label in nats."""

    def __post_init__(self) -> None:
        narrow = (self.clusters, self.label, self.predicted, self.loss)
        sizes = (len(self.ids) / 8, *(len(array) / 4 for array in narrow))
        if self.items < 1 or any(size != self.items for size in sizes):
            raise ValueError(f"outcomes of {self.items} items need arrays of that many items, got {sizes}")


class Evidence(Part, frozen=True, kw_only=True):
    """How many of a candidate's claimed per-item outcomes another worker reproduced."""

    claims: int
    reproduced: int
    rate: float
    lower: float
    """Lower end of the 95 % Wilson interval of `rate`."""
    independent: bool
    """True when the check ran on another incarnation than the claim."""
    checked_by: str = ""
    fault: str = ""
    """What speaks against the candidate whatever was reproduced: its structure, or the replay of its training."""
    gain: float | None = None
    """How much lower, in nats, its loss is on a sample of the data that it was given than on validation."""
    gain_error: float = 0.0
    """Standard error of `gain`."""
    replayed: float | None = None
    """Distance of a segment of its training, trained again, from the recorded one, as a share of the way that the
    segment went; None when none was trained again."""

    def evolve(self, **changes: Any) -> Self:
        """The same with other values in these fields."""
        return msgspec.structs.replace(self, **changes)


class Candidate(Part, frozen=True, kw_only=True):
    """The model that a line produced, and what was measured of it."""

    line: Line
    task: str
    incarnation: str = ""
    model: str
    """Digest of the model artifact."""
    kpis: dict[str, float] = {}
    """`accuracy`, `loss` (holdout), `validation_accuracy`, `validation_loss`, `latency_p95_ms`, `size_bytes`, …"""
    evidence: Evidence | None = None
    holdout: str = ""
    """Digest of its per-item holdout outcomes."""
    stopped_by: str = ""
    settings: Facts = {}
    changed: str = ""
    """What this candidate changed against the champion it came from."""
    claims: str = ""
    """Digest of the outcomes on validation that its worker claims."""
    executor: str = ""
    executor_version: int = 1
    """Kind that trained it: trust in its worker is kept by kind and version."""
    unchecked: bool = False
    """True when its claims were let through without a check: it was not chosen."""
    name: str = ""
    """What the plan calls it; empty where that is its line's word. Comparisons name it so."""
    continued: str = ""
    """Digest of the model from which its training went on; empty when it began from zero."""
    flat: str = ""
    """Where it is a tree: digest of the flat model in it."""
    base: str = ""
    """Where it is an adapter: digest of the model that it adapts, without which it is none."""
    full: str = ""
    """Where its weights are rounded to few bits: digest of the model whose weights they were."""


class Choice(enum.StrEnum):
    """What consensus may propose."""

    KEEP = "keep"
    EVOLVER = "evolver"
    REINVENTOR = "reinventor"
    MERGE = "merge"


class Comparison(Part, frozen=True, kw_only=True):
    """Paired comparison of two models on the same items: a minus b, positive is better for a."""

    a: str
    b: str
    metric: str
    effect: float
    low: float
    high: float
    """95 % interval of `effect` (or 1 - `alpha` where an alpha was spent)."""
    p_value: float
    items: int
    alpha: float = 0.05
    method: str = ""


class Recommendation(Part, frozen=True, kw_only=True):
    """What consensus proposes for one specialization after one topic. `id` is derived from the topic's id."""

    id: str
    topic: str
    specialization: str
    choice: Choice
    why: str
    effect: float
    interval: tuple[float, float]
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...] = ()
    champion_before: str = ""
    """Model digest of the champion it was compared with; empty when there was none."""
    champion_revision: int = 0
    """Revision of the champion's record that was read; the promotion is a compare-and-set against it."""
    holdout: str = ""
    """Digest of the holdout split."""
    holdout_examples: int = 0
    validation: str = ""
    """Digest of the validation split."""
    tree: Facts = {}
    """`metric`, `value`, `baseline`, `baseline_linear`, `interval`, `holdout_examples` of the result document."""
    what_would_change_it: str = ""
    independent_required: bool = False
    kpis: tuple[tuple[str, float | None, float | None], ...] = ()
    """The topic's own KPI conditions: (metric, minimum, maximum)."""
    champion_outcomes: str = ""
    """Digest of the champion's per-item outcomes on this holdout; empty when there was none."""
    holdout_uses: int = 0
    """Challengers compared on this holdout so far, these candidates included: alpha is spent over them."""
    fits: str = ""
    """Form of the topic's data: what a model that was trained on it can read; see Champion.fits."""
    taken: str = ""
    """Name of the candidate that is taken, where several are of one line."""
    metric: str = "accuracy"
    """What decided: 'accuracy', or 'loss' where the items have no labels."""
    champion_kpis: dict[str, float] = {}
    """What was measured of the champion that it was compared with."""
    audit: str = ""
    """Digest of the audit split: read once after a promotion, by nobody before."""
    trace: str = ""
    """Span that made it, as W3C `traceparent` writes it; '' without one."""
    champion_base: str = ""
    """Where the champion is an adapter: digest of the model that it adapts."""

    def __post_init__(self) -> None:
        check_name(self.id, "a recommendation's id")
        check_name(self.topic, "a recommendation's topic")
        check_name(self.specialization, "a recommendation's specialization")


class Check(Part, frozen=True, kw_only=True):
    """One KPI of a verdict."""

    name: str
    passed: bool
    value: float | None
    bound: float | None
    why: str


class Verdict(Record, frozen=True, kw_only=True):
    """The gate's accept or reject of a recommendation, KPI by KPI. Written before the champion is."""

    kind: ClassVar[str] = "verdict"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    id: str
    topic: str
    specialization: str
    accepted: bool
    choice: Choice
    checks: tuple[Check, ...]
    why: str
    recommendation: Recommendation
    champion: str = ""
    """Model digest that is champion once this verdict is carried out."""
    champion_version: int = 0
    decided_at_ms: int = 0
    bounds: dict[str, float] = {}
    """Bound of each policy that was in force, by its name: what the verdict is computed again with."""
    champion_revision: int = 0
    """Revision of the champion's record that the gate saw."""

    def __post_init__(self) -> None:
        check_name(self.id, "a verdict's id")

    @property
    def looked_at(self) -> bool:
        """Is it followed by a look at the audit split? After a promotion over a champion: one `audit` names it."""
        promoted = self.accepted and self.choice is not Choice.KEEP
        return promoted and bool(self.recommendation.audit and self.recommendation.champion_before)


class Version(Part, frozen=True, kw_only=True):
    """An earlier version of a champion: a step of its lineage, for people."""

    version_number: int
    model: str
    """First twelve digits of the model's digest: a lineage keeps no model in the store."""
    line: Line
    topic: str
    verdict: str
    changed: str = ""
    metric: str = ""
    effect: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    """What it brought when it was promoted: against the champion before it, on the holdout."""
    at_ms: int = 0
    event: str = "promoted"
    reason: str = ""


class Champion(Record, frozen=True, kw_only=True):
    """The accepted model of a specialization, with its lineage. One record per specialization, by compare-and-set."""

    kind: ClassVar[str] = "champion"

    specialization: str
    name: str = ""
    version_number: int
    """1 for the first champion; rises by one with every promotion."""
    model: str
    topic: str
    task: str
    line: Line
    verdict: str
    parent_model: str = ""
    """The champion before; its record is the stream's previous message of this subject."""
    kpis: dict[str, float] = {}
    settings: Facts = {}
    changed: str = ""
    holdout: str = ""
    """Digest of the holdout split on which it was judged."""
    outcomes: str = ""
    """Digest of its per-item outcomes on that holdout: later challengers are compared with them."""
    holdout_uses: int = 1
    """How many challengers were compared on this holdout: alpha is spent over them."""
    promoted_at_ms: int = 0
    fits: str = ""
    """Form of the data that the model reads: 'text', or 'tabular' with the number and digest of its input columns.
    Empty in records of programs that did not say."""
    flat: str = ""
    """Where the model is a tree: digest of the flat model in it, from which the evolver goes on. Empty otherwise."""
    uses: dict[str, int] = {}
    """How often each split was used before: challengers on other holdouts than this one, and looks at audit splits. By
    the first 16 digits of its digest, the last 64 of them."""
    audit_looks: int = 0
    """Looks at the audit split, one for each promotion over a champion, all splits together."""
    continued: str = ""
    """Digest of the model from which its training went on; empty when it began from zero."""
    metric: str = ""
    """Of `effect`: 'accuracy' or 'loss'."""
    effect: float = 0.0
    """What decided for it: against the champion before it, or the linear baseline; positive is better."""
    interval: tuple[float, float] = (0.0, 0.0)
    event: str = "promoted"
    """How it became champion: 'promoted' by a verdict, or 'rolled back' to by a person."""
    reason: str = ""
    """The person's, of going back."""
    lineage: tuple[Version, ...] = ()
    """The versions before this one, oldest first, the last 64 of them."""
    base: str = ""
    """Where the model is an adapter: digest of the model that it adapts, without which it is none."""
    full: str = ""
    """Where the model's weights are rounded to few bits: digest of the model whose weights they were, from which the
    evolver goes on. Empty otherwise."""

    @property
    def trainable(self) -> str:
        """Digest of the model that a line can go on from: of a tree the flat one in it, of a rounded one the one that
        was rounded."""
        return self.flat or self.full or self.model

    def uses_of(self, split: str) -> int:
        """Challengers that were compared on this holdout, whoever was champion then; or looks at this audit split."""
        known = self.uses.get(split[:16], 0)
        return self.holdout_uses if split == self.holdout else known


class Audit(Record, frozen=True, kw_only=True):
    """What the audit split says of a promotion, after the verdict: it changes nothing. Read once per promotion."""

    kind: ClassVar[str] = "audit"

    id: str
    topic: str
    specialization: str
    verdict: str
    audit: str
    """Digest of the audit split."""
    looks: int = 0
    """How often this split was looked at for this specialization, this look included."""
    before: str = ""
    """Model digest of the champion before."""
    after: str = ""
    """Model digest of the one that was promoted."""
    comparisons: tuple[Comparison, ...] = ()
    """The promoted one minus the one before, at 95 %."""
    worse: bool = False
    """Is the promoted one significantly worse on it?"""
    why: str = ""
    items: int = 0

    def __post_init__(self) -> None:
        check_name(self.id, "an audit's id")
