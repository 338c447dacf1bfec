"""A worker that speaks only HTTP does whole tasks in a mesh of real processes, and loses nothing with its gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents.gateway_tokens import TokenRole, Tokens
from mesh.artifacts import ArtifactStore
from tests.support import http_worker
from tests.support.agent_process import DEADLINE_S, AgentProcess
from tests.support.fleet import SUBJECTS, Fleet, fleet
from tests.support.http_worker import Gateway, Refused

pytestmark = [pytest.mark.process, pytest.mark.server]

PATIENT = {"RAMIFY_SCHEDULER_LOST_S": "60"}
"""On a busy machine a process may take seconds to begin."""

ROWS = [(x + 10 * far, x % 3, "far" if far else "near") for x in range(9) for far in (0, 1)]
TABLE = "x,y,kind\n" + "".join(f"{x},{y},{kind}\n" for x, y, kind in ROWS)

MODEL_BYTES = 900_000
"""Two objects: the upload is cut in the middle of the first one."""


class Door:
    """The gateway's process, at the same address over its lives."""

    def __init__(self, mesh: Fleet) -> None:
        self._mesh, self._home = mesh, mesh.folder / "gateway"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.process: AgentProcess

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, name: str, role: TokenRole = TokenRole.WORKER) -> Gateway:
        """Requests under a new token."""
        return Gateway(self.url, Tokens(self._home).issue(role, name, 600.0)[0])

    async def open(self) -> None:
        """Start a gateway, and wait until it answers."""
        at = {"NATS_URL": self._mesh.server.url, "RAMIFY_GATEWAY_PORT": str(self.port)}
        self.process = await AgentProcess.start("gateway", self._home, **at, RAMIFY_SCHEDULER_BEAT_S="0.2")
        anybody = Gateway(self.url, "")
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(OSError, Refused):
                    await asyncio.to_thread(anybody.ask, "GET", "/health")
                    return
                assert self.process.process.returncode is None, self.process.output()[-3_000:]
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[tuple[Fleet, Door]]:
    """A mesh with a gateway and without workers of its own."""
    async with fleet(tmp_path, **PATIENT) as mesh:
        door = Door(mesh)
        await door.open()
        try:
            yield mesh, door
        finally:
            await door.process.kill()


async def post(hands: Gateway, path: str, **body: Any) -> Any:
    return await asyncio.to_thread(lambda: hands.post(path, **body))


async def test_it_does_whole_tasks_although_its_uploads_are_cut(tmp_path: Path) -> None:
    async with opened(tmp_path) as (mesh, door):
        publisher = door.token("someone", TokenRole.PUBLISHER)
        table = await asyncio.to_thread(publisher.upload, "dataset", "table.csv", TABLE.encode())
        settings = {"label": "kind", "model_bytes": MODEL_BYTES}
        await mesh.submit("table", settings, executor="nearest-mean", inputs={"table": table})
        await mesh.submit("plain", {"seconds": 0.1})
        await mesh.submit("bad", {"label": "nothing"}, executor="nearest-mean", inputs={"table": table})
        worker = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(http_worker.__file__)), door.url, door.token("hands").token, "--tear",
            "--idle-s", "2", stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        learned, plain, bad = [await mesh.ended(task) for task in ("table", "plain", "bad")]
        assert learned.outcome is not None
        assert plain.outcome is not None
        assert {one.incarnation.partition(".")[0] for one in (learned, plain, bad)} == {"hands"}
        means, accuracy = http_worker.learned(TABLE, "kind")
        assert learned.outcome.kpis == {"accuracy": accuracy} == {"accuracy": 1.0}
        assert plain.outcome.kpis == {"attempts": 1.0}
        assert bad.reason.startswith("KeyError")
        store = ArtifactStore(mesh.broker, SUBJECTS, cache=tmp_path / "cache", cache_bytes_max=1 << 30)
        model = (await store.get(learned.outcome.outputs["model"]) / "model.json").read_bytes()
        assert len(model) == MODEL_BYTES
        assert json.loads(model) == means
        async with asyncio.timeout(DEADLINE_S):
            _, complaints = await worker.communicate()
        assert worker.returncode == 0, complaints.decode()


async def test_a_gateway_that_is_killed_loses_neither_leases_nor_what_it_took_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as (mesh, door):
        hands, thief, person = door.token("hands"), door.token("thief"), door.token("person", TokenRole.OPERATOR)
        await post(hands, "workers/register", kinds={"noop": 1}, leases_max=2)
        await post(thief, "workers/register", kinds={"other": 1})
        for task in ("one", "two"):
            await mesh.submit(task, {})
        held: list[dict[str, Any]] = []
        while len(held) < 2:
            leases = (await post(hands, "training/claim", held=held, wait_s=20))["leases"]
            held += [{"task": lease["task"]["id"], "epoch": lease["epoch"]} for lease in leases]
        epochs = {one["task"]: one["epoch"] for one in held}
        row: dict[str, Any] = {"task": "one", "epoch": epochs["one"], "outcome": {"kpis": {"score": 0.25}}}
        for other, status in ((thief, 404), (person, 403)):
            with pytest.raises(Refused) as refused:
                await post(other, "training/complete", **row)
            assert refused.value.status == status

        await mesh.scheduler.kill()
        noted = await post(hands, "training/complete", **row, wait_s=0.2)
        assert noted["recorded"] is False
        await door.process.kill()
        await door.open()
        await mesh.start_scheduler()
        assert (await mesh.ended("one")).outcome is not None
        assert (await post(hands, "training/complete", **row, wait_s=20))["recorded"] is True

        two = {"task": "two", "epoch": epochs["two"]}
        orders = (await post(hands, "workers/heartbeat", held=[two]))["orders"]
        assert [(one["task"], one["order"]) for one in orders] == [("two", "keep")]
        assert (await post(hands, "training/complete", **two, give_back="a rest", wait_s=20))["recorded"]
        (again,) = (await post(hands, "training/claim", wait_s=20))["leases"]
        assert again["epoch"] > two["epoch"]
        with pytest.raises(Refused) as refused:
            await post(hands, "training/complete", **two, failure={"failure": "retry", "reason": "late"}, wait_s=20)
        assert refused.value.status == 409
        assert "is over or not yours" in refused.value.problem["detail"]
        late = {"task": "two", "epoch": again["epoch"], "outcome": {}}
        assert (await post(hands, "training/complete", **late, wait_s=20))["recorded"]
        ended = await mesh.ended("two")
        assert str(ended.epoch) == again["epoch"]
