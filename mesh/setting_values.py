"""One setting: how it is declared, read from text, checked, shown.

A section of settings is a frozen dataclass whose fields are made by `setting(...)`. The name says the unit: `…_bytes`,
`…_bytes_max` hold bytes ("2GiB"), `…_s`, `…_s_max` seconds ("5m"). A declaration carries its help text and its bounds,
so that reading, checking, printing and docs/settings.md follow from one place.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mesh import units
from mesh.errors import SettingsInvalid

MASK = "********"
"""Shown in place of a secret; its length says nothing."""

AUTO = "auto"
"""Written in place of a number that the program derives from the machine."""

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_USERINFO = re.compile(r"(?<=://)[^/@,\s]+(?=@)")


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """What is known about one setting besides its value."""

    help: str
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    secret: bool = False
    path: bool = False
    """A text that is a path: a relative one starts at the file of settings or the user's folder that it came from."""
    auto: float | None = None
    """The value that stands for `auto`; None: `auto` may not be written."""


def setting(default: Any, help_: str, **rules: Any) -> Any:
    """A field of a section: default, help text and the rules of `Declared`."""
    declared = Declared(help_, **rules)
    return dataclasses.field(default=default, metadata={"declared": declared})


class Section:
    """A group of settings: a frozen dataclass whose text form shows no secret."""

    def __repr__(self) -> str:
        shown = (f"{name}={show(name, rule, getattr(self, name))!r}" for name, (_, rule) in declared_in(self).items())
        return f"{type(self).__name__}({', '.join(shown)})"


def declared_in(section: Any) -> dict[str, tuple[str, Declared]]:
    """Name to (type as written, declaration) of every setting in a section, in order."""
    return {
        field.name: (str(field.type), field.metadata["declared"])
        for field in dataclasses.fields(section)
        if "declared" in field.metadata
    }


def invalid(setting_: str, expected: str, got: object, origin: str) -> SettingsInvalid:
    """The one wording of every complaint about a setting."""
    shown = mask_url(got if isinstance(got, str) else repr(got))[:200]
    sentence = f"{setting_} must be {expected}; got {shown!r} from {origin}."
    return SettingsInvalid(sentence, setting=setting_, expected=expected, got=shown, origin=origin)


def unknown(what: str, name: str, known: Iterable[str], origin: str) -> SettingsInvalid:
    """A key that nobody knows, with the nearest one that somebody does."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "`bin/agent config` lists all of them."
    sentence = f"{what} {name!r} in {origin} is not known; {hint}"
    return SettingsInvalid(sentence, setting=name, expected="a known name", got=name)


def read(name: str, type_: str, declared: Declared, value: object, *, folder: Path, origin: str) -> Any:
    """The value in its type, from text (environment, flags) or from what TOML gives. SettingsInvalid otherwise.

    folder: where a relative path starts.
    """
    shown = MASK if declared.secret else value
    if declared.auto is not None and value == AUTO:
        return declared.auto
    try:
        typed = _typed(name, type_, value, folder)
    except ValueError as error:
        raise invalid(name, f"{error}{_or_auto(declared)}", shown, origin) from None
    if declared.auto is not None and typed == declared.auto:  # who writes 0 means none, and would get all
        raise invalid(name, _range(name, declared) + _or_auto(declared), shown, origin)
    return str(folder / Path(typed).expanduser()) if declared.path and typed else typed


def check(name: str, declared: Declared, value: Any, origin: str) -> None:
    """The rules of one setting alone. SettingsInvalid when one is broken."""
    if declared.choices and value not in declared.choices:
        raise invalid(name, f"one of {', '.join(declared.choices)}", value, origin)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == declared.auto:
        return
    if not math.isfinite(value) or not declared.least <= value <= declared.most:
        raise invalid(name, _range(name, declared) + _or_auto(declared), show(name, declared, value), origin)


def show(name: str, declared: Declared, value: Any) -> str:
    """The value as it may be written in ramify.toml; secrets are masked, also inside addresses."""
    if declared.secret:
        return MASK if value else ""
    if declared.auto is not None and value == declared.auto:
        return AUTO
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(name, value)
    return ",".join(map(str, value)) if isinstance(value, tuple) else mask_url(str(value))


def mask_url(text: str) -> str:
    """An address (or several) without user, password or token."""
    return _USERINFO.sub(MASK, text)


_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?\.?\Z", re.IGNORECASE)


def place(text: str, port: int = 0) -> tuple[str, int] | None:
    """(host, port) of HOST, HOST:PORT, an IPv6 address, or [IPv6]:PORT; None for anything else.

    port: what stands for one that is not said.
    """
    import ipaddress

    bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]{1,5}))?", text)
    if bracketed or text.count(":") > 1:
        host, said = (bracketed[1], bracketed[2]) if bracketed else (text, None)
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            return None
    else:
        host, colon, said = text.partition(":")
        if not _HOST.match(host) or (colon and not re.fullmatch("[0-9]{1,5}", said)):
            return None
        if re.fullmatch("[0-9.]+", host):
            try:
                host = str(ipaddress.IPv4Address(host))
            except ValueError:
                return None
    return (host, int(said or port)) if int(said or port) < 65_536 else None


def _typed(name: str, type_: str, value: object, folder: Path) -> Any:
    unit = unit_of(name)
    if type_ == "bool":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _WORDS:
            return _WORDS[value.lower()]
        raise ValueError("true or false")
    if type_.startswith("tuple"):
        return _texts(value)
    if type_ == "Path":
        return folder / Path(_text(value)).expanduser()
    if type_ == "str":
        return _text(value)
    return _numeric(type_, unit, value)


def _numeric(type_: str, unit: str, value: object) -> int | float:
    if isinstance(value, bool):
        raise ValueError("a number")
    if isinstance(value, str):
        if unit == "bytes":
            return units.parse_size(value)
        if unit == "seconds":
            return units.parse_duration(value)
        try:
            return int(value) if type_ == "int" else float(value)
        except ValueError:
            raise ValueError("a whole number" if type_ == "int" else "a number") from None
    if isinstance(value, int) or (isinstance(value, float) and type_ == "float"):
        return float(value) if type_ == "float" else value
    raise ValueError("a whole number" if type_ == "int" else "a number")


def unit_of(name: str) -> str:
    """'bytes', 'seconds' or '' by the last words of a setting's name."""
    words = name.rpartition(".")[2].split("_")
    if "bytes" in words[-2:]:
        return "bytes"
    return "seconds" if "s" in words[-2:] else ""


def _text(value: object) -> str:
    if not isinstance(value, str | Path) or any(ord(c) < 32 for c in str(value)):
        raise ValueError("one line of text")
    return str(value)


def _texts(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("a list of texts")
    return tuple(text for item in items if (text := _text(item).strip()))


def _or_auto(declared: Declared) -> str:
    return "" if declared.auto is None else f" or {AUTO}"


def _number(name: str, value: float) -> str:
    unit = unit_of(name)
    if unit == "bytes":
        return units.show_size(int(value))
    return units.show_duration(value) if unit == "seconds" else f"{value:g}"


def _range(name: str, declared: Declared) -> str:
    if declared.least > -math.inf and declared.most < math.inf:
        return f"{_number(name, declared.least)} to {_number(name, declared.most)}"
    if declared.least > -math.inf:
        return f"at least {_number(name, declared.least)}"
    return f"at most {_number(name, declared.most)}"
