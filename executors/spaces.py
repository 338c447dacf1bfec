"""Spaces of settings for a search: what may be drawn, typed and bounded, and what the worst of it takes. Light."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

NUMBERS = ("float", "log-float", "int", "log-int")
TYPES = (*NUMBERS, "categorical")

DIMENSIONS_MAX = 32
CHOICES_MAX = 64


class Dimension(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One setting that is drawn."""

    type: str
    """'float', 'log-float' (evenly in its logarithm), 'int', 'log-int' or 'categorical'."""
    low: float | None = None
    high: float | None = None
    """Bounds of numbers, both included."""
    choices: tuple[Any, ...] = ()
    """Of 'categorical': any JSON values."""

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"a dimension's type is one of {', '.join(TYPES)}, got {self.type[:40]!r}")
        if self.type == "categorical":
            self._check_choices()
        else:
            self._check_bounds()

    def _check_choices(self) -> None:
        if self.low is not None or self.high is not None:
            raise ValueError("a categorical dimension has choices, and neither low nor high")
        texts = {text_of(choice) for choice in self.choices}
        if not 1 <= len(self.choices) <= CHOICES_MAX or len(texts) < len(self.choices):
            raise ValueError(f"a categorical dimension has 1 to {CHOICES_MAX} different choices")

    def _check_bounds(self) -> None:
        low, high = self.low, self.high
        if self.choices or low is None or high is None:
            raise ValueError(f"a dimension of type {self.type} has low and high, and no choices")
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"low and high are numbers, low not above high; got {low} and {high}")
        if self.type.startswith("log-") and low <= 0:
            raise ValueError(f"a dimension of type {self.type} begins above 0, got {low}")
        if self.whole and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"a dimension of type {self.type} has whole bounds, got {low} and {high}")

    @property
    def whole(self) -> bool:
        """Only whole numbers are drawn."""
        return self.type in ("int", "log-int")

    def ends(self) -> tuple[Any, ...]:
        """The smallest and the largest value; of choices, all."""
        if self.type == "categorical":
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


Space = Mapping[str, Dimension]


def text_of(choice: Any) -> str:
    """A choice as JSON: how it is told to the study, whose choices are plain values. ValueError for what is no JSON."""
    try:
        return json.dumps(choice, sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"a choice is a JSON value: {error}") from None


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Corners of the space: all first ends, all last ends, and each end of each dimension among the others' first
    ends. Any of them can be drawn, so each must be valid."""
    first = {name: dimension.ends()[0] for name, dimension in space.items()}
    yield first
    yield {name: dimension.ends()[-1] for name, dimension in space.items()}
    for name, dimension in space.items():
        for end in dimension.ends()[1:]:
            yield {**first, name: end}


def worst(space: Space, cost: Callable[[Mapping[str, Any]], float]) -> dict[str, Any]:
    """The corner of the space that costs most, as far as one dimension after the other finds it."""
    found = {name: dimension.ends()[-1] for name, dimension in space.items()}
    for name, dimension in space.items():
        found = max(({**found, name: end} for end in dimension.ends()), key=cost)
    return found
