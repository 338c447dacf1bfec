"""Checkpoints as objects: each is restored from what was really stored, unchanged tensors cost nothing, disks stay
small."""

from __future__ import annotations

import errno
import random
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.frames import Span
from executors.versions import CYCLE_MAX, RULES, Lineage, Packed
from mesh import limits
from mesh.errors import DataRefused, DiskFull
from mesh.object_lists import Rules
from tests.support.snapshots import (
    STATE,
    TENSORS,
    a_step_later,
    buffer_of,
    files_below,
    restored,
    tensors_file,
    weights,
)  # fmt: skip

FROZEN = weights(20_000, seed=1)
MOVING = weights(30_000, seed=2)


class Desk:
    """A lineage, the store that its objects go to, and a buffer."""

    def __init__(self, folder: Path, rules: Rules = RULES) -> None:
        self.folder = folder
        self.lineage = Lineage(folder / "objects", rules)
        self.store: dict[str, bytes] = {}
        self.job = 0

    def pack(self, tensors: dict[str, bytes], state: bytes = b"small", plain: Path | None = None) -> Packed:
        """Pack and look whether it can be restored from the store and its own new objects."""
        self.job += 1
        files = {TENSORS: tensors_file(tensors), STATE: state}
        spans = buffer_of(self.folder / "buffer", files)
        with (self.folder / "buffer").open("rb", buffering=0) as buffer:
            packed = self.lineage.pack(self.job, buffer, spans, plain)
        self.new = files_below(self.folder / "objects")
        assert restored(packed.entries, self.new | self.store) == files
        return packed

    def settle(self, *, stored: bool = True) -> None:
        """The job's objects, and those only that its manifest names, come into the store."""
        if stored:
            self.store = self.new | self.store  # put if absent
        self.lineage.settle(self.job, stored=stored)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_first_checkpoint_is_whole_and_the_next_one_small(desk: Desk) -> None:
    first = desk.pack({"moving": MOVING})
    desk.settle()
    second = desk.pack({"moving": a_step_later(MOVING, seed=3)})
    assert first.entries[0].bases == ()
    assert any(second.entries[0].bases)
    assert second.new_bytes < 0.8 * first.new_bytes


def test_many_objects_stand_in_lists_deltas_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHUNK_BYTES", 4_096)
    desk, tensors = Desk(tmp_path, Rules(inline=20, rows=8)), {"frozen": FROZEN, "moving": MOVING}
    first = desk.pack(tensors)
    large, small = first.entries
    assert (len(large.lists), large.objects, small.lists) == (7, (), ())
    desk.settle()
    again = desk.pack(tensors)
    assert again.entries == first.entries
    assert (again.new_objects, again.new_bytes) == (0, 0)  # its lists are written, and are not new
    desk.settle()
    later = desk.pack(tensors | {"moving": a_step_later(MOVING, seed=3)})
    assert later.new_bytes < 0.8 * first.new_bytes
    assert len(set(later.entries[0].lists) & set(large.lists)) == 2  # those of what stands still
    assert {name[0] for name in desk.new.keys() - desk.store.keys()} == {"c", "d"}
    desk.settle()
    kept = files_below(tmp_path / "objects")
    assert not {f"c.{name}" for name in later.entries[0].lists} & kept.keys()
    tiny = Desk(tmp_path / "tiny", Rules(objects=20))
    tiny.folder.mkdir()
    with pytest.raises(DataRefused, match=r"may have 20 objects.*split"):
        tiny.pack(tensors)


def test_what_did_not_change_costs_nothing(desk: Desk) -> None:
    desk.pack({"frozen": FROZEN, "moving": MOVING})
    desk.settle()
    again = desk.pack({"frozen": FROZEN, "moving": MOVING})
    assert (again.new_objects, again.new_bytes) == (0, 0)
    desk.settle()
    moved = desk.pack({"frozen": FROZEN, "moving": a_step_later(MOVING, seed=3)})
    assert moved.new_objects == 1


def test_equal_tensors_are_written_once(desk: Desk) -> None:
    assert desk.pack({"a": FROZEN, "b": FROZEN, "c": FROZEN}).new_objects == 3  # with header and state


def test_a_tensor_in_front_moves_the_others_and_sends_only_itself(desk: Desk) -> None:
    desk.pack({"moving": MOVING})
    desk.settle()
    packed = desk.pack({"first": FROZEN, "moving": a_step_later(MOVING, seed=3)})
    assert any(packed.entries[0].bases), "the moved tensor keeps its base wherever it lies"


def test_nothing_is_built_on_a_checkpoint_that_was_given_up(desk: Desk) -> None:
    desk.pack({"moving": MOVING})
    desk.settle(stored=False)
    again = desk.pack({"moving": MOVING})
    assert again.new_objects == 3
    assert again.entries[0].bases == ()


def test_a_newer_checkpoint_is_packed_while_an_older_one_travels(desk: Desk) -> None:
    """The second is built on what is stored, so it does not matter what becomes of the first."""
    desk.pack({"moving": MOVING})
    desk.settle()
    one = a_step_later(MOVING, seed=3)
    desk.pack({"moving": one})
    travelling = desk.new
    desk.pack({"moving": a_step_later(one, seed=4)})
    assert set(travelling) <= set(files_below(desk.folder / "objects")), "an upload that runs keeps its files"
    desk.lineage.settle(desk.job - 1, stored=False)
    desk.settle()
    desk.pack({"moving": a_step_later(one, seed=5)})


def test_a_base_serves_until_the_next_delta_would_cost_more_than_the_mean_and_not_for_ever(desk: Desk) -> None:
    body, lengths, run = MOVING, [], 0
    for step in range(2 * CYCLE_MAX + 5):
        packed = desk.pack({"moving": body})
        desk.settle()
        run = run + 1 if any(packed.entries[0].bases) else 0
        lengths.append(run)
        body = a_step_later(MOVING, seed=step, by=1e-6)  # always near the first: only the limit ends a cycle
    assert max(lengths) == CYCLE_MAX - 1


def test_drifting_weights_get_a_new_base_when_that_is_cheaper(desk: Desk) -> None:
    body, sent = MOVING, []
    for step in range(12):
        packed = desk.pack({"moving": body})
        desk.settle()
        sent.append((any(packed.entries[0].bases), packed.new_bytes))
        body = a_step_later(body, seed=step, by=1e-6 * 8 ** (step % 6))
    bases = [index for index, (delta, _) in enumerate(sent) if not delta]
    assert len(bases) >= 2, "the deltas grow with the distance, so a new base comes before the limit"
    assert sum(size for _, size in sent) / len(sent) < sent[0][1]


def test_only_bases_stay_on_the_disk(desk: Desk) -> None:
    body = MOVING
    for step in range(8):
        desk.pack({"frozen": FROZEN, "moving": body}, state=str(step).encode())
        desk.settle()
        body = a_step_later(body, seed=step)
    left = files_below(desk.folder / "objects")
    assert not [name for name in left if not name.startswith("c.")]
    assert sum(map(len, left.values())) < len(FROZEN) + len(MOVING) + 1_000


def test_a_base_that_is_lost_or_damaged_means_a_whole_object(desk: Desk) -> None:
    desk.pack({"moving": MOVING})
    desk.settle()
    for path in (desk.folder / "objects").iterdir():
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert desk.pack({"moving": a_step_later(MOVING, seed=3)}).entries[0].bases == ()
    desk.settle()
    for path in (desk.folder / "objects").iterdir():
        path.unlink()
    assert desk.pack({"moving": a_step_later(MOVING, seed=4)}).entries[0].bases == ()


def test_the_files_as_they_are_can_be_had_beside(desk: Desk, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    assert desk.pack({"moving": MOVING}, state=b"state", plain=plain).copied
    assert files_below(plain) == {TENSORS: tensors_file({"moving": MOVING}), STATE: b"state"}
    desk.settle()
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    assert not desk.pack({"moving": MOVING}, plain=in_the_way).copied


def test_a_buffer_that_is_too_short_is_refused_and_nothing_stays(desk: Desk) -> None:
    path = desk.folder / "buffer"
    buffer_of(path, {TENSORS: tensors_file({"moving": MOVING})})
    with path.open("rb", buffering=0) as buffer, pytest.raises(DataRefused, match="ends before"):
        desk.lineage.pack(1, buffer, (Span(TENSORS, 64, 10_000_000),))
    assert files_below(desk.folder / "objects") == {}


def test_a_full_disk_is_told_and_frees_what_was_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.pack({"moving": MOVING})
    desk.settle()
    before = files_below(desk.folder / "objects")
    written = Path.write_bytes

    def third_fails(path: Path, data: bytes) -> int:
        if path.name == "part" and len(files_below(desk.folder / "objects")) >= len(before) + 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", third_fails)
    with pytest.raises(DiskFull, match="free some space"):
        desk.pack({"moving": a_step_later(MOVING, seed=3), "new": FROZEN, "other": FROZEN[:-4]})
    assert files_below(desk.folder / "objects") == before
    monkeypatch.undo()
    assert any(desk.pack({"moving": a_step_later(MOVING, seed=3)}).entries[0].bases), "the base is still there"


@pytest.mark.parametrize("span", [Span(STATE, 0, 1 << 50), Span(STATE, 0, -1), Span(STATE, -5, 10)])
def test_a_size_or_place_that_can_not_be_is_refused_at_once(desk: Desk, span: Span) -> None:
    (desk.folder / "buffer").write_bytes(b"x" * 100)
    with (desk.folder / "buffer").open("rb", buffering=0) as buffer, pytest.raises(DataRefused):
        desk.lineage.pack(1, buffer, (span,))


@pytest.mark.parametrize("path", ["../escaped", "/absolute", "a//b", ""])
def test_a_path_that_leaves_the_folder_is_refused(desk: Desk, path: str) -> None:
    (desk.folder / "buffer").write_bytes(b"x" * 100)
    with (desk.folder / "buffer").open("rb", buffering=0) as buffer, pytest.raises(DataRefused, match="path"):
        desk.lineage.pack(1, buffer, (Span(path, 0, 10),), desk.folder / "plain")


def test_a_large_checkpoint_takes_little_memory(desk: Desk) -> None:
    path = desk.folder / "buffer"
    size = 64 * limits.CHUNK_BYTES
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        with path.open("rb", buffering=0) as buffer:
            desk.lineage.pack(1, buffer, (Span(TENSORS, 0, size),))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * limits.CHUNK_BYTES


CHANGES = ("same", "step", "noise", "longer", "new", "gone")


@settings(max_examples=25, deadline=None)
@given(
    changes=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 2), st.booleans()), max_size=10),
    seed=st.integers(0, 999),
)
def test_whatever_happens_a_checkpoint_is_restored_from_what_is_stored(
    changes: list[tuple[str, int, bool]], seed: int
) -> None:
    draw = random.Random(seed)
    tensors = {f"t{index}": weights(6_000, seed + index) for index in range(3)}
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for number, (change, index, stored) in enumerate(changes):
            name = f"t{index}"
            if change == "step" and name in tensors:
                tensors[name] = a_step_later(tensors[name], seed=number)
            elif change == "noise" and name in tensors:
                tensors[name] = draw.randbytes(len(tensors[name]))
            elif change == "longer" and name in tensors:
                tensors[name] += bytes(4_000)
            elif change == "new":
                tensors = {f"n{number}": weights(5_000, number), **tensors}
            elif change == "gone" and len(tensors) > 1:
                tensors.pop(name, None)
            desk.pack(tensors, state=str(number).encode())  # looks by itself whether it can be restored
            desk.settle(stored=stored)
