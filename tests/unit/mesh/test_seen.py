"""The file that remembers the newest ledger entry over lives."""

from __future__ import annotations

from pathlib import Path

from mesh.seen import Seen, SeenFile


def test_what_was_written_last_is_read_by_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "scheduler" / "seen"
    file = SeenFile(path)
    assert file.read() == (Seen(), 0)
    file.write(Seen(12, 3_456_789, "ab" * 32), 12)
    file.write(Seen(1, 2, "cd" * 32), 12)
    file.close()
    assert SeenFile(path).read() == (Seen(1, 2, "cd" * 32), 12)


def test_half_a_writing_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    file = SeenFile(path)
    file.write(Seen(1, 20, "ab" * 32), 1)
    path.write_bytes(path.read_bytes().replace(b"20", b"21", 1))
    assert file.read() == (Seen(), 0)


def test_a_place_where_nothing_can_be_written_costs_the_memory_only(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    file = SeenFile(blocked / "seen")
    file.write(Seen(1, 1, ""), 1)
    assert file.read() == (Seen(), 0)
    file.close()
