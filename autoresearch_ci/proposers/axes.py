"""The axes that a search moves along: a knob, and the values that it may take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from autoresearch_ci.knobs import Knob, Value
from autoresearch_ci.knobs.rules import Kind
from autoresearch_ci.scope import Range

GRID = 400  # steps of the grid of one knob


@dataclass(frozen=True, slots=True)
class Axis:
    """A knob with its scale, on which 1 is a natural step. `options`: the only values it may take; empty for a range."""

    knob: Knob
    options: tuple[Value, ...] = ()

    @property
    def name(self) -> str:
        return self.knob.name

    @property
    def unordered(self) -> bool:
        """Whether no value lies between two others."""
        return bool(self.knob.options)

    @property
    def here(self) -> float:
        return self.knob.coordinate(self.knob.value)

    @property
    def low(self) -> float:
        """The lowest place; for a knob that may be off, that of "off"."""
        return self.knob.coordinate(self.knob.low) - self.knob.zero

    @property
    def high(self) -> float:
        return self.knob.coordinate(self.knob.high)

    def place(self, value: Value) -> float | None:
        """Where a value of the journal lies on the scale; None when it cannot be one of the knob's."""
        if self.unordered:
            return self.knob.coordinate(value) if value in self.knob.options else None
        if isinstance(value, str) or not math.isfinite(value) or value < 0:
            return None
        return self.knob.coordinate(value)

    def at(self, place: float) -> Value:
        """The nearest value that the knob may take."""
        if not self.options:
            return self.knob.at(min(max(place, self.low), self.high))
        return min(self.options, key=lambda value: abs(self.knob.coordinate(value) - place))

    def values(self) -> Iterator[Value]:
        """Every value, at two digits or so, from the nearest to the farthest."""
        values = set(self.options)
        if not values:
            values = {self.at(self.low + (self.high - self.low) * step / GRID) for step in range(GRID + 1)}
        yield from sorted(values, key=lambda value: (abs(self.knob.coordinate(value) - self.here), str(value)))

    def __str__(self) -> str:
        """The values in words: `0.001 to 0.1`, `relu, gelu or silu`."""
        if self.options:
            *others, last = map(self.knob.written, self.options)
            return f"{', '.join(others)} or {last}" if others else last
        return f"{self.knob.written(self.at(self.low))} to {self.knob.written(self.at(self.high))}"


def axis_of(knob: Knob, within: Range | None = None) -> Axis | None:
    """The axis of a knob over the range that is usual for it, or that of a plan; None when the plan allows none of its values."""
    if within is None:
        return Axis(knob, knob.options)
    if knob.options or within.values:
        options = tuple(value for value in knob.options or within.values if within.holds(value) and _fits(knob, value))
        return Axis(knob, options) if options else None
    low = max(0.0, within.low) if math.isfinite(within.low) else knob.low
    high = within.high if math.isfinite(within.high) else knob.high
    zero = knob.kind is Kind.LOG and within.low <= 0 and (knob.zero or math.isfinite(within.low))
    if low <= 0 and knob.kind in (Kind.LOG, Kind.DOUBLING):
        low = min(knob.low, high)
    return Axis(replace(knob, low=low, high=high, zero=zero)) if low <= high else None


def _fits(knob: Knob, value: Value) -> bool:
    if knob.options:
        return value in knob.options
    return not isinstance(value, str | bool) and math.isfinite(value) and value >= 0
