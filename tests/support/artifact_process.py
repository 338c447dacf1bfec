"""A process that puts a file into the artifact store, or gets it, to be killed in the middle.

    python -m tests.support.artifact_process put URL PREFIX CACHE FILE
    python -m tests.support.artifact_process get URL PREFIX CACHE DIGEST

Says "moving" when it begins, each percent as a line, and last the digest, or the path of the files.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from mesh import broker
from mesh.nats_options import NatsOptions
from mesh.settings import load
from mesh.stores import open_store
from mesh.subjects import Subjects


def say(line: object) -> None:
    print(line, flush=True)


async def main(operation: str, url: str, prefix: str, cache: str, what: str) -> None:
    subjects = Subjects(prefix)
    said = -1

    def progress(done: int, total: int) -> None:
        nonlocal said
        if (percent := 100 * done // total) > said:
            said = percent
            say(percent)

    async with broker.connection(NatsOptions(servers=(url,)), subjects, name=operation) as connected:
        settings = load({"home": cache, "prefix": prefix}, {}, Path(cache))
        store = open_store(connected, subjects, settings, cache=Path(cache))
        say("moving")
        if operation == "put":
            say(await store.put(Path(what), media="model", progress=progress))
        else:
            say(await store.get(what, progress=progress))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
