"""One lease from its inputs to its last row: fetch, run in a child, upload, owe.

    fetch -> wait for a child -> run --Finished--> spool -> upload outputs -> result
                                  |--Halted-----> newest checkpoint uploaded -> give-back
                                  |--error------> failure, with the class that the error's class means
    void      (the leader said stop)      the child is killed, nothing is recorded
    yield     (give back)                 before the child runs: at once; while it runs: after a last checkpoint
    abandon   (no time left)              the child is killed; give-back, unless a finished result is spooled

The broker may be away all along: inputs wait, training goes on, checkpoints and results wait on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import os
import time
from collections.abc import Mapping
from pathlib import Path

from agents import worker_spool
from agents.holdings import Begin
from agents.owed import Debts
from agents.patience import patiently
from agents.worker_checkpoints import Checkpoints
from agents.worker_devices import Devices, Fitted, Use, shape_of
from agents.worker_resume import Beginning, Resume
from agents.worker_spool import Spooled
from agents.worker_studies import Studies
from agents.worker_training import Reported
from executors.frames import (
    Checkpointed,
    Consult,
    Finished,
    Frame,
    Halted,
    Heeds,
    Placed,
    Progressed,
    Snapshotted,
    Start,
)
from executors.isolation import Bounds, Child
from executors.packer import Packer
from executors.pool import Pool
from executors.port import Runtime
from executors.room import WAITS
from mesh import limits, metrics, traced, tracing
from mesh.artifacts import ArtifactStore
from mesh.cache import disk_errors, remove_folder
from mesh.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    DeviceBroke,
    DiskFull,
    OutOfMemory,
    RamifyError,
    Reject,
    Retry,
    Stop,
)
from mesh.log import about
from mesh.log import get as get_log
from mesh.messages.base import Key
from mesh.messages.commands import FailureClass, FailureFound, GiveBack, ResultFound
from mesh.messages.leases import Held
from mesh.messages.results import Progress
from mesh.messages.services import SaveAnswer
from mesh.messages.tasks import Outcome

log = get_log("agents.worker")

LIGHT_PARALLEL = 4
"""Light tasks that run at once; further ones wait in the worker's short queue."""

SCHEME = "builtin:"
"""Inputs that every worker can resolve by itself; they go to the kind as they are."""


class Stage(enum.StrEnum):
    """Where a lease stands in this worker."""

    FETCHING = "fetching"
    WAITING = "waiting"
    """For a child, or for its turn."""
    RUNNING = "running"
    UPLOADING = "uploading"
    OVER = "over"


NOT_RUNNING = {
    Stage.FETCHING: "its inputs are still on their way to the worker",
    Stage.WAITING: "it waits for its turn on the worker",
    Stage.RUNNING: "it is just beginning or just ending",
    Stage.UPLOADING: "its work is done, and on its way into the mesh",
    Stage.OVER: "its work is done",
}
"""Why no checkpoint can be taken when no child works on a lease."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What all running leases of a worker share."""

    worker: str
    incarnation: str
    store: ArtifactStore
    pool: Pool
    packer: Packer
    debts: Debts
    scratch: Path
    runtimes: Mapping[str, Runtime]
    """Runtime of each kind."""
    gpu_numbers: tuple[int, ...]
    """The driver's number of each GPU in the capacity."""
    light: asyncio.Semaphore
    cache_bytes_max: int = 0
    """Size of the local cache."""
    devices: Devices = dataclasses.field(default_factory=Devices)
    fitted: Fitted = dataclasses.field(default_factory=Fitted)
    studies: Studies | None = None
    """Where tasks put and read the logs of studies."""


class Running:
    """One lease that this worker holds."""

    def __init__(self, begin: Begin, tools: Tools) -> None:
        self.lease = begin.lease
        self.stage = Stage.FETCHING
        self.news: Progressed | None = None
        """Newest progress that was not yet published."""
        self.outputs_wait = ""
        """Why what it has computed is not written or stored at the moment, in a sentence."""
        self._tools, self._gpus = tools, tuple(tools.gpu_numbers[index] for index in begin.gpus)
        self._gpu_memory_bytes = begin.gpu_memory_bytes
        self._spec, self._epoch = begin.lease.task, begin.lease.epoch
        self._resume = Resume(begin.lease)
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._voided = ""
        self._yielding = ""
        self._abandoned = ""
        self._finished: Spooled | None = None
        """The result, once the child has said that it is done and its outputs lie in the folder."""
        self._handed = begin.lease.checkpoint_number
        """Number of the newest checkpoint that the child has handed over."""
        self._heeds = False
        """The task looks for requests to save."""
        self._phase = ""
        self._aside = ""
        """Why it leaves its GPUs alone from now on, if so."""
        self._use = Devices().use(())
        self._patience: asyncio.Timeout | None = None
        """With the devices' proof that they compute."""
        self._spooled = False
        """It is written down: what a later life can deliver."""
        self._seconds = 0.0
        self._uploads: Checkpoints | None = None
        self._reported = Reported(self._spec.executor)

    # -- what others see and ask --------------------------------------------------------------------------------------

    def held(self) -> Held:
        """This lease in a beat. Safe from any thread."""
        child = self._child
        silent_s, step = (child.silent_s, child.step) if child is not None else (0.0, 0)
        waits = self.stage in (Stage.FETCHING, Stage.WAITING)
        return Held(task=self._spec.id, epoch=self._epoch, silent_s=round(silent_s, 3), step=step, waits=waits)

    @property
    def needed(self) -> tuple[str, ...]:
        """Digests of the inputs, and of the checkpoints to start from."""
        return tuple(digest for digest in (*self._spec.inputs.values(), *self._resume.digests) if _is_digest(digest))

    @property
    def paused(self) -> str:
        """Why its checkpoints are not stored at the moment, or ''."""
        return "" if self._uploads is None else self._uploads.paused

    @property
    def checkpoint_age_s(self) -> float:
        """Since its newest checkpoint was stored; 0 for what has made none, or is not running."""
        running = self._uploads is not None and self.stage is Stage.RUNNING
        return time.monotonic() - self._uploads.stored_at if running and self._uploads is not None else 0.0

    @property
    def held_up(self) -> str:
        """Why its checkpoints or outputs are not stored at the moment, or ''."""
        return self.outputs_wait or self.paused

    def take_progress(self) -> Progress | None:
        """What to tell subscribers now, if there is news."""
        news, self.news = self.news, None
        if news is None:
            return None
        return Progress(
            topic=self._spec.topic,
            task=self._spec.id,
            epoch=self._epoch,
            worker=self._tools.worker,
            line=self._spec.line,
            purpose=self._spec.purpose,
            step=news.step,
            done=min(1.0, max(0.0, news.done)),
            metrics=dict(list(news.metrics.items())[:32]),
            phase="checkpoints wait" if self.paused and news.phase in ("", "training") else news.phase,
        )

    def void(self, reason: str) -> None:
        """The lease is over: kill what runs for it and record nothing. A finished result is delivered all the same:
        while the task is open the ledger takes it under a new epoch."""
        if self._finished is not None:
            return
        self._voided = self._voided or reason or "the lease is over"
        self._cancel()

    def give_back(self, reason: str) -> None:
        """Stop as soon as a last checkpoint is made; what is already finished is still delivered."""
        self._yielding = self._yielding or reason
        if self._child is not None and self.stage is Stage.RUNNING:
            self._child.halt("checkpoint")
        elif self.stage in (Stage.FETCHING, Stage.WAITING):
            self._cancel()

    def save(self) -> SaveAnswer:
        """Ask for a checkpoint; the work goes on."""
        if why := self._not_now():
            return SaveAnswer(task=self._spec.id, asked=False, reason=why)
        hint = self.held_up
        if not self._heeds:
            hint = (
                f"its kind {self._spec.executor} takes none when it is asked, or has not come to the part of its work "
                f"that does{f' (it is at: {self._phase})' if self._phase else ''}"
            )
        return SaveAnswer(task=self._spec.id, asked=True, number=self._handed, reason=hint)

    def _not_now(self) -> str:
        """Ask the child to save; why that can not be, or ''."""
        if self._yielding or self._abandoned or self._voided:
            return "it is being stopped"
        if self._child is None or self.stage is not Stage.RUNNING:
            return NOT_RUNNING[self.stage]
        self._child.save()
        return ""

    def abandon(self, reason: str) -> None:
        """No time is left: kill what runs, keep what is on disk."""
        self._abandoned = self._abandoned or reason
        self._cancel()

    def end(self) -> None:
        """The worker's life is over: kill what runs, start nothing for it."""
        self.abandon("the worker stops")

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # -- the life of a lease ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when the last row of this lease is in the outbox, or nothing of it will ever be recorded."""
        spec, epoch = self._spec, self._epoch
        with tracing.within(traced.attempt(spec, epoch)), about(topic=spec.topic, task=spec.id, epoch=str(epoch)):
            await self._live()

    async def _live(self) -> None:
        self._task = asyncio.current_task()
        try:
            if self._is_off():
                await self._after_cancel()
            else:
                await self._attempt()
        except asyncio.CancelledError:
            if not (self._voided or self._yielding or self._abandoned):
                raise
            assert self._task is not None
            self._task.uncancel()
            await self._after_cancel()
        finally:
            self.stage = Stage.OVER
            await self._checkpoints.close()

    def _is_off(self) -> bool:
        """True when it was stopped before it began."""
        return bool(self._voided or self._yielding)

    async def _after_cancel(self) -> None:
        if self._voided:
            self._count("voided")
            log.info("%s under %s is void: %s", self._spec.id, self._epoch, self._voided)
            await asyncio.to_thread(remove_folder, self._folder)
        elif not self._spooled:
            await self._owe_give_back()

    async def _attempt(self) -> None:
        """Do the work; whatever goes wrong becomes a failure row."""
        try:
            ending = await self._work()
            if isinstance(ending, Halted):
                self.stage = Stage.UPLOADING
                await self._checkpoints.flush()
                await self._owe_give_back()
            else:
                await self._deliver(ending)
        except DeviceBroke as error:  # not the task's fault: it goes on from its newest checkpoint
            self._yielding = self._yielding or str(error)
            self.stage = Stage.UPLOADING
            await self._checkpoints.flush()
            await self._owe_give_back()
        except RamifyError as error:
            await self._owe_failure(error)
        except Exception as error:  # a defect of ours must not take the worker's other tasks along
            log.error("running %s failed by a defect", self._spec.id, exc_info=error)
            await self._owe_failure(Retry(f"{type(error).__name__}: {error}"))

    async def _work(self) -> Finished | Halted:
        """Fetch, get a child, run: from the newest checkpoint that is whole."""
        with self._tools.store.hold(*self.needed):
            inputs = {name: await self._input(value) for name, value in self._spec.inputs.items()}
            for beginning in self._resume.beginnings():
                resume = await self._resume.fetch(beginning, self._fetch)
                if resume is None:
                    continue
                try:
                    return await self._in_child(inputs, beginning, resume)
                except ArtifactCorrupt as error:  # of a checkpoint that is no snapshot of this task, perhaps
                    if not resume or self._uploads is not None:
                        raise
                    self._resume.pass_over(beginning, error)
        raise AssertionError("the beginning is always tried")

    async def _in_child(self, inputs: dict[str, str], beginning: Beginning, resume: str) -> Finished | Halted:
        tools, runtime = self._tools, self._tools.runtimes[self._spec.executor]
        self.stage = Stage.WAITING
        if runtime is Runtime.SCIENCE:
            tools.pool.expect(Runtime.TORCH)  # a profile or baseline is followed by training
        async with tools.light if runtime is Runtime.LIGHT else contextlib.nullcontext():
            while True:
                child = await tools.pool.take(runtime)
                try:
                    return await self._run_in(child, inputs, beginning, resume)
                except DeviceBroke as error:
                    if self._aside or self._handed > self.lease.checkpoint_number:
                        raise
                    self._aside = str(error)
                    log.warning("%s runs on the CPU from its beginning: %s", self._spec.id, error)
                finally:
                    self._child = None
                    tools.pool.give(child)

    async def _run_in(
        self, child: Child, inputs: dict[str, str], beginning: Beginning, resume: str
    ) -> Finished | Halted:
        with disk_errors("A task's scratch folder", self._folder):
            await asyncio.to_thread(remove_folder, self._folder)
            self._folder.mkdir(parents=True)
        self._use = self._tools.devices.use(self._gpus, self.lease.memory_attempts, self._aside)
        start = self._start(child.runs + 1, inputs, resume, beginning.trained_s)
        self._child, self.stage = child, Stage.RUNNING
        began = time.monotonic()
        if self._yielding:
            return Halted(run=start.run)
        ending = await self._run_on(self._use, child, start)
        self._seconds = round(beginning.trained_s + time.monotonic() - began, 3)
        if isinstance(ending, Finished) and ending.outputs:
            self._spool(ending)
        return ending

    async def _run_on(self, use: Use, child: Child, start: Start) -> Finished | Halted:
        """Run on these devices; what the end says about them, and about the memory that the task took."""
        patience_s = self._tools.devices.policy.timeout_s if use.gpus else None
        try:
            async with asyncio.timeout(patience_s) as self._patience:
                ending = await child.run(start, self._bounds, self._hear)
            use.ended()
            if isinstance(ending, Finished):
                self._fits(start, start.memory_attempts)
            return ending
        except TimeoutError:
            use.failed(f"no answer within {patience_s:g} s")
            raise DeviceBroke(f"the GPU proved nothing within {patience_s:g} s") from None
        except DeviceBroke as error:
            use.failed(str(error))
            raise
        except OutOfMemory:
            use.ended()
            self._fits(start, start.memory_attempts + 1)
            raise
        except Reject:
            use.ended()
            raise
        finally:
            use.withdrawn()  # of whatever else: it says nothing about the devices
            self._patience = None

    def _fits(self, start: Start, halvings: int) -> None:
        """So often the batch has to be halved at least, on this machine."""
        if self._tools.runtimes.get(self._spec.executor) is Runtime.TORCH:
            self._tools.fitted.note(shape_of(self._spec, bool(start.gpus)), halvings)

    @property
    def _bounds(self) -> Bounds:
        spec = self._spec
        return Bounds(wall_s=spec.wall_s_max, stall_s=spec.stall_s, memory_bytes=spec.needs.memory_bytes)

    def _start(
        self, run: int, inputs: dict[str, str], resume: str, trained_s: float, *, in_line: bool = False
    ) -> Start:
        spec, lease, halvings = self._spec, self.lease, 0
        if self._tools.runtimes.get(spec.executor) is Runtime.TORCH:
            halvings = self._tools.fitted.halvings(shape_of(spec, bool(self._use.gpus)))
        return Start(
            run=run,
            task=spec.id,
            kind=spec.executor,
            kind_version=spec.executor_version,
            settings=spec.settings,
            inputs=inputs,
            scratch=self._scratch,
            cores=spec.needs.cores,
            memory_bytes=spec.needs.memory_bytes,
            gpus=self._use.gpus,
            gpu_memory_bytes=self._gpu_memory_bytes if self._use.gpus else 0,
            aside=self._use.aside,
            budget_s=spec.budget_s,
            trained_s=trained_s,
            resume=resume,
            checkpoint_number=lease.checkpoint_number,
            memory_attempts=max(lease.memory_attempts, halvings),
            packs=self._tools.runtimes[spec.executor] is Runtime.TORCH,
            in_line=in_line,
        )

    def _hear(self, frame: Frame) -> None:
        if isinstance(frame, Placed):
            if self._patience is not None:
                self._patience.reschedule(None)
            self._use.placed(frame.reason)
        elif isinstance(frame, Progressed):
            self.news = frame
            self._reported.note(frame.step, frame.metrics)
            self._phase = frame.phase
            self._heed_phase(frame.phase)
        elif isinstance(frame, Checkpointed) and Path(frame.folder).is_relative_to(self._folder):
            self._handed = max(self._handed, frame.number)
            self._checkpoints.offer(frame)
        elif isinstance(frame, Snapshotted) and self._child is not None:
            self._handed = max(self._handed, frame.number)
            self._take(frame, self._child)
        elif isinstance(frame, Heeds):
            self._heeds = True
        elif isinstance(frame, Consult) and self._child is not None and self._tools.studies is not None:
            self._tools.studies.answer(frame, self._spec.id, self._epoch, self._child)

    def _take(self, made: Snapshotted, child: Child) -> None:
        """A snapshot in the child's own memory, or in a file of its scratch folder."""

        def release(lacked_room: bool) -> None:
            child.release(made.run, made.number, lacked_room=lacked_room)

        own = os.path.dirname(made.buffer) == f"/proc/{child.pid}/fd" or Path(made.buffer).is_relative_to(self._folder)
        if own and os.access(made.buffer, os.R_OK):
            self._checkpoints.take(made, release)
        else:
            log.warning("the memory of %s can not be opened: its checkpoints come as folders", self._spec.id)
            child.release(made.run, made.number, unreadable=True)

    async def _input(self, value: str) -> str:
        """A local path for an input. One that is missing or damaged is tried again later: it may be sent once more,
        and the leader has it made anew when it is not."""
        if value.startswith(SCHEME):
            return value
        try:
            return await self._fetch(value)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            raise Retry(str(error), lacks=(value,)) from None

    async def _fetch(self, digest: str) -> str:
        """A local path for an artifact; waits for a broker that is away."""
        path = await patiently(
            lambda: self._tools.store.get(digest, progress=self._fetched),
            f"an input of {self._spec.id}",
            self._say,
            although_full=False,
        )
        return str(path)

    def _fetched(self, done: int, total: int) -> None:
        metrics = {"fetched_bytes": float(done), "of_bytes": float(total)}
        self.news = Progressed(run=0, step=0, done=0.0, metrics=metrics, phase="fetching")

    # -- endings ------------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return Path(self._scratch)

    @property
    def _scratch(self) -> str:
        return os.path.join(self._tools.scratch, f"{self._spec.id}.{self._epoch}")

    @property
    def _checkpoints(self) -> Checkpoints:
        """The uploads of this lease; most light ones never have any."""
        if self._uploads is None:
            tools = self._tools
            self._uploads = Checkpoints(
                self._spec.id,
                self._epoch,
                tools.incarnation,
                tools.store,
                tools.packer,
                tools.debts.owe,
                self._folder / "packed",
                cache_bytes_max=tools.cache_bytes_max,
            )
        return self._uploads

    def _outcome(self, made: Finished) -> Outcome:
        """What the result will say, but for the digests of its outputs."""
        return Outcome(
            kpis=made.kpis,
            stopped_by=made.stopped_by,
            seconds=self._seconds,
            facts={**made.facts, **self._resume.facts},
            exact=made.exact,
        )

    def _spool(self, made: Finished) -> None:
        """Write the result down beside its outputs, before anything else can go wrong. A disk without room for it costs
        no result: it is tried again while the outputs wait, and done without when they do not."""
        self._finished = Spooled(
            key=self._result_key,
            incarnation=self._tools.incarnation,
            outputs={name: str(Path(path).relative_to(self._folder)) for name, path in made.outputs.items()},
            media=made.media,
            facts_of=made.facts_of,
            outcome=self._outcome(made),
        )
        try:
            self._write_down(self._finished)
        except DiskFull as error:
            log.warning("the result of %s is not written down before it is uploaded: %s", self._spec.id, error)

    def _write_down(self, finished: Spooled) -> None:
        with disk_errors("A finished result", self._folder):
            worker_spool.save(self._folder, finished)
        self._spooled = True

    async def _deliver(self, made: Finished) -> None:
        """Upload and owe. A result without outputs needs no upload: the outbox alone keeps it safe."""
        self.stage = Stage.UPLOADING
        await self._checkpoints.close()
        if self._finished is not None:
            self.news = Progressed(run=0, step=0, done=1.0, metrics={}, phase="uploading")
            await worker_spool.deliver(
                self._folder, self._finished, self._tools.store, self._tools.debts.owe, self._outputs_are_waiting
            )
            self.outputs_wait = ""
        else:
            incarnation = self._tools.incarnation
            await self._tools.debts.owe(
                ResultFound(key=self._result_key, incarnation=incarnation, outcome=self._outcome(made))
            )
            await asyncio.to_thread(remove_folder, self._folder)
        self._count(ResultFound.kind)

    @property
    def _result_key(self) -> Key:
        return Key(self._spec.id, self._epoch, ResultFound.kind, 1)

    async def _owe_give_back(self) -> None:
        reason = self._abandoned or self._yielding or "the worker stops"
        key = Key(self._spec.id, self._epoch, GiveBack.kind, 1)
        await self._tools.debts.owe(GiveBack(key=key, incarnation=self._tools.incarnation, reason=reason))
        await asyncio.to_thread(remove_folder, self._folder)
        self._count(GiveBack.kind)

    async def _owe_failure(self, error: RamifyError) -> None:
        key = Key(self._spec.id, self._epoch, FailureFound.kind, 1)
        reason = (str(error) or type(error).__name__)[: limits.TEXT_CHARS_MAX]
        row = FailureFound(
            key=key,
            incarnation=self._tools.incarnation,
            failure=failure_class(error),
            reason=reason,
            missing=tuple(map(str, error.facts.get("lacks", ()))),  # type: ignore[call-overload]
        )
        await self._checkpoints.flush()  # the next attempt goes on from it (also the one that a person asks for with
        # `resubmit`), and the ledger wants it before the end
        await self._tools.debts.owe(row)
        await asyncio.to_thread(remove_folder, self._folder)
        self._count(FailureFound.kind)
        log.warning("%s under %s failed (%s): %s", self._spec.id, self._epoch, row.failure, reason)

    def _count(self, outcome: str) -> None:
        metrics.count("mesh_tasks_run_total", kind=self._spec.executor, outcome=outcome)

    def _outputs_are_waiting(self, text: str) -> None:
        """Told to whoever watches, and again with each turn that is in vain."""
        self.outputs_wait = text[: limits.TEXT_CHARS_MAX]
        self.news = Progressed(run=0, step=0, done=1.0, metrics={}, phase="outputs wait")
        self._say(text)
        if self._finished is not None and not self._spooled:
            with contextlib.suppress(DiskFull):
                self._write_down(self._finished)

    def _heed_phase(self, phase: str) -> None:
        """What the child says of room on this disk for its outputs is told on, as long as it says so."""
        waits = phase == WAITS
        if waits and not self.outputs_wait:
            text = f"outputs of {self._spec.id} wait: there is no room left below {self._scratch}, free some space"
            self.outputs_wait = text[: limits.TEXT_CHARS_MAX]
            log.warning("%s", text)
        elif not waits:
            self.outputs_wait = ""

    def _say(self, text: str) -> None:
        log.info("%s", text)


def failure_class(error: RamifyError) -> FailureClass:
    """What an error means for the task. A Stop is this machine's trouble: the task goes elsewhere."""
    if isinstance(error, OutOfMemory):
        return FailureClass.MEMORY
    if isinstance(error, Reject):
        return FailureClass.REJECT
    assert isinstance(error, Retry | Stop)
    return FailureClass.RETRY


def _is_digest(value: str) -> bool:
    return len(value) == 64 and not value.startswith(SCHEME)
