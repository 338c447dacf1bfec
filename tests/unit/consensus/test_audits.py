"""What the audit split says of a promotion, and when nobody looks."""

from __future__ import annotations

from consensus.audits import Due, audited
from consensus.candidates import Read
from consensus.champions import next_champion
from consensus.gate import verdict
from consensus.recommendation import recommend
from mesh.messages.judgement import Champion, Verdict
from tests.support import rounds
from tests.support.outcomes import first, items
from tests.support.weighing import Bench

AUDIT = rounds.SPLITS["audit"]


def promotion(champion: Champion | None, right: int = 180, **more: object) -> Verdict:
    bench = Bench()
    bench.line("evolver", first(right, 200), **more)  # type: ignore[arg-type]
    made = recommend(bench.round(champion=champion, old=first(150, 200)), bench.read)
    return verdict(made, champion, made.champion_revision, decided_at_ms=5)


def due(champion: Champion | None = None) -> Due:
    return Due(promotion(champion or rounds.champion()), "", "after", "before")


def test_only_a_promotion_over_a_champion_is_looked_at() -> None:
    assert promotion(rounds.champion()).looked_at
    assert not promotion(None).looked_at, "nobody to be compared with"
    assert not promotion(rounds.champion(), 150).looked_at, "the champion was kept"
    assert not promotion(rounds.champion(), size_bytes=9e9).looked_at, "rejected"


def test_a_look_compares_the_promoted_model_with_the_one_before() -> None:
    read = {"after": items(first(90, 100), model="model-evolver", split=AUDIT), "before": items(first(70, 100))}
    found = audited(due(), read, 3)
    assert (found.id, found.verdict, found.looks) == ("t1-audit", "t1-verdict", 3)
    assert (found.before, found.after, found.items) == ("model-old", "model-evolver", 100)
    assert [(one.a, one.b, one.metric) for one in found.comparisons] == [
        ("after", "before", "accuracy"), ("after", "before", "loss"),
    ]  # fmt: skip
    assert found.comparisons[0].effect == 0.2
    assert not found.worse
    assert found.why.startswith("No harm is seen on the audit split: accuracy +0.2000 [+0.1")


def test_a_model_that_is_clearly_worse_there_is_called_so() -> None:
    read = {"after": items(first(60, 100)), "before": items(first(90, 100))}
    found = audited(due(), read, 1)
    assert found.worse
    assert found.why.startswith("The promoted model is significantly worse on the audit split: accuracy -0.3000")


def test_documents_are_looked_at_by_their_loss_alone() -> None:
    label = [0] * 50
    good, bad = [1.0 + 0.01 * (i % 5) for i in range(50)], [1.2 + 0.01 * (i % 3) for i in range(50)]
    read = {
        "after": items(first(50, 50), label=label, loss=good), "before": items(first(50, 50), label=label, loss=bad)
    }  # fmt: skip
    found = audited(due(), read, 1)
    assert [one.metric for one in found.comparisons] == ["loss"]
    assert "audit split: loss lower by 0.1" in found.why


def test_what_can_not_be_read_is_said_and_nothing_else() -> None:
    read: Read = {"after": items(first(9, 10)), "before": "the outcomes before can not be read: gone"}
    found = audited(due(), read, 1)
    assert (found.comparisons, found.worse) == ((), False)
    assert "can not be read: gone" in found.why
    other = {"after": items(first(9, 10), split="split-holdout"), "before": items(first(9, 10))}
    assert "on split split-audit" in audited(due(), other, 1).why
    fewer = {"after": items(first(9, 10)), "before": items(first(9, 11))}
    assert "the same items" in audited(due(), fewer, 1).why


def test_each_look_is_counted_in_the_champions_record_before_anybody_looks() -> None:
    old = rounds.champion()
    one = next_champion(promotion(old), old)
    assert one is not None
    assert (one.audit_looks, one.uses_of(AUDIT)) == (1, 1)
    again = promotion(one.evolve(model="model-old"))
    two = next_champion(again, one)
    assert two is not None
    assert (two.audit_looks, two.uses_of(AUDIT)) == (2, 2)
    fresh = next_champion(promotion(None), None)
    assert fresh is not None
    assert (fresh.audit_looks, fresh.uses) == (0, {})
