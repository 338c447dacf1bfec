"""The NATS service protocol (ADR-32: $SRV.PING, INFO, STATS), so that `nats micro ls` shows the mesh.

Answers are JSON, as the protocol says. Requests are answered one at a time; nothing here touches the role's state. An
endpoint is what a role answers (`Agent.serve`): its questions, its errors and the time they took stand in STATS.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import TYPE_CHECKING, Any

from mesh.bus import Handler, Message, Subscription
from mesh.errors import BusUnavailable
from mesh.metrics import Metrics
from mesh.version import PROGRAM_VERSION

if TYPE_CHECKING:
    from agents.runtime import Agent

TYPE = "io.nats.micro.v1."


ERROR_CHARS_MAX = 200
"""Of the last error, in STATS."""


class Endpoint:
    """A handler of questions, and its statistics. Times are nanoseconds, as ADR-32 wants them."""

    def __init__(self, name: str, subject: str, queue: str, handler: Handler, metrics: Metrics) -> None:
        self._about = {"name": name, "subject": subject, "queue_group": queue}
        self._name, self._handler, self._metrics = name, handler, metrics
        self._requests = self._errors = self._busy_ns = 0
        self._last_error = ""

    async def handle(self, message: Message) -> None:
        """Answer one question, and count it."""
        began = time.perf_counter_ns()
        try:
            await self._handler(message)
        except Exception as error:
            self._errors += 1
            self._last_error = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
            raise
        finally:
            took_ns = time.perf_counter_ns() - began
            self._requests += 1
            self._busy_ns += took_ns
            self._metrics.observe("mesh_request_seconds", took_ns / 1e9, endpoint=self._name)

    def info(self) -> dict[str, Any]:
        """As in INFO."""
        return {**self._about, "metadata": {}}

    def stats(self) -> dict[str, Any]:
        """As in STATS."""
        return {
            **self._about,
            "num_requests": self._requests,
            "num_errors": self._errors,
            "last_error": self._last_error,
            "processing_time": self._busy_ns,
            "average_processing_time": self._busy_ns // max(1, self._requests),
        }


class Service:
    """One agent as a NATS micro service named `ramify-<role>`."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._subscriptions: list[Subscription] = []
        self._started = dt.datetime.now(dt.UTC)
        self.name = f"ramify-{agent.role}"

    async def start(self) -> None:
        """Listen on the nine subjects of the protocol."""
        answers = {"PING": self._base, "INFO": self._info, "STATS": self._stats}
        for verb, answer in answers.items():
            for subject in self._agent.subjects.service(verb, self.name, self._id()):
                self._subscriptions.append(await self._agent.listen(subject, self._replier(verb, answer)))

    async def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            await subscription.close()

    def _id(self) -> str:
        return self._agent.incarnation.replace(".", "-")

    def _replier(self, verb: str, answer: Any) -> Any:
        async def reply(message: Message) -> None:
            if not self._agent.subjects.may_answer(message.reply):
                return
            body = json.dumps({"type": f"{TYPE}{verb.lower()}_response", **answer()}).encode()
            try:
                await self._agent.broker.publish(message.reply, body)
            except BusUnavailable:
                return  # the asker has its own deadline

        return reply

    def _base(self) -> dict[str, Any]:
        agent = self._agent
        metadata = {"mesh": agent.subjects.prefix, "name": agent.name, "incarnation": agent.incarnation}
        return {"name": self.name, "id": self._id(), "version": PROGRAM_VERSION, "metadata": metadata}

    def _info(self) -> dict[str, Any]:
        endpoints = [endpoint.info() for endpoint in self._agent.endpoints]
        return {**self._base(), "description": f"Ramify {self._agent.role}", "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        started = self._started.isoformat().replace("+00:00", "Z")
        return {
            **self._base(),
            "started": started,
            "endpoints": [endpoint.stats() for endpoint in self._agent.endpoints],
        }
