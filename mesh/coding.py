"""How an object's bytes are stored: as they are, as byte planes, or as what differs from a base. Pure; without numpy.

    'R' 'O' | format 1 | coding 0 | body
    'R' 'O' | format 1 | coding 1 | width u8 | size u32 |                | width x (mode u8, length u32) | planes …
    'R' 'O' | format 1 | coding 2 | width u8 | size u32 | base, 32 bytes | width x (mode u8, length u32) | planes …

    plane i     bytes i, i + width, i + 2 width, … of the body: all sign-and-exponent bytes of a float tensor together
    mode        0 as it is, 1 zstd, 2 zstd of (plane XOR the base's plane; coding 2 only)
    size        decoded bytes; a multiple of width. Numbers are little-endian; a zstd frame says its content's size

Numbers of one tensor have similar exponents and noise behind them: apart, the first shrink and the second are not
touched. Against an earlier version of the same tensor the exponents and the first bits of the mantissa mostly cancel.
Each plane takes what is smallest for it (level 1: higher levels are slower and no smaller on planes); a sample decides
whether XOR is tried at all, so that mantissas cost no time.

A base is always a whole object (coding 0 or 1): a reader needs at most two objects for a piece, and never walks a
chain. A delta is only made where it saves DELTA_SAVES of the whole object's bytes.

`decode` believes nothing: it never takes more memory than OBJECT_BYTES_MAX, whatever a stored object says of itself,
and raises ArtifactCorrupt for everything that is not exactly of this form. It does not know digests: whether the
decoded bytes are the right ones is checked by whoever knows their name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

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

SAMPLE_BYTES: Final = 4096
"""Bytes from a plane's middle that decide whether its XOR is tried: a twentieth of the time of trying."""

SAMPLE_WINS: Final = 0.98
"""The sample's XOR is to be smaller than this share of the sample itself; less is noise, and gains nothing."""

DIGEST_BYTES: Final = 32

RAW_HEADER: Final = OBJECT_MAGIC + bytes((OBJECT_FORMAT, CODING_RAW))

_AS_IS, _PACKED, _XORED = 0, 1, 2

_SIZES = struct.Struct("<BI")
_PLANE = struct.Struct("<BI")
_HEAD = len(RAW_HEADER)

Bytes = bytes | bytearray | memoryview


def encode(
    body: bytes,
    *,
    item_bytes: int = 1,
    base: Sequence[Bytes] | None = None,
    base_digest: str = "",
    delta_bytes_max: int = OBJECT_BYTES_MAX,
) -> bytes:
    """The stored bytes of `body`: the smallest of the codings that apply.

    item_bytes: width of its numbers (WIDTHS; 1 when it holds none of one kind). base: the planes of the object named
    base_digest (`planes_of`), left out of account unless they fit. delta_bytes_max: a longer delta is not taken.
    """
    if not 0 < len(body) <= OBJECT_BYTES_MAX:
        return RAW_HEADER + body
    width = item_bytes if item_bytes in WIDTHS and len(body) % item_bytes == 0 else 1
    planes = _split(body, width)
    packed = [_packed(plane) for plane in planes]
    whole = _assembled(CODING_PLANES, width, len(body), b"", packed)
    if len(whole) > (1 - PLANES_SAVE) * len(body):
        whole = RAW_HEADER + body
    if base is None or [len(plane) for plane in base] != [len(plane) for plane in planes]:
        return whole
    changed = [_smaller(*three) for three in zip(planes, packed, base, strict=True)]
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
    content = bytes(base) if coding == CODING_DELTA and base is not None else b""
    body = bytearray(size)
    for index, (mode, data) in enumerate(_planes_in(stored, coding, width, size, start)):
        plane = _unpacked(mode, data, size // width)
        body[index::width] = _xor(plane, content[index::width]) if mode == _XORED else plane
    return memoryview(body)


def planes_of(stored: Bytes, *, item_bytes: int) -> list[Bytes]:
    """The planes of a whole object, for use as a base. ArtifactCorrupt for what is none."""
    coding = _coding_of(stored)
    if coding == CODING_DELTA:
        raise ArtifactCorrupt("a base is a whole object, got a delta")
    if coding == CODING_RAW:
        body = bytes(stored[_HEAD:])
        return list(_split(body, item_bytes if item_bytes in WIDTHS and len(body) % item_bytes == 0 else 1))
    width, size, start = _sizes_of(stored, coding)
    return [_unpacked(mode, data, size // width) for mode, data in _planes_in(stored, coding, width, size, start)]


def base_of(stored: Bytes) -> str:
    """Digest of the object that a delta needs; '' for a whole object. ArtifactCorrupt for what is no object."""
    if _coding_of(stored) != CODING_DELTA:
        return ""
    _, _, start = _sizes_of(stored, CODING_DELTA)
    return bytes(stored[start - DIGEST_BYTES : start]).hex()


# -- writing ----------------------------------------------------------------------------------------------------------


def _split(body: bytes, width: int) -> list[bytes]:
    return [body] if width == 1 else [body[index::width] for index in range(width)]


def _packed(plane: bytes) -> tuple[int, bytes]:
    """(mode, bytes) of a plane on its own."""
    packed = _compressor().compress(plane)
    return (_PACKED, packed) if len(packed) < len(plane) else (_AS_IS, plane)


def _smaller(plane: bytes, packed: tuple[int, bytes], base: Bytes) -> tuple[int, bytes]:
    """(mode, bytes) of a plane beside its base's."""
    if len(plane) > 4 * SAMPLE_BYTES:
        middle = slice(len(plane) // 2, len(plane) // 2 + SAMPLE_BYTES)
        sample, changed = plane[middle], _xor(plane[middle], base[middle])
        alone = min(SAMPLE_BYTES, len(_compressor().compress(sample)))
        if len(_compressor().compress(changed)) > SAMPLE_WINS * alone:
            return packed
    xored = _compressor().compress(_xor(plane, base))
    return (_XORED, xored) if len(xored) < len(packed[1]) else packed


def _assembled(coding: int, width: int, size: int, base: bytes, planes: Sequence[tuple[int, bytes]]) -> bytes:
    head = OBJECT_MAGIC + bytes((OBJECT_FORMAT, coding)) + _SIZES.pack(width, size) + base
    return b"".join((head, *(_PLANE.pack(mode, len(data)) for mode, data in planes), *(data for _, data in planes)))


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)


def _xor(one: Bytes, other: Bytes) -> bytes:
    """As whole numbers of many digits: a tenth of a vector unit's speed, and faster than anything else at hand."""
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


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


def _planes_in(stored: Bytes, coding: int, width: int, size: int, start: int) -> list[tuple[int, memoryview]]:
    """(mode, stored bytes) of each plane."""
    view = memoryview(stored)
    offset = start + width * _PLANE.size
    if len(view) < offset:
        raise ArtifactCorrupt(f"a stored object ends in its table of planes, after {len(view)} bytes")
    found = []
    for mode, length in _PLANE.iter_unpack(view[start:offset]):
        if mode > (_XORED if coding == CODING_DELTA else _PACKED) or (mode == _AS_IS and length != size // width):
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
