"""Results as server-sent events: in order, without gaps, resumed where they ended; many watchers, one reader."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents import gateway_events
from agents.gateway_events import WHOLE, Events, Ring, events_of, place_of
from agents.gateway_tokens import TokenRole, Tokens
from mesh import codec
from mesh.bus import Stored
from mesh.messages.packs import Pack
from mesh.messages.results import TaskMoved, TopicSettled
from mesh.messages.tasks import TaskState
from mesh.messages.topics import Topic
from tests.support.agents import until
from tests.support.gateway import Reached, reached

ALL = "/api/v1/events"


def moved(topic: str, task: str) -> TaskMoved:
    """A record of a topic."""
    return TaskMoved(topic=topic, task=task, state=TaskState.READY, ledger_seq=1, at_ms=2)


def settled(topic: str) -> TopicSettled:
    """The last one."""
    return TopicSettled(topic=topic, why="done.", ledger_seq=1, at_ms=2)


async def put(there: Reached, record: TaskMoved | TopicSettled, id_: str) -> int:
    """On the stream, as the leader does."""
    subject = there.mesh.subjects.result(record.topic, record.kind, id_)
    return await there.mesh.leader.append(subject, codec.encode(record))


async def publish(there: Reached, topic: str) -> None:
    """A topic of that id."""
    record = Topic(id=topic, text="words")
    await there.mesh.leader.append(there.mesh.subjects.topic(topic), codec.encode(record), subject_seq=0)


class Heard:
    """A stream as its watcher reads it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last = ""
        """Id of the last event."""

    async def events(self, count: int) -> list[Any]:
        """The next events' data."""
        found: list[Any] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                line = (await self._response.content.readline()).decode().rstrip("\n")
                if line.startswith("id: "):
                    self.last = line[4:]
                elif line.startswith("data: "):
                    found.append(json.loads(line[6:]))
        return found

    async def rest(self) -> str:
        """What is left until the stream ends."""
        async with asyncio.timeout(20):
            return (await self._response.content.read()).decode()


def watching(
    there: Reached, path: str = ALL, last: str = "", role: TokenRole = TokenRole.OBSERVER, accepts: str = "gzip"
) -> Any:
    """A watcher's connection."""
    headers = {**there.headers(role), **({"Last-Event-ID": last} if last else {}), "Accept-Encoding": accepts}
    return there.client.get(path, headers=headers)


async def begun(there: Reached) -> None:
    """The first watcher's tail reads."""
    events = next(part for part in there.gateway.parts if isinstance(part, Events))
    await until(lambda: events._ready.is_set(), "the tail")


@pytest.mark.parametrize("accepts", ["gzip", "br, gzip;q=0.5", "identity", "gzip;q=0"])
async def test_what_happens_is_heard_as_it_happens(tmp_path: Path, accepts: str) -> None:
    async with reached(tmp_path) as there, watching(there, accepts=accepts) as response:
        assert response.content_type == "text/event-stream"
        assert (response.headers.get("Content-Encoding") == "gzip") == (accepts in ("gzip", "br, gzip;q=0.5"))
        heard = Heard(response)
        await begun(there)
        await put(there, moved("one", "a"), "r1")
        await put(there, moved("two", "b"), "r2")
        found = await heard.events(2)
        assert [(one["record"], one["topic"], one["task"]) for one in found] == [
            ("task-moved", "one", "a"),
            ("task-moved", "two", "b"),
        ]
        assert heard.last == "2"


async def test_a_cut_watcher_goes_on_behind_the_last_event_that_he_saw(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        async with watching(there) as response:
            await begun(there)
            heard = Heard(response)
            await put(there, moved("one", "a"), "r1")
            await put(there, moved("one", "b"), "r2")
            assert [one["task"] for one in await heard.events(1)] == ["a"]
            last = "1"
        await put(there, moved("one", "c"), "r3")
        async with watching(there, last=last) as response:
            again = Heard(response)
            await put(there, moved("one", "d"), "r4")
            assert [one["task"] for one in await again.events(3)] == ["b", "c", "d"]


async def test_what_lies_before_the_ring_is_read_from_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_events, "PAGE", 3)
    async with reached(tmp_path) as there:
        for number in range(10):
            await put(there, moved("one", f"t{number}"), f"r{number}")
        async with watching(there, f"{ALL}?after=0") as response:
            heard = Heard(response)
            await put(there, moved("one", "t10"), "r10")
            assert [one["task"] for one in await heard.events(11)] == [f"t{number}" for number in range(11)]


async def test_records_of_one_message_can_be_resumed_in_the_middle(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        rows = tuple(codec.encode(moved("one", name)) for name in ("a", "b", "c"))
        subject = there.mesh.subjects.result("one", "task-moved", "r1")
        await there.mesh.leader.append(subject, codec.encode(Pack(rows=rows)))
        async with watching(there, f"{ALL}?after=0") as response:
            heard = Heard(response)
            assert [one["task"] for one in await heard.events(1)] == ["a"]
            assert heard.last == "1.1"
        async with watching(there, last="1.1") as response:
            again = Heard(response)
            assert [one["task"] for one in await again.events(2)] == ["b", "c"]
            assert again.last == "1"


async def test_a_topic_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    path = "/api/v1/topics/one/events?until_settled=true"
    async with reached(tmp_path) as there:
        await publish(there, "one")
        await put(there, moved("one", "a"), "r1")
        await put(there, moved("two", "x"), "r2")
        async with watching(there, path) as response:
            heard = Heard(response)
            assert [one["task"] for one in await heard.events(1)] == ["a"]
            await put(there, moved("two", "y"), "r3")
            await put(there, settled("one"), "r4")

            found = await heard.events(1)
            assert found[0]["why"] == "done."
            assert "event: " not in await heard.rest()
        async with watching(there, path) as response:  # all of it stands in the stream now
            assert (await Heard(response).rest()).count("event: ") == 2
        async with watching(there, path, last="4") as response:
            assert response.status == 204


async def test_a_topic_that_nobody_published_and_an_id_that_is_none(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        assert (await there.ask("GET", "/api/v1/topics/nothing/events"))[0] == 404
        assert (await there.ask("GET", ALL, headers={"Last-Event-ID": "yesterday"}))[0] == 422
        assert (await there.ask("GET", f"{ALL}?after=x"))[0] == 422
        assert (await there.ask("GET", ALL, None))[0] == 401
        assert (await there.ask("GET", ALL, TokenRole.WORKER))[0] == 403


async def test_an_id_from_a_newer_store_begins_anew_and_says_so(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        await put(there, moved("one", "a"), "r1")
        async with watching(there, last="900") as response:
            found = await Heard(response).events(2)
            assert [one["record"] for one in found] == ["restored", "task-moved"]


async def test_what_the_stream_forgot_is_said_as_a_gap(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        for number in range(4):
            await put(there, moved("one", f"t{number}"), f"r{number}")
        await there.mesh.leader.purge(there.mesh.subjects.stream("RESULTS"), below_seq=4)
        async with watching(there, last="1") as response:
            found = await Heard(response).events(2)
            assert [one["record"] for one in found] == ["gap", "task-moved"]
            assert found[1]["task"] == "t3"


async def test_a_hundred_watchers_share_one_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reached(tmp_path) as there:
        broker = there.gateway.parts[0].agent.broker
        tails: list[str] = []
        asked = type(broker).tail

        def counted(self: Any, stream: str, subject: str, **more: Any) -> Any:
            tails.append(stream)
            return asked(self, stream, subject, **more)

        monkeypatch.setattr(type(broker), "tail", counted)

        async def watch() -> list[Any]:
            async with watching(there) as response:
                heard = Heard(response)
                arrived.append(1)
                return await heard.events(5)

        arrived: list[int] = []
        watchers = [asyncio.create_task(watch()) for _ in range(100)]
        await until(lambda: len(arrived) == 100, "all watchers")
        for number in range(5):
            await put(there, moved("one", f"t{number}"), f"r{number}")
        found = await asyncio.gather(*watchers)
        assert all([one["task"] for one in rows] == [f"t{number}" for number in range(5)] for rows in found)
        assert tails == [there.mesh.subjects.stream("RESULTS")]


async def test_a_revoked_token_hears_nothing_more(tmp_path: Path) -> None:
    async with reached(tmp_path) as there, watching(there) as response:
        heard = Heard(response)
        await begun(there)
        await put(there, moved("one", "a"), "r1")
        await heard.events(1)
        Tokens(there.mesh.settings.home).revoke("observer-1")
        await put(there, moved("one", "secret"), "r2")
        assert "secret" not in await heard.rest()


async def test_a_watcher_that_reads_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_events, "CUT_S", 0.5)
    async with reached(tmp_path) as there:
        metrics = there.gateway.parts[0].agent.metrics
        async with watching(there, accepts="identity"):
            await begun(there)
            big = "x" * 150_000
            for number in range(100):  # 15 MB: more than both sides' buffers hold
                record = moved("one", f"t{number}").evolve(reason=big)
                await put(there, record, f"r{number}")
                await asyncio.sleep(0)
            await until(lambda: metrics.value("mesh_http_watchers_cut_total") == 1, "the cut")
        await until(lambda: metrics.value("mesh_http_watchers") == 0, "its end")


async def test_streams_have_places_of_their_own_and_they_are_bounded(tmp_path: Path) -> None:
    async with reached(tmp_path, streams_max=8) as there:  # two of one caller
        async with watching(there) as one, watching(there) as two:
            assert (one.status, two.status) == (200, 200)
            assert (await there.ask("GET", ALL, TokenRole.OBSERVER))[0] == 429
            async with watching(there, role=TokenRole.PUBLISHER) as three:
                assert three.status == 200


# -- the ring ---------------------------------------------------------------------------------------------------------


def stored(seq: int, topic: str = "one") -> Stored:
    """A message of the stream."""
    return Stored(f"mesh.results.{topic}.task-moved.r{seq}", codec.encode(moved(topic, f"t{seq}")), seq)


async def test_the_ring_forgets_the_oldest_and_knows_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_events, "RING_EVENTS_MAX", 10)
    ring = Ring()
    ring.begin(100)
    for seq in range(101, 131):
        ring.add(stored(seq))
    assert ring.newest == (130, WHOLE)
    assert (120, WHOLE) <= ring.floor < (126, WHOLE)
    number = ring.number_behind(ring.floor)
    assert ring.held(number)
    assert not ring.held(number - 1)
    upto, piece = ring.since(number, "")
    assert upto == ring.next
    ids = [int(line[4:]) for line in piece.decode().splitlines() if line.startswith("id: ")]
    assert ids == list(range(ring.floor[0] + 1, 131))
    ring.wake()


async def test_events_of_others_are_left_out(tmp_path: Path) -> None:
    ring = Ring()
    ring.begin(0)
    for seq, topic in enumerate(("one", "two", "one"), 1):
        ring.add(stored(seq, topic))
    _, piece = ring.since(ring.number_behind((0, WHOLE)), "one")
    assert piece.count(b"event: ") == 2
    assert ring.since(ring.number_behind((1, WHOLE)), "one")[1].count(b"event: ") == 1
    ring.wake()


@pytest.mark.parametrize(
    ("text", "place"),
    [("812", (812, WHOLE)), ("812.3", (812, 3)), ("", None), ("a", None), ("1.x", None), ("-1", None)],
)
def test_ids_are_places(text: str, place: tuple[int, int] | None) -> None:
    assert place_of(text) == place


def test_a_record_of_another_program_is_passed_over() -> None:
    assert events_of(Stored("mesh.results.one.new-kind.r1", b"\x81\xa4kind\xa3new", 1)) == []
