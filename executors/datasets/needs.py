"""What the tasks after the profile will take: cores, memory, disk, from the size of the data.

    kind       base (Python and its libraries)   plus, for texts               plus, for columns
    classify   450 MB with torch                 256 MB: 4 states of a table   4 x the float32 matrix
                                                 + 16 x the texts' bytes
    baseline   250 MB with scikit-learn          120 x the texts' bytes        12 x the float32 matrix
                                                 + 24 bytes a label and term
    evaluate   450 MB with torch                 64 MB + 4 x the texts' bytes  the float32 matrix

The table: 64 MB of n-gram weights, their gradient and the optimizer's two moments. 16: two hashed n-grams of 8 bytes a
character. 120: a sparse matrix of n-grams and its vocabulary, counted for 300 MB of texts at most. 24: weights,
gradient and step in float64, for 200,000 terms at most.

Memory is an upper estimate: too little gets the child killed, too much only makes it wait for a larger worker. One core
each: a lease of more makes a task faster, and none needs it. Disk: inputs, checkpoints and outputs of the attempt.
"""

from __future__ import annotations

from mesh.messages.tasks import Needs

_MB = 1024 * 1024
_TORCH = 450 * _MB
_SCIENCE = 250 * _MB
_TABLE = 64 * _MB
_TERMS_MAX = 200_000


def estimate(*, modality: str, rows: int, features: int, labels: int, data_bytes: int) -> dict[str, Needs]:
    """Needs by kind. rows: examples in all splits; data_bytes: texts in UTF-8, or the matrix as float32."""
    disk = 256 * _MB + 2 * data_bytes
    if modality == "text":
        terms = min(_TERMS_MAX, 4 * data_bytes)
        classify = _TORCH + 4 * _TABLE + 16 * data_bytes
        baseline = _SCIENCE + 120 * min(data_bytes, 300 * _MB) + 24 * labels * terms
        evaluate = _TORCH + _TABLE + 4 * data_bytes
    else:
        matrix = max(data_bytes, 4 * rows * features)
        classify = _TORCH + 4 * matrix
        baseline = _SCIENCE + 12 * matrix
        evaluate = _TORCH + matrix
    memory = {"classify": classify, "baseline": baseline, "evaluate": evaluate}
    return {
        kind: Needs(cores=1.0, memory_bytes=_rounded(size), disk_bytes=_rounded(disk)) for kind, size in memory.items()
    }


def _rounded(size_bytes: int) -> int:
    """Up to whole 16 MB: figures that people can compare."""
    return -(-size_bytes // (16 * _MB)) * 16 * _MB
