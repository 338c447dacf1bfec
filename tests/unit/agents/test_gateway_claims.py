"""Workers over HTTP: seats, claims and rows, with a real leader in memory behind the gateway."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import gateway_seat, gateway_seat_file, gateway_seats, owed, scheduler
from agents.gateway_claims import Claims
from agents.gateway_problems import Refused
from agents.gateway_seat import Seat
from agents.gateway_tokens import TokenRole
from mesh import codec
from mesh.messages.commands import Submit
from mesh.messages.leases import Answer
from mesh.messages.results import Progress, TaskEnded, TaskMoved
from mesh.messages.tasks import Needs, TaskSpec
from mesh.packed import Each
from tests.support import agents
from tests.support.gateway import Reached, reached
from tests.support.memory_mesh import MemoryMesh

DEADLINE_S = 20.0
W = TokenRole.WORKER
AT = "/api/v1/network"


class Stage:
    """A leader, a gateway, and a worker's hands."""

    def __init__(self, mesh: MemoryMesh, gateway: Reached) -> None:
        self.mesh, self.gateway = mesh, gateway
        self.secrets: dict[str, str] = {}

    async def ask(self, path: str, name: str = "", **body: Any) -> tuple[int, Any]:
        """A request of the worker with the token; name: another worker's."""
        headers = {}
        if name:
            if name not in self.secrets:
                self.secrets[name] = self.gateway.gateway.tokens.issue(W, name, 60.0)[0]
            headers = {"Authorization": f"Bearer {self.secrets[name]}"}
        return await self.gateway.ask("POST", f"{AT}/{path}", None if name else W, json=body, headers=headers)

    async def good(self, path: str, **body: Any) -> Any:
        """The same; what came back, with 200."""
        status, found = await self.ask(path, **body)
        assert status == 200, found
        return found

    async def submit(self, *names: str, **more: Any) -> None:
        """Tasks of a kind that only the worker over HTTP runs."""
        needs = Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0)
        specs = tuple(TaskSpec(id=name, topic="topic", executor="noop", needs=needs, **more) for name in names)
        submit = Submit(id=f"submit-{names[0]}", topic="topic", tasks=specs)
        leader, subject = self.mesh.leader, self.mesh.subjects.command("test", "submit", submit.id)
        await leader.append(subject, codec.encode(submit), subject_seq=0)

    async def claimed(self, **more: Any) -> Any:
        """The one lease that a claim brings."""
        (lease,) = (await self.good("training/claim", wait_s=15, **more))["leases"]
        return lease

    async def stopped(self, task: str, epoch: str) -> None:
        """Beat until the order for a lease is to stop."""
        held = [{"task": task, "epoch": epoch}]
        for _ in range(400):
            if (await self.good("workers/heartbeat", held=held))["orders"][0]["order"] == "stop":
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{task} under {epoch} was never to be stopped")

    async def ended(self, task: str) -> TaskEnded:
        """The end of a task, waited for."""
        subjects = self.mesh.subjects
        async with asyncio.timeout(DEADLINE_S):
            async with self.mesh.leader.tail(subjects.stream("RESULTS"), subjects.results(kind="task-ended")) as found:
                async for stored in Each(found):
                    if (record := codec.decode(stored.data, TaskEnded)).task.id == task:
                        return record
        raise AssertionError("the results ended")

    async def moved(self, task: str, reason: str) -> TaskMoved:
        """The first move of a task whose reason says this, waited for."""
        subjects = self.mesh.subjects
        async with asyncio.timeout(DEADLINE_S):
            async with self.mesh.leader.tail(subjects.stream("RESULTS"), subjects.results(kind="task-moved")) as found:
                async for stored in Each(found):
                    record = codec.decode(stored.data, TaskMoved)
                    if record.task == task and reason in record.reason:
                        return record
        raise AssertionError("the results ended")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    mesh = await MemoryMesh(tmp_path).start()
    flags: dict[str, Any] = {"scheduler.beat_s": 0.1, "scheduler.lost_s": 1.5, "scheduler.back_off_s_first": 0.05}
    leader = agents.make(mesh.server, "scheduler", tmp_path / "leader", name="scheduler", **flags)
    async with agents.running(leader, scheduler.body), reached(tmp_path, Claims, mesh=mesh) as gateway:
        yield Stage(mesh, gateway)


async def test_a_task_goes_from_a_claim_to_its_recorded_result_and_asking_again_changes_nothing(stage: Stage) -> None:
    seat = await stage.good("workers/register", kinds={"noop": 1})
    assert (seat["name"], seat["leases"]) == ("worker-1", [])
    assert seat["incarnation"].startswith("worker-1.")
    await stage.submit("one")
    lease = await stage.claimed()
    assert (lease["task"]["id"], lease["epoch"], lease["attempt"]) == ("one", "1-1", 1)
    progress = await stage.good("training/progress", task="one", epoch="1-1", step=5, done=0.5)
    assert progress["order"] == "keep"
    row: dict[str, Any] = {"task": "one", "epoch": "1-1", "outcome": {"kpis": {"score": 0.5}, "seconds": 1.5}}
    noted = {"task": "one", "epoch": "1-1", "kind": "result", "number": 1, "recorded": True}
    assert await stage.good("training/complete", **row) == noted
    ended = await stage.ended("one")
    assert ended.outcome is not None
    assert ended.outcome.kpis == {"score": 0.5}
    assert await stage.good("training/complete", **row) == noted
    status, problem = await stage.ask("training/complete", **{**row, "outcome": {"kpis": {"score": 0.9}}})
    assert (status, problem["error"]) == (409, "Conflict")
    assert (await stage.good("workers/heartbeat", held=[]))["orders"] == []


async def test_a_lease_whose_answer_was_lost_is_handed_out_again_until_the_worker_names_it(stage: Stage) -> None:
    await stage.good("workers/register", kinds={"noop": 1}, leases_max=2)
    await stage.submit("one")
    lease = await stage.claimed()
    assert await stage.claimed() == lease
    held = [{"task": "one", "epoch": lease["epoch"], "step": 3}]
    assert (await stage.good("training/claim", wait_s=0, held=held))["leases"] == []
    await stage.submit("two")
    assert (await stage.claimed(held=held))["task"]["id"] == "two"
    orders = (await stage.good("workers/heartbeat", held=[*held, {"task": "two", "epoch": "9-9"}]))["orders"]
    assert [(one["task"], one["epoch"], one["order"]) for one in orders] == [
        ("one", "1-1", "keep"),
        ("two", "9-9", "stop"),
    ]


async def test_nobody_can_end_what_was_never_his(stage: Stage) -> None:
    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    await stage.claimed()
    assert (await stage.ask("workers/register", "thief", kinds={"other": 1}))[0] == 200
    row: dict[str, Any] = {"task": "one", "epoch": "1-1", "outcome": {"kpis": {"score": 1.0}}}
    for path, body in (
        ("training/complete", row),
        ("training/complete", {"task": "one", "epoch": "1-1", "give_back": "mine"}),
        ("training/progress", {"task": "one", "epoch": "1-1"}),
        ("training/complete", {**row, "task": "unknown"}),
    ):
        status, problem = await stage.ask(path, "thief", **body)
        assert (status, "thief" in problem["detail"]) == (404, True)
    status, problem = await stage.ask("training/complete", "nobody", **row)
    assert (status, problem["title"]) == (409, "This worker has not registered")
    commands = await stage.mesh.all("MESH_COMMANDS", "mesh.cmd.thief.>")
    assert commands == []
    assert (await stage.good("training/complete", **row))["recorded"]


async def test_an_epoch_that_is_over_is_refused_with_the_ledgers_reason(stage: Stage) -> None:
    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    lease = await stage.claimed()
    assert (await stage.good("training/complete", task="one", epoch="1-1", give_back="a rest"))["recorded"]
    again = await stage.claimed()
    assert (lease["epoch"], again["epoch"]) == ("1-1", "1-2")
    failure = {"failure": "retry", "reason": "late"}
    status, problem = await stage.ask("training/complete", task="one", epoch="1-1", failure=failure)
    assert (status, problem["error"], problem["type"].partition("#")[2]) == (409, "StaleWrite", "stale-epoch")
    assert "epoch 1-1 of one is over or not yours: it is leased at 1-2" in problem["detail"]
    for epoch in ("1-1", "1-9"):
        assert (await stage.ask("training/progress", task="one", epoch=epoch))[0] == 409
    status, problem = await stage.ask("training/complete", task="one", epoch="1-9", give_back="it was never mine")
    assert (status, "never given one under 1-9" in problem["detail"]) == (409, True)
    assert (await stage.good("workers/heartbeat", held=[{"task": "one", "epoch": "1-2"}]))["orders"][0][
        "order"
    ] == "keep"
    assert (await stage.good("training/complete", task="one", epoch="1-2", outcome={}))["recorded"]
    status, problem = await stage.ask("training/complete", task="one", epoch="1-1", failure={**failure, "reason": "x"})
    assert status == 409


async def test_a_new_claim_ends_the_one_before(stage: Stage) -> None:
    await stage.good("workers/register", kinds={"noop": 1})
    older = asyncio.create_task(stage.good("training/claim", wait_s=20))
    streams = stage.gateway.gateway.limits.streams
    await agents.until(lambda: streams.taken == 1, "the older claim")
    newer = asyncio.create_task(stage.claimed())
    async with asyncio.timeout(DEADLINE_S):
        assert (await older)["leases"] == []
    await stage.submit("one")
    assert (await newer)["task"]["id"] == "one"


async def test_silent_hands_lose_their_leases_and_find_their_seat_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_seat, "SILENT_S", 0.5)
    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    await stage.claimed()
    await stage.moved("one", "no beat")
    monkeypatch.setattr(gateway_seat, "SILENT_S", 60.0)
    held = [{"task": "one", "epoch": "1-1"}]
    await stage.good("workers/heartbeat", held=held)  # the beats begin again, and the leader answers
    await stage.stopped("one", "1-1")
    again = await stage.claimed()
    assert again["epoch"] == "1-2"


async def test_what_nobody_fetches_or_names_goes_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.good("workers/register", kinds={"noop": 1}, leases_max=2)
    await stage.good("training/claim", wait_s=0)  # the offer stands a little longer
    monkeypatch.setattr(gateway_seat, "UNCLAIMED_S", 0.2)
    await stage.submit("one")
    await stage.moved("one", "did not fetch it")
    monkeypatch.setattr(gateway_seat, "UNNAMED_S", 0.2)
    monkeypatch.setattr(gateway_seat, "UNCLAIMED_S", 60.0)
    await stage.claimed()
    went_back = asyncio.create_task(stage.moved("one", "has not named it"))
    while not went_back.done():  # the hands speak, and do not name it
        await stage.good("workers/heartbeat", held=[])
        await asyncio.wait({went_back}, timeout=0.05)
    await went_back


async def test_a_worker_that_leaves_gives_back_and_a_new_life_ends_the_old_ones_leases(stage: Stage) -> None:
    first = await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    await stage.claimed()
    same = await stage.good("workers/register", kinds={"noop": 1}, incarnation=first["incarnation"])
    assert [lease["epoch"] for lease in same["leases"]] == ["1-1"]
    other = await stage.good("workers/register", kinds={"noop": 1})
    assert other["incarnation"] != first["incarnation"]
    assert (await stage.claimed())["epoch"] == "1-2"
    assert (await stage.good("workers/heartbeat", held=[], leaving=True)) == {"orders": [], "waiting": 0}
    await stage.moved("one", "worker-1 leaves")


async def test_a_seat_asks_about_its_rows_in_its_own_name(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "ASK_S_FIRST", 0.0)
    monkeypatch.setattr(owed, "LOOK_S", 0.05)
    asked: list[str] = []

    async def hear(message: Any) -> None:
        asked.append(message.subject)

    await stage.mesh.leader.subscribe(stage.mesh.subjects.ask("scheduler", "worker-1"), hear)
    monkeypatch.setattr(Seat, "_on_answer", _deaf_to_receipts(Seat._on_answer))
    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    lease = await stage.claimed()
    assert (await stage.good("training/complete", task="one", epoch=lease["epoch"], outcome={}))["recorded"]
    assert asked


def _deaf_to_receipts(hear: Any) -> Any:
    """A seat that gets leases with its answers, and no receipts."""

    async def heard(self: Seat, message: Any) -> None:
        answer = codec.decode(message.data, Answer).evolve(receipts=())
        await hear(self, dataclasses.replace(message, data=codec.encode(answer)))

    return heard


async def test_progress_reaches_whoever_watches(stage: Stage) -> None:
    heard: asyncio.Queue[Progress] = asyncio.Queue()

    async def hear(message: Any) -> None:
        heard.put_nowait(codec.decode(message.data, Progress))

    await stage.mesh.leader.subscribe(stage.mesh.subjects.all_progress(), hear)
    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    lease = await stage.claimed()
    body = {"step": 7, "done": 0.25, "metrics": {"loss": 1.5}, "phase": "training"}
    await stage.good("training/progress", task="one", epoch=lease["epoch"], **body)
    async with asyncio.timeout(DEADLINE_S):
        found = await heard.get()
    assert (found.worker, found.step, found.done, found.metrics) == ("worker-1", 7, 0.25, {"loss": 1.5})


async def test_what_no_reader_would_take_is_refused_before_it_is_written_down(stage: Stage) -> None:
    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    await stage.claimed()
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    lease = {"task": "one", "epoch": "1-1"}
    for body in (
        {"outcome": {"facts": {"deep": deep}}},
        {"outcome": {"facts": {"huge": 1 << 70}}},
        {"outcome": {"outputs": {"model": "0" * 64}}},
        {"outcome": {"outputs": {"model": "no digest"}}},
        {"outcome": {}, "give_back": "both"},
        {},
        {"failure": {"failure": "tired", "reason": "x"}},
    ):
        status, problem = await stage.ask("training/complete", **lease, **body)
        assert status == 422, (body, problem)
    status, _ = await stage.ask("training/complete", task="one\n", epoch="1-1", outcome={})
    assert status == 422
    assert (await stage.good("training/complete", **lease, outcome={}))["recorded"]


async def test_a_gateway_that_begins_anew_finds_its_seats_and_forgets_those_that_nobody_uses(
    stage: Stage, tmp_path: Path
) -> None:
    first = await stage.good("workers/register", kinds={"noop": 1}, leases_max=2)
    await stage.ask("workers/register", "idle", kinds={"other": 1})
    await stage.submit("one")
    lease = await stage.claimed()
    home = tmp_path / "home" / "gateway" / "seats"
    claims = next(part for part in stage.gateway.gateway.parts if isinstance(part, Claims))
    await claims.close()
    idle = gateway_seat_file.load(home / "idle")
    assert idle is not None
    gateway_seat_file.save(home / "idle", msgspec.structs.replace(idle, used_at=1.0))
    agent = agents.make(stage.mesh.server, "gateway", stage.mesh.settings.home)
    seats = gateway_seats.Seats(agent, stage.mesh.store)

    async def body(_: object) -> None:
        running = asyncio.create_task(seats.run())
        try:
            seat = await seats.of("worker-1")
            assert seat.incarnation == first["incarnation"]
            assert [str(one.name[1]) for one in seat.leases] == [lease["epoch"]]
            assert seat.life_of(*seat.leases[0].name) == first["incarnation"]
            with pytest.raises(Refused, match="no seat"):
                await seats.of("idle")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await seats.close()

    async with agents.running(agent, body):
        await agent.stopping.wait()
    assert not (home / "idle").exists()


async def test_a_checkpoint_is_recorded_and_the_next_attempt_begins_with_it(stage: Stage, tmp_path: Path) -> None:
    async def made(**facts: Any) -> str:
        folder = tmp_path / f"checkpoint-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "state").write_bytes(repr(facts).encode())
        return await stage.mesh.store.put(folder, media="checkpoint", facts=facts)

    await stage.good("workers/register", kinds={"noop": 1})
    await stage.submit("one")
    lease = {"task": "one", "epoch": (await stage.claimed())["epoch"]}
    good = await made(**lease, number=3)
    row = {**lease, "number": 3, "manifest": good, "step": 30, "trained_s": 1.5}
    for wrong in (await made(**lease, number=4), await made(task="one", epoch="1-2", number=3), "0" * 64):
        status, problem = await stage.ask("training/checkpoint", **{**row, "manifest": wrong})
        assert status == 422, problem
    for _ in range(2):
        assert (await stage.good("training/checkpoint", **row))["recorded"]
    late = {**row, "number": 2, "manifest": await made(**lease, number=2)}
    status, problem = await stage.ask("training/checkpoint", **late)
    assert (status, "does not follow 3" in problem["detail"]) == (409, True)
    assert (await stage.good("training/complete", **lease, give_back="a rest"))["recorded"]
    again = await stage.claimed()
    assert (again["resume"], again["checkpoint_number"], again["trained_s"]) == (good, 3, 1.5)
    after = {**row, "number": 4, "manifest": await made(**lease, number=4)}
    assert (await stage.ask("training/checkpoint", **after))[0] == 409
