"""The circuit breaker: its rules one by one, then any history at all against a second, stupid implementation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from executors.breaker import Breaker, BreakerPolicy, Position, Refusal, Ticket

POLICY = BreakerPolicy(errors_max=3, timeout_s=30.0, pause_s=300.0)


def taken(breaker: Breaker, now: float) -> Ticket:
    ticket = breaker.ask(now)
    assert isinstance(ticket, Ticket), ticket
    return ticket


def refused(breaker: Breaker, now: float) -> Refusal:
    answer = breaker.ask(now)
    assert isinstance(answer, Refusal)
    return answer


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker("GPU 0", POLICY)
    for _ in range(3):
        breaker.ended(taken(breaker, at), at, "illegal memory access")
    assert breaker.position(at) is Position.OPEN
    return breaker


def test_three_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker("GPU 0", POLICY)
    for error in ("a", "b", "", "c", "d"):
        breaker.ended(taken(breaker, 0.0), 0.0, error)
    assert breaker.position(0.0) is Position.CLOSED
    breaker.ended(taken(breaker, 0.0), 0.0, "e")
    assert breaker.position(0.0) is Position.OPEN
    assert refused(breaker, 1.0) == Refusal("GPU 0 failed 3 times in a row (e): 299 s", 299.0)


def test_after_the_pause_exactly_one_call_tries_it() -> None:
    breaker = opened()
    refused(breaker, 299.9)
    probe = taken(breaker, 300.0)
    assert [refused(breaker, 300.0).wait_s for _ in range(50)] == [0.0] * 50
    breaker.ended(probe, 301.0)
    assert breaker.position(301.0) is Position.CLOSED
    assert breaker.errors == 0


def test_a_probe_that_fails_begins_the_pause_anew() -> None:
    breaker = opened()
    breaker.ended(taken(breaker, 300.0), 310.0, "again")
    assert refused(breaker, 310.0).wait_s == 300.0
    assert breaker.position(609.0) is Position.OPEN
    taken(breaker, 610.0)


def test_a_proof_closes_it_long_before_the_training_ends_and_an_error_of_that_counts_as_one() -> None:
    breaker = opened()
    probe = taken(breaker, 300.0)
    breaker.proved(probe, 301.0)
    assert breaker.position(301.0) is Position.CLOSED
    taken(breaker, 301.0)
    breaker.ended(probe, 9_000.0, "late trouble of an earlier generation")
    assert breaker.errors == 1  # the call that was begun at 301 proved nothing; the probe's end counts no more


def test_silence_is_a_failure_and_its_answer_comes_too_late() -> None:
    breaker = Breaker("GPU 0", POLICY)
    tickets = [taken(breaker, 0.0) for _ in range(3)]
    assert breaker.position(29.9) is Position.CLOSED
    assert breaker.position(30.0) is Position.OPEN
    for ticket in tickets:
        breaker.proved(ticket, 31.0)
        breaker.ended(ticket, 31.0)
    assert breaker.position(31.0) is Position.OPEN
    assert refused(breaker, 31.0).reason.startswith("GPU 0 failed 3 times in a row (no answer within 30 s)")


def test_what_has_proved_itself_may_take_as_long_as_it_likes() -> None:
    breaker = Breaker("GPU 0", POLICY)
    ticket = taken(breaker, 0.0)
    breaker.proved(ticket, 5.0)
    breaker.expire(100_000.0)
    breaker.ended(ticket, 100_000.0)
    assert breaker.errors == 0


def test_a_call_that_was_withdrawn_says_nothing_and_frees_the_probes_place() -> None:
    breaker = opened()
    breaker.withdrawn(taken(breaker, 300.0))
    assert breaker.position(301.0) is Position.HALF_OPEN
    taken(breaker, 301.0)


def test_a_ticket_counts_once() -> None:
    breaker = Breaker("GPU 0", POLICY)
    ticket = taken(breaker, 0.0)
    for _ in range(5):
        breaker.ended(ticket, 1.0, "the same failure, told again")
    assert breaker.errors == 1


def test_bounds_of_the_policy() -> None:
    for wrong in ({"errors_max": 0}, {"timeout_s": 0.0}, {"pause_s": -1.0}):
        with pytest.raises(ValueError, match="breaker"):
            BreakerPolicy(**wrong)


class Model(RuleBasedStateMachine):
    """Any order of calls, answers, doublets and passing time, against a history that is folded from its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = BreakerPolicy(errors_max=2, timeout_s=3.0, pause_s=10.0)
        self.breaker, self.now = Breaker("GPU 7", self.policy), 0.0
        self.tickets: list[Ticket] = []
        self.live: dict[int, dict[str, Any]] = {}
        self.state, self.errors, self.opened_at = "closed", 0, 0.0

    # the second implementation: every ticket that still counts, in plain words
    def fail(self) -> None:
        self.errors += 1
        if self.state == "half-open" or self.errors >= self.policy.errors_max:
            self.state, self.opened_at, self.live = "open", self.now, {}

    def good(self, *, proof: bool) -> None:
        if self.state == "half-open":
            self.state, self.errors, self.live = "closed", 0, {}
        elif not proof:
            self.errors = 0

    def settle(self) -> None:
        for number in sorted(self.live):
            call = self.live.get(number)
            if call and not call["proved"] and self.now >= call["deadline"]:
                del self.live[number]
                self.fail()
        if self.state == "open" and self.now - self.opened_at >= self.policy.pause_s:
            self.state, self.live = "half-open", {}

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.9, 3.0, 9.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        self.settle()
        answer = self.breaker.ask(self.now)
        expected = self.state == "closed" or (self.state == "half-open" and not self.live)
        assert isinstance(answer, Ticket) == expected
        if isinstance(answer, Ticket):
            self.tickets.append(answer)
            self.live[answer.number] = {"proved": False, "deadline": self.now + self.policy.timeout_s}
            assert self.state != "half-open" or len(self.live) == 1
        else:
            assert answer.reason
            assert 0 <= answer.wait_s <= self.policy.pause_s + 1e-9

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.settle_late()
        self.breaker.proved(ticket, self.now)
        call = self.live.get(ticket.number)
        if call and not call["proved"]:
            call["proved"] = True
            self.good(proof=True)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), error=st.sampled_from(["", "broken"]))
    def end(self, data: st.DataObject, error: str) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.settle_late()
        self.breaker.ended(ticket, self.now, error)
        if self.live.pop(ticket.number, None):
            self.fail() if error else self.good(proof=False)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.breaker.withdrawn(ticket)
        self.live.pop(ticket.number, None)

    def settle_late(self) -> None:
        """An answer looks at deadlines, and not at the end of a pause: that is seen when somebody asks."""
        for number in sorted(self.live):
            call = self.live.get(number)
            if call and not call["proved"] and self.now >= call["deadline"]:
                del self.live[number]
                self.fail()

    @invariant()
    def the_two_agree(self) -> None:
        self.settle()
        assert self.breaker.position(self.now).value == self.state
        assert self.breaker.errors == self.errors


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
TestAnyHistory = Model.TestCase
