"""Streams in memory: what a nats-server keeps on its disk, as plain data with a clock passed in.

`MemoryStream` holds messages in sequence order under the limits of its declaration; `MemoryConsumer` remembers what a
durable consumer has delivered and what was acknowledged. Nothing awaits; `mesh/memory.py` adds connections and time.

Like the original, and on purpose: an acknowledgement from an earlier attempt counts, `discard old` drops silently, an
emptied stream keeps counting from where it was, and the size of a message is its size in the server's file format.
"""

from __future__ import annotations

import bisect
import collections
import copy
import dataclasses

from mesh import wire
from mesh.bus import Stored, StreamSpec, StreamState
from mesh.errors import Conflict, DiskFull, Malformed

_RECORD_BYTES = 30
"""What the server's file format adds to each message: a record header and a checksum."""


class MemoryStream:
    """One stream. All times are seconds of one clock."""

    def __init__(self, spec: StreamSpec, created: str) -> None:
        self.spec = spec
        self.created = created
        self.last_seq = 0
        self.size_bytes = 0
        self.consumers: dict[str, MemoryConsumer] = {}
        self._messages: dict[int, tuple[Stored, float]] = {}
        self._of_subject: dict[str, collections.deque[int]] = {}
        self._order: list[int] = []  # every sequence, also of removed messages until the next tidying
        self._head = 0  # everything in _order before it is removed

    def copy(self) -> MemoryStream:
        """What a backup of the server's disk would hold now. What is stored never changes, and is shared."""
        found = copy.copy(self)
        found.consumers = copy.deepcopy(self.consumers)
        found._messages, found._order = dict(self._messages), list(self._order)
        found._of_subject = {subject: collections.deque(kept) for subject, kept in self._of_subject.items()}
        return found

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(
        self, subject: str, data: bytes, headers: dict[str, str],
        stream_seq: int | None, subject_seq: int | None, now: float,
    ) -> int:  # fmt: skip
        """Store; the sequence. Conflict, DiskFull or Malformed when it may not be, and then nothing has changed."""
        self.expire(now)
        if stream_seq is not None and stream_seq != self.last_seq:
            raise conflict(subject, stream_seq, self.last_seq)
        found = self._last_of(subject)
        if subject_seq is not None and subject_seq != found:
            raise conflict(subject, subject_seq, found)
        size = stored_bytes(subject, data, headers)
        self._make_room(subject, size)
        self.last_seq += 1
        self._messages[self.last_seq] = (Stored(subject, data, self.last_seq, headers), now)
        self._of_subject.setdefault(subject, collections.deque()).append(self.last_seq)
        self._order.append(self.last_seq)
        self.size_bytes += size
        return self.last_seq

    def _make_room(self, subject: str, size: int) -> None:
        spec = self.spec
        if 0 <= spec.max_message_bytes < size - _RECORD_BYTES - len(subject):
            raise Malformed(f"stream {spec.name} takes messages up to {spec.max_message_bytes} bytes: send less")
        if 0 < spec.max_bytes < self.size_bytes + size and spec.discard_new:
            raise disk_full(spec.name)
        while 0 < spec.max_bytes < self.size_bytes + size and self._messages:
            self._remove(self.first_seq)
        kept = self._of_subject.get(subject) or collections.deque()
        while 0 < spec.max_per_subject <= len(kept):
            self._remove(kept[0])

    def expire(self, now: float) -> None:
        """Remove what is older than the stream keeps."""
        while self.spec.max_age_s and self._messages:
            _, stored_at = self._messages[self.first_seq]
            if now - stored_at < self.spec.max_age_s:
                return
            self._remove(self.first_seq)

    def purge(self, subject: str, below_seq: int) -> int:
        """Remove messages of a subject (or of all) below a sequence (or wherever); how many."""
        gone = [
            seq for seq, (stored, _) in self._messages.items()
            if (not below_seq or seq < below_seq) and (not subject or wire.matches(subject, stored.subject))
        ]  # fmt: skip
        for seq in gone:
            self._remove(seq)
        return len(gone)

    def _remove(self, seq: int) -> None:
        stored, _ = self._messages.pop(seq)
        self.size_bytes -= stored_bytes(stored.subject, stored.data, stored.headers)
        kept = self._of_subject[stored.subject]
        kept.remove(seq)
        if not kept:
            del self._of_subject[stored.subject]
        if len(self._order) > 2 * len(self._messages) + 64:
            self._order, self._head = list(self._messages), 0

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        """Sequence of the oldest message; one more than the last when there is none."""
        if not self._messages:
            return self.last_seq + 1
        while self._order[self._head] not in self._messages:
            self._head += 1
        return self._order[self._head]

    def get(self, seq: int) -> Stored | None:
        """The message with this sequence, if it is still there."""
        found = self._messages.get(seq)
        return found[0] if found else None

    def last(self, subject: str) -> Stored | None:
        """The newest message of a subject; None when there is none or it is an eraser."""
        stored = self.get(self._last_of(subject))
        return None if stored is None or wire.erased(stored.headers) else stored

    def subjects(self, pattern: str) -> list[str]:
        """Subjects of a pattern that have a message."""
        return [subject for subject in self._of_subject if wire.matches(pattern, subject)]

    def _last_of(self, subject: str) -> int:
        kept = self._of_subject.get(subject)
        return kept[-1] if kept else 0

    def following(self, pattern: str, seq: int) -> Stored | None:
        """The first message of a pattern whose sequence is `seq` or higher."""
        for index in range(max(bisect.bisect_left(self._order, seq), self._head), len(self._order)):
            stored = self.get(self._order[index])
            if stored is not None and wire.matches(pattern, stored.subject):
                return stored
        return None

    def state(self) -> StreamState:
        """What the stream holds."""
        return StreamState(
            self.first_seq, self.last_seq, len(self._messages), self.size_bytes, self.created, self.spec.max_bytes
        )


@dataclasses.dataclass(slots=True)
class _Pending:
    attempt: int
    due: float


class MemoryConsumer:
    """What a durable consumer remembers: how far it has delivered, and what waits for an acknowledgement."""

    def __init__(self, pattern: str, ack_wait_s: float) -> None:
        self.pattern, self.ack_wait_s = pattern, ack_wait_s
        self._next_seq = 1
        self._pending: dict[int, _Pending] = {}

    def take(self, stream: MemoryStream, now: float) -> tuple[Stored, int] | None:
        """The next message to deliver and its attempt: first what is due again, then what is new."""
        for seq, pending in sorted(self._pending.items()):
            stored = stream.get(seq)
            if stored is None:  # purged meanwhile
                del self._pending[seq]
            elif pending.due <= now:
                pending.attempt += 1
                pending.due = now + self.ack_wait_s
                return stored, pending.attempt
        stored = stream.following(self.pattern, self._next_seq)
        if stored is None:
            return None
        self._next_seq = stored.seq + 1
        self._pending[stored.seq] = _Pending(1, now + self.ack_wait_s)
        return stored, 1

    def due(self) -> float | None:
        """When the next redelivery is due, if any is pending."""
        return min((pending.due for pending in self._pending.values()), default=None)

    def finish(self, seq: int) -> None:
        """Never deliver this one again."""
        self._pending.pop(seq, None)

    def again(self, seq: int, due: float) -> None:
        """Deliver this one again from `due` on."""
        if seq in self._pending:
            self._pending[seq].due = due


def stored_bytes(subject: str, data: bytes, headers: dict[str, str]) -> int:
    """Size of a message in the server's store."""
    lines = sum(len(key) + len(value.encode()) + 4 for key, value in headers.items())
    return _RECORD_BYTES + len(subject) + len(data) + (lines + 16 if headers else 0)


def conflict(subject: str, expected: int, found: int | None) -> Conflict:
    """The error of a lost compare-and-set."""
    there = "another one" if found is None else f"{found}"
    sentence = f"{subject}: expected the last sequence {expected}, found {there}: somebody else wrote first"
    return Conflict(sentence, last_seq=found)


def disk_full(stream: str) -> DiskFull:
    """The error of a store without room."""
    return DiskFull(f"stream {stream} has no room left for this message: raise its limit or remove something")
