"""Each kind on real data beside a reference from its own library: quality and time, side by side.

    classify     builtin:digits and builtin:python-docs     scikit-learn, tuned on the same validation split
    contrastive  first sentences of docstrings, and the rest  bm25s called directly, the same pool
    index        texts of python-docs as vectors            FAISS called directly, the same parameters
    lora         a sentence encoder, docstrings             a plain loop over peft
    merge        descendants of one classifier, digits      the best of them, and the mean of their tensors
    quantize     a sentence encoder, or the digits          torch.ao's dynamic quantization

A kind runs as it does under a worker: in a fresh child with one core, through the executor's own frames. A reference
runs in a fresh interpreter with one thread. They take turns within a round; ratios are taken within rounds. Time is
what the work itself took, wall and processor, without the start of the process and the reading of libraries.

A part is a module `benchmarks/executors_NAME.py` with `measure(stage)`, and one name in PARTS; its reference a program
in benchmarks/peers/ that prints one line of JSON last. What a part can not measure is a row that says why.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from benchmarks.executors_stage import Stage
from benchmarks.frame import Frame
from mesh.errors import RamifyError

NAME = "executors"
WHY = "What each kind of work reaches and costs, beside the library that people would call themselves."

PARTS = ("classify", "contrastive", "index", "lora", "merge", "quantize")


def run(frame: Frame) -> None:
    """All parts, one after the other; one that fails leaves its row and the next one goes on."""
    with tempfile.TemporaryDirectory(prefix="ramify-bench-") as folder:
        for name in PARTS:
            place = Path(folder) / name
            place.mkdir()
            module = importlib.import_module(f"benchmarks.executors_{name.replace('-', '_')}")
            try:
                module.measure(Stage(frame, place))
            except RamifyError as error:
                frame.fail(name, "whole part", "1", str(error))
