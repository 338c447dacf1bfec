"""`bin/agent models rollback` and `models lineage`: a champion's versions, and going back to an earlier one.

Going back writes the next version with the earlier one's model, by compare-and-set on the record that was read, with
the person's reason. What was counted stays counted: going back makes no holdout fresh. Rounds that are under way
compare with the champion of then, which is this one; a verdict about the champion before is rejected, because the
record moved.
"""

from __future__ import annotations

import argparse
import datetime as dt
import time
from collections.abc import Sequence

from agents.commands import flags, known_models, output, publishing
from agents.commands.reach import Reach, reach_stored
from agents.commands.stored import read_all
from consensus.champions import rolled_back, version_of, version_to_go_back_to
from mesh import codec
from mesh.errors import Conflict, EnvironmentUnfit, NotFound
from mesh.messages.judgement import Champion, Version


async def rollback(given: argparse.Namespace) -> int:
    """Make an earlier version's model champion again. NotFound, ArtifactMissing; EnvironmentUnfit when somebody else
    wrote the champion meanwhile."""
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        records, revision = await _records(there, given.name)
        current, target = records[-1], version_to_go_back_to(records, given.to)
        if target is None:
            raise NotFound(_no_version(given.name, records, given.to))
        if target.model == current.model:
            raise NotFound(f"version {target.version_number} of {given.name} is the model that is champion now.")
        await known_models.check_there(there, target.model)
        reason = given.reason or f"rolled back by {publishing.publisher()}"
        record = rolled_back(current, target, reason=reason, at_ms=int(time.time() * 1_000))
        await _write(there, record, revision)
    if given.json:
        output.write_json(given.json, {"champion": record, "before": current, "back_to": target.version_number})
    if given.json != "-":
        output.say(
            f"{given.name}: version {record.version_number} is champion, with the model of version "
            f"{target.version_number} ({record.model[:12]}); before it {current.model[:12]}. {output.plain(reason)}"
        )
    return 0


async def lineage(given: argparse.Namespace) -> int:
    """Show every version: what was changed, what it brought. NotFound."""
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        records, _ = await _records(there, given.name)
    versions = versions_of(records[-1])
    if given.json:
        output.write_json(given.json, {"specialization": given.name, "champion": records[-1], "lineage": versions})
    if given.json != "-":
        output.say(picture(versions))
        output.say(uses(records[-1]))
    return 0


def versions_of(champion: Champion) -> list[Version]:
    """Every version that is remembered, the champion's own last."""
    return [*champion.lineage, version_of(champion)]


def picture(versions: Sequence[Version]) -> str:
    """One row per version."""
    rows = [
        (
            one.version_number,
            one.line.value,
            one.event,
            f"{one.effect:+.4f} {one.metric}" if one.metric else None,
            f"[{one.interval[0]:+.4f}, {one.interval[1]:+.4f}]" if one.metric else None,
            one.model,
            dt.datetime.fromtimestamp(one.at_ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M"),
            one.verdict,
            one.reason or one.changed or None,
        )
        for one in versions
    ]
    headers = ("version", "line", "how", "effect", "interval", "model", "when", "verdict", "what changed")
    return output.table(headers, rows)


def uses(champion: Champion) -> str:
    """How tired its splits are, and the flat model of a tree."""
    told = (
        f"challengers compared on its holdout: {champion.holdout_uses}; looks at the audit split, one for each "
        f"promotion over a champion: {champion.audit_looks}"
    )
    return f"{told}; its flat model is {champion.flat[:12]}" if champion.flat else told


async def _records(there: Reach, name: str) -> tuple[list[Champion], int]:
    """A champion's records that are remembered, oldest first, and the revision of the newest. NotFound."""
    stored = await read_all(there, there.subjects.bucket("champions"), there.subjects.key("champions", name))
    if not stored or not stored[-1].data:
        (await known_models.known(there)).choose(name)  # says what is near, or that the node has none yet
        raise NotFound(f"{name!r} is no specialization with a champion: only champions have a lineage.")
    return [codec.decode(one.data, Champion) for one in stored if one.data], stored[-1].seq


async def _write(there: Reach, record: Champion, revision: int) -> None:
    key = there.subjects.key("champions", record.specialization)
    try:
        await there.broker.append(key, codec.encode(record), subject_seq=revision)
    except Conflict:
        raise EnvironmentUnfit(
            f"the champion of {record.specialization} was written by somebody else meanwhile: nothing was changed; "
            "look at `bin/agent models lineage` and decide again."
        ) from None


def _no_version(name: str, records: Sequence[Champion], wanted: int | None) -> str:
    known = sorted({one.version_number for one in records})
    if wanted is None:
        return f"{name} has no earlier version with another model: there is nothing to go back to."
    return f"{name} has no version {wanted} whose record is kept; these are: {', '.join(map(str, known))}."
