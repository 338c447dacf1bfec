"""Frames between a worker and its child: length-prefixed msgpack over the child's own descriptors.

    | 4 bytes length, big-endian | msgpack map {"frame": name, field: value, …} |

    child:  ready                                             once, when its imports are done
    worker: start(run 1)     -> child: progress … snapshot … checkpoint … log … finished | failed | halted
    worker: released(run 1, n)  the n-th snapshot is packed: its buffer may be overwritten
    worker: save(run 1)         asks the running task for a checkpoint; it goes on
    child:  placed(run 1)       once, when GPUs were leased: do they compute?
    child:  heeds(run 1)        once, when the task begins to look for that
    child:  consult(run 1, n)   one entry for a study's log, and a question for what stands there; one at a time
    worker: consulted(run 1, n) what stands there, or why it is not known now
    worker: halt(run 1)         asks the running task to stop ('stop') or to checkpoint and stop ('checkpoint')
    worker: start(run 2)        light children only; several may be written ahead, they run in order
    worker: recall              light children only -> child: returned(runs that have not begun)
    worker: end                 leave; closing the pipe says the same

`run` numbers the tasks of one child, so that a late frame of one task is not taken for the next one's. A frame that is
too long, no msgpack, or unknown raises ChildBroke: the pair can not trust each other any more. Frames carry no tensors;
those travel in a shared buffer (executors/snapshot.py) or as files below the task's scratch folder.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, BinaryIO, ClassVar

import msgspec

from executors.port import Runtime
from mesh import codec, limits
from mesh.errors import ChildBroke, Malformed
from mesh.messages.base import Epoch, Facts
from mesh.messages.commands import FailureClass

_LENGTH = struct.Struct(">I")


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all frames."""

    name: ClassVar[str] = ""


class KindRow(msgspec.Struct, frozen=True, array_like=True):
    """What a child says of one installed kind."""

    version: int
    runtime: Runtime


class Ready(Frame, frozen=True, kw_only=True):
    """The child has imported what its runtime needs."""

    name: ClassVar[str] = "ready"

    pid: int
    runtime: Runtime
    kinds: dict[str, KindRow]
    """Installed kinds by name."""
    broken: dict[str, str] = {}
    """Kinds that could not be loaded, and why."""
    fingerprint: dict[str, str] = {}
    """Versions and capabilities on which bits depend."""


class Progressed(Frame, frozen=True, kw_only=True):
    """Where the task stands."""

    name: ClassVar[str] = "progress"

    run: int
    step: int
    done: float
    metrics: dict[str, float] = {}
    phase: str = ""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One file of a snapshot: where its bytes stand in the buffer."""

    path: str
    """Its name in the artifact."""
    offset: int
    size_bytes: int


class Snapshotted(Frame, frozen=True, kw_only=True):
    """A checkpoint stands complete in the child's buffer, and stays unchanged there until it is released."""

    name: ClassVar[str] = "snapshot"

    run: int
    number: int
    step: int
    best: bool
    trained_s: float
    buffer: str
    """Path by which processes of the same user open the buffer, while the child lives."""
    files: tuple[Span, ...]
    facts: Facts = {}
    """For the manifest: the fingerprint."""
    skipped: int = 0
    """Checkpoints that were due since the last one while the buffer was taken."""


class Checkpointed(Frame, frozen=True, kw_only=True):
    """A checkpoint lies complete in a folder; the worker uploads and removes it. What kinds without tensors write, and
    what a training writes where nobody packs its snapshots."""

    name: ClassVar[str] = "checkpoint"

    run: int
    folder: str
    number: int
    step: int
    best: bool
    trained_s: float


class Placed(Frame, frozen=True, kw_only=True):
    """The task's GPUs were looked at, before its kind runs."""

    name: ClassVar[str] = "placed"

    run: int
    reason: str = ""
    """Why they are not used; '' when they compute."""


class Heeds(Frame, frozen=True, kw_only=True):
    """The task looks for requests to save, from now on and for as long as it is in that part of its work."""

    name: ClassVar[str] = "heeds"

    run: int


class Consult(Frame, frozen=True, kw_only=True):
    """Put this entry into a study's log, where there is one, and say what stands there from a sequence on."""

    name: ClassVar[str] = "consult"

    run: int
    number: int
    """Of the question, within its run."""
    study: str
    from_seq: int
    entry: str = ""
    entry_id: str = ""
    """Names the entry within the attempt: put again, it is there once."""


class StudyRow(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a study's log."""

    seq: int
    task: str
    epoch: Epoch
    entry: str


class Logged(Frame, frozen=True, kw_only=True):
    """A line for the worker's log."""

    name: ClassVar[str] = "log"

    run: int
    text: str


class Finished(Frame, frozen=True, kw_only=True):
    """The task is done; the outputs are local paths."""

    name: ClassVar[str] = "finished"

    run: int
    outputs: dict[str, str]
    media: dict[str, str]
    facts_of: dict[str, Facts]
    kpis: dict[str, float]
    stopped_by: str
    facts: Facts
    exact: bool
    seconds: float = 0.0
    """Time that the kind took for this run."""
    wrote: bool = True
    """False: its scratch folder was never made."""


class Failed(Frame, frozen=True, kw_only=True):
    """The task failed with a reason."""

    name: ClassVar[str] = "failed"

    run: int
    failure: FailureClass
    reason: str
    resume_unusable: bool = False
    """The checkpoint that it was to continue from is damaged, or belongs to another task: an older one may do."""
    device: bool = False
    """A GPU failed, not the task."""


class Halted(Frame, frozen=True, kw_only=True):
    """The task stopped because it was asked to."""

    name: ClassVar[str] = "halted"

    run: int


class Returned(Frame, frozen=True, kw_only=True):
    """Tasks that had not begun when they were called back: they will not be run here."""

    name: ClassVar[str] = "returned"

    runs: tuple[int, ...]


class Start(Frame, frozen=True, kw_only=True):
    """One task for the child: the fields of `executors.port.Job`, before the kind has read its settings."""

    name: ClassVar[str] = "start"

    run: int
    task: str
    kind: str
    kind_version: int
    settings: Facts
    inputs: dict[str, str]
    scratch: str
    cores: float
    memory_bytes: int
    gpus: tuple[int, ...] = ()
    """Indices of the GPUs that the task may see."""
    gpu_memory_bytes: int = 0
    """What it may take of its GPU, which others share; 0: all of it."""
    aside: str = ""
    """Why it is to leave its GPUs alone, if so."""
    budget_s: float
    trained_s: float = 0.0
    resume: str = ""
    checkpoint_number: int = 0
    memory_attempts: int = 0
    packs: bool = False
    """Snapshots may be handed over in shared memory; else the child writes checkpoints as folders."""
    in_line: bool = False
    """Others may be written ahead of its end: it reports nothing at first, and its scratch folder is made on demand."""

    def numbered(self, run: int) -> Start:
        """The same task as this run of a child."""
        return msgspec.structs.replace(self, run=run)


class Consulted(Frame, frozen=True, kw_only=True):
    """The answer to a question about a study's log."""

    name: ClassVar[str] = "consulted"

    run: int
    number: int
    epoch: Epoch
    """Of the lease under which the task runs."""
    rows: tuple[StudyRow, ...] = ()
    more: bool = False
    """There may be more behind these."""
    failure: FailureClass | None = None
    """Nothing is known: ask again later, or never. The entry may have been put all the same."""
    reason: str = ""


class Recall(Frame, frozen=True, kw_only=True):
    """Hand back the tasks that have not begun."""

    name: ClassVar[str] = "recall"


class Released(Frame, frozen=True, kw_only=True):
    """A snapshot, and all before it, will not be read again."""

    name: ClassVar[str] = "released"

    run: int
    number: int
    unreadable: bool = False
    """The buffer can not be opened here: nothing was taken, and folders are wanted from now on."""
    lacked_room: bool = False
    """This snapshot was not taken, because the disk is full."""


class Save(Frame, frozen=True, kw_only=True):
    """Ask a task for a checkpoint as soon as it can; it goes on."""

    name: ClassVar[str] = "save"

    run: int


class Halt(Frame, frozen=True, kw_only=True):
    """Ask a task to stop."""

    name: ClassVar[str] = "halt"

    run: int
    reason: str
    """'stop', or 'checkpoint' for a last checkpoint first."""


class End(Frame, frozen=True, kw_only=True):
    """Leave."""

    name: ClassVar[str] = "end"


FROM_CHILD: dict[str, type[Frame]] = {
    frame.name: frame
    for frame in (
        Ready,
        Placed,
        Progressed,
        Snapshotted,
        Checkpointed,
        Heeds,
        Consult,
        Logged,
        Finished,
        Failed,
        Halted,
        Returned,
    )
}
TO_CHILD: dict[str, type[Frame]] = {
    frame.name: frame for frame in (Start, Released, Save, Consulted, Recall, Halt, End)
}


def encode(frame: Frame) -> bytes:
    """The bytes of a frame with its length. Malformed when its values can not be packed or are too many."""
    body = codec.pack_fields(frame, {"frame": frame.name})
    if len(body) > limits.FRAME_BYTES_MAX:
        raise Malformed(f"a {frame.name!r} frame may have {limits.FRAME_BYTES_MAX} bytes, this one has {len(body)}")
    return _LENGTH.pack(len(body)) + body


class _Head(msgspec.Struct):
    """What stands before a frame's own fields."""

    frame: str


def decode(body: bytes, known: dict[str, type[Frame]]) -> Frame:
    """The frame in `body`, one of the `known`; ChildBroke for anything else."""
    try:
        return codec.unpack_fields(body, known[codec.unpack_fields(body, _Head).frame])
    except (Malformed, KeyError, TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ChildBroke(f"A frame was expected between worker and child; found {str(error)[:200]}.") from None


def read(stream: BinaryIO, known: dict[str, type[Frame]]) -> Frame | None:
    """The next frame of a blocking stream; None at its end. ChildBroke when it is torn or no frame."""
    prefix = _read_exactly(stream, _LENGTH.size)
    if not prefix:
        return None
    body = _read_exactly(stream, _length(prefix))
    if body is None:
        raise ChildBroke("The other side went away in the middle of a frame.")
    return decode(body, known)


async def read_async(stream: asyncio.StreamReader, known: dict[str, type[Frame]]) -> Frame | None:
    """The next frame of an asyncio stream; None at its end. ChildBroke when it is torn or no frame."""
    try:
        prefix = await stream.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ChildBroke("The other side went away in the middle of a frame.") from None
        return None
    try:
        body = await stream.readexactly(_length(prefix))
    except asyncio.IncompleteReadError:
        raise ChildBroke("The other side went away in the middle of a frame.") from None
    return decode(body, known)


def _length(prefix: bytes) -> int:
    length: int = _LENGTH.unpack(prefix)[0]
    if length > limits.FRAME_BYTES_MAX:
        raise ChildBroke(f"A frame may have {limits.FRAME_BYTES_MAX} bytes, this one announces {length}.")
    return length


def _read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    """`size` bytes; None at a clean end before the first, ChildBroke at an end after it."""
    parts: list[bytes] = []
    missing = size
    while missing:
        part: Any = stream.read(missing)
        if not part:
            if parts:
                raise ChildBroke("The other side went away in the middle of a frame.")
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
