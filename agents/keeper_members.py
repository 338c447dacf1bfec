"""The registrar: who is let into a guarded broker, and who is turned out. A part of the keeper's process.

In:    invite, members, revoke from commands of this home (mesh/keeper.py); `join` of machines that hold an invitation
Out:   a token; credentials; a report to the leader that a worker whose key is void is gone
Keeps: <home>/broker/members.json (mesh/members.py), and the broker's users in step with it
Loses: nothing: the list is on the disk, and the broker has read it, before anything is answered. An answer that is lost
       is asked for again with the same key, and is the same
Not:   decides by no clock but its own; never sees a member's private key

    join -> is the invitation good? -> list on the disk -> broker reads it -> answer
    revoke -> list on the disk -> broker reads it: the connection is cut -> the leader hears that the worker is gone

A list that the broker does not take is put back: one bad row must not keep everybody else out.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mesh import broker as mesh_broker
from mesh import certificates, codec, guard, limits, log, members, nkeypairs
from mesh.bus import Broker, Message
from mesh.errors import BusUnavailable, EnvironmentUnfit, Malformed, NotFound, RamifyError, SettingsInvalid
from mesh.guard import Guard
from mesh.identity import Role
from mesh.invitations import Token, id_of
from mesh.members import Invitation, Member, Members
from mesh.membership import ARTIFACTS
from mesh.messages.base import Record, check_name
from mesh.messages.leases import Gone
from mesh.messages.membership import Join, Joined
from mesh.messages.services import Ask, Problem, Status
from mesh.server import Server
from mesh.setting_tree import NatsSettings, Settings
from mesh.subjects import Subjects

QUEUE = "keeper"
"""Of the questions: several keepers of one mesh would answer each once."""

EXPIRES_S_LEAST, EXPIRES_S_MOST = 60.0, 366 * 86_400.0
"""Of an invitation, and of a membership that ends by itself."""

LOOK_S_MOST = 60.0
"""How long the next look for what has expired is put off at most: the wall clock may be set."""

TELL_S = 2.0
"""Patience with the leader when it is told that a worker is gone: else it notices the silence."""

NOBODY_ELSES = frozenset({*(role.value for role in Role), "cli", "run"})
"""Names that stand for roles and commands."""

JOINABLE = frozenset(Role) - {Role.KEEPER, Role.INVITED}


class Registrar:
    """The list of members of one guarded broker."""

    def __init__(self, guarded: Guard, server: Server, settings: Settings) -> None:
        self._guard, self._server, self._settings = guarded, server, settings
        self._subjects = Subjects(guarded.prefix)
        self._log = log.get("agents.keeper")
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._broker: Broker | None = None

    async def run(self, nats: NatsSettings) -> None:
        """Hear who wants to join, and turn out whose time is over, until cancelled. RamifyError when the broker can not
        be reached or is lost for good."""
        lost = asyncio.Event()
        async with mesh_broker.connection(nats.options(), self._subjects, name=Role.KEEPER.value) as broker:
            broker.on_state(lambda _: lost.set() if broker.refusal is not None else None)
            await broker.subscribe(self._subjects.joins(), lambda message: self._hear(broker, message), queue=QUEUE)
            self._broker = broker
            expiring = asyncio.create_task(self._expire(), name="expiry")
            ending = asyncio.create_task(lost.wait(), name="refused")
            try:
                await asyncio.wait((expiring, ending), return_when=asyncio.FIRST_COMPLETED)
                if expiring.done():
                    expiring.result()
            finally:
                self._broker = None
                for task in (expiring, ending):
                    task.cancel()
                await asyncio.gather(expiring, ending, return_exceptions=True)

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """To a command of this home. A RamifyError with a sentence."""
        wants = {"invite": self._invite, "members": self._list, "revoke": self._revoke}
        found = wants.get(str(asked["want"]))
        if found is None:
            raise EnvironmentUnfit(f"The keeper does not know {str(asked['want'])[:40]!r}: it is of another version.")
        return await found(asked)

    # -- commands -----------------------------------------------------------------------------------------------------

    async def _invite(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make an invitation; its token, which is nowhere kept."""
        port = urlsplit(self._server.url).port or guard.PORT
        addresses = guard.addresses(self._settings.broker, port)
        if not addresses:
            raise EnvironmentUnfit(
                "The broker here listens on loopback only, so no invitation could be used: start it with `bin/agent up "
                "--listen ADDRESS`."
            )
        seed, key = await asyncio.to_thread(_new_seed, self._guard.folder)
        invitation = self._wished(asked, key)
        if invitation.name in self._taken():
            raise SettingsInvalid(f"{invitation.name!r} is the name of somebody here already: choose another --name.")
        await self._change(lambda found: found.live(_now_ms()).inviting(invitation))
        authority = bytes.fromhex(certificates.fingerprint(self._guard.authority))
        token = Token(self._guard.prefix, tuple(addresses[:16]), authority, seed)
        self._log.info("invited %s %s, until %d", invitation.role, invitation.id, invitation.expires_ms)
        return {"token": token.text(), "id": invitation.id, "expires_ms": invitation.expires_ms, "addresses": addresses}

    def _wished(self, asked: dict[str, Any], key: str) -> Invitation:
        now_ms = _now_ms()
        role, name = str(asked.get("role") or Role.WORKER.value), str(asked.get("name") or "")
        if role not in {one.value for one in JOINABLE}:
            known = ", ".join(sorted(one.value for one in JOINABLE))
            raise SettingsInvalid(f"--role is one of {known}, not {role[:40]!r}.")
        artifacts = asked.get("artifacts") or {}
        try:
            if name:
                check_name(name, "a member's name")
            return Invitation(
                id=id_of(key), role=role, key=key, uses_left=_whole(asked.get("uses"), 1, members.USES_MAX, "--uses"),
                made_ms=now_ms, expires_ms=now_ms + _span_ms(asked.get("expires_s"), "--expires"), name=name,
                lasts_ms=_span_ms(asked["lasts_s"], "--lasts") if asked.get("lasts_s") else 0,
                artifacts={name: str(artifacts[name]) for name in ARTIFACTS if name in artifacts},
            )  # fmt: skip
        except ValueError as error:
            raise SettingsInvalid(f"{error}.") from None

    async def _list(self, _: dict[str, Any]) -> dict[str, Any]:
        found = (await asyncio.to_thread(members.load, self._guard.folder)).live(_now_ms())
        here = [{"role": role, "name": name} for role, name in self._guard.local()]
        plain: dict[str, Any] = msgspec.to_builtins(found)
        return plain | {"here": here}

    async def _revoke(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Turn a member out, or make an invitation void. NotFound when there is none."""
        if asked.get("invitation"):
            id_ = str(asked["invitation"])
            await self._change(lambda found: found.without_invitation(id_))
            return {"invitation": id_}
        name = str(asked.get("name"))
        known = await asyncio.to_thread(members.load, self._guard.folder)
        if known.member(name) is None and name in self._guard.taken():
            raise NotFound(
                f"{name!r} works on the mesh's own machine, and is no member: stop it there; its seed lies in "
                f"{self._guard.folder / 'keys'}."
            )
        await self._change(lambda found: found.without(name))
        gone = known.member(name)
        assert gone is not None
        await self._tell_leader(gone)
        self._log.info("revoked %s %s", gone.role, name)
        return {"name": name, "role": gone.role}

    # -- machines -----------------------------------------------------------------------------------------------------

    async def _hear(self, broker: Broker, message: Message) -> None:
        """One question of an invited machine. The invitation's key is what lets it ask on this subject."""
        invitation = message.subject.rpartition(".")[2]
        if not message.reply or not self._subjects.may_answer(message.reply, invitation):
            return
        answer: Record
        try:
            answer = await self._admit(invitation, codec.decode(message.data, Join))
        except (Malformed, ValueError) as error:
            answer = Problem(reason=str(error))
        except RamifyError as error:
            self._log.warning("%s could not join: %s", invitation, error)
            answer = Problem(reason=str(error))
        with contextlib.suppress(BusUnavailable):  # it asks again, and is answered the same
            await broker.publish(message.reply, codec.encode(answer))

    async def _admit(self, id_: str, asked: Join) -> Joined:
        found: list[tuple[Member, Invitation | None]] = []

        def admitted(known: Members) -> Members:
            after, member = known.live(_now_ms()).admitting(
                id_, name=asked.name, role=asked.role, key=asked.key, host=asked.host, now_ms=_now_ms(),
                taken=self._taken(),
            )  # fmt: skip
            found[:] = [(member, known.invitation(id_))]
            return after

        await self._change(admitted)
        ((member, invitation),) = found
        port = urlsplit(self._server.url).port or guard.PORT
        servers = [f"tls://{address}" for address in guard.addresses(self._settings.broker, port)]
        self._log.info("%s joined as %s %s", asked.host or "a machine", member.role, member.name)
        return Joined(
            name=member.name, role=member.role, prefix=self._guard.prefix, servers=tuple(servers[:16]),
            artifacts=invitation.artifacts if invitation is not None else {}, expires_ms=member.expires_ms,
        )  # fmt: skip

    # -- both ---------------------------------------------------------------------------------------------------------

    def _taken(self) -> frozenset[str]:
        return self._guard.taken() | NOBODY_ELSES

    async def _change(self, change: Callable[[Members], Members]) -> None:
        """Decide, write, and have the broker follow; all or nothing, one at a time."""
        async with self._changing:
            before = await asyncio.to_thread(members.load, self._guard.folder)
            after = change(before)
            if after is before:
                return
            await asyncio.to_thread(members.store, self._guard.folder, after)
            try:
                await self._server.reload()
            except RamifyError:
                await asyncio.to_thread(members.store, self._guard.folder, before)
                await self._server.reload()
                raise
            self._changed.set()

    async def _expire(self) -> None:
        """Turn out whose time is over."""
        while True:
            self._changed.clear()
            known = await asyncio.to_thread(members.load, self._guard.folder)
            now_ms = _now_ms()
            if known.live(now_ms) is not known:
                await self._change(lambda found: found.live(_now_ms()))
                over = {one.name for one in known.members} - {one.name for one in known.live(now_ms).members}
                for member in known.members:
                    if member.name in over:
                        self._log.info("the membership of %s is over", member.name)
                        await self._tell_leader(member)
                continue
            ahead_s = (known.next_end_ms() - now_ms) / 1000 if known.next_end_ms() else LOOK_S_MOST
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S_MOST, max(0.05, ahead_s))):
                    await self._changed.wait()

    async def _tell_leader(self, member: Member) -> None:
        """A worker whose key is void holds nothing any more: its tasks go on elsewhere at once."""
        broker = self._broker
        if member.role != Role.WORKER or broker is None:
            return
        try:
            question = Ask(what="workers", rows_max=limits.SERVICE_ANSWER_ROWS_MAX)
            subject = self._subjects.ask("scheduler", Role.KEEPER.value)
            answer = await broker.request(subject, codec.encode(question), timeout_s=TELL_S)
            status = codec.decode(answer.data, Status)
            for row in status.workers:
                if row.name == member.name:
                    gone = Gone(worker=row.name, incarnation=row.incarnation)
                    await broker.publish(self._subjects.gone(row.name), codec.encode(gone))
        except RamifyError as error:
            self._log.warning("the leader could not be told that %s is gone, it will notice: %s", member.name, error)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _new_seed(folder: Path) -> tuple[str, str]:
    """(seed, public key) of a new pair; the file that it is made in is gone again."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / secrets.token_hex(4)
        key = nkeypairs.make(path)
        return path.read_text("ascii").strip(), key


def _whole(value: object, least: int, most: int, option: str) -> int:
    if value is None:
        return least
    if not isinstance(value, int) or not least <= value <= most:
        raise SettingsInvalid(f"{option} is a whole number from {least} to {most:,}, got {str(value)[:40]}.")
    return value


def _span_ms(value: object, option: str) -> int:
    if not isinstance(value, int | float) or not EXPIRES_S_LEAST <= value <= EXPIRES_S_MOST:
        raise SettingsInvalid(f"{option} is a time from 1m to 366d.")
    return int(value * 1000)
