"""One connection to a nats-server that survives its outages: what the client library leaves open is closed here.

The library (nats-py, pinned) has traps, each reproduced; the rule that follows from it stands where it is used:

    an exception while a message is processed ends its reader silently    nothing of ours raises there; a watchdog asks
    flush() overtakes what is still buffered                              a barrier is two round trips
    a late answer to a cancelled ping kills the reader                    pings are never cancelled, only abandoned
    giving a dead peer up waits for the bytes that it never takes         the socket is aborted, not closed
    a reconnection can hang in the middle of a handshake                  one without a word is replaced
    a request waits for its whole timeout when the connection is lost     all waiting requests fail at once
    what was buffered at a loss is sent after the reconnection            the buffer is emptied at the loss
    an expired credential or a protocol error closes the client for good  a new client takes over all subscriptions
    a refused right arrives out of band, lower-cased                      it is matched to the request that it refuses
    a key that was taken back is tried for ever                           refused thrice, it is over (`refusal`)

Not covered: bytes that the dying socket had already taken may be lost, or may arrive; only an answer is certain.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import re
import secrets
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.subscription import Subscription

from mesh import limits
from mesh.broker_client import DirectClient
from mesh.broker_dial import Dialer, abort, end, is_refusal
from mesh.bus import Message
from mesh.errors import BrokerRefused, BusUnavailable, RamifyError
from mesh.nats_options import NatsLike

log = logging.getLogger(__name__)

_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

Take = Callable[[Message], None]

STALL_S = 0.5
"""An event loop that is later than this was held up itself (a laptop that slept, a machine out of breath)."""


REFUSALS_MAX, REFUSED_S = 3, 1.0
"""So many refusals in a row of a key that was good before, over at least so long, are the broker's last word: a server
that is just reading its users anew has done so. Not of a credentials file: that may be renewed in its place."""


class Ear:
    """A subscription that outlives its client. `take` must be quick and must not raise."""

    def __init__(self, link: Link, pattern: str, queue: str, take: Take) -> None:
        self.pattern, self.queue, self.take = pattern, queue, take
        self.raw: Subscription | None = None
        self._link = link

    async def hear(self, message: Message) -> None:
        """Called by the client for every message."""
        try:
            self.take(message)
        except Exception:
            log.exception("a message to %s could not be taken", self.pattern)

    async def stop(self) -> None:
        """No more messages from the server after this; what was on its way has been taken."""
        if self.raw is not None and self._link.connected:
            with contextlib.suppress(nats.errors.Error, BusUnavailable):
                await self._link.client._send_unsubscribe(self.raw._id)
                await self._link.barrier()
                await asyncio.sleep(0)
        await self.close()

    async def close(self) -> None:
        """Forget it at once."""
        self._link.forget(self)
        if self.raw is not None:
            with contextlib.suppress(nats.errors.Error):
                await self.raw.unsubscribe()
            self.raw = None


class Route:
    """Where answers to one reply subject go, until the connection is lost."""

    def __init__(self, reply: str, asked: str, take: Take, fail: Callable[[RamifyError], None]) -> None:
        self.reply, self.asked, self.take, self.fail = reply, asked, take, fail


class Link:
    """The connection. `inbox` is the prefix of every subject on which answers arrive."""

    def __init__(self, options: NatsLike, inbox: str, name: str, client: str = "") -> None:
        """client: how the server shows this connection; the agent's name when it is empty."""
        self.client = DirectClient()
        self.name = name
        self.inbox = f"{options.inbox_prefix or inbox}.{secrets.token_hex(4)}"
        self._dialer = Dialer(options, self.inbox, client or name)
        self._up = asyncio.Event()
        self._closing = False
        self._renewing = False
        self._ears: dict[Ear, None] = {}
        self._routes: dict[str, Route] = {}
        self._numbers = itertools.count(1)
        self._watchers: dict[Callable[[bool], None], None] = {}
        self._refused: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._word_at = 0.0  # the loop's time of the library's last report, or of the loss
        self._complaint = ""
        self.refusal: BrokerRefused | None = None
        """Why there will be no connection any more, after there was one."""
        self._renewable = not options.nkey or bool(options.creds)
        self._refusals, self._refused_at = 0, 0.0

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time. BusUnavailable, BrokerRefused or SettingsInvalid with one sentence."""
        self.client = await self._dial()
        try:
            self._dialer.check(self.client)
            self._set_up(True)
            await self.listen(f"{self.inbox}.*", "", self._answer)
        except BaseException:
            await self.close()
            raise
        self._own(self._watch(), "watchdog")

    @property
    def connected(self) -> bool:
        """May something be sent now?"""
        return self._up.is_set() and not self._closing and self.refusal is None and self.client.is_connected

    @property
    def closed(self) -> bool:
        """Was it closed by its owner?"""
        return self._closing

    @property
    def payload_max(self) -> int:
        """The server's limit of one message with its headers, in bytes."""
        return int(self.client.max_payload)

    @property
    def address(self) -> str:
        """The addresses as given, without credentials, for people."""
        return self._dialer.address

    def watch_state(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call back with each change of the connection; the result ends it."""
        self._watchers[callback] = None
        return lambda: self._watchers.pop(callback, None)

    async def until_connected(self) -> None:
        """Wait for the connection. BusUnavailable when it was closed, BrokerRefused when it is over."""
        while not self.connected:
            self.check_open()
            await self._up.wait()
            if not self.connected:  # lost again before the library's callback came
                await asyncio.sleep(0.05)

    def check_open(self) -> None:
        """BusUnavailable when the connection was closed by its owner, BrokerRefused when the broker wants no more."""
        if self._closing:
            raise BusUnavailable("the connection to the broker was closed")
        if self.refusal is not None:
            raise self.refusal

    def away(self) -> BusUnavailable:
        """The error of anything that needs the connection now."""
        self.check_open()
        return BusUnavailable(f"the broker at {self.address} is away; it is tried again all the time")

    async def close(self) -> None:
        """Flush what was published, within a deadline, and end everything."""
        if self._closing:
            return
        with contextlib.suppress(BusUnavailable, BrokerRefused):
            await self.barrier()
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lose(BusUnavailable("the connection to the broker was closed"))
        self._tell(False)
        self._up.set()  # wakes who waits for it, to hear that it is closed
        await end(self.client)

    def _own(self, work: Any, what: str) -> None:
        task = asyncio.create_task(work, name=f"{what} of {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- first and later connections ----------------------------------------------------------------------------------

    async def _dial(self) -> DirectClient:
        client = DirectClient()
        await self._dialer.dial(client, self._callbacks(client))
        return client

    def _callbacks(self, client: DirectClient) -> dict[str, Any]:
        """They run inside the library's reader, so they never raise or wait; an abandoned client says nothing."""

        async def lost() -> None:
            client._pending, client._pending_data_size = [], 0
            if client is self.client:
                self._set_up(False)

        async def back() -> None:
            if client is self.client:
                self._set_up(True)

        async def closed() -> None:
            if client is self.client:
                self._set_up(False)
                self._start_renewal()

        return {
            "error_cb": self._on_error,
            "disconnected_cb": lost,
            "reconnected_cb": back,
            "closed_cb": closed,
        }

    def _start_renewal(self) -> None:
        if not self._closing and not self._renewing and self.refusal is None:
            self._renewing = True
            self._own(self._renew(), "renewal")

    async def _renew(self) -> None:
        """The client closed itself for good: make a new one, and give it every subscription."""
        pause_s = 0.1
        while not self._closing and self.refusal is None:
            old = self.client
            self.client = DirectClient()  # whatever the old one still says is not ours any more
            await end(old)
            try:
                self.client = await self._dial()
                for ear in list(self._ears):
                    ear.raw = await self._subscribe(ear)
                self._renewing = False
                self._set_up(True)
                return
            except (RamifyError, nats.errors.Error, OSError) as error:
                self._complain(f"the connection of {self.name} can not be renewed yet: {error}")
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, limits.RECONNECT_PAUSE_S_MAX)

    def _complain(self, sentence: str) -> None:
        """Log a trouble once, however often it comes again before the connection is back."""
        if sentence != self._complaint:
            log.warning("%s", sentence)
        self._complaint = sentence

    async def _watch(self) -> None:
        """Ask for a sign of life; a client that does not hear, or has given up, is replaced or woken."""
        while True:
            await asyncio.sleep(limits.WATCH_S)
            if self.connected:
                with contextlib.suppress(BusUnavailable):
                    await self._round_trip(limits.PONG_S)
            elif self._gave_up():
                self._start_renewal()

    def _gave_up(self) -> bool:
        """Has the library ended its attempts, or got stuck in one?"""
        if asyncio.get_running_loop().time() - self._word_at > limits.RECONNECT_SILENCE_S_MAX:
            return True
        task = self.client._reconnection_task
        return self.client.is_closed or (not self.client.is_connected and (task is None or task.done()))

    # -- what the library reports -------------------------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        self._dialer.failed(error)
        self._word_at = asyncio.get_running_loop().time()
        found = _REFUSED.search(str(error))
        if found:
            self._refuse(found[1], found[2])
            return
        self._count_refusal(error)
        if self._up.is_set():
            self._complain(f"the connection of {self.name} reports: {error}")

    def _refuse(self, what: str, subject: str) -> None:
        log.warning("the broker does not let %s: %s to %s", self.name, what, subject)
        if what == "subscription":
            self._refused.add(subject)
            return
        for route in [route for route in self._routes.values() if route.asked.lower() == subject]:
            route.fail(
                BrokerRefused(
                    f"{self.name} may not publish to {route.asked}: check the rights of its credentials",
                    not_let=route.asked,
                )
            )

    def _count_refusal(self, error: Exception) -> None:
        """Is this, after there was a connection, the refusal that ends it?"""
        if self.refusal is not None or not is_refusal(error):
            return
        if not self._up.is_set():
            abort(self.client)  # the library forgets the socket over which it was refused
        if self._renewable:
            return
        now = asyncio.get_running_loop().time()
        self._refusals += 1
        self._refused_at = self._refused_at or now
        if self._refusals < REFUSALS_MAX or now - self._refused_at < REFUSED_S:
            return
        self.refusal = BrokerRefused(
            f"the broker at {self.address} does not let {self.name} in any more: its key was revoked, or its time is "
            "over; ask whoever runs the mesh for a new invitation"
        )
        self._lose(self.refusal)
        self._up.set()  # wakes who waits for it, to hear that it is over
        self._tell(False)
        self._own(end(self.client), "end")

    def _set_up(self, up: bool) -> None:
        if up == self._up.is_set() or self._closing or self.refusal is not None:
            return
        if up:
            self._complaint, self._refusals, self._refused_at = "", 0, 0.0
            self._up.set()
        else:
            self._word_at = asyncio.get_running_loop().time()
            self._up.clear()
            self._lose(BusUnavailable(f"the connection to {self.address} was lost: it may or may not have happened"))
        self._tell(up)

    def _tell(self, up: bool) -> None:
        for callback in list(self._watchers):
            try:
                callback(up)
            except Exception:
                log.exception("a callback on the connection's state failed")

    def _lose(self, error: RamifyError) -> None:
        for route in list(self._routes.values()):
            route.fail(error)

    # -- sending and asking -------------------------------------------------------------------------------------------

    async def send(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Hand a message to the connection. BusUnavailable when it is away."""
        if not self.connected:
            raise self.away()
        if self.client.pending_data_size > limits.UNSENT_BYTES_MAX:
            await self.barrier()
        try:
            await self.client.publish(subject, data, reply, headers or None)
        except nats.errors.Error:
            raise self.away() from None

    def route(self, asked: str, take: Take, fail: Callable[[RamifyError], None]) -> Route:
        """A new reply subject; everything that arrives there is taken, until `unroute`."""
        route = Route(f"{self.inbox}.{next(self._numbers)}", asked, take, fail)
        self._routes[route.reply] = route
        return route

    def unroute(self, route: Route) -> None:
        """Forget a reply subject."""
        self._routes.pop(route.reply, None)

    def _answer(self, message: Message) -> None:
        route = self._routes.get(message.subject)
        if route is not None:
            route.take(message)

    async def ask(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """The first answer, also when it is "nobody listens" (see `unheard`). BusUnavailable when none comes."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message] = loop.create_future()
        route = self.route(
            subject,
            lambda message: None if answer.done() else answer.set_result(message),
            lambda error: None if answer.done() else answer.set_exception(error),
        )
        timer = loop.call_later(timeout_s, lambda: route.fail(_no_answer(subject, timeout_s)))
        try:
            await self.send(subject, data, route.reply, headers)
            return await answer
        finally:
            timer.cancel()
            self.unroute(route)
            answer.cancel()

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def listen(self, pattern: str, queue: str, take: Take) -> Ear:
        """Subscribe; active when this returns. BrokerRefused without the right to."""
        if not self.connected:
            raise self.away()
        ear = Ear(self, pattern, queue, take)
        self._refused.discard(pattern.lower())
        self._ears[ear] = None
        try:
            ear.raw = await self._subscribe(ear)
            await self.barrier()
            if pattern.lower() in self._refused:
                raise BrokerRefused(f"{self.name} may not subscribe {pattern}: check the rights of its credentials")
        except nats.errors.Error:
            await ear.close()
            raise self.away() from None
        except BaseException:
            await ear.close()
            raise
        return ear

    async def _subscribe(self, ear: Ear) -> Subscription:
        hear: Any = ear.hear  # it is called with our own form of a message (mesh/broker_client.py)
        return await self.client.subscribe(ear.pattern, queue=ear.queue, cb=hear)

    def forget(self, ear: Ear) -> None:
        """Do not give this subscription to the next client."""
        self._ears.pop(ear, None)

    async def barrier(self, timeout_s: float = limits.CALL_TIMEOUT_S) -> None:
        """Everything sent or subscribed before has been processed by the server. BusUnavailable when it was lost.

        Two round trips: the first ping may overtake what is buffered, its answer comes after the buffer was written.
        """
        await self._round_trip(timeout_s)
        await self._round_trip(timeout_s)

    async def _round_trip(self, timeout_s: float) -> None:
        if not self.connected:
            raise self.away()
        loop = asyncio.get_running_loop()
        began = loop.time()
        pong, lost = loop.create_future(), loop.create_future()
        ignore = self.watch_state(lambda up: None if up or lost.done() else lost.set_result(None))
        try:
            await self.client._send_ping(pong)
            await asyncio.wait({pong, lost}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if loop.time() - began > timeout_s + STALL_S:  # it was we who slept: the answer may lie in the socket
                await asyncio.wait({pong, lost}, timeout=STALL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ignore()
        if not pong.done():
            if not lost.done():
                log.warning("the broker did not answer %s within %g s: connecting again", self.name, timeout_s)
                await self._reset()
            raise self.away()

    async def _reset(self) -> None:
        """Give this connection up at once, and let the library connect again."""
        self._set_up(False)
        self.client._pending, self.client._pending_data_size = [], 0
        abort(self.client)
        await self.client.force_reconnect()


def unheard(message: Message) -> bool:
    """Is this the server's answer that nobody listens on the subject?"""
    return message.headers.get("Status") == "503" and not message.data


def _no_answer(subject: str, timeout_s: float) -> BusUnavailable:
    return BusUnavailable(f"nobody answered on {subject} within {timeout_s:g} s: it may or may not have happened")
