"""The `search` proposer: tunes literals, learned from all results so far; no key and no network.

Every knob has a curve: how much worse or better each value was than the value it replaced. The curves give the first steps and,
from then on, candidates: the next step of each knob, two of them at once, and settings near the incumbent in which a few knobs differ.
A model of all knobs together chooses among them by expected improvement. All of it is computed from the history, other proposers'
experiments included, which is why a session resumes on another machine with the same next proposal.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from autoresearch_ci.experiment import Direction, History, Proposal
from autoresearch_ci.knobs import Knob, Scope, Value, as_parameters, find_knobs, from_parameters, set_knobs
from autoresearch_ci.proposals import Gate
from autoresearch_ci.proposers.axes import Axis, axis_of
from autoresearch_ci.proposers.curves import Curve, Move, steps
from autoresearch_ci.proposers.joint import JointModel, levelled
from autoresearch_ci.proposers.record import Record, Setting
from autoresearch_ci.source import fingerprint

OPENING = 8  # settings that are known before the model has its say
WINDOW = 40  # latest results that the model is fitted to: its cost does not grow with the session
PAIRED = 8  # steps of one knob that are paired with one another
SAMPLED = 120  # settings near the incumbent
AT_ONCE = (1, 2, 3, 4)  # how many knobs differ in such a setting
NEAR = 1.5  # standard deviation of their steps
BEST = 50  # candidates of the model that are tried for novelty, before whatever step is left
SHOWN = 6  # knobs in the outlook


class SearchProposer:
    """Proposes new values of one or more literals; matches the `Proposer` protocol.

    The same seed and history always give the same proposal. `gate`: what it refuses is not proposed, and where its plan names what
    to vary, only that is moved.
    """

    def __init__(self, direction: Direction, scope: Scope = "all", seed: int = 0, *, gate: Gate | None = None) -> None:
        self.direction = direction
        self.scope = scope
        self.seed = seed
        self.gate = gate
        self._record = Record(direction)
        self._script = ""
        self._knobs: tuple[Knob, ...] = ()
        self._axes: dict[str, Axis] = {}
        self._refused: set[frozenset[tuple[str, Value]]] = set()

    def propose(self, history: History, script: str) -> Proposal | None:
        """The script with one or more literals changed, never one that was tried; None when every value of every knob was."""
        self._look_at(history, script)
        pending = {_moved(proposal) for proposal in history.pending}  # also by what was proposed for another incumbent
        for move in self._moves():
            values = {name: value for name, value in move.values.items() if value != self._axes[name].knob.value}
            key = frozenset(values.items())
            if not values or key in self._refused or key in pending or not self._in_range(values):
                continue
            text = set_knobs(script, values, self._knobs)
            if self._is_refused(text, values):
                self._refused.add(key)
                continue
            knobs = [self._axes[name].knob for name in values]
            return Proposal(
                script=text,
                description=self._described(values),
                category=min(knobs, key=lambda knob: knob.rank).category,
                rationale=move.reason,
                proposer="search",
                parameters=as_parameters({knob.name: (knob.value, values[knob.name]) for knob in knobs}),
            )
        return None

    def outlook(self, history: History, script: str) -> str:
        """Two to five lines for a model's prompt: the knobs, their ranges, what moving them did, and what would be next."""
        self._look_at(history, script)
        if not self._axes:
            return "There is no knob that the search may move.\nIt has nothing to propose."
        axes = sorted(self._axes.values(), key=lambda axis: axis.knob.rank)
        values = "; ".join(f"{a.name} = {a.knob.written(a.knob.value)} ({a})" for a in axes[:SHOWN])
        lines = [f"Best values known, with their ranges: {values}{'; …' if len(axes) > SHOWN else ''}"]
        paid = {
            name: max(curve.losses.values()) - min(curve.losses.values()) for name, curve in self._record.curves.items()
        }
        order = sorted((name for name in paid if name in self._axes), key=lambda name: -paid[name])
        if order:
            lines.append(f"Moved so far, what mattered most first: {', '.join(order[:SHOWN])}")
        idle = [a.name for a in axes if a.name not in paid]
        if idle:
            lines.append(f"Never moved by itself: {', '.join(idle[:SHOWN])}")
        proposal = self.propose(history, script)
        lines.append(
            f"Next: {proposal.description} ({proposal.rationale})" if proposal else "Next: nothing is left to try"
        )
        return "\n".join(lines)

    # --- what is known, and what is allowed ---------------------------------------------------------------------------

    def _look_at(self, history: History, script: str) -> None:
        if self._record.learn(history):
            self._refused = set()
        if script == self._script:
            return
        self._script = script
        self._knobs = find_knobs(script)
        self._axes = {axis.name: axis for axis in map(self._axis, self._knobs) if axis is not None}
        self._refused = set()

    def _axis(self, knob: Knob) -> Axis | None:
        """The axis of a knob; None for one that is not to be moved."""
        if self.gate is None:
            return axis_of(knob) if knob.in_scope(self.scope) else None
        if knob.name in self.gate.hold or (self.gate.vary and knob.name not in self.gate.vary):
            return None
        if not knob.in_scope(self.scope) and self.gate.classify.get(knob.name) != self.scope:
            return None
        return axis_of(knob, self.gate.vary.get(knob.name))

    def _is_refused(self, text: str, values: Mapping[str, Value]) -> bool:
        """Whether a text was tried, is not let through, or would lose a knob."""
        if fingerprint(text) in self._record.fingerprints:
            return True
        if self.gate is not None and self.gate.refusal(text, self._script):
            return True
        shrunk = {name for name, value in values.items() if _is_smaller(value, self._axes[name].knob.value)}
        # A width too small to be recognised as one could not be moved back.
        return bool(shrunk) and not shrunk <= {knob.name for knob in find_knobs(text)}

    def _in_range(self, values: Mapping[str, Value]) -> bool:
        """Whether the plan allows the values: the gate would say the same, but takes much longer."""
        vary = self.gate.vary if self.gate is not None else {}
        return all(vary[name].holds(value) for name, value in values.items() if name in vary)

    def _described(self, values: Mapping[str, Value]) -> str:
        knobs = [self._axes[name].knob for name in values]
        return ", ".join(
            f"{knob.name} {knob.written(knob.value)} → {knob.written(values[knob.name])}" for knob in knobs
        )

    # --- proposing ----------------------------------------------------------------------------------------------------

    def _moves(self) -> Iterator[Move]:
        """Moves, best first: by the model of all knobs, by the curves, and at the end whatever value is left. Finite."""
        gains = self._record.gains
        scale = sum(gains[-5:]) / len(gains[-5:]) if gains else 1.0
        single = [
            move
            for axis in self._axes.values()
            for move in steps(axis, self._record.curves.get(axis.name, Curve()), scale, len(gains))
        ]
        single.sort(key=lambda move: -move.expected)
        if len(self._record.settings) > OPENING and self._axes:
            yield from self._by_model(single)
        yield from single
        for axis in sorted(self._axes.values(), key=lambda axis: axis.knob.rank):
            for value in axis.values():
                yield Move({axis.name: value}, 0.0, f"{axis.name} has a value left that was not tried")

    def _by_model(self, single: Sequence[Move]) -> Iterator[Move]:
        """The candidates that the model of all knobs expects most of, best first."""
        axes = list(self._axes.values())
        known = [(row, loss) for row, loss in map(self._row_and_loss, self._window()) if None not in row]
        if not any(loss is not None for _, loss in known):
            return
        losses = levelled([loss for _, loss in known])
        model = JointModel(
            np.array([row for row, _ in known], dtype=float),
            losses,
            np.array([axis.unordered for axis in axes]),
            np.array([0.95**axis.knob.rank for axis in axes]),
        )
        candidates = [*single, *_pairs(single[:PAIRED]), *self._sampled()]
        places = np.tile([axis.here for axis in axes], (len(candidates), 1))
        column = {axis.name: index for index, axis in enumerate(axes)}
        for row, move in enumerate(candidates):
            for name, value in move.values.items():
                places[row, column[name]] = self._axes[name].knob.coordinate(value)
        gains = model.gains(places, float(losses.min()))
        for index in np.argsort(-gains, kind="stable")[:BEST]:
            yield candidates[index]

    def _window(self) -> Sequence[Setting]:
        return self._record.settings[-WINDOW:]

    def _row_and_loss(self, setting: Setting) -> tuple[list[float | None], float | None]:
        """Where a setting lies on each axis, and its loss."""
        row: list[float | None] = []
        for axis in self._axes.values():
            place = axis.place(self._record.value(setting, axis.knob))
            row.append(axis.here if place is None and axis.name not in setting.values else place)
        return row, setting.loss

    def _sampled(self) -> Iterator[Move]:
        """Settings near the incumbent in which a few knobs differ, the same ones whenever this history is looked at."""
        chance = random.Random(f"{self.seed} {len(self._record.experiments)}")
        axes = list(self._axes.values())
        for _ in range(SAMPLED):
            values: dict[str, Value] = {}
            for axis in chance.sample(axes, min(len(axes), chance.choice(AT_ONCE))):
                values[axis.name] = (
                    chance.choice(axis.options) if axis.unordered else axis.at(axis.here + chance.gauss(0, NEAR))
                )
            yield Move(values, 0.0, "all results together expect most of this")


def _moved(proposal: Proposal) -> frozenset[tuple[str, Value]]:
    return frozenset((name, new) for name, (_, new) in from_parameters(proposal.parameters).items())


def _pairs(single: Sequence[Move]) -> Iterator[Move]:
    """Two steps of different knobs at once."""
    for one, other in itertools.combinations(single, 2):
        if not one.values.keys() & other.values.keys():
            yield Move(one.values | other.values, 0.0, f"both may pay: {one.reason}; {other.reason}")


def _is_smaller(value: Value, than: Value) -> bool:
    """Whether a whole number becomes a smaller one."""
    return type(value) is int and type(than) is int and value < than
