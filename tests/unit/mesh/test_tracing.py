"""W3C trace context: what a header may look like, what is passed on, and what is left behind."""

from __future__ import annotations

import asyncio
import re

import pytest
from multidict import CIMultiDict

from mesh import tracing
from mesh.tracing import Trace

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def test_a_header_says_trace_span_and_flags() -> None:
    assert tracing.read(PARENT) == Trace(TRACE_ID, SPAN_ID, sampled=True)
    assert tracing.read(f" {PARENT[:-2]}00\t") == Trace(TRACE_ID, SPAN_ID, sampled=False)
    assert Trace(TRACE_ID, SPAN_ID).parent == PARENT
    assert Trace(TRACE_ID, SPAN_ID, sampled=False).parent == PARENT[:-2] + "00"


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT + "-",
        PARENT + "-more",
        PARENT + "a",
        PARENT[:-1],
        PARENT[:-2] + "0g",
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace("00-", "0-", 1),
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01",
        f"00-{TRACE_ID}_{SPAN_ID}-01",
        f"01-{TRACE_ID}-{SPAN_ID}-01more",
        f"{PARENT},{PARENT}",
        f"{PARENT}\n",
    ],
)
def test_a_header_that_breaks_the_rules_is_none(parent: str) -> None:
    assert tracing.read(parent) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """Unknown flags are left behind, and the version that we write is ours."""
    for parent in (f"cc-{TRACE_ID}-{SPAN_ID}-ff", f"01-{TRACE_ID}-{SPAN_ID}-03-what-comes-then"):
        found = tracing.read(parent)
        assert found is not None
        assert found.parent == PARENT


def test_headers_are_found_in_any_case_and_once() -> None:
    wanted = Trace(TRACE_ID, SPAN_ID, state="a=1,b=2")
    assert tracing.from_headers({"TraceParent": PARENT, "TRACESTATE": "a=1, b=2"}) == wanted
    assert (
        tracing.from_headers(CIMultiDict([("traceparent", PARENT), ("tracestate", "a=1"), ("Tracestate", "b=2")]))
        == wanted
    )
    assert tracing.from_headers([("traceparent", PARENT), ("traceparent", PARENT)]) is None
    assert tracing.from_headers({"tracestate": "a=1"}) is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("", ""),
        (" a=1\t,, b=2 ,", "a=1,b=2"),
        ("congo=t61rcWkgMzE,tenant@vendor=x y", "congo=t61rcWkgMzE,tenant@vendor=x y"),
        ("0tenant@vendor=x,a_-*/=~!", "0tenant@vendor=x,a_-*/=~!"),
        ("a=1,b", ""),
        ("a=1,A=2", ""),
        ("a=1,a=2", ""),
        ("a=,b=2", ""),
        ("a=x=y", ""),
        ("a=\u00e4", ""),
        ("0a=1", ""),
        ("a@" + "b" * 15 + "=1", ""),
        ("a" * 256 + "=1", "a" * 256 + "=1"),
        ("a" * 257 + "=1", ""),
        ("a=" + "x" * 257, ""),
        (",".join(f"k{n}=v" for n in range(32)), ",".join(f"k{n}=v" for n in range(32))),
        (",".join(f"k{n}=v" for n in range(33)), ""),
    ],
)
def test_a_state_is_passed_on_whole_or_not_at_all(state: str, kept: str) -> None:
    found = tracing.read(PARENT, state)
    assert found is not None, "a bad state does not take the trace along"
    assert found.state == kept


def test_a_long_state_loses_its_long_members_first_then_its_oldest() -> None:
    long, short = "long=" + "x" * 200, [f"k{n}=" + "v" * 90 for n in range(5)]
    assert tracing.bounded(",".join([short[0], long, *short[1:4], "z=1"])) == ",".join([*short[:4], "z=1"])
    assert tracing.bounded(",".join(short)) == ",".join(short)
    more = [*short, "y=" + "v" * 90]
    assert tracing.bounded(",".join(more)) == ",".join(more[:5])
    assert len(tracing.bounded(",".join(more))) <= tracing.STATE_CHARS_MAX


def test_what_comes_in_goes_on_in_a_span_of_its_own() -> None:
    assert tracing.headers() == {}
    with tracing.incoming({"traceparent": PARENT, "tracestate": "a=1"}) as trace:
        assert (trace.trace_id, trace.state) == (TRACE_ID, "a=1")
        assert trace.span_id != SPAN_ID
        assert tracing.headers() == {"traceparent": trace.parent, "tracestate": "a=1"}
        with tracing.within(None):
            assert tracing.headers() == {}
    assert tracing.current() is None
    with tracing.incoming({"traceparent": "nonsense"}) as new:
        assert re.fullmatch("[0-9a-f]{32}", new.trace_id)
        assert tracing.read(new.parent) == new


def test_a_message_that_is_full_goes_without() -> None:
    with tracing.within(Trace(TRACE_ID, SPAN_ID, state="a=1")):
        assert tracing.with_headers(None, 1_000) == {"traceparent": PARENT, "tracestate": "a=1"}
        assert tracing.with_headers({"x": "y"}, 75) == {"x": "y", "traceparent": PARENT}
        assert tracing.with_headers({"x": "y"}, 69) == {"x": "y"}
        assert tracing.with_headers({"traceparent": "mine"}, 1_000) == {"traceparent": "mine"}
    assert tracing.with_headers(None, 1_000) is None


def test_derived_spans_are_the_same_everywhere_and_drawn_ones_differ() -> None:
    one, other = tracing.derived("topic", "t1"), tracing.derived("topic", "t2")
    assert one == tracing.derived("topic", "t1")
    assert one.trace_id != other.trace_id
    assert one.named("task", "0-1") == one.named("task", "0-1") != one.named("task", "0-2")
    drawn = {tracing.begin().trace_id for _ in range(100)} | {one.child().span_id for _ in range(100)}
    assert len(drawn) == 200
    assert all(tracing.read(trace.parent) == trace for trace in (one, other, one.child(), one.named("x")))


def test_a_command_goes_on_with_its_callers_trace() -> None:
    found = tracing.from_environment({"TRACEPARENT": PARENT, "TRACESTATE": "a=1"})
    assert (found.trace_id, found.state) == (TRACE_ID, "a=1")
    assert found.span_id != SPAN_ID
    assert tracing.from_environment({"TRACEPARENT": "00"}).trace_id != TRACE_ID


async def test_tasks_that_start_inside_are_inside() -> None:
    async def look() -> Trace | None:
        return tracing.current()

    with tracing.within(Trace(TRACE_ID, SPAN_ID)) as trace:
        started = asyncio.create_task(look())
    assert await started == trace
    assert await asyncio.create_task(look()) is None
