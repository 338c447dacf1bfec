"""The stage of the worker's transcripts: answers and endings in, offers and actions out, in words.

capacity cores=2 memory=1000 leases=3 gpus=10,20          begin
answer 5 offer=1 [term=1] [for=other] ITEM …              an answer that is true at ledger sequence 5
    lease=TASK:COUNT[:cores=1][:gpus=1][:gpu_memory=5]    stop=TASK:COUNT  yield=TASK:COUNT  keep=TASK:COUNT
    recorded=TASK:COUNT  refused=TASK:COUNT
told 2                                                  a beat has carried offer 2
ended TASK:COUNT                                          its last row is in the outbox
cached DIGEST …    suspend on|off    drain    show
"""

from __future__ import annotations

from agents.holdings import Action, Begin, Capacity, Holdings, Rewound, Settle, Void, Yield
from mesh.messages.base import Epoch, Key
from mesh.messages.leases import Answer, Lease, Order, OrderKind, Receipt
from mesh.messages.tasks import Needs, TaskSpec

ME = "w1.00000001"


class WorkerStage:
    """Runs one transcript."""

    def __init__(self) -> None:
        self._holdings = Holdings(ME, Capacity(cores=1, memory_bytes=0, disk_bytes=0, leases_max=1))

    def run(self, command: str) -> list[str]:
        """One command; what it led to."""
        verb, *words = command.split()
        before = self._holdings.offer
        lines: list[str] = getattr(self, f"_{verb}")(words)
        if verb not in ("capacity", "show") and self._holdings.offer != before:
            lines.append(self._offer())
        return lines

    def _capacity(self, words: list[str]) -> list[str]:
        given = dict(word.split("=") for word in words)
        gpus = tuple(int(size) for size in given.get("gpus", "").split(",") if size)
        self._holdings = Holdings(
            ME,
            Capacity(
                cores=float(given["cores"]),
                memory_bytes=int(given.get("memory", 0)),
                disk_bytes=0,
                leases_max=int(given["leases"]),
                gpu_memory_bytes=gpus,
            ),
        )
        return [self._offer()]

    def _answer(self, words: list[str]) -> list[str]:
        given = [word.partition("=")[::2] for word in words[1:]]
        options = dict(given)
        answer = Answer(
            incarnation=options.get("for", ME),
            offer=int(options.get("offer", 0)),
            ledger_seq=int(words[0]),
            term=int(options.get("term", 1)),
            leases=tuple(_lease(value) for name, value in given if name == "lease"),
            orders=tuple(_order(name, value) for name, value in given if name in ("stop", "yield", "keep")),
            receipts=tuple(_receipt(name, value) for name, value in given if name in ("recorded", "refused")),
            renew="renew" in options,
        )
        return [_in_words(action) for action in self._holdings.hear(answer)]

    def _told(self, words: list[str]) -> list[str]:
        self._holdings.told(int(words[0]))
        return []

    def _ended(self, words: list[str]) -> list[str]:
        self._holdings.ended(*_name(words[0]))
        return []

    def _cached(self, words: list[str]) -> list[str]:
        self._holdings.cached(words)
        return []

    def _drain(self, words: list[str]) -> list[str]:
        return [_in_words(action) for action in self._holdings.drain("the worker stops")]

    def _suspend(self, words: list[str]) -> list[str]:
        self._holdings.suspend(words == ["on"])
        return []

    def _show(self, words: list[str]) -> list[str]:
        held = " ".join(f"{task}:{epoch.count}" for task, epoch in self._holdings.held)
        declined = " ".join(f"{task}:{epoch.count}" for task, epoch in self._holdings.declined)
        return [self._offer(), f"holds {held or 'nothing'}", f"declines {declined or 'nothing'}"]

    def _offer(self) -> str:
        offer = self._holdings.offer
        words = f"offer {offer.number}: leases={offer.leases_max} cores={offer.cores:g} memory={offer.memory_bytes}"
        gpus = f" gpus={offer.gpus}x{offer.gpu_memory_bytes}" if offer.gpus else ""
        gpus += f" shared={','.join(map(str, offer.gpu_room_bytes))}" if offer.gpu_room_bytes else ""
        return f"{words}{gpus}{' cached=' + ','.join(offer.cached) if offer.cached else ''}"


def _name(text: str) -> tuple[str, Epoch]:
    task, count = text.split(":")[:2]
    return task, Epoch(1, int(count))


def _lease(text: str) -> Lease:
    task, epoch = _name(text)
    given = dict(part.split("=") for part in text.split(":")[2:])
    needs = Needs(
        cores=float(given.get("cores", 1)),
        memory_bytes=int(given.get("memory", 0)),
        gpus=int(given.get("gpus", 0)),
        gpu_memory_bytes=int(given.get("gpu_memory", 0)),
        disk_bytes=0,
    )
    return Lease(task=TaskSpec(id=task, topic="t", executor="noop", needs=needs), epoch=epoch, attempt=1)


def _order(kind: str, text: str) -> Order:
    kinds = {"stop": OrderKind.STOP, "yield": OrderKind.CHECKPOINT, "keep": OrderKind.KEEP}
    task, epoch = _name(text)
    return Order(task=task, epoch=epoch, order=kinds[kind], reason="as told")


def _receipt(kind: str, text: str) -> Receipt:
    task, epoch = _name(text)
    return Receipt(key=Key(task, epoch, "result", 1), recorded=kind == "recorded")


def _in_words(action: Action) -> str:
    match action:
        case Begin():
            gpus = f" on gpu {','.join(map(str, action.gpus))}" if action.gpus else ""
            gpus += f" within {action.gpu_memory_bytes}" if action.gpu_memory_bytes else ""
            return f"begin {action.lease.task.id}:{action.lease.epoch.count}{gpus}"
        case Void():
            return f"void {action.task}:{action.epoch.count} ({action.reason})"
        case Yield():
            return f"yield {action.task}:{action.epoch.count} ({action.reason})"
        case Settle():
            said = (f"{'recorded' if one.recorded else 'refused'} {one.key.task}" for one in action.receipts)
            return f"settle {', '.join(said)}"
        case Rewound():
            return f"rewound from {action.heard} to {action.now}"
