"""Start what is missing, and stop in order what was started: the ground of `run` and `up`.

    broker    the named one, which has to answer; else a lease on this machine's keeper, which starts it when needed
    agents    one process per role that the mesh lacks, under agents/together.py
    later     roles that vanish while we are here (another command that had started them ended) are started as well

The stop is the reverse: agents (worker first, scheduler last), our connection, the keeper's lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable

from agents.commands.asking import ask_if_any
from agents.commands.reach import Reach, as_member, environment, has_joined, reach, with_nats
from agents.together import ROLES, WITH_GATEWAY, Together
from mesh import keeper
from mesh import settings as mesh_settings
from mesh.errors import BusUnavailable, EnvironmentUnfit, RamifyError
from mesh.messages.services import Status
from mesh.setting_tree import NatsSettings, Settings

READY_S = 30.0
"""How long the leader may take to its first answer: interpreters start, the ledger is replayed."""

POLL_S = 0.05
"""Pause between two questions while the leader starts."""

LOOK_EVERY_S = 5.0
"""How often missing roles are looked for."""

ONE_PORT = mesh_settings.variable("http.port")
"""Several agents can not share the port for /health and /metrics: those that are started here take free ones."""

SEEN_AGE_S_MAX = 30.0
"""An agent that was silent for longer counts as missing: three of its hellos."""


_Way = tuple[Settings, asyncio.Task[RamifyError] | None, dict[str, NatsSettings]]
"""(settings with the broker's address, the lease's failure, how each role connects where everybody needs a key)."""


@dataclasses.dataclass(slots=True)
class Started:
    """A mesh that is complete: connected, every role present."""

    reach: Reach
    together: Together
    lease: asyncio.Task[RamifyError] | None
    """Ends with the reason when the embedded broker is lost for good; None for a named broker."""

    def check(self) -> None:
        """Raise when the mesh can not go on: a role or the embedded broker gave up."""
        self.together.check()
        if self.lease is not None and self.lease.done():
            raise self.lease.result()


@contextlib.asynccontextmanager
async def started(
    settings: Settings, stop: asyncio.Event, say: Callable[[str], None], roles: Collection[str] = ROLES
) -> AsyncIterator[Started]:
    """A mesh with these roles, by default a complete one, for as long as the context lasts. BusUnavailable when the
    named broker is away."""
    if not settings.nats.named and has_joined(settings) and await asyncio.to_thread(keeper.peek, settings) is None:
        settings = await asyncio.to_thread(as_member, settings)
        roles = ()  # its key is one role's: it can start no other
    async with _broker(settings) as (found, lease, ways), reach(found, name="run") as there:
        together = Together(
            found.home,
            {name: value for name, value in environment(found, os.environ).items() if name != ONE_PORT},
            own={role: _credentials(with_nats(found, nats)) for role, nats in ways.items()},
            worker_grace_s=found.worker.stop_grace_s,
            say=say,
            needed=lambda role, code: _needed(there, role, code),
        )
        try:
            missing = missing_roles(await ask_if_any(there, "status"), roles=roles)
            if missing:
                say(f"starting {', '.join(missing)}")
                await together.start(missing)
            await _ready(there, together, stop)
            gaps = asyncio.create_task(_fill_gaps(there, together, say, roles), name="missing roles")
            try:
                yield Started(there, together, lease)
            finally:
                gaps.cancel()
                await asyncio.gather(gaps, return_exceptions=True)
        finally:
            await together.stop()


@contextlib.asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[_Way]:
    """A broker that runs, and is kept running."""
    if settings.nats.named:
        yield settings, None, {}
        return
    async with await keeper.KeeperLease.acquire(settings) as lease:
        ways: dict[str, NatsSettings] = {}
        if lease.guarded:
            ways = {role: await lease.nats_of(role, _name(role, settings)) for role in WITH_GATEWAY}
        failed = asyncio.create_task(lease.failed(), name="keeper lease failed")
        try:
            yield with_nats(settings, lease.nats), failed, ways
        finally:
            failed.cancel()
            await asyncio.gather(failed, return_exceptions=True)


def _credentials(settings: Settings) -> dict[str, str]:
    """The part of an environment that says how to reach the broker, and as whom."""
    ours = mesh_settings.variable("nats.")
    return {name: value for name, value in environment(settings, {}).items() if name.startswith(ours)}


def _name(role: str, settings: Settings) -> str:
    """Under which name an agent of this machine works: a worker's is its own, the others bear that of their role."""
    return settings.worker.name if role == "worker" else role


def missing_roles(status: Status | None, own: Iterable[str] = (), roles: Collection[str] = ROLES) -> list[str]:
    """Those of `roles` that no live agent fills; all of them when no leader answers."""
    if status is None:
        return [role for role in roles if role not in own]
    present = {"scheduler", *own, *(one.role for one in status.agents if one.seen_age_s <= SEEN_AGE_S_MAX)}
    if any(one.state != "lost" for one in status.workers):
        present.add("worker")
    return [role for role in roles if role not in present]


async def _ready(there: Reach, together: Together, stop: asyncio.Event) -> None:
    """Wait until a leader answers. What went wrong in a child is the better sentence than our own."""
    deadline = time.monotonic() + READY_S
    while not stop.is_set():
        together.check()
        if await ask_if_any(there, "status") is not None:
            return
        if time.monotonic() > deadline:
            raise BusUnavailable(
                f"no scheduler answered within {READY_S:.0f} s after its start: see {together.log_of('scheduler')}."
            )
        await asyncio.sleep(POLL_S)


async def _needed(there: Reach, role: str, code: int) -> bool:
    """Is a role that ended here still missing? Two commands that start at once start two schedulers and two workers of
    one name; one of each is refused, and the other one does its work."""
    if role not in ("scheduler", "worker") or code != EnvironmentUnfit.exit_code:
        return True
    status = await ask_if_any(there, "status")
    if status is None:
        return True
    return role == "worker" and all(worker.state == "lost" for worker in status.workers)


async def _fill_gaps(there: Reach, together: Together, say: Callable[[str], None], roles: Collection[str]) -> None:
    """Start roles that nobody fills any more. A leader that is silent twice in a row counts as gone."""
    silent = 0
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if not there.broker.connected:
            continue
        status = await ask_if_any(there, "status", timeout_s=LOOK_EVERY_S)
        silent = silent + 1 if status is None else 0
        if status is None and (silent < 2 or "scheduler" in together.roles):
            continue
        gone = ["scheduler"] if status is None else missing_roles(status, together.roles, roles)
        missing = [role for role in gone if role in roles]
        if missing:
            say(f"{', '.join(missing)} went away; starting anew")
            await together.start(missing)
