"""The gateway's door: who may ask what, how much, in which form; every refusal is a problem document."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from agents import gateway_problems
from agents.gateway_problems import PROBLEMS, ProblemDocument
from agents.gateway_routes import Call, Part, Route
from agents.gateway_tokens import OPERATORS, READERS, TokenRole, Tokens
from mesh import errors
from mesh.errors import BusUnavailable, Conflict, NotFound, StaleWrite
from tests.support.gateway import Reached, reached


class Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body."""

    text: str
    count: int = 1


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query."""

    rows: int = 10


class Echo(Part):
    """Answers what it was told, or raises what it was told to."""

    ERRORS: ClassVar[dict[str, Exception]] = {
        "away": BusUnavailable("away."),
        "stale": StaleWrite("over."),
        "gone": NotFound("none."),
        "conflict": Conflict("first."),
        "defect": KeyError("secret words"),
        "slow": TimeoutError(),
    }

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "POST", "/echo", self.echo, summary="Echo", body=Said, answer=Said, roles=OPERATORS, body_bytes_max=500
            ),
            Route("GET", "/echo", self.rows, summary="Rows", query=Wanted, answer=Wanted, roles=READERS),
            Route("GET", "/topics/{topic}", self.topic, summary="Topic", answer=Said, roles=READERS),
        )

    async def echo(self, call: Call) -> Said:
        said = call.body(Said)
        if said.text in self.ERRORS:
            raise self.ERRORS[said.text]
        return msgspec.structs.replace(said, count=said.count + 1)

    async def rows(self, call: Call) -> Wanted:
        return call.query(Wanted)

    async def topic(self, call: Call) -> Said:
        return Said(text=call.path["topic"])


async def problem(there: Reached, method: str, path: str, role: TokenRole | None, **more: object) -> tuple[int, str]:
    """(status, last part of the type) of a refusal, after its form was looked at."""
    headers = {**there.headers(role), **more.pop("headers", {})}  # type: ignore[dict-item]
    async with there.client.request(method, path, headers=headers, **more) as answer:  # type: ignore[arg-type]
        assert answer.content_type == gateway_problems.MEDIA
        found = msgspec.json.decode(await answer.read(), type=ProblemDocument)
        assert found.status == answer.status
        assert found.detail
        return found.status, found.type.partition("#")[2]


async def test_a_body_goes_in_and_an_answer_comes_out(tmp_path: Path) -> None:
    async with reached(tmp_path, Echo) as there:
        assert await there.ask("POST", "/echo", json={"text": "hello"}) == (200, {"text": "hello", "count": 2})
        assert await there.ask("GET", "/echo?rows=3", TokenRole.OBSERVER) == (200, {"rows": 3})
        assert await there.ask("GET", "/topics/digits-1") == (200, {"text": "digits-1", "count": 1})


@pytest.mark.parametrize(
    ("method", "path", "role", "more", "expected"),
    [
        ("POST", "/echo", None, {"json": {"text": "a"}}, (401, "unauthenticated")),
        ("POST", "/echo", TokenRole.OBSERVER, {"json": {"text": "a"}}, (403, "forbidden")),
        ("POST", "/echo", TokenRole.WORKER, {"json": {"text": "a"}}, (403, "forbidden")),
        ("GET", "/nowhere", None, {}, (404, "not-found")),
        ("GET", "/topics/UPPER", TokenRole.OBSERVER, {}, (404, "not-found")),
        ("PUT", "/echo", TokenRole.OPERATOR, {}, (405, "no-such-method")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": "a" * 600}}, (413, "too-large")),
        ("POST", "/echo", TokenRole.OPERATOR, {"data": "text=a"}, (415, "media-type")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": 5}}, (422, "invalid")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": "a", "more": 1}}, (422, "invalid")),
        ("GET", "/echo?rows=many", TokenRole.OPERATOR, {}, (422, "invalid")),
        ("GET", "/echo?rows=1&rows=2", TokenRole.OPERATOR, {}, (422, "invalid")),
        ("GET", "/echo?other=1", TokenRole.OPERATOR, {}, (422, "invalid")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": "stale"}}, (409, "stale-epoch")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": "conflict"}}, (409, "conflict")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": "gone"}}, (404, "not-found")),
        ("POST", "/echo", TokenRole.OPERATOR, {"json": {"text": "away"}}, (503, "unavailable")),
    ],
)
async def test_what_can_not_be_is_a_problem(
    tmp_path: Path, method: str, path: str, role: TokenRole | None, more: dict[str, object], expected: tuple[int, str]
) -> None:
    async with reached(tmp_path, Echo) as there:
        assert await problem(there, method, path, role, **more) == expected


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"text": "\\ud800"}', b"[" * 100_00, b'"text"'])
async def test_bytes_that_are_no_body_are_refused(tmp_path: Path, data: bytes) -> None:
    async with reached(tmp_path, Echo) as there:
        headers = {"Content-Type": "application/json"}
        status, _ = await problem(there, "POST", "/echo", TokenRole.OPERATOR, data=data, headers=headers)
        assert status in (400, 413, 422)


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "application/json; charset=utf-16"}, {"Content-Encoding": "gzip"}]
)
async def test_only_plain_utf_8_is_taken(tmp_path: Path, headers: dict[str, str]) -> None:
    async with reached(tmp_path, Echo) as there:
        sent = {"Content-Type": "application/json", **headers}
        found = await problem(there, "POST", "/echo", TokenRole.OPERATOR, data=b'{"text": "a"}', headers=sent)
        assert found == (415, "media-type")


async def test_a_body_without_a_length_is_bounded_too(tmp_path: Path) -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(10):
            yield b'{"text": "' + b"a" * 100

    async with reached(tmp_path, Echo) as there:
        sent = {"Content-Type": "application/json"}
        found = await problem(there, "POST", "/echo", TokenRole.OPERATOR, data=pieces(), headers=sent)
        assert found == (413, "too-large")


async def test_a_defect_is_told_by_an_id_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with reached(tmp_path, Echo) as there:
        for text in ("defect", "slow"):
            status, told = await there.ask("POST", "/echo", json={"text": text})
            assert status == 500
            assert "secret words" not in str(told)
            assert told["id"] in caplog.text
        assert "secret words" in caplog.text


async def test_refusals_say_how_to_go_on(tmp_path: Path) -> None:
    async with reached(tmp_path, Echo) as there:
        async with there.client.get("/echo") as answer:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        async with there.client.get("/echo", headers={"Authorization": "Bearer rmf_wrong"}) as answer:
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        async with there.client.put("/echo") as answer:
            assert answer.headers["Allow"] == "GET, POST"
        sent = there.headers(TokenRole.OPERATOR)
        async with there.client.post("/echo", headers=sent, json={"text": "away"}) as answer:
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Server"] == "ramify"


async def test_too_many_requests_of_one_token_have_to_wait_and_others_do_not(tmp_path: Path) -> None:
    async with reached(tmp_path, Echo, requests_per_s=2.0) as there:
        statuses = [(await there.ask("GET", "/echo", TokenRole.OBSERVER))[0] for _ in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        assert (await there.ask("GET", "/echo", TokenRole.PUBLISHER))[0] == 200


async def test_who_tries_tokens_out_has_to_wait(tmp_path: Path) -> None:
    async with reached(tmp_path, Echo) as there:
        wrong = {"Authorization": "Bearer rmf_wrong"}
        statuses = []
        for _ in range(30):
            async with there.client.get("/echo", headers=wrong) as answer:
                statuses.append(answer.status)
        assert statuses[0] == 401
        assert statuses[-1] == 429


async def test_a_revoked_token_is_refused_at_once_and_an_expired_one_too(tmp_path: Path) -> None:
    async with reached(tmp_path, Echo) as there:
        commands = Tokens(there.mesh.settings.home)
        assert (await there.ask("GET", "/echo", TokenRole.OBSERVER))[0] == 200
        commands.revoke(f"{TokenRole.OBSERVER}-1")
        assert (await there.ask("GET", "/echo", TokenRole.OBSERVER))[0] == 401
        late = Tokens(there.mesh.settings.home, wall_ms=lambda: 10_000)
        secret, _ = late.issue(TokenRole.OBSERVER, "old", 1.0)
        async with there.client.get("/echo", headers={"Authorization": f"Bearer {secret}"}) as answer:
            assert answer.status == 401
            assert "expired" in (await answer.json(content_type=None))["detail"]


def test_every_error_of_the_mesh_has_a_problem() -> None:
    waiting = [errors.RamifyError]
    while waiting:
        class_ = waiting.pop()
        waiting += class_.__subclasses__()
        if class_ is not errors.RamifyError:
            assert gateway_problems.of(class_("words.")).name in PROBLEMS
