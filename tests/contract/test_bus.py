"""Core messages: what both brokers promise."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mesh import limits, tracing
from mesh.bus import Broker, Message
from mesh.errors import BusUnavailable, Malformed, NotFound
from tests.contract.conftest import World, until, within


class Heard:
    """A handler that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]


async def test_a_subscription_is_active_when_subscribe_returns(world: World) -> None:
    one, other = await world.connect("a"), await world.connect("b")
    heard = Heard()
    for number in range(10):
        await one.subscribe(world.name(f"x{number}"), heard)
        await other.publish(world.name(f"x{number}"), b"%d" % number)
    await until(lambda: len(heard.messages) == 10)
    assert heard.data == [b"%d" % number for number in range(10)]


async def test_messages_arrive_whole_and_in_order(world: World) -> None:
    one, other = await world.connect("a"), await world.connect("b")
    heard = Heard()
    await one.subscribe(world.name("x.*.>"), heard)
    for number in range(500):
        await other.publish(world.name("x.y.z"), b"%d" % number, headers={"Trace": f"t-{number}", "Plain": "ü"})
    await other.publish(world.name("x.y"), b"too short for the pattern")
    await other.publish(world.name("x.y.z"), b"", reply=world.name("back"))
    await until(lambda: len(heard.messages) == 501)
    assert heard.data[:500] == [b"%d" % number for number in range(500)]
    assert heard.messages[7] == Message(world.name("x.y.z"), b"7", "", {"Trace": "t-7", "Plain": "ü"})
    assert heard.messages[500] == Message(world.name("x.y.z"), b"", world.name("back"), {})


async def test_what_is_sent_inside_a_span_names_it(world: World) -> None:
    """Core messages, requests and stored messages, with and without headers of their own; handlers run in that span."""
    one, other = await world.connect("a"), await world.connect("b")
    trace = tracing.Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", state="a=1")
    heard, spans = Heard(), []

    async def hear(message: Message) -> None:
        spans.append(tracing.current())
        await heard(message)
        if message.reply:
            await one.publish(message.reply, b"")

    await one.subscribe(world.name("x"), hear)
    await one.ensure(world.spec())
    with tracing.within(trace):
        await other.publish(world.name("x"), b"1")
        await other.publish(world.name("x"), b"2", headers={"Word": "w"})
        answer = await other.request(world.name("x"), b"3", timeout_s=10)
        await other.append(world.name("s.a"), b"", subject_seq=0, headers={"Word": "w"})
        await other.publish(world.name("x"), bytes(1024 * 1024 - limits.PAYLOAD_HEADROOM_BYTES - 10))
    await other.publish(world.name("x"), b"5")
    await until(lambda: len(spans) == 5)
    named = {"traceparent": trace.parent, "tracestate": "a=1"}
    assert [message.headers for message in heard.messages] == [named, {"Word": "w", **named}, named, {}, {}]
    assert spans == [trace, trace, trace, None, None]
    assert tracing.from_headers(answer.headers) == trace
    stored = await one.last(world.spec().name, world.name("s.a"))
    assert stored is not None
    assert stored.headers == {"Word": "w", **named}


async def test_one_of_a_queue_group_hears_each_message(world: World) -> None:
    brokers = [await world.connect(name) for name in ("a", "b", "c")]
    members, outsider = [Heard(), Heard()], Heard()
    for broker, heard in zip(brokers, members, strict=False):
        await broker.subscribe(world.name("work"), heard, queue="q")
    await brokers[2].subscribe(world.name("work"), outsider)
    for number in range(100):
        await brokers[2].publish(world.name("work"), b"%d" % number)
    await until(lambda: len(outsider.messages) == 100 and sum(len(heard.messages) for heard in members) >= 100)
    assert sorted(int(text) for heard in members for text in heard.data) == list(range(100))
    assert all(heard.messages for heard in members)


async def test_a_request_gets_the_first_answer(world: World) -> None:
    asker, answerer = await world.connect("a"), await world.connect("b")

    async def answer(message: Message) -> None:
        await answerer.publish(message.reply, message.data.upper(), headers={"Echo": message.headers["Word"]})
        await answerer.publish(message.reply, b"too late")

    await answerer.subscribe(world.name("ask"), answer)
    for word in ("one", "two"):
        got = await asker.request(world.name("ask"), word.encode(), timeout_s=10, headers={"Word": word})
        assert (got.data, got.headers) == (word.upper().encode(), {"Echo": word})
    together = [asker.request(world.name("ask"), b"%d" % n, timeout_s=10, headers={"Word": "w"}) for n in range(50)]
    assert [message.data for message in await asyncio.gather(*together)] == [b"%d" % n for n in range(50)]


async def test_answers_come_back_under_the_asker_s_own_name(world: World) -> None:
    asker, answerer = await world.connect("asker"), await world.connect("b")
    heard = Heard()
    await answerer.subscribe(world.name("ask"), heard)
    with pytest.raises(BusUnavailable):
        await asker.request(world.name("ask"), b"", timeout_s=0.05)
    assert heard.messages[0].reply.startswith(world.subjects.inbox("asker") + ".")


async def test_a_request_that_nobody_hears_fails_at_once(world: World) -> None:
    broker = await world.connect()
    with pytest.raises(NotFound, match="nobody listens"):
        await within(broker.request(world.name("nobody"), b"", timeout_s=3_600))


async def test_a_request_that_nobody_answers_fails_in_time(world: World) -> None:
    broker = await world.connect()
    await broker.subscribe(world.name("mute"), Heard())
    with pytest.raises(BusUnavailable, match="answered"):
        await broker.request(world.name("mute"), b"", timeout_s=0.05)


async def test_a_failing_handler_is_logged_and_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broker, heard = await world.connect(), Heard()

    async def fail_once(message: Message) -> None:
        await heard(message)
        if message.data == b"bad":
            raise ValueError("can not read this")

    await broker.subscribe(world.name("x"), fail_once)
    with caplog.at_level(logging.ERROR, logger="mesh.listening"):
        for data in (b"bad", b"good"):
            await broker.publish(world.name("x"), data)
        await until(lambda: heard.data == [b"bad", b"good"])
    assert world.name("x") in caplog.text
    assert "can not read this" in caplog.text


async def test_a_slow_handler_runs_alone_and_loses_the_oldest(world: World) -> None:
    broker, heard, gate = await world.connect(), Heard(), asyncio.Event()

    async def slow(message: Message) -> None:
        await gate.wait()
        await heard(message)

    subscription = await broker.subscribe(world.name("x"), slow)
    count = limits.WAITING_MESSAGES_MAX + 101
    for number in range(count):
        await broker.publish(world.name("x"), b"%d" % number)
    listener = subscription.listener  # type: ignore[attr-defined]
    await until(lambda: listener.dropped in (100, 101))  # the first one may already be in the handler's hands
    assert heard.data == []
    gate.set()
    await until(lambda: heard.data and heard.data[-1] == b"%d" % (count - 1))
    assert len(heard.data) == count - listener.dropped


async def test_a_slow_handler_holds_up_nobody_else(world: World) -> None:
    broker, gate = await world.connect(), asyncio.Event()

    async def stuck(message: Message) -> None:
        await gate.wait()

    async def answer(message: Message) -> None:
        await broker.publish(message.reply, b"here")

    await broker.subscribe(world.name("stuck"), stuck)
    await broker.subscribe(world.name("ask"), answer)
    await broker.publish(world.name("stuck"), b"")
    assert (await broker.request(world.name("ask"), b"", timeout_s=10)).data == b"here"
    gate.set()


async def test_a_handler_may_ask_on_the_same_connection(world: World) -> None:
    broker, answers = await world.connect(), Heard()

    async def deep(message: Message) -> None:
        await broker.publish(message.reply, b"deep")

    async def relay(message: Message) -> None:
        await answers(await broker.request(world.name("deep"), b"", timeout_s=10))

    await broker.subscribe(world.name("deep"), deep)
    await broker.subscribe(world.name("relay"), relay)
    await broker.publish(world.name("relay"), b"")
    await until(lambda: answers.data == [b"deep"])


async def test_no_handler_call_begins_after_close(world: World) -> None:
    broker, other = await world.connect("a"), await world.connect("b")
    heard, begun, gate = Heard(), asyncio.Event(), asyncio.Event()

    async def slow(message: Message) -> None:
        begun.set()
        await gate.wait()
        await heard(message)

    subscription = await broker.subscribe(world.name("x"), slow)
    for number in range(5):
        await other.publish(world.name("x"), b"%d" % number)
    await begun.wait()
    closing = asyncio.ensure_future(subscription.close())
    await asyncio.sleep(0)
    gate.set()
    await within(closing)
    assert heard.data == [b"0"]  # what had begun ended in peace
    with pytest.raises(NotFound):
        await other.request(world.name("x"), b"", timeout_s=10)
    assert heard.data == [b"0"]


async def test_a_handler_may_close_its_own_subscription(world: World) -> None:
    broker, heard = await world.connect(), Heard()

    async def once(message: Message) -> None:
        await heard(message)
        await subscription.close()

    subscription = await broker.subscribe(world.name("x"), once)
    for number in range(3):
        await broker.publish(world.name("x"), b"%d" % number)
    await until(lambda: heard.data)
    with pytest.raises(NotFound):
        await broker.request(world.name("x"), b"", timeout_s=10)
    assert heard.data == [b"0"]


@pytest.mark.parametrize("subject", ["", "a..b", "a b", ".a", "a.*", "a.>", "a.\n"])
async def test_what_is_no_subject_is_malformed(world: World, subject: str) -> None:
    broker = await world.connect()
    for call in (broker.publish(subject, b""), broker.request(subject, b"", timeout_s=1), broker.append(subject, b"")):
        with pytest.raises(Malformed, match="subject"):
            await call


@pytest.mark.parametrize(
    "headers", [{"Nats-Msg-Id": "1"}, {"A B": "1"}, {"": "1"}, {"A": "1\r\n2"}, {"A": " 1"}, {"Status": "503"}]
)
async def test_what_is_no_header_is_malformed(world: World, headers: dict[str, str]) -> None:
    broker = await world.connect()
    with pytest.raises(Malformed, match="header"):
        await broker.publish(world.name("x"), b"", headers=headers)


async def test_messages_near_the_payload_limit_pass_or_are_malformed(world: World) -> None:
    broker, heard = await world.connect(), Heard()
    await broker.subscribe(world.name("x"), heard)
    largest = 1024 * 1024 - limits.PAYLOAD_HEADROOM_BYTES
    await broker.publish(world.name("x"), bytes(largest))
    for size, headers in ((largest + 1, None), (largest, {"A": "1"}), (1024 * 1024, {"A": "1"})):
        with pytest.raises(Malformed, match="send less"):
            await broker.publish(world.name("x"), bytes(size), headers=headers)
    await until(lambda: len(heard.messages) == 1)
    assert broker.connected


async def test_close_flushes_what_was_published_and_ends_everything(world: World) -> None:
    broker, other, heard, deaf = await world.connect("a"), await world.connect("b"), Heard(), Heard()
    states: list[bool] = []
    broker.on_state(states.append)
    await broker.subscribe(world.name("y"), deaf)
    await other.subscribe(world.name("x"), heard)
    for number in range(100):
        await broker.publish(world.name("x"), b"%d" % number)
    await broker.close()
    await until(lambda: len(heard.messages) == 100)
    assert not broker.connected
    await other.publish(world.name("y"), b"")
    await broker.close()  # twice changes nothing
    await _refuses_everything(broker, world)
    assert deaf.data == []
    assert states == []


async def _refuses_everything(broker: Broker, world: World) -> None:
    for call in (
        broker.publish(world.name("x"), b""),
        broker.request(world.name("x"), b"", timeout_s=1),
        broker.subscribe(world.name("x"), Heard()),
        broker.append(world.name("s.a"), b""),
        broker.read("S", world.name("s.>")),
        broker.state("S"),
    ):
        with pytest.raises(BusUnavailable):
            await call
