"""`bin/agent doctor`: checks this machine, the broker and the streams, each with a sentence about what to do.

Looks only: nothing is started, made or repaired. Heavy libraries are looked up, never imported.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.metadata
import sys
from collections.abc import Iterator

from agents.commands import flags, loop, losses, output, store_use
from agents.commands.asking import ask_if_any
from agents.commands.reach import Reach, found, reach
from mesh import platform, server, streams
from mesh.errors import BusUnavailable, EnvironmentUnfit, NotFound, RamifyError
from mesh.messages import object_names
from mesh.messages.services import Status
from mesh.setting_tree import Settings

EXAMPLE = "bin/agent doctor"

PYTHONS = ((3, 11), (3, 12), (3, 13))
"""Supported versions; the packages' lock is made for these."""

TORCH = "2.13.0"
"""The pinned version, without its local suffix."""

DISK_LEAST_BYTES = 2 << 30
"""Below this a topic of some size may not end: data, splits, checkpoints and models of one topic take this much."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    what: str
    state: str
    """'ok', 'note' (works, worth knowing) or 'wrong'."""
    says: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "the findings")


def run(given: argparse.Namespace) -> int:
    """0 when nothing is wrong, else 3."""
    output.check_target(given.json)
    return loop.run_simply(_run(given, flags.settings_of(given), flags.selected_of(given)))


async def _run(given: argparse.Namespace, settings: Settings, selected: Settings) -> int:
    findings = [*packages(), *kinds(), disk(settings), await program(settings), *await broker(settings, selected)]
    if given.json:
        output.write_json(given.json, {"findings": [dataclasses.asdict(one) for one in findings]})
    if given.json != "-":
        for one in findings:
            output.say(f"{one.state:<5}  {one.what:<14}  {output.plain(one.says)}")
    wrong = [one for one in findings if one.state == "wrong"]
    return EnvironmentUnfit.exit_code if wrong else 0


def packages() -> Iterator[Finding]:
    """Python and torch."""
    version = ".".join(map(str, sys.version_info[:3]))
    supported = sys.version_info[:2] in PYTHONS
    hint = "" if supported else ": install Python 3.11, 3.12 or 3.13 and remove .venv"
    yield Finding("python", "ok" if supported else "wrong", f"{version} at {sys.executable}{hint}")
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("torch", "wrong", "not installed, so this machine can train nothing: remove .venv and run again")
        return
    pinned = torch.partition("+")[0] == TORCH
    yield Finding("torch", "ok" if pinned else "note", torch if pinned else f"{torch}, tried with {TORCH}")


def kinds() -> Iterator[Finding]:
    """Executor kinds and what each lacks."""
    from executors import kinds as known

    for name, info in sorted(known.kind_infos().items()):
        origin = f"of {info.distribution} {info.release}" if info.distribution else "built in"
        if lacking := known.missing(info):
            says = f"lacks {', '.join(lacking)}: a worker here does not offer it; to mend it: {known.remedy(info)}"
            yield Finding(f"kind {name}", "note", f"{origin}, {says}" if info.distribution else says)
        else:
            yield Finding(f"kind {name}", "ok", f"version {info.version}, {origin}")


def disk(settings: Settings) -> Finding:
    """Room below the home folder, and may we write there."""
    free = platform.disk_free(settings.home)
    says = f"{output.size(free)} free at {settings.home}"
    if free < DISK_LEAST_BYTES:
        return Finding("disk", "wrong", f"{says}: at least {output.size(DISK_LEAST_BYTES)} are wanted; free some")
    return Finding("disk", "ok", says)


async def program(settings: Settings) -> Finding:
    """The nats-server program for the embedded broker."""
    try:
        path = server.find_program(settings.broker.binary)
        return Finding("nats-server", "ok", f"{await server.check_version(path)} at {path}")
    except RamifyError as error:
        return Finding("nats-server", "note" if settings.nats.named else "wrong", str(error))


async def broker(settings: Settings, selected: Settings) -> list[Finding]:
    """The broker, the leader and the streams; that nothing runs here is no fault."""
    try:
        wanted = await asyncio.to_thread(found, settings, selected)
    except BusUnavailable as error:
        return [Finding("broker", "note", str(error))]
    try:
        async with reach(wanted, name="doctor") as there:
            status = await ask_if_any(there, "status")
            leader = Finding("leader", "ok", status.leader) if status else Finding("leader", "note", "none answers")
            answers = Finding("broker", "ok", f"answers at {there.where}")
            store = [Finding(one.what, one.state, one.sentence) for one in await store_use.find(there)]
            homes = await artifacts(there)
            return [answers, leader, *await differences(there), *homes, *store, *await history(there, status)]
    except RamifyError as error:
        return [Finding("broker", "wrong", str(error))]


async def history(there: Reach, status: Status | None) -> list[Finding]:
    """What was lost with a broker's store that came back older; nothing where there is no mesh yet."""
    found = []
    if status is not None and status.generation > 1:
        times = "once" if status.generation == 2 else f"{status.generation - 1} times"
        says = f"the broker came back with an older store {times}, lastly at ledger entry {status.restored_from}"
        found.append(Finding("history", "note", says))
    with contextlib.suppress(NotFound):
        for loss in await losses.find(there, status):
            found.append(Finding(f"lost {loss.what}", "wrong" if loss.wrong else "note", loss.sentence))
    return found


async def artifacts(there: Reach) -> list[Finding]:
    """Where artifacts lie, if that is not the broker: does it answer, with these rights?"""
    if there.settings.artifacts.backend == "broker":
        return []
    backend = there.store().backend
    try:
        await backend.get(object_names.manifest("0" * 64))
    except RamifyError as error:
        return [Finding("artifacts", "wrong", str(error))]
    return [Finding("artifacts", "ok", f"{backend.where} answers")]


async def differences(there: Reach) -> list[Finding]:
    """How the streams differ from their declaration. The artifacts' size is left out: the scheduler derives it from the
    free disk of its own machine."""
    specs = streams.table(there.subjects, artifact_bytes_max=-1)
    unlike = [text for spec in specs for text in await there.broker.differences(spec)]
    unlike = [text for text in unlike if not text.startswith(f"{there.stream(streams.ARTIFACTS)}: max_bytes ")]
    if not unlike:
        return [Finding("streams", "ok", f"all {len(specs)} as declared")]
    return [Finding("stream", "note", f"{text}; the scheduler brings it about at its start") for text in unlike]
