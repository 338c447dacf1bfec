"""`bin/agent models pull`: a model leaves the mesh as files that other programs load.

A pushed model comes out byte for byte as it went in. A champion gets a card (README.md) that says what the mesh knows
of it today; its other files are the artifact's. How they reach the folder is told in take_out.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from agents.commands import flags, known_models, output, take_out
from agents.commands.known_models import Models
from agents.commands.reach import Reach, reach_stored
from agents.commands.stored import records
from agents.commands.take_out import TakenOut
from mesh import codec
from mesh.errors import Malformed, NotFound
from mesh.messages.judgement import Champion, Verdict
from mesh.messages.models import PushedModel
from mesh.messages.topics import Topic

CARD, CONFIG = "README.md", "config.json"

BASE_FOLDER = "base"
"""Where a champion that is an adapter has the model that it adapts: without it the adapter is none."""


async def pull(given: argparse.Namespace) -> int:
    """Write the model into the folder. NotFound, ArtifactMissing, DiskFull, EnvironmentUnfit, BusUnavailable."""
    target = Path(given.folder)
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        models, found = await known_models.find(there, given.name)
        base = known_models.adapted_by(found)
        for digest in filter(None, (found.model, base)):
            await known_models.check_there(there, digest)
        taken = await _fetched(there, models, found, target)
    name, version = _title(found)
    aside = str(taken.aside) if taken.aside is not None else None
    left_out = [{"path": path, "why": why} for path, why in taken.left_out]
    if given.json:
        document = {"model": found.model, "folder": str(target.resolve()), "version": version, "name": name}
        kind = "champion" if isinstance(found, Champion) else "pushed"
        more = {"specialization": name} if isinstance(found, Champion) else {}
        more |= {"base": base, "base_folder": str((target / BASE_FOLDER).resolve())} if base else {}
        output.write_json(given.json, {**document, **more, kind: found, "moved_aside": aside, "left_out": left_out})
    if given.json != "-":
        below = f", what it adapts ({base[:12]}) in {target / BASE_FOLDER}" if base else ""
        output.say(f"{name} v{version} ({found.model[:12]}) is in {target}{below}")
    for path, why in taken.left_out:
        output.note(f"left out: {output.plain(path)} ({why}); no program that writes models by the rules puts it there")
    if aside is not None:
        output.note(f"what {target} held before is in {aside}")
    return 0


def _title(found: Champion | PushedModel) -> tuple[str, int]:
    name = found.specialization if isinstance(found, Champion) else found.name
    return name, found.version_number


async def _fetched(there: Reach, models: Models, found: Champion | PushedModel, target: Path) -> TakenOut:
    """The model's files in `target`, without pickles and code: whoever may write artifacts may have written some."""
    from executors.modelfolder import danger

    manifest = await there.store().manifest(found.model)
    if manifest.media != "model":
        raise NotFound(f"the artifact {found.model[:12]} is a {manifest.media}, where a model was expected.")
    if isinstance(found, PushedModel):
        return await take_out.fetch(there, found.model, target, why_not=danger)

    async def card(source: Path) -> dict[str, str]:
        return {CARD: await _card(there, models, found, source)}

    below = {BASE_FOLDER: found.base} if found.base else {}
    return await take_out.fetch(there, found.model, target, card, danger, below)


# -- the card ---------------------------------------------------------------------------------------------------------


async def _card(there: Reach, models: Models, champion: Champion, source: Path) -> str:
    """What the mesh knows of a champion, as its card."""
    from executors.championcard import Told, champion_card

    topic = await _topic(there, champion)
    verdict = await _verdict(there, champion)
    node = models.nodes.get(champion.specialization)
    told = Told(
        specialization=champion.specialization,
        digest=champion.model,
        version_number=champion.version_number,
        line=champion.line.value,
        name=champion.name,
        changed=champion.changed,
        topic=champion.topic,
        text=topic.text if topic is not None else "",
        data=topic.data.name if topic is not None and topic.data is not None else (node.data_name if node else ""),
        kpis=champion.kpis,
        holdout=champion.holdout,
        holdout_examples=verdict.recommendation.holdout_examples if verdict is not None else 0,
        holdout_uses=champion.holdout_uses,
        why=verdict.why if verdict is not None else "",
        evidence=_evidence(verdict, champion),
        base=f"{topic.base.name} ({topic.base.model[:12]})" if topic is not None and topic.base is not None else "",
        license=topic.base.license if topic is not None and topic.base is not None else "",
        lineage=await _lineage(there, champion),
        below=BASE_FOLDER if champion.base else "",
    )
    config, stored = await asyncio.to_thread(_beside, source)
    return champion_card(config, told, stored)


def _beside(source: Path) -> tuple[dict[str, Any] | None, str]:
    """(the "ramify" part of config.json or None, the card that lies there or '')."""
    card = source / CARD
    stored = card.read_text("utf-8", "replace") if card.is_file() else ""
    try:
        found = json.loads((source / CONFIG).read_bytes())["ramify"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, stored
    whole = isinstance(found, dict) and {"kind", "architecture", "modality", "labels"} <= found.keys()
    return (found if whole else None), stored


async def _topic(there: Reach, champion: Champion) -> Topic | None:
    """The topic that made it champion, while it is stored."""
    try:
        stored = await there.broker.last(there.stream("TOPICS"), there.subjects.topic(champion.topic))
        return codec.decode(stored.data, Topic) if stored is not None else None
    except (NotFound, Malformed, ValueError):
        return None


async def _verdict(there: Reach, champion: Champion) -> Verdict | None:
    """The verdict that made it champion, while the results of its topic are kept."""
    try:
        subject = there.subjects.result(champion.topic, Verdict.kind, champion.verdict)
        stored = await there.broker.last(there.stream("RESULTS"), subject)
        return codec.decode(stored.data, Verdict) if stored is not None else None
    except (NotFound, Malformed, ValueError):
        return None


def _evidence(verdict: Verdict | None, champion: Champion) -> str:
    """How much of the champion's claims was reproduced, in a sentence."""
    candidates = verdict.recommendation.candidates if verdict is not None else ()
    found = next((one.evidence for one in candidates if one.model == champion.model), None)
    if found is None:
        return ""
    who = "another worker" if found.independent else "a second process of the same worker"
    return (
        f"Of {found.claims:,} outcomes that training claimed on validation, {who} reproduced {found.reproduced:,} "
        f"({found.rate:.1%}; at least {found.lower:.1%} with 95 % confidence)."
    )


async def _lineage(there: Reach, champion: Champion) -> list[Any]:
    """Earlier versions, newest first."""
    from executors.championcard import Ancestor

    subject = there.subjects.key("champions", champion.specialization)
    history = await records(there, there.subjects.bucket("champions"), subject, Champion)
    before = {one.version_number: one for one in history if one.version_number < champion.version_number}
    return [
        Ancestor(one.version_number, one.model, one.line.value, one.changed)
        for _, one in sorted(before.items(), reverse=True)
    ]
