"""What the leader answers when commands ask: status, tasks, workers, agents, and the welcome to a hello."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agents.runtime import HELLO_EVERY_S, Agent, now_s
from mesh import limits
from mesh.messages.services import AgentRow, Ask, Hello, Status, TaskRow, Welcome, WorkerRow
from mesh.messages.tasks import TaskState
from mesh.stores import home_of, unlike
from mesh.version import PROGRAM_VERSION
from planner.ledger import Task
from planner.scheduling import Scheduler
from planner.workers import Worker

AGENTS_MAX = 10_000
"""Agents remembered by their hello; the quietest is forgotten first."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    hello: Hello
    at: float


class Views:
    """Read-only pictures of the mind, for people."""

    def __init__(self, agent: Agent, mind: Scheduler) -> None:
        self._agent = agent
        self._mind = mind
        self._seen: dict[str, _Seen] = {}

    def welcome(self, hello: Hello, ledger_seq: int) -> Welcome:
        """Accept an agent, or refuse it with a sentence: it speaks another protocol, or would look for artifacts, and
        leave them, where nobody else of the mesh does."""
        if hello.protocol_min > limits.PROTOCOL_MAX or hello.protocol_max < limits.PROTOCOL_MIN:
            reason = (
                f"The mesh speaks protocol {limits.PROTOCOL_MIN} to {limits.PROTOCOL_MAX} (Ramify {PROGRAM_VERSION}), "
                f"{hello.name} speaks {hello.protocol_min} to {hello.protocol_max} (Ramify {hello.program}): "
                "update the older side."
            )
            return Welcome(accepted=False, reason=reason)
        ours = home_of(self._agent.settings)
        theirs = hello.facts.get("artifacts", ours)
        if theirs != ours:
            reason = (
                f"The artifacts of this mesh lie in {ours}, {hello.name} has them in {str(theirs)[:200]}: give it the "
                "settings of section artifacts that the scheduler has."
            )
            return Welcome(accepted=False, reason=reason)
        if reason := unlike(self._agent.store_identity.value, _store_of(hello), hello.name, ours):
            return Welcome(accepted=False, reason=reason)
        self._seen[hello.incarnation] = _Seen(hello, now_s())
        if len(self._seen) > AGENTS_MAX:
            del self._seen[min(self._seen, key=lambda name: self._seen[name].at)]
        ledger = self._mind.ledger
        return Welcome(
            accepted=True,
            leader=self._agent.name,
            term=ledger.term,
            generation=ledger.generation,
            ledger_seq=ledger_seq,
        )

    async def look_at_store(self, hello: Hello) -> None:
        """Look again which store ours is before somebody is refused for having another one: it may be a new one, or not
        be known yet."""
        if _store_of(hello) not in ("", self._agent.store_identity.value):
            await self._agent.store_identity.look()

    def status(self, ask: Ask, ledger_seq: int) -> Status:
        """The answer to a question; as many rows as it wants and a record holds."""
        ledger = self._mind.ledger
        rows_max = min(ask.rows_max, limits.SERVICE_ANSWER_ROWS_MAX)
        tasks = self._tasks(ask) if ask.what in ("tasks", "status") else []
        if ask.what == "dead-letters":
            tasks = self._dead_letters(ask)
        workers = list(self._mind.workers.values()) if ask.what in ("workers", "status") else []
        agents = self._agents()
        return Status(
            leader=self._agent.name,
            term=ledger.term,
            generation=ledger.generation,
            ledger_seq=ledger_seq,
            commands_seq=ledger.commands_seq,
            counts={str(state): count for state, count in ledger.counts.items()},
            tasks=self._task_rows(tasks[:rows_max]),
            workers=tuple(self._worker_row(worker) for worker in workers[:rows_max]),
            agents=tuple(agents[:rows_max]),
            left_out=max(0, len(tasks) - rows_max) + max(0, len(workers) - rows_max),
            stale_writes=self._mind.stale_writes,
            restored_from=ledger.restored_from,
            unplanned=self._mind.unplanned(rows_max),
        )

    def _task_rows(self, tasks: list[Task]) -> tuple[TaskRow, ...]:
        """Rows for these tasks; ready ones say why they wait, as far as one look at the workers reaches."""
        now = now_s()
        waits = self._mind.waits(now)
        return tuple(
            _task_row(task, self._mind.workers, self._mind.why_waits(task, now, waits) or task.reason) for task in tasks
        )

    def _tasks(self, ask: Ask) -> list[Task]:
        """Open tasks in the order of submission, leased ones first."""
        names: Iterable[str] = self._mind.ledger.by_topic.get(ask.topic, ()) if ask.topic else self._mind.ledger.tasks
        tasks = [self._mind.ledger.tasks[name] for name in names if ask.task in ("", name)]
        return sorted(tasks, key=lambda task: (task.state is not TaskState.LEASED, task.order))

    def _dead_letters(self, ask: Ask) -> list[Task]:
        """Parked tasks that may be resubmitted, the newest first."""
        dead = reversed(self._mind.ledger.dead_letters.values())
        return [task for task in dead if ask.topic in ("", task.spec.topic) and ask.task in ("", task.spec.id)]

    def _agents(self) -> list[AgentRow]:
        now = now_s()
        fresh = [seen for seen in self._seen.values() if now - seen.at < 3 * HELLO_EVERY_S]
        self._seen = {seen.hello.incarnation: seen for seen in fresh}
        own = _Seen(self._agent.hello(), now)
        return [
            AgentRow(
                role=seen.hello.role,
                name=seen.hello.name,
                incarnation=seen.hello.incarnation,
                program=seen.hello.program,
                host=seen.hello.host,
                pid=seen.hello.pid,
                seen_age_s=round(now - seen.at, 1),
            )
            for seen in sorted([own, *fresh], key=lambda seen: (seen.hello.role, seen.hello.name))
        ]

    def _worker_row(self, worker: Worker) -> WorkerRow:
        offer, seen = worker.beat.offer, self._seen.get(worker.incarnation)
        drain = self._mind.ledger.drained.get(worker.name)
        return WorkerRow(
            name=worker.name,
            incarnation=worker.incarnation,
            state=str(worker.state),
            beat_age_s=round(now_s() - worker.beat_at, 2),
            cores_free=offer.cores,
            memory_free_bytes=offer.memory_bytes,
            gpus_free=offer.gpus,
            labels=offer.labels,
            kinds=offer.kinds,
            held=tuple(sorted(self._mind.ledger.by_incarnation.get(worker.incarnation, ()))),
            host=seen.hello.host if seen else "",
            pid=seen.hello.pid if seen else 0,
            drained=drain is not None,
            note=worker.beat.note or (drain.reason if drain is not None else ""),
        )


def _store_of(hello: Hello) -> str:
    return str(hello.facts.get("artifact_store", ""))


def _task_row(task: Task, workers: dict[str, Worker], reason: str) -> TaskRow:
    spec, worker = task.spec, workers.get(task.incarnation)
    held = {lease.task: lease for lease in worker.beat.held} if worker else {}
    step = held[spec.id].step if spec.id in held else (task.checkpoint.step if task.checkpoint else 0)
    return TaskRow(
        id=spec.id,
        topic=spec.topic,
        specialization=spec.specialization,
        executor=spec.executor,
        purpose=spec.purpose,
        line=spec.line,
        state=task.state,
        epoch=task.epoch if task.attempts else None,
        incarnation=task.incarnation if task.state is TaskState.LEASED else "",
        attempts=task.attempts,
        priority=spec.priority,
        step=step,
        checkpoint_number=task.checkpoint.number if task.checkpoint else 0,
        checkpoint_step=task.checkpoint.step if task.checkpoint else 0,
        reason=reason or (f"waits for {', '.join(sorted(task.missing))}" if task.missing else ""),
        needs=spec.needs,
    )
