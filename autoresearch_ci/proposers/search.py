"""The `search` proposer: one tunable literal at a time, learned from all results so far; no key and no network.

Every knob has a curve: how much worse or better each value was than the value it replaced. Where a curve shows the way
(a step that paid, a bracket round a minimum) the next step follows from it; the knob with the largest expected gain is
moved, so a knob that paid is explored further and one that failed is left. Every few proposals, and whenever no curve
promises anything, Optuna's TPE samples the knob and the value instead. All of it is computed from the history, which is
why a session resumes on another machine with the same next proposal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import optuna

from autoresearch_ci.experiment import Direction, Experiment, History, Proposal, Status
from autoresearch_ci.knobs import Knob, Scope, Value, as_parameters, find_knobs, from_parameters, set_knobs
from autoresearch_ci.proposals import Gate
from autoresearch_ci.source import fingerprint

WINDOW = 3  # blocks of experiments that TPE looks at besides the current one
BLOCK = 25  # experiments after which the study is made anew, without the oldest and without unused samples
SAMPLES = 4  # how often TPE is asked for one proposal before the grid is searched
EVERY = 8  # every how many experiments TPE proposes although a curve promises something
MEMORY = 40  # points of one curve that are kept
GRID = 400  # steps of the grid of one knob
CATEGORICAL = "knob"


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
    knob: Knob
    value: Value
    expected: float
    reason: str


class SearchProposer:
    """Proposes one changed literal after another; matches the `Proposer` protocol.

    The same seed and history always give the same proposal. Optuna's own log is turned down to errors.
    """

    def __init__(self, direction: Direction, scope: Scope = "all", seed: int = 0, gate: Gate | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.direction = direction
        self.scope = scope
        self.seed = seed
        self._gate = gate
        self._script = ""
        self._knobs: tuple[Knob, ...] = ()
        self._refused: set[tuple[str, Value]] = set()
        self._forget()

    def propose(self, history: History, script: str) -> Proposal | None:
        """The script with one literal changed, never one that was tried; None when every value of every knob was."""
        self._learn(history)
        if script != self._script:
            self._script = script
            self._knobs = tuple(knob for knob in find_knobs(script) if knob.in_scope(self.scope))
            self._refused = set(self._tried.get(history.incumbent.commit, ())) if history.incumbent else set()
        for move in self._moves():
            knob = move.knob
            if move.value == knob.value or (knob.name, move.value) in self._refused:
                continue
            text = set_knobs(script, {knob.name: move.value}, self._knobs)
            if fingerprint(text) in self._fingerprints or (self._gate and self._gate.refusal(text, script)):
                self._refused.add((knob.name, move.value))
                continue
            return Proposal(
                script=text,
                description=f"{knob.name} {knob.written(knob.value)} → {knob.written(move.value)}",
                category=knob.category,
                rationale=move.reason,
                proposer="search",
                parameters=as_parameters({knob.name: (knob.value, move.value)}),
            )
        return None

    def outlook(self, history: History, script: str) -> str:
        """What is found so far and would be tried next, for a model to read."""
        proposal = self.propose(history, script)
        return (
            f"- it would try next: {proposal.description}" if proposal else "- it has tried every value that it knows"
        )

    # --- learning -----------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._seen: tuple[Experiment, ...] = ()
        self._fingerprints: set[str] = set()
        self._metrics: dict[str, float] = {}
        self._tried: dict[str, set[tuple[str, Value]]] = {}
        self._curves: dict[str, Curve] = {}
        self._gains: list[float] = []
        self._changes: list[tuple[str, Value, float]] = []
        self._worst = 0.0
        self._study: optuna.Study | None = None
        self._study_of: tuple[tuple[str, ...], int] = ((), 0)
        self._told = 0

    def _learn(self, history: History) -> None:
        """Takes in the experiments that are new; starts again when the history does not continue the last one."""
        count = len(self._seen)
        experiments = history.experiments
        if count > len(experiments) or (count and experiments[count - 1] != self._seen[-1]):
            self._forget()
            count = 0
        for experiment in experiments[count:]:
            self._fingerprints.add(experiment.fingerprint)
            self._measure(experiment)
            if experiment.metric is not None:
                self._metrics[experiment.commit] = experiment.metric
        self._seen = experiments

    def _measure(self, experiment: Experiment) -> None:
        moves = from_parameters(experiment.parameters)
        parent = self._metrics.get(experiment.parent)
        if len(moves) != 1:
            return
        ((name, (before, after)),) = moves.items()
        self._tried.setdefault(experiment.parent, set()).add((name, after))
        if parent is None:
            return
        crashed = experiment.status is Status.CRASH or experiment.metric is None
        # Told as a value worse than every other, not as a failure: TPE has to learn where it crashes.
        change = 2 * self._worst if crashed else -self.direction.gain(parent, experiment.metric or 0.0)
        self._worst = max(self._worst, abs(change))
        curve = self._curves.setdefault(name, Curve())
        curve.add(before, after, change)
        curve.failures = 0 if experiment.status is Status.KEEP else curve.failures + 1
        self._gains += [-change] if experiment.status is Status.KEEP and change < 0 else []
        curve.keeps_before = len(self._gains)
        self._changes.append((name, after, change))

    # --- proposing ----------------------------------------------------------------------------------------------------

    def _moves(self) -> Iterator[Move]:
        """Moves, best first: by the curves, by Optuna, and at the end whatever value is left. Finite."""
        scale = sum(self._gains[-5:]) / len(self._gains[-5:]) if self._gains else 1.0
        moves = sorted(
            (move for knob in self._knobs for move in self._by_curve(knob, scale)), key=lambda move: -move.expected
        )
        promising = [move for move in moves if move.expected > 0.02 * scale]
        sampled = self._by_optuna()
        if len(self._changes) % EVERY == EVERY - 1 or not promising:
            yield from sampled
        yield from moves
        yield from sampled
        yield from self._by_grid()

    def _by_curve(self, knob: Knob, scale: float) -> Iterator[Move]:
        """The next steps on the curve of one knob, with what each is expected to gain."""
        curve = self._curves.get(knob.name, Curve())
        prior = scale * 0.8**knob.rank * 0.6**curve.failures
        stale = 0.04 * scale * math.log1p(len(self._gains) - curve.keeps_before)
        here = curve.losses.get(knob.value, 0.0)
        if knob.options:
            for value in knob.options:
                expected = stale if value in curve.losses else prior
                yield Move(knob, value, expected, f"{knob.name} has other known settings")
            return
        places = ((_place(knob, value), loss - here) for value, loss in curve.losses.items())
        points = sorted((place, loss) for place, loss in places if place is not None)
        place = knob.coordinate(knob.value)
        below = max((point for point in points if point[0] < place - 1e-9), default=None)
        above = min((point for point in points if point[0] > place + 1e-9), default=None)
        if knob.value == 0 and below is None and above is None:
            middle = (knob.coordinate(knob.low or 1.0) + knob.coordinate(knob.high)) / 2
            yield Move(knob, knob.at(middle), prior, f"{knob.name} is off")
            return
        if below is None and above is None:
            yield Move(knob, knob.at(place + 1), prior, f"{knob.name} has not been tried yet")
            yield Move(knob, knob.at(place - 1), 0.9 * prior, f"{knob.name} has not been tried yet")
        elif above is None and below is not None:
            yield self._onward(knob, place, below, prior)
        elif below is None and above is not None:
            yield self._onward(knob, place, above, prior)
        elif below is not None and above is not None:
            yield from self._between(knob, place, below, above, stale)

    def _onward(self, knob: Knob, place: float, behind: tuple[float, float], prior: float) -> Move:
        """Away from the only known neighbour: further where the last step paid, else the other way."""
        distance = place - behind[0]
        if self._changes and behind[1] > 0 and self._curves[knob.name].failures == 0:
            return Move(
                knob, knob.at(place + 1.5 * distance), max(behind[1] / 2, prior), f"moving {knob.name} this way paid"
            )
        return Move(knob, knob.at(place + distance), prior * 1.5, f"the other direction of {knob.name} did not pay")

    def _between(
        self, knob: Knob, place: float, below: tuple[float, float], above: tuple[float, float], stale: float
    ) -> Iterator[Move]:
        """Inside a bracket: the minimum of the parabola through three points, then nearer neighbours."""
        left, right = place - below[0], above[0] - place
        slope_left, slope_right = below[1] / left, above[1] / right
        curvature = (slope_left + slope_right) / (left + right)
        if curvature > 0:
            step = (slope_left * right - slope_right * left) / (left + right) / (2 * curvature)
            step = min(max(step, -0.8 * left), 0.8 * right)
            gain = curvature * step * step
            yield Move(knob, knob.at(place + step), max(gain, stale / 2), f"the results put the best {knob.name} here")
        yield Move(knob, knob.at(place + right / 2), stale, f"other changes may have moved the best {knob.name}")
        yield Move(knob, knob.at(place - left / 2), stale, f"other changes may have moved the best {knob.name}")

    def _by_optuna(self) -> Iterator[Move]:
        """TPE over "which knob" and "which value", with the experiments of the window as its trials."""
        if not self._knobs:
            return
        study = self._told_study()
        knobs = {knob.name: knob for knob in self._knobs}
        for attempt in range(SAMPLES):
            seed = (self.seed * 1_000_003 + len(self._seen) * SAMPLES + attempt) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=5)
            trial = study.ask()
            knob = knobs[trial.suggest_categorical(CATEGORICAL, tuple(knobs))]
            if knob.options:
                value = knob.options[trial.suggest_int(knob.name, 0, len(knob.options) - 1)]
            else:
                low, high = knob.coordinate(knob.low), knob.coordinate(knob.high)
                value = knob.at(trial.suggest_float(knob.name, min(low, high), max(low, high)))
            # Its result comes back by the history, as after a restart; an open trial would stay for ever.
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            yield Move(knob, value, 0.0, f"Optuna's TPE expects an improvement from {knob.name}")

    def _told_study(self) -> optuna.Study:
        """The study, told the experiments of the window; made anew when the window moves or the knobs are others."""
        names = tuple(knob.name for knob in self._knobs)
        block = len(self._changes) // BLOCK
        if self._study is None or self._study_of != (names, block):
            self._study, self._study_of, self._told = (
                optuna.create_study(),
                (names, block),
                max(0, block - WINDOW) * BLOCK,
            )
        knobs = {knob.name: knob for knob in self._knobs}
        for name, value, change in self._changes[self._told :]:
            knob = knobs.get(name)
            place = None if knob is None else _place(knob, value)
            if knob is None or place is None:
                continue
            scale: optuna.distributions.BaseDistribution = optuna.distributions.FloatDistribution(-1100, 1100)
            if knob.options:
                scale, place = optuna.distributions.IntDistribution(0, len(knob.options) - 1), int(place)
            self._study.add_trial(
                optuna.trial.create_trial(
                    params={CATEGORICAL: name, name: place},
                    distributions={CATEGORICAL: optuna.distributions.CategoricalDistribution(names), name: scale},
                    value=change,
                )
            )
        self._told = len(self._changes)
        return self._study

    def _by_grid(self) -> Iterator[Move]:
        """Every value that a knob can take at two digits or so: the knobs by rank, the values from near to far."""
        for knob in sorted(self._knobs, key=lambda knob: knob.rank):
            if knob.options:
                values = set(knob.options)
            else:
                low, high = sorted((knob.coordinate(knob.low), knob.coordinate(knob.high)))
                values = {knob.at(low + (high - low) * step / GRID) for step in range(-1, GRID + 1)}
            here = knob.coordinate(knob.value)
            for value in sorted(values, key=lambda value: (abs(knob.coordinate(value) - here), str(value))):
                yield Move(knob, value, 0.0, f"{knob.name} has a value left that was not tried")


def _place(knob: Knob, value: Value) -> float | None:
    """Where a value of the journal lies on the knob's scale; None when it cannot be one of its values."""
    if knob.options:
        return float(knob.options.index(value)) if value in knob.options else None
    if isinstance(value, str) or not math.isfinite(value) or value < 0:
        return None
    return knob.coordinate(value)
