"""The leading scheduler and the artifact store: it answers questions about it, and a corrupt object leaves it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agents.scheduler import body
from mesh import codec, coding, virtual_time
from mesh.bus import Message
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.collecting import CorruptFound, StoreUse, Wanted
from mesh.messages.services import Ask
from mesh.objects import JetStreamBackend
from tests.support import agents
from tests.unit.agents.test_scheduler import SUBJECTS, ready

GOOD, BAD = b"good" * 100, b"bad" * 100


def test_a_leader_collects_and_answers_for_the_store(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        backend = JetStreamBackend(cli, SUBJECTS)

        async def use() -> StoreUse:
            subject = SUBJECTS.ask("scheduler", cli.name)
            asked = await cli.request(subject, codec.encode(Ask(what="store")), timeout_s=2.0)
            return codec.decode(asked.data, StoreUse)

        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await backend.put(object_names.whole(codec.digest(GOOD)), coding.RAW_HEADER + GOOD)
            await asyncio.sleep(1.0)
            before = await use()
            assert (before.looked_age_s, before.removed) == (-1.0, 0)
            await asyncio.sleep(40 * 60.0)
            after = await use()
            assert (after.garbage, after.removed, after.manifests) == (0, 1, 0)
            assert 0 < after.size_bytes < 1_000 or after.size_bytes == 0
            assert after.limit_bytes > 0
            assert not await backend.has(object_names.whole(codec.digest(GOOD)))

    virtual_time.run(case())


def test_a_report_of_corrupt_bytes_is_followed_up(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        backend, name = JetStreamBackend(cli, SUBJECTS), object_names.whole(codec.digest(GOOD))
        wishes = list[Wanted]()
        report = codec.encode(CorruptFound(names=(str(name),), by="w1"))

        async def hear(message: Message) -> None:
            wishes.append(codec.decode(message.data, Wanted))

        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await cli.subscribe(SUBJECTS.wanted(), hear)
            await backend.put(name, coding.RAW_HEADER + BAD)
            await asyncio.sleep(1.0)
            await cli.publish(SUBJECTS.ask("scheduler", "w1"), b"nonsense")
            await cli.publish(SUBJECTS.ask("scheduler", "w2"), report)
            await asyncio.sleep(1.0)
            assert not wishes, "under the name of another one it is not believed"
            await cli.publish(SUBJECTS.ask("scheduler", "w1"), report)
            await asyncio.sleep(1.0)
            assert not await backend.has(name)
            assert [wish.names for wish in wishes] == [(str(name),)]
            assert await backend.put(name, coding.RAW_HEADER + GOOD)
            await cli.publish(SUBJECTS.ask("scheduler", "w1"), report)
            await asyncio.sleep(1.0)
            assert await backend.has(name)

    virtual_time.run(case())
