"""Status, graph, models and thoughts over HTTP: other agents' answers, asked once for all who ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents import planner
from agents.gateway_network import Shared
from agents.gateway_tokens import TokenRole
from mesh import codec
from mesh.errors import BusUnavailable
from mesh.messages.graph import ROOT, NodeState, Specialization
from tests.support import agents
from tests.support.gateway import Reached, leading, reached

GRAPH = "/api/v1/network/graph"
EXPAND = f"{GRAPH}/expand"
STATUS = "/api/v1/network/status"
THINK = "/api/v1/network/think/dual"


@contextlib.asynccontextmanager
async def thinking(there: Reached) -> AsyncIterator[None]:
    """A planner beside the gateway."""
    agent = agents.make(there.mesh.server, "planner", there.mesh.settings.home)
    async with agents.running(agent, planner.body):
        yield


async def seeded(there: Reached) -> None:
    """A graph of two nodes."""
    subjects = there.mesh.subjects
    for node in (
        Specialization(id=ROOT, name="everything", state=NodeState.SEED),
        Specialization(id="physics", name="physics", parent=ROOT, state=NodeState.SEED),
    ):
        await there.mesh.leader.append(subjects.key("graph", node.id), codec.encode(node))


async def test_the_leaders_view_is_asked_once_for_many(tmp_path: Path) -> None:
    async with reached(tmp_path) as there, leading(there.mesh) as asked:
        found = await asyncio.gather(*(there.ask("GET", STATUS, TokenRole.OBSERVER) for _ in range(20)))
        assert [status for status, _ in found] == [200] * 20
        assert found[0][1]["leader"] == "s1"
        assert found[0][1]["counts"] == {"ready": 2}
        assert asked == ["gateway"]


async def test_without_a_leader_the_mesh_is_away(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        status, problem = await there.ask("GET", STATUS)
        assert status == 503
        assert problem["error"] == "BusUnavailable"
        assert "scheduler" in problem["detail"]


async def test_what_failed_is_told_to_all_who_waited_and_tried_again_later() -> None:
    now, asked = [0.0], []

    async def read() -> int:
        asked.append(now[0])
        await asyncio.sleep(0)
        if now[0] < 5:
            raise BusUnavailable("away.")
        return 7

    async def answer() -> int | str:
        try:
            return await shared.get()
        except BusUnavailable:
            return "away"

    shared = Shared(1.0, read, clock=lambda: now[0])
    assert await asyncio.gather(answer(), answer()) == ["away", "away"]
    assert asked == [0.0]
    now[0] = 5.0
    assert await asyncio.gather(answer(), answer()) == [7, 7]
    shared.forget()
    await shared.get()
    assert asked == [0.0, 5.0, 5.0]


async def test_the_graph_grows_by_one_node_however_often_it_is_asked(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        await seeded(there)
        wish = {"parent": "physics", "name": "optics", "why": "the lab asked", "keywords": ["light", "lens"]}
        status, done = await there.ask("POST", EXPAND, json=wish)
        assert status == 200
        assert [node["id"] for node in done["changed"]] == ["optics"]
        assert done["changed"][0]["by"] == "operator-1@gateway"
        again, nothing = await there.ask("POST", EXPAND, json=wish)
        assert again == 200
        assert nothing["changed"] == []
        _, graph = await there.ask("GET", GRAPH, TokenRole.OBSERVER)
        assert [node["id"] for node in graph["nodes"]] == ["optics", "physics", "root"]
        assert graph["nodes"][0]["champion"] is None


@pytest.mark.parametrize(
    ("role", "wish", "status"),
    [
        (None, {"parent": "physics", "name": "optics", "why": "x"}, 401),
        (TokenRole.OBSERVER, {"parent": "physics", "name": "optics", "why": "x"}, 403),
        (TokenRole.PUBLISHER, {"parent": "physics", "name": "optics", "why": "x"}, 403),
        (TokenRole.OPERATOR, {"parent": "nowhere", "name": "optics", "why": "x"}, 404),
        (TokenRole.OPERATOR, {"parent": "physics", "name": "optics"}, 422),
        (TokenRole.OPERATOR, {"parent": "physics", "name": " ", "why": "x"}, 422),
        (TokenRole.OPERATOR, {"parent": "physics", "name": "optics", "why": "x", "id": "physics"}, 422),
    ],
)
async def test_a_refused_expansion_changes_nothing(
    tmp_path: Path, role: TokenRole | None, wish: dict[str, str], status: int
) -> None:
    async with reached(tmp_path) as there:
        await seeded(there)
        before = await there.mesh.leader.state(there.mesh.subjects.bucket("graph"))
        assert (await there.ask("POST", EXPAND, role, json=wish))[0] == status
        after = await there.mesh.leader.state(there.mesh.subjects.bucket("graph"))
        assert after.last_seq == before.last_seq


async def test_a_planner_says_what_both_lines_would_try(tmp_path: Path) -> None:
    async with reached(tmp_path) as there, thinking(there):
        question = {"topic": "handwritten digits", "modality": "tabular", "budget_s": 60}
        for _ in range(50):  # until the planner listens
            status, thought = await there.ask("POST", THINK, TokenRole.PUBLISHER, json=question)
            if status != 503:
                break
            await asyncio.sleep(0.05)
        assert status == 200
        assert [one["line"] for one in thought["proposals"]] == ["evolver", "reinventor"]
        assert (await there.ask("POST", THINK, TokenRole.OBSERVER, json=question))[0] == 403
        assert (await there.mesh.leader.state(there.mesh.subjects.stream("TOPICS"))).last_seq == 0
        status, problem = await there.ask("POST", THINK, TokenRole.PUBLISHER, json={"topic": "x", "task": "no-such"})
        assert status == 422
        assert "no-such" in problem["detail"]


async def test_models_are_listed_and_a_new_mesh_has_none(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        assert await there.ask("GET", "/api/v1/models", TokenRole.OBSERVER) == (200, {"models": [], "pushed": []})
