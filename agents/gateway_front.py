"""What stands before the mesh itself: health, metrics, the OpenAPI document, and a page to read it by.

The page is one answer without scripts and without anything from elsewhere; it is made from the same table as the
document, and explains every problem, so that a problem's `type` leads to it.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from agents import gateway_openapi
from agents.gateway_problems import PROBLEMS
from agents.gateway_routes import Call, Part, Route
from agents.gateway_tokens import READERS
from agents.runtime import Agent
from mesh import metrics
from mesh.version import PROGRAM_VERSION

POLICY = "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of the page: its own style and nothing else."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24;
       background: #fff }
code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { background: #f4f5f7; padding: .7rem; overflow-x: auto; white-space: pre-wrap }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #d9dde3 }
h3 code { font-size: 1rem }
td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0 }
:target { background: #fff3c4 }
@media (prefers-color-scheme: dark) {
  body { color: #e4e7eb; background: #14171a } pre { background: #1f2429 } h2 { border-color: #333a42 }
  :target { background: #4a3d10 } a { color: #8ab4f8 }
}
"""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the gateway is."""

    status: str
    """'ok' or 'unwell'."""
    version: str


class Front(Part):
    """The routes that need no mesh."""

    def __init__(self, agent: Agent, table: Callable[[], tuple[Route, ...]]) -> None:
        """table: all rows, when all parts are there."""
        super().__init__(agent)
        self._table = table
        self._document = b""
        self._page = b""

    def routes(self) -> tuple[Route, ...]:
        """Open to all but the metrics: they say what the program can do, and nothing about this mesh."""
        return (
            Route(
                "GET", "/health", self.health, summary="Is the gateway well?", answer=Health,
                about="503 with the same form when the broker is away; what exactly is wrong stands in the log.",
            ),
            Route(
                "GET", "/metrics", self.metrics, summary="Metrics of the gateway in the Prometheus text format",
                roles=READERS, open_on_loopback=True, media="text/plain",
            ),
            Route("GET", "/openapi.json", self.openapi, summary="This document", media="application/json"),
            Route("GET", "/docs", self.docs, summary="A page to read it by", media="text/html"),
        )  # fmt: skip

    async def health(self, _: Call) -> web.Response:
        """Whether requests can be answered; no more to who brings no token."""
        unwell = self.agent.problems()
        body = msgspec.json.encode(Health(status="unwell" if unwell else "ok", version=PROGRAM_VERSION))
        return web.Response(status=503 if unwell else 200, body=body, content_type="application/json")

    async def metrics(self, _: Call) -> web.Response:
        """As every agent shows them."""
        text = self.agent.metrics.render() + metrics.render()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def openapi(self, _: Call) -> web.Response:
        """Made at the first look."""
        if not self._document:
            self._document = msgspec.json.encode(gateway_openapi.document(self._table()))
        return web.Response(body=self._document, content_type="application/json")

    async def docs(self, _: Call) -> web.Response:
        """The page."""
        if not self._page:
            self._page = page(gateway_openapi.document(self._table())).encode()
        policy = POLICY.format(style=_style_digest())
        return web.Response(
            body=self._page, content_type="text/html", charset="utf-8",
            headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"},
        )  # fmt: skip


def _style_digest() -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>{style}</style></head><body>"""

HOW = """<p>Send a token with each request: <code>curl -H 'Authorization: Bearer TOKEN' …</code>;
<code>bin/agent token issue</code> on the gateway's machine makes one.</p>"""


# -- the page ---------------------------------------------------------------------------------------------------------


def page(document: dict[str, Any]) -> str:
    """The document as a page: every address with what it takes and gives, every struct, every problem."""
    schemas, title = document["components"]["schemas"], html.escape(document["info"]["title"])
    parts = [
        HEAD.format(title=title, style=STYLE),
        f"<h1>{title} {html.escape(document['info']['version'])}</h1>",
        f"<p>{html.escape(document['info']['description'])} For programs: <a href=/openapi.json>openapi.json</a>.</p>",
        HOW,
        "<h2>Addresses</h2>",
    ]
    for path, methods in document["paths"].items():
        parts += [_operation(path, method, one) for method, one in methods.items()]
    parts.append("<h2>What is sent</h2>")
    parts += [_schema(name, one) for name, one in sorted(schemas.items())]
    parts.append("<h2>Problems</h2><table><tr><th>type<th>status<th>what it means</tr>")
    parts += [
        f'<tr id="{name}"><td><code>{name}</code><td>{kind.status}<td>{html.escape(kind.title)}</tr>'
        for name, kind in PROBLEMS.items()
    ]
    return "\n".join([*parts, "</table></body></html>"])


def _operation(path: str, method: str, one: dict[str, Any]) -> str:
    lines = [f"<h3><code>{method.upper()} {html.escape(path)}</code></h3><p>{html.escape(one['summary'])}."]
    if one.get("description"):
        lines.append(" " + html.escape(one["description"]).replace("\n\n", "</p><p>"))
    lines.append("</p><table>")
    for parameter in one["parameters"]:
        about = parameter.get("description") or parameter["schema"].get("description", "")
        lines.append(f"<tr><td><code>{parameter['name']}</code><td>in {parameter['in']}<td>{html.escape(about)}</tr>")
    body = one.get("requestBody", {}).get("content", {})
    lines += [f"<tr><td>body<td>{html.escape(media)}<td>{_named(two['schema'])}</tr>" for media, two in body.items()]
    for status, answer in one["responses"].items():
        content = "".join(_named(two["schema"]) for two in answer.get("content", {}).values())
        lines.append(f"<tr><td>{status}<td>{html.escape(answer['description'])}<td>{content}</tr>")
    return "".join([*lines, "</table>"])


def _schema(name: str, schema: dict[str, Any]) -> str:
    head = f'<h3 id="{name}"><code>{name}</code></h3><p>{html.escape(schema.get("description", ""))}</p>'
    if "enum" in schema:
        return f"{head}<p>One of {', '.join(f'<code>{html.escape(str(one))}</code>' for one in schema['enum'])}.</p>"
    rows = []
    for field, one in schema.get("properties", {}).items():
        needed = "needed" if field in schema.get("required", ()) else ""
        rows.append(f"<tr><td><code>{field}</code><td>{_named(one)}<td>{needed}</tr>")
    return f"{head}<table>{''.join(rows)}</table>" if rows else head


def _named(schema: dict[str, Any]) -> str:
    """A type in a word or two, with a link where it has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_named(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_named(schema.get('items') or {})}"
    return html.escape(str(schema.get("type", "")))
