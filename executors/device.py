"""Where a task computes and with which precision, each with its reason; and what it means to run out of memory.

The lease decides: without a leased GPU a task stays on the CPU even if the machine has one. fp32 is the default; bf16
autocast has to be asked for and is granted only where the hardware computes in it; fp16, with a gradient scaler, on a
GPU only (on a CPU it is 19 times slower). Threads are the leased cores: more of them waste half the machine when it is
busy.

CUDA paths are written after torch's documentation; `docs/executors.md` says what was tried on which machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from executors.port import Allotment
from mesh.errors import OutOfMemory, TaskRefused
from mesh.platform import processor

PRECISIONS = ("auto", "fp32", "bf16", "fp16")

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}

KNOBS = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)
"""Variables of the environment by which numerical libraries choose other code."""


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """A place to compute."""

    name: str
    """As torch writes it: cpu, cuda:0."""
    precision: str
    threads: int
    reason: str

    @property
    def torch(self) -> torch.device:
        """For tensors and modules."""
        return torch.device(self.name)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Around the forward pass."""
        if self.precision in HALVES:
            return torch.autocast(self.torch.type, HALVES[self.precision])
        return contextlib.nullcontext()


def choose(allotment: Allotment, precision: str = "auto") -> Device:
    """The device for a lease. Sets this process's compute threads. TaskRefused for a precision that it can not do."""
    torch.set_num_threads(allotment.threads)
    keep_freed_memory()
    if allotment.gpus > allotment.rank and torch.cuda.is_available():
        return _checked(
            f"cuda:{allotment.rank}", precision, allotment.threads, f"{allotment.gpus} GPU leased and usable"
        )
    if allotment.aside:
        return _checked("cpu", precision, allotment.threads, f"not on the leased GPU: {allotment.aside}")
    if allotment.gpus > 0:
        return _checked("cpu", precision, allotment.threads, "a GPU is leased, but torch can not use it")
    return _checked("cpu", precision, allotment.threads, "no GPU leased")


def proof(gpus: int, memory_bytes: int = 0) -> str:
    """'' when so many GPUs compute here, else why they do not. memory_bytes: what this process may take of its GPU,
    which others share; torch takes no more from now on."""
    try:
        if not torch.cuda.is_available():
            return "torch sees no GPU here"
        if torch.cuda.device_count() < gpus:
            return f"{gpus} GPUs are leased, torch sees {torch.cuda.device_count()}"
        for number in range(gpus):
            if memory_bytes:
                whole = torch.cuda.get_device_properties(number).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / whole), number)
            numbers = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64) % 7  # small whole numbers: exact sums
            if not torch.equal((numbers.to(f"cuda:{number}") @ numbers.to(f"cuda:{number}")).cpu(), numbers @ numbers):
                return f"GPU {number} of the lease computes a product wrongly"
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return ""


def _checked(name: str, precision: str, threads: int, why: str) -> Device:
    if precision not in PRECISIONS:
        raise TaskRefused(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision not in HALVES:
        return Device(name, "fp32", threads, f"{why}; fp32 unless half precision is asked for")
    if _computes_bf16(name) if precision == "bf16" else name.startswith("cuda"):
        return Device(name, precision, threads, f"{why}; {precision} as asked")
    return Device(
        name, "fp32", threads, f"{why}; {precision} was asked for, but this {name.split(':')[0]} does not compute in it"
    )


def _computes_bf16(name: str) -> bool:
    if name.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    flags = torch.backends.cpu.get_cpu_capability()
    return flags == "AVX512" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fingerprint(device: Device) -> dict[str, Any]:
    """What decides the last bit of a computation. Two runs with equal fingerprints give equal bits: the same libraries
    compute in the same order, with code for the same processor. On a GPU some sums have no fixed order all the same
    (docs/checkpoints.md)."""
    return {
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "safetensors": importlib.metadata.version("safetensors"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": processor(),
        "environment": " ".join(f"{name}={os.environ[name]}" for name in KNOBS if os.environ.get(name)),
        "device": _described(device),
        "precision": device.precision,
        "matmul": torch.get_float32_matmul_precision(),
        "threads": device.threads,
        "compile": False,
    }


def _described(device: Device) -> str:
    if not device.name.startswith("cuda"):
        return device.name.split(":")[0]
    switches = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )
    said = "".join("1" if on else "0" for on in switches)
    return f"{torch.cuda.get_device_name(device.torch)}, CUDA {torch.version.cuda}, switches {said}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, each as 'name: before, now'."""
    names = sorted(before.keys() | now.keys())
    return [f"{name}: {before.get(name)}, now {now.get(name)}" for name in names if before.get(name) != now.get(name)]


def micro_batch(batch: int, memory_attempts: int) -> int:
    """Examples computed at once: halved for every time that memory ran out. The step still takes `batch` of them."""
    return max(1, -(-batch // 2 ** min(memory_attempts, 60)))


def is_out_of_memory(error: BaseException) -> bool:
    """True for the ways in which torch, numpy and Python say so; a CPU allocation fails as a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)


@contextlib.contextmanager
def memory_translated(doing: str) -> Iterator[None]:
    """Turns every form of 'out of memory' into OutOfMemory. The child ends with it: only that surely frees the
    memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise OutOfMemory(
            f"memory ran out while {doing} ({said}): it will be tried again with half the batch"
        ) from None


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that were freed: a gradient of the size of a vocabulary is made at every step,
    and asking the kernel for its pages anew took as long as the training itself. Other C libraries know no mallopt."""
    trim_threshold, mmap_max = -1, -4
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
