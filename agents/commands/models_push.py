"""`bin/agent models push` and `remove`: a folder with a model comes into the mesh under a name, and loses it again.

    look (nothing is loaded, no broker is asked) -> objects, put if absent -> manifest -> name, by compare-and-set

Sent again after whatever interrupted it, only what is missing travels. The name is written last: until then nothing
names the artifact. A push under a name of another model becomes that name's next version; the very same model changes
nothing. What may not travel (pickles, code) is said file by file. Removing a name forgets all of its versions; their
objects are collected with the garbage, once no topic names them.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

from agents.commands import flags, known_models, output, publishing, store_use
from agents.commands.reach import Reach, reach_stored
from agents.commands.transfer import Transfer
from executors.modelfolder import ModelFolder
from mesh import chunks, codec, limits
from mesh.errors import BusUnavailable, Conflict, EnvironmentUnfit, ModelRefused, NotFound, SettingsInvalid
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel, ModelFormat, PushedModel
from mesh.object_lists import OBJECTS_MAX
from planner.graph import slug
from planner.profile import form_of

TRIES = 5
"""Attempts to write the name while others write it too, or the broker is away for a moment."""

LEFT_OUT_SHOWN_MAX = 10
"""Files that stay behind and are named one by one."""


def look(folder: Path) -> ModelFolder:
    """What the folder holds. ModelRefused with a sentence."""
    from executors import modelfolder

    found = modelfolder.look(folder.expanduser())
    pieces = 0
    for name in found.files:
        path = folder.expanduser() / name
        pieces += len(chunks.cut(path, path.stat().st_size))
    if pieces > OBJECTS_MAX:
        raise ModelRefused(
            f"{str(folder)!r} has {output.size(found.size_bytes)}, and a model of this mesh may have some "
            f"{output.size(OBJECTS_MAX * limits.CHUNK_BYTES)}: push a smaller one, or one in fewer bits."
        )
    return found


async def push(given: argparse.Namespace, found: ModelFolder) -> int:
    """Store the folder and name it. DiskFull when the store is full, BusUnavailable, NotFound without a mesh."""
    folder = Path(given.name).expanduser()
    name = given.called or slug(folder.resolve().name)
    _tell_what_stays(found)
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        await _check_name(there, name)
        digest = await _store(there, folder, found)
        record, new = await _register(there, _record(name, digest, found))
    if given.json:
        left_out = [{"path": path, "why": why} for path, why in found.left_out]
        output.write_json(
            given.json, {"model": digest, "name": name, "new": new, "pushed": record, "left_out": left_out}
        )
    if given.json != "-":
        output.say(digest)
        output.note(_said(given, record, new))
    return 0


def _said(given: argparse.Namespace, record: PushedModel, new: bool) -> str:
    """What to do with it now."""
    head = f"{record.name} v{record.version_number}" + ("" if new else " (it was there already)")
    pulled = flags.again(given, "models", "pull", record.name, "DIR")
    if record.base.format is ModelFormat.TRANSFORMERS:
        used = flags.again(given, "publish", "TOPIC", "--data", "D", "--task", "lora", "--base", record.name)
        return f"{head}; a topic puts adapters on it with `{used}`, `{pulled}` takes it out."
    if not record.base.task:
        return (
            f"{head}: no executor kind trains from a {record.base.format.value} folder yet, "
            f"so it can not be a topic's base; take it out with `{pulled}`."
        )
    used = flags.again(given, "publish", "TOPIC", "--data", "D", "--base", record.name)
    return f"{head}; a topic starts from it with `{used}`, `{pulled}` takes it out."


def _tell_what_stays(found: ModelFolder) -> None:
    for path, why in found.left_out[:LEFT_OUT_SHOWN_MAX]:
        output.note(f"left out: {output.plain(path)} ({why})")
    if (more := len(found.left_out) - LEFT_OUT_SHOWN_MAX) > 0:
        output.note(f"left out: {more} files more; --json FILE lists them all")
    for note in found.notes:
        output.note(output.plain(f"note: {note}"))


# -- the artifact -----------------------------------------------------------------------------------------------------


async def _store(there: Reach, folder: Path, found: ModelFolder) -> str:
    """The artifact's digest. The same files under another name give the same one."""
    await store_use.check_home(there)
    facts = {"format": found.format.value, "architecture": found.architecture}
    with Transfer("sending") as transfer:
        return await there.store().put(folder, media="model", facts=facts, progress=transfer, only=found.files)


# -- the name ---------------------------------------------------------------------------------------------------------


def _record(name: str, digest: str, found: ModelFolder) -> PushedModel:
    """What is written under the name: its first version."""
    fits = ""
    if found.format is ModelFormat.RAMIFY:
        columns = hashlib.sha256("\n".join(found.columns).encode()).hexdigest()
        fits = form_of(found.modality, len(found.columns), columns)
    base = BaseModel(
        model=digest, name=name, format=found.format, task=found.task, fits=fits, labels=len(found.labels),
        label_names=found.label_names, settings=found.settings, license=found.license,
        size_bytes=found.size_bytes,
    )  # fmt: skip
    return PushedModel(
        name=name, version_number=1, base=base, architecture=found.architecture, parameters=found.parameters,
        files=len(found.files), adapts=found.adapts, pushed_by=publishing.publisher(),
        pushed_at_ms=int(time.time() * 1_000),
    )  # fmt: skip


async def remove(given: argparse.Namespace) -> int:
    """Forget a pushed model. NotFound when there is none of that name."""
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        models = await known_models.known(there)
        if given.name not in models.pushed:
            found = models.choose(given.name)
            what = "a champion" if isinstance(found, Champion) else f"the pushed model {found.name!r}"
            raise NotFound(f"{given.name!r} is no name of a pushed model ({what} is called so): nothing was removed.")
        bucket, key = there.subjects.bucket("models"), there.subjects.key("models", given.name)
        versions = await there.broker.purge(bucket, subject=key)
    if given.json:
        output.write_json(given.json, {"name": given.name, "versions": versions, "removed": models.pushed[given.name]})
    if given.json != "-":
        output.say(f"{given.name} is removed ({versions} version{'s' if versions != 1 else ''})")
    return 0


async def _check_name(there: Reach, name: str) -> None:
    """A pushed model and a specialization never share a name: `models pull NAME` would be a riddle."""
    try:
        for bucket in ("champions", "graph"):
            taken = await there.broker.last(there.subjects.bucket(bucket), there.subjects.key(bucket, name))
            if taken is not None:
                raise SettingsInvalid(f"{name!r} is a specialization of this mesh: give the model a --name of its own.")
        await there.broker.state(there.subjects.bucket("models"))
    except NotFound:
        raise NotFound(
            f"the broker at {there.where} keeps no pushed models for the mesh {there.subjects.prefix!r}: start a "
            "scheduler of this version there (`bin/agent up`), or check --server and --prefix."
        ) from None


async def _register(there: Reach, first: PushedModel) -> tuple[PushedModel, bool]:
    """(the record that stands under the name, is it new). A name of another model gets its next version."""
    bucket, key = there.subjects.bucket("models"), there.subjects.key("models", first.name)
    for tried in range(1, TRIES + 1):
        try:
            stored = await there.broker.last(bucket, key)
            current = codec.decode(stored.data, PushedModel) if stored is not None else None
            if current is not None and current.model == first.model:
                return current, current.pushed_at_ms == first.pushed_at_ms
            record = first.evolve(version_number=current.version_number + 1) if current is not None else first
            await there.broker.append(key, codec.encode(record), subject_seq=stored.seq if stored is not None else 0)
            return record, True
        except BusUnavailable:  # it may have been written: the next turn reads it
            if tried == TRIES:
                raise
        except Conflict:
            continue
    raise EnvironmentUnfit(f"the name {first.name!r} was written by others {TRIES} times meanwhile: push once more.")
