"""Errors as callers see them: problem documents (RFC 9457), each with a page, a status and a sentence.

    {"type": "/docs#not-found", "title": "There is nothing of that name", "status": 404,
     "detail": "no topic 'x' was published …", "error": "NotFound"}

`PROBLEMS` is the one table: what can go wrong at the door, and what each class of mesh/errors.py means there. A handler
raises the mesh's own errors, or `refuse(...)` where only the door knows the word. What is in no table is a defect: 500
with an id that stands in the log beside the traceback, and nothing of ours in the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgspec
from aiohttp import web

from mesh import errors

MEDIA = "application/problem+json"

PAGE = "/docs"
"""Begin of the types: a page of the gateway itself, so that each can be looked up where it came from. docs/http.md has
the same headings."""

RETRY_AFTER_S = 2
"""What a caller is told to wait for a broker or a leader that is away."""

DETAIL_CHARS_MAX = 600
"""Of a sentence: longer ones quote what the caller sent himself."""


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, as RFC 9457 writes it."""

    type: str
    """Which problem it is; programs compare this."""
    title: str
    status: int
    detail: str
    """A sentence: what was expected, what was found, what to do."""
    error: str = ""
    """Class of the error in the mesh, where it has one."""
    id: str = ""
    """Under which a defect stands in the gateway's log."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table."""

    status: int
    title: str


PROBLEMS: dict[str, Kind] = {
    "malformed": Kind(400, "The request can not be read"),
    "unauthenticated": Kind(401, "A token is needed"),
    "forbidden": Kind(403, "This token may not do that"),
    "not-found": Kind(404, "There is nothing of that name"),
    "no-such-method": Kind(405, "This address does not take that method"),
    "too-slow": Kind(408, "The request did not come in time"),
    "conflict": Kind(409, "Somebody else was first"),
    "no-seat": Kind(409, "This worker has not registered"),
    "wrong-offset": Kind(409, "The upload is at another byte"),
    "stale-epoch": Kind(409, "The epoch is over"),
    "no-length": Kind(411, "The length has to be said"),
    "precondition-failed": Kind(412, "It is not what was expected"),
    "too-large": Kind(413, "The request is too large"),
    "media-type": Kind(415, "The body is of another type"),
    "range": Kind(416, "There is no such range"),
    "invalid": Kind(422, "The request is well formed and can not be done"),
    "too-many": Kind(429, "Too many requests"),
    "defect": Kind(500, "A defect of the gateway"),
    "unavailable": Kind(503, "The mesh is away"),
    "full": Kind(507, "There is no room"),
}
"""Every problem by the last part of its type."""

OF_ERRORS: dict[type[errors.RamifyError], str] = {
    errors.NotFound: "not-found",
    errors.ArtifactMissing: "not-found",
    errors.StaleWrite: "stale-epoch",
    errors.Conflict: "conflict",
    errors.DiskFull: "full",
    errors.InvariantBroken: "defect",
    errors.Retry: "unavailable",
    errors.Reject: "invalid",
    errors.SettingsInvalid: "invalid",
    errors.Stop: "unavailable",
}
"""The most special class that an error is of, first; a test asks for every class of the family."""


class Refused(Exception):  # it is an answer
    """A request that gets a problem for an answer."""

    def __init__(self, name: str, detail: str, *, headers: Mapping[str, str] | None = None, error: str = "") -> None:
        """name: a row of PROBLEMS; detail: a sentence; error: class of the error behind it."""
        super().__init__(detail)
        self.name, self.error = name, error
        self.status = PROBLEMS[name].status
        self.headers = dict(headers or {})

    def document(self, id_: str = "") -> ProblemDocument:
        """What is sent."""
        kind, detail = PROBLEMS[self.name], str(self)
        if len(detail) > DETAIL_CHARS_MAX:
            detail = detail[: DETAIL_CHARS_MAX - 1] + "…"
        return ProblemDocument(
            type=f"{PAGE}#{self.name}", title=kind.title, status=kind.status, detail=detail, error=self.error, id=id_
        )


def refuse(name: str, detail: str, **headers: str) -> Refused:
    """A problem to raise; headers by their names with '_' for '-'."""
    return Refused(name, detail, headers={key.replace("_", "-"): value for key, value in headers.items()})


def of(error: errors.RamifyError) -> Refused:
    """The problem that an error of the mesh is to a caller."""
    name = next(name for class_, name in OF_ERRORS.items() if isinstance(error, class_))
    again = {"Retry-After": str(RETRY_AFTER_S)} if PROBLEMS[name].status == 503 else {}
    return Refused(name, str(error), headers=again, error=type(error).__name__)


def response(refused: Refused, id_: str = "") -> web.Response:
    """The answer on the wire."""
    return web.Response(
        status=refused.status,
        body=msgspec.json.encode(refused.document(id_)),
        headers={**refused.headers, "Content-Type": MEDIA, "Cache-Control": "no-store"},
    )
