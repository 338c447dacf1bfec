"""Whole artifacts: what a recorded result has made is in the store, unless its maker's machine has lost it, too.

Chance may remove an artifact under everybody's hands; this module knows which ones, and looks into the simulated
ARTIFACTS stream for manifests and all that they name. Not covered: what nobody has recorded.
"""

from __future__ import annotations

import random

from benchmarks.simulation.accounts import Accounts
from benchmarks.simulation.parts import Disk
from benchmarks.simulation.store import parts
from mesh import codec
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.commands import COMMANDS, CheckpointMade, ResultFound
from mesh.outbox import Row


class Wholeness:
    """Which artifacts of recorded results are in the store."""

    def __init__(self, server: MemoryServer, accounts: Accounts) -> None:
        self._server, self._subjects, self._accounts = server, server.subjects, accounts

    def loses(self, subjects: list[str], chance: random.Random) -> str:
        """Which of these artifacts shall vanish, one of a result by preference; '' for none."""
        made = self._accounts.succeeded()
        named = {self._manifest(digest) for _, outcome in made for digest in outcome.outputs.values()}
        found = [subject for subject in subjects if subject in named] if chance.random() < 0.7 else subjects
        if not found:
            return ""
        self._accounts.vanished.add(lost := chance.choice(found))
        return lost

    def not_put(self, name: str, disk: Disk) -> list[str]:
        """Outputs of recorded results that are not in the store, though who made them has them."""
        return [
            f"the output {digest[:12]} of {key} is not whole in the store, and {name} has it"
            for key, row in disk.kept.items()
            if key in self._accounts.recorded(key)
            for digest in _outputs(row)
            if digest in disk.cache
            and not self._stored(digest)
            and self._manifest(digest) not in self._accounts.vanished
        ]

    def may_be_untold(self, row: Row, disk: Disk) -> bool:
        """May a row that a lost history had recorded stay untold? Older checkpoints are not told again, nor is what
        could not be had any more at some time: a task that is done again may make the same artifact anew."""
        return row.key.kind == CheckpointMade.kind or not all(self._at_hand(digest, disk) for digest in _outputs(row))

    def _at_hand(self, digest: str, disk: Disk) -> bool:
        return digest not in disk.emptied and (digest in disk.cache or self._stored(digest))

    def _stored(self, digest: str) -> bool:
        """Is the artifact in the store, with all its parts?"""
        stream = self._server.stream(self._subjects.stream("ARTIFACTS"))
        manifest = stream.last(self._manifest(digest))
        return manifest is not None and all(
            stream.last(self._subjects.stored(name)) is not None for name, _ in parts(manifest.data)
        )

    def _manifest(self, digest: str) -> str:
        """Where its manifest is stored."""
        return self._subjects.stored(object_names.manifest(digest))


def _outputs(row: Row) -> list[str]:
    """Digests of what a result has made."""
    record = codec.decode(row.data, *COMMANDS)
    return sorted(record.outcome.outputs.values()) if isinstance(record, ResultFound) else []
