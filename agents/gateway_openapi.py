"""The OpenAPI 3.1 document, made from the table of routes and the structs that it names; nothing is written twice.

The schemas are those by which bodies are decoded (msgspec makes both), the descriptions are the docstrings. A caller
who sends what the document allows gets one of the statuses that it names: a test tries it with generated requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

from agents.gateway_problems import MEDIA, PROBLEMS, ProblemDocument
from agents.gateway_routes import PARAMETERS, Route
from mesh.version import PROGRAM_VERSION

REF = "#/components/schemas/{name}"

SUCCESSES = {200: "As asked", 201: "Made", 202: "Taken on", 204: "Done", 206: "A part", 304: "Not changed"}
"""What the good statuses mean."""


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document."""
    rows = tuple(routes)
    structs = _structs(rows)
    schemas, components = msgspec.json.schema_components(structs, ref_template=REF)
    known = dict(zip(structs, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, known, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ramify's gateway",
            "version": PROGRAM_VERSION,
            "description": "A way into a mesh without NATS. Errors are problem documents (RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _structs(rows: tuple[Route, ...]) -> list[Any]:
    found: list[Any] = [ProblemDocument]
    for row in rows:
        found += [one for one in (row.body, row.query, row.answer) if one is not None and one not in found]
    return found


def _operation(row: Route, known: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    name = "".join(part.title() for part in row.path.replace("{", "").replace("}", "").split("/"))
    operation: dict[str, Any] = {
        "operationId": f"{row.method.lower()}{name or 'Root'}",
        "summary": row.summary,
        "parameters": _parameters(row, components),
        "responses": {str(status): _answer(row, status, known) for status in row.all_statuses},
    }
    about = inspect.cleandoc(row.about)
    if row.roles:
        operation["security"] = [{"token": []}, *([{}] if row.open_on_loopback else [])]
        about = f"{about}\n\nFor: {', '.join(sorted(row.roles))}.".strip()
    if about:
        operation["description"] = about
    if row.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": known[row.body]}}}
    elif row.raw:
        content = {row.raw_media: {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(row: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PARAMETERS[name].about,
            "schema": {"type": "string", "pattern": f"^{PARAMETERS[name].pattern}$"},
        }
        for name in row.names
    ]
    if row.query is not None:
        schema = components[row.query.__name__]
        needed = schema.get("required", ())
        for name, field in schema["properties"].items():
            found.append({"name": name, "in": "query", "required": name in needed, "schema": field})
    for name, about in row.headers.items():
        found.append(
            {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}
        )
    return found


def _answer(row: Route, status: int, known: dict[Any, Any]) -> dict[str, Any]:
    if status >= 400:
        titles = " / ".join(kind.title for kind in PROBLEMS.values() if kind.status == status)
        return {"description": titles, "content": {MEDIA: {"schema": known[ProblemDocument]}}}
    answer: dict[str, Any] = {"description": SUCCESSES[status]}
    if status == row.status and row.method != "HEAD" and status != 204:
        schema = known[row.answer] if row.answer is not None else {}
        answer["content"] = {row.media: {"schema": schema}}
    return answer
