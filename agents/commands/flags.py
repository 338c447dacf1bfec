"""Options that all commands share, and how the values of options are read.

The broker's options carry the names that the `nats` tool uses, so that what works there works here. An option that is
not given says nothing: environment, settings file and defaults decide (docs/configuration.md).
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mesh.errors import SettingsInvalid

if TYPE_CHECKING:
    from mesh.messages.topics import Kpi
    from mesh.settings import Settings

GLOBAL: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("-s", "--server"), "URL", "nats.url", "broker, for example nats://HOST:4222; several with commas"),
    (("--user",), "NAME", "nats.user", "user name for the broker; a token when there is no password"),
    (("--password",), "TEXT", "nats.password", "password for the broker"),
    (("--creds",), "FILE", "nats.creds", "credentials file for the broker"),
    (("--nkey",), "FILE", "nats.nkey", "file with an nkey seed for the broker"),
    (("--tlscert",), "FILE", "nats.cert", "client certificate"),
    (("--tlskey",), "FILE", "nats.key", "private key of the client certificate"),
    (("--tlsca",), "FILE", "nats.ca", "certificates that vouch for the broker"),
    (("--context",), "NAME", "nats.context", "a saved context of the nats tool"),
    (("--js-domain",), "NAME", "nats.js_domain", "JetStream domain"),
    (("--inbox-prefix",), "PREFIX", "nats.inbox_prefix", "prefix of reply subjects"),
    (("--timeout",), "DURATION", "nats.connect_timeout_s", "how long to wait for the broker, for example 5s"),
    (("--home",), "FOLDER", "home", "where state is kept (default: .ramify in the checkout)"),
    (("--config",), "FILE", "config", "settings file (default: ramify.toml in the home folder)"),
    (("--prefix",), "NAME", "prefix", "name of the mesh in every subject: several share one broker"),
    (("--log-level",), "LEVEL", "log.level", "debug, info, warning or error"),
    (("--log-format",), "FORMAT", "log.format", "text or json"),
    (("--http-host",), "HOST", "http.host", "where an agent serves /health and /metrics"),
    (("--http-port",), "PORT", "http.port", "its port there; 0: a free one"),
)
"""(names, placeholder, setting, help) of the options with a value that every command takes."""

MAY_BE_EMPTY = ("nats.password", "nats.context", "http.host")
"""The others say nothing when they are empty: a shell's variable was not set, and another mesh would be found."""

SWITCHES = {
    "--no-context": "ignore the selected context of the nats tool",
    "--debug": "show the traceback when something unexpected happens",
}

WITH_VALUE = frozenset(name for names, *_ in GLOBAL for name in names)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of ours: one sentence with the nearest option instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        """SettingsInvalid in place of argparse's exit."""
        raise SettingsInvalid(f"{self._worded(message)}; `{self.prog} --help` shows what is expected.")

    def _worded(self, message: str) -> str:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown is None:
            return message.removeprefix("argument ").replace("\n", " ")
        name = unknown[1].split("=")[0]
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) if name.startswith("-") else []
        hint = f", the nearest is {near[0]}" if near else ""
        return f"this command does not take {unknown[1]!r}{hint}"


def add_global(parser: argparse.ArgumentParser) -> None:
    """The broker's options and those about where this program keeps its things."""
    group = parser.add_argument_group("broker and home")
    for names, placeholder, setting, text in GLOBAL:
        read = str if setting in MAY_BE_EMPTY else _filled
        group.add_argument(*names, metavar=placeholder, dest=setting, type=read, default=None, help=text)
    for name, text in SWITCHES.items():
        group.add_argument(name, action="store_true", help=text)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """`--json`, for a command that answers something."""
    parser.add_argument("--json", metavar="FILE", dest="json", help=f"write {what} as JSON to FILE (-: stdout)")


def add_join(parser: argparse.ArgumentParser) -> None:
    """The option of whoever may come from another machine."""
    parser.add_argument(
        "--join",
        metavar="TOKEN",
        help="join a mesh first, by what `bin/agent invite` printed; again: goes on as before",
    )


def home_of(arguments: Sequence[str]) -> Path:
    """The home folder for a defect's report, which must not depend on settings that may be the defect."""
    for position, argument in enumerate(arguments):
        if argument == "--home" and position + 1 < len(arguments):
            return Path(arguments[position + 1])
        if argument.startswith("--home="):
            return Path(argument.partition("=")[2])
    return Path(os.environ.get("RAMIFY_HOME") or Path(__file__).resolve().parents[2] / ".ramify")


AGAIN = ("home", "config", "prefix", "nats.url", "nats.context", "nats.creds", "nats.nkey", "nats.cert", "nats.key",
         "nats.ca", "nats.js_domain", "nats.inbox_prefix")  # fmt: skip
"""Options that the next command needs as well to find the same mesh; secrets are left to the person."""


def again(given: argparse.Namespace, *words: str) -> str:
    """The command line of a next command, with the options of this one that lead to the same mesh."""
    from mesh.setting_values import mask_url

    options: list[str] = []
    for names, _, setting, _ in GLOBAL:
        value = getattr(given, setting, None)
        if setting in AGAIN and value is not None:
            options += [names[-1], mask_url(str(value))]
    if getattr(given, "nats.user", None) is not None:
        options += ["--user", "…"]
    if getattr(given, "nats.password", None) is not None:
        options += ["--password", "…"]
    return shlex.join(["bin/agent", *words, *options])


def settings_of(given: argparse.Namespace, more: Mapping[str, object] | None = None) -> Settings:
    """The settings in effect for this command line. `more`: settings from the command's own options, by dotted name."""
    from mesh import settings

    return settings.load(_flags_of(given, more), os.environ, Path.cwd())


def selected_of(given: argparse.Namespace) -> Settings:
    """The same, with the context that is selected in the nats tool, unless `--no-context` was given."""
    from mesh import settings

    load = settings.load if given.no_context else settings.with_selected_context
    return load(_flags_of(given, None), os.environ, Path.cwd())


def _flags_of(given: argparse.Namespace, more: Mapping[str, object] | None) -> dict[str, object]:
    flags: dict[str, object] = {setting: getattr(given, setting) for _, _, setting, _ in GLOBAL}
    if given.no_context and flags["nats.context"] is None:
        flags["nats.context"] = ""
    return {name: value for name, value in {**flags, **(more or {})}.items() if value is not None}


# -- values -----------------------------------------------------------------------------------------------------------


def _filled(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a value, got an empty one: check the shell's variable")
    return text


def duration_s(text: str) -> float:
    """`90`, `30s`, `5m`, `1h30m` in seconds."""
    return float(_read(text, "parse_duration"))


def size_bytes(text: str) -> int:
    """`512MiB`, `2GB` in bytes."""
    return int(_read(text, "parse_size"))


def _read(text: str, how: str) -> Any:
    from mesh import units

    try:
        return getattr(units, how)(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {error}, got {text!r}") from None


def priority(text: str) -> int:
    """0 to 9."""
    if len(text) == 1 and text.isdigit() and text.isascii():
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a priority of 0 (last) to 9 (first), got {text!r}")


def branches(text: str) -> int | None:
    """A topic's branches: `auto` is None, `never` is 1, else a number of them."""
    from mesh import limits

    if text in ("auto", "never"):
        return None if text == "auto" else 1
    if text.isascii() and text.isdigit() and len(text) < 4 and 2 <= int(text) <= limits.BRANCHES_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected auto, never, or 2 to {limits.BRANCHES_MAX} branches, got {text!r}")


def whole(low: int, high: int, what: str = "whole number") -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a {what} from {low:,} to {high:,}, got {text!r}")
        return int(text)

    return read


def name(text: str) -> str:
    """A word that can be part of a subject."""
    from mesh.messages.base import check_name

    try:
        check_name(text, "a name")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


KPI = re.compile(r"([a-z][a-z0-9_]*)\s*(>=|<=)\s*(\S+)\Z")


def kpi(text: str) -> Kpi:
    """`accuracy>=0.9` or `latency_p95_ms<=20`."""
    from mesh.messages.topics import Kpi

    match = KPI.match(text.strip())
    try:
        bound = float(match[3]) if match else float("nan")
    except ValueError:
        bound = float("nan")
    if match is None or bound != bound:
        raise argparse.ArgumentTypeError(f"expected METRIC>=NUMBER or METRIC<=NUMBER, got {text!r}")
    if match[2] == ">=":
        return Kpi(metric=match[1], minimum=bound)
    return Kpi(metric=match[1], maximum=bound)
