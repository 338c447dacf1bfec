"""torch's own dynamic int8 (torch.ao) on a sentence encoder: what one call makes of it.

python -m benchmarks.peers.dynamic_quantization MODEL TEXTS BATCHES
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.ao.nn.quantized.dynamic import Linear

from executors.corpus import read_corpus
from executors.models import encoder as encoders
from executors.models.encoder import Encoder

ROUNDS = 10


def main(model: str, texts: str, batches: str) -> None:
    """Quantize, compare, time in turn, print."""
    torch.set_num_threads(1)
    documents = read_corpus(texts).texts
    original = encoders.load(Path(model))
    small = copy.copy(original)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize: Any = torch.ao.quantization.quantize_dynamic
        small.network = quantize(copy.deepcopy(original.network), {torch.nn.Linear}, dtype=torch.qint8)
        vectors, again = original.encode(documents), small.encode(documents)
        found = {
            "loss_quantized": float(1.0 - (vectors * again).sum(axis=1).mean()),
            "accuracy_quantized": float((_nearest(vectors) == _nearest(again)).mean()),
            "size_share": _size(small) / _size(original),
        }
        for count in json.loads(batches):
            part = (documents * (1 + count // len(documents)))[:count]
            took: tuple[list[float], list[float]] = ([], [])
            for _ in range(ROUNDS):
                for which, one in enumerate((original, small)):
                    begun = time.perf_counter()
                    one.encode(part)
                    took[which].append(time.perf_counter() - begun)
            found[f"time_share_{count}"] = statistics.median(took[1]) / statistics.median(took[0])
    print(json.dumps(found))


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2.0)
    return np.asarray(alike.argmax(axis=1))


def _size(encoder: Encoder) -> float:
    """Bytes of its numbers: packed matrices as int8 with a scale for each row."""
    packed = [module for module in encoder.network.modules() if isinstance(module, Linear)]
    plain = [one for one in encoder.network.state_dict().values() if torch.is_tensor(one) and not one.is_quantized]
    return float(sum(map(_packed, packed)) + sum(one.numel() * one.element_size() for one in plain))


def _packed(module: Any) -> int:
    return int(module.in_features) * int(module.out_features) + 4 * int(module.out_features)


if __name__ == "__main__":
    main(*sys.argv[1:4])
