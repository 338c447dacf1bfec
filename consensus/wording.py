"""How numbers of a comparison are told to people."""

from __future__ import annotations

from mesh.messages.judgement import Comparison


def signed(value: float) -> str:
    """Four digits and a sign; what rounds to zero is +0."""
    return f"{round(value, 4) + 0.0:+.4f}"


def interval_told(comparison: Comparison) -> str:
    """Both ends."""
    return f"[{signed(comparison.low)}, {signed(comparison.high)}]"


def loss_told(loss: Comparison) -> str:
    """How much lower or higher the loss is; the interval is of the same quantity."""
    if loss.effect >= 0.0:
        return "the same loss" if loss.effect == 0.0 else f"loss lower by {loss.effect:.4f} nats {interval_told(loss)}"
    return f"loss higher by {-loss.effect:.4f} nats [{signed(-loss.high)}, {signed(-loss.low)}]"


def megabytes(size: float) -> str:
    """The size of a model."""
    return f"{size / 1e6:.2f} MB"
