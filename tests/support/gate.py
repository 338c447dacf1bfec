"""A store of objects in memory that can be shut, fails when told to, and remembers the order of what came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from mesh.errors import RamifyError
from mesh.messages.object_names import MANIFEST, ObjectName


class Gate:
    """`mesh.objects.ObjectBackend` for tests."""

    where = "memory"

    def __init__(self) -> None:
        self.held: dict[ObjectName, bytes] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.reached = asyncio.Event()
        self.error: RamifyError | None = None
        self.order: list[str] = []
        self.fetched: list[ObjectName] = []

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        self.reached.set()
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.order.append("manifest" if name.kind == MANIFEST else "object")
        there = name in self.held
        self.held[name] = data
        return not there

    async def get(self, name: ObjectName) -> bytes | None:
        self.fetched.append(name)
        return self.held.get(name)

    async def has(self, name: ObjectName) -> bool:
        return name in self.held

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        return {name for name in names if name not in self.held}

    async def names(self) -> AsyncIterator[ObjectName]:
        for name in list(self.held):
            yield name

    async def mark(self) -> str:
        return ""

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        return self.held.pop(name, None) is not None

    async def close(self) -> None:
        pass
