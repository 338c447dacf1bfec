"""Codings: what is stored comes back, the smallest wins, and nothing that a store may answer is believed."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import codec, coding, limits
from mesh.coding import base_of, decode, encode
from mesh.errors import ArtifactCorrupt
from mesh.messages.artifacts import FileEntry

BASE = "ab" * 32
GOLDEN = Path(__file__).parents[2] / "golden" / "objects.txt"


def floats(count: int, seed: int) -> bytes:
    """Weights as an optimizer leaves them: similar exponents, noise behind."""
    draw = random.Random(seed)
    return array("f", (draw.gauss(0.0, 0.02) for _ in range(count))).tobytes()


def moved(body: bytes, seed: int, by: float = 1e-3) -> bytes:
    """The same weights a step later."""
    draw = random.Random(seed)
    return array("f", (value * (1 + by * draw.gauss(0.0, 1.0)) for value in array("f", body))).tobytes()


def delta_of(body: bytes, before: bytes, width: int = 4) -> bytes:
    return encode(body, item_bytes=width, base=before, base_digest=BASE)


bodies = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda seed, count: random.Random(seed).randbytes(count), st.integers(0, 99), st.integers(0, 70_000)),
    st.builds(lambda seed, count: floats(count, seed), st.integers(0, 99), st.integers(0, 9_000)),
    st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 255), st.integers(0, 70_000)),
)


@settings(max_examples=150, deadline=None)
@given(body=bodies, width=st.sampled_from([1, 2, 3, 4, 8]))
def test_a_whole_object_comes_back(body: bytes, width: int) -> None:
    stored = encode(body, item_bytes=width)
    assert bytes(decode(stored)) == body
    assert base_of(stored) == ""
    assert len(stored) <= len(body) + len(coding.RAW_HEADER)


@settings(max_examples=150, deadline=None)
@given(
    body=bodies, width=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.01, 1.0])
)
def test_a_delta_comes_back_with_its_base(body: bytes, width: int, seed: int, share: float) -> None:
    draw = random.Random(seed)
    before = bytes(byte if draw.random() >= share else draw.randrange(256) for byte in body)
    stored = delta_of(body, before, width)
    assert bytes(decode(stored, before if base_of(stored) else None)) == body
    if base_of(stored):
        assert base_of(stored) == BASE
        assert len(stored) <= (1 - coding.DELTA_SAVES) * len(encode(body, item_bytes=width))


def test_the_planes_of_floats_are_smaller_and_a_step_is_smaller_still() -> None:
    before = floats(limits.CHUNK_BYTES // 4, seed=1)
    after = moved(before, seed=2)
    raw, whole, delta = len(before), len(encode(after, item_bytes=4)), len(delta_of(after, before))
    assert whole < 0.9 * raw
    assert delta < 0.85 * whole
    assert len(encode(after, item_bytes=1)) > whole


def test_an_equal_object_is_a_delta_of_a_few_bytes() -> None:
    body = floats(100_000, seed=3)
    assert len(delta_of(body, body)) < 200


def test_a_delta_that_saves_too_little_is_not_made() -> None:
    body, other = floats(50_000, seed=4), floats(50_000, seed=5)
    assert base_of(delta_of(body, other)) == ""


def test_the_longest_delta_that_is_wanted_can_be_said() -> None:
    body = floats(50_000, seed=6)
    base, after = body, moved(body, seed=7)
    delta = encode(after, item_bytes=4, base=base, base_digest=BASE)
    assert base_of(delta) == BASE
    shorter = encode(after, item_bytes=4, base=base, base_digest=BASE, delta_bytes_max=len(delta) - 1)
    assert base_of(shorter) == ""


def test_a_base_of_another_size_is_left_out() -> None:
    body = floats(50_000, seed=8)
    assert base_of(encode(body, item_bytes=4, base=body[:-4], base_digest=BASE)) == ""


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=40),
    width=st.sampled_from([1, 2, 4, 8]),
)
def test_differences_are_those_of_one_number_after_the_other(pairs: list[tuple[int, int]], width: int) -> None:
    """A second, stupid implementation; extremes and carries included."""
    modulus: int = 1 << 8 * width
    edges = [(0, modulus - 1), (modulus - 1, 0), (modulus // 2, 0), (0, modulus // 2), (modulus // 2, modulus // 2 - 1)]
    numbers = [(one % modulus, other % modulus) for one, other in [*pairs, *edges]]

    def zigzag(one: int, other: int) -> int:
        less = (one - other) % modulus
        return 2 * less if less < modulus // 2 else 2 * (modulus - less) - 1

    body, base, expected = (
        b"".join(value.to_bytes(width, "little") for value in values)
        for values in (*zip(*numbers, strict=True), [zigzag(*each) for each in numbers])
    )
    assert coding._differences(body, base, width) == expected
    assert coding._moved(base, expected, width) == body


def test_noise_stays_as_it_is() -> None:
    noise = random.Random(0).randbytes(limits.CHUNK_BYTES)
    assert encode(noise, item_bytes=4) == coding.RAW_HEADER + noise


def test_a_delta_without_its_base_or_with_a_shorter_one_is_refused() -> None:
    body = floats(20_000, seed=9)
    delta = delta_of(moved(body, seed=10), body)
    for base in (None, body[:-4]):
        with pytest.raises(ArtifactCorrupt, match="base"):
            decode(delta, base)


def test_a_wrong_base_of_the_right_size_gives_other_bytes() -> None:
    """Which is why a reader checks the digest of what he decoded."""
    body = floats(20_000, seed=9)
    after = moved(body, seed=10)
    assert bytes(decode(delta_of(after, body), floats(20_000, seed=11))) != after


# -- what a store may answer ------------------------------------------------------------------------------------------


WHOLE = encode(floats(20_000, seed=1), item_bytes=4)
DELTA = delta_of(moved(floats(20_000, seed=1), seed=2), floats(20_000, seed=1))


@pytest.mark.parametrize("stored", [WHOLE, DELTA])
def test_an_object_that_is_cut_off_anywhere_is_refused(stored: bytes) -> None:
    for length in (*range(120), len(stored) // 2, len(stored) - 1):
        with pytest.raises(ArtifactCorrupt):
            decode(stored[:length], bytes(80_000))


@pytest.mark.parametrize("stored", [WHOLE, DELTA])
def test_an_object_with_something_behind_it_is_refused(stored: bytes) -> None:
    with pytest.raises(ArtifactCorrupt):
        decode(stored + b"x", bytes(80_000))


@settings(max_examples=300, deadline=None)
@given(
    stored=st.sampled_from([WHOLE, DELTA]),
    at=st.one_of(st.integers(0, 110), st.integers(0, len(DELTA) - 1)),
    byte=st.integers(0, 255),
)
def test_a_changed_byte_gives_as_many_bytes_or_none(stored: bytes, at: int, byte: int) -> None:
    damaged = stored[:at] + bytes([byte]) + stored[at + 1 :]
    try:
        body = decode(damaged, bytes(80_000))
    except ArtifactCorrupt:
        return
    assert len(body) == 80_000 or at == 3


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"RO\x01\x01", b"RO\x01\x02", b"RO\x01\x01\x01\x00\x00\x08\x00"]))
def test_any_bytes_are_refused_or_bounded(tail: bytes, head: bytes) -> None:
    for read in (decode, base_of):
        with contextlib.suppress(ArtifactCorrupt):
            read(head + tail)


def frame(announced: int, blocks: int, window: int | None = None) -> bytes:
    """A zstd frame of `blocks` runs of 128 KiB, whatever its header announces."""
    run = 128 * 1024
    head = bytes([0b10100000]) if window is None else bytes([0b10000000, window])
    last = [index == blocks - 1 for index in range(blocks)]
    body = b"".join((end | 1 << 1 | run << 3).to_bytes(3, "little") + b"A" for end in last)
    return b"\x28\xb5\x2f\xfd" + head + struct.pack("<I", announced) + body


def in_planes(size: int, packed: bytes) -> bytes:
    return b"RO\x01\x01" + struct.pack("<BI", 1, size) + struct.pack("<BI", 1, len(packed)) + packed


def test_a_frame_made_by_hand_is_read() -> None:
    assert bytes(decode(in_planes(262_144, frame(262_144, 2)))) == b"A" * 262_144


@pytest.mark.parametrize(
    "bomb",
    [
        in_planes(131_072, frame(131_072, 4_000)),
        in_planes(131_072, frame(4_000 * 131_072, 4_000)),
        in_planes(0xFFFFFFFF, frame(0xFFFFFFFF, 100)),
        in_planes(131_072, frame(131_072, 1, window=0xF8)),
        in_planes(131_072, b"\x28\xb5\x2f\xfd\x00\x58" + frame(131_072, 1)[9:]),
    ],
    ids=["longer than announced", "announces more", "object announces 4 GiB", "huge window", "announces nothing"],
)
def test_a_bomb_is_refused_in_little_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactCorrupt):
            decode(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * coding.OBJECT_BYTES_MAX


def test_an_object_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(ArtifactCorrupt, match="may have"):
        decode(coding.RAW_HEADER + bytes(coding.OBJECT_BYTES_MAX))


@pytest.mark.parametrize("stored", [b"", b"R", b"RO", b"RO\x01", b"XX\x01\x00b", b"RO\x02\x00b", b"RO\x01\x07b"])
def test_foreign_or_newer_objects_are_refused(stored: bytes) -> None:
    for read in (decode, base_of):
        with pytest.raises(ArtifactCorrupt):
            read(stored)


# -- pinned -----------------------------------------------------------------------------------------------------------


def test_objects_that_were_written_once_are_read_for_ever() -> None:
    """Another version of the compressor may write other bytes; these must always be read."""
    cases = dict(line.split(" = ", 1) for line in GOLDEN.read_text().splitlines() if " = " in line)
    body, before = bytes.fromhex(cases["body"]), bytes.fromhex(cases["before"])
    raw, planes, delta = (bytes.fromhex(cases[name]) for name in ("raw", "planes", "delta"))
    assert [stored[3] for stored in (raw, planes, delta)] == [0, 1, 2]
    assert bytes(decode(raw)) == bytes(decode(planes)) == bytes(decode(delta, before)) == body
    assert base_of(delta) == BASE
    assert encode(body, item_bytes=4)[:9] == planes[:9]


def test_a_manifest_without_deltas_has_the_bytes_that_it_always_had() -> None:
    entry = FileEntry(path="a", size_bytes=1, objects=(BASE,), sizes=(1,))
    assert "bases" not in codec.unpack(codec.pack_fields(entry, {}))
    with pytest.raises(ValueError, match="bases for 2"):
        FileEntry(path="a", size_bytes=1, objects=(BASE,), sizes=(1,), bases=("", BASE))
