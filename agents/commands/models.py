"""`bin/agent models`: the champions; `models pull NAME DIR` takes one out of the mesh as files."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agents.commands import flags, loop, output
from agents.commands.reach import Reach, reach_stored
from agents.commands.stored import bucket
from mesh.errors import EnvironmentUnfit, NotFound
from mesh.messages.judgement import Champion

EXAMPLE = """bin/agent models
bin/agent models pull handwritten-digits-3fa1c2 ./digits-model"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`pull` with a name and a folder, or nothing."""
    parser.add_argument("action", nargs="?", choices=["pull"], help="pull: write the champion's files into a folder")
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="specialization, or the first digits of a model's digest"
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", help="a folder that is empty or not there yet")
    flags.add_json(parser, "the champions, or what was pulled,")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 when no mesh runs here and none ever did, 6 for an unknown model, 3 for a folder of no use."""
    output.check_target(given.json)
    if given.action == "pull":
        if not given.name or not given.folder:
            raise NotFound("models pull expects a NAME and a DIR; `bin/agent models` lists the names.")
        check_folder(Path(given.folder))
    return loop.run_simply(_pull(given) if given.action == "pull" else _list(given))


async def _list(given: argparse.Namespace) -> int:
    async with _stored(given) as there:
        champions = await bucket(there, "champions", Champion)
    if given.json:
        output.write_json(given.json, {"models": [champions[id_] for id_ in sorted(champions)]})
    if given.json != "-":
        output.say(picture(champions))
    return 0


def picture(champions: Mapping[str, Champion]) -> str:
    """One row per champion."""
    if not champions:
        return "no champion yet."
    rows = [
        (
            id_,
            one.version_number,
            one.line.value,
            one.kpis.get("accuracy"),
            one.kpis.get("loss"),
            output.size(one.kpis["size_bytes"]) if "size_bytes" in one.kpis else None,
            one.model[:12],
            one.topic,
        )
        for id_, one in sorted(champions.items())
    ]
    return output.table(("specialization", "version", "line", "accuracy", "loss", "size", "model", "topic"), rows)


def _stored(given: argparse.Namespace) -> AbstractAsyncContextManager[Reach]:
    return reach_stored(flags.settings_of(given), flags.selected_of(given))


async def _pull(given: argparse.Namespace) -> int:
    target = Path(given.folder)
    async with _stored(given) as there:
        champion = choose(await bucket(there, "champions", Champion), given.name)
        await pull(there, champion.model, target)
    if given.json:
        output.write_json(given.json, {"model": champion.model, "specialization": champion.specialization,
                                       "folder": str(target.resolve()), "champion": champion})  # fmt: skip
    if given.json != "-":
        output.say(f"{champion.specialization} v{champion.version_number} ({champion.model[:12]}) is in {target}")
    return 0


def choose(champions: Mapping[str, Champion], name: str) -> Champion:
    """The champion of that specialization, or the one whose model's digest begins so. NotFound with near names."""
    if name in champions:
        return champions[name]
    if len(name) >= 6 and (by_digest := [one for one in champions.values() if one.model.startswith(name)]):
        return by_digest[0]
    import difflib

    near = difflib.get_close_matches(name, champions, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise NotFound(f"no champion is called {name!r}; {hint}`bin/agent models` lists them.")


def check_folder(target: Path) -> None:
    """EnvironmentUnfit unless `target` is not there or an empty folder."""
    if not target.parent.is_dir():
        raise EnvironmentUnfit(f"models pull expects DIR in an existing folder, and {str(target.parent)!r} is none.")
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        what = "holds files already" if target.is_dir() else "is no folder"
        raise EnvironmentUnfit(f"models pull expects an empty or new DIR, and {str(target)!r} {what}: name another.")


async def pull(there: Reach, digest: str, target: Path) -> None:
    """The artifact's files in `target`, all or none: copied beside it, then renamed."""
    source = await there.store().get(digest)
    try:
        await asyncio.to_thread(_copy, source, target)
    except OSError as error:
        raise output.unwritten(repr(str(target)), error) from None


def _copy(source: Path, target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        inner = temporary / "files"
        inner.mkdir(0o755)
        for path in sorted(source.rglob("*")):  # parents first; the cache's copies are read-only, these are not
            copy = inner / path.relative_to(source)
            if path.is_dir():
                copy.mkdir(0o755)
            else:
                shutil.copyfile(path, copy)
        if target.is_dir():
            target.rmdir()  # empty, or this fails and nothing has changed
        inner.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
