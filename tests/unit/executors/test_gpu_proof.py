"""Does a leased GPU compute, within its share; and which errors are the device's? The same on a machine without one."""

from __future__ import annotations

import pytest
import torch

from executors import device
from executors.child import is_of_device
from executors.port import Allotment
from mesh.errors import NonFinite

HAS_GPU = torch.cuda.is_available()
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="this machine has no GPU that torch can use")]


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu_the_proof_says_so() -> None:
    assert device.proof(1) == "torch sees no GPU here"


def test_a_driver_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("CUDA driver initialization failed\nwith a long story")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", broken)
    assert device.proof(1) == "RuntimeError: CUDA driver initialization failed"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.proof(2) == "2 GPUs are leased, torch sees 1"


def test_a_task_that_leaves_its_gpu_alone_says_why() -> None:
    place = device.choose(
        Allotment(cores=1.0, memory_bytes=1 << 30, aside="GPU 3 failed 3 times in a row (lost): 12 s")
    )
    assert place.name == "cpu"
    assert place.reason.startswith("not on the leased GPU: GPU 3 failed 3 times in a row (lost): 12 s")


@pytest.mark.parametrize(
    ("error", "of_device"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("CUDA error: not from torch"), False),
        (NonFinite("the loss became nan"), False),
    ],
)
def test_which_errors_are_the_devices(error: Exception, of_device: bool) -> None:
    assert is_of_device(error) is of_device


class TestOnAGpu:
    """What the CPU can not show."""

    pytestmark = needs_gpu

    def test_it_computes(self) -> None:
        assert device.proof(1) == ""

    def test_a_share_is_a_bound(self) -> None:
        whole = torch.cuda.get_device_properties(0).total_memory
        try:
            assert device.proof(1, whole // 8) == ""
            kept = torch.empty(whole // 16, dtype=torch.uint8, device="cuda:0")
            with pytest.raises(torch.OutOfMemoryError):
                torch.empty(whole // 4, dtype=torch.uint8, device="cuda:0")
            del kept
        finally:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0, 0)
