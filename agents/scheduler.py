"""Scheduler: keeps the ledger and gives out leases. One leads, others stand by; its mind is `planner/scheduling.py`.

In:    COMMANDS from a cursor, beats, supervisors' reports, the leader's beat, questions
Out:   LEDGER entries, answers to beats, RESULTS (projected from the ledger), the leader's beat
Keeps: nothing of its own: state is the fold of the ledger, lease clocks live in memory
Loses: on a crash nothing; a standby goes on after some seconds, the next start replays
Not:   runs no task, reads no dataset, decides no promotion

    start: does somebody lead? --- no ---> LEADING <--- the append wins ----+
              | yes                           |                            |
              v              Deposed          v          leader silent     |
          FOLLOWING <-------------------- stepping down                    |
              +-------------------------------------------------------------+

A leader whose store has come back older begins a new term in it, and a new generation of epochs. A standby that has
seen what the store does not hold follows nobody: whoever leads may not know it, and would give epochs a second time.
"""

from __future__ import annotations

import asyncio

from agents.runtime import Agent
from agents.scheduler_ears import Ears
from agents.scheduler_following import Follower
from agents.scheduler_history import History
from agents.scheduler_leading import Leader
from agents.scheduler_results import Projector
from mesh import codec, streams
from mesh.bus import Disconnects
from mesh.disconnects import ServerDisconnects, SystemNote
from mesh.ended import EndedIndexOnDisk
from mesh.errors import BusUnavailable, Conflict, Deposed, DiskFull, NotFound
from mesh.messages.services import Ask
from mesh.seen import SeenFile
from mesh.server import store_bytes_max

ASK_LEADER_S = 0.3
"""Patience with another leader at the start. One that does not answer in time is followed, until it is silent."""

FULL_S = 5.0
"""Pause before another attempt while a disk is full."""

AGAIN_S = 0.5
"""Pause before another attempt while the broker is away."""

ARTIFACTS_SHARE = 0.8
"""Part of the broker's store that artifacts may fill; the rest is for the ledger, results and topics."""


async def body(agent: Agent, disconnects: Disconnects | None = None) -> None:
    """Lead the mesh or stand by until the agent stops. disconnects: default: what the broker of this home tells."""
    folder = agent.settings.home / "scheduler" / agent.settings.prefix / agent.name
    index, seen = EndedIndexOnDisk(folder / "ended.db"), SeenFile(folder / "seen")
    ears, projector = Ears(agent), Projector(agent)
    history = History(agent, index, seen, projector)
    try:
        await ears.open()
        disconnects = disconnects or _disconnects(agent)
        if disconnects is not None:
            agent.spawn(ears.follow(disconnects), "closed connections")
        await _live(agent, history, ears, projector)
    finally:
        await ears.close()
        await history.snapshots.stop()
        seen.close()
        index.close()


def _disconnects(agent: Agent) -> Disconnects | None:
    """Of the embedded broker of this home, if that is the one."""
    servers = agent.settings.nats.servers
    return ServerDisconnects(agent.settings.home / "broker", servers[0], name=agent.name) if servers else None


async def _make_streams(agent: Agent) -> None:
    home, servers = agent.settings.home, agent.settings.nats.servers
    wanted = int(store_bytes_max(home) * ARTIFACTS_SHARE)
    owner = bool(servers) and await asyncio.to_thread(SystemNote.is_of, home / "broker", servers[0])
    given = await streams.make(agent.broker, agent.subjects, artifact_bytes_max=wanted, owner=owner)
    if 0 < given < wanted:
        agent.log.info("artifacts may fill %d MiB of the broker's store", given >> 20)


async def _live(agent: Agent, history: History, ears: Ears, projector: Projector) -> None:
    """Follow and lead in turns."""
    follows, made, loaded = await _somebody_leads(agent), False, False
    while not agent.stopping.is_set():
        try:
            if not made:
                await _make_streams(agent)
                made = True
            if not loaded:
                await history.load()
                loaded = True
            lost = history.lost
            if follows and lost is None:
                agent.log.info("follows from ledger entry %d", history.log.seq)
                await Follower(agent, history, ears, projector).follow()
            if not agent.stopping.is_set():
                await history.read_on()
                if follows and lost is not None and history.lost is None:
                    continue  # another one has restored the ledger meanwhile
                loaded = False  # a leader's mind folds what is not yet on record
                leader = Leader(agent, history, ears, projector)
                await leader.begin()
                await leader.lead()
        except Deposed as error:
            agent.log.warning("%s", error)
            ears.patience()
            follows = True
        except Conflict as error:
            agent.log.warning("the ledger is read anew: %s", error)
            loaded = False
        except NotFound as error:
            agent.log.warning("the streams are made anew: %s", error)
            made = loaded = False
        except BusUnavailable as error:
            agent.log.warning("the broker does not answer now: %s", error)
            await agent.pause(AGAIN_S)
        except DiskFull as error:  # of the broker, or here: what is not on record has not happened
            if not made:
                raise  # a broker that has no room for the streams will not get it by waiting
            agent.failed("disk full", f"nothing can be recorded now: {error}")
            await agent.pause(FULL_S)


async def _somebody_leads(agent: Agent) -> bool:
    """Does another scheduler answer, or at least listen?"""
    question = codec.encode(Ask(what="leader", rows_max=0))
    try:
        await agent.broker.request(agent.subjects.ask("scheduler", agent.name), question, timeout_s=ASK_LEADER_S)
    except NotFound:
        return False
    except BusUnavailable:
        return True
    return True
