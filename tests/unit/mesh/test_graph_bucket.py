"""Changes of the graph by several writers at once: none is lost, none breaks a rule that the other relied on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh import codec, graph_bucket
from mesh.errors import BusUnavailable, Retry, SettingsInvalid
from mesh.graph_bucket import Graph, GraphBucket
from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from planner import changes, graph
from planner.changes import Change
from tests.support.memory_mesh import MemoryMesh

Decide = Callable[[Graph], Change]


class Between:
    """A log that lets something else happen before its call of a given number (1: the first; 0: before none)."""

    def __init__(self, log: Any, number: int, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._log, self._number, self._meanwhile = log, number, meanwhile
        self.calls = 0

    async def _count(self) -> None:
        self.calls += 1
        if self.calls == self._number:
            await self._meanwhile()

    async def state(self, *words: Any) -> Any:
        if self._number:
            await self._count()
        return await self._log.state(*words)

    async def read(self, *words: Any, **more: Any) -> Any:
        if self._number:
            await self._count()
        return await self._log.read(*words, **more)

    async def append(self, *words: Any, **more: Any) -> Any:
        await self._count()
        return await self._log.append(*words, **more)


def clock() -> Callable[[], int]:
    """Milliseconds that rise by one."""
    count = itertools.count(1)
    return lambda: next(count)


def expand(parent: str, name: str, by: str = "ada") -> Decide:
    return lambda found: changes.expanded(found.nodes, parent, name, by=by, why="because", taken=found.taken)


def merge(one: str, into: str) -> Decide:
    return lambda found: changes.merged(found.nodes, one, into, by="bob", why="the same")


def retire(one: str) -> Decide:
    return lambda found: changes.retired(found.nodes, one, by="bob", why="nobody wants it", below=True)


def move(one: str, parent: str) -> Decide:
    return lambda found: changes.moved(found.nodes, one, parent, by="bob", why="better there")


def sow(found: Graph) -> Change:
    return changes.seeded(found.nodes, found.taken)


async def begun(folder: Path) -> tuple[MemoryMesh, GraphBucket]:
    """A mesh with root > a > (b, c), root > d."""
    mesh = await MemoryMesh(folder).start()
    bucket = GraphBucket(mesh.leader, mesh.subjects)
    root = Specialization(id=ROOT, name="everything", event=NodeEvent.SEEDED, by="x", reason="y")
    await bucket.change(lambda _: Change((root,), ""), clock())
    for parent, name in ((ROOT, "a"), ("a", "b"), ("a", "c"), (ROOT, "d")):
        await bucket.change(expand(parent, name), clock())
    return mesh, bucket


async def test_a_change_is_written_with_its_time_and_reads_back(tmp_path: Path) -> None:
    mesh, bucket = await begun(tmp_path)
    done = await bucket.change(expand("b", "new"), lambda: 1_234)
    assert done.sentence == "new stands below b"
    read = await bucket.read()
    assert read.nodes["new"] == done.nodes[0].evolve(changed_at_ms=1_234)
    assert read.last_seq == (await mesh.leader.state(mesh.subjects.bucket("graph"))).last_seq


PAIRS: list[tuple[str, Decide, Decide, Callable[[dict[str, Specialization]], bool]]] = [
    ("two expand", expand("b", "one"), expand("b", "two"), lambda n: {"one", "two"} <= n.keys()),
    ("the same", expand("b", "one"), expand("b", "One"), lambda n: [i for i in n if i.startswith("one")] == ["one"]),
    ("one name", expand("b", "one"), expand("c", "one"), lambda n: sum(x.name == "one" for x in n.values()) == 2),
    ("merge and expand", merge("a", "d"), expand("d", "one"), lambda n: n["b"].parent == n["one"].parent == "d"),
    ("expand and merge", expand("a", "one"), merge("d", "a"), lambda n: "d" in n["a"].keywords and "one" in n),
    ("two merges", merge("b", "c"), merge("d", "c"), lambda n: {"b", "d"} <= set(n["c"].keywords)),
    ("seeds and expand", sow, expand("d", "one"), lambda n: "opt-games" in n and "one" in n),
    ("seeds and retire", sow, retire("a"), lambda n: n["c"].is_over and "opt-games" in n),
    ("seeds twice", sow, sow, lambda n: "opt-games" in n),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "holds"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
async def test_nothing_is_lost_wherever_another_writer_comes_between(
    tmp_path: Path, ours: Decide, theirs: Decide, holds: Callable[[dict[str, Specialization]], bool]
) -> None:
    """The other writer's whole change happens before each of our calls in turn; of sixty seeds, before some."""
    for number in (*range(1, 9), 16, 32, 64):
        mesh, bucket = await begun(tmp_path / str(number))

        async def meanwhile(bucket: GraphBucket = bucket) -> None:
            await bucket.change(theirs, clock())

        between = Between(mesh.leader, number, meanwhile)
        await GraphBucket(between, mesh.subjects).change(ours, clock())  # type: ignore[arg-type]
        if between.calls < number:
            await meanwhile()
        nodes = (await bucket.read()).nodes
        assert holds(nodes), number
        assert graph.faults(nodes) == [], number
        if between.calls < number:
            break
    assert 3 <= between.calls < number


CLASHES: list[tuple[str, Decide, Decide]] = [
    ("expand below what is retired", expand("b", "one"), retire("a")),
    ("retire above what is expanded", retire("a"), expand("b", "one")),
    ("two moves to a circle", move("a", "d"), move("d", "b")),
    ("merge into what is retired", merge("b", "d"), retire("d")),
    ("retire what is merged into", retire("d"), merge("b", "d")),
]


@pytest.mark.parametrize(("ours", "theirs"), [clash[1:] for clash in CLASHES], ids=[clash[0] for clash in CLASHES])
async def test_what_two_writers_may_not_do_both_leaves_a_tree(tmp_path: Path, ours: Decide, theirs: Decide) -> None:
    """Each of them alone is allowed, and touches other keys than the other: only the order of the bucket tells."""
    for number in itertools.count(1):
        mesh, bucket = await begun(tmp_path / str(number))

        async def meanwhile(bucket: GraphBucket = bucket) -> None:
            with contextlib.suppress(SettingsInvalid):
                await bucket.change(theirs, clock())

        between = Between(mesh.leader, number, meanwhile)
        with contextlib.suppress(SettingsInvalid):
            await GraphBucket(between, mesh.subjects).change(ours, clock())  # type: ignore[arg-type]
        assert graph.faults((await bucket.read()).nodes) == [], number
        if between.calls < number:
            break


async def test_many_writers_at_once_all_come_through(tmp_path: Path) -> None:
    mesh, bucket = await begun(tmp_path)
    writers = [GraphBucket(mesh.server.connect(f"w{n}"), mesh.subjects) for n in range(8)]
    await asyncio.gather(
        *(writer.change(expand("b", f"n{n}"), clock()) for n, writer in enumerate(writers)),
        GraphBucket(mesh.server.connect("sower"), mesh.subjects).change(sow, clock()),
    )
    nodes = (await bucket.read()).nodes
    assert {f"n{n}" for n in range(8)} <= nodes.keys()
    assert "opt-games" in nodes
    assert graph.faults(nodes) == []


async def test_who_is_always_second_gives_up_with_a_sentence(tmp_path: Path) -> None:
    mesh, bucket = await begun(tmp_path)
    count = itertools.count()

    def decide(found: Graph) -> Change:
        return changes.expanded(found.nodes, "b", "mine", by="ada", why="because")

    class Hurried(Between):
        async def append(self, *words: Any, **more: Any) -> Any:
            await bucket.change(expand("c", f"n{next(count)}"), clock())
            return await super().append(*words, **more)

    hurried = Hurried(mesh.leader, 0, bucket.read)
    with pytest.raises(Retry, match=f"{graph_bucket.TRIES} times in a row"):
        await GraphBucket(hurried, mesh.subjects).change(decide, clock())  # type: ignore[arg-type]
    assert next(count) == graph_bucket.TRIES


async def test_a_lost_answer_is_looked_up_and_not_written_twice(tmp_path: Path) -> None:
    mesh, bucket = await begun(tmp_path)

    class Lossy(Between):
        async def append(self, *words: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise BusUnavailable("lost on the way")
            seq = await self._log.append(*words, **more)
            if self.calls == 2:
                raise BusUnavailable("stored, and the answer was lost")
            return seq

    lossy = Lossy(mesh.leader, 0, bucket.read)
    done = await GraphBucket(lossy, mesh.subjects).change(expand("b", "one"), clock())  # type: ignore[arg-type]
    assert done.nodes == (), "the third look finds it there"
    assert [revision.id for revision in await bucket.history()].count("one") == 1


async def test_a_broker_that_stays_away_is_told(tmp_path: Path) -> None:
    mesh, bucket = await begun(tmp_path)

    class Away(Between):
        async def append(self, *words: Any, **more: Any) -> Any:
            raise BusUnavailable("lost on the way")

    away = Away(mesh.leader, 0, bucket.read)
    with pytest.raises(BusUnavailable):
        await GraphBucket(away, mesh.subjects).change(expand("b", "one"), clock())  # type: ignore[arg-type]


async def test_the_history_tells_every_change_of_a_node(tmp_path: Path) -> None:
    _, bucket = await begun(tmp_path)
    await bucket.change(move("b", "d"), clock())
    await bucket.change(retire("b"), clock())
    told = [(one.node.event, one.node.by, one.node.reason) for one in await bucket.history("b") if one.node]
    assert told == [
        (NodeEvent.EXPANDED, "ada", "because"), (NodeEvent.MOVED, "bob", "better there"),
        (NodeEvent.RETIRED, "bob", "nobody wants it"),
    ]  # fmt: skip
    everything = await bucket.history()
    assert [one.seq for one in everything] == sorted(one.seq for one in everything)
    assert len(everything) == 7


async def test_what_was_erased_or_can_not_be_read_is_never_used_again(tmp_path: Path) -> None:
    mesh, bucket = await begun(tmp_path)
    await mesh.leader.append(mesh.subjects.key("graph", "d"), b"")
    await mesh.leader.append(mesh.subjects.key("graph", "opt-games"), b"from the future")
    read = await bucket.read()
    assert read.taken == {"d", "opt-games"}
    await bucket.change(sow, clock())
    stored = await mesh.leader.last(mesh.subjects.bucket("graph"), mesh.subjects.key("graph", "opt-games"))
    assert stored is not None
    assert stored.data == b"from the future"
    made = await bucket.change(expand(ROOT, "d"), clock())
    assert made.nodes[0].id.startswith("d-")
    assert (await bucket.read()).nodes["c"].state is NodeState.ACTIVE
    assert codec.decode((await mesh.all(mesh.subjects.bucket("graph"), mesh.subjects.key("graph", "c")))[0].data,
                        Specialization).name == "c"  # fmt: skip
