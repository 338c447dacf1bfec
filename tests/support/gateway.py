"""A gateway on the mesh in memory, reached through aiohttp's test client, with a token of each role."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from agents.gateway import Gateway
from agents.gateway_routes import Part
from agents.gateway_tokens import TokenRole
from agents.runtime import Agent
from mesh import codec
from mesh.bus import Message
from mesh.messages.services import Ask, Hello, Status, Welcome
from tests.support.memory_mesh import MemoryMesh


class Reached:
    """A running gateway and its callers."""

    def __init__(self, mesh: MemoryMesh, gateway: Gateway, client: TestClient[web.Request, web.Application]) -> None:
        self.mesh, self.gateway, self.client = mesh, gateway, client
        self.secrets = {role: gateway.tokens.issue(role, f"{role}-1", 3_600.0)[0] for role in TokenRole}

    def headers(self, role: TokenRole | None) -> dict[str, str]:
        """What a caller of this role sends."""
        return {"Authorization": f"Bearer {self.secrets[role]}"} if role is not None else {}

    async def ask(
        self, method: str, path: str, role: TokenRole | None = TokenRole.OPERATOR, **more: Any
    ) -> tuple[int, Any]:
        """(status, the JSON that came back)."""
        headers = {**self.headers(role), **more.pop("headers", {})}
        async with self.client.request(method, path, headers=headers, **more) as answer:
            return answer.status, await answer.json(content_type=None)


@contextlib.asynccontextmanager
async def leading(mesh: MemoryMesh) -> AsyncIterator[list[str]]:
    """Somebody who answers for the leader; who asked."""
    asked: list[str] = []

    async def answer(message: Message) -> None:
        if isinstance(codec.decode(message.data, Ask, Hello), Hello):
            return await mesh.leader.publish(message.reply, codec.encode(Welcome(accepted=True)))
        asked.append(mesh.subjects.asker(message.subject))
        status = Status(leader="s1", term=1, generation=1, ledger_seq=5, commands_seq=3, counts={"ready": 2})
        await mesh.leader.publish(message.reply, codec.encode(status))

    subscription = await mesh.leader.subscribe(mesh.subjects.asked("scheduler"), answer)
    try:
        yield asked
    finally:
        await subscription.close()


@contextlib.asynccontextmanager
async def reached(
    folder: Path, *parts: Callable[[Agent], Part], mesh: MemoryMesh | None = None, **settings: object
) -> AsyncIterator[Reached]:
    """A gateway on a mesh of its own (or on `mesh`). parts: in place of all parts; settings: of its section."""
    from tests.support import agents

    own = mesh or await MemoryMesh(folder).start()
    flags = {f"gateway.{name}": value for name, value in settings.items()}
    agent = agents.make(own.server, "gateway", own.settings.home, **flags)
    gateway = Gateway(agent, *parts) if parts else Gateway(agent)
    ready: list[Reached] = []

    async with agents.running(agent, gateway.work):
        async with TestClient(TestServer(gateway.application())) as client:
            ready.append(Reached(own, gateway, client))
            yield ready[0]
            await gateway.close()
