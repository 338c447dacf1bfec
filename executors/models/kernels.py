"""Dense layers over matrices in few bits: the ways to compute them here, and which is fastest on this device, measured.

    way              weights        activations            needs
    expanded         float32        float32                nothing: the reference, as fast as the original
    torch-int8       int8           bfloat16               torch's _weight_int8pack_mm
    torch-int4       int4 groups    bfloat16               torch's _weight_int4pack_mm_for_cpu
    torch-int8-int8  int8           int8, per row          torch's _int_mm
    onnx-int8-int8   int8           int8, per row          ONNX Runtime, MatMulIntegerToFloat
    onnx-int4        int4 groups    int8, per group        ONNX Runtime, MatMulNBits

Activations are rounded row by row, never over a batch: an answer does not depend on what else is asked.

`fastest` times the ways that fit a matrix, in turn, on random rows of the batches asked for; the least product of times
wins, so that every batch counts alike. A way that errs more than ERROR_MAX against `expanded`, or that fails, is passed
over with the reason. Equal shapes are timed once. These are ways of a CPU: on a GPU the expanded matrix computes.

Not covered: which way is fastest may change with the load of the machine; answers differ between ways by what rounding
activations costs (about one percent of a layer's output).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from executors.models.compact import Packed

EXPANDED = "expanded"

ERROR_MAX = 0.03
"""Relative error of a layer's output against the expanded matrix; bfloat16 errs 0.01, int8 activations 0.012."""

ROUNDS, SECONDS = 7, 0.5
"""Times that each way is tried per batch, and time after which no further round begins."""

GAIN_LEAST = 0.95
"""A way must take at most this share of the time of `expanded`, or it is not worth its rounding."""

COLUMNS_STEP = 32
"""torch-int8 reads so many columns at a time and does not look where a row ends: with others it reads, and crashes,
beyond the matrix."""

Compute = Callable[[Tensor], Tensor]


class PackedLinear(nn.Module):
    """In place of an nn.Linear."""

    def __init__(self, packed: Packed, bias: Tensor | None, way: str) -> None:
        super().__init__()
        self.packed, self.way = packed, way
        self.in_features, self.out_features = packed.columns, packed.rows
        self.bias = nn.Parameter(bias.detach(), requires_grad=False) if bias is not None else None
        self._compute = WAYS[way](packed)
        self._elsewhere: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The matrix, made anew each time: for code that does not call the layer."""
        return self.packed.expanded()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], float32."""
        if x.device.type != "cpu":
            return nn.functional.linear(x.float(), self._on(x.device), self.bias)
        found = self._compute(x.reshape(-1, self.in_features).float()).view(*x.shape[:-1], self.out_features)
        return found if self.bias is None else found + self.bias

    def _on(self, device: torch.device) -> Tensor:
        """The matrix on another device, made once: the ways are the CPU's."""
        if self._elsewhere is None or self._elsewhere.device != device:
            self._elsewhere = self.packed.expanded().to(device)
        return self._elsewhere


# -- the ways ---------------------------------------------------------------------------------------------------------


def _expanded(packed: Packed) -> Compute:
    matrix = packed.expanded()
    return lambda x: nn.functional.linear(x, matrix)


def _torch_int8(packed: Packed) -> Compute:
    if packed.columns % COLUMNS_STEP:
        raise ValueError(f"its columns are no multiple of {COLUMNS_STEP}")
    scale, ones = packed.scale.float().flatten(), torch.ones(packed.rows, dtype=torch.bfloat16)
    return lambda x: torch._weight_int8pack_mm(x.to(torch.bfloat16), packed.q, ones).float() * scale


def _torch_int4(packed: Packed) -> Compute:
    scale, group = packed.scale.float(), packed.group
    centre = scale * (8.0 - packed.zeros())  # torch's numbers stand for (q - 8) * scale + centre
    both = torch.stack((scale, centre), -1).transpose(0, 1).contiguous().to(torch.bfloat16)
    matrix = torch.ops.aten._convert_weight_to_int4pack_for_cpu(packed.numbers().to(torch.int32), 1)
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda x: multiply(x.to(torch.bfloat16), matrix, group, both).float()


def _torch_int8_int8(packed: Packed) -> Compute:
    scale, matrix = packed.scale.float().flatten(), packed.q.t()

    def compute(x: Tensor) -> Tensor:
        steps = x.abs().amax(1, keepdim=True).clamp_min_(1e-12) / 127.0
        return torch._int_mm((x / steps).round_().to(torch.int8), matrix).float() * steps * scale

    return compute


def _onnx_int8_int8(packed: Packed) -> Compute:
    """Each row gets a step of its own: most / 127; 128 stands for zero, for this processor's instructions multiply
    numbers without a sign by such with one. Few nodes: each one more is a pass over the activations."""
    import numpy as np
    from onnx import helper, numpy_helper

    made, contributed = helper.make_node, "com.microsoft"
    middle = numpy_helper.from_array(np.array([128], np.uint8))
    nodes = [
        made("ReduceMax", ["x", "axis"], ["high"], keepdims=1), made("ReduceMin", ["x", "axis"], ["low"], keepdims=1),
        made("Neg", ["low"], ["below"]), made("Max", ["high", "below", "least"], ["most"]),
        made("Mul", ["most", "share"], ["steps"]), made("Squeeze", ["steps", "axis"], ["each"]),
        made("Shape", ["each"], ["count"]), made("ConstantOfShape", ["count"], ["zeros"], value=middle),
        made("QuantizeLinear", ["x", "each", "zeros"], ["rows"], axis=0),
        made("MatMulIntegerToFloat", ["rows", "matrix", "one", "scale", "zero"], ["sums"], domain=contributed),
        made("Mul", ["sums", "steps"], ["y"]),
    ]  # fmt: skip
    constants = {
        "matrix": packed.q.t().contiguous(), "scale": packed.scale.float().flatten(), "axis": torch.tensor([-1]),
        "least": torch.tensor(1e-12), "share": torch.tensor(1.0 / 127.0), "one": torch.tensor(1.0),
        "zero": torch.tensor(128, dtype=torch.uint8),
    }  # fmt: skip
    return _session(packed, nodes, constants)


def _onnx_int4(packed: Packed) -> Compute:
    from onnx import helper

    rows, group, groups = packed.rows, packed.group, packed.scale.shape[1]
    room = groups * group - packed.columns
    numbers = nn.functional.pad(packed.numbers(), (0, room), value=8).view(rows, groups, group)
    blocks = numbers[..., 0::2] | (numbers[..., 1::2] << 4)
    zeros = nn.functional.pad(packed.zeros().to(torch.uint8), (0, groups % 2))
    constants = {"matrix": blocks, "scale": packed.scale.float(), "zeros": zeros[:, 0::2] | (zeros[:, 1::2] << 4)}
    node = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", K=packed.columns, N=rows, bits=4,
        block_size=group, accuracy_level=4,
    )  # fmt: skip
    return _session(packed, [node], constants)


def _session(packed: Packed, nodes: Sequence[Any], constants: dict[str, Tensor]) -> Compute:
    """x [n, columns] to y [n, rows] by ONNX Runtime, with this process's threads."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("x", packed.columns), ("y", packed.rows))
    ]
    values = [numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "dense", ends[:1], ends[1:], values)
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.contiguous().numpy()})[0])


WAYS: dict[str, Callable[[Packed], Compute]] = {
    EXPANDED: _expanded,
    "torch-int8": _torch_int8,
    "torch-int4": _torch_int4,
    "torch-int8-int8": _torch_int8_int8,
    "onnx-int8-int8": _onnx_int8_int8,
    "onnx-int4": _onnx_int4,
}


def ways_for(packed: Packed, dynamic: bool) -> tuple[str, ...]:
    """What may compute a matrix. dynamic: activations may become int8."""
    if packed.form.bits == 4:
        return (EXPANDED, "torch-int4", "onnx-int4")
    return (EXPANDED, "torch-int8-int8", "onnx-int8-int8") if dynamic else (EXPANDED, "torch-int8")


# -- choosing ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The way of all matrices of one shape."""

    way: str
    why: str
    times_ms: dict[str, tuple[float, ...]]
    """Per way its least time for each batch."""
    passed_over: dict[str, str]


def fastest(packed: Packed, dynamic: bool, batches: Sequence[int], tick: Callable[[], None]) -> Chosen:
    """The fastest way on this device for batches of so many rows. Leaves torch's generator as it was."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn((batch, packed.columns), generator=generator) for batch in batches]
    reference = [_expanded(packed)(each) for each in rows]
    ready: dict[str, Compute] = {}
    passed_over: dict[str, str] = {}
    for way in ways_for(packed, dynamic):
        lacking = [name for name in ("onnx", "onnxruntime") if way.startswith("onnx") and not _installed(name)]
        if lacking:
            passed_over[way] = f"{lacking[0]} is not installed"
            continue
        try:
            compute = WAYS[way](packed)
            error = max(_error(compute(each), wanted) for each, wanted in zip(rows, reference, strict=True))
        except Exception as failed:  # a kernel that this processor or shape has not; whatever it says is the reason
            passed_over[way] = " ".join(f"{type(failed).__name__}: {failed}".split())[:160]
            continue
        if error > ERROR_MAX:
            passed_over[way] = f"errs {error:.3f}, at most {ERROR_MAX} is allowed"
        else:
            ready[way] = compute
        tick()
    times = _timed(ready, rows, tick)
    return _judged(times, passed_over)


def _judged(times: dict[str, tuple[float, ...]], passed_over: dict[str, str]) -> Chosen:
    scores = {way: math.prod(took) ** (1.0 / len(took)) for way, took in times.items()}
    best = min(scores, key=lambda way: scores[way])
    share = scores[best] / scores[EXPANDED]
    if best == EXPANDED or share > GAIN_LEAST:
        why = "no way in few bits is faster here" if len(times) > 1 else "no way in few bits works here"
        return Chosen(EXPANDED, why, times, passed_over)
    return Chosen(best, f"takes {share:.2f} of the time of the expanded matrix", times, passed_over)


def _timed(ready: dict[str, Compute], rows: Sequence[Tensor], tick: Callable[[], None]) -> dict[str, tuple[float, ...]]:
    """Milliseconds, the least of several rounds in which every way has its turn. With one thread it is this thread's
    processor time: who else uses the machine does not decide."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    least = {way: [math.inf] * len(rows) for way in ready}
    until = time.monotonic() + SECONDS
    for _ in range(ROUNDS):
        for way, compute in ready.items():
            for number, each in enumerate(rows):
                started = clock()
                compute(each)
                least[way][number] = min(least[way][number], (clock() - started) * 1000.0)
        tick()
        if time.monotonic() > until:
            break
    return {way: tuple(took) for way, took in least.items()}


def _error(found: Tensor, wanted: Tensor) -> float:
    size = float(wanted.norm())
    return float((found - wanted).norm()) / size if size else float(found.norm())


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
