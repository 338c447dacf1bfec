"""A finished result that is not yet in the mesh: written down beside its outputs, so that a restart does not lose it.

    <scratch>/<task>.<epoch>/            where the child worked
    <scratch>/<task>.<epoch>/finished    written (synced, renamed) when the child has said that it is done

Delivering it uploads the outputs and puts the result into the outbox; only then is the folder removed. The next life on
the same worker folder delivers what this one could not, under the incarnation that earned it. Folders without this file
belong to attempts that died, and are removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from agents.patience import patiently
from mesh import codec, limits
from mesh.artifacts import ArtifactStore
from mesh.cache import remove_folder
from mesh.errors import Malformed
from mesh.messages.base import Facts, Key
from mesh.messages.commands import ResultFound
from mesh.messages.tasks import Outcome
from mesh.platform import write_private

NAME = "finished"


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """A finished task, with its outputs as paths relative to its folder."""

    key: Key
    incarnation: str
    outputs: dict[str, str]
    media: dict[str, str]
    facts_of: dict[str, Facts]
    outcome: Outcome
    """Without the outputs' digests, which are not known yet."""


def save(folder: Path, spooled: Spooled) -> None:
    """Write it down; on disk when this returns."""
    write_private(folder / NAME, codec.pack(msgspec.to_builtins(spooled)))


def load(folder: Path) -> Spooled | None:
    """What is written in a folder; None when nothing valid is."""
    try:
        body = codec.unpack((folder / NAME).read_bytes(), bytes_max=limits.FRAME_BYTES_MAX)
        return msgspec.convert(body, Spooled)
    except (OSError, Malformed, msgspec.ValidationError, ValueError):
        return None


def left_over(scratch: Path) -> list[tuple[Path, Spooled]]:
    """Finished results of earlier lives; everything else below `scratch` is removed."""
    found = []
    for folder in sorted(path for path in scratch.iterdir() if path.is_dir()):
        spooled = load(folder)
        if spooled is None:
            remove_folder(folder)
        else:
            found.append((folder, spooled))
    return found


async def deliver(
    folder: Path,
    spooled: Spooled,
    store: ArtifactStore,
    owe: Callable[[ResultFound], Awaitable[None]],
    say: Callable[[str], None],
) -> None:
    """Upload the outputs, owe the result, remove the folder. Waits as long as the broker is away or full."""
    outputs = {}
    for name, path in sorted(spooled.outputs.items()):
        outputs[name] = await patiently(
            lambda name=name, path=path: store.put(  # type: ignore[misc]
                folder / path, media=spooled.media.get(name, "bytes"), facts=spooled.facts_of.get(name), keep=True
            ),
            f"output {name} of {spooled.key.task}",
            say,
        )
    outcome = msgspec.structs.replace(spooled.outcome, outputs=outputs)
    await owe(ResultFound(key=spooled.key, incarnation=spooled.incarnation, outcome=outcome))
    await asyncio.to_thread(remove_folder, folder)
