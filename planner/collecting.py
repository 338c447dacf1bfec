"""What of the artifact store is garbage, and when to collect it. Marks and clocks come in, judgements go out.

    named     by a record that is kept (topics, results, champions, pushed models, the graph), by an open or parked task
              (inputs, remembered checkpoints), by the ledger (its newest snapshot, the lineage): it lives
    awaited   nobody names it yet: its command may be on its way. It lives until it is `keep_s` old without a name
    dead      nobody will name it: a checkpoint that the ledger has overtaken, or whose task has ended; of a training
              that succeeded the last two wait for its topic's recommendation first

Objects live as long as a stored manifest names them, whatever becomes of that manifest later. So a round goes

    look -> condemn dead manifests, and objects that no living manifest names -> wait -> look for names again
         -> remove the dead manifests -> remove condemned objects that no manifest names that is stored now

and what makes it safe is the order of steps, here and at whoever uploads (docs/artifacts.md), never a clock: times
only decide how much is sent twice. Records are not decoded to find names in them: whatever looks like a digest is taken
for one. That keeps too much at worst, and a field that is new tomorrow is understood today.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator

from mesh.messages.artifacts import Manifest, ObjectList
from mesh.messages.base import Epoch, derived_id
from mesh.messages.object_names import ObjectName, of_part, whole
from mesh.messages.tasks import TaskState
from planner.ledger import Ended, Ledger, Task

CHECKPOINT, UPLOAD, SNAPSHOT, OWNER = "checkpoint", "upload", "snapshot", "owner"
"""Media that are judged by more than their names."""

TOPIC_MEDIA = frozenset({"split", "dataset"})
"""Media that stay as long as their topic can be read, although the result that names them is gone."""

KEPT_AFTER = 2
"""Checkpoints of an ended training that are kept until its topic has a recommendation: between two of them a segment
can be trained again (executors/replaying.py)."""

FULL_SHARE = 0.8
"""Part of the store's limit beyond which rounds follow each other: a fifth is left for what comes meanwhile."""

PRESSED_WAIT_S = 150.0
"""Wait between condemning and removing when the store is nearly full: uploads under way may send again what they sent
in some minutes, which is better than none of them going on."""

PRESSED_KEEP_SHARE = 1 / 24
"""Part of the time for which what has no name is kept when the store is nearly full: whoever comes later with its
result has it in the cache, and stores it again (agents/again.py)."""

_DIGEST = re.compile(rb"@([0-9a-f]{64})")
"""A text of 64 hex digits in msgpack: '@' is the last byte of its length, in every form that a length can have."""

_WHOLE_DIGEST = re.compile(r"[0-9a-f]{64}")


class Named(enum.IntEnum):
    """How a digest is named by what is kept."""

    NOT = 0
    BY_TOPIC = 1
    """Made for a topic that can still be read: data stays, models do not."""
    BY_RECORD = 2


class Standing(enum.Enum):
    """Whether a manifest lives."""

    NAMED = "named"
    AWAITED = "awaited"
    DEAD = "dead"


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """How a manifest stands, and why."""

    standing: Standing
    why: str
    keep_s: float = 0.0
    """How long an awaited one is kept without a name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """The collector's times, from the settings. Seconds of the leader's own clock."""

    every_s: float
    wait_s: float
    unnamed_keep_s: float


def digests_in(data: bytes) -> Iterator[str]:
    """Everything in an encoded record that looks like a digest."""
    return (match[1].decode() for match in _DIGEST.finditer(data))


def digests_of(task: Task) -> Iterator[str]:
    """What an open or parked task needs: its inputs and settings, the checkpoints that it may start from."""
    yield from _digests_within(task.spec.inputs)
    yield from _digests_within(task.spec.settings)
    for checkpoint in (task.checkpoint, *task.older):
        if checkpoint is not None:
            yield checkpoint.manifest


def _digests_within(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if _WHOLE_DIGEST.fullmatch(value):
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _digests_within(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _digests_within(inner)


def objects_of(manifest: Manifest) -> Iterator[ObjectName]:
    """Every object that a manifest itself names: objects, the bases of its deltas, and lists, which name more."""
    for entry in manifest.files:
        yield from map(whole, entry.lists)
        for digest, base in zip(entry.objects, entry.bases or ("",) * len(entry.objects), strict=True):
            yield of_part(digest, base)
            if base:
                yield whole(base)


def objects_in(found: ObjectList) -> Iterator[ObjectName]:
    """Every object that a list names, and the bases of its deltas."""
    for digest, base in found.parts():
        yield of_part(digest, base)
        if base:
            yield whole(base)


def judge(manifest: Manifest, named: Named, ledger: Ledger, rules: Rules) -> Judgement:
    """Does a stored manifest live?"""
    if manifest.media == OWNER:
        return Judgement(Standing.NAMED, "it says whose store this is")
    if named is Named.BY_RECORD or (named is Named.BY_TOPIC and manifest.media in TOPIC_MEDIA):
        return Judgement(Standing.NAMED, "it is named")
    if manifest.media == CHECKPOINT:
        return _judge_checkpoint(manifest, ledger, rules)
    if manifest.media in (UPLOAD, SNAPSHOT):  # an upload renews its own; an older snapshot may still be read
        return Judgement(Standing.AWAITED, f"{manifest.media} without a name", 2 * rules.wait_s)
    return Judgement(Standing.AWAITED, "nobody names it", rules.unnamed_keep_s)


def _judge_checkpoint(manifest: Manifest, ledger: Ledger, rules: Rules) -> Judgement:
    awaited = Judgement(Standing.AWAITED, "its command may be on the way", rules.unnamed_keep_s)
    name, number = manifest.facts.get("task"), manifest.facts.get("number")
    try:
        epoch = Epoch.parse(str(manifest.facts.get("epoch", "")))
    except ValueError:
        return awaited
    if not isinstance(name, str) or not isinstance(number, int):
        return awaited
    task = ledger.tasks.get(name)
    if task is None:
        line = ledger.ended.get(name)
        if line is not None and _may_be_replayed(line, epoch, number, ledger):
            return Judgement(Standing.AWAITED, "its topic's round may have it replayed", rules.unnamed_keep_s)
        return awaited if line is None else Judgement(Standing.DEAD, f"its task is {line.state}")
    if epoch.generation == task.epoch.generation and epoch < task.epoch:
        return Judgement(Standing.DEAD, f"its lease {epoch} is over, {task.epoch} is later")
    if epoch == task.epoch and task.checkpoint is not None and number <= task.checkpoint.number:
        return Judgement(Standing.DEAD, f"checkpoint {task.checkpoint.number} is recorded")
    return awaited


def _may_be_replayed(line: Ended, epoch: Epoch, number: int, ledger: Ledger) -> bool:
    """Is this one of the last checkpoints of a training that succeeded, whose topic has no recommendation yet?"""
    if line.state is not TaskState.SUCCEEDED or ledger.said("recommended", derived_id(line.topic, "recommendation")):
        return False
    recorded = [(key.epoch, key.number) for key in line.rows() if key.kind == CHECKPOINT]
    return (epoch, number) in recorded[-KEPT_AFTER:]


class Pace:
    """When to look, and how long to wait between condemning and removing."""

    def __init__(self, rules: Rules, now: float) -> None:
        self._rules = rules
        self._began = now
        """Of the last round, or of the term: a new leader looks after one period like any other."""
        self._in_vain = False
        """The last round freed nothing although the store was nearly full: hurrying does not help."""

    def due_in(self, now: float, size_bytes: int, limit_bytes: int) -> float:
        """Seconds until the next round should begin."""
        hurry = self.pressed(size_bytes, limit_bytes) and not self._in_vain
        return max(0.0, self._began + (0.0 if hurry else self._rules.every_s) - now)

    @staticmethod
    def pressed(size_bytes: int, limit_bytes: int) -> bool:
        """Is the store nearly full?"""
        return limit_bytes > 0 and size_bytes > FULL_SHARE * limit_bytes

    def rules(self, *, pressed: bool) -> Rules:
        """The times of a round."""
        if not pressed:
            return self._rules
        return dataclasses.replace(
            self._rules,
            wait_s=min(self._rules.wait_s, PRESSED_WAIT_S),
            unnamed_keep_s=self._rules.unnamed_keep_s * PRESSED_KEEP_SHARE,
        )

    def began(self, now: float) -> None:
        """A round begins."""
        self._began = now

    def ended(self, *, removed: int) -> None:
        """A round has ended."""
        self._in_vain = removed == 0


def portions(names: Iterable[ObjectName], rows_bytes_max: int) -> Iterator[list[ObjectName]]:
    """Names cut into lists of the condemned, in order."""
    portion: list[ObjectName] = []
    size = 0
    for name in names:
        width = 64 if name.base else 32
        if portion and size + width > rows_bytes_max:
            yield portion
            portion, size = [], 0
        portion.append(name)
        size += width
    if portion:
        yield portion
