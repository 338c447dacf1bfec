"""`top`: what is shown fits and is true, keys do what they say, the terminal is left as it was."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import struct
import termios
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.commands import top
from agents.commands.reach import Reach
from agents.commands.top import Screen, Watcher, painted, rates
from agents.commands.top_picture import Order, Rates, View, bar, cut, document, draw, use_of, wide
from mesh import codec
from mesh.bus import Message
from mesh.messages.base import Epoch
from mesh.messages.collecting import StoreUse
from mesh.messages.results import Progress
from mesh.messages.services import Ask, Status, TaskRow, WorkerRow
from mesh.messages.tasks import Line, Needs, TaskState
from tests.support.memory_mesh import MemoryMesh

GIB = 1 << 30


def worker(name: str, cores: float = 1.0, **more: Any) -> WorkerRow:
    given = {
        "incarnation": f"{name}.0a", "state": "live", "beat_age_s": 0.7, "cores_free": cores, "gpus_free": 0,
        "memory_free_bytes": 2 * GIB, "labels": (), "kinds": {}, "held": (), "host": f"{name}.lan",
    }  # fmt: skip
    return WorkerRow(name=name, **{**given, **more})


def task(id_: str, on: str = "", **more: Any) -> TaskRow:
    given = {
        "topic": "t1", "specialization": "s", "executor": "classify", "purpose": "train", "line": Line.EVOLVER,
        "state": TaskState.LEASED if on else TaskState.READY, "incarnation": f"{on}.0a" if on else "",
        "needs": Needs(cores=2.0, memory_bytes=GIB, gpus=1),
    }  # fmt: skip
    return TaskRow(id=id_, **{**given, **more})


def progress(id_: str, done: float, **more: Any) -> Progress:
    metrics = {"loss": 0.4321, "examples_per_s": 1234.0}
    given = {"metrics": metrics, "phase": "training", "step": 1500}
    return Progress(topic="t1", task=id_, epoch=Epoch(1, 1), worker="w", done=done, **{**given, **more})


STATUS = Status(
    leader="scheduler", term=3, generation=1, ledger_seq=12_345, commands_seq=20_000,
    counts={"ready": 1, "waiting": 4, "leased": 2, "succeeded": 1_204, "parked": 2},
    tasks=(
        task("t1-evolver", "desk-1"), task("t1-check", "rented-1", purpose="check", line=None),
        task("t2-evolver", reason="no worker has 8 GiB free"),
    ),
    workers=(
        worker("rented-1", 14.0, gpus_free=1, held=("t1-check",)), worker("desk-1", held=("t1-evolver",)),
        worker("laptop", 4.0, drained=True, note="away until Monday"), worker("old", 2.0, state="lost"),
    ),
)  # fmt: skip
VIEW = View(
    status=STATUS,
    store=StoreUse(where="JetStream", size_bytes=5 * GIB, limit_bytes=20 * GIB),
    progress={"t1-evolver": progress("t1-evolver", 0.25), "t1-check": progress("t1-check", 0.75)},
    rates=Rates(1.5, 3.25, 10.0, 60.0),
    where="nats://127.0.0.1:4222",
    clock="12:00:00",
)


def test_the_picture_says_all_that_matters() -> None:
    assert draw(VIEW, Order(), 132, 40) == [
        "ramify  nats://127.0.0.1:4222  leader scheduler, term 3, entry 12,345  12:00:00",
        "tasks    4 waiting  1 ready  2 leased  1,204 succeeded  2 parked  0 canceled",
        "rates    1.5 tasks ended/s  3.2 ledger entries/s  10.0 commands/s",
        "workers  1 drained  2 live  1 lost    store  5.0 GiB of 20 GiB (25%)",
        "",
        "WORKER    STATE    CORES           MEMORY  GPUS  TASKS  BEAT  HOST          NOTE",
        "desk-1    live       2/3  1.0 GiB/3.0 GiB   1/1      1   1 s  desk-1.lan",
        "laptop    drained    0/4      0 B/2.0 GiB   0/0      0   1 s  laptop.lan    away until Monday",
        "old       lost       0/2      0 B/2.0 GiB   0/0      0   1 s  old.lan",
        "rented-1  live      2/16  1.0 GiB/3.0 GiB   1/2      1   1 s  rented-1.lan",
        "",
        "TASK        WHAT           STATE   WORKER    DONE                STEP    LOSS  PER S  PHASE",
        "t1-evolver  evolver train  leased  desk-1    ███░░░░░░░░░  25%  1,500  0.4321   1234  training",
        "t1-check    check          leased  rented-1  █████████░░░  75%  1,500  0.4321   1234  training",
        "t2-evolver  evolver train  ready" + " " * 54 + "no worker has 8 GiB free",
    ]


@pytest.mark.parametrize("columns", [1, 9, 20, 33, 60, 80, 300])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 11, 24, 200])
def test_it_fits_any_size(columns: int, rows: int) -> None:
    many = tuple(worker(f"w{n:03}", host="機械" * 20, note="x" * 200) for n in range(60))
    tasks = tuple(task(f"t{n:03}", "w001") for n in range(90))
    for view in (VIEW, View(where="w"), View(status=STATUS.evolve(workers=many, tasks=tasks), complaint="away: " * 40)):
        lines = draw(view, Order(), columns, rows)
        assert 1 <= len(lines) <= rows
        assert all(wide(line) <= columns for line in lines)


def test_what_does_not_fit_is_counted_and_the_least_important_goes_first() -> None:
    lines = draw(VIEW, Order(), 52, 14)
    assert lines[5].split() == ["WORKER", "STATE", "CORES", "MEMORY", "GPUS", "TASKS"]
    assert "… and 2 more" in lines
    low = draw(View(status=STATUS.evolve(workers=tuple(worker(f"w{n}") for n in range(30)), tasks=())), Order(), 80, 15)
    assert low[-1] == "… and 24 more"
    assert low[-2].split()[:2] == ["w13", "live"]


@pytest.mark.parametrize(
    ("order", "first"),
    [
        (Order(), "desk-1"),
        (Order(backwards=True), "rented-1"),
        (Order(workers="cores"), "desk-1"),
        (Order(workers="cores", backwards=True), "old"),
        (Order(workers="held"), "desk-1"),
    ],
)
def test_workers_are_sorted(order: Order, first: str) -> None:
    assert draw(VIEW, order, 132, 40)[6].split()[0] == first


def test_tasks_are_sorted_and_running_ones_stay_first() -> None:
    def names(order: Order) -> list[str]:
        return [line.split()[0] for line in draw(VIEW, order, 132, 40)[12:]]

    assert names(Order(tasks="progress")) == ["t1-check", "t1-evolver", "t2-evolver"]
    assert names(Order(tasks="worker")) == ["t1-evolver", "t1-check", "t2-evolver"]
    assert names(Order(tasks="age", backwards=True)) == ["t1-check", "t1-evolver", "t2-evolver"]


def test_use_is_what_leases_reserved_of_that_and_what_is_offered() -> None:
    use = use_of(STATUS.workers[0], STATUS.tasks)
    assert (use.cores, use.cores_all, use.gpus, use.gpus_all) == (2.0, 16.0, 1, 2)
    assert (use.memory_bytes, use.memory_all_bytes) == (GIB, 3 * GIB)


def test_the_document_holds_workers_with_their_use_and_tasks_with_their_progress() -> None:
    found = cast(dict[str, Any], document(VIEW))
    assert found["workers"][0]["use"]["cores_all"] == 16.0
    assert found["tasks"][0]["progress"].step == 1500
    assert found["tasks"][2]["progress"] is None
    assert found["rates"]["ended_per_s"] == 1.5
    assert found["store"].limit_bytes == 20 * GIB


def test_rates_are_taken_over_the_looks_and_not_over_a_change_of_leaders() -> None:
    later = STATUS.evolve(counts={**STATUS.counts, "succeeded": 1_264}, ledger_seq=12_445, commands_seq=20_010)
    assert rates(deque([(0.0, STATUS), (10.0, later)])) == Rates(6.0, 10.0, 1.0, 10.0)
    assert rates(deque([(0.0, STATUS)])) == Rates()
    assert rates(deque([(0.0, STATUS), (10.0, later.evolve(leader="other"))])) == Rates()


def test_texts_are_as_wide_as_they_look() -> None:
    assert (wide("abc"), wide("機械"), wide("e\u0301")) == (3, 4, 1)
    assert (cut("機械学習", 5), cut("abc", 3), cut("abcd", 3), cut("abc", 0)) == ("機械…", "abc", "ab…", "")
    assert (bar(-1.0), bar(2.0)) == ("░" * 12 + "   0%", "█" * 12 + " 100%")


def test_one_write_paints_over_what_stood_there() -> None:
    text = painted(["one", "two"], "help", 80, 5)
    assert text.startswith(top.HOLD + top.HOME)
    assert text.endswith(top.SHOW)
    assert "\x1b[2J" not in text, "clearing first would flicker"
    assert text.count(top.LINE_END) == 3
    assert "\x1b[5;1Hhelp" in text
    assert "help" not in painted(["1", "2"], "help", 80, 2)


# -- in a terminal ----------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """(the person's end, the program's end) of a terminal with 20 rows of 100 columns."""
    person, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 100, 0, 0))
    stream = io.TextIOWrapper(os.fdopen(program, "r+b", buffering=0), write_through=True)
    yield person, stream
    with contextlib.suppress(OSError):
        stream.close()
    os.close(person)


async def test_a_person_sorts_and_leaves(terminal: tuple[int, io.TextIOWrapper]) -> None:
    person, stream = terminal
    before = termios.tcgetattr(stream.fileno())
    screen = Screen(cast(Watcher, SimpleNamespace(view=VIEW)), stream, stream)
    async with asyncio.timeout(10):
        living = asyncio.create_task(screen.live(asyncio.Event()))
        seen = b""
        while seen.count(top.SHOW.encode()) < 1:
            seen += await asyncio.to_thread(os.read, person, 65_536)
        assert termios.tcgetattr(stream.fileno())[3] & termios.ECHO == 0
        os.write(person, b"hr")
        while seen.count(top.SHOW.encode()) < 2:
            seen += await asyncio.to_thread(os.read, person, 65_536)
        os.write(person, b"q")
        await living
        while not seen.endswith(top.END.encode()):
            seen += await asyncio.to_thread(os.read, person, 65_536)
    assert seen.startswith(top.BEGIN.encode())
    first, second = seen.decode().split(top.HOME)[1:]
    assert first.index("desk-1") < first.index("rented-1")
    assert second.index("rented-1") < second.index("desk-1")
    assert termios.tcgetattr(stream.fileno()) == before


async def test_a_terminal_that_does_not_say_its_size_gets_a_usual_one(terminal: tuple[int, io.TextIOWrapper]) -> None:
    person, stream = terminal
    fcntl.ioctl(stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    async with asyncio.timeout(10):
        living = asyncio.create_task(
            Screen(cast(Watcher, SimpleNamespace(view=VIEW)), stream, stream).live(asyncio.Event())
        )
        seen = b""
        while not seen.endswith(top.SHOW.encode()):
            seen += await asyncio.to_thread(os.read, person, 65_536)
        os.write(person, b"q")
        await living
    assert b"desk-1" in seen


async def test_ctrl_c_leaves_the_terminal_as_it_was(terminal: tuple[int, io.TextIOWrapper]) -> None:
    _, stream = terminal
    before, stop = termios.tcgetattr(stream.fileno()), asyncio.Event()
    living = asyncio.create_task(Screen(cast(Watcher, SimpleNamespace(view=VIEW)), stream, stream).live(stop))
    await asyncio.sleep(0)
    stop.set()  # what the first Ctrl-C does
    async with asyncio.timeout(10):
        await living
    assert termios.tcgetattr(stream.fileno()) == before


# -- of a mesh --------------------------------------------------------------------------------------------------------


async def test_the_watcher_asks_listens_and_says_when_the_mesh_is_away(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there = Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)
    leader = mesh.server.connect("scheduler")

    async def answer(message: Message) -> None:
        assert VIEW.store is not None
        about_store = codec.decode(message.data, Ask).what == "store"
        await leader.publish(message.reply, codec.encode(VIEW.store if about_store else STATUS))

    subscription = await leader.subscribe(mesh.subjects.asked("scheduler"), answer)
    watcher = Watcher(there)
    await watcher.look()
    assert watcher.view.status == STATUS
    assert watcher.view.store == VIEW.store
    async with watcher.watching(0.01):
        told = progress("t1-check", 0.5)
        await leader.publish(mesh.subjects.progress("w", "t1", "t1-check"), codec.encode(told))
        await leader.publish(mesh.subjects.progress("w", "t1", "t1-check"), b"no progress")
        async with asyncio.timeout(10):
            while watcher.view.progress.get("t1-check") != told:  # noqa: ASYNC110 - it is looked at from outside
                await asyncio.sleep(0.001)
            await subscription.close()
            while not watcher.view.complaint:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.001)
    assert watcher.view.status == STATUS, "the last picture stays"
    assert draw(watcher.view, Order(), 80, 30)[4].startswith("!  ")
