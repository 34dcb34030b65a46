"""Pure: how much the readings of one script differ, and what is known about a commit without wishful thinking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Final

from autoresearch_ci.experiment import Direction, Experiment, History, Measurement, Purpose, Recheck, Status

CONFIDENCE_OF_INTERVALS: Final = 0.95


@lru_cache(maxsize=4096)
def quantile(probability: float, degrees: int) -> float:
    """Where Student's t with `degrees` of freedom is below with `probability`."""
    from scipy.special import stdtrit  # 0.1 s, and only where readings vary

    return float(stdtrit(degrees, probability))


@dataclass(frozen=True, slots=True)
class Noise:
    """The standard deviation of one reading, in the metric's unit, pooled over every script that was run more than once.

    `degrees` of freedom: runs beyond the first of each script; 0: nothing was run twice, so nothing is known.
    """

    sd: float = 0.0
    degrees: int = 0

    @property
    def exact(self) -> bool:
        """Whether one reading says it all: repeated runs agreed to the last digit, or none was asked for."""
        return self.sd == 0.0

    def standard_error(self, runs: int, other_runs: int) -> float:
        """Of the difference between two means of so many readings."""
        return self.sd * math.sqrt(1 / runs + 1 / other_runs)


@dataclass(frozen=True, slots=True)
class Interval:
    """A gain (positive is better) with its 95 % confidence interval, from `runs` readings of each side."""

    gain: float
    low: float
    high: float
    runs: int

    @property
    def includes_zero(self) -> bool:
        return self.low <= 0.0


def confirmed(recheck: Recheck, noise: Noise, direction: Direction) -> Interval | None:
    """What a recheck found: `subject` against `reference`, by their fresh readings alone; None without readings of both.

    The spread is the session's pooled one, for three runs of each say little about it themselves. Readings that never varied
    give an interval without width.
    """
    before, after = recheck.readings(recheck.reference), recheck.readings(recheck.subject)
    if not before or not after:
        return None
    gain = direction.gain(fmean(before), fmean(after))
    half = 0.0
    if not noise.exact:
        tail = (1 + CONFIDENCE_OF_INTERVALS) / 2
        half = quantile(tail, noise.degrees) * noise.standard_error(len(before), len(after))
    return Interval(gain, gain - half, gain + half, min(len(before), len(after)))


def verification(history: History) -> Recheck | None:
    """The last verification of the commit that the session ended up with; None when there is none of that one."""
    best = history.best
    found = (r for r in reversed(history.rechecks) if r.purpose is Purpose.VERIFY)
    return next((r for r in found if best is not None and r.subject == best.commit and r.measurements), None)


@dataclass(slots=True)
class Readings:
    """Everything measured in a session by commit: grows by what is new, so the 2,000th experiment costs what the 10th costs.

    Only readings that count are in. A session that went on on another machine, or on another base, starts its comparisons anew:
    readings from before the last `machine` recheck or merge of the base tell about the noise, but are never compared with newer
    ones.
    """

    direction: Direction
    _fresh: dict[str, list[float]] = field(
        default_factory=dict
    )  # compared: the own readings of a commit on this machine
    _selecting: dict[str, float] = field(default_factory=dict)  # the one reading that made somebody look at the commit
    _squares: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    _fresh_squares: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    _gains: list[float] = field(default_factory=list)
    _era: int = 0  # of one machine and one base
    _sum: float = 0.0
    _degrees: int = 0

    @classmethod
    def of(cls, history: History) -> Readings:
        readings = cls(history.session.direction)
        made: list[Experiment | Recheck] = [*history.experiments, *history.rechecks]
        for each in sorted(made, key=lambda m: m.finished_at.timestamp() if m.finished_at else 0.0):
            if isinstance(each, Experiment):
                readings.add(each)
            else:
                readings.add_recheck(each)
        return readings

    def add(self, experiment: Experiment) -> None:
        """Takes in an experiment's runs: the candidate's, and those of the incumbent that it was compared with.

        A merge of the base makes older readings old. Nobody selected it by a reading.
        """
        if experiment.base:
            self._start_anew()
            self._take(experiment.measurements)
            return
        self._take(experiment.measurements, first=experiment.commit if experiment.number else "")
        evidence = experiment.verdict.evidence
        if experiment.status is Status.KEEP and experiment.number and evidence is not None:
            self._gains.append(max(0.0, evidence.gain))
        elif experiment.status is not Status.KEEP:
            self._fresh.pop(experiment.commit, None)
            self._selecting.pop(experiment.commit, None)

    def add_recheck(self, recheck: Recheck) -> None:
        """Takes in what was measured beside the experiments; one made for another machine makes older readings old."""
        if recheck.purpose is Purpose.MACHINE:
            self._start_anew()
        if recheck.comparable:
            self._take(recheck.measurements)

    def compared(self, commit: str) -> tuple[float, ...]:
        """The readings of a kept commit that a candidate is compared with.

        Where readings vary, the lucky one that selected the commit is not among them: a mean that holds it is too good by
        construction. Where they do not, it is all there is to know.
        """
        fresh = tuple(self._fresh.get(commit, ()))
        if not fresh and self.noise.exact and commit in self._selecting:
            return (self._selecting[commit],)
        return fresh

    @property
    def noise(self) -> Noise:
        return Noise(math.sqrt(self._sum / self._degrees) if self._degrees else 0.0, self._degrees)

    @property
    def fresh_noise(self) -> Noise:
        """The noise without the readings that made somebody look at a commit: what an interval is made of. Those lie further out
        than others, because they were chosen for it."""
        total, degrees = (sum(part[n] for part in self._fresh_squares.values()) for n in (0, 1))
        return Noise(math.sqrt(total / degrees) if degrees else 0.0, int(degrees))

    def noise_with(self, candidate: Sequence[float], *, incumbent: tuple[str, Sequence[float]]) -> Noise:
        """The noise as it is after readings of an experiment that is not decided yet; `incumbent`: its commit and new readings."""
        commit, again = incumbent
        old = self._squares.get((commit, self._era), (0.0, 0))
        parts = [_squares(candidate), _squares([*self._all(commit), *again])]
        degrees = self._degrees - old[1] + sum(part[1] for part in parts)
        total = self._sum - old[0] + sum(part[0] for part in parts)
        return Noise(math.sqrt(max(0.0, total) / degrees) if degrees else 0.0, degrees)

    @property
    def typical_gain(self) -> float:
        """What a keep of this session gains, starting from one standard deviation of the noise as a first guess."""
        return (self.noise.sd + sum(self._gains)) / (1 + len(self._gains))

    def _start_anew(self) -> None:
        self._era += 1
        self._fresh.clear()
        self._selecting.clear()

    def _take(self, measurements: Iterable[Measurement], first: str = "") -> None:
        groups: dict[str, list[float]] = {}
        for measurement in measurements:
            value = measurement.reading.metric
            if value is None or not measurement.counts:
                continue
            groups.setdefault(measurement.commit, []).append(value)
        for commit, values in groups.items():
            known = self._all(commit)
            if commit == first:
                self._selecting[commit], *rest = values
                self._fresh.setdefault(commit, []).extend(rest)
            else:
                self._fresh.setdefault(commit, []).extend(values)
            self._pool(commit, [*known, *values])
            self._fresh_squares[commit, self._era] = _squares(self._fresh[commit])

    def _all(self, commit: str) -> list[float]:
        selecting = [self._selecting[commit]] if commit in self._selecting else []
        return [*selecting, *self._fresh.get(commit, ())]

    def _pool(self, commit: str, values: Sequence[float]) -> None:
        key = (commit, self._era)
        old = self._squares.get(key, (0.0, 0))
        new = self._squares[key] = _squares(values)
        self._sum += new[0] - old[0]
        self._degrees += new[1] - old[1]


def _squares(values: Sequence[float]) -> tuple[float, int]:
    """The sum of squared distances from the mean, and its degrees of freedom. Equal values give exactly 0."""
    if len(values) < 2 or min(values) == max(values):
        return 0.0, max(0, len(values) - 1)
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values), len(values) - 1
