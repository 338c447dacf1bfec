"""Agents on the broker in memory: the same bodies, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from agents.runtime import Agent
from mesh import settings as mesh_settings
from mesh.memory import MemoryServer

Body = Callable[[Agent], Awaitable[None]]


def make(server: MemoryServer, role: str, home: Path, *, name: str = "", **flags: object) -> Agent:
    """An agent with a connection of its own and its state below `home`."""
    settings = mesh_settings.load({"home": str(home), **flags}, {}, home)
    return Agent(role, name or role, settings, server.connect(name or role))


@contextlib.asynccontextmanager
async def running(agent: Agent, body: Body) -> AsyncIterator[Agent]:
    """The agent at work for as long as the context lasts; then its ordered stop. Raises what stopped it."""
    life = asyncio.create_task(agent.work(body), name=agent.role)
    try:
        yield agent
    finally:
        agent.stop()
        await life
        await agent.broker.close()
        agent.raise_failure()


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for a condition, with a deadline that names it."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come about within {timeout_s} s"
        await asyncio.sleep(0.02)
