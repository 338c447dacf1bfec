"""How an object's bytes are stored: as they are, as byte planes, or as differences to a base. Pure; without numpy.

    'R' 'O' | format 1 | coding 0 | body
    'R' 'O' | format 1 | coding 1 | width u8 | size u32 |                | width x (mode u8, length u32) | planes …
    'R' 'O' | format 1 | coding 2 | width u8 | size u32 | base, 32 bytes | width x (mode u8, length u32) | planes …

    plane i     bytes i, i + width, i + 2 width, … of the body: all sign-and-exponent bytes of a float tensor together
    mode        0 as it is, 1 zstd
    size        decoded bytes; a multiple of width. Numbers are little-endian; a zstd frame says its content's size
    coding 2    its planes are those of the differences: of each number of width bytes, taken as an integer, less the
                base's at the same place, modulo 2^bits; then 0, -1, 1, -2, … as 0, 1, 2, 3, … (zig-zag)

Numbers of one tensor have similar exponents and noise behind them: apart, the first shrink and the second are not
touched. Floats of one sign are ordered as their bit patterns are, so a number that moved a little is a small difference
away from what it was, wherever a carry went: two to five points of the state less than XOR gives. Zstd level 1: higher
levels are slower and no smaller on planes. A sample decides whether differences are made at all.

A base is always a whole object (coding 0 or 1): a reader needs at most two objects for a piece, and never walks a
chain. A delta is only made where it saves DELTA_SAVES of the whole object's bytes.

Differences are made of thousands of numbers at once, as one long integer: with the top bit of each lane set (or
cleared) before, no borrow (or carry) leaves its lane. `_lanes`, `_differences` and `_moved` are that arithmetic.

`decode` believes nothing: it never takes more memory than a few OBJECT_BYTES_MAX, whatever a stored object says of
itself, and raises ArtifactCorrupt for everything that is not exactly of this form. It does not know digests: whether
the decoded bytes are the right ones is checked by whoever knows their name.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import zstandard

from mesh import limits
from mesh.errors import ArtifactCorrupt
from mesh.messages.artifacts import CODING_DELTA, CODING_PLANES, CODING_RAW, OBJECT_FORMAT, OBJECT_MAGIC

OBJECT_BYTES_MAX: Final = limits.CHUNK_BYTES + 64 * 1024
"""Bytes of one object, stored or decoded, beyond which it is refused: a chunk, its header, room for a larger one."""

WIDTHS: Final = (1, 2, 4, 8)
"""Bytes of one number."""

DELTA_SAVES: Final = 0.05
"""Least saving of a delta over the whole object: below it the base's fetch costs a reader more than the bytes saved."""

DELTA_SAVES_BYTES: Final = 128
"""Least saving in bytes: the base's digest in the manifest and in the header is 100 bytes by itself."""

PLANES_SAVE: Final = 1 / 64
"""Least saving of planes over the bytes as they are: below it decoding is not worth its time."""

SAMPLE_BYTES: Final = 32 * 1024
"""From the middle of an object: decides whether differences are made, in a tenth of the time of making them."""

SAMPLE_WINS: Final = 0.98
"""The sample's differences are to be smaller than this share of the sample; the rest would not save enough either."""

BLOCK_BYTES: Final = 32 * 1024
"""So many are one integer: with all of its intermediate results it stays in a processor's cache."""

LANES_KEPT: Final = 16
"""Lengths of blocks whose masks are kept, 100 KB each: most blocks have the full length."""

DIGEST_BYTES: Final = 32

RAW_HEADER: Final = OBJECT_MAGIC + bytes((OBJECT_FORMAT, CODING_RAW))

_AS_IS, _PACKED = 0, 1

_SIZES = struct.Struct("<BI")
_PLANE = struct.Struct("<BI")
_HEAD = len(RAW_HEADER)

Bytes = bytes | bytearray | memoryview


def encode(
    body: bytes,
    *,
    item_bytes: int = 1,
    base: Bytes | None = None,
    base_digest: str = "",
    delta_bytes_max: int = OBJECT_BYTES_MAX,
) -> bytes:
    """The stored bytes of `body`: the smallest of the codings that apply.

    item_bytes: width of its numbers (WIDTHS; 1 when it holds none of one kind). base: the decoded bytes of the whole
    object named base_digest, left out of account unless they are as many. delta_bytes_max: a longer delta is not taken.
    """
    if not 0 < len(body) <= OBJECT_BYTES_MAX:
        return RAW_HEADER + body
    width = item_bytes if item_bytes in WIDTHS and len(body) % item_bytes == 0 else 1
    whole = _assembled(CODING_PLANES, width, len(body), b"", _packed(body, width))
    if len(whole) > (1 - PLANES_SAVE) * len(body):
        whole = RAW_HEADER + body
    if base is None or len(base) != len(body) or not _worth_it(body, base, width):
        return whole
    changed = _packed(_differences(body, base, width), width)
    delta = _assembled(CODING_DELTA, width, len(body), bytes.fromhex(base_digest), changed)
    most = min((1 - DELTA_SAVES) * len(whole), len(whole) - DELTA_SAVES_BYTES, delta_bytes_max)
    return delta if len(delta) <= most else whole


def decode(stored: Bytes, base: Bytes | None = None) -> memoryview:
    """The decoded bytes of a stored object. base: the decoded bytes of `base_of(stored)`, where there is one.

    ArtifactCorrupt when it is not what this version writes, or the base is missing or of another size.
    """
    coding = _coding_of(stored)
    if coding == CODING_RAW:
        return memoryview(stored)[_HEAD:]
    width, size, start = _sizes_of(stored, coding)
    if coding == CODING_DELTA and (base is None or len(base) != size):
        raise ArtifactCorrupt(f"a delta of {size} bytes needs its base of {size} bytes, got {_length(base)}")
    body = bytearray(size)
    for index, (mode, data) in enumerate(_planes_in(stored, width, size, start)):
        body[index::width] = _unpacked(mode, data, size // width)
    return memoryview(_moved(base, body, width) if coding == CODING_DELTA and base is not None else body)


def base_of(stored: Bytes) -> str:
    """Digest of the object that a delta needs; '' for a whole object. ArtifactCorrupt for what is no object."""
    if _coding_of(stored) != CODING_DELTA:
        return ""
    _, _, start = _sizes_of(stored, CODING_DELTA)
    return bytes(stored[start - DIGEST_BYTES : start]).hex()


# -- writing ----------------------------------------------------------------------------------------------------------


def _packed(body: bytes, width: int) -> list[tuple[int, bytes]]:
    """(mode, bytes) of each plane: the smaller of both ways."""
    found = []
    for index in range(width):
        plane = body if width == 1 else body[index::width]
        packed = _compressor().compress(plane)
        found.append((_PACKED, packed) if len(packed) < len(plane) else (_AS_IS, plane))
    return found


def _worth_it(body: bytes, base: Bytes, width: int) -> bool:
    """Do differences look smaller than the numbers themselves?"""
    if len(body) <= 2 * SAMPLE_BYTES:
        return True
    begin = len(body) // 2 // width * width
    sample = body[begin : begin + SAMPLE_BYTES]
    changed = _differences(sample, base[begin : begin + SAMPLE_BYTES], width)
    return _bytes_of(_packed(changed, width)) <= SAMPLE_WINS * _bytes_of(_packed(sample, width))


def _bytes_of(planes: Sequence[tuple[int, bytes]]) -> int:
    return sum(len(data) for _, data in planes)


def _assembled(coding: int, width: int, size: int, base: bytes, planes: Sequence[tuple[int, bytes]]) -> bytes:
    head = OBJECT_MAGIC + bytes((OBJECT_FORMAT, coding)) + _SIZES.pack(width, size) + base
    return b"".join((head, *(_PLANE.pack(mode, len(data)) for mode, data in planes), *(data for _, data in planes)))


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)


# -- numbers in lanes -------------------------------------------------------------------------------------------------


class _Lanes(NamedTuple):
    """As many lanes of `width` bytes as a body has, in one integer."""

    ones: int
    """1 in each lane."""
    tops: int
    """The highest bit of each lane."""
    rests: int
    """All other bits."""


@functools.lru_cache(maxsize=LANES_KEPT)
def _lanes(width: int, size: int) -> _Lanes:
    ones = int.from_bytes((b"\x01" + bytes(width - 1)) * (size // width), "little")
    tops = ones << (8 * width - 1)
    return _Lanes(ones, tops, ((1 << 8 * size) - 1) ^ tops)


def _differences(body: Bytes, base: Bytes, width: int) -> bytes:
    """Each number less the base's, zig-zag."""
    return _by_blocks(_block_differences, body, base, width)


def _moved(base: Bytes, differences: Bytes, width: int) -> bytes:
    """The numbers that differ so from the base's."""
    return _by_blocks(_block_moved, base, differences, width)


def _by_blocks(work: Callable[[Bytes, Bytes, int], bytes], one: Bytes, other: Bytes, width: int) -> bytes:
    blocks = (slice(begin, begin + BLOCK_BYTES) for begin in range(0, len(one), BLOCK_BYTES))
    return b"".join(work(one[block], other[block], width) for block in blocks)


def _block_differences(body: Bytes, base: Bytes, width: int) -> bytes:
    ones, tops, rests = _lanes(width, len(body))
    numbers, before = int.from_bytes(body, "little"), int.from_bytes(base, "little")
    less = ((numbers | tops) - (before & rests)) ^ ((numbers ^ before ^ tops) & tops)
    negative = (less >> (8 * width - 1)) & ones
    return (((less & rests) << 1) ^ ((negative << 8 * width) - negative)).to_bytes(len(body), "little")


def _block_moved(base: Bytes, differences: Bytes, width: int) -> bytes:
    ones, tops, rests = _lanes(width, len(base))
    before, coded = int.from_bytes(base, "little"), int.from_bytes(differences, "little")
    negative = coded & ones
    less = ((coded ^ ((negative << 8 * width) - negative)) >> 1) | negative << (8 * width - 1)
    return (((before & rests) + (less & rests)) ^ ((before ^ less) & tops)).to_bytes(len(base), "little")


# -- reading ----------------------------------------------------------------------------------------------------------


def _coding_of(stored: Bytes) -> int:
    """The coding of a stored object whose length and first bytes are right."""
    if len(stored) > OBJECT_BYTES_MAX:
        raise ArtifactCorrupt(f"a stored object may have {OBJECT_BYTES_MAX} bytes, this one has {len(stored)}")
    head = bytes(stored[:_HEAD])
    if head[:2] != OBJECT_MAGIC:
        raise ArtifactCorrupt(f"a stored object begins with {OBJECT_MAGIC!r}, this one with {head[:2]!r}")
    if len(head) < _HEAD or head[2] != OBJECT_FORMAT or head[3] not in (CODING_RAW, CODING_PLANES, CODING_DELTA):
        raise ArtifactCorrupt(
            f"this version reads objects of format {OBJECT_FORMAT} in codings 0 to 2, got header {head.hex()}: "
            "update this machine"
        )
    return head[3]


def _sizes_of(stored: Bytes, coding: int) -> tuple[int, int, int]:
    """(width, decoded size, where the table of planes begins) of planes or a delta."""
    start = _HEAD + _SIZES.size + (DIGEST_BYTES if coding == CODING_DELTA else 0)
    if len(stored) < start:
        raise ArtifactCorrupt(f"a stored object ends in its header, after {len(stored)} bytes")
    width, size = _SIZES.unpack_from(stored, _HEAD)
    if width not in WIDTHS or not 0 < size <= OBJECT_BYTES_MAX or size % width:
        raise ArtifactCorrupt(f"a stored object says that it holds {size} bytes in {width} planes, which can not be")
    return width, size, start


def _planes_in(stored: Bytes, width: int, size: int, start: int) -> list[tuple[int, memoryview]]:
    """(mode, stored bytes) of each plane."""
    view = memoryview(stored)
    offset = start + width * _PLANE.size
    if len(view) < offset:
        raise ArtifactCorrupt(f"a stored object ends in its table of planes, after {len(view)} bytes")
    found = []
    for mode, length in _PLANE.iter_unpack(view[start:offset]):
        if mode not in (_AS_IS, _PACKED) or (mode == _AS_IS and length != size // width):
            raise ArtifactCorrupt(f"a stored object has a plane of mode {mode} and {length} bytes, which can not be")
        found.append((mode, view[offset : offset + length]))
        offset += length
    if offset != len(view):
        raise ArtifactCorrupt(f"a stored object of {offset} bytes has {len(view)}")
    return found


def _unpacked(mode: int, data: memoryview, size: int) -> Bytes:
    """The bytes of a plane of `size` bytes. What is announced is looked at before any memory is taken for it."""
    if mode == _AS_IS:
        return data
    try:
        if zstandard.frame_content_size(data) != size:
            raise ArtifactCorrupt(f"a plane of {size} bytes was expected, its frame announces another size")
        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 20)
        plane = unpacker.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtifactCorrupt(f"a plane can not be decompressed: {str(error)[:160]}") from None
    if len(plane) != size:
        raise ArtifactCorrupt(f"a plane of {size} bytes was expected, found {len(plane)}")
    return plane


def _length(base: Bytes | None) -> str:
    return "none" if base is None else f"{len(base)} bytes"
