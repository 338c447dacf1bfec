"""The endpoint of [planner.llm] at a server of our own: good, bad, slow, huge. The plan goes on every time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.planner import WRITER, body
from agents.planner_advice import BODY_BYTES_MAX, Adviser
from mesh import codec
from mesh.graph_bucket import GraphBucket
from mesh.messages.commands import Refuse, Submit
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.topics import Topic
from mesh.setting_tree import LlmSettings
from planner import seeds
from planner.advice import Advised
from tests.support.agents import make, running
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh

BRANCH = {"id": "hmm", "parent": "stats-bayesian", "name": "hidden Markov models", "why": "sequences"}
NODES = {node.id: node for node in seeds.nodes()}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """The address of a server on loopback that answers as `handler` does."""
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", handler)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def answering(content: Any) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": content}}]})

    return handler


def adviser(url: str, **more: Any) -> Adviser:
    return Adviser(LlmSettings(url=url, model="m", **more), logging.getLogger("advice"))


async def asked(one: Adviser) -> tuple[Advised, ...]:
    return await one.branches("sequences of coins", NODES["stats-bayesian"], [NODES["stats-mcmc"]], NODES)


async def test_a_good_answer_comes_through_and_the_question_is_what_it_should_be() -> None:
    seen: list[tuple[str | None, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), await request.json()))
        return await answering(json.dumps({"branches": [BRANCH]}))(request)

    async with served(handler) as url:
        (branch,) = await asked(adviser(url + "/", api_key="hunter7"))
    assert branch.name == "hidden Markov models"
    ((key, question),) = seen
    assert key == "Bearer hunter7"
    assert question["model"] == "m"
    assert question["temperature"] == 0
    assert json.loads(question["messages"][1]["content"])["topic"] == "sequences of coins"


async def test_without_an_address_nobody_is_asked() -> None:
    assert not adviser("").enabled
    assert await asked(adviser("")) == ()


async def _status(_: web.Request) -> web.StreamResponse:
    return web.Response(status=429, text="slow down")


async def _elsewhere(_: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/v1/chat/completions")


async def _huge(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(4 * BODY_BYTES_MAX // 65_536):
            await answer.write(b" " * 65_536)
    return answer


async def _broken_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"{")
    assert request.transport is not None
    request.transport.abort()
    return answer


async def _no_text(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\xff\xfe\x00")


FAULTS: list[tuple[Handler, str]] = [
    (_status, "got 429"),
    (_elsewhere, "got 307"),
    (_huge, "expected at most 262,144 bytes"),
    (_broken_off, "Client"),
    (_no_text, "UnicodeDecodeError"),
    (answering("I would rather talk about the weather."), "JSON"),
    (answering(json.dumps({"branches": [{**BRANCH, "parent": "physics"}]})), "got one of 'physics'"),
    (answering(json.dumps({"branches": [{**BRANCH, "id": "stats-mcmc"}]})), "stands in the graph already"),
    (answering(None), "expected a text"),
]


@pytest.mark.parametrize(("handler", "said"), FAULTS, ids=[said for _, said in FAULTS])
async def test_any_fault_is_one_line_and_no_proposal(
    handler: Handler, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(handler) as url:
        assert await asked(adviser(url, api_key="hunter7")) == ()
    (record,) = [one for one in caplog.records if one.name == "advice"]
    assert said in record.getMessage()
    assert "\n" not in record.getMessage()
    assert "hunter" not in caplog.text


async def test_a_slow_answer_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    async def handler(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="too late")

    async with served(handler) as url:
        assert await asked(adviser(url, timeout_s=0.1)) == ()
        release.set()
    assert "no answer within 0.1 s" in caplog.text


async def test_nobody_there_is_a_fault_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    async with served(_status) as url:
        pass
    assert await asked(adviser(url)) == ()
    assert "proposes nothing for stats-bayesian: Client" in caplog.text


# -- in the planner ---------------------------------------------------------------------------------------------------


async def refusal(mesh: MemoryMesh, topic: Topic, **settings: Any) -> str:
    """What the planner says to a topic without data."""
    await mesh.leader.append(mesh.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
    async with running(make(mesh.server, "planner", mesh.settings.home, **settings), body):
        subject = mesh.subjects.command(WRITER, Refuse.kind, f"{topic.id}-refused")
        stored = await mesh.first(mesh.subjects.stream("COMMANDS"), subject)
    return codec.decode(stored.data, Refuse).reason


async def test_a_topic_without_data_leaves_what_it_needs_and_what_was_advised(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    async with served(answering(json.dumps({"branches": [BRANCH]}))) as url:
        topic = Topic(id="t-1", text="Bayesian methods for coin tosses")
        said = await refusal(mesh, topic, **{"planner.llm.url": url, "planner.llm.model": "m"})
    assert "hmm under stats-bayesian" in said
    assert "the nearest nodes are stats-bayesian (" in said
    nodes = (await GraphBucket(mesh.leader, mesh.subjects).read()).nodes
    proposed = {node.id: node for node in nodes.values() if node.state is NodeState.PROPOSED}
    assert len(proposed) == 2
    assert proposed["hmm"].why == "an endpoint proposed it for topic t-1, which has no data: sequences"
    assert all(node.parent == "stats-bayesian" and node.changed_at_ms for node in proposed.values())


async def test_a_broken_endpoint_changes_nothing_else(tmp_path: Path) -> None:
    with_one, without = await MemoryMesh(tmp_path / "a").start(), await MemoryMesh(tmp_path / "b").start()
    topic = Topic(id="t-1", text="Bayesian methods for coin tosses")
    async with served(answering("nonsense")) as url:
        said = await refusal(with_one, topic, **{"planner.llm.url": url, "planner.llm.model": "m"})
    assert said == await refusal(without, topic)


async def test_a_topic_without_data_uses_the_data_that_are_clearly_meant(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    node = Specialization(
        id="bank-1a2b3c", name="questions of bank customers by intent", parent="root", task="classify", data="d" * 64,
        data_name="bank.csv", text_column="question",
    )  # fmt: skip
    await mesh.leader.append(mesh.subjects.key("graph", "root"), codec.encode(NODES["root"]))
    await mesh.leader.append(mesh.subjects.key("graph", node.id), codec.encode(node))
    topic = Topic(id="t-1", text="intents of bank customers")
    await mesh.leader.append(mesh.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        async with asyncio.timeout(DEADLINE_S):
            subject = mesh.subjects.command(WRITER, Submit.kind, "t-1-profile")
            stored = await mesh.first(mesh.subjects.stream("COMMANDS"), subject)
    (task,) = codec.decode(stored.data, Submit).tasks
    assert task.inputs == {"data": "d" * 64}
    assert task.settings["text_column"] == "question"
