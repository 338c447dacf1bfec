"""Everything that an operator may choose: one frozen tree, checked once, at start.

Where a value comes from, later wins:

    defaults < ramify.toml < the NATS context < environment < flags

The file is `ramify.toml` in the home folder, or the one that `--config` or RAMIFY_CONFIG names. Every setting has an
environment variable RAMIFY_<SECTION>_<NAME>; NATS_URL and its family mean what they mean to the `nats` tool. Unknown
keys are errors. Secrets are masked wherever the tree is printed.

A connection is *named* when an address or a context was given; a context that is merely selected in the `nats` tool
counts only where the caller asks for it (`with_selected_context`), never for commands that would start a broker.

docs/settings.md lists every setting; a test compares it with this tree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mesh import contexts, setting_values
from mesh.errors import SettingsInvalid
from mesh.messages.base import check_name
from mesh.setting_tree import (
    SECTIONS,
    ArtifactSettings,
    BrokerSettings,
    FeederSettings,
    HttpSettings,
    KeeperSettings,
    LogSettings,
    NatsSettings,
    SchedulerSettings,
    Settings,
    WorkerSettings,
    attribute,
    known,
)
from mesh.setting_values import invalid, unknown

__all__ = [
    "ArtifactSettings",
    "BrokerSettings",
    "FeederSettings",
    "HttpSettings",
    "KeeperSettings",
    "LogSettings",
    "NatsSettings",
    "SchedulerSettings",
    "Settings",
    "WorkerSettings",
    "load",
    "with_selected_context",
]

CLOUDS = ("aws", "gcp", "azure")
"""Clouds whose pages about a machine's end agents/worker_notice.py knows."""

CHECKOUT = Path(__file__).resolve().parents[1]
FILE_NAME = "ramify.toml"
SCHEMES = ("nats", "tls", "ws", "wss")
WEB = ("http://", "https://")
FILE_BYTES_MAX = 256 * 1024
"""A file of settings is a page; anything larger is another file."""

ADVERTISED_MAX = 16
"""Names and addresses of one broker: all of them stand in its certificate and in each invitation."""

NOT_OURS = frozenset({"RAMIFY_CONFIG", "RAMIFY_VENV"})
"""Environment variables of that family which are no settings."""

FLAGS = {
    "home": "--home", "prefix": "--prefix", "nats.url": "--server", "nats.context": "--context",
    "nats.creds": "--creds",
    "nats.nkey": "--nkey", "nats.user": "--user", "nats.password": "--password", "nats.cert": "--tlscert",
    "nats.key": "--tlskey", "nats.ca": "--tlsca", "nats.js_domain": "--js-domain",
    "nats.inbox_prefix": "--inbox-prefix",
    "nats.connect_timeout_s": "--timeout", "worker.name": "--name", "worker.cores": "--cores",
    "worker.memory_bytes": "--memory", "worker.gpus": "--gpus", "worker.disk_bytes": "--disk",
    "worker.labels": "--labels", "worker.max_tasks": "--max-tasks",
    "broker.listen": "--listen", "broker.advertise": "--advertise",
    "feeder.min_queue": "--min-queue", "feeder.burst": "--burst", "feeder.sleep_s": "--sleep-s",
    "feeder.priority": "--priority", "feeder.day_budget_s": "--budget-per-day",
    "feeder.round_budget_s": "--round-budget", "log.level": "--log-level",
    "log.format": "--log-format", "http.host": "--http-host", "http.port": "--http-port",
}  # fmt: skip
"""Setting to the flag that gives it; the names of the NATS options are those of the `nats` tool."""

NATS_ENVIRONMENT = {
    "NATS_URL": "nats.url", "NATS_CONTEXT": "nats.context", "NATS_CREDS": "nats.creds", "NATS_NKEY": "nats.nkey",
    "NATS_USER": "nats.user", "NATS_PASSWORD": "nats.password", "NATS_TOKEN": "nats.token", "NATS_CERT": "nats.cert",
    "NATS_KEY": "nats.key", "NATS_CA": "nats.ca", "NATS_SERVER_BIN": "broker.binary",
}  # fmt: skip


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "RAMIFY_" + name.replace(".", "_").upper()


def load(flags: Mapping[str, object], environ: Mapping[str, str], folder: Path) -> Settings:
    """Read, merge and check all sources. SettingsInvalid with one sentence for the first thing that is wrong.

    flags: dotted setting name, or `config`, to what the command line gave (None: not given); folder: the user's current
    folder, where relative paths of flags and environment start.
    """
    return _load(flags, environ, folder, use_selected=False)


def with_selected_context(flags: Mapping[str, object], environ: Mapping[str, str], folder: Path) -> Settings:
    """`load` for commands that never start a broker: where none is named, the nats tool's selected context counts."""
    return _load(flags, environ, folder, use_selected=True)


def _load(flags: Mapping[str, object], environ: Mapping[str, str], folder: Path, *, use_selected: bool) -> Settings:
    merged = _Merged()
    merged.take_environment(environ, folder)
    merged.take_flags(flags, folder)
    config = flags.get("config") or environ.get("RAMIFY_CONFIG") or ""
    path = folder / Path(str(config)).expanduser() if config else merged.home() / FILE_NAME
    below = _Merged()
    below.take_file(path, must_exist=bool(config))
    name, origin = merged.last("nats.context") or below.last("nats.context") or ("", "")
    if not name and use_selected and not (merged.last("nats.url") or below.last("nats.url")):
        name, origin = contexts.selected(environ), "the nats tool's selection"
        if name:
            below.put("nats.context", name, folder, origin)
    if name:
        for field, value in contexts.read(name, environ, folder).items():
            below.put(f"nats.{field}", value, folder, f"context {name}")
    below.update(merged)
    return below.settings()


class _Merged:
    """Values and origins of what was given so far; what is put later wins."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self._known = known()

    def put(self, name: str, value: object, folder: Path, origin: str, *, shown: str = "") -> None:
        """Read one value; an empty text for anything but a text means 'not given'."""
        type_, declared = self._known[name]
        if value == "" and type_ != "str":
            return
        self.values[name] = setting_values.read(name, type_, declared, value, folder=folder, origin=origin)
        self.origins[name] = origin

    def update(self, other: _Merged) -> None:
        """Take all that another source gave."""
        self.values |= other.values
        self.origins |= other.origins

    def last(self, name: str) -> tuple[str, str] | None:
        """(value, origin) of a setting that was given and is not empty."""
        return (self.values[name], self.origins[name]) if self.values.get(name) else None

    def home(self) -> Path:
        """The home folder as far as it is known."""
        found = self.values.get("home")
        return found if isinstance(found, Path) else default_home()

    def take_environment(self, environ: Mapping[str, str], folder: Path) -> None:
        """NATS_… first, then our own names, which are the more exact ones."""
        for variable_, name in NATS_ENVIRONMENT.items():
            if environ.get(variable_):
                self.put(name, environ[variable_], folder, f"environment {variable_}")
        ours = {variable(name): name for name in self._known}
        for variable_ in sorted(environ):
            if not variable_.startswith("RAMIFY_") or variable_ in NOT_OURS:
                continue
            if variable_ not in ours:
                raise unknown("The variable", variable_, ours, "the environment")
            self.put(ours[variable_], environ[variable_], folder, f"environment {variable_}")

    def take_flags(self, flags: Mapping[str, object], folder: Path) -> None:
        """What the command line gave."""
        for name, value in flags.items():
            if value is None or name == "config":
                continue
            if name not in self._known:
                raise unknown("The setting", name, self._known, "the flags")
            self.put(name, value, folder, f"flag {FLAGS.get(name, name)}")

    def take_file(self, path: Path, *, must_exist: bool) -> None:
        """A TOML file: tables are sections."""
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise SettingsInvalid(f"{path} must be a file of settings of at most {FILE_BYTES_MAX} bytes.")
            tree = tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            if must_exist:
                raise SettingsInvalid(f"The file of settings {path} must exist, and is not there.") from None
            return
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsInvalid(f"{path} must be a readable TOML file; {error}.") from None
        for name, value in _flat(tree, str(path)):
            if name not in self._known:
                raise unknown("The setting", name, self._known, str(path))
            if name == "home" and not must_exist:
                raise SettingsInvalid(f"home can not be set in {path}, which lies in it; use --home or RAMIFY_HOME.")
            self.put(name, value, path.parent, str(path))

    def settings(self) -> Settings:
        """The tree, checked."""
        by_section: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
        for name, value in self.values.items():
            section, _, field = name.rpartition(".")
            by_section[section][field] = value
        top = by_section.pop("")
        top["home"] = Path(os.path.normpath(self.home().absolute()))
        sections = {attribute(name): SECTIONS[name](**values) for name, values in by_section.items()}
        settings = Settings(**top, **sections, origins=self.origins)  # type: ignore[arg-type]
        check(settings)
        return derive(settings)


def default_home() -> Path:
    """`.ramify` in the checkout; for an installed package, in the user's own folder."""
    return (CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.home()) / ".ramify"


def _flat(tree: Mapping[str, Any], origin: str, above: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of every setting; a table may hold settings, or tables as [planner.llm] does."""
    for key, value in tree.items():
        name = f"{above}{key}"
        is_section, holds_sections = name in SECTIONS, any(one.startswith(f"{name}.") for one in SECTIONS)
        if (is_section or holds_sections) and not isinstance(value, dict):
            raise invalid(name, "a table ([section] in TOML)", value, origin)
        if not isinstance(value, dict):
            yield name, value
        elif is_section or holds_sections:
            yield from _flat(value, origin, f"{name}.")
        else:
            raise unknown("The section", name, SECTIONS, origin)


# -- rules ------------------------------------------------------------------------------------------------------------


def check(settings: Settings) -> None:
    """All rules: of each setting alone, then between settings. SettingsInvalid for the first that is broken."""
    for name, (_, declared) in known().items():
        setting_values.check(name, declared, settings.value(name), settings.origin(name))
    for name, holds, expected in _rules(settings):
        if not holds:
            _, declared = known()[name]
            raise invalid(
                name, expected, setting_values.show(name, declared, settings.value(name)), settings.origin(name)
            )


def _rules(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """(setting to name, does the rule hold, what is expected)."""
    nats, scheduler, keeper, worker = settings.nats, settings.scheduler, settings.keeper, settings.worker
    word = "one word of a-z, 0-9, '-' and '_', starting with a letter or digit"
    yield "prefix", _is_name(settings.prefix), word
    yield "worker.name", not worker.name or _is_name(worker.name), word
    yield "nats.name", not nats.name or _is_name(nats.name), word
    yield "worker.labels", len(worker.labels) <= 64 and all(map(_is_name, worker.labels)), f"up to 64 times {word}"
    page = not worker.notice_url or worker.notice_url in CLOUDS or worker.notice_url.startswith(("http://", "https://"))
    yield "worker.notice_url", page, f"{', '.join(CLOUDS)} or an address that begins with http://"
    known_scheme = all(server.partition("://")[0] in SCHEMES for server in nats.servers)
    yield "nats.url", known_scheme, f"HOST:PORT, or an address that begins with one of {', '.join(SCHEMES)}://"
    yield "nats.password", not nats.password or bool(nats.user), "given together with nats.user"
    yield "nats.cert", bool(nats.cert) == bool(nats.key), "given together with nats.key"
    ways = [name for name in ("creds", "nkey", "token") if getattr(nats, name)] + ["user"] * bool(nats.user)
    for name in ways[1:]:
        yield f"nats.{name}", False, f"left out, because nats.{ways[0]} is given: one kind of credentials at a time"
    for name in ("creds", "nkey", "cert", "key", "ca"):
        path = getattr(nats, name)
        readable = not path or (os.access(path, os.R_OK) and not os.path.isdir(path))
        yield f"nats.{name}", readable, "the path of a readable file"
    yield (
        "broker.host",
        _is_loopback(settings.broker.host),
        (
            "a loopback address (127.0.0.1 or ::1), where no keys are needed: to be reached from elsewhere, "
            "with TLS and keys, start with `bin/agent up --listen ADDRESS`"
        ),
    )
    yield from _listening_rules(settings.broker)
    yield from _artifact_rules(settings.artifacts)
    asked = settings.planner_llm
    yield (
        "planner.llm.url",
        not asked.url or asked.url.startswith(WEB),
        "an address that begins with http:// or https://",
    )
    yield "planner.llm.model", bool(asked.model) or not asked.url, "given together with planner.llm.url"
    suspect_s = scheduler.suspect_beats * scheduler.beat_s
    yield "scheduler.lost_s", scheduler.lost_s > suspect_s, f"more than suspect_beats times beat_s ({suspect_s:g} s)"
    least = 2 * scheduler.leader_beat_s
    yield "scheduler.leader_lost_s", scheduler.leader_lost_s >= least, f"at least twice leader_beat_s ({least:g} s)"
    for section, part in (("scheduler", scheduler), ("keeper", keeper)):
        grows = part.back_off_s_max >= part.back_off_s_first
        yield f"{section}.back_off_s_max", grows, f"at least {section}.back_off_s_first"


def _listening_rules(broker: BrokerSettings) -> Iterator[tuple[str, bool, str]]:
    place = "an address or name of this machine, with or without :PORT (0.0.0.0, [::]:4222, mesh.example.org)"
    yield "broker.listen", not broker.listen or setting_values.place(broker.listen) is not None, place
    named = all(setting_values.place(text) is not None for text in broker.advertise)
    yield (
        "broker.advertise",
        named and len(broker.advertise) <= ADVERTISED_MAX,
        (f"up to {ADVERTISED_MAX} names or addresses, each with or without :PORT"),
    )


def _artifact_rules(artifacts: ArtifactSettings) -> Iterator[tuple[str, bool, str]]:
    chosen = artifacts.backend
    yield "artifacts.folder", chosen != "folder" or bool(artifacts.folder), "given when artifacts.backend is folder"
    yield "artifacts.s3_bucket", chosen != "s3" or bool(artifacts.s3_bucket), "given when artifacts.backend is s3"
    address = not artifacts.s3_endpoint or artifacts.s3_endpoint.startswith(("http://", "https://"))
    yield "artifacts.s3_endpoint", address, "an address that begins with http:// or https://"
    both = bool(artifacts.s3_access_key_id) == bool(artifacts.s3_secret_access_key)
    yield "artifacts.s3_secret_access_key", both, "given together with artifacts.s3_access_key_id"


def derive(settings: Settings) -> Settings:
    """What follows from other values: the worker's name from its credentials' or from this host's, a token from a user
    without a password."""
    nats, worker = settings.nats, settings.worker
    if nats.user and not nats.password:
        nats = dataclasses.replace(nats, user="", token=nats.user)
    if not worker.name:
        worker = dataclasses.replace(worker, name=nats.name or host_name())
    return dataclasses.replace(settings, nats=nats, worker=worker)


def host_name() -> str:
    """This host's short name as one token of a subject."""
    return token_of(socket.gethostname().partition(".")[0]) or "worker"


def token_of(text: str) -> str:
    """A text made fit for a subject: lower case, other characters become '-', at most 40 of them."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text.lower())
    return kept.strip("-_")[:40].rstrip("-_")


def _is_name(text: str) -> bool:
    try:
        check_name(text, "a name")
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
