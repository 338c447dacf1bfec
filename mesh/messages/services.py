"""Hello, and the questions that commands ask of running agents (request and reply on core NATS)."""

from __future__ import annotations

from typing import ClassVar

from mesh import limits
from mesh.messages.base import Epoch, Facts, Key, Part, Record, check_name, check_text
from mesh.messages.leases import Receipt
from mesh.messages.tasks import Line, Needs, TaskState


class Hello(Record, frozen=True, kw_only=True):
    """An agent introduces itself to the leader: what it speaks and what it can do."""

    kind: ClassVar[str] = "hello"

    role: str
    name: str
    incarnation: str
    protocol_min: int
    protocol_max: int
    program: str
    """Version of the program."""
    kinds: dict[str, int] = {}
    host: str = ""
    pid: int = 0
    facts: Facts = {}

    def __post_init__(self) -> None:
        check_name(self.role, "a role")
        check_name(self.name, "an agent's name")


class Welcome(Record, frozen=True, kw_only=True):
    """The leader's answer to a hello: accepted, or refused with a sentence."""

    kind: ClassVar[str] = "welcome"

    accepted: bool
    reason: str = ""
    leader: str = ""
    term: int = 0
    generation: int = 0
    ledger_seq: int = 0


class Ask(Record, frozen=True, kw_only=True):
    """A question to an agent: `status`, `tasks`, `workers`, `agents`, `dead-letters`, with filters."""

    kind: ClassVar[str] = "ask"

    what: str
    topic: str = ""
    open_only: bool = False
    rows_max: int = 200
    deadline_ms: int = 0
    """Wall clock after which the asker no longer waits: an answer may be skipped. 0: none."""
    task: str = ""
    """Only this task."""


class OwedQuestion(Record, frozen=True, kw_only=True):
    """Which of these outbox rows have a receipt? Unknown ones are missing in the answer: send them again."""

    kind: ClassVar[str] = "owed"

    keys: tuple[Key, ...]


class OwedAnswer(Record, frozen=True, kw_only=True):
    """Receipts for the rows that the ledger knows."""

    kind: ClassVar[str] = "owed-answer"

    receipts: tuple[Receipt, ...]
    ledger_seq: int


class SaveQuestion(Record, frozen=True, kw_only=True):
    """Would you take a checkpoint of this task now? Its work goes on. Asked of the worker that runs it."""

    kind: ClassVar[str] = "save"

    task: str


class SaveAnswer(Record, frozen=True, kw_only=True):
    """What came of the request; the checkpoint itself comes as a row, when it is stored."""

    kind: ClassVar[str] = "save-answer"

    task: str
    asked: bool
    """The child that runs the task was asked."""
    number: int = 0
    """Of the newest checkpoint that it has handed over so far: the one that was asked for has a higher one."""
    reason: str = ""
    """Why it was not asked, or what may keep the checkpoint from coming soon."""


class Think(Record, frozen=True, kw_only=True):
    """What would the two lines try, and why? Asked of any planner."""

    kind: ClassVar[str] = "think"

    about: str
    """A topic's id, a node's id, or the text of a topic that nobody has published yet."""
    budget_s: float = 180.0
    """Per line, for what is not published yet."""
    task: str = ""
    """Executor kind, for a text of which nothing is known."""
    modality: str = ""
    """'text', 'tabular', 'corpus' or 'encoder', likewise."""

    def __post_init__(self) -> None:
        check_text(self.about, "what is asked about")
        if not 1 <= self.budget_s <= 30 * 86_400:
            raise ValueError(f"a budget is 1 second to 30 days per line, got {self.budget_s} s")


class Proposed(Part, frozen=True, kw_only=True):
    """What one line tries."""

    line: Line
    executor: str
    """Kind of its task: 'search-step' where it searches."""
    settings: Facts = {}
    """Of the kind that is trained; of a line that searches, those that it falls back on."""
    base: str = ""
    """Digest of the model that it goes on from; '' from zero."""
    budget_s: float = 0.0
    """Training seconds of the line, trials included."""
    charged: Facts = {}
    """Its account: `own`, `inherited`, `charged` (docs/lines.md)."""
    why: str = ""
    """What is different about it, in words."""


class Standing(Part, frozen=True, kw_only=True):
    """A branch that stands below a specialization."""

    id: str
    name: str = ""
    state: str = ""
    examples: int = 0
    champion: str = ""
    """Digest of its champion's model."""
    why: str = ""


class Thought(Record, frozen=True, kw_only=True):
    """Both lines' proposals for a topic."""

    kind: ClassVar[str] = "thought"

    about: str
    topic: str = ""
    """Id of the topic; '' when none is published: its id will decide the draws, and these are examples."""
    planned: bool = False
    """True: this is what was planned; else what would be now."""
    specialization: str = ""
    """Its node; '' when it would be a new one."""
    name: str = ""
    parent: str = ""
    why: str = ""
    """Why this node, and what had to be assumed."""
    task: str = ""
    modality: str = ""
    champion: str = ""
    """Digest of the model that both challenge; '' when there is none."""
    proposals: tuple[Proposed, ...] = ()
    facts: Facts = {}
    """`account`, `shares`, `study`, `lineage` …: as in the facts of a plan."""
    branches: tuple[Standing, ...] = ()


class TaskRow(Part, frozen=True, kw_only=True):
    """One task, as `bin/agent tasks` shows it."""

    id: str
    topic: str
    specialization: str
    executor: str
    purpose: str
    line: Line | None
    state: TaskState
    epoch: Epoch | None = None
    incarnation: str = ""
    attempts: int = 0
    priority: int = 5
    step: int = 0
    checkpoint_number: int = 0
    reason: str = ""
    needs: Needs = Needs()
    checkpoint_step: int = 0
    """Where the newest recorded checkpoint stands."""


class WorkerRow(Part, frozen=True, kw_only=True):
    """One worker, as `bin/agent workers` shows it."""

    name: str
    incarnation: str
    state: str
    """'live', 'suspect', 'wedged' or 'lost'."""
    beat_age_s: float
    cores_free: float
    memory_free_bytes: int
    gpus_free: int
    labels: tuple[str, ...]
    kinds: dict[str, int]
    held: tuple[str, ...]
    host: str = ""
    pid: int = 0
    drained: bool = False
    """Out of service: it gets no leases."""
    note: str = ""
    """Why it takes nothing, in the worker's own words, or in those with which it was drained."""


class AgentRow(Part, frozen=True, kw_only=True):
    """One agent that said hello."""

    role: str
    name: str
    incarnation: str
    program: str
    host: str
    pid: int
    seen_age_s: float


class Status(Record, frozen=True, kw_only=True):
    """The leader's view of the mesh."""

    kind: ClassVar[str] = "status"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    leader: str
    term: int
    generation: int
    ledger_seq: int
    commands_seq: int
    counts: dict[str, int]
    """Tasks by state; ended ones since the ledger began."""
    tasks: tuple[TaskRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    agents: tuple[AgentRow, ...] = ()
    left_out: int = 0
    """Rows that did not fit."""
    stale_writes: int = 0
    restored_from: int = 0
    """Last ledger entry of the store that came back older and began this generation; 0 in the first one."""
    unplanned: tuple[str, ...] = ()
    """Tasks whose results wait, because the plan that named them was lost with the store."""


class Problem(Record, frozen=True, kw_only=True):
    """The answer to a question that can not be answered."""

    kind: ClassVar[str] = "problem"

    reason: str
