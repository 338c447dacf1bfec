"""Checking: whose claims are checked, and what a check leaves behind.

    streak   clean checks in a row of one worker, executor kind and version of it
    checked  always while the streak is below 10, then with probability 1/streak, never below 10 %; and always, whatever
             the streak, who would become champion
    failed   the streak is 0 again, and what was let through since the last failure (the last 64) is called back

Aim: to pay for few checks of those who have never been wrong, and to leave nobody a champion that was not checked
(adaptive replication, Anderson, BOINC, 2020). A cheat with a long streak may slip through with results that nothing
follows from, nine in ten of them, until the first draw that meets him: then all of them are looked at. A clean check
between them vouches for itself alone: who cheats in every second result passes many.

The draw: SHA-256 of the recommendation's id, the digest of the claims and that of the candidate's outcomes on the
holdout. Any number of consensus agents draw alike. Who trained can choose his claims until a hash suits him, but the
outcomes on the holdout, made later and by others from a split that he was never given, he can not know.

A model whose losses on its own training data are clearly higher than on data that it never saw is *suspicious*, and so
is a worker whose models are no better there, again and again (Gauntlet: a moving average of the sign). A model that
learned little looks like that, too, so it is no fault by itself: it takes a check, and the replay of a segment of its
training (`replay_due`).

Promises: pure functions; the same records lead to the same trust. Not covered: who checks is believed. A worker that
spoils the claims of others by false checks costs them their streaks, and is not found here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

from consensus.evidence import sufficient
from mesh import limits
from mesh.messages.judgement import Candidate, Evidence, Recommendation
from mesh.messages.trust import Streak, Trust, Unchecked

STREAK_TRUSTED = 10
"""Clean checks after which not every result is checked: fewer prove little (10 of 10 prove a rate of 0.72), more make
workers that come and go pay for ever."""

FLOOR = 0.10
"""Least probability of a check: a cheat with any streak expects to be met after ten results."""

REPLAY_SHARE = 0.05
"""Share of would-be champions of which a segment is trained again although nothing is wrong with them."""

REPLAY_STREAK = 3
"""Below it, a topic that requires independent checks has a segment of every would-be champion trained again: whoever
asks for strangers to be checked does not want a stranger's first model on its own word. Later checks speak for it."""

GAIN_ERRORS = 2.0
"""Standard errors beyond which one model's loss on its own data counts as clearly higher."""

SUSPICION_ALPHA = 0.05
"""Weight of the newest look in the moving average: one model that learned little does not count, twenty do."""

UNCHECKED_MAX = 64
"""Results remembered to be called back: at the floor one in 850 runs of luck is longer."""

COUNTED_MAX = 256
"""Recommendations of one ledger entry in which a worker has candidates."""

WHY_CHARS_MAX = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Whether claims are checked, and why."""

    check: bool
    why: str
    awaits_holdout: bool = False
    """It is drawn when the outcomes on the holdout are there."""


Known = dict[tuple[str, str, int], Streak]
"""(worker, executor kind, its version) to its streak."""

NEW = Streak(executor="")


def worker_of(incarnation: str) -> str:
    """Name of the worker whose life this is."""
    return incarnation.rpartition(".")[0] or incarnation


def known(trusts: Iterable[Trust]) -> Known:
    """Streaks by whose they are."""
    return {(one.worker, row.executor, row.version): row for one in trusts for row in one.streaks}


def probability(streak: int, *, would_be: bool = False) -> float:
    """Of a check of the next claims after so many clean checks."""
    if would_be or streak < STREAK_TRUSTED:
        return 1.0
    return max(1.0 / streak, FLOOR)


def drawn(*parts: str) -> float:
    """A number from 0 to below 1 that these texts, and nothing else, decide."""
    data = "\n".join(parts).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2.0**64


def decide(streak: Streak, recommendation: str, claims: str, holdout: str) -> Decision:
    """Whether the claims of a candidate are checked. recommendation: the id of the one that its round will end with;
    holdout: digest of its outcomes there, '' while there are none. Who would become champion is checked anyway."""
    chance = probability(streak.streak)
    if chance >= 1.0:
        missing = f"{streak.streak} of {STREAK_TRUSTED} clean checks in a row"
        return Decision(True, f"its worker has {missing}")
    if is_suspicious(streak):
        return Decision(True, "its worker's models often know their training data no better than other data")
    if not holdout:
        return Decision(False, "drawn when its outcomes on the holdout are there", awaits_holdout=True)
    number = drawn("check", recommendation, claims, holdout)
    told = f"{number:.3f} was drawn against {chance:.3f} after {streak.streak} clean checks in a row"
    return Decision(number < chance, told)


def is_suspicious(streak: Streak) -> bool:
    """Do its models repeatedly gain no more on their own data than on data that they never saw?"""
    return streak.suspicion < 0.0


def replay_due(
    streak: Streak, recommendation: str, holdout: str, *, suspicion: str = "", required: bool = False,
    share: float = REPLAY_SHARE,
) -> str:  # fmt: skip
    """Why a segment of a would-be champion's training is trained again, or ''. suspicion: what is odd about it;
    required: the topic requires independent checks; share: of would-be champions, without any reason."""
    if suspicion:
        return suspicion
    if is_suspicious(streak):
        return "its worker's models often know their training data no better than other data"
    if required and streak.streak < REPLAY_STREAK:
        return f"its worker has {streak.streak} of {REPLAY_STREAK} clean checks, and the topic requires another's word"
    number = drawn("replay", recommendation, holdout)
    return f"one in {round(1 / share)} would-be champions is" if share > 0 and number < share else ""


# -- what a check leaves behind ---------------------------------------------------------------------------------------


def after(trust: Trust | None, worker: str, made: Recommendation, ledger_seq: int) -> Trust:
    """The worker's trust after a recommendation is on record. One that is counted in already changes nothing."""
    trust = trust or Trust(worker=worker)
    counted = trust.counted if ledger_seq == trust.ledger_seq else ()
    if ledger_seq < trust.ledger_seq or made.id in counted:
        return trust
    own = [one for one in made.candidates if worker_of(one.incarnation) == worker and one.executor]
    for candidate in own:
        row = _counted(_row(trust, candidate.executor, candidate.executor_version), candidate, made)
        trust = _with(trust, row)
    return trust.evolve(ledger_seq=ledger_seq, counted=(*counted, made.id)[-COUNTED_MAX:])


def called_back(trust: Trust, result: Unchecked, executor: str, version: int, found: Evidence | None) -> Trust:
    """The worker's trust after a result that was called back has been checked. One that is not owed changes nothing.
    found: None when it could not be checked, and is let go."""
    row = _row(trust, executor, version)
    if result not in row.owed:
        return trust
    row = row.evolve(owed=tuple(one for one in row.owed if one != result))
    if found is None:
        return _with(trust, row)
    return _with(trust, _failed(row, fault) if (fault := fault_of(found)) else _clean(row, found))


def fault_of(found: Evidence) -> str:
    """What a check says against the worker that made the claims, or ''."""
    return (found.fault or sufficient(found, independent_required=False))[:WHY_CHARS_MAX]


def owed(trusts: Iterable[Trust]) -> list[tuple[Unchecked, Streak]]:
    """Results that were called back and wait for their check."""
    return [(one, row) for trust in trusts for row in trust.streaks for one in row.owed]


def suspicion_of(found: Evidence) -> str:
    """Why one candidate is suspicious: its loss on a sample of its own training data is clearly higher than on the
    validation split. A model that learned little knows both alike, so less than that is left to its worker's mean."""
    if found.gain is None or found.gain >= -GAIN_ERRORS * found.gain_error:
        return ""
    return f"its loss is higher on the data that it was given than on data that it never saw ({-found.gain:+.4f} nats)"


def _counted(row: Streak, candidate: Candidate, made: Recommendation) -> Streak:
    found = candidate.evidence
    if found is None:
        return _let_through(row, candidate, made) if candidate.unchecked else row
    if fault := fault_of(found):
        return _failed(row, fault)
    return _clean(row, found) if found.independent else _looked(row, found)


def _clean(row: Streak, found: Evidence) -> Streak:
    return _looked(row, found).evolve(streak=row.streak + 1, clean=row.clean + 1)


def _looked(row: Streak, found: Evidence) -> Streak:
    if found.gain is None:
        return row
    sign = 1.0 if found.gain > 0.0 else -1.0
    return row.evolve(suspicion=(1.0 - SUSPICION_ALPHA) * row.suspicion + SUSPICION_ALPHA * sign)


def _failed(row: Streak, why: str) -> Streak:
    """The streak begins anew, and what was let through is called back."""
    back = (*row.owed, *(one for one in row.unchecked if one not in row.owed))[-UNCHECKED_MAX:]
    return row.evolve(streak=0, failed=row.failed + 1, why=why, unchecked=(), owed=back)


def _let_through(row: Streak, candidate: Candidate, made: Recommendation) -> Streak:
    result = Unchecked(
        topic=made.topic,
        specialization=made.specialization,
        task=candidate.task,
        line=candidate.line,
        incarnation=candidate.incarnation,
        model=candidate.model,
        claims=candidate.claims,
        split=made.validation,
        base=candidate.base,
    )
    if not result.split or not result.claims:
        return row
    return row.evolve(passed_by=row.passed_by + 1, unchecked=(*row.unchecked, result)[-UNCHECKED_MAX:])


def _row(trust: Trust, executor: str, version: int) -> Streak:
    rows = (row for row in trust.streaks if (row.executor, row.version) == (executor, version))
    return next(rows, Streak(executor=executor, version=version))


def _with(trust: Trust, row: Streak) -> Trust:
    """With this row as the newest; the one that was not touched for longest is forgotten when there are too many."""
    others = [one for one in trust.streaks if (one.executor, one.version) != (row.executor, row.version)]
    return trust.evolve(streaks=(*others, row)[-limits.STREAKS_PER_WORKER_MAX :])
