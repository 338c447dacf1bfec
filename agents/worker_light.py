"""A light lease without inputs: it goes through the lane of light tasks, and costs no task, thread or folder.

    waits or runs in the lane -> Finished, nothing written -> result row       the way of nearly all
                              -> anything else             -> the way of every lease (worker_task.py) from its ending on

What others ask of a lease (stop, give back, no time left) means the same here; only a lease that still waits, or whose
turn in a child's line has not come, is over at once.
"""

from __future__ import annotations

from collections.abc import Callable

from agents.holdings import Begin
from agents.worker_task import NOT_RUNNING, Running, Stage, Tools
from executors.frames import Finished, Halted
from executors.lane import Ending, Lane, Ticket
from executors.port import Runtime
from mesh.errors import RamifyError
from mesh.messages.commands import ResultFound
from mesh.messages.leases import Held, Lease


def is_light(lease: Lease, tools: Tools) -> bool:
    """True when the lease can go through the lane: a light kind, and nothing to fetch."""
    spec = lease.task
    return tools.runtimes.get(spec.executor) is Runtime.LIGHT and not spec.inputs and not lease.resume


class LightRunning(Running):
    """One such lease."""

    def __init__(
        self, begin: Begin, tools: Tools, lane: Lane, over: Callable[[], None], go_on: Callable[[], None]
    ) -> None:
        """over: the last row is in the outbox; go_on: run this as a task of its own, from its ending on."""
        super().__init__(begin, tools)
        self.stage = Stage.WAITING
        self._lane, self._over, self._go_on = lane, over, go_on
        self._ending: Ending | None = None
        self._left = False
        """The lane has nothing more to do with it."""
        self._ticket = Ticket(self._start(0, {}, "", 0.0, in_line=True), self._bounds, self._hear, self._ended)

    def begin(self) -> None:
        """Get in line."""
        self._lane.submit(self._ticket)

    def held(self) -> Held:
        """This lease in a beat. Safe from any thread."""
        if self._child is not None or self._left:
            return super().held()
        silent_s, step, waits = self._lane.look(self._ticket)
        return Held(task=self._spec.id, epoch=self._epoch, silent_s=round(silent_s, 3), step=step, waits=waits)

    def void(self, reason: str) -> None:
        if self._left:
            super().void(reason)
        else:
            self._voided = reason or "the lease is over"
            self._leave()

    def give_back(self, reason: str) -> None:
        self._yielding = self._yielding or reason
        if not self._left and not self._lane.halt(self._ticket, "checkpoint"):
            self._leave()

    def _not_now(self) -> str:
        if self._left or self._voided or self._abandoned or self._yielding:
            return super()._not_now()
        return "" if self._lane.save(self._ticket) else NOT_RUNNING[Stage.WAITING]

    def abandon(self, reason: str) -> None:
        if self._left:
            super().abandon(reason)
        else:
            self._abandoned = self._abandoned or reason
            self._leave()

    def end(self) -> None:
        if self._left:
            super().end()
        else:
            self._left = True
            self._lane.drop(self._ticket)

    def _leave(self) -> None:
        """Out of the lane, without an ending."""
        self._left = True
        self._lane.drop(self._ticket)
        self._go_on()

    def _ended(self, ending: Ending) -> None:
        self._left, self._ending = True, ending
        if isinstance(ending, Finished) and not ending.wrote:
            self._seconds = round(self.lease.trained_s + ending.seconds, 3)
            incarnation = self._tools.incarnation
            row = ResultFound(key=self._result_key, incarnation=incarnation, outcome=self._outcome(ending))
            self._tools.debts.hand(row, self._recorded)
        else:
            self._go_on()

    def _recorded(self) -> None:
        self.stage = Stage.OVER
        self._count(ResultFound.kind)
        self._over()

    # -- from the ending on -------------------------------------------------------------------------------------------

    def _is_off(self) -> bool:
        return self._ending is None or bool(self._voided)

    async def _work(self) -> Finished | Halted:
        ending = self._ending
        assert ending is not None
        if isinstance(ending, RamifyError):
            raise ending
        if isinstance(ending, Finished):
            self._seconds = round(self.lease.trained_s + ending.seconds, 3)
            if ending.outputs:
                self._spool(ending)
        return ending
