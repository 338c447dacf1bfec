"""What `bin/agent task` was asked for, as a task: its kind and settings looked at before anything is started, its
inputs stored, what it takes estimated by the kind itself.

A folder with a model (config.json) is stored as `models push` does it: weights and texts, no pickles and no code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.commands import known_models, output, store_use, take_out
from agents.commands.commanding import command
from agents.commands.publishing import BUILTIN
from agents.commands.reach import Reach
from agents.commands.story import ALONE
from agents.commands.transfer import Transfer
from executors import kinds, modelfolder
from executors.kinds import KindInfo
from mesh.errors import ArtifactMissing, DataRefused, NotFound, SettingsInvalid, TaskRefused
from mesh.messages.base import DIGEST, Facts
from mesh.messages.commands import Submit
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Needs, TaskSpec

SCHEMA, CONFIG = "schema.json", "config.json"
SCHEMA_BYTES_MAX = 64 * 1024 * 1024

WALL_S_OVERHEAD = 600.0
"""Start, download, evaluation and upload beside the training budget, generously."""


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE` in two."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name.strip(), value.strip()


def cores(text: str) -> float:
    """A number of cores; fractions are allowed."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 4_096:
        raise argparse.ArgumentTypeError(f"expected a number of cores above 0, got {text!r}")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class Errands:
    """One task that is wanted."""

    info: KindInfo
    settings: Facts
    inputs: Mapping[str, str]
    given: argparse.Namespace

    @classmethod
    def of(cls, given: argparse.Namespace) -> Errands:
        """Read the options. SettingsInvalid for a kind or settings that can not be, DataRefused for a path that is not
        there: nothing is started for those."""
        info = kinds.kind_infos().get(given.executor)
        if info is None or info.problem:
            known = ", ".join(sorted(name for name, one in kinds.kind_infos().items() if not one.problem))
            why = f" ({info.problem})" if info is not None else ""
            raise SettingsInvalid(
                f"there is no executor kind {given.executor[:80]!r} here{why}; the kinds are: {known}."
            )
        found = _unique(given.set, "--set")
        settings = {name: _value(text) for name, text in found.items()}
        _check_settings(info, settings)
        inputs = _unique(given.input, "--input")
        for value in inputs.values():
            _check_input(value)
        try:
            kinds.check_inputs(kinds.declared(info), inputs)
        except TaskRefused as error:
            raise SettingsInvalid(f"{error}; give them with --input NAME=VALUE.") from None
        return cls(info, settings, inputs, given)

    async def spec(self, there: Reach, say: Callable[[str], None]) -> TaskSpec:
        """Store the inputs; the task. NotFound for a model that the mesh does not have, DataRefused, DiskFull."""
        await store_use.check_home(there)
        stored: dict[str, str] = {}
        sizes: dict[str, int] = {}
        facts: Facts = {}
        for name, value in self.inputs.items():
            if value.startswith(BUILTIN):
                stored[name] = value
                continue
            path = _path(value)
            stored[name] = await _put(there, value, path) if path.exists() else await _named(there, value)
            sizes[name] = (await there.store().manifest(stored[name])).size_bytes
            facts |= _facts(path)
            say(f"input {name}: {output.size(sizes[name])}, {stored[name][:12]}")
        data = sum(size for name, size in sizes.items() if not (_path(self.inputs[name]) / CONFIG).is_file())
        needs = self._needs({"bytes": data, "input_bytes": sizes, **facts})
        id_ = f"{self.info.name}-{secrets.token_hex(4)}"
        budget_s = self.given.budget
        return TaskSpec(
            id=id_, topic=id_, executor=self.info.name, executor_version=self.info.version, purpose=self.info.name,
            settings=self.settings, inputs=stored, needs=needs, priority=self.given.priority, budget_s=budget_s,
            wall_s_max=max(3_600.0, 2.0 * budget_s + WALL_S_OVERHEAD),
        )  # fmt: skip

    def _needs(self, facts: Mapping[str, Any]) -> Needs:
        """What the kind says, and in its place what the person says."""
        said = kinds.needs_of(self.info.name, self.settings, facts) or Needs()
        asked = said.evolve(cores=self.given.cores or said.cores, memory_bytes=self.given.memory or said.memory_bytes)
        if self.given.gpus is None and self.given.gpu_memory is None:
            return asked
        return asked.evolve(
            gpus=said.gpus if self.given.gpus is None else self.given.gpus,
            gpu_memory_bytes=said.gpu_memory_bytes if self.given.gpu_memory is None else self.given.gpu_memory,
            gpu_wish_bytes=0,
        )


def _unique(pairs: list[tuple[str, str]], option: str) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if [one for one, _ in pairs].count(name) > 1)
        raise SettingsInvalid(f"{option} names {twice!r} twice: which one is meant?")
    return found


def _value(text: str) -> Any:
    """JSON where it is some; a number that JSON does not know (NaN) stays a text, which the kind refuses."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def _check_settings(info: KindInfo, settings: Facts) -> None:
    try:
        msgspec.convert(settings, kinds.declared(info).Settings)
    except ValueError as error:
        raise SettingsInvalid(
            f"{info.name} can not be set so: {str(error).rstrip('.')}; docs/executors says more."
        ) from None


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _check_input(value: str) -> None:
    """What is written like a path has to be there; anything else may be a name in the mesh."""
    written = "/" in value or value.startswith((".", "~"))
    if not value.startswith(BUILTIN) and written and not _path(value).exists():
        raise DataRefused(f"there is no file or folder {value!r} here; check the path.")


async def _put(there: Reach, value: str, path: Path) -> str:
    """The digest of a file or folder of this machine."""
    media, only = "dataset", None
    if (path / CONFIG).is_file() or (path / "adapter_config.json").is_file():
        media, only = "model", modelfolder.look(path).files
    elif (path / SCHEMA).is_file():
        media = "split"
    try:
        with Transfer(f"sending {path.name}") as transfer:
            return await there.store().put(
                path.resolve(), media=media, facts={"name": path.name}, progress=transfer, only=only
            )
    except OSError as error:
        raise DataRefused(f"{value!r} can not be read ({error.strerror or error}): check its permissions.") from None


async def _named(there: Reach, value: str) -> str:
    """The digest of something that the mesh has. NotFound with what would be one."""
    if DIGEST.match(value):
        try:
            await there.store().manifest(value)
        except ArtifactMissing:
            raise NotFound(f"no artifact {value[:12]} is stored; name a file, a folder or a model.") from None
        return value
    try:
        _, found = await known_models.find(there, value)
    except NotFound as error:
        raise NotFound(f"{value!r} is no file or folder here, and {error}") from None
    await known_models.check_there(there, found.model)
    return found.model


def _facts(path: Path) -> Facts:
    """What a split says of its form, for the estimate of what the task takes."""
    schema = path / SCHEMA
    try:
        if schema.stat().st_size > SCHEMA_BYTES_MAX:
            return {}
        found = json.loads(schema.read_bytes())
        counted = {name: len(found[name]) for name in ("labels", "features") if name in found}
        return {"modality": str(found["modality"]), **counted}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


async def submit(there: Reach, task: TaskSpec) -> None:
    """Put a task that no plan belongs to, under an id of its own: repeated, it changes nothing."""
    await command(there, Submit(id=task.id, topic=task.topic, tasks=(task,), facts={"stage": ALONE}), task.id)


async def taken_out(there: Reach, end: TaskEnded, folder: Path) -> dict[str, str]:
    """Every output of a task that succeeded, in a folder of its own; where each is."""
    assert end.outcome is not None
    folder.mkdir(exist_ok=True)
    made = {}
    for name, digest in sorted(end.outcome.outputs.items()):
        await take_out.fetch(there, digest, folder / name)
        made[name] = str((folder / name).resolve())
    return made
