"""The simulated artifact store does what the real one does: puts, losses, looks, second puts, gets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.simulation.store import Cache, Store
from mesh import codec, limits, streams
from mesh.artifacts import ArtifactStore
from mesh.errors import ArtifactMissing
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest

STEPS = 120


class Machine:
    """A worker's machine with one of the two stores, on a broker of its own."""

    def __init__(self, folder: Path, *, simulated: bool) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect("w")
        self.digests: list[str] = []
        self._folder, self._simulated = folder, simulated
        self._cache: Cache = {}
        self.begin_life()

    def begin_life(self) -> None:
        """The next process there."""
        subjects = self.server.subjects
        real = ArtifactStore(self.broker, subjects, cache=self._folder / "cache", cache_bytes_max=1 << 30)
        self.store = Store(self.broker, subjects, "w.1", self._cache) if self._simulated else real

    async def put(self, number: int, *, keep: bool) -> None:
        """An artifact with an object of its own and one that all have."""
        path = self._folder / "t1.1-1" / f"checkpoint-{number}"
        path.mkdir(parents=True)
        (path / "own").write_text(f"{number}")
        (path / "weights").write_text("the same")
        self.digests.append(await self.store.put(path, media="model", keep=keep))

    def lose(self, which: int, what: str) -> None:
        """The store is older: it lacks an object of an artifact, or its manifest."""
        subjects = self.server.subjects
        stream = self.server.stream(subjects.stream("ARTIFACTS"))
        name = object_names.manifest(self.digests[which])
        stored = stream.last(subjects.stored(name))
        if what != "manifest" and stored is not None:
            files = codec.decode(stored.data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX).files
            name = next(object_names.whole(entry.objects[0]) for entry in files if entry.path == what)
        stream.purge(subjects.stored(name), 0)
        self.store.forget_stored()

    def drop(self, which: int) -> None:
        """The local cache has let it go."""
        self.store.drop(self.digests[which])

    async def get(self, which: int) -> bool:
        try:
            await self.store.get(self.digests[which])
        except ArtifactMissing:
            return False
        return True

    def cached(self) -> set[int]:
        return {self.digests.index(digest) for digest in self.store.cached(1_000)}


async def look(machine: Machine, call: str, which: int) -> bool:
    """The store's answer to one call about an artifact."""
    if call == "get":
        return await machine.get(which)
    answer: bool = await getattr(machine.store, call)(machine.digests[which])
    return answer


async def live(chance: random.Random, machines: list[Machine]) -> set[str]:
    """The same with all machines; what was seen."""
    seen = set[str]()
    for step in range(STEPS):
        roll, count = chance.random(), len(machines[0].digests)
        which, what = chance.randrange(max(1, count)), chance.choice(("own", "weights", "manifest"))
        keep, call = chance.random() < 0.8, chance.choice(("missing", "send_again", "get"))
        if roll < 0.2 or not count:
            for machine in machines:
                await machine.put(step, keep=keep)
        elif roll < 0.6:
            for machine in machines:
                machine.lose(which, what) if roll < 0.4 else machine.drop(which)
        elif roll < 0.65:
            for machine in machines:
                machine.begin_life()
        else:
            one, other = [await look(machine, call, which) for machine in machines]
            assert one == other, (step, call)
            seen.add(f"{call} {one}")
        assert machines[0].cached() == machines[1].cached(), step
    return seen


@pytest.mark.parametrize("seed", range(3))
async def test_the_simulated_store_does_what_the_real_one_does(seed: int, tmp_path: Path) -> None:
    machines = [Machine(tmp_path / name, simulated=name == "simulated") for name in ("real", "simulated")]
    for machine in machines:
        specs = streams.table(machine.server.subjects, artifact_bytes_max=1 << 20)
        await streams.ensure_all(machine.broker, specs)
    seen = await live(random.Random(seed), machines)
    assert seen == {f"{call} {said}" for call in ("missing", "send_again", "get") for said in (True, False)}
