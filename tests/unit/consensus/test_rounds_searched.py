"""A line that searched for its settings: what it found stands in its candidate, not what it was told to search."""

from __future__ import annotations

from consensus.rounds import next_step
from mesh.messages.base import Record
from mesh.messages.tasks import Line
from tests.support import rounds


def test_the_settings_and_words_of_a_searched_line_are_those_of_its_result() -> None:
    plan = rounds.plan(lines=(Line.REINVENTOR,), baseline=False)
    task = plan.tasks[0].evolve(executor="search-step", settings={"study": "s", "kind": "classify"})
    done = rounds.ended(task)
    assert done.outcome is not None
    found = {"settings": {"width": 9}, "changed": "from zero with width 9: trial 2"}
    records: list[Record] = [plan]
    for outcome in (done.outcome, type(done.outcome)(outputs=done.outcome.outputs, facts=found)):
        told = done.evolve(outcome=outcome)
        submits = next_step([*records, told], None, 0).submits
        evaluations = [rounds.ended(one) for submit in submits for one in submit.tasks]
        known = [*records, told, *(rounds.accepted(submit) for submit in submits), *evaluations]
        weighed = next_step(known, None, 0).weigh
        assert weighed is not None
        run = weighed.lines[0]
        expected = ({"width": 9}, found["changed"]) if outcome.facts else (task.settings, "")
        assert (run.settings, run.changed) == expected
