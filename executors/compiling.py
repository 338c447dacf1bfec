"""Whether a network is compiled, with the reason.

`torch.compile` in place: the network keeps its names. Every shape of a batch gets code of its own, so that the code
that a step runs does not depend on which shapes came before: a resumed run is bit-identical to one that was not.
Compiled and not compiled differ in the last bits, so it is part of the fingerprint.

'auto' says yes only where it surely pays: on a GPU with Triton, for a run long enough to win back the compilation. On a
CPU it has to be asked for: a GPT of ten million parameters took 1.09 times less processor time per step, after a first
one of 26 s (the compiler's own processes not counted).

Where compiling fails in the first step of a process, that step is taken again without, and the run goes on so.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil

from torch import nn

from executors.device import Device

STEPS_LEAST = 2_000
"""Shorter runs do not win back half a minute to two minutes of compilation."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compiled:
    """What was decided."""

    on: bool
    reason: str


def decided(wish: str, device: Device, steps: int) -> Compiled:
    """Whether to compile for a run of so many steps."""
    kind = device.torch.type
    if wish == "off":
        return Compiled(False, "not asked for")
    if lacking := _lacking(kind):
        return Compiled(False, lacking)
    if wish == "on":
        return Compiled(True, "as asked")
    if kind != "cuda":
        return Compiled(False, f"on a {kind} it has to be asked for: it wins a tenth at most, after a minute or two")
    if steps < STEPS_LEAST:
        return Compiled(False, f"{steps} steps are too few to win back what compiling takes ({STEPS_LEAST} are not)")
    return Compiled(True, "a long run on a GPU")


def compiled(network: nn.Module, wish: str, device: Device, steps: int) -> Compiled:
    """Decide, and compile the network in place if so; the work is done in the first steps."""
    found = decided(wish, device, steps)
    if found.on:
        network.compile(dynamic=False)
    return found


def failures() -> tuple[type[Exception], ...]:
    """What a compiled network raises when it can not be compiled after all. Call it for compiled networks only: it
    loads the compiler."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return TorchDynamoException, InductorError


def given_up(network: nn.Module, error: Exception) -> Compiled:
    """The network as it was, and why."""
    network._compiled_call_impl = None
    said = str(error).strip().splitlines()
    return Compiled(False, f"compiling it failed ({type(error).__name__}: {said[0][:160] if said else ''})")


def _lacking(kind: str) -> str:
    """What compiling lacks on this machine; '' when it can be done."""
    if kind == "cuda":
        return "" if importlib.util.find_spec("triton") else "Triton is not installed"
    compiler = os.environ.get("CXX") or "g++"
    return "" if shutil.which(compiler) else f"there is no C++ compiler ({compiler}) on this machine"
