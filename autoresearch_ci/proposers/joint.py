"""A model of all knobs together: what a setting that was never run is expected to gain, from all results so far.

A Gaussian process over the knobs' own scales, chosen by expected improvement (Jones et al., 1998). Its kernel is half a sum over the
knobs (what one knob does whatever the others are, so that changes that paid apart are combined) and half a product (what they do
together). How far a knob's effect reaches is chosen by the marginal likelihood, knob by knob, from a few lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import ndtr

Array = NDArray[np.float64]

LENGTHS = (1.5, 4.0, 16.0)  # natural steps; at 16 a knob hardly matters
USUAL = 1  # of LENGTHS
NOISES = (1e-4, 1e-2, 1e-1)  # variance of a reading, that of the function being 1
ADDITIVE = 0.5  # the share of the sum in the kernel
OTHER = 2.0  # steps between two values that have no order
DOUBT = 0.5  # what a factor e of length away from the usual costs, in log likelihood


class JointModel:
    """Fitted to `places` (results × knobs) and their `losses`, lower is better.

    `unordered`: which knobs have no order. `weights`: how much each knob is expected to matter.
    """

    def __init__(self, places: Array, losses: Array, unordered: NDArray[np.bool_], weights: Array) -> None:
        self._places = places
        self._unordered = unordered
        self._weights = weights / weights.sum()
        self._middle, self._spread = float(losses.mean()), float(losses.std()) or 1.0
        self._targets = (losses - self._middle) / self._spread
        self._lengths, noise = self._fitted()
        distances = self._distances(places)
        kernel = _blend(np.tensordot(self._weights, _matern(distances), 1), (distances**2).sum(axis=0))
        self._factor = _cholesky(kernel, noise)
        half = solve_triangular(self._factor, self._targets, lower=True, check_finite=False)
        self._solved = solve_triangular(self._factor.T, half, check_finite=False)

    def gains(self, places: Array, best: float) -> Array:
        """How far below `best` each place is expected to be, an outcome above it counting as none."""
        distances = self._distances(places)
        across = _blend(np.tensordot(self._weights, _matern(distances), 1), (distances**2).sum(axis=0))
        half = solve_triangular(self._factor, across.T, lower=True, check_finite=False)
        deviation = np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 1e-10))
        below = (best - self._middle) / self._spread - across @ self._solved
        z = below / deviation
        gains: Array = self._spread * (below * ndtr(z) + deviation * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
        return gains

    def _distances(self, places: Array) -> Array:
        """From every row to every result, knob by knob, in lengths: (knobs, rows, results)."""
        return self._apart(places) / self._lengths[:, None, None]

    def _apart(self, places: Array) -> Array:
        apart = np.abs(places.T[:, :, None] - self._places.T[:, None, :])
        apart[self._unordered] = OTHER * (apart[self._unordered] > 0.5)
        return apart

    def _fitted(self) -> tuple[Array, float]:
        """The length of each knob and the noise that explain the results best: first one length for all, then one by one."""
        apart = self._apart(self._places)
        scaled = [apart / length for length in LENGTHS]
        single = [self._weights[:, None, None] * _matern(each) for each in scaled]
        square = [each**2 for each in scaled]
        starts = [(length, noise) for length in range(len(LENGTHS) - 1) for noise in NOISES]
        sums = {length: (single[length].sum(axis=0), square[length].sum(axis=0)) for length, _ in starts}
        knobs = len(self._weights)
        likelihood, start, noise = max(
            (self._likelihood(*sums[length], noise) - knobs * _doubt(length), length, noise) for length, noise in starts
        )
        chosen, (additive, radius) = [start] * knobs, sums[start]
        for knob in np.flatnonzero(apart.max(axis=(1, 2))):
            for length in (each for each in range(len(LENGTHS)) if each != start):
                old = chosen[knob]
                other = additive + single[length][knob] - single[old][knob]
                wider = radius + square[length][knob] - square[old][knob]
                found = self._likelihood(other, wider, noise) - sum(map(_doubt, chosen)) + _doubt(old) - _doubt(length)
                if found > likelihood:
                    likelihood, chosen[knob], additive, radius = found, length, other, wider
        return np.array([LENGTHS[length] for length in chosen]), noise

    def _likelihood(self, additive: Array, square: Array, noise: float) -> float:
        factor = _cholesky(_blend(additive, square), noise)
        half = solve_triangular(factor, self._targets, lower=True, check_finite=False)
        return float(-0.5 * half @ half - np.log(np.diag(factor)).sum())


def _doubt(length: int) -> float:
    return DOUBT * math.log(LENGTHS[length] / LENGTHS[USUAL]) ** 2


def _matern(distance: Array) -> Array:
    """The Matérn kernel with smoothness 5/2."""
    scaled = math.sqrt(5) * distance
    kernel: Array = (1 + scaled + scaled * scaled / 3) * np.exp(-scaled)
    return kernel


def _blend(additive: Array, square: Array) -> Array:
    """The sum over the knobs, and the kernel of all distances together; `square` is the square of their length."""
    kernel: Array = ADDITIVE * additive + (1 - ADDITIVE) * _matern(np.sqrt(np.maximum(square, 0.0)))
    return kernel


def _cholesky(kernel: Array, noise: float) -> Array:
    factor = np.linalg.cholesky(kernel + noise * np.eye(len(kernel)))
    return np.asarray(factor, dtype=np.float64)


def levelled(losses: Sequence[float | None]) -> Array:
    """Losses above the best one as a model can learn them: large ones flattened, so that none hides the small differences.

    A crash (None) is as bad as the worst result, and clearly worse than the best. At least one is not None.
    """
    known = np.array([loss for loss in losses if loss is not None])
    best = float(known.min())
    scale = float(np.median(known - best)) or float(known.max() - best) or 1.0
    worst = max(float(known.max()), best + 2 * scale)
    above = np.array([worst if loss is None else loss for loss in losses]) - best
    flattened: Array = scale * np.log1p(above / scale)
    return flattened
