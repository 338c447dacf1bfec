"""A mesh of honest and dishonest workers, checked by consensus/checking.py alone: who is caught, and at what cost.

    each round   some workers bring a candidate each; one of them would become champion
    a cheat      is a candidate whose claims no check reproduces
    dishonest    'always': every candidate is a cheat
                 'sleeper': honest until the streak allows unchecked results, then cheats with a share of them

Everything that decides here is the mind's own: the draw, the streak, the calling back. Seeded; nothing is trained.
"""

from __future__ import annotations

import dataclasses
import random

from consensus import checking
from mesh.messages.judgement import Candidate, Choice, Evidence, Recommendation
from mesh.messages.tasks import Line
from mesh.messages.trust import Streak, Trust

CLAIMS = 200
KIND = "classify"


@dataclasses.dataclass(slots=True)
class Counts:
    """What happened. Results of all workers, and of them cheats."""

    results: int = 0
    checks: int = 0
    """Results whose claims were checked in their round."""
    called_back: int = 0
    """Results that were checked afterwards, because a failure called them back."""
    cheats: int = 0
    caught: int = 0
    """Cheats found in their round."""
    caught_later: int = 0
    champions: int = 0
    cheats_champions: int = 0

    @property
    def cost(self) -> float:
        """Checks per result, of either sort."""
        return (self.checks + self.called_back) / max(1, self.results)

    @property
    def found(self) -> float:
        """Share of the cheats that were found, in their round or later; 1.0 when there were none."""
        return (self.caught + self.caught_later) / self.cheats if self.cheats else 1.0


@dataclasses.dataclass(slots=True)
class _Worker:
    name: str
    dishonest: bool
    trust: Trust

    @property
    def streak(self) -> Streak:
        return checking.known([self.trust]).get((self.name, KIND, 1), checking.NEW)


def simulate(
    *, workers: int = 20, dishonest: float = 0.05, rounds: int = 1_000, lines: int = 2, strategy: str = "always",
    cheating: float = 0.5, seed: int = 0,
) -> Counts:  # fmt: skip
    """Play so many rounds. cheating: share of a sleeper's results that are cheats once it is trusted."""
    chance, counts = random.Random(seed), Counts()
    number = round(workers * dishonest)
    mesh = [_Worker(f"w{i}", i < number, Trust(worker=f"w{i}")) for i in range(workers)]
    cheats: set[str] = set()
    for at in range(1, rounds + 1):
        chosen = chance.sample(mesh, lines)
        would_be = chance.randrange(lines)
        made = []
        for place, worker in enumerate(chosen):
            task = f"t{at}-{place}"
            if worker.dishonest and (
                strategy == "always" or (worker.streak.streak >= checking.STREAK_TRUSTED and chance.random() < cheating)
            ):
                cheats.add(task)
            decision = checking.decide(worker.streak, f"t{at}-recommendation", f"claims-{task}", f"holdout-{task}")
            checked = decision.check or place == would_be
            made.append(_candidate(worker, task, checked=checked, cheat=task in cheats))
            counts.results, counts.cheats = counts.results + 1, counts.cheats + (task in cheats)
            counts.checks += checked
            counts.caught += checked and task in cheats
        champion = made[would_be]
        if champion.evidence is not None and not checking.fault_of(champion.evidence):
            counts.champions += 1
            counts.cheats_champions += champion.task in cheats
        said = _said(at, tuple(made))
        for worker in {id(one): one for one in chosen}.values():
            worker.trust = checking.after(worker.trust, worker.name, said, at)
            _call_back(worker, cheats, counts)
    return counts


def _call_back(worker: _Worker, cheats: set[str], counts: Counts) -> None:
    for result, _ in checking.owed([worker.trust]):
        cheat = result.task in cheats
        counts.called_back += 1
        counts.caught_later += cheat
        worker.trust = checking.called_back(worker.trust, result, KIND, 1, _evidence(cheat=cheat))


def _candidate(worker: _Worker, task: str, *, checked: bool, cheat: bool) -> Candidate:
    return Candidate(
        line=Line.EVOLVER, task=task, incarnation=f"{worker.name}.aa", model=f"model-{task}", executor=KIND,
        claims=f"claims-{task}", evidence=_evidence(cheat=cheat) if checked else None, unchecked=not checked,
    )  # fmt: skip


def _evidence(*, cheat: bool) -> Evidence:
    reproduced = CLAIMS // 3 if cheat else CLAIMS
    return Evidence(
        claims=CLAIMS, reproduced=reproduced, rate=reproduced / CLAIMS, lower=0.26 if cheat else 0.98, independent=True
    )


def _said(at: int, candidates: tuple[Candidate, ...]) -> Recommendation:
    return Recommendation(
        id=f"t{at}-recommendation", topic=f"t{at}", specialization="s", choice=Choice.KEEP, why="simulated",
        effect=0.0, interval=(0.0, 0.0), candidates=candidates, validation="split",
    )  # fmt: skip
