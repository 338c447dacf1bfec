"""The child: a fresh interpreter that runs one executor kind at a time and talks to its worker in frames.

    python -P -m executors.child RUNTIME PARENT_PID [--low-priority]

Its frames travel over copies of stdin and stdout that only this file holds; then descriptor 0 reads nothing and 1 is
stderr, so whatever a library prints lands in the worker's log and never between two frames. It ends with its worker, at
once, however that dies. Light children serve many tasks; the others one, because only a fresh process is sure to have
given its memory back. Importing heavy libraries before the task arrives is the point of a runtime.

Not covered: a kind that writes to descriptors by number, or leaves its process group, does so at the machine's cost.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import platform as python_platform
import queue
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from executors import frames, gathering, kinds, room
from executors.frames import Frame, KindRow, Start
from executors.port import Allotment, Job, Kind, Made, Runtime, Stopped, Taken
from mesh import limits, platform
from mesh.errors import ArtifactCorrupt, ChildBroke, DiskFull, OutOfMemory, Reject, TaskRefused
from mesh.messages.commands import FailureClass

PROGRESS_S = 0.1
"""Shortest time between two progress frames of one phase: enough for any eye, cheap for a loop of microseconds."""

MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc")
"""How libraries that know no MemoryError word it (torch on the CPU, CUDA, the C++ runtime)."""


DEVICE_WORDS = (
    "CUDA error",
    "CUDA driver",
    "CUDA unknown error",
    "cuDNN error",
    "CUBLAS_STATUS_",
    "NCCL error",
    "HIP error",
)
"""How torch words the failures of a GPU."""

PROGRAM_WORDS = ("device-side assert", "CUBLAS_STATUS_INVALID_VALUE", "CUBLAS_STATUS_NOT_SUPPORTED", "invalid argument")
"""Of these, what is the program's own fault: it would fail on every GPU."""

HOME = Path.cwd()
"""The current folder of tasks in line, which share it; other tasks have their scratch folder for it."""

FLUSH_S = 0.005
"""Endings of tasks in line are written together, but none waits longer while the next ones end; see `_Endings`."""

FLUSH_LATEST_S = 0.02
"""Nor longer than this while the next one runs on."""


PRELOADED = {
    Runtime.LIGHT: (),
    Runtime.SCIENCE: ("numpy", "sklearn.linear_model", "pyarrow", "safetensors.numpy"),
    Runtime.TORCH: ("numpy", "torch", "torch._dynamo", "safetensors.torch"),
}
"""What each runtime imports before its task is there. `torch._dynamo` (1.7 s, 75 MB) is never used, but the first
optimizer of a process imports it: a training that has to go on elsewhere would wait for that."""


class Channel:
    """Frames out, from any thread; frames in, read by one thread that also notices when the worker is gone."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._lock = threading.Lock()
        self._unwritten: list[bytes] = []
        self._halts: dict[int, str] = {}
        self._released: dict[int, int] = {}
        self._unreadable: set[int] = set()
        self._lacked_room: set[tuple[int, int]] = set()
        self._saves: Counter[int] = Counter()
        self._consulted: frames.Consulted | None = None
        """The newest answer about a study's log."""
        self._news = threading.Condition()
        self.tasks: queue.Queue[Start | None] = queue.Queue()
        threading.Thread(target=self._listen, name="frames", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Write a frame, behind all that were put before. A worker that is gone ends this process."""
        self.put(frame)
        self.flush()

    def put(self, frame: Frame) -> None:
        """Keep a frame for the next write."""
        data = frames.encode(frame)
        with self._lock:
            self._unwritten.append(data)

    def flush(self) -> None:
        """Write what was put."""
        with self._lock:
            data, self._unwritten = b"".join(self._unwritten), []
            try:
                self._sink.write(data)
                self._sink.flush()
            except OSError:
                os._exit(1)

    def halt(self, run: int) -> str:
        """Why this run should stop, or ''."""
        return self._halts.get(run, "")

    def released(self, run: int, number: int, wait_s: float) -> bool:
        """True when the worker has released this snapshot, or does so within `wait_s`."""
        with self._news:
            return self._news.wait_for(lambda: self._released.get(run, 0) >= number, wait_s)

    def unreadable(self, run: int) -> bool:
        """True when the worker can not open this run's buffer."""
        return run in self._unreadable

    def lacked_room(self, run: int, number: int) -> bool:
        """True when the worker had no room for this snapshot."""
        return (run, number) in self._lacked_room

    def saves(self, run: int) -> int:
        """How many checkpoints the worker has asked this run for."""
        return self._saves[run]

    def consulted(self, run: int, number: int, wait_s: float) -> frames.Consulted | None:
        """The answer to this question, if it comes within `wait_s`."""

        def there() -> bool:
            found = self._consulted
            return found is not None and (found.run, found.number) == (run, number)

        with self._news:
            return self._consulted if self._news.wait_for(there, wait_s) else None

    def _listen(self) -> None:
        try:
            while True:
                frame = frames.read(self._source, frames.TO_CHILD)
                if isinstance(frame, Start):
                    self.tasks.put(frame)
                elif isinstance(frame, frames.Halt):
                    self._halts[frame.run] = frame.reason
                elif isinstance(frame, frames.Released):
                    with self._news:
                        self._released[frame.run] = max(frame.number, self._released.get(frame.run, 0))
                        self._unreadable.update((frame.run,) if frame.unreadable else ())
                        self._lacked_room.update(((frame.run, frame.number),) if frame.lacked_room else ())
                        self._news.notify_all()
                elif isinstance(frame, frames.Consulted):
                    with self._news:
                        self._consulted = frame
                        self._news.notify_all()
                elif isinstance(frame, frames.Save):
                    self._saves[frame.run] += 1
                elif isinstance(frame, frames.Recall):
                    self.send(frames.Returned(runs=tuple(self._not_begun())))
                else:
                    break
        except (ChildBroke, OSError):
            traceback.print_exc()
        if frame is None:  # the pipe was closed: whatever runs has nobody to report to
            os._exit(0)
        self.tasks.put(None)

    def _not_begun(self) -> Iterator[int]:
        """Take back what waits, in order."""
        with contextlib.suppress(queue.Empty):
            while (start := self.tasks.get_nowait()) is not None:
                yield start.run
            self.tasks.put(None)  # told to leave, meanwhile


class _Endings:
    """Endings of tasks in line, written together when the line is empty, at the latest after a few milliseconds."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._since = 0.0
        """When the first one was put that is not written; 0 when there is none."""
        self._put = threading.Event()
        threading.Thread(target=self._flush_late, name="endings", daemon=True).start()

    def put(self, ending: Frame) -> None:
        """Take an ending."""
        self._channel.put(ending)
        now = time.monotonic()
        self._since = self._since or now
        if self._channel.tasks.empty() or now - self._since > FLUSH_S or isinstance(ending, frames.Failed):
            self._since = 0.0
            self._channel.flush()
        else:
            self._put.set()

    def _flush_late(self) -> None:
        """The next task lasts: what has ended before it is written meanwhile."""
        while self._put.wait():
            self._put.clear()
            time.sleep(FLUSH_LATEST_S)
            self._since = 0.0
            self._channel.flush()


class TaskContext:
    """What a running kind may ask of its child process (executors.port.Context)."""

    def __init__(self, channel: Channel, run: int, *, packs: bool = False, quiet: bool = False) -> None:
        """quiet: nothing to report in the first moment; most light tasks have ended by then."""
        self._channel = channel
        self._run = run
        self._packs = packs
        self._said: tuple[float, str] = (0.0, "")
        self._heeds = False
        self._questions = 0
        self._quiet_until = time.monotonic() + PROGRESS_S if quiet else 0.0

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        """Report where the work stands; at most every PROGRESS_S within a phase."""
        now = time.monotonic()
        if now < self._quiet_until or (phase == self._said[1] and now - self._said[0] < PROGRESS_S):
            return
        self._said = (now, phase)
        plain = {name: float(value) for name, value in metrics.items()}
        self._channel.send(
            frames.Progressed(run=self._run, step=int(step), done=float(done), metrics=plain, phase=phase)
        )

    @property
    def packs(self) -> bool:
        """True when snapshots are taken over in shared memory."""
        return self._packs and not self._channel.unreadable(self._run)

    def snapshot(self, taken: Taken) -> None:
        """Hand over a snapshot in shared memory."""
        self._channel.send(
            frames.Snapshotted(
                run=self._run,
                number=taken.number,
                step=taken.step,
                best=taken.best,
                trained_s=taken.trained_s,
                buffer=taken.buffer,
                files=tuple(frames.Span(*file) for file in taken.files),
                facts=dict(taken.facts),
                skipped=taken.skipped,
            )
        )

    def released(self, number: int, wait_s: float = 0.0) -> bool:
        """True when nobody reads this snapshot any more; waits at most `wait_s`."""
        return self._channel.released(self._run, number, wait_s)

    def lacked_room(self, number: int) -> bool:
        """True when this snapshot was not kept, because the disk is full."""
        return self._channel.lacked_room(self._run, number)

    def saves_requested(self) -> int:
        """How often a checkpoint was asked for, without a stop."""
        if not self._heeds:
            self._heeds = True
            self._channel.send(frames.Heeds(run=self._run))
        return self._channel.saves(self._run)

    def consult(
        self, study: str, from_seq: int, entry: str = "", entry_id: str = "", *, wait_s: float
    ) -> frames.Consulted | None:
        """Put an entry into a study's log, where there is one, and read on; None when no answer came in time."""
        self._questions += 1
        number = self._questions
        self._channel.send(
            frames.Consult(run=self._run, number=number, study=study, from_seq=from_seq, entry=entry, entry_id=entry_id)
        )
        return self._channel.consulted(self._run, number, wait_s)

    def checkpoint(self, folder: Path, *, number: int, step: int, best: bool, trained_s: float) -> None:
        """Hand over a finished checkpoint folder."""
        self._channel.send(
            frames.Checkpointed(
                run=self._run, folder=str(folder), number=number, step=step, best=best, trained_s=trained_s
            )
        )

    def placed(self, why_not: str) -> None:
        """Tell whether the task's GPUs compute."""
        self._channel.send(frames.Placed(run=self._run, reason=why_not[: limits.TEXT_CHARS_MAX]))

    def stop_requested(self) -> str:
        """'' or why the work should stop now."""
        return self._channel.halt(self._run)

    def log(self, text: str) -> None:
        """A line for the worker's log."""
        self._channel.send(frames.Logged(run=self._run, text=text[: limits.CHILD_LOG_LINE_CHARS_MAX]))


def main(arguments: list[str]) -> None:
    """Serve tasks until told to leave; never returns by falling off the end of the interpreter."""
    runtime = Runtime(arguments[0])
    platform.die_with_parent(int(arguments[1]))
    platform.leave_stopping_to_parent()
    if "--low-priority" in arguments:
        platform.lower_priority()
    channel = Channel(*_take_streams())
    _import_for(runtime)
    usable, broken = survey()
    channel.send(
        frames.Ready(pid=os.getpid(), runtime=runtime, kinds=usable, broken=broken, fingerprint=fingerprint(runtime))
    )
    endings = _Endings(channel)
    while (start := channel.tasks.get()) is not None:
        ending = _run(start, runtime, TaskContext(channel, start.run, packs=start.packs, quiet=start.in_line))
        endings.put(ending)
        if isinstance(ending, frames.Failed):
            break  # only a fresh process is sure to be clean; what is in line has not begun
    sys.stderr.flush()
    os._exit(0)  # threads that a library left behind must not hold the process


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep private copies of stdin and stdout for frames; leave nothing to read and stderr to write to."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _import_for(runtime: Runtime) -> None:
    """Import what tasks of this runtime will need, before they come."""
    for name in PRELOADED[runtime]:
        with contextlib.suppress(ImportError):  # a kind that needs it is listed as broken, with this as its reason
            importlib.import_module(name)


def _run(start: Start, runtime: Runtime, context: TaskContext) -> Frame:
    """Run one task; the frame that ends it. Nothing that a kind raises gets further than here."""
    try:
        began = time.monotonic()
        with _memory_errors():
            made, job = _work(start, runtime, context)
        return _finished(start, made, time.monotonic() - began, wrote=not isinstance(job, _JobInLine) or job.made)
    except Stopped:
        return frames.Halted(run=start.run)
    except Reject as error:
        unusable = isinstance(error, ArtifactCorrupt) and bool(error.facts.get("resume"))
        failure = FailureClass.RETRY if unusable else FailureClass.REJECT
        return frames.Failed(run=start.run, failure=failure, reason=_sentence(error), resume_unusable=unusable)
    except OutOfMemory as error:
        return frames.Failed(run=start.run, failure=FailureClass.MEMORY, reason=_sentence(error))
    except BaseException as error:  # SystemExit and the like end the task, not the protocol
        if isinstance(error, DiskFull):
            reason = _sentence(error)
        elif room.is_full(error):
            reason = f"There is no room left below {start.scratch} for what the task writes: free some space."
        else:
            reason = _sentence(error)
            traceback.print_exc()
        broke = bool(start.gpus) and is_of_device(error)
        return frames.Failed(run=start.run, failure=FailureClass.RETRY, reason=reason, device=broke)


def _work(start: Start, runtime: Runtime, context: TaskContext) -> tuple[Made, Job]:
    """Look up the kind, read its settings, run it. TaskRefused when this installation can not."""
    kind, settings = understood(start)
    processes = int(getattr(settings, "processes", 1))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, start.gpus))  # read when CUDA starts, so not too late
    if start.gpus:
        start = _placed(start, runtime, context)
    os.chdir(HOME if start.in_line else start.scratch)
    with gathering.gathered(start, processes) as meeting:
        job = job_of(start, settings, processes=processes, meeting=meeting)
        with threads(runtime, job.allotment.threads):
            return kind.run(job, context), job


def _placed(start: Start, runtime: Runtime, context: TaskContext) -> Start:
    """The task with its GPUs, once they have shown that they compute; else without, and with the reason."""
    if runtime is not Runtime.TORCH:
        return start
    from executors import device

    why_not = device.proof(len(start.gpus), start.gpu_memory_bytes)
    context.placed(why_not)
    return msgspec.structs.replace(start, gpus=(), aside=why_not) if why_not else start


def understood(start: Start) -> tuple[Kind, Any]:
    """The kind of a task and its settings. TaskRefused when this installation can not run it, they are not valid, or an
    input is lacking."""
    kind = kinds.load(start.kind)
    if kind.version != start.kind_version:
        raise TaskRefused(
            f"Kind {start.kind!r} was asked for in version {start.kind_version}, here it is {kind.version}: "
            "update the older machine."
        )
    kinds.check_inputs(kind, start.inputs)
    try:
        return kind, msgspec.convert(start.settings, kind.Settings)
    except (msgspec.ValidationError, ValueError) as error:
        raise TaskRefused(f"The settings of kind {start.kind!r} are not valid: {error}") from None


_FOLDER: Any = vars(Job)["scratch"]
"""Where a job keeps its folder's path."""


class _JobInLine(Job):
    """A job whose scratch folder is made when the kind asks for it: most light tasks never do."""

    made = False

    @property
    def scratch(self) -> Path:
        """The folder; it exists from now on."""
        folder: Path = _FOLDER.__get__(self)
        if not self.made:
            folder.mkdir(exist_ok=True)
            object.__setattr__(self, "made", True)
        return folder

    @scratch.setter
    def scratch(self, folder: Path) -> None:
        _FOLDER.__set__(self, folder)


def job_of(start: Start, settings: Any, *, processes: int = 1, rank: int = 0, meeting: str = "") -> Job:
    """The task as its kind sees it, in one of the processes that share it."""
    gpus = len(start.gpus)
    allotment = Allotment(start.cores, start.memory_bytes, gpus, start.aside, processes, rank, meeting)
    return (_JobInLine if start.in_line else Job)(
        task=start.task,
        kind=start.kind,
        settings=settings,
        inputs=start.inputs,
        scratch=Path(start.scratch),
        allotment=allotment,
        budget_s=start.budget_s,
        trained_s=start.trained_s,
        resume=Path(start.resume) if start.resume else None,
        checkpoint_number=start.checkpoint_number,
        memory_attempts=start.memory_attempts,
        seed=seed_of(start.task),
    )


def seed_of(task: str) -> int:
    """The task's seed, 0 to 2^32 - 1: the same on every attempt and machine, and a size that every library takes."""
    return int.from_bytes(hashlib.sha256(task.encode()).digest()[:4], "big")


@contextlib.contextmanager
def threads(runtime: Runtime, count: int) -> Iterator[None]:
    """Compute with `count` threads in the libraries of this runtime, which were loaded before the count was known."""
    if runtime is Runtime.TORCH:
        import torch

        torch.set_num_threads(count)
    if runtime is Runtime.LIGHT:
        yield
    else:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(count):
            yield


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Translate every library's way to say 'out of memory' into ours; the traceback, which holds memory, is dropped."""
    try:
        yield
    except MemoryError:
        raise OutOfMemory() from None
    except RuntimeError as error:
        if any(word in str(error).lower() for word in MEMORY_WORDS):
            raise OutOfMemory(f"The task did not fit into memory: {str(error)[:300]}") from None
        raise


def is_of_device(error: BaseException) -> bool:
    """True when a GPU or its driver failed, false when the program asked for something impossible of it."""
    said = str(error)
    return (
        isinstance(error, RuntimeError)
        and any(word in said for word in DEVICE_WORDS)
        and not any(word in said for word in PROGRAM_WORDS)
    )


def _finished(start: Start, made: Made, seconds: float, *, wrote: bool) -> Frame:
    """The frame for what a kind gave back. TaskRefused when an output is not below the scratch folder or not there."""
    scratch = Path(start.scratch).resolve() if made.outputs else Path()
    for name, path in made.outputs.items():
        if not path.exists() or not path.resolve().is_relative_to(scratch):
            raise TaskRefused(f"Output {name!r} of kind {start.kind!r} must lie below {scratch}, got {path}.")
    return frames.Finished(
        run=start.run,
        outputs={name: str(path) for name, path in made.outputs.items()},
        media=dict(made.media),
        facts_of={name: dict(facts) for name, facts in made.facts_of.items()},
        kpis={name: float(value) for name, value in made.kpis.items()},
        stopped_by=made.stopped_by,
        facts=dict(made.facts),
        exact=made.exact,
        seconds=seconds,
        wrote=wrote,
    )


def survey() -> tuple[dict[str, KindRow], dict[str, str]]:
    """(kinds that can be run here, those that can not and why)."""
    usable, broken = {}, {}
    for name, info in kinds.kind_infos().items():
        if lacking := kinds.missing(info):
            broken[name] = ", ".join(lacking)
        else:
            usable[name] = KindRow(info.version, info.runtime)
    return usable, broken


def fingerprint(runtime: Runtime) -> dict[str, str]:
    """Versions and capabilities on which the bits of a result depend."""
    found = {
        "python": python_platform.python_version(),
        "machine": python_platform.machine(),
        "system": python_platform.system(),
    }
    if runtime is Runtime.TORCH:
        import torch

        found |= {"torch": str(torch.__version__), "cpu": str(torch.backends.cpu.get_cpu_capability())}
    if runtime is not Runtime.LIGHT:
        import numpy as np

        found["numpy"] = np.__version__
    return found


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    text = text if isinstance(error, Reject | OutOfMemory) else f"{type(error).__name__}: {text}"
    return text[: limits.TEXT_CHARS_MAX]


if __name__ == "__main__":
    main(sys.argv[1:])
