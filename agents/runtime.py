"""The life of any agent: connect, introduce itself, serve, work, drain, leave.

    start   settings -> log -> broker -> /health and /metrics -> $SRV service -> wait for the streams -> hello
    work    the role's body runs in a task group beside the helpers (hello, loop watch); if one dies the agent ends
    stop    SIGTERM, Ctrl-C or an error sets `stopping`; the body returns by itself within the grace time, else it is
            cancelled; then services, HTTP and broker are closed, in this order

The exit code is that of the error's class, 0 after an asked stop. A process that can not go on says one sentence on
stderr. What it does not do: restart itself. That is the business of `agents/together.py`, `agents/supervisor.py` or of
the system.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from agents.health import HealthServer
from agents.service import Endpoint, Service
from mesh import broker as mesh_broker
from mesh import codec, limits, log, platform
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker, Handler, Subscription
from mesh.errors import BusUnavailable, EnvironmentUnfit, Malformed, NotFound, RamifyError
from mesh.messages.base import Record
from mesh.messages.services import Hello, Problem, Welcome
from mesh.metrics import Metrics
from mesh.setting_tree import Settings
from mesh.stores import StoreIdentity, home_of, open_store
from mesh.streams import STUDIES
from mesh.streams import names as stream_names
from mesh.subjects import Subjects
from mesh.version import PROGRAM_VERSION

T = TypeVar("T")

HELLO_EVERY_S = 10.0
"""The leader's list of agents forgets one that was silent for three of these."""

HELLO_AGAIN_S_FIRST, HELLO_AGAIN_S_MAX = 0.1, 1.0
"""While nobody leads, the hello is said again after a pause that doubles up to the second figure."""

LOOP_TURN_S = 0.25
"""How often the loop watch turns; what it is late by is the loop's lag."""

STREAMS_WAIT_S = 30.0
"""How long an agent waits for the scheduler (or `provision`) to make the streams before it gives up with a sentence."""

DIAL_PAUSE_S = 0.3
"""Between two tries of the first connection, with jitter: unnoticed by people, no load for a server that starts."""

LISTEN_AGAIN_S = 0.2
"""Pause before a subscription that failed in an outage is tried again."""

FAILURES_MAX, FAILURES_S = 20, 10.0
"""So many failures of one kind are written into the log in so long."""

DEFECT_CHARS_MAX = 300
"""Of an error that nobody foresaw, in the one sentence about it."""

GRACE_S = 20.0
"""How long a role's body may take to return after the stop; then it is cancelled."""


def now_s() -> float:
    """The event loop's clock: monotonic seconds, or the virtual ones of a simulation."""
    return asyncio.get_running_loop().time()


async def within(timeout_s: float, event: asyncio.Event) -> bool:
    """Wait for an event, so long at most; whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


def new_incarnation(name: str) -> str:
    """A life of an agent: its name and a random part."""
    return f"{name}.{secrets.token_hex(4)}"


class Agent:
    """One running agent, as its role's body sees it."""

    def __init__(self, role: str, name: str, settings: Settings, broker: Broker, incarnation: str = "") -> None:
        """incarnation: under which name this life's connection stands at the broker; a new one when it is empty."""
        self.role = role
        self.name = name
        self.incarnation = incarnation or new_incarnation(name)
        self.settings = settings
        self.subjects = Subjects(settings.prefix)
        self.broker = broker
        self.log = log.get(f"agents.{role}")
        self.metrics = Metrics()
        self.stopping = asyncio.Event()
        self._started = now_s()
        self.kinds: dict[str, int] = {}
        """Executor kinds for the hello; a worker fills it."""
        self.endpoints: list[Endpoint] = []
        """What this agent answers, for the service protocol."""
        self.loop_turned = time.monotonic()
        """When the event loop last turned, by time.monotonic(): a worker's beat thread reads it."""
        self.loop_turn_s = LOOP_TURN_S
        """How often the loop watch turns; longer where no processor time shall go into it."""
        self._tasks: asyncio.TaskGroup | None = None
        self._spawned: set[asyncio.Task[None]] = set()
        self.store_identity = StoreIdentity(self.subjects, settings)
        """Which folder or bucket of artifacts is reached from here."""
        self._store: ArtifactStore | None = None
        self._error: BaseException | None = None
        self._was_connected: bool | None = None
        self._health: dict[str, Callable[[], str]] = {}
        self._failures: dict[str, tuple[float, int]] = {}
        """By kind: since when they are counted, and how many there were."""

    # -- what a role uses ---------------------------------------------------------------------------------------------

    def stream(self, name: str) -> str:
        """Full name of a stream of this mesh (`COMMANDS` -> `MESH_COMMANDS`)."""
        return self.subjects.stream(name)

    def store(self) -> ArtifactStore:
        """The artifact store, with this agent's bounded cache below the home folder."""
        if self._store is None:
            cache = self.settings.home / "cache" / self.name
            self._store = open_store(self.broker, self.subjects, self.settings, cache=cache)
        return self._store

    def spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        """Run a helper task under this agent: if it raises, the agent stops and says which helper it was."""
        if self._tasks is None:
            raise EnvironmentUnfit(f"{self.role} can not start {name!r} before it runs")
        task = self._tasks.create_task(self._named(work, name), name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        return task

    async def serve(self, name: str, subject: str, handler: Handler, *, queue: str) -> Subscription:
        """Subscribe a handler of questions; the service protocol tells of it and of its statistics."""
        endpoint = Endpoint(name, subject, queue, handler, self.metrics)
        subscription = await self.listen(subject, endpoint.handle, queue=queue)
        self.endpoints.append(endpoint)
        return subscription

    async def listen(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Subscribe, however long the broker is away meanwhile: a start in an outage is late, and no failure.

        BusUnavailable when the agent stops before the broker is back.
        """
        while True:
            try:
                return await self.broker.subscribe(subject, handler, queue=queue)
            except BusUnavailable:
                if self.stopping.is_set():
                    raise
            await self.pause(LISTEN_AGAIN_S)

    def stop(self, error: BaseException | None = None) -> None:
        """Begin the ordered stop; with an error, the process ends with its exit code."""
        if error is not None and self._error is None:
            self._error = error
        self.stopping.set()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the stop."""
        await within(seconds, self.stopping)

    async def until_stopping(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """The items of an iterator until the agent stops, even while waiting for the next one."""
        stop = asyncio.ensure_future(self.stopping.wait())
        following: asyncio.Future[T] | None = None
        try:
            while not stop.done():
                following = asyncio.ensure_future(_next(items))
                await asyncio.wait((following, stop), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
                try:
                    item = following.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:  # also when cancelled: the iterator can be closed only when nobody waits in it
            stop.cancel()
            if following is not None and not following.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    def failed(self, what: str, sentence: str, error: BaseException | None = None) -> None:
        """Count a failure that the agent survives, and log it: of many in a short time the first ones, for whoever
        floods an agent with nonsense must not fill its disk, too."""
        self.metrics.count("mesh_handler_failures_total", role=self.role, reason=what)
        since, count = self._failures.get(what, (now_s(), 0))
        if now_s() - since > FAILURES_S:
            if count > FAILURES_MAX:
                self.log.error("%d more failures of the kind %r were not written down", count - FAILURES_MAX, what)
            since, count = now_s(), 0
        self._failures[what] = since, count + 1
        if count < FAILURES_MAX:
            self.log.error(sentence, exc_info=error)

    def health(self, name: str, check: Callable[[], str]) -> None:
        """Add a check to /health: '' when well, else a sentence."""
        self._health[name] = check

    def uptime_s(self) -> float:
        """Since this agent began."""
        return now_s() - self._started

    def problems(self) -> dict[str, str]:
        """What is not well now, by check."""
        found = {name: check() for name, check in self._health.items()}
        if not self.broker.connected:
            found["broker"] = "The broker is away."
        return {name: sentence for name, sentence in found.items() if sentence}

    # -- the life -----------------------------------------------------------------------------------------------------

    async def live(self, body: Callable[[Agent], Awaitable[None]]) -> None:
        """Run the role's body with everything around it, until the stop. Raises what stopped it."""
        self.metrics.set("mesh_agent_info", 1, role=self.role, name=self.name, version=PROGRAM_VERSION)
        python = ".".join(map(str, sys.version_info[:3]))
        self.metrics.set("mesh_build_info", 1, version=PROGRAM_VERSION, python=python, system=platform.SYSTEM)
        self.broker.on_state(self._on_broker)
        self._on_broker(self.broker.connected)
        http = HealthServer(self)
        service = Service(self)
        self.health("start", lambda: "" if self._tasks is not None else "The agent is not at work yet.")
        try:
            await http.start()
            with contextlib.suppress(BusUnavailable):  # only when it is asked to stop in an outage
                await service.start()
            if self.role != "scheduler":
                await self._await_streams()
            if not self.stopping.is_set():
                await self.work(body)
        finally:
            await service.close()
            await http.close()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what stopped this agent, if anything did."""
        if self._error is not None:
            raise self._error

    async def work(self, body: Callable[[Agent], Awaitable[None]]) -> None:
        """The role's body and its helpers in one task group, until the stop; nothing is served."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self.spawn(self._watch_loop(), "loop watch")
            if self.role != "scheduler":
                self.spawn(self._say_hello(), "hello")
            main = self.spawn(body(self), self.role)
            await self.stopping.wait()
            self.log.info("%s stops", self.incarnation)
            done, _ = await asyncio.wait((main,), timeout=self._grace_s())
            if not done:
                self.log.warning("%s did not end within %.0f s and is cancelled", self.role, self._grace_s())
            for task in tuple(self._spawned):
                task.cancel()
        self._tasks = None

    def _grace_s(self) -> float:
        return self.settings.worker.stop_grace_s + 5.0 if self.role == "worker" else GRACE_S

    async def _named(self, work: Awaitable[None], name: str) -> None:
        """Await `work`; its failure stops the agent instead of vanishing in the task group."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BusUnavailable as error:
            if self.stopping.is_set():  # who leaves during an outage leaves in order: what it owes is on its disk
                self.log.warning("%s stops while the broker is away: %s", name, error)
            self.stop(None if self.stopping.is_set() else error)
        except RamifyError as error:  # worded for people: `run` says it, a traceback would say no more
            self.stop(error)
        except Exception as error:  # the group would cancel its siblings at once: stop in order instead
            self.log.error("the task %r of %s failed: %s", name, self.role, error, exc_info=error)
            self.stop(error)
        else:
            if name == self.role:
                self.stop()

    async def _await_streams(self) -> None:
        """Wait until the mesh's streams exist; EnvironmentUnfit with a sentence after STREAMS_WAIT_S."""
        deadline = now_s() + STREAMS_WAIT_S
        # A worker may read few of them; the one that it asks for is made after the others that it needs.
        worker = self.role == "worker"
        missing = (self.stream(STUDIES),) if worker else stream_names(self.subjects)
        self.health("streams", lambda: f"The stream {missing[0]} is not there yet." if missing else "")
        while missing and not self.stopping.is_set():
            try:
                if worker:
                    await self.broker.read(missing[0], self.subjects.studies(), messages_max=1)
                else:
                    await self.broker.state(missing[0])
                missing = missing[1:]
                continue
            except (NotFound, BusUnavailable):
                pass
            if now_s() > deadline:
                raise EnvironmentUnfit(
                    f"The stream {missing[0]} was expected on the broker and is not there after "
                    f"{STREAMS_WAIT_S:.0f} s: start a scheduler (bin/agent scheduler), it makes the streams."
                )
            await self.pause(0.1)

    async def _watch_loop(self) -> None:
        while True:
            before = now_s()
            await asyncio.sleep(self.loop_turn_s)
            self.loop_turned = time.monotonic()
            self.metrics.set("mesh_loop_lag_seconds", max(0.0, now_s() - before - self.loop_turn_s), role=self.role)

    def _on_broker(self, connected: bool) -> None:
        if connected and self._was_connected is False:
            self.metrics.count("mesh_bus_reconnects_total")
        self._was_connected = connected
        if self.broker.refusal is not None:
            self.stop(self.broker.refusal)
        self.metrics.set("mesh_broker_connected", float(connected))

    # -- hello --------------------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """How this agent introduces itself."""
        return Hello(
            role=self.role,
            name=self.name,
            incarnation=self.incarnation,
            protocol_min=limits.PROTOCOL_MIN,
            protocol_max=limits.PROTOCOL_MAX,
            program=PROGRAM_VERSION,
            kinds=self.kinds,
            host=socket.gethostname(),
            pid=os.getpid(),
            facts={"artifacts": home_of(self.settings), "artifact_store": self.store_identity.value},
        )

    async def _say_hello(self) -> None:
        """Tell the leader, again and again, that this agent is here; a refusal stops the agent."""
        again_s = HELLO_AGAIN_S_FIRST
        while not self.stopping.is_set():
            wait_s = HELLO_EVERY_S
            await self.store_identity.look()
            try:
                answer = await self.broker.request(
                    self.subjects.ask("scheduler", self.name), codec.encode(self.hello()), timeout_s=2.0
                )
                self._hear_welcome(codec.decode(answer.data, Welcome, Problem))
                again_s = HELLO_AGAIN_S_FIRST
            except (NotFound, BusUnavailable):
                wait_s, again_s = again_s, min(HELLO_AGAIN_S_MAX, 2 * again_s)
            except Malformed as error:
                self.failed("malformed", f"the answer to the hello can not be read: {error}")
            await self.pause(wait_s)

    def _hear_welcome(self, answer: Record) -> None:
        if isinstance(answer, Problem):
            self.log.warning("the scheduler does not understand our hello: %s", answer.reason)
        elif isinstance(answer, Welcome) and not answer.accepted:
            raise EnvironmentUnfit(answer.reason)


def run(
    role: str,
    settings: Settings,
    body: Callable[[Agent], Awaitable[None]],
    *,
    name: str = "",
    prepare: Callable[[Agent], None] | None = None,
) -> int:
    """Run one agent in this process until it is asked to stop; the process's exit code."""
    log.setup(settings.log, role)
    try:
        asyncio.run(_run(role, settings, body, settings.nats.name or name or role, prepare))
    except RamifyError as error:
        print(f"bin/agent {role}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        log.get("agents").error("%s ended by a defect", role, exc_info=error)
        what = " ".join(f"{type(error).__name__}: {error}".split())[:DEFECT_CHARS_MAX]
        print(f"bin/agent {role}: stopped by a defect ({what}); the log says where.", file=sys.stderr)
        return 70
    return 0


async def _run(
    role: str,
    settings: Settings,
    body: Callable[[Agent], Awaitable[None]],
    name: str,
    prepare: Callable[[Agent], None] | None,
) -> None:
    incarnation = new_incarnation(name)
    broker = await _connect(settings, name, incarnation)
    try:
        agent = Agent(role, name, settings, broker, incarnation)
        if prepare is not None:
            prepare(agent)
        # Until the process ends: a second signal must not cut the closing short.
        platform.on_stop(asyncio.get_running_loop(), lambda _: agent.stop())
        await agent.live(body)
    finally:
        await broker.close()


async def _connect(settings: Settings, name: str, incarnation: str) -> Broker:
    """The first connection. A broker that is still starting is waited for as long as one that does not answer: agents
    and broker may be started in any order. BusUnavailable when the patience is over; a refusal is final at once."""
    subjects, deadline = Subjects(settings.prefix), now_s() + settings.nats.connect_timeout_s
    while True:
        try:
            return await mesh_broker.connect(settings.nats, subjects, name=name, client=incarnation)
        except BusUnavailable:
            pause_s = random.uniform(DIAL_PAUSE_S / 2, DIAL_PAUSE_S)
            if now_s() + pause_s > deadline:
                raise
        await asyncio.sleep(pause_s)


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


def home_folder(settings: Settings, *parts: str) -> Path:
    """A folder below the home folder, made when missing; EnvironmentUnfit when that is not possible."""
    folder = settings.home.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentUnfit(
            f"The folder {folder} can not be made ({error.strerror}): choose another place with --home."
        ) from None
    return folder
