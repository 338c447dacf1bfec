"""The device and its reason, out of memory by its many names, fingerprints."""

from __future__ import annotations

import pytest
import torch

from executors import device
from executors.port import Allotment
from mesh.errors import OutOfMemory, TaskRefused


def test_without_a_leased_gpu_the_cpu_computes_in_fp32() -> None:
    chosen = device.choose(Allotment(cores=1.5, memory_bytes=1))
    assert (chosen.name, chosen.precision, chosen.threads) == ("cpu", "fp32", 1)
    assert "no GPU leased" in chosen.reason
    assert torch.get_num_threads() == 1


def test_a_leased_gpu_that_torch_can_not_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = device.choose(Allotment(cores=1, memory_bytes=1, gpus=1))
    assert chosen.name == "cpu"
    assert "can not use it" in chosen.reason


@pytest.mark.parametrize("computes", [True, False])
def test_bf16_only_where_the_hardware_computes_in_it(computes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_computes_bf16", lambda name: computes)
    chosen = device.choose(Allotment(cores=1, memory_bytes=1), "bf16")
    assert chosen.precision == ("bf16" if computes else "fp32")
    assert "bf16" in chosen.reason


def test_other_precisions_are_refused() -> None:
    with pytest.raises(TaskRefused, match="fp8"):
        device.choose(Allotment(cores=1, memory_bytes=1), "fp8")


def test_fp16_is_not_for_a_cpu() -> None:
    chosen = device.choose(Allotment(cores=1, memory_bytes=1), "fp16")
    assert chosen.precision == "fp32"
    assert "fp16 was asked for" in chosen.reason


def test_this_machine_answers_whether_it_computes_in_bf16() -> None:
    assert device._computes_bf16("cpu") in (True, False)


def test_fingerprints_say_what_differs() -> None:
    one = device.fingerprint(device.Device("cpu", "fp32", 1, ""))
    other = device.fingerprint(device.Device("cpu", "bf16", 4, ""))
    assert device.differences(one, one) == []
    assert device.differences(one, other) == ["precision: fp32, now bf16", "threads: 1, now 4"]
    assert device.differences({}, {"a": 1}) == ["a: None, now 1"]


def test_a_fingerprint_names_what_chooses_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's extensions, torch's own choice among them, and the variables that override a library's."""
    here = device.Device("cpu", "fp32", 1, "")
    before = device.fingerprint(here)
    assert before["capability"] == torch.backends.cpu.get_cpu_capability()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setattr(device, "processor", lambda: "AnotherVendor avx2")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2-like")
    changed = {row.split(":")[0] for row in device.differences(before, device.fingerprint(here))}
    assert changed == {"environment", "processor", "capability"}


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")],
)  # fmt: skip
def test_every_form_of_out_of_memory_gets_one_name(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="while training"), device.memory_translated("training"):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), device.memory_translated("training"):
        raise RuntimeError("shapes do not match")


def test_what_torch_really_raises_is_recognised() -> None:
    with pytest.raises(OutOfMemory), device.memory_translated("training"):
        torch.empty(2**60, dtype=torch.uint8)


def test_the_batch_halves_and_never_reaches_zero() -> None:
    assert [device.micro_batch(100, attempts) for attempts in (0, 1, 2, 3)] == [100, 50, 25, 13]
    assert device.micro_batch(3, 10_000) == 1
