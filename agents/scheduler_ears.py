"""What every scheduler hears, leading or not: workers' beats, reports of their ends, the leader's beat.

A standby keeps the newest beat of each worker, so that it knows the standing offers when it has to take over; a leader
gets beats and reports into its inputs as well. What is no valid record, or stands under another's name, is counted.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable

from agents.runtime import Agent, now_s
from agents.scheduler_inputs import Closed, Inputs
from mesh import codec
from mesh.bus import Disconnects, Message, Subscription
from mesh.errors import Malformed
from mesh.messages.leases import Beat, Gone, LeaderBeat

BEATS_MAX = 50_000
"""Workers whose newest beat is kept; the quietest is forgotten first."""

GONE_MAX = 1_000
"""Newest reports of ended workers that a standby keeps for its own term."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """The newest beat of a worker, and when it was heard."""

    beat: Beat
    at: float


class Ears:
    """Listens for the whole life of the process."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._subscriptions: list[Subscription] = []
        self._standing: dict[str, Standing] = {}
        self.opened_at = now_s()
        """Since when we listen."""
        self._gone: deque[Gone] = deque(maxlen=GONE_MAX)
        self.inputs: Inputs | None = None
        """Where a leader gets beats and reports."""
        self.leader: LeaderBeat | None = None
        """The newest beat of another scheduler that leads."""
        self.leader_at = now_s()
        """When it was heard, or when we began to listen."""
        self.echo_at = now_s()
        """When our own beat as a leader came back last, or our term began: since then nobody may have heard us."""
        self.on_leader: Callable[[LeaderBeat], None] = lambda _: None
        self.on_connected: Callable[[], None] = lambda: None
        self._cut_off_at: float | None = None
        self.away_s = 0.0
        """How long the connection was away, the last time that it was."""

    async def open(self) -> None:
        """Begin to listen, however long the broker is away meanwhile."""
        agent, subjects = self._agent, self._agent.subjects
        agent.broker.on_state(self._on_state)
        self._subscriptions += [
            await agent.listen(subjects.beats(), self._on_beat),
            await agent.listen(subjects.all_gone(), self._on_gone),
            await agent.listen(subjects.lead(), self._on_lead),
        ]
        self.patience()
        self.opened_at = now_s()

    async def follow(self, disconnects: Disconnects) -> None:
        """Hear whose connections close, as far as the broker tells, until cancelled."""
        async with disconnects.follow() as names:
            async for name in names:
                if self.inputs is not None:
                    self.inputs.offer(Closed(name))

    async def close(self) -> None:
        """Hear no more."""
        for subscription in self._subscriptions:
            await subscription.close()

    def patience(self) -> None:
        """Count the leader's silence from now: before, we could not have heard it."""
        self.leader_at = now_s()

    def standing(self, within_s: float) -> list[Beat]:
        """The newest beats of workers that were heard lately."""
        now = now_s()
        return [one.beat for one in self._standing.values() if now - one.at <= within_s]

    def reports(self) -> list[Gone]:
        """Reports of ended workers, each once."""
        reports = list(self._gone)
        self._gone.clear()
        return reports

    def _on_state(self, connected: bool) -> None:
        if not connected:
            self._cut_off_at = self._cut_off_at or now_s()
        else:
            self.away_s = 0.0 if self._cut_off_at is None else now_s() - self._cut_off_at
            self._cut_off_at = None
            self.patience()
            self.on_connected()

    # -- handlers -----------------------------------------------------------------------------------------------------

    async def _on_beat(self, message: Message) -> None:
        try:
            beat = codec.decode(message.data, Beat)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} is no beat: {error}")
            return
        if message.subject != self._agent.subjects.beat(beat.worker):
            self._agent.failed("rejected", f"{message.subject} carries a beat of {beat.worker}")
            return
        if not beat.reply.startswith(self._agent.subjects.inbox(beat.worker) + "."):
            self._agent.failed("rejected", f"{beat.worker} wants its answer on {beat.reply[:120]!r}, not in its inbox")
            return
        self._keep(beat)
        if self.inputs is not None:
            self.inputs.offer(beat)

    def _keep(self, beat: Beat) -> None:
        known = self._standing.pop(beat.worker, None)
        late = known is not None and known.beat.incarnation == beat.incarnation and known.beat.number > beat.number
        self._standing[beat.worker] = known if late and known is not None else Standing(beat, now_s())
        if len(self._standing) > BEATS_MAX:
            del self._standing[next(iter(self._standing))]

    async def _on_gone(self, message: Message) -> None:
        try:
            gone = codec.decode(message.data, Gone)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} is no report: {error}")
            return
        if message.subject != self._agent.subjects.gone(gone.worker):
            return
        standing = self._standing.get(gone.worker)
        if standing is not None and standing.beat.incarnation == gone.incarnation:
            del self._standing[gone.worker]
        if self.inputs is None:
            self._gone.append(gone)
        else:
            self.inputs.offer(gone)

    async def _on_lead(self, message: Message) -> None:
        try:
            beat = codec.decode(message.data, LeaderBeat)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} is no leader's beat: {error}")
            return
        if beat.name == self._agent.incarnation:
            self.echo_at = now_s()
            return
        if self.leader is None or beat.term >= self.leader.term:
            self.leader, self.leader_at = beat, now_s()
            self.on_leader(beat)
