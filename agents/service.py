"""The NATS service protocol (ADR-32: $SRV.PING, INFO, STATS), so that `nats micro ls` shows the mesh.

Answers are JSON, as the protocol says. Requests are answered one at a time; nothing here touches the role's state.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from mesh.bus import Message, Subscription
from mesh.errors import BusUnavailable
from mesh.version import PROGRAM_VERSION

if TYPE_CHECKING:
    from agents.runtime import Agent

TYPE = "io.nats.micro.v1."


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
                self._subscriptions.append(await self._agent.broker.subscribe(subject, self._replier(verb, answer)))

    async def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            await subscription.close()

    def _id(self) -> str:
        return self._agent.incarnation.replace(".", "-")

    def _replier(self, verb: str, answer: Any) -> Any:
        async def reply(message: Message) -> None:
            if not message.reply:
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
        endpoint = {
            "name": "ask",
            "subject": self._agent.subjects.ask(self._agent.role),
            "queue_group": self._agent.role,
            "metadata": {},
        }
        endpoints = [endpoint] if self._agent.role == "scheduler" else []
        return {**self._base(), "description": f"Ramify {self._agent.role}", "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        started = self._started.isoformat().replace("+00:00", "Z")
        return {**self._base(), "started": started, "endpoints": []}
