"""What was published from this home folder lately, in case the broker comes back with an older store that lost it.

    <home>/published/<prefix>/<topic>    the topic's record, and where its data were read

Kept for `scheduler.receipt_keep_s` (a day), KEPT_MAX at most. A topic that TOPICS lacks within that time is lost, as
the stream keeps topics longer. Publishing it again puts its data from where they were read, if they are what they were,
and then the same record under the same id: what workers had finished for it is recorded, and not done a second time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from agents.commands.reach import Reach
from mesh import codec, limits
from mesh.errors import Conflict, DataRefused, Malformed
from mesh.messages.topics import Topic
from mesh.platform import write_private
from mesh.setting_tree import Settings

KEPT_MAX = 1_000
"""Topics kept, newest first: a few hundred bytes each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """One topic, and where its data were read ('' for none, or a built-in)."""

    topic: Topic
    path: str = ""


def keep(settings: Settings, topic: Topic, path: str) -> None:
    """Remember a topic that is published now. Without a place to write, nothing is remembered."""
    folder = _folder(settings)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_private(folder / topic.id, codec.pack({"topic": codec.encode(topic), "path": path}))
        for old in _newest_first(folder)[KEPT_MAX:]:
            old.unlink(missing_ok=True)


def kept(settings: Settings) -> Iterator[Published]:
    """What is remembered, newest first; what is too old is forgotten."""
    folder, since = _folder(settings), time.time() - settings.scheduler.receipt_keep_s
    for file in _newest_first(folder):
        try:
            if file.stat().st_mtime < since:
                file.unlink(missing_ok=True)
                continue
            body = codec.unpack(file.read_bytes(), bytes_max=2 * limits.RECORD_BYTES_MAX)
            yield Published(codec.decode(body["topic"], Topic), str(body["path"]))
        except (OSError, Malformed, KeyError, TypeError, msgspec.ValidationError):
            continue  # of a newer program, or half-gone: there is nothing to say about it


async def lost(reach: Reach) -> list[Published]:
    """Topics of this home folder that the mesh does not have any more. BusUnavailable, NotFound."""
    stream = reach.stream("TOPICS")
    found = []
    for one in kept(reach.settings):
        if await reach.broker.last(stream, reach.subjects.topic(one.topic.id)) is None:
            found.append(one)
    return found


async def publish_again(reach: Reach, one: Published, say: Callable[[str], None]) -> bool:
    """Put a topic once more, its data first; False, and why in words, when its data can not be had."""
    topic = one.topic
    if topic.data is not None and len(topic.data.source) == limits.DIGEST_CHARS:
        store = reach.store()
        store.forget_stored()
        if await store.missing(topic.data.source):
            try:
                digest = await store.put(Path(one.path), media="dataset", facts={"name": topic.data.name})
            except (OSError, DataRefused) as error:
                say(f"{topic.id} is lost, and so are its data, which can not be read again: {error}")
                return False
            if digest != topic.data.source:
                say(f"{topic.id} is lost, and {one.path} is not what it was then: publish it anew.")
                return False
    with contextlib.suppress(Conflict):  # somebody has put it meanwhile
        await reach.broker.append(reach.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
    say(f"{topic.id} was lost with the broker's store, and is published again")
    return True


def _folder(settings: Settings) -> Path:
    return settings.home / "published" / settings.prefix


def _newest_first(folder: Path) -> list[Path]:
    files = []
    with contextlib.suppress(OSError):
        files = [(file.stat().st_mtime, file) for file in folder.iterdir() if not file.name.startswith(".")]
    return [file for _, file in sorted(files, reverse=True)]
