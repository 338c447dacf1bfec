"""docs/http.md lists every address with who may ask it, and every problem; the document says the same of each."""

from __future__ import annotations

from pathlib import Path

from agents import gateway_openapi
from agents.gateway_problems import OF_ERRORS, PROBLEMS
from agents.gateway_routes import PARAMETERS, Route
from agents.gateway_tokens import TokenRole
from tests.support.gateway import reached

PAGE = Path(__file__).resolve().parents[3] / "docs" / "http.md"

OPEN = {"GET /health", "GET /openapi.json", "GET /docs"}
"""What nobody needs a token for."""


def row(route: Route) -> str:
    """A route as its line in the page."""
    who = ", ".join(sorted(route.roles)) or "anybody"
    here = " (or from this machine)" if route.open_on_loopback else ""
    return f"| `{route.method} {route.path}` | {who}{here} | {route.summary} |"


async def test_the_page_lists_every_address_with_who_may_ask(tmp_path: Path) -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    async with reached(tmp_path) as there:
        routes = there.gateway.routes
    assert [line for line in lines if line.startswith(("| `GET", "| `POST", "| `HEAD", "| `PATCH", "| `DELETE"))] == [
        row(route) for route in routes
    ]
    assert {f"{route.method} {route.path}" for route in routes if not route.roles} == OPEN
    assert all("/api/" in route.path for route in routes if TokenRole.WORKER in route.roles)


def test_the_page_lists_every_problem() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("| <a id=")] == [
        f'| <a id="{name}"></a>`{name}` | {kind.status} | {kind.title} |' for name, kind in PROBLEMS.items()
    ]
    assert set(OF_ERRORS.values()) <= set(PROBLEMS)


async def test_every_row_is_whole(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        routes = there.gateway.routes
    known = {kind.status for kind in PROBLEMS.values()} | set(gateway_openapi.SUCCESSES)
    for route in routes:
        assert set(route.all_statuses) <= known, route.path
        assert set(route.names) <= set(PARAMETERS), route.path
        assert route.body_bytes_max > 0
        assert 0 < route.deadline_s <= 60 or route.long, route.path
        assert route.answer is not None or route.media or route.status == 204, route.path
    assert len({(route.method, route.path) for route in routes}) == len(routes)
    operations = [one for path in gateway_openapi.document(routes)["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations) == len(routes)
