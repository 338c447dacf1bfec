"""The scheduler's file: lines and state belong together, one process each, nothing half."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh import codec
from mesh.ended import FILES_MAX, EndedIndexOnDisk
from mesh.errors import EnvironmentUnfit
from mesh.messages.base import Epoch, Key
from mesh.messages.ledger import SnapshotHead, SnapshotPart
from mesh.messages.tasks import TaskState
from planner.ledger import Ended

HEAD = SnapshotHead(seq=3, digest="ab" * 32, commands_seq=2, term=1, leader="s.1", generation=1, order=1, counts={})


def line(name: str, reason: str = "") -> Ended:
    key = Key(name, Epoch(1, 2), "result", 1)
    return Ended(name, "t1", TaskState.SUCCEEDED, Epoch(1, 2), key, reason, " 1-2/result/1 ")


def test_a_line_is_found_again_also_when_it_has_left_the_memory(tmp_path: Path) -> None:
    index = EndedIndexOnDisk(tmp_path / "ended.db")
    for number in range(5_000):
        index.put(line(f"task-{number}"))
    assert index.get("task-0") == line("task-0")
    assert index.get("task-4999") == line("task-4999")
    assert index.get("task-5000") is None
    index.remove("task-0")
    assert index.get("task-0") is None


def test_what_was_not_saved_is_undone_with_the_state(tmp_path: Path) -> None:
    path = tmp_path / "ended.db"
    index = EndedIndexOnDisk(path)
    index.put(line("a"))
    index.put_part("said 0", SnapshotPart(said=("refused t1",)))
    index.save(HEAD)
    index.put(line("b"))
    index.remove("a")
    index.put_part("said 0", None)
    index.undo()
    assert (index.get("a"), index.get("b")) == (line("a"), None)
    index.put(line("c"))
    index.close()  # as a crash: what was not saved is gone
    again = EndedIndexOnDisk(path)
    assert again.head() == HEAD
    assert again.get("a") == line("a")
    assert again.get("c") is None
    assert list(again.parts()) == [SnapshotPart(said=("refused t1",))]


def test_a_reader_sees_what_was_saved_when_it_was_made(tmp_path: Path) -> None:
    index = EndedIndexOnDisk(tmp_path / "ended.db")
    for number in range(600):
        index.put(line(f"task-{number}"))
    index.save(HEAD)
    reader = index.reader()
    index.put(line("later"))
    index.save(HEAD.evolve(seq=4))
    assert codec.decode(reader.head(), SnapshotHead).seq == 3
    parts = [(number, codec.decode(data, SnapshotPart)) for number, data in reader.lines()]
    assert sum(len(part.lines) for _, part in parts) == 600
    assert [number for number, _ in parts] == [0, 1, 2]
    reader.close()
    # Lines that stay where they are give the same bytes.
    index.put(line("task-599", "changed"))
    index.save(HEAD.evolve(seq=5))
    second = index.reader()
    assert dict(second.lines())[0] == codec.encode(parts[0][1])
    second.close()


def test_two_on_one_folder_have_a_file_each_and_both_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "ended.db"
    one, two = EndedIndexOnDisk(path), EndedIndexOnDisk(path)
    assert one.path != two.path
    one.put(line("a"))
    assert two.get("a") is None
    two.put(line("b"))
    two.save(HEAD)
    one.close()
    two.close()
    first, second = EndedIndexOnDisk(path), EndedIndexOnDisk(path)
    assert (first.path, second.path) == (one.path, two.path)
    assert second.get("b") == line("b")


def test_one_too_many_gets_a_file_that_goes_with_it(tmp_path: Path) -> None:
    many = [EndedIndexOnDisk(tmp_path / "ended.db") for _ in range(FILES_MAX + 1)]
    many[-1].put(line("a"))
    assert many[-1].get("a") == line("a")
    many[-1].close()
    assert not many[-1].path.exists()
    assert many[0].path.exists()


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "ended.db"
    path.write_bytes(b"no database at all" * 500)
    index = EndedIndexOnDisk(path)
    assert index.head() is None
    index.put(line("a"))
    assert index.get("a") == line("a")


def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentUnfit, match="--home"):
        EndedIndexOnDisk(tmp_path / "file" / "ended.db")
