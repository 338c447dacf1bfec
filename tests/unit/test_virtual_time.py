"""Virtual time: a day passes at once, in the right order, and a wait without an end is found."""

from __future__ import annotations

import asyncio

import pytest

from mesh import virtual_time
from mesh.errors import InvariantBroken


def test_a_day_passes_at_once_and_in_order() -> None:
    async def day() -> list[str]:
        said: list[str] = []

        async def say(after_s: float, word: str) -> None:
            await asyncio.sleep(after_s)
            said.append(f"{word} at {asyncio.get_running_loop().time():g}")

        async with asyncio.TaskGroup() as group:
            group.create_task(say(86_400, "night"))
            group.create_task(say(0.5, "morning"))
        return said

    assert virtual_time.run(day()) == ["morning at 0.5", "night at 86400"]


def test_a_lost_wake_up_is_found() -> None:
    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    with pytest.raises(InvariantBroken, match="deadlock in virtual time"):
        virtual_time.run(wait_for_nothing())
