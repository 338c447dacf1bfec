"""A standby: folds the ledger as it grows, keeps the workers' standing offers in mind, and listens to the leader.

    leader beats               read on to where it stands
    leader says that it goes   take over at once
    leader is silent           for `leader_lost_s`, while we are connected and awake: take over

Taking over is an attempt: the next term is appended to the ledger by compare-and-set, and whoever comes second goes on
following. Silence only suspects; the append decides.
"""

from __future__ import annotations

import asyncio

from agents.runtime import HELLO_EVERY_S, Agent, now_s
from agents.scheduler_ears import Ears
from agents.scheduler_history import History
from agents.scheduler_results import Projector
from mesh import codec
from mesh.errors import BusUnavailable, EnvironmentUnfit, Malformed, NotFound
from mesh.messages.services import Welcome

LOOK_S = 0.2
"""How often the standby looks what has been heard."""

STALL_S = 1.0
"""A look that comes this much too late means that our own process stood still: the leader may have beaten meanwhile."""

HELLO_S = 2.0
"""Patience with the leader's answer to our hello."""

UNTOLD_MAX = 1_000
"""Records that wait to be known as projected before RESULTS is asked how far the leader's projection is."""


class Follower:
    """One time of following."""

    def __init__(self, agent: Agent, history: History, ears: Ears, projector: Projector) -> None:
        self._agent, self._history, self._ears, self._projector = agent, history, ears, projector

    async def follow(self) -> None:
        """Follow until the leader is gone or the agent stops. Conflict when the store has another history."""
        agent = self._agent
        agent.metrics.set("mesh_leading", 0)
        hello = asyncio.get_running_loop().create_task(self._say_hello(), name="a standby's hello")
        try:
            await self._listen()
        finally:
            hello.cancel()
            await asyncio.gather(hello, return_exceptions=True)

    async def _listen(self) -> None:
        agent, ears = self._agent, self._ears
        looked = now_s()
        while not agent.stopping.is_set() and not self._leader_is_gone():
            await agent.pause(LOOK_S)
            now = now_s()
            if now - looked > LOOK_S + STALL_S or not agent.broker.connected:
                ears.patience()
            looked = now
            await self._read_on()

    async def _say_hello(self) -> None:
        """Tell the leader now and then that somebody stands by, for people who look."""
        agent = self._agent
        while True:
            try:
                await agent.store_identity.look()
                hello = codec.encode(agent.hello())
                answer = await agent.broker.request(
                    agent.subjects.ask("scheduler", agent.name), hello, timeout_s=HELLO_S
                )
                welcome = codec.decode(answer.data, Welcome)
                if not welcome.accepted:
                    agent.stop(EnvironmentUnfit(welcome.reason))
            except (BusUnavailable, NotFound, Malformed) as error:
                agent.log.debug("the leader does not answer the hello: %s", error)
            await asyncio.sleep(HELLO_EVERY_S)

    def _leader_is_gone(self) -> bool:
        ears = self._ears
        if ears.leader is not None and ears.leader.leaving and ears.leader.term >= self._history.ledger.term:
            return True
        return now_s() - ears.leader_at > self._agent.settings.scheduler.leader_lost_s

    async def _read_on(self) -> None:
        """Fold what the leader has told of, and forget what it has projected."""
        leader, history = self._ears.leader, self._history
        lag = 0 if leader is None else max(0, leader.ledger_seq - history.log.seq)
        self._agent.metrics.set("mesh_ledger_lag_entries", lag)
        if leader is None or leader.ledger_seq == history.log.seq:
            return
        try:
            await history.read_on()
            if len(self._projector) > UNTOLD_MAX:
                await self._projector.forget_told()
        except BusUnavailable as error:
            self._agent.log.debug("the ledger can not be read now: %s", error)
        self._agent.metrics.set("mesh_ledger_sequence", history.log.seq)
