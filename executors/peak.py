"""The most memory that a training has used: of a GPU what torch has given out, elsewhere what the system counts."""

from __future__ import annotations

import torch

from mesh import platform


def memory_bytes(device: torch.device) -> int:
    """Peak so far, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return platform.memory_peak()
