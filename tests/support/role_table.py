"""The table of roles in docs/security.md, from the code: what each role writes, reads and hears, and where."""

from __future__ import annotations

import re

from mesh.identity import GUESTS, Permissions, Role, permissions
from mesh.subjects import Subjects

NAME = "ada"
_API = re.compile(r"\$JS\.API\.(DIRECT\.GET|STREAM\.[A-Z]+|CONSUMER\.[A-Z.]+)(?:\.(\w+))?(.*)")


def table() -> str:
    """Rows for every role, with `NAME` in place of an identity's name."""
    rows = ["| role | account | writes | reads | hears |", "|---|---|---|---|---|"]
    for role in Role:
        permitted = permissions(role, NAME, Subjects("mesh"))
        account = "its own" if role in GUESTS else "the mesh's"
        hears = [one for one in permitted.subscribe if not one.startswith("$SRV.")]
        rows.append(
            f"| {role} | {account} | {_cell(_writes(permitted))} | {_cell(_reads(permitted))} | {_cell(hears)} |"
        )
    return "\n".join(rows)


def _writes(permitted: Permissions) -> list[str]:
    found = [one for one in permitted.publish if not one.startswith(("$JS.API.", "$JS.ACK."))]
    verbs: dict[str, list[str]] = {}
    for one in permitted.publish:
        match = _API.fullmatch(one)
        if match and match[1] in ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.PURGE"):
            verbs.setdefault(match[1].removeprefix("STREAM."), []).append(match[2])
    whole = len(verbs.get("CREATE", []))
    return found + [
        f"{verb} of {'every stream' if len(names) == whole else ', '.join(names)}" for verb, names in verbs.items()
    ]


def _reads(permitted: Permissions) -> list[str]:
    """Whole streams, then what is read by its name or directly only."""
    direct = [match for one in permitted.publish if (match := _API.fullmatch(one)) and match[1] == "DIRECT.GET"]
    whole = [match[2] for match in direct if match[3] == ".>"]
    if len(whole) == len(_every()):
        return ["every stream"]
    return whole + [f"{match[2]} {match[3].lstrip('.') or 'directly'}" for match in direct if match[2] not in whole]


def _every() -> list[str]:
    return [one for one in permissions(Role.SCHEDULER, NAME, Subjects("mesh")).publish if ".STREAM.INFO." in one]


def _cell(parts: list[str]) -> str:
    return " ".join(f"`{part.replace(NAME, 'NAME')}`" for part in parts) or "nothing"
