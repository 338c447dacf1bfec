"""Structured logs on the standard library: lines for people or JSON for machines, on stderr.

    2026-11-21T12:00:00.123Z worker info mesh.outbox: 3 rows sent topic=t1 task=t1-evolver epoch=0-4
    {"time": "…", "role": "worker", "level": "info", "logger": "mesh.outbox", "message": "…", "topic": "t1", …}

What a line is about (topic, task, epoch) is set once around the work with `about(…)` and stands in every line that is
logged inside, also in other modules and in asyncio tasks started there. `trace_id` and `span_id` are those of the W3C
trace context in which the line is logged (mesh/tracing.py), so that one topic's lines are found on every machine.

Secrets: the user part of an address, and what follows words such as `password=` or `token:`, are masked in every line.
That is a net below the rule, not a licence: settings print themselves masked, and nothing else logs credentials.
A message has at most LINE_CHARS_MAX characters, and its line breaks are shown as such, so that one event stays one line
(a traceback stands in JSON under `traceback`, in text indented below the line).
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import logging.handlers
import re
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

from mesh import tracing
from mesh.setting_tree import LogSettings

FIELDS = ("topic", "task", "epoch")
"""What a line may be about; beside them stand `trace_id` and `span_id`."""

LINE_CHARS_MAX = 4_000
"""Longer lines are cut: a person reads no more, and a collector of logs splits them."""

TRACEBACK_CHARS_MAX = 8_000
"""The end of a traceback is kept, where the error stands."""

FILE_BYTES_MAX = 1 << 20
FILES_KEPT = 2
"""A log file is started anew beyond this size; so many old ones are kept."""

_about: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("about", default=types.MappingProxyType({}))
_SECRET = re.compile(
    r"(?<=://)[^/@\s]+(?=@)"
    r"|(?i:(?:(?<=password)|(?<=token)|(?<=secret)|(?<=seed)|(?<=authorization))\s*[=:]\s*(?:bearer\s+)?[^\s,;}\])]+)"
    r"|\bS[UAONCX][A-Z2-7]{56}\b"  # an nkey seed
)


def get(name: str) -> logging.Logger:
    """The logger of a module or agent."""
    return logging.getLogger(name)


@contextlib.contextmanager
def about(**fields: str) -> Iterator[None]:
    """Every line logged inside is about these (topic, task, epoch); inner values win."""
    unknown = set(fields) - set(FIELDS)
    if unknown:
        raise ValueError(f"a log line is about {', '.join(FIELDS)}; got {', '.join(sorted(unknown))}")
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def setup(settings: LogSettings, role: str, *, file: Path | None = None) -> None:
    """Send this process's logs to stderr, or to a bounded `file`. Called at start; a second call replaces the first."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8"
        )
    handler.setFormatter(JsonLines(role) if settings.format == "json" else TextLines(role))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    logging.raiseExceptions = False  # a closed stderr is no reason to fail
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def mask(text: str) -> str:
    """A text without what looks like credentials."""
    return _SECRET.sub(lambda found: "=********" if found[0].lstrip()[:1] in "=:" else "********", text)


class _Lines(logging.Formatter):
    """What both forms share: the parts of a line, masked, cut, on one line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def parts(self, record: logging.LogRecord) -> dict[str, str]:
        """Time, role, level, logger, message, then what the line is about."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        trace = tracing.current()
        return {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "role": self._role,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _one_line(mask(record.getMessage())),
            **_about.get(),
            **({} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}),
        }

    def traceback(self, record: logging.LogRecord) -> str:
        """The traceback's end, masked; '' without one."""
        if not record.exc_info or record.exc_info[0] is None:
            return ""
        return mask(self.formatException(record.exc_info))[-TRACEBACK_CHARS_MAX:]


class TextLines(_Lines):
    """One line for people; a traceback follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        parts = self.parts(record)
        head = " ".join(parts.pop(name) for name in ("time", "role", "level", "logger"))
        message = parts.pop("message")
        tail = "".join(f" {name}={value}" for name, value in parts.items())
        traceback = self.traceback(record).replace("\n", "\n    ")
        return f"{head}: {message}{tail}" + (f"\n    {traceback}" if traceback else "")


class JsonLines(_Lines):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        parts = self.parts(record)
        if traceback := self.traceback(record):
            parts["traceback"] = traceback
        return json.dumps(parts, ensure_ascii=False)


def _one_line(text: str) -> str:
    cut = text if len(text) <= LINE_CHARS_MAX else text[:LINE_CHARS_MAX] + f"… ({len(text)} characters)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut) if not cut.isprintable() else cut
