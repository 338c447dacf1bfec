"""The broker: one connection to a real nats-server, as the port of `mesh/bus.py` promises it.

    broker_link.py      the connection and its outages         broker_log.py       streams: write, read, manage
    broker_api.py       JetStream's requests and errors        broker_readers.py   streams: tail and consume
    broker_client.py    the library's client, made short

`connect` refuses with one sentence what could not work later: no server, wrong credentials, no JetStream, a server that
is too old. After that the connection is there for good: it reconnects for ever, and everything that listens goes on;
unless the broker takes the key back (`refusal`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from mesh import wire
from mesh.broker_api import JetStream
from mesh.broker_link import Ear, Link, unheard
from mesh.broker_log import NatsLog
from mesh.broker_readers import Consumption, Tail
from mesh.bus import Delivery, Handler, Message, Stored
from mesh.errors import BrokerRefused, NotFound
from mesh.listening import Listener
from mesh.nats_options import NatsLike
from mesh.subjects import Subjects
from mesh.windows import to_its_end


async def connect(nats: NatsLike, subjects: Subjects, *, name: str, client: str = "") -> NatsBroker:
    """Connect as agent `name`. BusUnavailable, BrokerRefused or SettingsInvalid when that can not be.

    client: how the server shows this connection, and names it when it has closed; an agent's incarnation.
    """
    link = Link(nats, subjects.inbox(name), name, client)
    await link.open()
    return NatsBroker(link, JetStream(link, nats.js_domain))


@contextlib.asynccontextmanager
async def connection(nats: NatsLike, subjects: Subjects, *, name: str) -> AsyncIterator[NatsBroker]:
    """`connect`, closed at the end."""
    broker = await connect(nats, subjects, name=name)
    try:
        yield broker
    finally:
        await broker.close()


class NatsSubscription:
    """A live subscription."""

    def __init__(self, broker: NatsBroker, ear: Ear, listener: Listener) -> None:
        self._broker, self._ear, self.listener = broker, ear, listener

    async def close(self) -> None:
        """No handler call begins after this returns, and the server knows that nobody listens here any more."""
        self._broker.subscriptions.pop(self, None)
        self.listener.shut()
        await self._ear.stop()
        await self.listener.close()


class NatsBroker(NatsLog):
    """`mesh.bus.Broker` over a real nats-server."""

    def __init__(self, link: Link, api: JetStream) -> None:
        super().__init__(link, api)
        self.subscriptions: dict[NatsSubscription, None] = {}

    # -- the connection -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._link.name

    @property
    def address(self) -> str:
        """The addresses of the broker, without credentials."""
        return self._link.address

    @property
    def connected(self) -> bool:
        """False while the broker is away."""
        return self._link.connected

    @property
    def refusal(self) -> BrokerRefused | None:
        """Why there will be no connection any more, after there was one."""
        return self._link.refusal

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each (re)connection and False after each loss."""
        self._link.watch_state(lambda up: None if self._link.closed else callback(up))

    async def close(self) -> None:
        """End all subscriptions and the connection; what was published before is flushed, within a deadline.

        It is done to its end although whoever waits for it is cancelled: half closed, a connection would go on
        reconnecting for ever.
        """
        await to_its_end(self._close())

    async def _close(self) -> None:
        try:
            await asyncio.gather(*(subscription.close() for subscription in list(self.subscriptions)))
        finally:
            await self._link.close()

    # -- Bus ----------------------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send and forget."""
        wire.check_subject(subject)
        headers = wire.outgoing(data, headers, payload_max=self._link.payload_max)
        await self._link.send(subject, data, reply, headers)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> NatsSubscription:
        """Call `handler` for every message, one at a time and in order, until closed."""
        wire.check_subject(subject, pattern=True)
        listener = Listener(subject, handler)
        try:
            ear = await self._link.listen(subject, queue, listener.put)
        except BaseException:
            await listener.close()
            raise
        subscription = NatsSubscription(self, ear, listener)
        self.subscriptions[subscription] = None
        return subscription

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """The first answer."""
        wire.check_subject(subject)
        headers = wire.outgoing(data, headers, payload_max=self._link.payload_max)
        answer = await self._link.ask(subject, data, timeout_s=timeout_s, headers=headers)
        if unheard(answer):
            raise NotFound(f"nobody listens on {subject}")
        return answer

    # -- Log: the readers ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def tail(self, stream: str, subject: str, *, from_seq: int = 1) -> AsyncIterator[AsyncIterator[Stored]]:
        """All messages of a subject in order, without gaps or repeats, as they come."""
        wire.check_subject(subject, pattern=True)
        reader = Tail(self._link, self._api, stream, subject, from_seq)
        try:
            await reader.begin()
            async with contextlib.aclosing(reader.follow()) as messages:
                yield messages
        finally:
            await reader.end()

    @contextlib.asynccontextmanager
    async def consume(
        self, stream: str, subject: str, *, durable: str, ack_wait_s: float = 30.0, in_flight_max: int = 64
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        """Messages of a durable consumer: each is delivered until it is acked or dropped."""
        wire.check_subject(subject, pattern=True)
        reader = Consumption(self._link, self._api, stream, subject, durable, ack_wait_s, in_flight_max)
        try:
            await reader.begin()
            async with contextlib.aclosing(reader.follow()) as deliveries:
                yield deliveries
        finally:
            await reader.end()
