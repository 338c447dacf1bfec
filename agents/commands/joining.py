"""How a machine joins a mesh: from the word that was pasted to a membership on the disk.

    a membership of this mesh is there   nothing to do
    introduced (mesh/introductions.py)   the authority's certificate, by its fingerprint; verified before a word is said
    own key                              made here, kept; a try that broke off goes on with it
    asked, as the invitation             again and again until an answer comes: the same key gets the same answer
    connected, as a member               the broker knows the key; only then the membership is written

Only the last step makes the membership, so a crash at any point leaves a machine that has not joined, and the same line
joins it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from mesh import platform
from mesh.errors import BrokerRefused, BusUnavailable, Conflict, EnvironmentUnfit, NotFound, SettingsInvalid
from mesh.invitations import Token, id_of
from mesh.membership import Membership, Place, with_membership
from mesh.nats_options import NatsOptions
from mesh.setting_tree import Settings

if TYPE_CHECKING:
    from mesh.broker import NatsBroker
    from mesh.messages.membership import Join, Joined

JOIN_S = 30.0
"""Patience with the registrar: a keeper that was killed is back within a few seconds."""

ANSWER_S = 5.0
AGAIN_S = 0.5
"""One question, and the pause before it is asked again."""

Say = Callable[[str], None]


def joined(settings: Settings, text: str, say: Say, *, role: str = "", name: str = "") -> Settings:
    """The settings by which the mesh is reached, after this machine has joined it by the token `text`. Blocks.

    role: what it means to be; '' for whatever the invitation gives. name: the wished one. SettingsInvalid for a word
    that is none, EnvironmentUnfit for a home that has joined another mesh, BrokerRefused for an invitation that is over
    or another server, BusUnavailable.
    """
    token = Token.read(text)
    place = Place(settings.home)
    if settings.nats.named:
        raise SettingsInvalid(
            f"a token names its broker, but one is named too (from {settings.origin('nats.url')}): leave that out."
        )
    known = place.load()
    if known is None:
        wished = name or settings.worker.name
        known = _alone(place, lambda: asyncio.run(_join(place, token, settings, role, wished)))
        taken = f" ({wished!r} was taken)" if known.name.startswith(f"{wished}-") else ""
        say(f"joined the mesh {known.prefix!r} as {known.role} {known.name!r}{taken}")
    elif not known.is_of(token):
        raise EnvironmentUnfit(
            f"this machine has joined another mesh already ({known.prefix!r} at {known.servers[0]}, as {known.name!r})"
            ": `bin/agent leave` forgets that one, or choose another --home."
        )
    check_role(known, role)
    found = with_membership(settings)
    assert found is not None
    return found


def _alone(place: Place, join: Callable[[], Membership]) -> Membership:
    """Join, unless another command does so in this home just now: two would make two keys, and keep one."""
    place.make()
    lock = platform.FileLock(place.folder / "lock")
    if not lock.acquire():
        raise EnvironmentUnfit(
            f"another command joins a mesh in this home just now (process {lock.holder()}): wait for it."
        )
    with lock:
        return place.load() or join()


def check_role(known: Membership, role: str) -> None:
    """Conflict when a member of another role is what runs here."""
    if role and known.role != role:
        raise Conflict(
            f"this machine has joined as a {known.role}, not as a {role}: run `bin/agent {known.role}`"
            if known.role in AGENTS
            else f"this machine has joined as a {known.role}, not as a {role}: its invitation was for that"
        )


AGENTS = ("worker", "planner", "scheduler", "consensus", "gate", "feeder", "gateway")
"""Roles that are a command of the same name."""


async def _join(place: Place, token: Token, settings: Settings, role: str, name: str) -> Membership:
    from mesh.introductions import introduce

    patience_s = settings.nats.connect_timeout_s
    address, certificate = await asyncio.to_thread(introduce, token.addresses, token.authority, timeout_s=patience_s)
    place.write(place.authority, certificate.encode("ascii"))
    options = NatsOptions(
        servers=(f"tls://{address}",), nkey=str(place.invitation), ca=str(place.authority), connect_timeout_s=patience_s
    )
    place.write(place.invitation, token.seed.encode("ascii"))
    try:
        answer = await _ask(options, token, _wish(place, role, name))
    finally:
        place.invitation.unlink(missing_ok=True)
    known = Membership.of(_nearest(answer, address), token.authority, int(time.time() * 1000))
    await _try(dataclasses.replace(options, nkey=str(place.seed)), known)
    place.store(known)
    return known


def _wish(place: Place, role: str, name: str) -> Join:
    from mesh import nkeypairs
    from mesh.messages.membership import Join
    from mesh.version import PROGRAM_VERSION

    key = nkeypairs.public_key(place.seed) if place.seed.exists() else nkeypairs.make(place.seed)
    return Join(name=name, role=role, key=key, program=PROGRAM_VERSION, host=socket.gethostname()[:300])


def _nearest(answer: Joined, address: str) -> Joined:
    """The answer, with the address that has worked from here in front."""
    first = f"tls://{address}"
    return answer.evolve(servers=(first, *(server for server in answer.servers if server != first))[:16])


async def _ask(options: NatsOptions, token: Token, wish: Join) -> Joined:
    """Ask until there is an answer. BrokerRefused with the registrar's reason, or for an invitation that is over."""
    from mesh import codec, nkeypairs
    from mesh.messages.base import Record
    from mesh.messages.membership import Joined
    from mesh.messages.services import Problem
    from mesh.subjects import Subjects

    subjects, id_ = Subjects(token.prefix), id_of(nkeypairs.public_of(token.seed.encode("ascii")))
    deadline = time.monotonic() + JOIN_S
    while True:
        try:
            async with _connection(options, subjects, id_) as broker:
                data = (await broker.request(subjects.join(id_), codec.encode(wish), timeout_s=ANSWER_S)).data
            answer: Record = codec.decode(data, Joined, Problem)
            if isinstance(answer, Joined):
                return answer
            assert isinstance(answer, Problem)
            raise BrokerRefused(f"the mesh does not let this machine in: {answer.reason}")
        except (BusUnavailable, NotFound) as error:
            if time.monotonic() > deadline:
                raise BusUnavailable(
                    f"the broker at {options.servers[0].removeprefix('tls://')} runs, but nobody lets machines in "
                    f"({error}): look at the log of its keeper (logs/keeper.log in its home)."
                ) from None
        await asyncio.sleep(AGAIN_S)


@contextlib.asynccontextmanager
async def _connection(options: NatsOptions, subjects: object, name: str) -> AsyncIterator[NatsBroker]:
    from mesh import broker as mesh_broker
    from mesh.subjects import Subjects

    assert isinstance(subjects, Subjects)
    try:
        broker = await mesh_broker.connect(options, subjects, name=name)
    except BrokerRefused as error:
        raise BrokerRefused(
            "the mesh does not know this invitation: it was used up, has expired or was revoked; ask for another "
            f"({error})."
        ) from None
    try:
        yield broker
    finally:
        await broker.close()


async def _try(options: NatsOptions, known: Membership) -> None:
    """Connect with the new key. The broker was told of it before we were answered; patience is for a restart."""
    from mesh import broker as mesh_broker
    from mesh.subjects import Subjects

    deadline = time.monotonic() + JOIN_S
    while True:
        try:
            broker = await mesh_broker.connect(options, Subjects(known.prefix), name=known.name)
            await broker.close()
            return
        except (BusUnavailable, BrokerRefused):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(AGAIN_S)
