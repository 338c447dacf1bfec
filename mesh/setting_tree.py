"""The tree of settings: what an operator may choose, section by section, with defaults, bounds and a sentence each.

A number written as `auto` is derived from the machine by whoever uses it, so that reading the settings costs nothing.
`mesh/settings.py` fills the tree from its sources and holds the rules between settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import limits, setting_values
from mesh.setting_values import Declared, Section, setting

if TYPE_CHECKING:
    from mesh.nats_options import NatsOptions

DEFAULT = "default"
"""Origin of a value that nobody gave."""

BACKENDS = ("broker", "folder", "s3")
"""Where artifacts may lie."""

NOWHERE = Path()
"""Stands for the home folder until it is known."""


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class NatsSettings(Section):
    """How to reach the broker, and as whom."""

    url: str = setting("", "Address of the broker, or several with commas; empty: the embedded one of this machine")
    context: str = setting("", "Name of a saved NATS context, or the path of its .json file")
    user: str = setting("", "User name; without a password it is taken as a token, as by the nats tool")
    password: str = setting("", "Password of that user", secret=True)
    token: str = setting("", "Token", secret=True)
    creds: str = setting("", "Path of a credentials file (JWT and seed)", path=True)
    nkey: str = setting("", "Path of a file with an nkey seed", path=True)
    cert: str = setting("", "Path of the TLS certificate of this client", path=True)
    key: str = setting("", "Path of that certificate's private key", path=True)
    ca: str = setting("", "Path of the certificates that vouch for the broker", path=True)
    js_domain: str = setting("", "JetStream domain, when the streams live behind a leaf node")
    inbox_prefix: str = setting("", "Prefix of reply subjects; empty: one of the agent's own")
    name: str = setting("", "Name in the mesh to which these credentials are bound; empty: the agent's own choice")
    connect_timeout_s: float = setting(5.0, "Patience with a broker that does not answer", least=0.1, most=300)

    @property
    def named(self) -> bool:
        """An address or a context was given: no other broker may stand in for it."""
        return bool(self.url or self.context)

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses, each with its scheme; the nats tool's default port is added by the client."""
        return tuple(
            text if "://" in text else f"nats://{text}" for part in self.url.split(",") if (text := part.strip())
        )

    def options(self) -> NatsOptions:
        """What a connection needs to know."""
        from mesh.nats_options import NatsOptions  # brings TLS along: 10 ms that most commands can spare

        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(NatsOptions)}
        return NatsOptions(**fields)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class BrokerSettings(Section):
    """The embedded nats-server."""

    host: str = setting("127.0.0.1", "Loopback address on which the embedded broker listens")
    port: int = setting(0, "Its port; 0: a free one", least=0, most=65_535)
    listen: str = setting(
        "", "ADDRESS or ADDRESS:PORT at which other machines reach it, with TLS and keys; empty: loopback only"
    )
    advertise: tuple[str, ...] = setting(
        (), "Names and addresses, HOST or HOST:PORT, by which other machines reach it where it listens"
    )
    store_bytes_max: int = setting(
        0,
        "Most bytes of its store, at least 192 MiB; auto: the smaller of 20 GiB and 20 % of the free disk",
        least=limits.STORE_BYTES_LEAST,
        auto=0,
    )
    binary: str = setting(
        "", "Path of the nats-server program; empty: the installed package's, then the one on PATH", path=True
    )
    start_timeout_s: float = setting(20.0, "Patience with a start", least=1, most=600)
    stop_timeout_s: float = setting(10.0, "Patience with a stop, before it is killed", least=0.1, most=600)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class KeeperSettings(Section):
    """The process that holds the embedded broker."""

    linger_s: float = setting(
        2.0, "How long the broker stays after its last user, for the next command", least=0, most=86_400
    )
    back_off_s_first: float = setting(
        0.1, "Pause before a dead broker is started again, doubled each time", least=0.01, most=60
    )
    back_off_s_max: float = setting(5.0, "Longest such pause", least=0.01, most=600)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class SchedulerSettings(Section):
    """Beats, leases and the ledger."""

    beat_s: float = setting(2.0, "A worker's beat", least=0.05, most=60)
    suspect_beats: int = setting(3, "Beats missed before a worker gets no new leases", least=1, most=100)
    lost_s: float = setting(10.0, "Silence after which a worker's leases are over", least=0.2, most=3_600)
    leader_beat_s: float = setting(1.0, "The leading scheduler's beat", least=0.05, most=60)
    leader_lost_s: float = setting(3.0, "Silence after which another scheduler takes over", least=0.1, most=600)
    back_off_s_first: float = setting(
        2.0, "Pause before a failed task is tried again, doubled each time", least=0, most=3_600
    )
    back_off_s_max: float = setting(60.0, "Longest such pause", least=0, most=86_400)
    receipt_keep_s: float = setting(
        86_400.0, "How long receipted outbox rows are kept, in case the broker comes back older", least=0
    )
    snapshot_events: int = setting(5_000, "Ledger events between two snapshots", least=10, most=10_000_000)
    collect_every_s: float = setting(
        600.0, "Time between two collections of garbage in the artifact store; sooner when it is nearly full", least=1
    )
    collect_wait_s: float = setting(
        900.0, "Time between condemning and removing; what is being uploaded then is not sent twice", least=0.1
    )
    unnamed_keep_s: float = setting(
        86_400.0, "How long an artifact that nothing names is kept: its result may come late", least=1
    )


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class WorkerSettings(Section):
    """What a worker offers. The automatic values leave the machine usable for its owner."""

    name: str = setting("", "The worker's name, the same over its lives; empty: this host's name")
    cores: float = setting(
        0.0, "Processor cores to offer; auto: all, at a lowered priority", least=0.1, most=4_096, auto=0
    )
    memory_bytes: int = setting(
        0, "Memory to offer; auto: 75 % of what is available at the start", least=64 << 20, auto=0
    )
    gpus: int = setting(-1, "Number of GPUs to offer; auto: all that the driver shows", least=0, most=64, auto=-1)
    disk_bytes: int = setting(0, "Disk to offer; auto: half of what is free at the start", least=64 << 20, auto=0)
    share_gpus: bool = setting(True, "Let tasks that say how much memory of a GPU they take share one")
    gpu_errors_max: int = setting(3, "Failures in a row after which a GPU is left alone", least=1, most=1_000)
    gpu_timeout_s: float = setting(
        30.0, "How long a GPU may take to show that it computes, before that is a failure", least=0.1, most=3_600
    )
    gpu_pause_s: float = setting(300.0, "How long a GPU is left alone before it is tried again", least=1, most=86_400)
    labels: tuple[str, ...] = setting((), "Words that tasks may ask for")
    max_tasks: int = setting(0, "Most tasks at a time; auto: one per core offered", least=1, most=1_024, auto=0)
    cache_bytes_max: int = setting(10 << 30, "Most bytes of the local cache of artifacts", least=16 << 20)
    outbox_bytes_max: int = setting(
        256 << 20, "Most bytes of the local queue of what is owed to the mesh", least=1 << 20
    )
    stop_grace_s: float = setting(
        20.0, "How long running tasks get for a last checkpoint when the worker stops", least=0, most=3_600
    )
    notice_file: str = setting(
        "", "Path of a file whose appearance says that this machine goes away: the worker leaves in order", path=True
    )
    notice_url: str = setting(
        "", "Page that says so, asked every 5 s: aws, gcp, azure or an http address; empty: none is asked"
    )
    low_priority: bool = setting(True, "Let other programs of this machine go first")


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class LlmSettings(Section):
    """An OpenAI-compatible endpoint that may propose branches of topics without data; never needed."""

    url: str = setting("", "Its address up to and without /chat/completions; empty: none is asked")
    model: str = setting("", "Name of the model that is asked")
    api_key: str = setting("", "Key that is sent with each question", secret=True)
    timeout_s: float = setting(10.0, "Patience with an answer; then the plan goes on without", least=0.1, most=30)

    @property
    def enabled(self) -> bool:
        """Is an endpoint asked?"""
        return bool(self.url)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class FeederSettings(Section):
    """What a feeder keeps the mesh busy with."""

    min_queue: int = setting(4, "Tasks that should wait for a worker; with fewer, topics are fed", least=1, most=1_000)
    burst: int = setting(2, "Most topics that are fed at once", least=1, most=100)
    sleep_s: float = setting(30.0, "Pause between two looks at the queue", least=0.1, most=86_400)
    priority: int = setting(1, "Priority of what is fed, below that of people's topics (5)", least=0, most=9)
    day_budget_s: float = setting(
        14_400.0, "Most training seconds given out within 24 hours, all lines together", least=1, most=1e9
    )
    round_budget_s: float = setting(
        120.0, "Training seconds of each line of a topic that is fed", least=1, most=2_592_000
    )


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class ConsensusSettings(Section):
    """How closely consensus looks at who would become champion."""

    replay_share: float = setting(
        0.05, "Share of would-be champions of which a segment is trained again without any reason", least=0, most=1
    )


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class GateSettings(Section):
    """Bounds and margins of the gate's policies."""

    evidence_lower: float = setting(
        0.9, "Evidence rate that must be proved: lower end of its Wilson interval", least=0, most=0.99
    )
    chance_margin: float = setting(
        0.01, "How far below the most frequent label's accuracy a model may be whose loss beats chance", least=0, most=1
    )
    accuracy_margin: float = setting(0.005, "How much less accurate than the champion", least=0, most=1)
    loss_margin: float = setting(0.05, "How much more loss than the champion's, in nats", least=0, most=100)
    latency_p95_ms: float = setting(
        1_000.0, "Longest of 19 in 20 answers, in milliseconds, one item at a time", least=0.001, most=3.6e6
    )
    latency_ratio: float = setting(
        10.0, "How many times the champion's latency, where the answer takes more than 20 ms", least=1, most=1e6
    )
    size_gb_max: float = setting(8.0, "Largest model, in gigabytes (10^9 bytes)", least=0.000001)
    price_max: float = setting(0.0, "Highest price of an answer, where a kind says one; 0: not asked", least=0)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class ArtifactSettings(Section):
    """Where artifacts lie: the same for all agents of a mesh."""

    backend: str = setting(
        "broker", "Where objects are stored: in the broker, a shared folder, an S3 bucket", choices=BACKENDS
    )
    folder: str = setting("", "Folder on a disk that all machines of the mesh share; it has to exist", path=True)
    bytes_max: int = setting(
        0,
        "What a folder or bucket should hold: above 80 % of it garbage is collected at once; 0: nothing is said",
        least=0,
    )
    s3_bucket: str = setting("", "Name of the bucket; it has to exist")
    s3_prefix: str = setting("", "First part of all keys in the bucket; the mesh's prefix follows")
    s3_endpoint: str = setting("", "Address of an S3-compatible store; empty: Amazon's, or AWS_ENDPOINT_URL")
    s3_region: str = setting("", "Region of the bucket; empty: AWS_REGION, or us-east-1")
    s3_access_key_id: str = setting("", "Access key; empty: AWS_ACCESS_KEY_ID, or the machine's role")
    s3_secret_access_key: str = setting("", "Secret of that key; empty: AWS_SECRET_ACCESS_KEY", secret=True)
    s3_session_token: str = setting("", "Token of temporary credentials; empty: AWS_SESSION_TOKEN", secret=True)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class HttpSettings(Section):
    """Health and metrics of every agent."""

    host: str = setting("127.0.0.1", "Address for /health and /metrics")
    port: int = setting(0, "Port of the agent; 0: a free one", least=0, most=65_535)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class GatewaySettings(Section):
    """The HTTP gateway: a way in without NATS."""

    host: str = setting("127.0.0.1", "Address on which it listens; off loopback only with TLS")
    port: int = setting(8380, "Its port; 0: a free one", least=0, most=65_535)
    cert: str = setting("", "Path of its TLS certificate, with the chain", path=True)
    key: str = setting("", "Path of that certificate's private key", path=True)
    behind_proxy: bool = setting(
        False, "A proxy on this machine ends TLS before it: whom X-Forwarded-For names last is who asks"
    )
    requests_per_s: float = setting(
        200.0, "Requests a second of one token, in the long run; an address may send four times as many",
        least=0.1, most=1e6,
    )  # fmt: skip
    requests_max: int = setting(256, "Most requests at a time; half of them of one caller", least=2, most=100_000)
    streams_max: int = setting(
        1_024, "Most streams (events, long waits) at a time; a quarter of them of one caller", least=4, most=100_000
    )


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class LogSettings(Section):
    """What is said on stderr."""

    level: str = setting("info", "Least important lines to show", choices=("debug", "info", "warning", "error"))
    format: str = setting("text", "Lines for people or for machines", choices=("text", "json"))


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class Settings(Section):
    """The whole tree. `origins` tells for each setting that is not a default where it came from."""

    home: Path = setting(NOWHERE, "Folder for state; default: .ramify in the checkout")  # noqa: RUF009
    prefix: str = setting("mesh", "First token of all subjects; several meshes may share a broker")
    nats: NatsSettings = NatsSettings()
    broker: BrokerSettings = BrokerSettings()
    keeper: KeeperSettings = KeeperSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    worker: WorkerSettings = WorkerSettings()
    planner_llm: LlmSettings = LlmSettings()
    feeder: FeederSettings = FeederSettings()
    consensus: ConsensusSettings = ConsensusSettings()
    gate: GateSettings = GateSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    http: HttpSettings = HttpSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        parts = ", ".join(f"{attribute(name)}={getattr(self, attribute(name))!r}" for name in SECTIONS)
        return f"Settings(home={str(self.home)!r}, prefix={self.prefix!r}, {parts})"

    def value(self, name: str) -> Any:
        """The value of a setting by its dotted name."""
        section, _, field = name.rpartition(".")
        return getattr(getattr(self, attribute(section)) if section else self, field)

    def origin(self, name: str) -> str:
        """Where a setting came from: 'default', a file, a context, a variable or a flag."""
        return self.origins.get(name, DEFAULT)

    def printable(self) -> list[tuple[str, str, str]]:
        """(setting, value, origin) of every setting, in order; secrets are masked."""
        return [
            (name, setting_values.show(name, declared, self.value(name)), self.origin(name))
            for name, (_, declared) in known().items()
        ]


SECTIONS: dict[str, type[Section]] = {
    "nats": NatsSettings, "broker": BrokerSettings, "keeper": KeeperSettings, "scheduler": SchedulerSettings,
    "worker": WorkerSettings, "planner.llm": LlmSettings, "feeder": FeederSettings,
    "consensus": ConsensusSettings, "gate": GateSettings,
    "artifacts": ArtifactSettings, "http": HttpSettings, "gateway": GatewaySettings, "log": LogSettings,
}  # fmt: skip


def attribute(section: str) -> str:
    """Where a section stands in the tree: that of [planner.llm] is `planner_llm`."""
    return section.replace(".", "_")


def known() -> dict[str, tuple[str, Declared]]:
    """Every setting by its dotted name: (type as written, declaration), in the order of the tree."""
    found = dict(setting_values.declared_in(Settings))
    for section, type_ in SECTIONS.items():
        found |= {f"{section}.{name}": rule for name, rule in setting_values.declared_in(type_).items()}
    return found
