"""What a language model's bits per byte are measured against, on the very same held-out documents.

    ngram       interpolated byte n-grams (Witten and Bell 1991), the order given, counted on the training documents
    bzip2, xz   what the held-out documents add to the training documents compressed in one piece with them: what a
                general compressor makes of them after it has read the same text

Every document is read from its own beginning and its end is paid for, as executors/models/reading.py does: a byte that
no text holds stands behind each. A compressor reads them in the corpus' order and forgets what is beyond its window
(900 kB of bzip2, all of it for xz), so on larger corpora bzip2 stands for one that knows nothing of them.
"""

from __future__ import annotations

import bz2
import lzma
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

END = b"\xff"
"""Ends a document: no byte of UTF-8."""


class Ngrams:
    """Byte n-grams of one order, interpolated down to the uniform distribution over 256 bytes."""

    def __init__(self, order: int) -> None:
        """order: bytes of a sequence, the foretold one included."""
        self.order = order
        self._counts: list[defaultdict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(order)]

    def learn(self, texts: Iterable[bytes]) -> Ngrams:
        """Count documents; itself."""
        for text in texts:
            whole = text + END
            for place, byte in enumerate(whole):
                for length in range(min(self.order - 1, place) + 1):
                    self._counts[length][whole[place - length : place]][byte] += 1
        return self

    def bits(self, texts: Iterable[bytes]) -> float:
        """That it needs for these documents, their ends included."""
        return -sum(
            math.log2(self._share(whole[max(0, place - self.order + 1) : place], byte))
            for whole in (text + END for text in texts)
            for place, byte in enumerate(whole)
        )

    def _share(self, before: bytes, byte: int) -> float:
        """Witten-Bell: a context that was followed by d different bytes in n places gives d / (n + d) away."""
        share = 1.0 / 256.0
        for length in range(len(before) + 1):
            seen = self._counts[length].get(before[len(before) - length :])
            if seen:
                total, different = seen.total(), len(seen)
                share = (seen[byte] + different * share) / (total + different)
        return share


def compressed_bits(train: Sequence[bytes], held_out: Sequence[bytes]) -> dict[str, float]:
    """By compressor, what the held-out documents add to the training ones."""
    before, added = b"".join(text + END for text in train), b"".join(text + END for text in held_out)
    return {
        name: 8.0 * (len(compress(before + added)) - len(compress(before)))
        for name, compress in (("bzip2", bz2.compress), ("xz", lambda data: lzma.compress(data, preset=9)))
    }


def bits_per_byte(train: Sequence[str], held_out: Sequence[str], order: int = 5) -> dict[str, float]:
    """Every reference by name, over all held-out documents together."""
    known, asked = [text.encode() for text in train], [text.encode() for text in held_out]
    size = sum(map(len, asked))
    found = {f"{order}-gram": Ngrams(order).learn(known).bits(asked), **compressed_bits(known, asked)}
    return {name: bits / size for name, bits in found.items()}
