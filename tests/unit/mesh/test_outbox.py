"""The outbox holds on until the receipt, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import codec
from mesh import outbox as mesh_outbox
from mesh.errors import DiskFull, EnvironmentUnfit
from mesh.messages.base import Epoch, Key
from mesh.messages.leases import Receipt
from mesh.outbox import Outbox


def key(number: int, kind: str = "checkpoint", task: str = "t1", count: int = 1) -> Key:
    return Key(task, Epoch(1, count), kind, number)


def numbers(outbox: Outbox) -> list[int]:
    return [row.key.number for row in outbox.pending()]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_rows_come_back_in_order_in_the_next_life(tmp_path: Path) -> None:
    first = Outbox(tmp_path)
    for number in (3, 1, 2):
        assert first.record(key(number), "mesh.cmd.w.x", b"data %d" % number)
    first.close()
    rows = Outbox(tmp_path).pending()
    assert [(row.key, row.subject, row.data) for row in rows] == [
        (key(number), "mesh.cmd.w.x", b"data %d" % number) for number in (3, 1, 2)
    ]


def test_the_first_row_of_a_key_is_the_truth(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.record(key(1), "s", b"first")
    assert not outbox.record(key(1), "s", b"second")
    outbox.settle(Receipt(key=key(1), recorded=True))
    assert not outbox.record(key(1), "s", b"third")
    assert [row.data for row in outbox.kept()] == [b"first"]


def test_a_recorded_receipt_lets_go_once_and_keeps_for_a_day(tmp_path: Path) -> None:
    clock = Clock()
    outbox = Outbox(tmp_path, clock=clock)
    outbox.record(key(1), "s", b"one")
    outbox.record(key(2), "s", b"two")
    assert outbox.settle(Receipt(key=key(1), recorded=True))
    assert not outbox.settle(Receipt(key=key(1), recorded=True))
    assert not outbox.settle(Receipt(key=key(9), recorded=True))
    assert numbers(outbox) == [2]
    clock.now += mesh_outbox.KEEP_S - 1
    outbox.prune()
    assert [row.key.number for row in outbox.kept()] == [1]
    clock.now += 2
    outbox.prune()
    assert outbox.kept() == []
    assert numbers(outbox) == [2]


def test_kept_rows_are_owed_again_after_a_restore(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in (1, 2, 3):
        outbox.record(key(number), "s", b"d")
        outbox.settle(Receipt(key=key(number), recorded=True))
    assert outbox.reopen((key(2), key(7))) == 1
    assert numbers(outbox) == [2]
    assert outbox.reopen() == 2
    assert numbers(outbox) == [1, 2, 3]


def test_a_refused_row_becomes_a_file_with_its_reason(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.record(key(1, "result"), "mesh.cmd.w.result", b"payload")
    assert outbox.settle(Receipt(key=key(1, "result"), recorded=False, reason="the task has ended"))
    assert outbox.pending() == outbox.kept() == []
    (path,) = (tmp_path / "refused").iterdir()
    assert path.name == "t1.1-1.result.1.msgpack"
    assert codec.unpack(path.read_bytes()) == {
        "key": "t1/1-1/result/1",
        "subject": "mesh.cmd.w.result",
        "reason": "the task has ended",
        "data": b"payload",
    }


def test_refused_files_go_after_a_week_or_when_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_outbox, "REFUSED_FILES_MAX", 2)
    outbox = Outbox(tmp_path)
    for number in range(4):
        outbox.record(key(number), "s", b"d")
        outbox.settle(Receipt(key=key(number), recorded=False, reason="stale"))
        path = tmp_path / "refused" / f"t1.1-1.checkpoint.{number}.msgpack"
        made = path.stat().st_mtime - (8 * 86_400 if number == 3 else 100 - number)
        os.utime(path, (made, made))
    outbox.prune()
    assert sorted(path.name for path in (tmp_path / "refused").iterdir()) == [
        "t1.1-1.checkpoint.1.msgpack",
        "t1.1-1.checkpoint.2.msgpack",
    ]


def test_when_full_replaced_checkpoints_give_way_and_nothing_else(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, bytes_max=500)
    outbox.record(key(1), "s", b"x" * 100)
    outbox.record(key(2), "s", b"x" * 100)
    outbox.record(key(1, count=2), "s", b"x" * 100)
    outbox.record(key(1, "result"), "s", b"x" * 200)
    outbox.record(key(1, "result", "t2"), "s", b"x" * 100)
    assert [(row.key.epoch.count, row.key.kind, row.key.number) for row in outbox.pending()] == [
        (1, "checkpoint", 2),
        (2, "checkpoint", 1),
        (1, "result", 1),
        (1, "result", 1),
    ]
    with pytest.raises(DiskFull, match="full at t3"):
        outbox.record(key(1, "result", "t3"), "s", b"x")
    assert len(outbox.pending()) == 4


def test_kept_rows_are_bounded_by_size_oldest_first(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, kept_bytes_max=250)
    for number in (1, 2, 3):
        outbox.record(key(number), "s", b"x" * 100)
        outbox.settle(Receipt(key=key(number), recorded=True))
    outbox.prune()
    assert [row.key.number for row in outbox.kept()] == [2, 3]


def test_what_is_pending_is_measured(tmp_path: Path) -> None:
    clock = Clock()
    outbox = Outbox(tmp_path, clock=clock)
    assert outbox.measure() == (0, 0, 0.0)
    outbox.record(key(1), "s", b"abc")
    clock.now += 5
    outbox.record(key(2), "s", b"de")
    assert outbox.measure() == (2, 5, 5.0)


def test_a_second_opener_is_told_so(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    with pytest.raises(EnvironmentUnfit, match="in use by another process"):
        Outbox(tmp_path)
    outbox.close()
    Outbox(tmp_path)


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(EnvironmentUnfit, match="is damaged"):
        Outbox(tmp_path)


def test_a_full_disk_is_said_and_changes_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.record(key(1), "s", b"x")
    pages = outbox._db.execute("pragma page_count").fetchone()[0]
    outbox._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(DiskFull, match="free some space"):
        outbox.record(key(2), "s", os.urandom(100_000))
    assert numbers(outbox) == [1]
    assert outbox.settle(Receipt(key=key(1), recorded=True))


def test_every_commit_is_synced(tmp_path: Path) -> None:
    database = Outbox(tmp_path)._db
    assert database.execute("pragma synchronous").fetchone() == (2,)
    assert database.execute("pragma journal_mode").fetchone() == ("wal",)


KILLED = """
import sys
from pathlib import Path
from mesh.messages.base import Epoch, Key
from mesh.outbox import Outbox
from mesh.messages.leases import Receipt
outbox = Outbox(Path(sys.argv[1]))
for number in range(1, 10_000):
    outbox.record(Key("t1", Epoch(1, 1), "checkpoint", number), "s", b"x" * 500)
    print("recorded", number, flush=True)
    if number % 3 == 0:
        outbox.settle(Receipt(key=Key("t1", Epoch(1, 1), "checkpoint", number), recorded=True))
        print("settled", number, flush=True)
    if number % 3 == 1:
        outbox.settle(Receipt(key=Key("t1", Epoch(1, 1), "checkpoint", number), recorded=False, reason="r"))
        print("refused", number, flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("lines", [1, 8, 57, 200])
def test_what_was_said_to_be_recorded_survives_kill_9(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += [line.split() for line in process.stdout.read().splitlines()]
    told = {
        word: {int(pair[1]) for pair in said if len(pair) == 2 and pair[0] == word}
        for word in ("recorded", "settled", "refused")
    }
    outbox = Outbox(tmp_path)
    pending = set(numbers(outbox))
    kept = {row.key.number for row in outbox.kept(10_000)}
    files = {int(path.name.split(".")[3]) for path in (tmp_path / "refused").glob("*.msgpack")}
    assert told["recorded"] <= pending | kept | files
    assert told["settled"] <= kept
    assert told["refused"] <= files
    assert len((pending | kept | files) - told["recorded"]) <= 1


def test_letting_go_costs_no_sync_and_recording_still_does(tmp_path: Path) -> None:
    outbox, done = Outbox(tmp_path), list[str]()
    outbox._db.set_trace_callback(lambda statement: done.append(statement.split(" rows ")[0]))
    outbox.record(key(1), "s", b"one")
    assert done == ["begin immediate", "insert or ignore into", "commit"]
    done.clear()
    assert outbox.settle(Receipt(key=key(1), recorded=True))
    unsynced = ["begin immediate", "update", "commit"]
    assert done == ["pragma synchronous = normal", *unsynced, "pragma synchronous = full"]


def test_rows_and_receipts_of_many_are_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.record_all([(key(number), "s", b"x") for number in (1, 2, 1, 3)]) == 3
    assert outbox.record_all([(key(number), "s", b"y") for number in (3, 4)]) == 1
    receipts = [Receipt(key=key(number), recorded=number != 2, reason="late") for number in (1, 2, 5)]
    assert outbox.settle(*receipts) == 2
    assert [row.data for row in outbox.pending()] == [b"x", b"y"]
    assert [row.key.number for row in outbox.kept()] == [1]


def test_what_became_of_a_row_can_be_asked(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in (1, 2, 3):
        outbox.record(key(number), "s", b"data %d" % number)
    outbox.settle(Receipt(key=key(2), recorded=True), Receipt(key=key(3), recorded=False, reason="the epoch is over"))
    found = {number: outbox.find(key(number)) for number in (1, 2, 3, 4)}
    assert {number: one and (one[0].data, one[1]) for number, one in found.items()} == {
        1: (b"data 1", False),
        2: (b"data 2", True),
        3: None,
        4: None,
    }
    assert outbox.refusal(key(3)) == (b"data 3", "the epoch is over")
    assert outbox.refusal(key(1)) is None
