"""What a stolen worker credential is good for: every attack here is tried with it on a real server, and none may work.

Each attack is also tried with a key to which nothing is refused, and has to work there: so nothing passes for held off
that was no attack. What a spy hears in the mesh's account counts as spoken, what comes back to the attacker as read.
Afterwards every stream is what it was, but for what the worker may write under its own name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh import broker as mesh_broker
from mesh import codec, coding, streams
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker
from mesh.errors import ArtifactCorrupt, Conflict
from mesh.identity import Role
from mesh.messages import object_names
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import Cancel, Drain, Missed, Recommend, Refuse, Resubmit, Settle, Submit
from mesh.messages.object_names import ObjectName
from mesh.windows import patiently
from tests.support.agent_process import AgentProcess
from tests.support.fleet import Fleet
from tests.support.guarded_mesh import SUBJECTS, GuardedMesh

pytestmark = [pytest.mark.process, pytest.mark.server]

THIEF, VICTIM, ROOT, LOOKER = "w1", "w2", "root", "test"
PEOPLE = {"scheduler": Role.SCHEDULER, THIEF: Role.WORKER, VICTIM: Role.WORKER, LOOKER: Role.OPERATOR}
DEADLINE_S = 20.0

FORGED, MINE, SECRET = b"a forged entry", b"what the thief knows", b"weights of somebody else's model"
NAME = object_names.whole(codec.digest(SECRET))
OWN, EMPTY = object_names.whole(codec.digest(MINE)), object_names.whole(codec.digest(b"nothing"))
LEDGER, ARTIFACTS, TOPICS = (SUBJECTS.stream(name) for name in (streams.LEDGER, streams.ARTIFACTS, streams.TOPICS))
GET, STREAM, CONSUMER = "$JS.API.DIRECT.GET", "$JS.API.STREAM", "$JS.API.CONSUMER"
EPOCH = Epoch(1, 1)
VICTIM_S_ROW = SUBJECTS.owed(VICTIM, Key("task", EPOCH, "result", 1))
CHAMPION = SUBJECTS.key("champions", "digits")


@dataclasses.dataclass(frozen=True)
class Attack:
    """One message of the attacker. It has worked when the spy hears something on `spoken`, or the attacker `read`s."""

    subject: str
    data: bytes = b""
    reply: str = ""
    spoken: str = ""
    read: bytes = b""


def speaks(*subjects: str) -> list[Attack]:
    return [Attack(subject, FORGED, spoken=subject) for subject in subjects]


def manages(what: str, body: object = None) -> Attack:
    return Attack(what, b"" if body is None else json.dumps(body).encode(), spoken=what)


def tricks(*targets: str) -> list[Attack]:
    """The server is made to speak: with the answer to a write, and with bytes of the attacker's choice."""
    known, empty = SUBJECTS.stored(OWN), SUBJECTS.stored(EMPTY)
    return [
        attack
        for target in targets
        for attack in (
            Attack(known, MINE, reply=target, spoken=target),
            Attack(f"{GET}.{ARTIFACTS}.{known}", reply=target, spoken=target),
            Attack(f"{GET}.{ARTIFACTS}.{empty}", reply=target, spoken=target),
        )
    ]


def reads(subject: str, body: object = None, marker: bytes = SECRET) -> Attack:
    return Attack(subject, b"" if body is None else json.dumps(body).encode(), read=marker)


def own_commands() -> list[Attack]:
    """What a worker may not ask for, under its own name."""
    kinds = Submit, Refuse, Settle, Recommend, Cancel, Resubmit, Missed, Drain
    return speaks(*(SUBJECTS.command(THIEF, kind.kind, "x") for kind in kinds))


SPOKEN = [
    *speaks(
        SUBJECTS.ledger(), SUBJECTS.condemned(), SUBJECTS.lead(), SUBJECTS.wanted(), SUBJECTS.topic("t"),
        SUBJECTS.result("t", "verdict", "x"), SUBJECTS.result("t", "task-ended", "1-0"),
        *(SUBJECTS.key(bucket, "digits") for bucket in ("champions", "graph", "models", "trust")),
        SUBJECTS.answer(VICTIM), SUBJECTS.beat(VICTIM), SUBJECTS.gone(VICTIM), SUBJECTS.progress(VICTIM, "t", "task"),
        *(SUBJECTS.owed(VICTIM, Key("task", EPOCH, kind, 1)) for kind in ("result", "failure", "checkpoint")),
        SUBJECTS.owed_together(VICTIM, "f" * 64), SUBJECTS.study_entry(VICTIM, "s", "task", EPOCH, "e"),
        SUBJECTS.ask("scheduler", VICTIM), SUBJECTS.ask("planner", THIEF), SUBJECTS.ask_worker(VICTIM, THIEF),
        SUBJECTS.join("invitation"), "$SRV.PING", "$JS.ACK.MESH_RESULTS.mesh-gate.1.1.1.0.0", "_R_.aaaaaa.bbbbbb",
        "mesh.beat.*", "mesh.beat.>", "mesh.ask.scheduler.*", "mesh.cmd.*.result.task.1-1.1", "mesh.art.c.*",
        "mesh.art.c.>", "mesh.art.>", "door.10.x", "nowhere.10.x",
    ),
    *own_commands(),
    manages(f"{STREAM}.CREATE.MINE", {"name": "MINE", "subjects": ["mine.>"]}),
    manages(f"{STREAM}.UPDATE.{TOPICS}", {"name": TOPICS, "subjects": ["mesh.topics.*"], "max_msgs": 1}),
    manages(f"{STREAM}.PURGE.{LEDGER}"), manages(f"{STREAM}.MSG.DELETE.{LEDGER}", {"seq": 1}),
    manages(f"{STREAM}.SNAPSHOT.{ARTIFACTS}", {"deliver_subject": "mesh.in.w1.x"}),
    manages(f"{CONSUMER}.CREATE.{ARTIFACTS}", {"stream_name": ARTIFACTS, "config": {"deliver_subject": "mesh.ledger"}}),
    manages(f"{CONSUMER}.DELETE.MESH_RESULTS.mesh-gate"), manages(f"{CONSUMER}.MSG.NEXT.MESH_RESULTS.mesh-gate", {}),
    Attack(SUBJECTS.beat(THIEF), FORGED, reply=SUBJECTS.ledger(), spoken=SUBJECTS.ledger()),
    *tricks(
        SUBJECTS.ledger(), SUBJECTS.answer(VICTIM), VICTIM_S_ROW, SUBJECTS.result("t", "verdict", "x"), CHAMPION,
        SUBJECTS.beat(VICTIM), SUBJECTS.command(THIEF, "drain", "x"), SUBJECTS.condemned(), SUBJECTS.topic("t"),
        f"{STREAM}.PURGE.{LEDGER}", f"{STREAM}.DELETE.{TOPICS}",
    ),
    manages(f"{STREAM}.DELETE.{ARTIFACTS}"),
]  # fmt: skip
"""What would be heard in the mesh. A beat with a foreign reply subject is no attack with any key: nobody answers it."""

LISTS = {"subjects_filter": ">"}
READ = [
    reads(f"{GET}.{LEDGER}.{SUBJECTS.ledger()}"), reads(f"{GET}.{LEDGER}", {"seq": 1}),
    reads(f"{GET}.KV_mesh_champions.{CHAMPION}"), reads(f"{GET}.MESH_COMMANDS.{VICTIM_S_ROW}"),
    *(reads(f"{GET}.{ARTIFACTS}.{any_}") for any_ in ("mesh.art.c.*", "mesh.art.c.>", "mesh.art.*.*", ">", "*.>")),
    reads(f"{GET}.{ARTIFACTS}", {"last_by_subj": "mesh.art.c.*"}),
    reads(f"{GET}.{ARTIFACTS}", {"seq": 1, "batch": 50, "next_by_subj": "mesh.art.>"}),
    reads(f"{GET}.{ARTIFACTS}", {"multi_last": ["mesh.art.>"], "batch": 50}),
    reads(f"{STREAM}.MSG.GET.{ARTIFACTS}", {"last_by_subj": SUBJECTS.stored(NAME)}, base64.b64encode(SECRET)),
    reads(f"{STREAM}.INFO.{ARTIFACTS}", LISTS, NAME.digest.encode()), reads(f"{STREAM}.NAMES", {}, LEDGER.encode()),
    reads(f"{STREAM}.LIST", {}, LEDGER.encode()), reads("$JS.API.INFO", None, b"streams"),
]  # fmt: skip
"""What would come back."""

HEARD = {
    SUBJECTS.answer(VICTIM): ("mesh.in.w2.>", "mesh.in.*.answer", "mesh.in.>", "mesh.>", "*.in.w2.answer", ">"),
    SUBJECTS.beat(VICTIM): (SUBJECTS.beats(),),
    SUBJECTS.progress(VICTIM, "t", "task"): (SUBJECTS.all_progress(),),
    VICTIM_S_ROW: (SUBJECTS.commands(), "mesh.cmd.w2.>"),
    SUBJECTS.result("t", "verdict", "x"): (SUBJECTS.results(),),
    SUBJECTS.lead(): (SUBJECTS.lead(),),
    CHAMPION: ("$KV.>",),
    SUBJECTS.ask("scheduler", VICTIM): (SUBJECTS.asked("scheduler"), "mesh.ask.>"),
    SUBJECTS.ask_worker(VICTIM, "cli"): (SUBJECTS.asked_worker(VICTIM), SUBJECTS.asked_workers()),
    f"{STREAM}.INFO.{LEDGER}": ("$JS.>",),
}
"""What is said to others, and the patterns under which an attacker would listen to it."""


class Ear:
    """A raw connection and all that it hears."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: list[Msg] = []
        self.news = asyncio.Event()

    async def hear(self, message: Msg) -> None:
        self.heard.append(message)
        self.news.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"never came about: {what}") from None

    def on(self, subject: str) -> bool:
        return any(message.subject == subject for message in self.heard)

    def says(self, marker: bytes) -> bool:
        return any(marker in message.data for message in self.heard)


async def barrier(client: Client) -> None:
    """The server has taken all that was said: a first ping may overtake what the client has buffered."""
    await client.flush()
    await client.flush()


@contextlib.asynccontextmanager
async def raw(mesh: GuardedMesh, name: str, *patterns: str) -> AsyncIterator[Ear]:
    """A connection without any of our manners."""

    async def ignore(error: Exception) -> None:
        """A refusal."""

    client = await nats.connect(
        mesh.server.url, nkeys_seed=str(mesh.seed(name)), inbox_prefix=SUBJECTS.inbox(name), error_cb=ignore
    )
    try:
        ear = Ear(client)
        for pattern in patterns:
            await client.subscribe(pattern, cb=ear.hear)
        await barrier(client)
        yield ear
    finally:
        await client.close()


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[GuardedMesh]:
    found = GuardedMesh(tmp_path, PEOPLE, almighty=ROOT)
    await asyncio.to_thread(found.server.start)
    try:
        yield found
    finally:
        await asyncio.to_thread(found.server.stop)


@contextlib.asynccontextmanager
async def furnished(mesh: GuardedMesh) -> AsyncIterator[Broker]:
    """The streams, and something in them that is nobody else's business; the secret is what was stored last."""
    async with mesh_broker.connection(mesh.options(ROOT), SUBJECTS, name=ROOT) as broker:
        await streams.ensure_all(broker, streams.table(SUBJECTS, artifact_bytes_max=64 << 20))
        await broker.append(SUBJECTS.stored(OWN), MINE)
        await broker.append(SUBJECTS.stored(EMPTY), b"")
        for subject in (SUBJECTS.ledger(), VICTIM_S_ROW, CHAMPION, SUBJECTS.result("t", "verdict", "a")):
            await broker.append(subject, SECRET)
        await broker.append(SUBJECTS.stored(NAME), SECRET)
        yield broker


async def pictures(broker: Broker) -> dict[str, tuple[int, int, str]]:
    """What every stream is: where it begins and ends, and since when it is there."""
    found = {}
    for name in streams.names(SUBJECTS):
        state = await broker.state(name)
        found[name] = state.first_seq, state.last_seq, state.created
    return found


async def launch(attacker: Ear, attack: Attack, inbox: str) -> None:
    await attacker.client.publish(attack.subject, attack.data, reply=attack.reply or inbox)
    await barrier(attacker.client)


async def settled(thief: Ear, spy: Ear) -> None:
    """Whatever the attacks set going has been done: the server has answered what was asked after them."""
    for _ in range(5):
        answer = await thief.client.request(f"{GET}.{ARTIFACTS}.{SUBJECTS.stored(OWN)}", timeout=DEADLINE_S)
        assert answer.data == MINE, "what the thief may do goes on working"
        await thief.client.publish(SUBJECTS.beat(THIEF), b"sentinel")
        await barrier(thief.client)
        await spy.until(lambda: spy.says(b"sentinel"), "the thief's own beat")
        await barrier(spy.client)
        spy.heard = [message for message in spy.heard if message.data != b"sentinel"]


async def test_nothing_that_a_worker_says_is_heard_where_it_may_not_speak(mesh: GuardedMesh) -> None:
    async with furnished(mesh) as broker, raw(mesh, ROOT, ">") as spy:
        before = await pictures(broker)
        async with raw(mesh, THIEF, "mesh.in.w1.>") as thief:
            for attack in SPOKEN:
                await launch(thief, attack, "mesh.in.w1.x")
            await settled(thief, spy)
        worked = sorted({attack.spoken for attack in SPOKEN if spy.on(attack.spoken)})
        assert worked == []
        after = await pictures(broker)
        assert {name for name in before if before[name] != after[name]} == {ARTIFACTS}, "its own object, put again"
        assert (await broker.last(ARTIFACTS, SUBJECTS.stored(NAME))).data == SECRET  # type: ignore[union-attr]
        stored = [subject async for page in broker.subjects(ARTIFACTS, SUBJECTS.artifacts()) for subject in page]
        assert [subject for subject in stored if SUBJECTS.stored_name(subject) is None] == []
        async with raw(mesh, ROOT) as root:
            for attack in SPOKEN[:-1]:
                if attack.subject != SUBJECTS.beat(THIEF):
                    await works_for(root, attack, spy, broker)


async def works_for(root: Ear, attack: Attack, spy: Ear, broker: Broker) -> None:
    """The same message of whom nothing is refused."""
    spy.heard.clear()
    await launch(root, attack, "mesh.in.root.x")
    await spy.until(lambda: spy.on(attack.spoken), f"{attack} works with a key that may do everything")


async def test_a_deleted_stream_is_what_the_tricks_would_cost(mesh: GuardedMesh) -> None:
    (attack,) = [one for one in tricks(f"{STREAM}.DELETE.{TOPICS}") if one.subject.endswith(SUBJECTS.stored(EMPTY))]
    async with furnished(mesh) as broker, raw(mesh, ROOT, ">") as spy:
        async with raw(mesh, THIEF) as thief:
            await launch(thief, attack, "")
            await settled(thief, spy)
        assert TOPICS in await pictures(broker)
        async with raw(mesh, ROOT) as root:
            await launch(root, attack, "")
            await spy.until(lambda: spy.on(f"{STREAM}.DELETE.{TOPICS}"), "the server's request to itself")
            assert not json.loads((await root.client.request(f"{STREAM}.NAMES", b"{}")).data)["streams"].count(TOPICS)


async def test_a_worker_reads_nothing_but_what_it_knows_the_name_of(mesh: GuardedMesh) -> None:
    async with furnished(mesh), raw(mesh, ROOT, ">") as spy:
        async with raw(mesh, THIEF, "mesh.in.w1.>") as thief:
            for attack in READ:
                await launch(thief, attack, "mesh.in.w1.x")
            await settled(thief, spy)
            assert [attack for attack in READ if thief.says(attack.read)] == []
            assert [message.data for message in thief.heard if message.data not in (b"", MINE)] == []
        async with raw(mesh, ROOT, "mesh.in.root.>") as root:
            for attack in READ:
                root.heard.clear()
                await launch(root, attack, "mesh.in.root.x")
                await root.until(functools.partial(root.says, attack.read), f"{attack} works")


async def test_a_worker_hears_nothing_that_is_said_to_others(mesh: GuardedMesh) -> None:
    async with furnished(mesh), raw(mesh, ROOT, ">") as spy:
        patterns = [pattern for listened in HEARD.values() for pattern in listened]
        async with raw(mesh, THIEF, *patterns) as thief, raw(mesh, ROOT) as root:
            for subject in HEARD:
                await root.client.publish(subject, FORGED)
            await barrier(root.client)
            await settled(thief, spy)
            assert [message.subject for message in thief.heard if message.data != b"sentinel"] == []
        for subject, listened in HEARD.items():
            for pattern in listened:
                async with raw(mesh, ROOT, pattern) as ear:
                    await spy.client.publish(subject, FORGED)
                    await barrier(spy.client)
                    await ear.until(functools.partial(ear.on, subject), f"{pattern} hears {subject}")


HEADERS = {
    "Nats-Rollup": "all", "Nats-TTL": "1s", "Nats-Schedule": "@every 1s", "Nats-Incr": "+1",
    "Nats-Schedule-Target": "mesh.ledger", "Nats-Marker-Reason": "Purge", "KV-Operation": "PURGE",
}  # fmt: skip


async def test_headers_with_a_meaning_for_the_server_remove_and_write_nothing(mesh: GuardedMesh) -> None:
    own = SUBJECTS.study_entry(THIEF, "s", "task", EPOCH, "e")
    async with furnished(mesh) as broker, raw(mesh, ROOT, ">") as spy:
        before = await pictures(broker)
        async with raw(mesh, THIEF, "mesh.in.w1.>") as thief:
            for name, value in HEADERS.items():
                for subject in (SUBJECTS.stored(OWN), own):
                    await thief.client.publish(subject, MINE, reply="mesh.in.w1.x", headers={name: value})
            both = {name: HEADERS[name] for name in ("Nats-Schedule", "Nats-Schedule-Target")}
            await thief.client.publish(own, MINE, reply="mesh.in.w1.x", headers=both)
            await settled(thief, spy)
        assert not spy.on(SUBJECTS.ledger())
        after = await pictures(broker)
        assert {name for name in before if before[name] != after[name]} <= {ARTIFACTS, SUBJECTS.stream(streams.STUDIES)}
        assert (await broker.last(ARTIFACTS, SUBJECTS.stored(NAME))).data == SECRET  # type: ignore[union-attr]


async def test_an_object_that_was_overwritten_is_noticed_by_whoever_reads_it(mesh: GuardedMesh, tmp_path: Path) -> None:
    """Within a worker's rights, for who knows the digest: the name gives the forgery away, and nobody takes it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(SECRET)
    async with furnished(mesh) as broker:
        told: list[ObjectName] = []

        async def report(name: ObjectName) -> None:
            told.append(name)

        store = ArtifactStore(broker, SUBJECTS, cache=tmp_path / "one", cache_bytes_max=1 << 30)
        digest = await store.put(folder, media="model")
        async with mesh_broker.connection(mesh.options(THIEF), SUBJECTS, name=THIEF) as thief:
            await thief.append(SUBJECTS.stored(NAME), coding.RAW_HEADER + FORGED)
        reader = ArtifactStore(broker, SUBJECTS, cache=tmp_path / "other", cache_bytes_max=1 << 30, report=report)
        with pytest.raises(ArtifactCorrupt):
            await reader.get(digest)
        assert told == [NAME]


async def test_a_flood_keeps_nobody_from_work_while_it_is_only_said_nor_when_it_was_stored(
    mesh: GuardedMesh, tmp_path: Path
) -> None:
    """Commands are stored one after the other: a flood of them holds others up while it lasts, and no longer."""
    async with mesh_broker.connection(mesh.options(LOOKER), SUBJECTS, name=LOOKER) as broker:
        fleet = Fleet(mesh.server, broker, tmp_path, {})
        scheduler = await AgentProcess.start("scheduler", tmp_path / "s", **mesh.environment("scheduler"))
        worker: AgentProcess | None = None
        try:
            await fleet.answering()
            settings = mesh.environment(VICTIM) | {"RAMIFY_WORKER_MEMORY_BYTES": str(1 << 30)}
            worker = await AgentProcess.start("worker", tmp_path / VICTIM, **settings, RAMIFY_WORKER_NAME=VICTIM)
            said = SUBJECTS.beat(THIEF), SUBJECTS.ask("scheduler", THIEF), SUBJECTS.gone(THIEF)
            async with flooded(mesh, *said) as sent:
                await fleet.submit("one", {})
                assert (await fleet.ended("one")).incarnation.startswith(f"{VICTIM}.")
            assert sum(sent) > 1_000, "there was a flood"
            async with flooded(mesh, SUBJECTS.owed(THIEF, Key("one", EPOCH, "result", 1)), least=5_000) as sent:
                pass
            with contextlib.suppress(Conflict):  # stored, though the answer was late
                await patiently(lambda: fleet.submit("two", {}))
            assert (await fleet.ended("two")).incarnation.startswith(f"{VICTIM}.")
            assert len(scheduler.output()) < 100_000, "who floods an agent does not fill its disk"
        finally:
            for process in (worker, scheduler):
                if process is not None:
                    await process.stop()


@contextlib.asynccontextmanager
async def flooded(mesh: GuardedMesh, *subjects: str, least: int = 0) -> AsyncIterator[list[int]]:
    """Nonsense on these subjects, thousands a second; how much, so far. least: as fast as it goes, until so much."""
    sent, stop = [0], asyncio.Event()

    async def flood(client: Client) -> None:
        while not stop.is_set() or sent[0] < least:
            for subject in subjects * 20:
                await client.publish(subject, b"x" * 500, reply="mesh.in.w1.x")
                sent[0] += 1
            await client.flush()
            await asyncio.sleep(0 if least else 0.01)

    async with raw(mesh, THIEF) as thief:
        flooding = asyncio.create_task(flood(thief.client))
        try:
            yield sent
        finally:
            stop.set()
            await flooding
