"""Asking the endpoint of [planner.llm] for branches: one question over HTTP, bounded in time and bytes, never needed.

Whatever goes wrong (no connection, another status, too slow, too large, an answer that breaks a rule) is one line in
the log and no proposals: the plan goes on. What comes back is checked by `planner/advice.py` before it is used.

Redirects are not followed and no proxy of the environment is used: the key goes to the address that was set, and
nowhere else. What is sent: the topic's sentence, one node, the names below it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

import aiohttp

from mesh.errors import Malformed
from mesh.messages.graph import Specialization
from mesh.setting_tree import LlmSettings
from planner import advice
from planner.advice import Advised

BODY_BYTES_MAX = 256 * 1024
"""One answer with all that stands around it; more is not read."""

TOKENS_MAX = 1_500
"""Asked for: an answer of six branches in two languages has some 800."""

SAID_CHARS_MAX = 200
"""Of a fault, in the log."""


class Adviser:
    """One endpoint, as the settings name it."""

    def __init__(self, settings: LlmSettings, log: logging.Logger) -> None:
        self._settings, self._log = settings, log

    @property
    def enabled(self) -> bool:
        """Is there an endpoint to ask?"""
        return self._settings.enabled

    async def branches(
        self, text: str, parent: Specialization, children: Sequence[Specialization], existing: Collection[str]
    ) -> tuple[Advised, ...]:
        """Branches that a topic of this text needs below `parent`; empty when none is asked, or the answer is no good.

        existing: ids of the graph, which no branch may have.
        """
        if not self.enabled:
            return ()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                body = await self._ask(advice.question(text, parent, children))
            return advice.checked(advice.content_of(body), parent.id, existing)
        except TimeoutError:
            fault = f"no answer within {self._settings.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, Malformed, UnicodeError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
        self._log.warning(
            "planner.llm proposes nothing for %s: %s", parent.id, " ".join(fault.split())[:SAID_CHARS_MAX]
        )
        return ()

    async def _ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The body of the answer. Malformed for another status or too many bytes; errors of aiohttp."""
        settings = self._settings
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        asked = {"model": settings.model, "messages": list(messages), "temperature": 0, "max_tokens": TOKENS_MAX}
        url = settings.url.rstrip("/") + "/chat/completions"
        async with (
            aiohttp.ClientSession(headers=headers, trust_env=False) as session,
            session.post(url, json=asked, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise Malformed(f"expected status 200, got {answer.status}")
            body = b""
            async for part in answer.content.iter_chunked(16 * 1024):
                body += part
                if len(body) > BODY_BYTES_MAX:
                    raise Malformed(f"expected at most {BODY_BYTES_MAX:,} bytes, got more")
            return body.decode("utf-8")
