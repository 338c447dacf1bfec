"""NATS contexts: the connections that people have saved with the `nats` tool, read and never written.

    $XDG_CONFIG_HOME/nats/context/<name>.json   (else ~/.config/nats/…)    one connection
    $XDG_CONFIG_HOME/nats/context.txt                                      the name of the selected one

A context gives the settings of section `nats`. What it asks for and we can not do is refused with a sentence, because a
connection without its proxy or its credentials would go somewhere else than its owner meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh.errors import SettingsInvalid

FIELDS = {
    "url": "url", "user": "user", "password": "password", "token": "token", "creds": "creds", "nkey": "nkey",
    "cert": "cert", "key": "key", "ca": "ca", "jetstream_domain": "js_domain", "inbox_prefix": "inbox_prefix",
}  # fmt: skip
"""Field of a context to the setting in section `nats`."""

IGNORED = frozenset({"description", "color_scheme", "windows_ca_certs_match"})
"""Fields for people, or without meaning when empty elsewhere."""

_SECRETS = frozenset({"password", "token"})
_SIZE_MAX = 64 * 1024
"""A context is a few hundred bytes; anything larger is another file."""


def folder(environ: Mapping[str, str]) -> Path:
    """Where the `nats` tool keeps its settings."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path(environ.get("HOME") or Path.home()) / ".config") / "nats"


def selected(environ: Mapping[str, str]) -> str:
    """Name of the context that the `nats` tool would use; '' when none is selected."""
    try:
        return (folder(environ) / "context.txt").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def read(name: str, environ: Mapping[str, str], relative_to: Path) -> dict[str, Any]:
    """Settings of section `nats` that a context gives. SettingsInvalid when it is missing, broken or asks too much.

    name: the name of a saved context, or the path of a `.json` file.
    """
    path = relative_to / name if name.endswith(".json") else folder(environ) / "context" / f"{name}.json"
    found = _load(name, path, environ)
    given = {key: value for key, value in found.items() if value not in ("", None, False, [])}
    refused = sorted(set(given) - set(FIELDS) - IGNORED)
    if refused:
        raise SettingsInvalid(
            f"nats.context must be a context that uses only {', '.join(FIELDS)}; {name!r} also sets "
            f"{', '.join(refused)}: save one without, or give --server and --creds.",
            setting="nats.context",
        )
    settings = {FIELDS[key]: _value(name, key, value, environ) for key, value in given.items() if key in FIELDS}
    if "user" in settings and not settings.get("password"):
        settings["token"] = settings.pop("user")  # the `nats` tool reads a user alone as a token
    return settings


def _load(name: str, path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        if path.stat().st_size > _SIZE_MAX:
            raise ValueError("it is too large")
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        known = sorted(entry.stem for entry in (folder(environ) / "context").glob("*.json"))
        have = f"there are {', '.join(known[:20])}" if known else f"{path.parent} has none"
        raise SettingsInvalid(
            f"nats.context must be a saved context; {name!r} is not there, {have}.", setting="nats.context"
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsInvalid(
            f"nats.context must be a readable JSON file; {path}: {error}.", setting="nats.context"
        ) from None
    if not isinstance(found, dict):
        raise SettingsInvalid(f"nats.context must be a JSON object; {path} is none.", setting="nats.context")
    return found


def _value(name: str, key: str, value: object, environ: Mapping[str, str]) -> str:
    """A literal or path as it is, `env://NAME` and `file://PATH` resolved. Nothing of a secret goes into a message."""
    if not isinstance(value, str):
        raise SettingsInvalid(f"nats.context {name!r}: {key} must be a text.", setting="nats.context")
    scheme, found, rest = value.partition("://")
    if key in ("url", "inbox_prefix", "jetstream_domain") or not found or scheme not in ("env", "file", "op", "nsc"):
        if value.startswith("data:"):
            raise _unsupported(name, key, "data:")
        return value
    if scheme == "env" and key in _SECRETS | {"user"} and rest in environ:
        return environ[rest]
    if scheme == "file":
        return _secret_file(name, key, rest) if key in _SECRETS else rest
    raise _unsupported(name, key, f"{scheme}://")


def _secret_file(name: str, key: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"nats.context {name!r}: the file of {key} can not be read: {error}.") from None


def _unsupported(name: str, key: str, reference: str) -> SettingsInvalid:
    return SettingsInvalid(
        f"nats.context {name!r}: {key} must be a plain value, file:// or (for secrets) the env:// of a variable that "
        f"is set; got {reference}…: give it by a flag or the environment instead.",
        setting="nats.context",
    )
