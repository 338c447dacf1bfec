"""What may be asked of a model at once: the settings of the kind `answer`, for it and for who asks.

Nothing heavy is imported: the command line checks a question before anything is started.
"""

from __future__ import annotations

import math

from executors import port

TEXTS_MAX = 64
"""Texts of one task."""

TEXTS_BYTES_MAX = 48 * 1024
"""All of them as UTF-8: they travel in the task's own record, beside which there has to be room for everything else."""

TOP_MAX = 50
TOKENS_MAX = 1_024
"""Tokens that follow one text; with a tree each one is computed by several models."""

TEMPERATURE_MAX = 10.0


class AnswerSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked."""

    texts: tuple[str, ...] = ("",)
    """For models that read tables each one is a row: its numbers in the order of the columns, with commas or blanks, or
    a JSON map from columns to numbers."""
    top: int = 5
    """Labels told of each text, the likeliest first."""
    tokens: int = 64
    """Of language models: at most so many tokens follow each text."""
    temperature: float = 0.8
    """Of language models: 0 takes the likeliest token each time, more is more daring."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= TEXTS_MAX:
            raise ValueError(f"texts are 1 to {TEXTS_MAX}, got {len(self.texts)}")
        size = sum(len(text.encode("utf-8", "replace")) for text in self.texts)
        if size > TEXTS_BYTES_MAX:
            raise ValueError(f"texts have at most {TEXTS_BYTES_MAX} bytes together, got {size}")
        if not 1 <= self.top <= TOP_MAX or not 1 <= self.tokens <= TOKENS_MAX:
            raise ValueError(f"top is 1 to {TOP_MAX}, tokens 1 to {TOKENS_MAX}, got {self.top} and {self.tokens}")
        if not 0 <= self.temperature <= TEMPERATURE_MAX or math.isnan(self.temperature):
            raise ValueError(f"temperature is 0 to {TEMPERATURE_MAX:g}, got {self.temperature}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 on, got {self.seed}")
