"""One knob at a time: what is known about each, and the next step that follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from autoresearch_ci.knobs import Value
from autoresearch_ci.proposers.axes import Axis

MEMORY = 40  # points of one curve that are kept


@dataclass(slots=True)
class Curve:
    """What is known about one knob: value → loss, relative to the other values of the same knob."""

    losses: dict[Value, float] = field(default_factory=dict)
    failures: int = 0
    keeps_before: int = 0  # how many keeps the session had when the knob was last tried

    def add(self, before: Value, after: Value, change: float) -> None:
        """One experiment: the loss rose by `change` when `before` became `after`. The newest measurement wins."""
        if before not in self.losses:
            self.losses = {before: 0.0}  # another proposer moved the knob: nothing links the old points to this one
        start = self.losses[before]
        self.losses.pop(after, None)
        self.losses[after] = start + change
        if len(self.losses) > MEMORY:
            del self.losses[next(value for value in self.losses if value != before)]


@dataclass(frozen=True, slots=True)
class Move:
    """New values of one or more knobs, what they are expected to gain in the metric's unit, and why."""

    values: dict[str, Value]
    expected: float
    reason: str


def steps(axis: Axis, curve: Curve, scale: float, keeps: int) -> Iterator[Move]:
    """The next steps of one knob. `scale`: what a keep gained lately; `keeps`: how many there were.

    A step that paid is followed by a further one, one that did not by the other direction, and a bracket round a minimum by
    its middle.
    """
    prior = scale * 0.8**axis.knob.rank * 0.6**curve.failures
    stale = 0.04 * scale * math.log1p(keeps - curve.keeps_before)
    if axis.options:
        for value in axis.options:
            expected = stale if value in curve.losses else prior
            yield Move({axis.name: value}, expected, f"{axis.name} has other known settings")
        return
    here = curve.losses.get(axis.knob.value, 0.0)
    places = ((axis.place(value), loss - here) for value, loss in curve.losses.items())
    points = sorted((place, loss) for place, loss in places if place is not None)
    place = axis.here
    below = max((point for point in points if point[0] < place - 1e-9), default=None)
    above = min((point for point in points if point[0] > place + 1e-9), default=None)
    if below is not None and above is not None:
        yield from _between(axis, below, above, stale)
    elif behind := below or above:
        yield _onward(axis, behind, curve, prior)
    elif axis.knob.value == 0:
        yield _move(axis, (axis.low + axis.high) / 2, prior, f"{axis.name} is off")
    else:
        yield _move(axis, place + 1, prior, f"{axis.name} has not been tried yet")
        yield _move(axis, place - 1, 0.9 * prior, f"{axis.name} has not been tried yet")


def _onward(axis: Axis, behind: tuple[float, float], curve: Curve, prior: float) -> Move:
    """Away from the only known neighbour: further where the last step paid, else the other way."""
    distance = axis.here - behind[0]
    if behind[1] > 0 and curve.failures == 0:
        expected = max(behind[1] / 2, prior)
        return _move(axis, axis.here + 1.5 * distance, expected, f"moving {axis.name} this way paid")
    return _move(axis, axis.here + distance, prior * 1.5, f"the other direction of {axis.name} did not pay")


def _between(axis: Axis, below: tuple[float, float], above: tuple[float, float], stale: float) -> Iterator[Move]:
    """Inside a bracket: the minimum of the parabola through three points, then nearer neighbours."""
    left, right = axis.here - below[0], above[0] - axis.here
    slope_left, slope_right = below[1] / left, above[1] / right
    curvature = (slope_left + slope_right) / (left + right)
    if curvature > 0:
        step = (slope_left * right - slope_right * left) / (left + right) / (2 * curvature)
        step = min(max(step, -0.8 * left), 0.8 * right)
        expected = max(curvature * step * step, stale / 2)
        yield _move(axis, axis.here + step, expected, f"the results put the best {axis.name} here")
    yield _move(axis, axis.here + right / 2, stale, f"other changes may have moved the best {axis.name}")
    yield _move(axis, axis.here - left / 2, stale, f"other changes may have moved the best {axis.name}")


def _move(axis: Axis, place: float, expected: float, reason: str) -> Move:
    return Move({axis.name: axis.at(place)}, expected, reason)
