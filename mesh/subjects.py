"""Every subject name of the mesh, and who may use it. No other file spells a subject.

<prefix>.topics.<topic>                        TOPICS     a topic, once; the planner's: branches
<prefix>.cmd.<writer>.<kind>.<id>              COMMANDS   what is asked of the ledger; put if absent
<prefix>.ledger                                LEDGER     the leader only, by compare-and-set
<prefix>.results.<topic>.<kind>.<id>           RESULTS    the leader, the gate, consensus (audits); put if absent
<prefix>.art.c.<digest> / .art.m.<digest>      ARTIFACTS  chunks and manifests; put if absent
<prefix>.art.d.<digest>.<base>                 ARTIFACTS  chunks as deltas against a base; put if absent
<prefix>.condemned                             CONDEMNED  the leader: what the collector of garbage may remove soon
<prefix>.study.<worker>.<study>.<task>.<epoch>.<entry>
                                               STUDIES    the worker that holds the task's lease; put if absent
$KV.<prefix>_graph.<id>                        graph      the planner and people, by compare-and-set
$KV.<prefix>_champions.<specialization>        champions  the gate and who goes back, by compare-and-set
$KV.<prefix>_models.<name>                     models     who pushes a model, by compare-and-set
$KV.<prefix>_trust.<worker>                    trust      consensus, by compare-and-set
<prefix>.beat.<worker>  .gone.<worker>         core       beats; a supervisor's report
<prefix>.in.<name>.>                           core       inbox and answers of one agent
<prefix>.progress.<worker>.<topic>.<task>      core       lossy progress
<prefix>.lead                                  core       the leader's beat
<prefix>.wanted                                core       the leader: objects that caches should give back
<prefix>.ask.<role>.<asker>                    core       questions; who is in charge answers
<prefix>.ask.worker.<worker>.<asker>           core       questions to one worker
<prefix>.join.<invitation>                     core       an invited machine asks for credentials; the keeper answers
$SRV.<verb>[.<name>[.<id>]]                    core       NATS service protocol
$SYS.ACCOUNT.<account>.DISCONNECT              system     the broker says whose connection closed
"""

from __future__ import annotations

import dataclasses

from mesh.messages import object_names
from mesh.messages.base import NAME, Epoch, Key, check_name
from mesh.messages.object_names import ObjectName

DISCONNECTED = "$SYS.ACCOUNT.*.DISCONNECT"
"""Where the broker tells its system account whose connection has closed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subjects:
    """Builds and reads subjects under one prefix. ValueError for a name that can not be a token."""

    prefix: str = "mesh"

    def __post_init__(self) -> None:
        check_name(self.prefix, "the mesh's prefix")

    # -- streams ------------------------------------------------------------------------------------------------------

    def topic(self, topic: str) -> str:
        """Where a topic is published."""
        return f"{self.prefix}.topics.{_token(topic)}"

    def topics(self) -> str:
        """All topics."""
        return f"{self.prefix}.topics.*"

    def command(self, writer: str, kind: str, id_: str) -> str:
        """Where `writer` puts a command; `id_` makes it put-if-absent."""
        return f"{self.prefix}.cmd.{_token(writer)}.{_token(kind)}.{_token(id_)}"

    def owed(self, writer: str, key: Key) -> str:
        """Where a worker puts an outbox row."""
        return f"{self.prefix}.cmd.{_token(writer)}.{_token(key.kind)}.{_token(key.task)}.{key.epoch}.{key.number}"

    def owed_together(self, writer: str, digest: str) -> str:
        """Where a worker puts a pack of outbox rows, named by its content: sent again, it is stored once."""
        return f"{self.prefix}.cmd.{_token(writer)}.pack.{_token(digest[:32])}"

    def written(self, writer: str) -> str:
        """All commands of one writer."""
        return f"{self.prefix}.cmd.{_token(writer)}.>"

    def commands(self) -> str:
        """All commands."""
        return f"{self.prefix}.cmd.>"

    def writer(self, subject: str) -> str:
        """Name of the writer in a command's subject; '' when it is no command."""
        tokens = subject.split(".")
        return tokens[2] if len(tokens) > 3 and tokens[:2] == [self.prefix, "cmd"] else ""

    def command_kind(self, subject: str) -> str:
        """Kind of the record in a command's subject; '' when it is no command."""
        return subject.split(".")[3] if self.writer(subject) else ""

    def ledger(self) -> str:
        """The one subject of the ledger."""
        return f"{self.prefix}.ledger"

    def result(self, topic: str, kind: str, id_: str) -> str:
        """Where one record for subscribers of `topic` is put."""
        return f"{self.prefix}.results.{_token(topic)}.{_token(kind)}.{_token(id_)}"

    def results(self, topic: str = "*", kind: str = "*") -> str:
        """All records of a topic and kind, or of all."""
        return f"{self.prefix}.results.{topic}.{kind}.*"

    def stored(self, name: ObjectName) -> str:
        """One content-addressed chunk, delta or manifest."""
        return f"{self.prefix}.art.{name}"

    def stored_kind(self, kind: str) -> str:
        """All that is stored of one kind of names."""
        return f"{self.prefix}.art.{kind}.>"

    def stored_name(self, subject: str) -> ObjectName | None:
        """The name of what is stored under a subject; None when it is nothing of the artifact store's."""
        prefix = f"{self.prefix}.art."
        return object_names.parse(subject.removeprefix(prefix)) if subject.startswith(prefix) else None

    def artifacts(self) -> str:
        """All chunks, deltas and manifests."""
        return f"{self.prefix}.art.>"

    def condemned(self) -> str:
        """Lists of what the collector of garbage may remove soon."""
        return f"{self.prefix}.condemned"

    def study_entry(self, worker: str, study: str, task: str, epoch: Epoch, entry: str) -> str:
        """Where an attempt of a task, which `worker` runs, puts one entry of a study's log."""
        return f"{self.prefix}.study.{_token(worker)}.{_token(study)}.{_token(task)}.{epoch}.{_token(entry)}"

    def study(self, study: str) -> str:
        """A study's log."""
        return f"{self.prefix}.study.*.{_token(study)}.>"

    def studies(self) -> str:
        """All studies' logs."""
        return f"{self.prefix}.study.>"

    def bucket(self, name: str) -> str:
        """The stream behind a key-value bucket."""
        return f"KV_{self.prefix}_{name}"

    def key(self, bucket: str, key: str) -> str:
        """One key of a bucket."""
        return f"$KV.{self.prefix}_{bucket}.{_token(key)}"

    def keys(self, bucket: str) -> str:
        """All keys of a bucket."""
        return f"$KV.{self.prefix}_{bucket}.>"

    def stream(self, name: str) -> str:
        """A stream's name: LEDGER becomes MESH_LEDGER, so that several meshes share a server, `a-b` and `a_b` too."""
        return f"{self.prefix.upper()}_{name}"

    def durable(self, role: str) -> str:
        """Name of a role's durable consumer."""
        return f"{self.prefix}-{_token(role)}"

    # -- core ---------------------------------------------------------------------------------------------------------

    def beat(self, worker: str) -> str:
        """A worker's beats."""
        return f"{self.prefix}.beat.{_token(worker)}"

    def beats(self) -> str:
        """All workers' beats."""
        return f"{self.prefix}.beat.*"

    def gone(self, worker: str) -> str:
        """Report of a worker's supervisor."""
        return f"{self.prefix}.gone.{_token(worker)}"

    def all_gone(self) -> str:
        """All supervisors' reports."""
        return f"{self.prefix}.gone.*"

    def answer(self, name: str) -> str:
        """Where one worker hears the leader's answers."""
        return f"{self.prefix}.in.{_token(name)}.answer"

    def inbox(self, name: str) -> str:
        """Prefix of an agent's reply subjects."""
        return f"{self.prefix}.in.{_token(name)}"

    def asker(self, subject: str) -> str:
        """Who asks, by the subject of the question; '' when it is no question."""
        tokens = subject.split(".")
        depth = 5 if tokens[2:3] == ["worker"] else 4
        said = tokens[:2] == [self.prefix, "ask"] and len(tokens) == depth and NAME.match(tokens[-1])
        return tokens[-1] if said else ""

    def may_answer(self, reply: str, asker: str = "") -> bool:
        """May an agent answer on this subject? In the asker's own inbox, and never on a subject that the mesh or the
        broker gives a meaning: who asks could else have the leader write into its own ledger, or speak to others.

        asker: as the question's subject names it; '' where the subject names nobody.
        """
        inboxes = f"{self.prefix}.in."
        if reply.startswith(inboxes):
            return not asker or reply.startswith(f"{inboxes}{asker}.")
        return bool(reply) and not reply.startswith(("$", f"{self.prefix}."))

    def inboxes(self) -> str:
        """Inboxes and answers of all agents."""
        return f"{self.prefix}.in.>"

    def progress(self, worker: str, topic: str, task: str) -> str:
        """Progress of one task on one worker."""
        return f"{self.prefix}.progress.{_token(worker)}.{_token(topic)}.{_token(task)}"

    def all_progress(self, topic: str = "*") -> str:
        """Progress of a topic's tasks, or of all."""
        return f"{self.prefix}.progress.*.{topic}.*"

    def lead(self) -> str:
        """The leader's beat."""
        return f"{self.prefix}.lead"

    def wanted(self) -> str:
        """Objects that whoever has them in a cache should store again."""
        return f"{self.prefix}.wanted"

    def ask(self, role: str, asker: str) -> str:
        """Where `asker` puts a question to an agent of this role."""
        return f"{self.prefix}.ask.{_token(role)}.{_token(asker)}"

    def asked(self, role: str) -> str:
        """Questions to agents of this role."""
        return f"{self.prefix}.ask.{_token(role)}.*"

    def ask_worker(self, worker: str, asker: str) -> str:
        """Where `asker` puts a question to one worker."""
        return f"{self.prefix}.ask.worker.{_token(worker)}.{_token(asker)}"

    def asked_worker(self, worker: str) -> str:
        """Questions to one worker."""
        return f"{self.prefix}.ask.worker.{_token(worker)}.*"

    def asked_workers(self) -> str:
        """Questions to all workers."""
        return f"{self.prefix}.ask.worker.*.*"

    def join(self, invitation: str) -> str:
        """Where an invited machine asks for credentials of its own."""
        return f"{self.prefix}.join.{_token(invitation)}"

    def joins(self) -> str:
        """Questions of all invited machines."""
        return f"{self.prefix}.join.*"

    def service(self, verb: str, name: str, id_: str) -> tuple[str, str, str]:
        """The three subjects of one verb (PING, INFO, STATS) of the NATS service protocol, ADR-32."""
        return f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{id_}"


def is_key(subject: str) -> bool:
    """Does this subject name a key of a bucket?"""
    return subject.startswith("$KV.")


def key_of(subject: str) -> Key | None:
    """The outbox key that a worker's command subject spells; None when it spells none."""
    tokens = subject.split(".")
    if len(tokens) != 7 or not tokens[6].isdigit():
        return None
    try:
        return Key(tokens[4], Epoch.parse(tokens[5]), tokens[3], int(tokens[6]))
    except ValueError:
        return None


def _token(value: str) -> str:
    check_name(value, "a name in a subject")
    return value
