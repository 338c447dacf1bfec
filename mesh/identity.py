"""Who may do what: the one table of roles, and how it is told to a nats-server.

    identity    = name + role + key pair (mesh/nkeypairs.py). The name stands in the subjects that it writes.
    permissions = what a role with that name publishes and subscribes; whatever is not named here is refused

Permissions alone hold nobody back who means harm. JetStream answers on whatever reply subject a request names, with the
server's own rights: who may store one object could have it delivered as an entry of the ledger, as the leader's answer
to somebody else, or as a request to delete a stream. So a **guest** (a worker, an invited machine) gets an account of
its own, in which there is nothing but itself, and imports from the mesh's account exactly what its role publishes and
hears (`accounts`). Whatever it names as a reply subject is a subject of its own account.

    guest's account                                   the mesh's account
      mesh.beat.w1            ── import ───────────────> mesh.beat.w1
      mesh.art.c.<digest>     ── map ─> door.3.<digest>
                              ── import ───────────────> mesh.art.c.<digest>
      mesh.in.w1.>           <── import ──────────────── mesh.in.w1.>           (its own inbox, and no other)
      mesh.ask.worker.w1.*   <── import ──────────────── mesh.ask.worker.w1.*   (answered through the server)

The map takes `*` out of every token that stands for a name: a published `*` would else be a wildcard to a direct read,
and give whoever knows no digest the newest object. A token `>` matches no map, and nothing else is let through.

All other roles share the mesh's account. Their permissions keep mistakes small; who steals the key of one of them may
do what it likes with the mesh (docs/security.md).
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mesh import streams
from mesh.messages import object_names
from mesh.messages.base import Epoch, Key, check_name
from mesh.messages.commands import Cancel, CheckpointMade, FailureFound, GiveBack, ResultFound
from mesh.messages.judgement import Audit, Verdict
from mesh.subjects import Subjects

ANSWER_S = 10
"""How long an agent may take to answer a message on its reply subject."""

DOOR, NOWHERE = "door", "nowhere"
"""First tokens of a guest's account's inner subjects: behind the map, and where what is put there directly ends."""

ANSWERS_TO_GUESTS = "_R_.>"
"""Where the server takes answers for guests. Who answers after it had the server read its users anew needs this in so
many words: the server has forgotten then on which subject it may answer."""

ANY_NAME, ANY_DIGEST, ANY_EPOCH, ANY_NUMBER = "0any0", "0" * 64, Epoch(0, 0), 0
_STARS = {ANY_NAME, ANY_DIGEST, ANY_DIGEST[:32], str(ANY_EPOCH), str(ANY_NUMBER)}


class Role(enum.StrEnum):
    """What an identity is for."""

    SCHEDULER = "scheduler"
    PLANNER = "planner"
    CONSENSUS = "consensus"
    GATE = "gate"
    FEEDER = "feeder"
    GATEWAY = "gateway"
    WORKER = "worker"
    PUBLISHER = "publisher"
    """A person who publishes topics and takes models out."""
    OBSERVER = "observer"
    """A person or program that looks on."""
    OPERATOR = "operator"
    """A person who may ask for everything, and makes the streams."""
    KEEPER = "keeper"
    """Who lets invited machines in."""
    INVITED = "invited"
    """Whoever holds an invitation, until it has credentials of its own."""


GUESTS = frozenset({Role.WORKER, Role.INVITED})
"""Roles that get an account of their own: they run where the mesh's owner does not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects (wildcards allowed) that an identity may publish and subscribe. Nothing else."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_deny: tuple[str, ...] = ()
    subscribe_deny: tuple[str, ...] = ()
    responses: int = 0
    """Answers that may be sent on the reply subject of each message that was heard."""


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who may connect."""

    role: Role
    name: str
    key: str
    """Public half of its nkey pair."""


def permissions(role: Role, name: str, subjects: Subjects, js_domain: str = "") -> Permissions:
    """What this role may do under this name. ValueError for a name that can not stand in a subject.

    js_domain: where the streams live behind a leaf node, as in the settings.
    """
    check_name(name, "the name of an identity")
    return _TABLE[role](_Grants(name, subjects, f"$JS.{js_domain}.API." if js_domain else "$JS.API."))


def server_user(public_key: str, permitted: Permissions) -> dict[str, Any]:
    """A user of a nats-server, as its configuration wants it."""
    found: dict[str, Any] = {
        "publish": _listed(permitted.publish, permitted.publish_deny),
        "subscribe": _listed(permitted.subscribe, permitted.subscribe_deny),
    }
    if permitted.responses:
        found["allow_responses"] = {"max": permitted.responses, "expires": f"{ANSWER_S}s"}
    return {"nkey": public_key, "permissions": found}


def accounts(everybody: Iterable[Identity], subjects: Subjects, *, mesh: str = "MESH") -> dict[str, Any]:
    """The accounts of a nats-server, as its configuration wants them: the mesh's own, by this name, where the streams
    and agents are, and one of its own for each guest. Only the same people make equal accounts."""
    users, guests, imports = list[dict[str, Any]](), dict[str, Any](), list[dict[str, Any]]()
    for one in everybody:
        permitted = permissions(one.role, one.name, subjects)
        if one.role not in GUESTS:
            users.append(server_user(one.key, permitted))
            continue
        account = _account(one)
        guests[account] = _guest(one, permitted, subjects, mesh)
        imports += [{"service": {"account": account, "subject": asked}} for asked in _answered(one, subjects)]
    offered = permissions(Role.WORKER, ANY_NAME, subjects), permissions(Role.INVITED, ANY_NAME, subjects)
    services = sorted({_starred(subject) for role in offered for subject in role.publish})
    exports: list[dict[str, Any]] = [{"service": subject, "response_type": "stream"} for subject in services]
    exports += [{"stream": subject} for subject in (subjects.inboxes(), subjects.wanted())]
    return {mesh: {"jetstream": "enabled", "users": users, "exports": exports, "imports": imports}} | guests


# -- guests ------------------------------------------------------------------------------------------------------------


def _guest(one: Identity, permitted: Permissions, subjects: Subjects, mesh: str) -> dict[str, Any]:
    """The account of a guest: one user, what it may reach of the mesh's account, and the map in between."""
    imports, mappings, publish = list[dict[str, Any]](), dict[str, str](), list[str]()
    for number, subject in enumerate(permitted.publish):
        there = {"service": {"account": mesh, "subject": subject}}
        stars = subject.split(".").count("*")
        if not stars:
            imports.append(there)
            publish.append(subject)
            continue
        inner = f"{DOOR}.{number}" + ".*" * stars
        mappings[subject] = f"{DOOR}.{number}" + "".join(f".{{{{split({star},*)}}}}" for star in range(1, stars + 1))
        imports.append(there | {"to": inner})
        publish.append(inner)
    mappings[f"{DOOR}.>"] = f"{NOWHERE}.>"
    heard = (f"{subjects.inbox(one.name)}.>", *((subjects.wanted(),) if one.role is Role.WORKER else ()))
    imports += [{"stream": {"account": mesh, "subject": subject}} for subject in heard]
    user = server_user(one.key, dataclasses.replace(permitted, publish=tuple(publish)))
    exports = [{"service": subject, "accounts": [mesh]} for subject in _answered(one, subjects)]
    return {"users": [user], "imports": imports, "exports": exports, "mappings": mappings}


def _answered(one: Identity, subjects: Subjects) -> tuple[str, ...]:
    """What the mesh asks a guest."""
    return (subjects.asked_worker(one.name),) if one.role is Role.WORKER else ()


def _account(one: Identity) -> str:
    """The name of a guest's account: its own is for people, the digest keeps any two apart."""
    return f"GUEST_{one.name}_{hashlib.sha256(one.key.encode()).hexdigest()[:8]}"


# -- the table ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Grants:
    """Subjects that the rows of the table are made of."""

    name: str
    subjects: Subjects
    api: str

    def reads(self, *names: str) -> tuple[str, ...]:
        """Everything of these streams (full names), by reading and by following; a durable consumer, too."""
        found = list[str]()
        for name in names:
            found += [f"{self.api}DIRECT.GET.{name}", f"{self.api}DIRECT.GET.{name}.>", f"{self.api}STREAM.INFO.{name}"]
            found += [f"{self.api}CONSUMER.CREATE.{name}.>", f"$JS.ACK.{name}.>"]
            found += [f"{self.api}CONSUMER.{verb}.{name}.*" for verb in ("INFO", "DELETE", "MSG.NEXT")]
        return tuple(found)

    def manages(self, *names: str) -> tuple[str, ...]:
        """Makes these streams and brings them to their declared form."""
        verbs = ("CREATE", "UPDATE")
        return (f"{self.api}STREAM.NAMES", *(f"{self.api}STREAM.{verb}.{name}" for verb in verbs for name in names))

    def purges(self, *names: str) -> tuple[str, ...]:
        """Removes messages of these streams."""
        return tuple(f"{self.api}STREAM.PURGE.{self.stream(name)}" for name in names)

    def stream(self, name: str) -> str:
        return self.subjects.stream(name)

    @property
    def everything(self) -> tuple[str, ...]:
        """Names of all streams and buckets."""
        return streams.names(self.subjects)

    def asks(self, *roles: str) -> tuple[str, ...]:
        """Questions to these roles, under the own name."""
        return tuple(self.subjects.ask(role, self.name) for role in roles)

    def commands(self, *kinds: str) -> tuple[str, ...]:
        """Commands of these kinds, under the own name."""
        return tuple(_starred(self.subjects.command(self.name, kind, ANY_NAME)) for kind in kinds)

    def results(self, *kinds: str) -> tuple[str, ...]:
        return tuple(self.subjects.results("*", kind) for kind in kinds)

    def keys(self, *buckets: str) -> tuple[str, ...]:
        """Writes these buckets."""
        return tuple(self.subjects.keys(bucket) for bucket in buckets)

    def stored(self) -> tuple[str, ...]:
        """Objects and manifests, each by its name."""
        kinds = object_names.whole(ANY_DIGEST), object_names.delta(ANY_DIGEST, ANY_DIGEST)
        return tuple(_starred(self.subjects.stored(name)) for name in (*kinds, object_names.manifest(ANY_DIGEST)))

    def agent(self, role: Role, *more: str) -> tuple[str, ...]:
        """What every agent hears: its inbox, the service protocol, and more."""
        service = [
            _starred(subject)
            for verb in ("PING", "INFO", "STATS")
            for subject in self.subjects.service(verb, f"ramify-{role}", ANY_NAME)
        ]
        return (f"{self.subjects.inbox(self.name)}.>", *service, *more)


def _worker(of: _Grants) -> Permissions:
    """Its own beats, rows, progress and studies; objects by their names; nothing of anybody else's."""
    subjects, name = of.subjects, of.name
    rows = ResultFound, CheckpointMade, FailureFound, GiveBack
    publish = [subjects.beat(name), subjects.gone(name), subjects.progress(name, ANY_NAME, ANY_NAME)]
    publish += of.asks("scheduler")
    publish += [subjects.owed(name, Key(ANY_NAME, ANY_EPOCH, row.kind, ANY_NUMBER)) for row in rows]
    publish += [subjects.owed_together(name, ANY_DIGEST)]
    publish += [subjects.study_entry(name, ANY_NAME, ANY_NAME, ANY_EPOCH, ANY_NAME), *of.stored()]
    publish += [f"{of.api}DIRECT.GET.{of.stream(streams.ARTIFACTS)}.{stored}" for stored in of.stored()]
    publish += [f"{of.api}DIRECT.GET.{of.stream(stream)}" for stream in (streams.CONDEMNED, streams.STUDIES)]
    hears = of.agent(Role.WORKER, subjects.wanted(), subjects.asked_worker(name))
    return Permissions(tuple(map(_starred, publish)), hears, responses=1)


def _scheduler(of: _Grants) -> Permissions:
    subjects = of.subjects
    publish = [subjects.ledger(), subjects.condemned(), subjects.lead(), subjects.wanted(), subjects.results()]
    publish += [subjects.inboxes(), subjects.artifacts(), *of.asks("scheduler")]
    publish += of.reads(*of.everything) + of.manages(*of.everything)
    publish += of.purges("COMMANDS", streams.ARTIFACTS, streams.CONDEMNED)
    hears = subjects.asked("scheduler"), subjects.beats(), subjects.all_gone(), subjects.lead()
    return Permissions(tuple(publish), of.agent(Role.SCHEDULER, *hears), responses=1)


def _planner(of: _Grants) -> Permissions:
    subjects = of.subjects
    publish = [subjects.topics(), subjects.written(of.name), subjects.artifacts(), *of.keys("graph")]
    publish += of.asks("scheduler") + of.reads(*of.everything)
    return Permissions(tuple(publish), of.agent(Role.PLANNER, subjects.asked("planner")), responses=1)


def _consensus(of: _Grants) -> Permissions:
    publish = [of.subjects.written(of.name), *of.results(Audit.kind), *of.keys("trust"), of.subjects.artifacts()]
    publish += of.asks("scheduler") + of.reads(*of.everything)
    return Permissions(tuple(publish), of.agent(Role.CONSENSUS), responses=1)


def _gate(of: _Grants) -> Permissions:
    publish = of.results(Verdict.kind) + of.keys("champions", "graph") + of.asks("scheduler") + of.reads(*of.everything)
    return Permissions(publish, of.agent(Role.GATE), responses=1)


def _feeder(of: _Grants) -> Permissions:
    publish = (of.subjects.topics(), *of.asks("scheduler"), *of.reads(*of.everything))
    return Permissions(publish, of.agent(Role.FEEDER), responses=1)


def _gateway(of: _Grants) -> Permissions:
    """Speaks for its seats: workers and people who come over HTTP, each under a name that the gateway vouches for."""
    subjects = of.subjects
    publish = [subjects.topics(), subjects.commands(), subjects.beats(), subjects.all_gone(), subjects.studies()]
    publish += [subjects.all_progress(), subjects.artifacts(), *of.keys("graph", "models")]
    publish += [subjects.asked("scheduler"), subjects.asked("planner"), *of.reads(*of.everything)]
    hears = subjects.inboxes(), subjects.all_progress(), subjects.wanted(), subjects.lead()
    return Permissions(tuple(publish), of.agent(Role.GATEWAY, *hears, subjects.asked_workers()), responses=1)


def _keeper(of: _Grants) -> Permissions:
    """Answers invited machines, and tells the leader whose key is void."""
    subjects = of.subjects
    publish = [subjects.written(of.name), subjects.all_gone(), subjects.inboxes(), ANSWERS_TO_GUESTS]
    return Permissions((*publish, *of.asks("scheduler")), of.agent(Role.KEEPER, subjects.joins()), responses=1)


def _looks(of: _Grants) -> tuple[str, ...]:
    """What people read: topics, results, and all buckets."""
    buckets = [name for name in of.everything if name.startswith("KV_")]
    return of.reads(of.stream("TOPICS"), of.stream("RESULTS"), *buckets)


def _observer(of: _Grants) -> Permissions:
    hears = f"{of.subjects.inbox(of.name)}.>", of.subjects.all_progress()
    return Permissions(_looks(of) + of.asks("scheduler", "planner"), hears)


def _publisher(of: _Grants) -> Permissions:
    looks, subjects = _observer(of), of.subjects
    more = [subjects.topics(), subjects.artifacts(), *of.commands(Cancel.kind)]
    more += of.reads(of.stream(streams.ARTIFACTS), of.stream(streams.CONDEMNED))
    more += [f"{of.api}STREAM.INFO.{of.stream('COMMANDS')}"]
    return dataclasses.replace(looks, publish=looks.publish + tuple(more))


def _operator(of: _Grants) -> Permissions:
    subjects = of.subjects
    more = [subjects.topics(), subjects.artifacts(), subjects.commands(), *of.keys("graph", "champions", "models")]
    more += (*of.asks("scheduler", "planner"), _starred(subjects.ask_worker(ANY_NAME, of.name)), "$SRV.>")
    more += of.reads(*of.everything) + of.manages(*of.everything)
    hears = f"{subjects.inbox(of.name)}.>", subjects.all_progress()
    return Permissions(tuple(more), hears)


def _invited(of: _Grants) -> Permissions:
    return Permissions((of.subjects.join(of.name),), (f"{of.subjects.inbox(of.name)}.>",))


_TABLE: dict[Role, Callable[[_Grants], Permissions]] = {
    Role.SCHEDULER: _scheduler,
    Role.PLANNER: _planner,
    Role.CONSENSUS: _consensus,
    Role.GATE: _gate,
    Role.FEEDER: _feeder,
    Role.GATEWAY: _gateway,
    Role.WORKER: _worker,
    Role.PUBLISHER: _publisher,
    Role.OBSERVER: _observer,
    Role.OPERATOR: _operator,
    Role.KEEPER: _keeper,
    Role.INVITED: _invited,
}


def _starred(subject: str) -> str:
    """The pattern of all subjects like this one, where a name that stands for any was put in."""
    return ".".join("*" if token in _STARS else token for token in subject.split("."))


def _listed(allowed: Sequence[str], denied: Sequence[str]) -> dict[str, Any]:
    return {"allow": list(allowed)} | ({"deny": list(denied)} if denied else {})
