"""One trace from a topic to its verdict: what a record names, and what is put while it is handled."""

from __future__ import annotations

from mesh import codec, traced, tracing
from mesh.messages.base import Epoch
from mesh.messages.commands import Recommend, Refuse, Submit
from mesh.messages.judgement import Choice, Recommendation
from mesh.messages.results import Planned, RecommendationMade, TaskEnded
from mesh.messages.tasks import TaskSpec, TaskState
from mesh.messages.topics import Topic
from mesh.tracing import Trace

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", state="a=1")
TASK = TaskSpec(id="t1-profile", topic="t1", executor="profile")
MADE = Recommendation(
    id="t1-recommendation", topic="t1", specialization="s", choice=Choice.KEEP, why="because", effect=0.0,
    interval=(0.0, 0.0), candidates=(),
)  # fmt: skip


def test_a_topic_names_its_trace_or_it_follows_from_the_id() -> None:
    topic = Topic(id="t1", text="digits")
    assert traced.of(topic) == traced.of(topic.evolve(text="other", trace="nonsense")) == tracing.derived("topic", "t1")
    assert traced.of(topic.evolve(trace=TRACE.parent)) == Trace(TRACE.trace_id, TRACE.span_id)


def test_what_is_put_in_a_span_names_it_once() -> None:
    submit = Submit(id="t1-plan", topic="t1", tasks=(TASK, TASK.evolve(id="t1-x", trace="00-mine")))
    assert traced.stamped(submit) is submit, "nothing without a span"
    with tracing.within(TRACE):
        put = traced.stamped(submit)
        assert isinstance(put, Submit)
        assert [task.trace for task in put.tasks] == [TRACE.parent, "00-mine"]
        topic = traced.stamped(Topic(id="t2", text="a branch"))
        assert isinstance(topic, Topic)
        assert topic.trace == TRACE.parent
        recommend = traced.stamped(Recommend(recommendation=MADE))
        assert traced.of(recommend) == Trace(TRACE.trace_id, TRACE.span_id)
        refuse = Refuse(topic="t1", reason="no")
        assert traced.stamped(refuse) is refuse
    with tracing.within(TRACE.child()):
        assert traced.stamped(put) == put, "who has a trace keeps it"


def test_a_trace_goes_with_a_task_over_the_ledger_to_its_end() -> None:
    task = codec.decode(codec.encode(TASK.evolve(trace=TRACE.parent)), TaskSpec)
    ended = TaskEnded(topic="t1", specialization="s", task=task, state=TaskState.SUCCEEDED, ledger_seq=1, at_ms=1)
    planned = Planned(topic="t1", specialization="s", submit="x", tasks=(TASK, task), ledger_seq=1, at_ms=1)
    made = RecommendationMade(topic="t1", specialization="s", recommendation=MADE, ledger_seq=1, at_ms=1)
    assert traced.of(ended) == traced.of(planned) == Trace(TRACE.trace_id, TRACE.span_id)
    assert traced.of(made) is None


def test_an_attempt_is_a_span_that_everybody_finds() -> None:
    task = TASK.evolve(trace=TRACE.parent)
    first, second = traced.attempt(task, Epoch(1, 1)), traced.attempt(task, Epoch(1, 2))
    assert first is not None
    assert second is not None
    assert first.trace_id == second.trace_id == TRACE.trace_id
    assert len({first.span_id, second.span_id, TRACE.span_id}) == 3
    assert traced.attempt(task, Epoch(1, 1)) == first
    assert traced.attempt(TASK, Epoch(1, 1)) is None


def test_log_lines_say_what_a_record_is_about() -> None:
    ended = TaskEnded(
        topic="t1", specialization="s", task=TASK, state=TaskState.PARKED, epoch=Epoch(1, 3), ledger_seq=1, at_ms=1
    )
    assert traced.about(ended) == {"topic": "t1", "task": "t1-profile", "epoch": "1-3"}
    assert traced.about(Topic(id="t1", text="x")) == traced.about(Refuse(topic="t1", reason="no")) == {"topic": "t1"}
