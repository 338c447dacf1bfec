"""Gate: the verdict on a recommendation, KPI by KPI.

Policies are data (policies.py): a table of what must hold, with its bound or margin and the reason for it. A candidate
is promoted when every policy passes and every KPI that its topic names does; each check carries its number, its bound
and a sentence. The gate looks only at the recommendation and at the champion of now, and keeps the bounds that were in
force, so a verdict can be computed again from its record.

    evidence              claims reproduced by another worker: Wilson lower end
    independence          of the check, where the topic requires it
    better than chance    accuracy above that of the most frequent label, or equal to it with less loss than chance
    accuracy, loss        not worse than the champion by more than a margin, on the same items; without labels the loss
    latency, size, price  bounds that only a runaway model reaches, and how much slower than the champion it may be
    champion unchanged    the champion that was compared is still the champion
    the topic's KPIs      as they were published

`accepted` says that the recommendation is carried out. To keep a champion is accepted; to keep nothing is not, and the
checks say what each candidate lacked. Not covered: latency under load (it is measured item by item).
"""

from __future__ import annotations

from consensus import evidence
from consensus.comparison import ACCURACY
from consensus.policies import LATENCY_MS_FREE, POLICIES, Policy, Rule, bounds_of
from mesh.messages.base import derived_id
from mesh.messages.judgement import Candidate, Champion, Check, Choice, Comparison, Recommendation, Verdict
from mesh.messages.tasks import Line

Policies = tuple[Policy, ...]


CHAMPION_UNCHANGED = "champion unchanged"


def verdict(
    recommendation: Recommendation,
    champion: Champion | None,
    revision: int,
    *,
    decided_at_ms: int,
    policies: Policies = POLICIES,
) -> Verdict:
    """The gate's word on a recommendation. `champion`, `revision`: the specialization's newest record, None and 0
    without."""
    if recommendation.choice is Choice.KEEP:
        checks, accepted = _keep_checks(recommendation, policies), bool(recommendation.champion_before)
    else:
        candidate = chosen(recommendation)
        checks = (*judge(recommendation, candidate, policies), _unchanged(recommendation, champion, revision))
        accepted = all(check.passed for check in checks)
    promoted = accepted and recommendation.choice is not Choice.KEEP
    version = champion.version_number if champion is not None else 0
    stays = champion.model if champion is not None else ""
    return Verdict(
        id=verdict_id(recommendation),
        topic=recommendation.topic,
        specialization=recommendation.specialization,
        accepted=accepted,
        choice=recommendation.choice,
        checks=checks,
        why=_why(recommendation, checks, accepted),
        recommendation=recommendation,
        champion=chosen(recommendation).model if promoted else stays,
        champion_version=version + 1 if promoted else version,
        decided_at_ms=decided_at_ms,
        bounds=bounds_of(policies),
        champion_revision=revision,
    )


def verdict_id(recommendation: Recommendation) -> str:
    """Derived from the recommendation's id: one verdict for each."""
    return derived_id(recommendation.id.removesuffix("-recommendation"), "verdict")


def chosen(recommendation: Recommendation) -> Candidate:
    """The candidate that a recommendation other than KEEP takes."""
    line = Line(recommendation.choice.value)
    of_line = [candidate for candidate in recommendation.candidates if candidate.line is line]
    found = [one for one in of_line if named(one) == recommendation.taken] if recommendation.taken else of_line
    if not found:
        raise ValueError(f"the recommendation {recommendation.id} takes the {line.value} and lists no such candidate")
    return found[0]


def judge(recommendation: Recommendation, candidate: Candidate, policies: Policies = POLICIES) -> tuple[Check, ...]:
    """Every policy and every KPI of the topic, for one candidate."""
    asked = [policy for policy in policies if _applies(policy, recommendation)]
    checks = [_JUDGES[policy.rule](policy, recommendation, candidate) for policy in asked]
    own = [_own_check(candidate, *kpi) for kpi in recommendation.kpis]
    return (*checks, *own)


def _applies(policy: Policy, recommendation: Recommendation) -> bool:
    """One about accuracy asks nothing where nothing is right or wrong, one about the champion's times nothing where
    there is none, and one without a bound nothing at all."""
    if policy.rule is Rule.REGRESSION and policy.metric == ACCURACY:
        return recommendation.metric == ACCURACY
    if policy.rule is Rule.RATIO:
        return bool(recommendation.champion_before)
    return policy.rule is not Rule.IF_KNOWN or policy.bound > 0.0


def _keep_checks(recommendation: Recommendation, policies: Policies) -> tuple[Check, ...]:
    """Keeping a champion needs none to pass; keeping nothing says what every candidate lacked."""
    if recommendation.champion_before:
        why = f"no candidate is better, so the champion stays: {recommendation.champion_before[:12]}"
        return (Check(name="champion", passed=True, value=recommendation.effect, bound=None, why=why),)
    lacking = [
        Check(name=f"{named(line)}: {c.name}", passed=c.passed, value=c.value, bound=c.bound, why=c.why)
        for line in recommendation.candidates
        for c in judge(recommendation, line, policies)
    ]
    none = Check(name="candidate", passed=False, value=None, bound=None, why="no candidate can be promoted")
    return (none, *lacking)


def _unchanged(recommendation: Recommendation, champion: Champion | None, revision: int) -> Check:
    same_model = (champion.model if champion is not None else "") == recommendation.champion_before
    passed = same_model and revision == recommendation.champion_revision
    why = (
        "the champion that was compared is the champion of now"
        if passed
        else "the champion's record was written after the comparison: publish the topic again to challenge the new one"
    )
    bound = float(recommendation.champion_revision)
    return Check(name=CHAMPION_UNCHANGED, passed=passed, value=float(revision), bound=bound, why=why)


# -- the rules --------------------------------------------------------------------------------------------------------


def _evidence(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    found = candidate.evidence
    if found is None or found.claims < 1:
        return _check(policy, False, None, policy.bound, "nobody has checked its claims")
    bound = evidence.lower_wanted(found.claims, policy.bound)
    proves = f"{found.reproduced} of {found.claims} claims were reproduced, which proves a rate of {found.lower:.3f}"
    few = f" (so few claims can prove {bound:.3f} at best)" if bound < policy.bound else ""
    return _check(policy, found.lower >= bound, found.lower, bound, f"{proves}; wanted {bound:.3f}{few}")


def _independence(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    found, required = candidate.evidence, recommendation.independent_required
    independent = found is not None and found.independent
    if found is None or not found.checked_by:
        who = "nobody did the check"
    else:
        who = (
            "another incarnation did the check" if independent else "the incarnation that trained it did the check, too"
        )
    need = "required" if required else "not required"
    return _check(
        policy, independent or not required, float(independent), float(required), f"{who}; {need} by the topic"
    )


def _chance(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    kpis = candidate.kpis
    if recommendation.metric != ACCURACY:
        return _knows_something(policy, candidate)
    accuracy, majority = kpis.get("accuracy"), kpis.get("majority_accuracy")
    if accuracy is None or majority is None:
        return _check(policy, False, accuracy, majority, "it was not measured on the holdout")
    told = f"accuracy {accuracy:.4f}, always the most frequent label {majority:.4f}"
    if accuracy > majority:
        return _check(policy, True, accuracy, majority, told)
    loss, chance = kpis.get("loss"), kpis.get("chance_loss")
    informed = loss is not None and chance is not None and loss < chance
    passed = informed and accuracy >= majority - policy.bound
    if loss is not None and chance is not None:
        told += f"; loss {loss:.4f} nats, label frequencies alone {chance:.4f}"
    return _check(policy, passed, accuracy, majority, told)


def _knows_something(policy: Policy, candidate: Candidate) -> Check:
    """Without labels: less loss than of who knows nothing."""
    loss, chance = candidate.kpis.get("loss"), candidate.kpis.get("chance_loss")
    if loss is None or chance is None:
        return _check(policy, False, loss, chance, "it was not measured on the holdout")
    told = f"loss {loss:.4f} nats, of who knows nothing {chance:.4f}"
    return _check(policy, loss < chance, loss, chance, told)


def _regression(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    if not recommendation.champion_before:
        value = candidate.kpis.get(policy.metric)
        return _check(policy, value is not None, value, None, "there is no champion yet to fall behind")
    found = against_champion(recommendation, candidate, policy.metric)
    if found is None:
        return _check(policy, False, None, -policy.bound, "it was not compared with the champion")
    what = "higher" if policy.metric == ACCURACY else "lower"
    unit = f" {policy.unit}" if policy.unit else ""
    why = (
        f"{policy.metric} {what} than the champion's by {found.effect:+.4f}{unit} "
        f"[{found.low:+.4f}, {found.high:+.4f}]; at most {policy.bound:g}{unit} worse is allowed"
    )
    return _check(policy, found.effect >= -policy.bound, found.effect, -policy.bound, why)


def _at_most(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    value = candidate.kpis.get(policy.metric)
    if value is None:
        return _check(policy, False, None, policy.bound, f"nobody measured {policy.metric}")
    told, bound = amounts(value, policy.bound, policy.unit)
    why = f"{told}, at most {bound} wanted"
    return _check(policy, value <= policy.bound, value, policy.bound, why)


def _ratio(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    value, before = candidate.kpis.get(policy.metric), recommendation.champion_kpis.get(policy.metric)
    if value is None or not before:
        return _check(policy, True, None, policy.bound, "there is nothing to compare it with")
    ratio = value / before
    told = f"{amount(value, 'ms')} where the champion took {amount(before, 'ms')}"
    if value <= LATENCY_MS_FREE:
        return _check(policy, True, ratio, policy.bound, f"{told}: fast enough, whatever the champion's was")
    why = f"{told}; at most {policy.bound:g} times as long is allowed"
    return _check(policy, ratio <= policy.bound, ratio, policy.bound, why)


def _if_known(policy: Policy, recommendation: Recommendation, candidate: Candidate) -> Check:
    value = candidate.kpis.get(policy.metric)
    if value is None:
        return _check(policy, True, None, policy.bound, f"nobody said its {policy.metric}")
    return _at_most(policy, recommendation, candidate)


def amounts(value: float, bound: float, unit: str) -> tuple[str, str]:
    """A measured value and its bound with their unit, for people; exact where rounding would
    make them look equal."""
    told = amount(value, unit), amount(bound, unit)
    if told[0] == told[1] and value != bound:
        return f"{value:,.15g} {unit}".strip(), f"{bound:,.15g} {unit}".strip()
    return told


def amount(value: float, unit: str) -> str:
    """A number with its unit: 209.1 kB, 8 GB, 4.7 ms, 0.988."""
    if unit == "bytes":
        power = next((power for power in (4, 3, 2, 1) if abs(value) >= 1_000**power), 0)
        return f"{_short(value / 1_000**power)} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
    return f"{_short(value)} {unit}" if unit else f"{value:.6g}"


def _short(value: float) -> str:
    """One decimal from 1 on, three digits below; none where it would be zero."""
    text = f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3g}"
    return text.removesuffix(".0")


_JUDGES = {
    Rule.EVIDENCE: _evidence,
    Rule.INDEPENDENCE: _independence,
    Rule.CHANCE: _chance,
    Rule.REGRESSION: _regression,
    Rule.AT_MOST: _at_most,
    Rule.RATIO: _ratio,
    Rule.IF_KNOWN: _if_known,
}


def _own_check(candidate: Candidate, metric: str, minimum: float | None, maximum: float | None) -> Check:
    """One condition that the topic named: at least the minimum, at most the maximum."""
    value = _value(candidate, metric)
    name = f"topic: {metric}"
    bound = minimum if minimum is not None else maximum
    if value is None:
        known = ", ".join(sorted(candidate.kpis)) or "nothing"
        return Check(
            name=name, passed=False, value=None, bound=bound, why=f"nobody measured {metric}; measured: {known}"
        )
    passed = (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
    unit = next((unit for unit in ("bytes", "ms") if metric.endswith(f"_{unit}")), "")
    limits = {word: limit for word, limit in (("at least", minimum), ("at most", maximum)) if limit is not None}
    told = next((amounts(value, limit, unit)[0] for limit in limits.values()), amount(value, unit))
    wanted = " and ".join(f"{word} {amounts(value, limit, unit)[1]}" for word, limit in limits.items())
    why = f"{told}, {wanted} wanted by the topic"
    return Check(name=name, passed=passed, value=value, bound=bound, why=why)


def _value(candidate: Candidate, metric: str) -> float | None:
    found = candidate.evidence
    if found is not None and metric in ("evidence_rate", "evidence_lower"):
        return found.rate if metric == "evidence_rate" else found.lower
    return candidate.kpis.get(metric)


def against_champion(recommendation: Recommendation, candidate: Candidate, metric: str) -> Comparison | None:
    """The recommendation's comparison of this candidate with the champion."""
    wanted = (named(candidate), "champion", metric)
    return next((c for c in recommendation.comparisons if (c.a, c.b, c.metric) == wanted), None)


def named(candidate: Candidate) -> str:
    """How comparisons call a candidate: by its own name, or its line's where a program did not say."""
    return candidate.name or candidate.line.value


def _check(policy: Policy, passed: bool, value: float | None, bound: float | None, why: str) -> Check:
    reason = why if passed else f"{why} ({policy.why})"
    return Check(name=policy.name, passed=passed, value=value, bound=bound, why=reason)


def _why(recommendation: Recommendation, checks: tuple[Check, ...], accepted: bool) -> str:
    if recommendation.choice is Choice.KEEP:
        return recommendation.why
    failed = [f"{check.name}: {check.why}" for check in checks if not check.passed]
    if accepted:
        return f"All {len(checks)} checks passed. {recommendation.why}"
    return f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}."
