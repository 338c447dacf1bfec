"""The collector on the broker in memory: what stays, what goes and when, and what breaks a round off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from mesh import codec, coding, streams, virtual_time
from mesh.errors import DiskFull
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Epoch
from mesh.messages.collecting import Condemned, CorruptFound, Why
from mesh.messages.judgement import Champion, Choice, Recommendation
from mesh.messages.ledger import Entry, LeaderChosen, Recommended, SnapshotAt, TaskSucceeded
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from mesh.objects_folder import FolderBackend
from mesh.sieve import Sieve
from planner.ledger import Checkpoint, Ended
from tests.support.collecting import EVERY_S, KEEP_S, SUBJECTS, WAIT_S, CollectingStage, StagedHistory, listed

A, B, C, D = (bytes([letter]) * 2_000 for letter in b"ABCD")

LEADER = Entry(
    term=1, generation=1, commands_seq=0, previous="0" * 64, at_ms=0, events=(LeaderChosen(name="s", term=1),)
)

ROUND_S = EVERY_S + WAIT_S + 60.0
"""A round and some: what is dead at its beginning is gone at its end."""


def run(folder: Path, case: Callable[[CollectingStage], Awaitable[None]], *, limit_bytes: int = 1 << 30) -> None:
    async def whole() -> None:
        await case(await CollectingStage(folder, limit_bytes=limit_bytes).start())

    virtual_time.run(whole())


def test_what_a_torn_upload_left_goes_and_what_is_named_stays(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        named = await stage.put(A, B)
        stage.open_task("a", inputs={"data": named})
        await stage.put_object(C)
        async with stage.collecting() as collector:
            await asyncio.sleep(ROUND_S)
            use = collector.use()
        assert await stage.holds(named)
        assert len(await stage.stored()) == 3
        assert (use.removed, use.objects, use.manifests, use.garbage) == (1, 3, 1, 1)

    run(tmp_path, case)


def test_nothing_is_removed_before_the_wait_is_over(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        await stage.put_object(C)
        async with stage.collecting():
            await asyncio.sleep(EVERY_S + WAIT_S - 10.0)
            assert len(await stage.stored()) == 1
            lists = await stage.hand.read(SUBJECTS.stream(streams.CONDEMNED), SUBJECTS.condemned())
            assert [set(codec.decode(one.data, Condemned).names()) for one in lists] == [await stage.stored()]
            await asyncio.sleep(60.0)
            assert len(await stage.stored()) == 0

    run(tmp_path, case)


def test_an_artifact_without_a_name_stays_for_its_time(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        nameless = await stage.put(A)
        async with stage.collecting():
            await asyncio.sleep(KEEP_S)
            assert await stage.holds(nameless)
            await asyncio.sleep(2 * ROUND_S)
            assert await stage.stored() == set()

    run(tmp_path, case)


def test_an_artifact_that_is_put_again_begins_its_time_anew(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        nameless = await stage.put(A)
        async with stage.collecting():
            for _ in range(6):
                await asyncio.sleep(KEEP_S / 2)
                assert await stage.put(A) == nameless
                assert await stage.holds(nameless)

    run(tmp_path, case)


def test_ages_go_on_in_the_next_life_of_the_scheduler_and_begin_anew_elsewhere(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        nameless = await stage.put(A)
        async with stage.collecting():
            await asyncio.sleep(KEEP_S - EVERY_S)
        async with stage.collecting("again"):
            await asyncio.sleep(4 * EVERY_S)
        assert not await stage.holds(nameless)

    run(tmp_path, case)


def test_checkpoints_go_as_soon_as_the_ledger_has_overtaken_them(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        def facts(number: int, task: str = "a", epoch: str = "1-1") -> dict[str, object]:
            return {"task": task, "epoch": epoch, "number": number}

        bodies = [bytes([number]) * 1_000 for number in range(8)]
        made = [await stage.put(A, body, media="checkpoint", facts=facts(number)) for number, body in enumerate(bodies)]
        over = await stage.put(B, media="checkpoint", facts=facts(1, "over"))
        stale = await stage.put(C, media="checkpoint", facts=facts(9, epoch="1-0"))
        unknown = await stage.put(D, media="checkpoint", facts=facts(1, "unknown"))
        kept = tuple(Checkpoint(number, made[number], number, 1.0) for number in (6, 5, 2))
        stage.open_task("a", checkpoints=kept).epoch = Epoch(1, 1)
        stage.ledger.ended.put(Ended("over", "t1", TaskState.SUCCEEDED, Epoch(1, 1), None))
        async with stage.collecting():
            await asyncio.sleep(ROUND_S)
        assert [await stage.holds(digest) for digest in made] == [False, False, True, False, False, True, True, True]
        assert not await stage.holds(over)
        assert not await stage.holds(stale)
        assert await stage.holds(unknown)

    run(tmp_path, case)


def test_the_base_of_a_living_delta_stays(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        base, delta = object_names.whole(codec.digest(A)), object_names.delta(codec.digest(B), codec.digest(A))
        await stage.put_object(A)
        await stage.backend.put(delta, b"delta")
        await stage.backend.put(object_names.delta(codec.digest(C), codec.digest(A)), b"garbage")
        entry = FileEntry(
            path="f", size_bytes=len(B), objects=(codec.digest(B),), sizes=(len(B),), bases=(codec.digest(A),)
        )
        data = codec.encode(Manifest(media="checkpoint", files=(entry,)))
        await stage.backend.put(object_names.manifest(codec.digest(data)), data)
        stage.open_task("a", inputs={"resume": codec.digest(data)})
        async with stage.collecting():
            await asyncio.sleep(ROUND_S)
        assert await stage.stored() == {base, delta, object_names.manifest(codec.digest(data))}

    run(tmp_path, case)


def test_what_stands_in_the_lists_of_a_living_artifact_stays(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        living, dead = await stage.put(A, B, C, rows=2), await stage.put(A, D, rows=1)
        before = await stage.stored()
        stage.open_task("a", inputs={"dataset": living})
        async with stage.collecting() as collector:
            await asyncio.sleep(KEEP_S + 3 * EVERY_S)
            assert collector.use().garbage == 0
        assert await stage.holds(living)
        gone = {object_names.manifest(dead), object_names.whole(codec.digest(D))}
        gone |= {object_names.whole(codec.digest(body)) for body in listed((A, D), 1)}
        assert before - await stage.stored() == gone

    run(tmp_path, case)


def test_an_artifact_that_was_written_meanwhile_saves_what_its_lists_name(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        for body in (A, B):
            await stage.put_object(body)
        async with stage.collecting():
            await asyncio.sleep(EVERY_S + WAIT_S / 2)  # both are condemned
            late = await stage.put(A, B, rows=1)
            stage.open_task("a", inputs={"dataset": late})
            await asyncio.sleep(EVERY_S)
        assert await stage.holds(late)

    run(tmp_path, case)


def test_a_corrupt_list_is_a_suspect_and_one_of_a_later_program_stops_everything(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        first = object_names.whole(codec.digest(listed((A, B, C), 2)[0]))
        broken = await stage.put(A, B, C, rows=2)
        stage.open_task("a", inputs={"dataset": broken})
        await stage.backend.put(first, coding.RAW_HEADER + b"other bytes", over=True)
        async with stage.collecting() as collector:
            await asyncio.sleep(ROUND_S)
            assert [row.name for row in collector.use().corrupt] == [str(first)]
        assert not await stage.backend.has(first)
        odd = codec.pack({"kind": "object-list", "v": 99})
        await stage.put_object(odd)
        entry = FileEntry(path="f", size_bytes=1, objects=(), sizes=(), lists=(codec.digest(odd),))
        data = codec.encode(Manifest(media="model", files=(entry,)))
        await stage.backend.put(object_names.manifest(codec.digest(data)), data)
        garbage = await stage.put_object(b"garbage")
        async with stage.collecting("later") as collector:
            await asyncio.sleep(ROUND_S)
            assert "update this scheduler" in collector.use().state
        assert await stage.backend.has(garbage)

    run(tmp_path, case)


def champion(model: str) -> Champion:
    return Champion(
        specialization="s", version_number=1, model=model, topic="t1", task="a", line=Line.EVOLVER, verdict="v"
    )


def ended(outputs: dict[str, str], topic: str = "t1") -> TaskEnded:
    return TaskEnded(
        topic=topic, specialization="s", task=TaskSpec(id=f"{topic}-a", topic=topic, executor="noop"),
        state=TaskState.SUCCEEDED, outcome=Outcome(outputs=outputs), ledger_seq=1, at_ms=0,
    )  # fmt: skip


async def name_by(stage: CollectingStage, way: str, digest: str) -> None:
    """Have something that is kept name an artifact."""
    append = stage.hand.append
    if way == "topic":
        topic = Topic(id="t1", text="digits", data=DataRef(source=digest))
        await append(SUBJECTS.topic("t1"), codec.encode(topic))
    elif way == "result":
        await append(SUBJECTS.result("t1", "task-ended", "r1"), codec.encode(ended({"model": digest})))
    elif way == "champion":
        await append(SUBJECTS.key(streams.CHAMPIONS, "s"), codec.encode(champion(digest)))
    elif way == "champion before":
        await append(SUBJECTS.key(streams.CHAMPIONS, "s"), codec.encode(champion(digest)))
        await append(SUBJECTS.key(streams.CHAMPIONS, "s"), codec.encode(champion("0" * 64)))
    elif way == "parked task":
        stage.open_task("a", inputs={"data": digest})
        stage.ledger.dead_letters["a"] = stage.ledger.tasks.pop("a")
    elif way == "snapshot":
        stage.history.snapshots.newest = SnapshotAt(manifest=digest, seq=1, commands_seq=1)


@pytest.mark.parametrize("way", ["topic", "result", "champion", "champion before", "parked task", "snapshot"])
def test_what_is_named_lives(tmp_path: Path, way: str) -> None:
    async def case(stage: CollectingStage) -> None:
        named, nameless = await stage.put(A), await stage.put(B)
        await name_by(stage, way, named)
        async with stage.collecting():
            await asyncio.sleep(2 * KEEP_S)
        assert await stage.holds(named)
        assert not await stage.holds(nameless)

    run(tmp_path, case)


@pytest.mark.parametrize("is_open", [True, False])
def test_splits_stay_as_long_as_their_topic_and_models_as_long_as_it_is_worked_on(
    tmp_path: Path, is_open: bool
) -> None:
    async def case(stage: CollectingStage) -> None:
        split, model, other = await stage.put(A, media="split"), await stage.put(B), await stage.put(C, media="split")
        await stage.hand.append(SUBJECTS.topic("t1"), codec.encode(Topic(id="t1", text="digits")))
        stage.ledger.ended.put(Ended("a", "t1", TaskState.SUCCEEDED, Epoch(1, 1), None))
        stage.ledger.ended.put(Ended("b", "t2", TaskState.SUCCEEDED, Epoch(1, 1), None))
        if is_open:
            stage.open_task("c")
        events = tuple(
            TaskSucceeded(task=task, epoch=Epoch(1, 1), number=1, incarnation="w.1", outcome=Outcome(outputs=outputs))
            for task, outputs in (("a", {"train": split, "model": model}), ("b", {"train": other}))
        )
        entry = Entry(term=1, generation=1, commands_seq=0, previous="0" * 64, at_ms=0, events=events)
        await stage.hand.append(SUBJECTS.ledger(), codec.encode(entry))
        async with stage.collecting():
            await asyncio.sleep(2 * KEEP_S)
            assert await stage.holds(split)
            assert await stage.holds(model) == is_open
            assert not await stage.holds(other)
            await stage.hand.purge(SUBJECTS.stream(streams.TOPICS))
            await asyncio.sleep(2 * KEEP_S)
            assert await stage.holds(split) == is_open

    run(tmp_path, case)


def test_every_model_that_was_ever_champion_stays(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        once, never = await stage.put(A), await stage.put(B)
        recommendation = Recommendation(
            id="r", topic="t1", specialization="s", choice=Choice.KEEP, why="", effect=0.0, interval=(0.0, 0.0),
            candidates=(), champion_before=once,
        )  # fmt: skip
        events = (Recommended(recommendation=recommendation),)
        entry = Entry(term=1, generation=1, commands_seq=0, previous="0" * 64, at_ms=0, events=events)
        await stage.hand.append(SUBJECTS.ledger(), codec.encode(entry))
        async with stage.collecting():
            await asyncio.sleep(2 * KEEP_S)
            stage.ledger.generation += 1  # what was learned of the lineage outlives a store that came back older
            await asyncio.sleep(2 * KEEP_S)
        assert await stage.holds(once)
        assert not await stage.holds(never)

    run(tmp_path, case)


def test_a_missing_model_of_a_champion_is_counted(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        await name_by(stage, "champion", await stage.put(A))
        await stage.hand.append(SUBJECTS.key(streams.CHAMPIONS, "t"), codec.encode(champion("12" * 32)))
        async with stage.collecting() as collector:
            await asyncio.sleep(ROUND_S)
            assert collector.use().missing == 1

    run(tmp_path, case)


def test_what_results_name_goes_when_they_are_no_longer_kept(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        model = await stage.put(A)
        await name_by(stage, "result", model)
        async with stage.collecting():
            await asyncio.sleep(2 * KEEP_S)
            assert await stage.holds(model)
            await stage.hand.purge(SUBJECTS.stream(streams.RESULTS))
            await asyncio.sleep(2 * KEEP_S)
            assert not await stage.holds(model)

    run(tmp_path, case)


def test_what_gets_a_name_while_it_is_condemned_lives(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        late = await stage.put(A)
        async with stage.collecting():
            async with stage.hand.tail(SUBJECTS.stream(streams.CONDEMNED), SUBJECTS.condemned()) as lists:
                await anext(aiter(lists))
            stage.open_task("a", inputs={"data": late})
            await asyncio.sleep(2 * ROUND_S)
            assert await stage.holds(late)

    run(tmp_path, case)


def test_a_manifest_that_comes_while_its_objects_are_condemned_saves_them(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        await stage.put_object(A)
        await stage.put_object(B)
        async with stage.collecting():
            await asyncio.sleep(EVERY_S + WAIT_S / 2)
            upload = await stage.put(A, media="upload")
            await asyncio.sleep(WAIT_S)
            assert await stage.holds(upload)
            assert object_names.whole(codec.digest(B)) not in await stage.stored()

    run(tmp_path, case)


def test_an_object_that_is_stored_again_after_it_was_condemned_lives(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        name = await stage.put_object(A)
        async with stage.collecting():
            await asyncio.sleep(EVERY_S + WAIT_S / 2)
            await stage.backend.put(name, coding.RAW_HEADER + A, over=True)
            await asyncio.sleep(WAIT_S)
            assert name in await stage.stored()

    run(tmp_path, case)


def test_a_nearly_full_store_is_looked_at_at_once(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        for number in range(9):
            await stage.put_object(bytes([number]) * 1_000)
        async with stage.collecting():
            await asyncio.sleep(WAIT_S + 15.0)  # a period would be ten times as long
            assert await stage.stored() == set()

    run(tmp_path, case, limit_bytes=10_240)


def test_an_upload_that_finds_the_store_full_goes_on_when_garbage_is_gone(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        stage.open_task("a", inputs={"data": await stage.put(A)})
        for number in range(15):  # torn uploads, one after the other
            await stage.put_object(bytes([number]) * 1_000)
        with pytest.raises(DiskFull, match="wait for the next collection"):
            await stage.put(B, C)
        async with stage.collecting():
            while True:
                try:
                    stage.open_task("b", inputs={"data": await stage.put(B, C)})
                    break
                except DiskFull:
                    await asyncio.sleep(5.0)
            assert asyncio.get_running_loop().time() < EVERY_S
            await asyncio.sleep(2 * ROUND_S)
            assert len(await stage.stored()) == 5

    run(tmp_path, case, limit_bytes=20_000)


@pytest.mark.parametrize(("bytes_max", "rounds"), [(1_000_000, 1), (5_000, 2)])
def test_a_folder_that_is_nearly_full_is_looked_at_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_max: int, rounds: int
) -> None:
    """What it holds is known from the look before."""
    (tmp_path / "disk").mkdir()

    async def inline(work: Callable[..., object], *arguments: object) -> object:
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", inline)  # threads know nothing of virtual time
    chosen = {"artifacts.backend": "folder", "artifacts.folder": str(tmp_path / "disk")}

    async def case(stage: CollectingStage) -> None:
        await stage.hand.append(SUBJECTS.ledger(), codec.encode(LEADER))
        stage.backend = FolderBackend(tmp_path / "disk", SUBJECTS.prefix)  # type: ignore[assignment]
        await stage.put(A, B)
        garbage = await stage.put_object(C)
        async with stage.collecting(**chosen, **{"artifacts.bytes_max": bytes_max}) as collector:
            await asyncio.sleep(EVERY_S + WAIT_S + 60.0)
            assert garbage not in await stage.stored()
            assert collector._agent.metrics.value("mesh_collections_total", outcome="done") == rounds
            assert collector.use().limit_bytes == bytes_max
            assert 4_000 < collector.use().size_bytes < 7_000

    run(tmp_path, case)


def test_a_full_store_of_living_things_is_not_looked_at_all_the_time(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        stage.open_task("a", inputs={"data": await stage.put(*(bytes([number]) * 1_000 for number in range(9)))})
        async with stage.collecting() as collector:
            await asyncio.sleep(5.5 * EVERY_S)
            looks = collector._agent.metrics.value("mesh_collections_total", outcome="done")
            assert looks == 6

    run(tmp_path, case, limit_bytes=11_800)


def test_a_store_that_came_back_older_ends_the_round(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        older = stage.server.copy()
        await stage.put_object(A)
        async with stage.collecting() as collector:
            await asyncio.sleep(EVERY_S + WAIT_S / 2)
            stage.server.crash()
            stage.server.restart(older)
            name = await stage.put_object(A)  # in this history nobody has condemned it
            await asyncio.sleep(WAIT_S)
            assert name in await stage.stored()
            assert collector._agent.metrics.value("mesh_collections_total", outcome="broken off") == 1
            await asyncio.sleep(2 * ROUND_S)
            assert await stage.stored() == set()

    run(tmp_path, case)


def test_two_collectors_do_not_both_remove(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        await stage.put_object(A)
        async with stage.collecting("s1") as one:
            await asyncio.sleep(WAIT_S / 2)
            (tmp_path / "other").mkdir()
            async with stage.collecting("s2", StagedHistory(tmp_path / "other", stage.ledger)) as two:
                await asyncio.sleep(EVERY_S + WAIT_S + 5.0)
                done = [each._agent.metrics.value("mesh_collections_total", outcome="done") for each in (one, two)]
                assert done == [0, 1]
                assert await stage.stored() == set()

    run(tmp_path, case)


def test_a_manifest_of_a_newer_program_stops_collecting(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        await stage.put_object(A)
        newer = b"\x83\xa4kind\xa8manifest\xa1v\x63\xa4what\xa4else"
        await stage.backend.put(object_names.manifest(codec.digest(newer)), newer)
        async with stage.collecting() as collector:
            await asyncio.sleep(ROUND_S)
            assert collector._agent.metrics.value("mesh_collections_total", outcome="broken off") >= 1
            assert len(await stage.stored()) == 2

    run(tmp_path, case)


@pytest.mark.parametrize("foreign", [True, False])
def test_nothing_is_removed_where_another_mesh_stores_too(tmp_path: Path, foreign: bool) -> None:
    async def case(stage: CollectingStage) -> None:
        await stage.hand.append(SUBJECTS.ledger(), codec.encode(LEADER))
        first = (await stage.hand.read(SUBJECTS.stream(streams.LEDGER), SUBJECTS.ledger()))[0].data
        await stage.put(media="owner", facts={"mesh": "f" * 64 if foreign else codec.digest(first)})
        await stage.put_object(A)
        async with stage.collecting() as collector:
            collector._shared = True
            await asyncio.sleep(2 * KEEP_S)
            broken_off = collector._agent.metrics.value("mesh_collections_total", outcome="broken off")
        assert (broken_off > 0) == foreign
        assert (object_names.whole(codec.digest(A)) in await stage.stored()) == foreign
        owners = [name for name in await stage.stored() if name.kind == object_names.MANIFEST]
        assert len(owners) >= 1

    run(tmp_path, case)


def test_lists_are_removed_long_after_their_round_and_the_newest_stays(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        async with stage.collecting():
            for number in range(60):
                await stage.put_object(bytes([number]) * 100)
                await asyncio.sleep(EVERY_S)
            state = await stage.hand.state(SUBJECTS.stream(streams.CONDEMNED))
            assert state.last_seq > 40
            assert 8 < state.messages < 14
            await asyncio.sleep(100 * EVERY_S)
            assert (await stage.hand.state(SUBJECTS.stream(streams.CONDEMNED))).messages == 1

    run(tmp_path, case)


def test_a_corrupt_object_is_condemned_removed_and_told(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        good = await stage.put_object(B)
        bad = object_names.whole(codec.digest(A))
        await stage.backend.put(bad, coding.RAW_HEADER + B)
        wanted = list[bytes]()

        async def hear(message: object) -> None:
            wanted.append(message.data)  # type: ignore[attr-defined]

        await stage.hand.subscribe(SUBJECTS.wanted(), hear)
        async with stage.collecting() as collector:
            await asyncio.sleep(1.0)
            collector.suspect(
                CorruptFound(names=(str(bad), str(good), "nonsense", str(object_names.manifest("0" * 64))))
            )
            await asyncio.sleep(1.0)
            assert await stage.stored() == {good}
            assert len(wanted) == 1
            lists = await stage.hand.read(SUBJECTS.stream(streams.CONDEMNED), SUBJECTS.condemned())
            assert [codec.decode(one.data, Condemned).why for one in lists] == [Why.CORRUPT]
            assert [(row.name, row.back) for row in collector.use().corrupt] == [(str(bad), False)]
            await stage.put_object(A)
            await asyncio.sleep(60.0)
            assert [(row.name, row.back) for row in collector.use().corrupt] == [(str(bad), True)]

    run(tmp_path, case)


def test_a_defect_of_the_collector_ends_a_round_and_not_the_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def case(stage: CollectingStage) -> None:
        await stage.put_object(A)
        real = Sieve.doomed
        defects = [ValueError("a defect")]

        def doomed(self: Sieve) -> Iterator[list[object_names.ObjectName]]:
            if defects:
                raise defects.pop()
            return real(self)

        monkeypatch.setattr(Sieve, "doomed", doomed)
        async with stage.collecting() as collector:
            await asyncio.sleep(ROUND_S)
            assert "a defect" in collector.use().state
            assert len(await stage.stored()) == 1
            await asyncio.sleep(ROUND_S)
            assert await stage.stored() == set()

    run(tmp_path, case)


def test_a_corrupt_base_is_found_behind_its_delta(tmp_path: Path) -> None:
    async def case(stage: CollectingStage) -> None:
        base, delta = object_names.whole(codec.digest(A)), object_names.delta(codec.digest(B), codec.digest(A))
        await stage.backend.put(base, coding.RAW_HEADER + C)
        await stage.backend.put(delta, coding.RAW_HEADER + B)
        async with stage.collecting() as collector:
            await asyncio.sleep(1.0)
            collector.suspect(CorruptFound(names=(str(delta),)))
            await asyncio.sleep(1.0)
            assert await stage.stored() == {delta}

    run(tmp_path, case)


def test_a_sieve_walks_through_more_names_than_fit_a_page(tmp_path: Path) -> None:
    names = [object_names.whole(codec.digest(b"%d" % number)) for number in range(3_500)]
    manifests = [object_names.manifest(codec.digest(b"%d" % number)) for number in range(1_500)]
    sieve = Sieve(tmp_path / "look.db")
    sieve.find(names + manifests)
    sieve.keep(names[::2])
    doomed = [name for page in sieve.doomed() for name in page]
    assert doomed == sorted(names[1::2])
    assert [name for page in sieve.manifests() for name in page] == sorted(manifests)
    sieve.close()
    assert not (tmp_path / "look.db").exists()
