"""What `doctor` says of the artifact store: how full it is, what collecting would free, what was corrupt or missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from agents.commands import output
from agents.commands.reach import Reach
from mesh import codec
from mesh.errors import BusUnavailable, Malformed, NotFound, SettingsInvalid
from mesh.messages.collecting import StoreUse
from mesh.messages.services import Ask
from mesh.stores import StoreIdentity, home_of, unlike

ANSWER_S = 1.0
"""Patience with the leader."""

NEARLY_FULL = 0.9
"""Share of the limit from which on it is worth a word: rounds of collecting follow each other from 0.8."""


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """One line."""

    what: str
    state: str
    """'ok', 'note' or 'wrong'."""
    sentence: str


async def find(there: Reach) -> list[Said]:
    """What the leader knows of the store; nothing when none answers."""
    use = await _asked(there)
    if use is None:
        return []
    ours, identity = await _ours(there)
    return list(said(use, ours, identity))


async def check_home(there: Reach) -> None:
    """SettingsInvalid when this command would store where nobody of the mesh looks. Nothing when no leader answers."""
    use = await _asked(there)
    if use is not None and (differs := elsewhere(use, *await _ours(there))):
        raise SettingsInvalid(differs)


async def _ours(there: Reach) -> tuple[str, str]:
    """Where this command has its artifacts, and what that store says of itself."""
    return home_of(there.settings), await StoreIdentity(there.subjects, there.settings).look()


async def _asked(there: Reach) -> StoreUse | None:
    try:
        question = codec.encode(Ask(what="store"))
        subject = there.subjects.ask("scheduler", there.broker.name)
        answer = await there.broker.request(subject, question, timeout_s=ANSWER_S)
        return codec.decode(answer.data, StoreUse)
    except (NotFound, BusUnavailable, Malformed):  # no leader, or one of an older program
        return None


def elsewhere(use: StoreUse, ours: str, identity: str = "") -> str:
    """That this command has its artifacts elsewhere than the mesh, as a sentence, or ''."""
    if use.home in ("", ours):
        return unlike(use.identity, identity, "this command", ours)
    return (
        f"The artifacts of this mesh lie in {use.home}, this command has them in {ours}: give it the settings of "
        "section artifacts that the scheduler has."
    )


def said(use: StoreUse, ours: str, identity: str = "") -> Iterator[Said]:
    """The lines of an answer. ours: where this command has its artifacts; identity: what that store says of itself."""
    if differs := elsewhere(use, ours, identity):
        yield Said("artifacts", "wrong", differs)
    full = 0 < use.limit_bytes * NEARLY_FULL < use.size_bytes
    more = "raise broker.store_bytes_max" if use.home in ("", "the broker") else "give it room (artifacts.bytes_max)"
    advice = f"; nearly full: {more}, or remove models that nobody needs" if full else ""
    yield Said("store", "note" if full else "ok", f"{_filled(use)}; {_garbage(use)}{advice}")
    if use.missing:
        says = (
            f"{use.missing} artifacts of champions are named and not stored: roll back, or publish their topics again"
        )
        yield Said("store", "wrong", says)
    for row in use.corrupt:
        back = "it was stored again since" if row.back else "nobody has stored it again yet"
        says = f"{row.name[:18]}… was corrupt and was removed {output.age(row.age_s)} ago; {back}"
        yield Said("corrupt", "note" if row.back else "wrong", says)


def _filled(use: StoreUse) -> str:
    if use.size_bytes < 0:
        return f"{use.where or 'artifacts'} (it does not say how full it is)"
    limit = f" of {output.size(use.limit_bytes)}" if use.limit_bytes > 0 else ""
    return f"{output.size(use.size_bytes)}{limit} in {use.where}"


def _garbage(use: StoreUse) -> str:
    if use.looked_age_s < 0:
        return "what collecting would free is not known yet"
    size = f", about {output.size(use.garbage_bytes)}," if use.size_bytes >= 0 else ""
    counted = f"{use.garbage} of {use.objects + use.manifests} objects{size} were garbage"
    ago = output.age(use.looked_age_s)
    return f"{counted} {ago} ago, {use.removed} were removed so far; the collector {use.state}"
