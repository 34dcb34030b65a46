"""What a search knows: the settings of all experiments so far with their losses, and a curve for each knob.

The experiments of every proposer count. One that moved knobs and nothing else tells what a setting is worth. One that changed other
code as well tells nothing about its knobs; when it was kept, it is where the settings after it start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_ci.experiment import NEAR_MISS, Direction, Experiment, History, Status
from autoresearch_ci.knobs import ALSO, Knob, Value, from_parameters
from autoresearch_ci.proposers.curves import Curve


@dataclass(frozen=True, slots=True)
class Setting:
    """The values of the knobs that were moved so far, and the loss with them above the baseline's; None for a crash."""

    values: Mapping[str, Value]
    loss: float | None


class Record:
    """Made from a history, experiment by experiment; `learn` takes in what is new."""

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._forget()

    def _forget(self) -> None:
        self.experiments: tuple[Experiment, ...] = ()
        self.fingerprints: set[str] = set()
        self.settings: list[Setting] = []
        self.curves: dict[str, Curve] = {}
        self.gains: list[float] = []  # of what was kept by knobs alone
        self._at: dict[str, Setting] = {}  # by commit
        self._metrics: dict[str, float] = {}
        self._moves: dict[int, dict[str, tuple[Value, Value]]] = {}
        self._origin: dict[str, Value] = {}
        self._worst = 0.0

    def learn(self, history: History) -> bool:
        """Takes in the experiments that are new; starts again, and says so, when the history does not continue the last one."""
        count = len(self.experiments)
        experiments = history.experiments
        is_other = count > len(experiments) or (count > 0 and experiments[count - 1] != self.experiments[-1])
        if is_other:
            self._forget()
            count = 0
        for experiment in experiments[count:]:
            self.fingerprints.add(experiment.fingerprint)
            self._take(experiment)
            if experiment.metric is not None:
                self._metrics[experiment.commit] = experiment.metric
        self.experiments = experiments
        return is_other

    def value(self, setting: Setting, knob: Knob) -> Value:
        """The value of a knob of the incumbent's script in a setting: what it was in the baseline unless something moved it."""
        return setting.values.get(knob.name, self._origin.get(knob.name, knob.value))

    def _take(self, experiment: Experiment) -> None:
        if experiment.base:  # the script may be another one: what its knobs are now is where they start from
            self._origin = {}
            self._at = {experiment.commit: Setting({}, 0.0)}
            self.settings = [self._at[experiment.commit]]
            return
        kept = experiment.status is Status.KEEP
        before, parent = self._at.get(experiment.parent), self._metrics.get(experiment.parent)
        if before is None or parent is None:
            if kept and experiment.metric is not None:
                self._at[experiment.commit] = Setting({}, 0.0)
                self.settings.append(self._at[experiment.commit])
            return
        again = experiment.parameters.get(NEAR_MISS)
        moves = self._moves.get(int(again), {}) if isinstance(again, int) else from_parameters(experiment.parameters)
        self._moves[experiment.number] = moves
        for name, (was, _) in moves.items():
            self._origin.setdefault(name, was)
        values = {**before.values, **{name: new for name, (_, new) in moves.items()}}
        by_knobs = bool(moves) and ALSO not in experiment.parameters
        change: float | None = None
        if experiment.status is not Status.CRASH and experiment.metric is not None:
            change = -self._direction.gain(parent, experiment.metric)
            self._worst = max(self._worst, abs(change))
        setting = Setting(values, None if change is None else (before.loss or 0.0) + change * by_knobs)
        if kept:
            self._at[experiment.commit] = setting
        if by_knobs:
            self.settings.append(setting)
            self._draw(moves, change, kept)

    def _draw(self, moves: Mapping[str, tuple[Value, Value]], change: float | None, kept: bool) -> None:
        """The curves after an experiment. Of several knobs, nobody knows whose the loss was: each has its share of a gain."""
        if kept and change is not None and change < 0:
            self.gains.append(-change)
        if len(moves) > 1 and (change is None or not kept):
            return
        for name, (was, new) in moves.items():
            curve = self.curves.setdefault(name, Curve())
            curve.keeps_before = len(self.gains)
            if len(moves) == 1:
                # A crash is worse than everything: a step that way does not pay.
                curve.add(was, new, 2 * self._worst if change is None else change)
                curve.failures = 0 if kept else curve.failures + 1
            elif change is not None:
                curve.add(was, new, change / len(moves))
