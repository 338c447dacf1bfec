"""The handling loop on the bus in memory and on virtual time: what each ending of a handler makes of its message."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agents import handling
from agents.runtime import Agent, now_s
from mesh import codec, limits, tracing, virtual_time
from mesh.bus import Stored, StreamSpec
from mesh.errors import BrokerRefused, BusUnavailable, Conflict, RamifyError, Reject, Retry, Stop
from mesh.memory import Faults, MemoryServer
from mesh.messages.services import Ask, Problem
from tests.support.agents import make

SPEC = StreamSpec(name="S", subjects=("s.>",), why="test")


class AckFaults(Faults):
    """Loses the first so many acknowledgements."""

    def __init__(self) -> None:
        self.lost = 0

    def latency_s(self, caller: str, what: str) -> float:
        if what == "ack" and self.lost:
            self.lost -= 1
            return math.inf
        return 0.0


Handler = Callable[["Scene", Ask, Stored], Awaitable[None]]


class Scene:
    """An agent that handles the messages of one stream."""

    def __init__(self, tmp_path: Path, handler: Handler) -> None:
        self.server = MemoryServer(faults=AckFaults())
        self.writer = self.server.connect("writer")
        self.agent = make(self.server, "gate", tmp_path)
        self.handled: list[tuple[str, float]] = []
        self._handler = handler

    @property
    def faults(self) -> AckFaults:
        """What goes wrong."""
        assert isinstance(self.server.faults, AckFaults)
        return self.server.faults

    async def _handle(self, record: Ask, stored: Stored) -> None:
        self.handled.append((record.what, now_s()))
        await self._handler(self, record, stored)

    async def body(self, agent: Agent) -> None:
        await handling.handle(agent, "S", "s.>", "gate", (Ask,), self._handle, ack_wait_s=60.0)

    async def put(self, *whats: str) -> None:
        for what in whats:
            await self.writer.append(f"s.{what}", codec.encode(Ask(what=what)))

    def names(self) -> list[str]:
        """What was handled, in order."""
        return [what for what, _ in self.handled]

    def failures(self, reason: str) -> float:
        """How many were counted."""
        return self.agent.metrics.value("mesh_handler_failures_total", role="gate", reason=reason)


def played(
    tmp_path: Path, handler: Handler,
    story: Callable[[Scene], Awaitable[None]], *, seconds: float = 600.0,
) -> Scene:  # fmt: skip
    """The agent at work for so long, beside the story."""

    async def play() -> Scene:
        scene = Scene(tmp_path, handler)
        await scene.writer.ensure(SPEC)
        asyncio.get_running_loop().call_later(seconds, scene.agent.stop)
        async with asyncio.TaskGroup() as group:
            group.create_task(scene.agent.work(scene.body))
            group.create_task(_told(scene, story))
        return scene

    return virtual_time.run(play())


async def _told(scene: Scene, story: Callable[[Scene], Awaitable[None]]) -> None:
    await story(scene)


async def fine(scene: Scene, record: Ask, stored: Stored) -> None:
    """A handler that has nothing to complain about."""


def raising(*errors: Exception | None) -> Handler:
    """A handler that raises these in turn, the last one for ever; None: it goes well."""

    async def handler(scene: Scene, record: Ask, stored: Stored) -> None:
        error = errors[min(len(scene.handled), len(errors)) - 1]
        if error is not None:
            raise error

    return handler


def test_every_message_is_handled_once_and_in_order(tmp_path: Path) -> None:
    scene = played(tmp_path, fine, lambda scene: scene.put("a", "b", "c"))
    assert scene.names() == ["a", "b", "c"]
    assert scene.agent.metrics.value("mesh_records_handled_total", role="gate", kind="ask") == 3


def test_a_record_is_handled_in_a_span_of_its_messages_trace(tmp_path: Path) -> None:
    seen: list[tracing.Trace | None] = []
    trace = tracing.begin()

    async def look(scene: Scene, record: Ask, stored: Stored) -> None:
        seen.append(tracing.current())

    async def story(scene: Scene) -> None:
        with tracing.within(trace):
            await scene.put("a")
        await scene.put("b")

    played(tmp_path, look, story)
    first, second = seen
    assert first is not None
    assert (first.trace_id, second) == (trace.trace_id, None)
    assert first.span_id != trace.span_id


def test_what_is_no_record_is_dropped_and_counted_and_the_next_one_is_handled(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.writer.append("s.x", b"\x00 nonsense")
        await scene.writer.append("s.x", codec.encode(Problem(reason="another kind")))
        await scene.put("good")

    scene = played(tmp_path, fine, story)
    assert scene.names() == ["good"]
    assert scene.failures("malformed") == 2


def test_retry_means_again_later_each_time(tmp_path: Path) -> None:
    away = BusUnavailable("the store does not answer")
    scene = played(tmp_path, raising(away, away, away, None), lambda scene: scene.put("a"))
    times = [at_s for _, at_s in scene.handled]
    assert [round(later - earlier, 1) for earlier, later in itertools.pairwise(times)] == [0.5, 1.0, 2.0]
    assert scene.failures("defect") == scene.failures("rejected") == 0


def test_the_next_message_does_not_wait_for_one_that_is_tried_again(tmp_path: Path) -> None:
    async def handler(scene: Scene, record: Ask, stored: Stored) -> None:
        if record.what == "hard" and scene.names().count("hard") < 3:
            raise BusUnavailable("not yet")

    scene = played(tmp_path, handler, lambda scene: scene.put("hard", "easy"))
    assert scene.names() == ["hard", "easy", "hard", "hard"]


def test_a_retry_is_never_given_up_and_waits_no_longer_than_the_bound(tmp_path: Path) -> None:
    scene = played(tmp_path, raising(BusUnavailable("an outage of an hour")), lambda s: s.put("a"), seconds=3_600)
    times = [at_s for _, at_s in scene.handled]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) == pytest.approx(handling.RETRY_S_MAX)
    assert len(times) > limits.HANDLE_ATTEMPTS_MAX


def test_reject_means_dropped_counted_and_not_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        scene = played(tmp_path, raising(Conflict("somebody was first"), None), lambda scene: scene.put("a", "b"))
    assert scene.names() == ["a", "b"]
    assert scene.failures("rejected") == 1
    assert "s.a can not be handled: somebody was first" in caplog.text


def test_stop_ends_the_agent_and_leaves_the_message(tmp_path: Path) -> None:
    scene = played(tmp_path, raising(BrokerRefused("these credentials were revoked")), lambda scene: scene.put("a"))
    with pytest.raises(BrokerRefused, match="revoked"):
        scene.agent.raise_failure()
    assert scene.names() == ["a"]
    assert scene.agent.stopping.is_set()


def test_a_defect_is_tried_a_bounded_number_of_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scene: Scene, record: Ask, stored: Stored) -> None:
        if record.what == "bad":
            raise ZeroDivisionError("a defect")

    with caplog.at_level(logging.CRITICAL + 1):
        scene = played(tmp_path, handler, lambda scene: scene.put("bad", "good"), seconds=3_600)
    assert scene.names().count("bad") == limits.HANDLE_ATTEMPTS_MAX
    assert scene.names().count("good") == 1
    assert scene.failures("defect") == limits.HANDLE_ATTEMPTS_MAX
    scene.agent.raise_failure()


def test_a_lost_acknowledgement_means_handled_again_and_nothing_worse(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.faults.lost = 1
        await scene.put("a", "b")

    scene = played(tmp_path, fine, story)
    assert sorted(scene.names()) == ["a", "a", "b"]
    scene.agent.raise_failure()


def test_an_outage_of_the_broker_interrupts_and_does_not_end(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.put("a")
        await asyncio.sleep(5)
        scene.server.crash()
        await asyncio.sleep(120)
        scene.server.restart()
        await scene.put("b")

    scene = played(tmp_path, fine, story)
    assert scene.names() == ["a", "b"]
    scene.agent.raise_failure()


def test_a_stream_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async def play() -> Scene:
        scene = Scene(tmp_path, fine)
        life = asyncio.create_task(scene.agent.work(scene.body))
        await asyncio.sleep(20)
        await scene.writer.ensure(SPEC)
        await scene.put("a")
        await asyncio.sleep(20)
        scene.agent.stop()
        await life
        return scene

    assert virtual_time.run(play()).names() == ["a"]


def test_the_stop_lets_the_handler_end_and_takes_nothing_new(tmp_path: Path) -> None:
    ended: list[str] = []

    async def handler(scene: Scene, record: Ask, stored: Stored) -> None:
        scene.agent.stop()
        await asyncio.sleep(5)
        ended.append(record.what)

    scene = played(tmp_path, handler, lambda scene: scene.put("a", "b"))
    assert scene.names() == ended == ["a"]


@pytest.mark.parametrize(("attempt", "wanted_s"), [(1, 0.5), (2, 1.0), (7, 30.0), (10**9, 30.0)])
def test_the_delay_is_doubled_and_bounded(attempt: int, wanted_s: float) -> None:
    assert handling.delay_s(attempt) == wanted_s


def test_every_error_of_ours_has_one_of_three_answers() -> None:
    """A class that were none of Retry, Reject and Stop would count as a defect."""
    assert set(RamifyError.__subclasses__()) == {Retry, Reject, Stop}
