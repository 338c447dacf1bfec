"""The OpenAPI document holds: requests generated from it, fitting and not, never meet a defect, and get only statuses
and forms of answers that it names."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from agents import gateway_openapi, planner
from agents.gateway import Gateway
from agents.gateway_tokens import TokenRole
from mesh import codec
from mesh.messages.graph import ROOT, NodeState, Specialization
from mesh.messages.topics import Topic
from tests.support import agents
from tests.support.gateway import leading
from tests.support.memory_mesh import MemoryMesh

EXAMPLES = 6
"""Generated requests of each form for each address: with some fifty addresses, several hundred requests."""


def no_defect(_ctx: Any, response: Any, _case: Any) -> None:
    """Whatever is sent: 503 (nobody leads this mesh) may be an answer, 500 never."""
    assert response.status_code != 500, response.content


CHECKS = [
    no_defect,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@schemathesis.serializer("application/partial-upload", "application/octet-stream")
def raw_bytes(_ctx: Any, value: Any) -> Any:
    """A part of an upload: bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


STREAMS = ("/api/v1/events", "/api/v1/topics/{topic}/events")
"""They do not end: tests of their own ask them."""


class Served:
    """A gateway on a mesh in memory, in a thread with a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.secrets: dict[TokenRole, str] = {}
        self.document: dict[str, Any] = {}
        self._folder = folder
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="gateway")

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(30), "the gateway did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> None:
        mesh = await MemoryMesh(self._folder).start()
        for node in (
            Specialization(id=ROOT, name="everything", state=NodeState.SEED),
            Specialization(id="optics", name="light and lenses", parent=ROOT),
        ):
            await mesh.leader.append(mesh.subjects.key("graph", node.id), codec.encode(node))
        await mesh.leader.append(mesh.subjects.topic("digits"), codec.encode(Topic(id="digits", text="digits")))
        many = {"gateway.requests_per_s": 1e6}
        agent = agents.make(mesh.server, "gateway", mesh.settings.home, **many)
        gateway = Gateway(agent)
        self.secrets = {role: gateway.tokens.issue(role, f"{role}-1", 3_600.0)[0] for role in TokenRole}
        self.document = gateway_openapi.document(gateway.routes)
        thinker = agents.make(mesh.server, "planner", mesh.settings.home)
        async with leading(mesh), agents.running(thinker, planner.body), agents.running(agent, gateway.work):
            runner = web.AppRunner(gateway.application(), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stop.wait()
            await gateway.close()
            await runner.cleanup()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("gateway")) as found:
        yield found


def role_for(operation: Any) -> TokenRole:
    """Who may ask this: an operator, or a worker where he may not."""
    about = operation.definition.raw.get("description", "")
    return TokenRole.WORKER if "For: worker." in about else TokenRole.OPERATOR


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_generated_requests_get_only_answers_that_the_document_names(served: Served, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(served.document)
    schema.config.update(base_url=served.url)
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in STREAMS:
            continue
        headers = {"Authorization": f"Bearer {served.secrets[role_for(operation)]}"}
        with contextlib.suppress(Unsatisfiable):  # an address to which nothing can be sent wrongly
            tried += ask(operation, mode, headers)
    assert tried > 20


def name_what_there_is(case: Any) -> None:
    """Ids that no generator finds, so that good answers are seen as well."""
    if "topic" in (case.path_parameters or {}):
        case.path_parameters["topic"] = "digits"
    if isinstance(case.body, dict):
        if "parent" in case.body:
            case.body.update(parent="optics", name="lenses", id=None)
        for name in ("data", "base", "encoder", "node_id", "kpis"):
            case.body.pop(name, None)


def ask(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> int:
    """Generated requests to one address; how many."""
    count = 0

    @seed(7)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        nonlocal count
        count += 1
        if mode is GenerationMode.POSITIVE:
            name_what_there_is(case)
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)

    one()
    return count
