"""Topics over HTTP: published once, with what a publisher may say; read again with their results and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.gateway_tokens import TokenRole
from mesh import codec, tracing
from mesh.bus import Stored
from mesh.messages.graph import ROOT, NodeState, Specialization
from mesh.messages.results import TaskMoved, TopicSettled, TopicTurnedDown
from mesh.messages.tasks import TaskState
from mesh.messages.topics import Topic
from tests.support.gateway import Reached, reached

ENQUEUE = "/api/v1/network/training/enqueue"


async def topics(there: Reached) -> list[Topic]:
    """What was published."""
    subjects = there.mesh.subjects
    found: list[Stored] = await there.mesh.leader.read(subjects.stream("TOPICS"), subjects.topics())
    return [codec.decode(one.data, Topic) for one in found]


async def graph(there: Reached) -> None:
    """Two nodes, one of them retired."""
    subjects = there.mesh.subjects
    for node in (
        Specialization(id=ROOT, name="everything", state=NodeState.SEED),
        Specialization(id="optics", name="light and lenses", parent=ROOT),
        Specialization(id="old", name="old", parent=ROOT, state=NodeState.RETIRED),
    ):
        await there.mesh.leader.append(subjects.key("graph", node.id), codec.encode(node))


async def result(there: Reached, record: TaskMoved | TopicSettled | TopicTurnedDown, id_: str) -> None:
    """On the stream, as the leader does."""
    subject = there.mesh.subjects.result(record.topic, record.kind, id_)
    await there.mesh.leader.append(subject, codec.encode(record))


async def test_a_topic_is_published_with_all_that_was_said(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        await graph(there)
        (tmp_path / "flips.csv").write_text("text,label\nheads,1\n")
        digest = await there.mesh.store.put(tmp_path / "flips.csv", media="dataset", facts={"name": "flips.csv"})
        wish = {
            "topic": "coin flips", "node_id": "optics", "priority": 8, "data": digest, "text_column": "text",
            "label_column": "label", "budget_s": 60, "branches": 1, "kpis": [{"metric": "accuracy", "minimum": 0.9}],
            "independent": "require",
        }  # fmt: skip
        parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        headers = {**there.headers(TokenRole.PUBLISHER), "traceparent": parent}
        async with there.client.post(ENQUEUE, json=wish, headers=headers) as answer:
            assert answer.status == 201
            told = await answer.json()
            assert answer.headers["Location"] == f"/api/v1/topics/{told['topic']}"
        assert told["events"] == f"/api/v1/topics/{told['topic']}/events"
        (topic,) = await topics(there)
        assert topic.id == told["topic"]
        assert topic.id.startswith("coin-flips-")
        assert (topic.node, topic.priority, topic.budget_s, topic.branches) == ("optics", 8, 60, 1)
        assert topic.data is not None
        assert (topic.data.source, topic.data.name) == (digest, "flips.csv")
        assert (topic.kpis[0].metric, topic.kpis[0].minimum) == ("accuracy", 0.9)
        assert topic.publisher == "publisher-1@gateway"
        trace = tracing.read(topic.trace)
        assert trace is not None
        assert trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_node_alone_is_another_round_for_it(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        await graph(there)
        assert (await there.ask("POST", ENQUEUE, json={"node_id": "optics"}))[0] == 201
        (topic,) = await topics(there)
        assert (topic.text, topic.node) == ("light and lenses", "optics")


@pytest.mark.parametrize(
    ("role", "wish", "status"),
    [
        (None, {"topic": "x"}, 401),
        (TokenRole.OBSERVER, {"topic": "x"}, 403),
        (TokenRole.WORKER, {"topic": "x"}, 403),
        (TokenRole.PUBLISHER, {}, 422),
        (TokenRole.PUBLISHER, {"topic": "  "}, 422),
        (TokenRole.PUBLISHER, {"topic": "x" * 3_000}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "priority": 10}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "budget_s": 0}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "data": "/etc/passwd"}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "data": "builtin:nothing"}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "data": "0" * 64}, 404),
        (TokenRole.PUBLISHER, {"topic": "x", "base": "nothing"}, 404),
        (TokenRole.PUBLISHER, {"topic": "x", "encoder": "nothing"}, 404),
        (TokenRole.PUBLISHER, {"topic": "x", "node_id": "nowhere"}, 404),
        (TokenRole.PUBLISHER, {"topic": "x", "node_id": "old"}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "kpis": [{"metric": "accuracy"}]}, 422),
        (TokenRole.PUBLISHER, {"topic": "x", "surprise": 1}, 422),
    ],
)
async def test_what_can_not_be_published_is_not(
    tmp_path: Path, role: TokenRole | None, wish: dict[str, Any], status: int
) -> None:
    async with reached(tmp_path) as there:
        await graph(there)
        assert (await there.ask("POST", ENQUEUE, role, json=wish))[0] == status
        assert await topics(there) == []


async def test_the_same_request_again_publishes_nothing_more(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        again, wish = {"Idempotency-Key": "k1"}, {"topic": "digits", "data": "builtin:digits"}
        first = await there.ask("POST", ENQUEUE, TokenRole.PUBLISHER, json=wish, headers=again)
        second = await there.ask("POST", ENQUEUE, TokenRole.PUBLISHER, json=wish, headers=again)
        assert (first[0], second[0]) == (201, 200)
        assert second[1] == {**first[1], "new": False}
        other = {**wish, "priority": 1}
        assert (await there.ask("POST", ENQUEUE, TokenRole.PUBLISHER, json=other, headers=again))[0] == 409
        assert len(await topics(there)) == 1
        assert (await there.ask("POST", ENQUEUE, TokenRole.OPERATOR, json=wish, headers=again))[0] == 201
        assert len(await topics(there)) == 2


async def test_a_topic_says_what_became_of_it(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        _, told = await there.ask("POST", ENQUEUE, json={"topic": "digits", "data": "builtin:digits"})
        where = f"/api/v1/topics/{told['topic']}"
        assert (await there.ask("GET", where, TokenRole.OBSERVER))[1]["state"] == "published"
        end = TopicSettled(topic=told["topic"], why="done.", facts={"champion": "c" * 64}, ledger_seq=1, at_ms=2)
        await result(there, end, "r1")
        _, found = await there.ask("GET", where, TokenRole.OBSERVER)
        assert (found["state"], found["why"], found["champion"]) == ("settled", "done.", "c" * 64)
        assert found["topic"]["text"] == "digits"
        assert (await there.ask("GET", "/api/v1/topics/nothing"))[0] == 404


async def test_results_come_in_pages(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        for number in range(5):
            record = TaskMoved(topic="one", task=f"t{number}", state=TaskState.READY, ledger_seq=1, at_ms=2)
            await result(there, record, f"r{number}")
        seen, after, more = [], "0", True
        while more:
            status, page = await there.ask("GET", f"/api/v1/results?rows=2&after={after}", TokenRole.OBSERVER)
            assert status == 200
            seen += [one["data"]["task"] for one in page["results"]]
            after, more = page["after"], page["more"]
        assert seen == ["t0", "t1", "t2", "t3", "t4"]
        _, nothing = await there.ask("GET", f"/api/v1/results?after={after}")
        assert (nothing["results"], nothing["after"]) == ([], after)
        _, other = await there.ask("GET", "/api/v1/results?kind=verdict")
        assert other["results"] == []


async def test_verdicts_of_a_new_mesh_are_none_and_of_an_unknown_topic_nothing(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        assert await there.ask("GET", "/api/v1/verdicts", TokenRole.OBSERVER) == (200, {"verdicts": [], "audits": []})
        assert (await there.ask("GET", "/api/v1/verdicts/nothing"))[0] == 404
