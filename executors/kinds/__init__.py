"""The kinds that this installation knows, readable without importing any of them.

Built-in kinds stand in the table below; an installed package adds one with an entry point in the group `ramify.kinds`,
whose name is the kind's name and whose object is the kind's class, or the module that holds it. Such a module is
imported to read its version and runtime (by the port's rule it imports nothing heavy); one that can not be imported is
listed with the reason, never silently left out. A built-in kind can not be replaced.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, cast

import msgspec

from executors import mending
from executors.port import Inputs, Kind, Runtime
from mesh.errors import TaskRefused
from mesh.messages.tasks import Needs

GROUP = "ramify.kinds"

_SCIENCE = ("numpy", "pyarrow", "safetensors", "sklearn")
_TORCH = ("numpy", "safetensors", "torch")
_TRANSFORMERS = (*_TORCH, "transformers", "tokenizers", "peft")


@dataclasses.dataclass(frozen=True, slots=True)
class KindInfo:
    """Where a kind is and what it takes to run it."""

    name: str
    module: str
    attribute: str
    """The class (or instance) in that module."""
    version: int
    runtime: Runtime
    requires: tuple[str, ...] = ()
    """Top-level packages that have to be installed."""
    problem: str = ""
    """Why an installed kind can not be used; '' when it can."""
    distribution: str = ""
    """The installed package that offers the kind; '' for the built-in ones."""
    release: str = ""
    """That package's own version."""


_BUILT_IN = (
    KindInfo("noop", "executors.kinds.noop", "Noop", 1, Runtime.LIGHT),
    KindInfo("profile", "executors.kinds.profile", "Profile", 1, Runtime.SCIENCE, _SCIENCE),
    KindInfo("branch", "executors.kinds.branch", "Branch", 1, Runtime.SCIENCE, _SCIENCE),
    KindInfo("baseline", "executors.kinds.baseline", "Baseline", 1, Runtime.SCIENCE, _SCIENCE),
    KindInfo("classify", "executors.kinds.classify", "Classify", 1, Runtime.TORCH, _TORCH),
    KindInfo("lora", "executors.kinds.lora", "Lora", 1, Runtime.TORCH, _TRANSFORMERS),
    KindInfo(
        "language-model",
        "executors.kinds.language_model",
        "LanguageModel",
        1,
        Runtime.TORCH,
        (*_TORCH, "pyarrow", "tokenizers"),
    ),
    KindInfo(
        "contrastive",
        "executors.kinds.contrastive",
        "Contrastive",
        1,
        Runtime.TORCH,
        (*_TORCH, "pyarrow", "sklearn", "bm25s"),
    ),
    KindInfo("merge", "executors.kinds.merge", "Merge", 1, Runtime.TORCH, _TORCH),
    KindInfo("tree", "executors.kinds.tree", "Tree", 1, Runtime.TORCH, _TORCH),
    KindInfo("answer", "executors.kinds.answer", "Answer", 1, Runtime.TORCH, _TORCH),
    KindInfo("embed", "executors.kinds.embed", "Embed", 1, Runtime.TORCH, _TRANSFORMERS),
    KindInfo("evaluate", "executors.kinds.evaluate", "Evaluate", 1, Runtime.TORCH, _TORCH),
    KindInfo("quantize", "executors.kinds.quantize", "Quantize", 1, Runtime.TORCH, _TORCH),
    KindInfo("index", "executors.kinds.index", "Index", 1, Runtime.TORCH, (*_TORCH, "faiss")),
    KindInfo("search-step", "executors.kinds.search_step", "SearchStep", 1, Runtime.TORCH, (*_TORCH, "optuna")),
    KindInfo("replay", "executors.kinds.replay", "Replay", 1, Runtime.TORCH, _TORCH),
    KindInfo("gradcheck", "executors.kinds.gradcheck", "Gradcheck", 1, Runtime.TORCH, _TORCH),
)


@functools.cache
def kind_infos() -> dict[str, KindInfo]:
    """Every kind by name: the built-in ones, then those of installed packages."""
    found = {info.name: info for info in _BUILT_IN}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if entry.name not in found:
            found[entry.name] = _installed(entry)
    return found


def load(name: str) -> Kind:
    """An instance of the kind `name`; TaskRefused when there is none or it can not be used here."""
    info = kind_infos().get(name)
    if info is None:
        raise TaskRefused(f"there is no executor kind {name[:80]!r}: this worker has {', '.join(sorted(kind_infos()))}")
    if lacking := missing(info):
        raise TaskRefused(
            f"the kind {name!r} can not run here, it lacks {', '.join(lacking)}; on this machine: `{remedy(info)}`"
        )
    return declared(info)


def declared(info: KindInfo) -> Kind:
    """The kind's declaration (settings, needs), whether or not it could run here: its module imports nothing heavy."""
    value: Any = getattr(importlib.import_module(info.module), info.attribute)
    return cast(Kind, value() if isinstance(value, type) else value)


def needs_of(name: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Needs | None:
    """What a task of the kind `name` takes with these settings on data of these facts, by its own word. None when it is
    not installed here, or refuses the settings: then its worker says why."""
    info = kind_infos().get(name)
    if info is None or info.problem:
        return None
    kind = declared(info)
    try:
        return kind.needs(msgspec.convert(dict(settings), kind.Settings), facts)
    except Exception:  # settings that it refuses, or foreign code that can not tell
        return None


def check_inputs(kind: Kind, given: Collection[str]) -> None:
    """TaskRefused when an input is lacking, or one is given that the kind does not read. One of another distribution
    that does not say what it reads takes any."""
    reads: Inputs | None = getattr(kind, "inputs", None)
    if reads is not None:
        reads.check(kind.name, given)


def missing(info: KindInfo) -> list[str]:
    """What the kind lacks on this machine: packages that are not installed, or the reason why it can not be read."""
    lacking = [name for name in info.requires if importlib.util.find_spec(name) is None]
    return [*lacking, info.problem] if info.problem else lacking


def remedy(info: KindInfo) -> str:
    """The command that brings what the kind lacks on this machine; '' when it lacks nothing."""
    if not missing(info):
        return ""
    lacking = [name for name in info.requires if importlib.util.find_spec(name) is None]
    return mending.command(lacking, distribution=info.distribution, problem=info.problem)


def _installed(entry: EntryPoint) -> KindInfo:
    """What an entry point offers, and who offers it."""
    info = _offered(entry)
    if entry.dist is None:
        return info
    return dataclasses.replace(info, distribution=entry.dist.name, release=entry.dist.version)


def _offered(entry: EntryPoint) -> KindInfo:
    module, attribute = entry.module, entry.attr
    try:
        value = entry.load()
        if isinstance(value, ModuleType):
            attribute = _kind_in(value, entry.name)
            value = getattr(value, attribute)
        requires = tuple(str(name) for name in getattr(value, "requires", ()))
        if value.name != entry.name:
            raise ValueError(f"the entry point {entry.name!r} offers a kind called {value.name!r}")
        return KindInfo(entry.name, module, attribute, int(value.version), Runtime(value.runtime), requires)
    except Exception as error:  # foreign code: whatever it raises is the reason, and the agent lives on
        reason = f"{type(error).__name__}: {error}"[:300]
        return KindInfo(entry.name, module, attribute, 0, Runtime.LIGHT, problem=reason)


def _kind_in(module: ModuleType, name: str) -> str:
    """The attribute of `module` that is the kind `name`."""
    for attribute, value in vars(module).items():
        if getattr(value, "name", None) == name and callable(getattr(value, "run", None)):
            return attribute
    raise ValueError(f"the module {module.__name__!r} holds no kind called {name!r}")
