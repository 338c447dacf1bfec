"""An artifact's files in a folder of a person's: whole or not at all, and never over what is there.

    store (what the local cache has is not fetched) -> copy beside the folder -> sync -> rename

A copy that was cut short leaves a hidden folder beside the target, which the next one into the same folder removes. A
folder that holds files is refused, or moved aside where the person asked for it; nothing is ever emptied.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import psutil

from agents.commands import output
from agents.commands.reach import Reach
from agents.commands.transfer import Transfer
from mesh.artifacts import Progress
from mesh.errors import DiskFull, EnvironmentUnfit

SPARE_BYTES = 16 * 1024 * 1024
"""Room for what is written beside the artifact's files and for the file system's own needs."""

More = Callable[[Path], Awaitable[dict[str, str]]]
"""From the folder with the artifact's files to texts that take the place of files or join them, by name."""

WhyNot = Callable[[Path], str]
"""Why a file is not copied; '' when it is."""


def _all(_: Path) -> str:
    """Nothing speaks against any file."""
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class TakenOut:
    """What was done beside the copying."""

    aside: Path | None
    """Where the folder's earlier content went, if it had any."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(path, why) of files that were not copied."""


def check_folder(target: Path, command: str, *, replace: bool | None = None) -> None:
    """EnvironmentUnfit unless `target` can become the folder: not there, empty, or to be moved aside. `command`: whose
    DIR it is; replace: None where the command can not move aside."""
    parent = target.resolve().parent
    if not parent.is_dir():
        raise EnvironmentUnfit(f"{command} expects DIR in an existing folder, and {str(target.parent)!r} is none.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EnvironmentUnfit(
            f"{str(target)!r} can not be made: the folder {str(parent)!r} is not writable; name another."
        )
    if target.is_dir() and Path.cwd().is_relative_to(target.resolve()):
        raise EnvironmentUnfit(
            f"{str(target)!r} is where this command runs, and would be put in place anew: name another."
        )
    if target.is_dir() and not target.is_symlink() and (replace or not any(target.iterdir())):
        return
    if target.exists() or target.is_symlink():
        what = "holds files already" if target.is_dir() else "is no folder"
        aside = target.is_dir() and replace is not None
        way = "name another, or move it aside with --replace" if aside else "name another"
        raise EnvironmentUnfit(f"{command} expects an empty or new DIR, and {str(target)!r} {what}: {way}.")


async def fetch(
    there: Reach, digest: str, target: Path, more: More | None = None, why_not: WhyNot = _all,
    below: Mapping[str, str] | None = None,
) -> TakenOut:  # fmt: skip
    """The artifact's files in `target`. below: folders in it, and the artifact whose files belong there.

    ArtifactMissing, DiskFull, EnvironmentUnfit, BusUnavailable.
    """
    store = there.store()
    digests = {"": digest, **(below or {})}
    size_bytes = sum([(await store.manifest(one)).size_bytes for one in digests.values()])
    free = shutil.disk_usage(target.resolve().parent).free
    if free < size_bytes + SPARE_BYTES:
        raise DiskFull(
            f"{output.size(size_bytes)} are needed for {str(target)!r} and {output.size(free)} are free: "
            "make some room, or name a folder on another disk."
        )
    with contextlib.ExitStack() as held:
        sources: dict[str, Path] = {}
        for folder, one in digests.items():
            held.enter_context(store.hold(one))
            with Transfer("fetching") as transfer:
                sources[folder] = await store.get(one, progress=transfer)
        texts = await more(sources[""]) if more is not None else {}
        with Transfer("writing") as transfer:
            try:
                files = await asyncio.to_thread(_sorted_out, sources, why_not)
                aside = await asyncio.to_thread(_put_in_place, sources, files, target, texts, size_bytes, transfer)
                return TakenOut(aside, tuple((name, why) for name, why in files.items() if why))
            except OSError as error:
                raise output.unwritten(repr(str(target)), error) from None


def _sorted_out(sources: Mapping[str, Path], why_not: WhyNot) -> dict[str, str]:
    """Every file of the artifacts, by the path that it gets, and why it is not copied."""
    found: dict[str, str] = {}
    for below, source in sources.items():
        files = sorted(path for path in source.rglob("*") if path.is_file())
        found |= {(Path(below) / path.relative_to(source)).as_posix(): why_not(path) for path in files}
    return found


def _put_in_place(
    sources: Mapping[str, Path], files: dict[str, str], target: Path, texts: dict[str, str], size_bytes: int,
    progress: Progress,
) -> Path | None:  # fmt: skip
    """Copy beside the target, sync, rename."""
    target = target.resolve()
    _sweep(target)
    temporary = target.parent / f".{target.name}.pull-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir()
        _copy(sources, [name for name, why in files.items() if not why], temporary, size_bytes, progress)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        _sync(temporary)
        aside = None
        if target.is_dir() and any(target.iterdir()):
            aside = _aside(target)
            target.rename(aside)
        elif target.is_dir():
            target.rmdir()
        try:
            temporary.rename(target)
        except OSError:
            if aside is not None:
                aside.rename(target)
            raise
        return aside
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(
    sources: Mapping[str, Path], files: list[str], folder: Path, size_bytes: int, progress: Progress
) -> None:  # fmt: skip
    """The cache's copies are read-only, these are not."""
    done = 0
    for name in files:
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        below = next((one for one in sources if one and Path(name).is_relative_to(one)), "")
        shutil.copyfile(sources[below] / Path(name).relative_to(below), copy)
        done += copy.stat().st_size
        progress(done, size_bytes)


def _sync(folder: Path) -> None:
    """On the disk before the name is: a power cut leaves no folder of empty files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _aside(target: Path) -> Path:
    """A free name beside `target`."""
    for number in range(1, 10_000):
        path = target.with_name(f"{target.name}.before" + (f"-{number}" if number > 1 else ""))
        if not path.exists() and not path.is_symlink():
            return path
    raise EnvironmentUnfit(f"there are thousands of {target.name}.before beside {str(target)!r}: remove some.")


def _sweep(target: Path) -> None:
    """Remove what killed pulls into this folder left half-made."""
    for path in target.parent.glob(f".{target.name}.pull-*"):
        pid = path.name.rpartition(".pull-")[2].partition("-")[0]
        if pid.isdigit() and int(pid) != os.getpid() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
