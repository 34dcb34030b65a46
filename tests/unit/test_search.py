"""The `search` proposer: what it proposes next, from the history alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from autoresearch_ci.experiment import (
    Category,
    Direction,
    Experiment,
    History,
    Proposal,
    Scalar,
    Session,
    Status,
    Verdict,
)
from autoresearch_ci.knobs import Knob, Value, as_parameters, find_knobs, from_parameters, set_knobs
from autoresearch_ci.proposals import Gate
from autoresearch_ci.proposers.axes import axis_of
from autoresearch_ci.proposers.search import SearchProposer
from autoresearch_ci.scope import Range
from autoresearch_ci.source import fingerprint

SCRIPT = """\
# the constants
MATRIX_LR = 0.04
TOTAL_BATCH_SIZE = 2**19
DEPTH = 8
WEIGHT_DECAY = 0.0
ADAM_BETAS = (0.8, 0.95)
WARMDOWN_RATIO = 0.5
USE_ROPE = True
ACTIVATION = "relu"
train(MATRIX_LR, TOTAL_BATCH_SIZE, DEPTH, WEIGHT_DECAY, ADAM_BETAS, WARMDOWN_RATIO, USE_ROPE)
use(ACTIVATION, "relu", "gelu")
"""
BEST = {"MATRIX_LR": 0.015, "TOTAL_BATCH_SIZE": 2**17, "DEPTH": 11, "WEIGHT_DECAY": 0.1, "ADAM_BETAS.beta2": 0.99}
Train = Callable[[Mapping[str, Knob]], float | None]


def bowl(knobs: Mapping[str, Knob]) -> float | None:
    """A training whose best settings are known: the loss grows with the distance from them; very deep ones crash."""
    if int(knobs["DEPTH"].value) > 16:
        return None
    distance = sum(
        (knobs[name].coordinate(best) - knobs[name].coordinate(knobs[name].value)) ** 2 for name, best in BEST.items()
    )
    return 0.9 + 0.002 * distance + (0.01 if knobs["ACTIVATION"].value == "relu" else 0)


class Loop:
    """A session in memory, judged as the program judges: better is kept."""

    def __init__(self, train: Train = bowl, script: str = SCRIPT, direction: Direction = Direction.MINIMIZE) -> None:
        self.train = train
        self.sign = 1 if direction is Direction.MINIMIZE else -1
        session = Session(tag="t", metric="m", direction=direction, training_script="train.py")
        self.script = script
        self.history = History(session=session)
        self.add(None, script, Status.KEEP, self.loss(script))

    def loss(self, script: str) -> float | None:
        loss = self.train({knob.name: knob for knob in find_knobs(script)})
        return None if loss is None else self.sign * loss

    def others(self, values: Mapping[str, Value], *, rest: str = "", by: Mapping[str, Scalar] | None = None) -> Status:
        """An experiment of another proposer: these values, and `rest` after the script's text."""
        knobs = {knob.name: knob for knob in find_knobs(self.script)}
        moves = as_parameters({name: (knobs[name].value, value) for name, value in values.items()})
        parameters = dict(by) if by is not None else moves | ({"also": "other code"} if rest else {})
        script = set_knobs(self.script, values) + rest
        proposal = Proposal(
            script=script, description="theirs", category=Category.OTHER, proposer="llm", parameters=parameters
        )
        return self.judge(proposal)

    def add(self, proposal: Proposal | None, script: str, status: Status, metric: float | None) -> None:
        number = len(self.history.experiments)
        experiment = Experiment(
            number=number,
            commit=f"commit{number}",
            parent=self.history.incumbent.commit if self.history.incumbent else "",
            description=proposal.description if proposal else "",
            category=proposal.category if proposal else Category.OTHER,
            verdict=Verdict(status=status, reason=""),
            metric=metric,
            memory_gb=None,
            parameters=json.loads(json.dumps(dict(proposal.parameters))) if proposal else {},
            fingerprint=fingerprint(script),
        )
        self.history = replace(self.history, experiments=(*self.history.experiments, experiment))

    def step(self, proposer: SearchProposer) -> Proposal | None:
        proposal = proposer.propose(self.history, self.script)
        if proposal is not None:
            self.judge(proposal)
        return proposal

    def judge(self, proposal: Proposal) -> Status:
        best = self.history.incumbent
        assert best is not None
        assert best.metric is not None
        metric = self.loss(proposal.script)
        better = metric is not None and self.history.session.direction.better(metric, best.metric)
        status = Status.KEEP if better else Status.CRASH if metric is None else Status.DISCARD
        self.add(proposal, proposal.script, status, metric)
        if better:
            self.script = proposal.script
        return status

    def run(self, proposer: SearchProposer, times: int) -> list[Proposal]:
        """The proposals of up to `times` experiments: fewer when nothing is left to try."""
        made: list[Proposal] = []
        while len(made) < times and (proposal := self.step(proposer)) is not None:
            made.append(proposal)
        return made


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("seed", [0, 1])
def test_finds_most_of_the_gain(direction: Direction, seed: int) -> None:
    """Thirty experiments find at least four fifths of what there is to gain, in either direction."""
    loop = Loop(direction=direction)
    start = loop.loss(SCRIPT)
    loop.run(SearchProposer(direction, seed=seed), 30)
    end = loop.loss(loop.script)
    assert start is not None
    assert end is not None
    assert abs(start - end) > 0.8 * (abs(start) - 0.9)


def test_one_change() -> None:
    """A proposal changes one literal, says so in one line, and keeps the comments."""
    proposal = SearchProposer(Direction.MINIMIZE).propose(Loop().history, SCRIPT)
    assert proposal is not None
    assert proposal.description == "MATRIX_LR 0.04 → 0.08"
    assert proposal.script == SCRIPT.replace("0.04", "0.08")
    assert proposal.category is Category.OPTIMIZER
    assert proposal.parameters == {"from MATRIX_LR": 0.04, "to MATRIX_LR": 0.08}
    assert proposal.rationale


def test_onward() -> None:
    """A step that paid is followed by a further one of the same knob, one that did not by another direction or knob."""
    better = Loop(train=lambda knobs: -math.log(float(knobs["MATRIX_LR"].value)))
    assert [p.description for p in better.run(SearchProposer(Direction.MINIMIZE), 2)] == [
        "MATRIX_LR 0.04 → 0.08",
        "MATRIX_LR 0.08 → 0.23",
    ]
    worse = Loop(train=lambda knobs: math.log(float(knobs["MATRIX_LR"].value)))
    tried = [p.description for p in worse.run(SearchProposer(Direction.MINIMIZE), 8)]
    assert tried[0] == "MATRIX_LR 0.04 → 0.08"
    assert "MATRIX_LR 0.04 → 0.02" in tried


def test_leaves_what_fails() -> None:
    """When nothing pays, every knob has been tried before long."""
    loop = Loop(train=lambda _: 1.0)
    proposals = loop.run(SearchProposer(Direction.MINIMIZE), 20)
    tried = {name for proposal in proposals for name in from_parameters(proposal.parameters)}
    assert tried == {knob.name for knob in find_knobs(SCRIPT)}


def test_crashes() -> None:
    """A session that only crashes goes on to new proposals; one with a cliff stays on the right side of it."""
    loop = Loop(train=lambda _: None)
    loop.history = replace(loop.history, experiments=(replace(loop.history.experiments[0], metric=1.0),))
    assert len({p.script for p in loop.run(SearchProposer(Direction.MINIMIZE), 20)}) == 20
    cliff = Loop()
    cliff.run(SearchProposer(Direction.MINIMIZE), 60)
    crashes = [e for e in cliff.history.experiments if e.status is Status.CRASH]
    assert len(crashes) <= 6


def test_never_twice() -> None:
    """No script is proposed twice, whoever tried it before."""
    loop = Loop()
    first = SearchProposer(Direction.MINIMIZE).propose(loop.history, SCRIPT)
    assert first is not None
    loop.add(replace(first, parameters={}), first.script, Status.DISCARD, 1.5)
    loop.run(SearchProposer(Direction.MINIMIZE), 60)
    prints = [experiment.fingerprint for experiment in loop.history.experiments]
    assert len(set(prints)) == len(prints) == 62


def test_nothing_that_is_pending() -> None:
    """What waits or is being run is not proposed beside it, also where it was proposed for another incumbent."""
    loop = Loop()
    proposer = SearchProposer(Direction.MINIMIZE)
    first = proposer.propose(loop.history, SCRIPT)
    assert first is not None
    second = proposer.propose(replace(loop.history, pending=(first,)), SCRIPT)
    assert second is not None
    assert second.parameters != first.parameters
    elsewhere = replace(first, script="another script")
    assert proposer.propose(replace(loop.history, pending=(elsewhere,)), SCRIPT) == second


def test_resume() -> None:
    """At every moment a new process proposes what the old one would have: the history is all there is to know."""
    loop, proposer = Loop(), SearchProposer(Direction.MINIMIZE, seed=5)
    for _ in range(40):
        fresh = SearchProposer(Direction.MINIMIZE, seed=5).propose(loop.history, loop.script)
        assert loop.step(proposer) == fresh


def test_other_history() -> None:
    """A proposer that is given the history of another session forgets the first one."""
    proposer = SearchProposer(Direction.MINIMIZE)
    Loop(train=lambda _: 1.0).run(proposer, 12)  # nothing was kept: the script is the same
    other = Loop(train=lambda _: 2.0)
    assert proposer.propose(other.history, SCRIPT) == SearchProposer(Direction.MINIMIZE).propose(other.history, SCRIPT)


@pytest.mark.parametrize(
    ("script", "proposals"),
    [
        ("USE_ROPE = True\nuse(USE_ROPE)\n", 1),
        ("batch_size = 4\nuse(batch_size)\n", 4),
        ("depth = 1\nuse(depth)\n", 3),
        ("print('nothing to tune')\n", 0),
        ("momentum = 0.9\nwindow_pattern = 'SL'\nuse(momentum, window_pattern)\n", 60),
    ],
)
def test_exhausted(script: str, proposals: int) -> None:
    """None when every value of every knob was tried, or there is no knob."""
    loop = Loop(train=lambda _: 1.0, script=script)
    made = loop.run(SearchProposer(Direction.MINIMIZE), 60)
    assert len(made) == proposals
    assert len({fingerprint(proposal.script) for proposal in made}) == proposals


def test_scope() -> None:
    """Only what is in scope is changed."""
    loop = Loop()
    made = loop.run(SearchProposer(Direction.MINIMIZE, "architecture"), 12)
    assert {proposal.category for proposal in made} == {Category.ARCHITECTURE}


@pytest.mark.parametrize(
    "parameters",
    [
        {"from MATRIX_LR": "x", "to MATRIX_LR": float("inf")},
        {"from MATRIX_LR": 0.2, "to MATRIX_LR": 0.3},
        {"from USE_ROPE": 3, "to USE_ROPE": 7},
        {"from gone": 1, "to gone": 2},
        {"knob": 5, "from": 1, "to": 2},
        {"model": "an LLM"},
    ],
)
def test_experiments_of_others(parameters: dict[str, Scalar]) -> None:
    """Experiments of other proposers are learned from where they say what they changed, and never in the way."""
    loop = Loop()
    first = SearchProposer(Direction.MINIMIZE).propose(loop.history, SCRIPT)
    assert first is not None
    loop.add(replace(first, parameters=parameters), SCRIPT + "x = 1\n", Status.DISCARD, 1.5)
    assert len(loop.run(SearchProposer(Direction.MINIMIZE), 20)) == 20


def test_long_session() -> None:
    """After hundreds of experiments, kept for chance or not, it still finds something new to try."""
    noise = random.Random(0)
    loop = Loop(train=lambda knobs: (bowl(knobs) or 1.0) + noise.gauss(0, 0.001))
    proposer = SearchProposer(Direction.MINIMIZE)
    assert len(loop.run(proposer, 230)) == 230
    assert SearchProposer(Direction.MINIMIZE).propose(loop.history, loop.script) == proposer.propose(
        loop.history, loop.script
    )


# --- several knobs at once ---------------------------------------------------------------------------------------------

RIDGE = """\
MATRIX_LR = 0.04
WEIGHT_DECAY = 0.1
BETA2 = 0.95
train(MATRIX_LR, WEIGHT_DECAY, BETA2)
"""


def ridge(knobs: Mapping[str, Knob]) -> float:
    """Better only where rate and decay move together: either alone makes it worse."""
    rate, decay = (
        knobs[name].coordinate(knobs[name].value) - math.log2(start)
        for name, start in (("MATRIX_LR", 0.04), ("WEIGHT_DECAY", 0.1))
    )
    return 1 + 3 * abs(rate - decay) - 0.1 * (rate + decay)


def test_several_at_once() -> None:
    """What no single step improves, several knobs at once do; the proposal names them all."""
    loop = Loop(train=ridge, script=RIDGE)
    made = loop.run(SearchProposer(Direction.MINIMIZE), 40)
    several = [p for p in made if len(from_parameters(p.parameters)) > 1]
    assert several
    for proposal in several:
        assert proposal.description.count(" → ") == len(from_parameters(proposal.parameters))
    (best,) = [e for e in loop.history.experiments if loop.history.incumbent == e]
    assert len(from_parameters(best.parameters)) > 1
    assert best.metric is not None
    assert best.metric < 1


def test_learns_from_others() -> None:
    """A step of another proposer that paid is followed by a further one of the same knob, before knobs of its rank are tried."""
    loop = Loop(train=lambda knobs: float(knobs["DEPTH"].value))
    assert loop.others({"DEPTH": 6}) is Status.KEEP
    made = loop.run(SearchProposer(Direction.MINIMIZE), 4)
    depth = next(p for p in made if "DEPTH" in from_parameters(p.parameters))
    assert depth.description == "DEPTH 6 → 4"
    assert depth.rationale == "moving DEPTH this way paid"


def test_learns_from_several_of_others() -> None:
    """Of a kept change of two knobs each has its share of the gain: both are moved further."""
    loop = Loop(train=lambda knobs: float(knobs["DEPTH"].value) - float(knobs["MATRIX_LR"].value))
    assert loop.others({"DEPTH": 6, "MATRIX_LR": 0.08}) is Status.KEEP
    reasons = [p.rationale for p in loop.run(SearchProposer(Direction.MINIMIZE), 12)]
    assert "moving DEPTH this way paid" in reasons
    assert "moving MATRIX_LR this way paid" in reasons


def test_learns_no_curve_from_other_code() -> None:
    """A change of knobs and other code says nothing of the knobs, but its values are where the search goes on from."""
    loop = Loop(train=lambda knobs: float(knobs["DEPTH"].value))
    assert loop.others({"DEPTH": 6}, rest="use(1)\n") is Status.KEEP
    proposals = loop.run(SearchProposer(Direction.MINIMIZE), 12)
    assert proposals[0].description == "MATRIX_LR 0.04 → 0.08"
    depth = next(p for p in proposals if "DEPTH" in from_parameters(p.parameters))
    assert depth.rationale == "DEPTH has not been tried yet"
    assert from_parameters(depth.parameters)["DEPTH"][0] == 6


def test_learns_from_second_tries() -> None:
    """A near miss that is kept when tried again is a step of the knobs that it moved."""
    loop = Loop(train=lambda knobs: 10 + float(knobs["DEPTH"].value))
    assert loop.others({"DEPTH": 12}) is Status.DISCARD
    loop.train = lambda knobs: 20 - float(knobs["DEPTH"].value)
    script = set_knobs(loop.script, {"DEPTH": 12})
    again = Proposal(script=script, description="again", category=Category.OTHER, parameters={"near-miss": 1})
    assert loop.judge(again) is Status.KEEP
    made = loop.run(SearchProposer(Direction.MINIMIZE), 4)
    depth = next(p for p in made if "DEPTH" in from_parameters(p.parameters))
    assert depth.rationale == "moving DEPTH this way paid"
    assert from_parameters(depth.parameters)["DEPTH"][0] == 12


def test_never_loses_a_knob() -> None:
    """A width so small that it would not be recognised as a knob any more is not proposed."""
    loop = Loop(train=lambda knobs: float(knobs["width"].value), script="width = 16\nuse(width)\n")
    loop.run(SearchProposer(Direction.MINIMIZE), 20)
    assert [knob.name for knob in find_knobs(loop.script)] == ["width"]


# --- the gate and the plan ---------------------------------------------------------------------------------------------


def test_gate() -> None:
    """What is held is never moved, and what was run by anybody is not proposed."""
    loop = Loop()
    gate = Gate(hold=("MATRIX_LR",))
    free = SearchProposer(Direction.MINIMIZE, gate=Gate()).propose(loop.history, SCRIPT)
    first = SearchProposer(Direction.MINIMIZE, gate=gate).propose(loop.history, SCRIPT)
    assert free is not None
    assert first is not None
    assert free.description.startswith("MATRIX_LR")
    other = replace(loop.history.experiments[0], fingerprint=fingerprint(first.script))
    gate.remember(other)
    proposal = SearchProposer(Direction.MINIMIZE, gate=gate).propose(loop.history, SCRIPT)
    assert proposal is not None
    assert proposal.script != first.script
    made = loop.run(SearchProposer(Direction.MINIMIZE, gate=gate), 20)
    assert len(made) == 20
    assert not any("MATRIX_LR" in from_parameters(p.parameters) for p in made)


def test_classify() -> None:
    """A knob that a person counts among those in scope is moved, whatever its name says."""
    gate = Gate(scope="optimizer", classify={"DEPTH": "optimizer"})
    made = Loop(train=lambda _: 1.0).run(SearchProposer(Direction.MINIMIZE, "optimizer", gate=gate), 12)
    moved = {name for p in made for name in from_parameters(p.parameters)}
    assert "DEPTH" in moved
    assert "ACTIVATION" not in moved


def test_vary() -> None:
    """Where the plan says what to vary, only that is moved, and only within its ranges and values."""
    vary = {
        "MATRIX_LR": Range(low=0.01, high=0.1),
        "DEPTH": Range(values=(4, 6, 8, 12)),
        "ACTIVATION": Range(values=("gelu",)),
        "TOTAL_BATCH_SIZE": Range(values=("many",)),
    }
    gate = Gate(vary=vary)
    made = Loop().run(SearchProposer(Direction.MINIMIZE, gate=gate), 30)
    values = [(name, new) for p in made for name, (_, new) in from_parameters(p.parameters).items()]
    assert {name for name, _ in values} == {"MATRIX_LR", "DEPTH", "ACTIVATION"}
    assert all(vary[name].holds(new) for name, new in values)
    assert {new for name, new in values if name == "DEPTH"} == {4, 6, 8, 12}


@pytest.mark.parametrize(
    ("name", "within", "low", "high"),
    [
        ("MATRIX_LR", Range(), 0.0013, 1.2),
        ("MATRIX_LR", Range(low=0.0, high=0.5), 0.0, 0.5),
        ("WEIGHT_DECAY", Range(low=0.01, high=0.2), 0.01, 0.2),
        ("WEIGHT_DECAY", Range(high=0.2), 0.0, 0.2),
        ("TOTAL_BATCH_SIZE", Range(low=2**18, high=2**20), 2**18, 2**20),
        ("WARMDOWN_RATIO", Range(low=0.25, high=0.75), 0.25, 0.75),
        ("ADAM_BETAS.beta2", Range(low=0.9, high=0.99), 0.9, 0.99),
    ],
)
def test_ranges(name: str, within: Range, low: float, high: float) -> None:
    """A plan's range replaces the usual one, on whatever scale the knob is; without ends it leaves it."""
    axis = axis_of(next(knob for knob in find_knobs(SCRIPT) if knob.name == name), within)
    assert axis is not None
    values = sorted(float(value) for value in axis.values())
    assert values[0] == pytest.approx(low, rel=0.05)
    assert values[-1] == pytest.approx(high, rel=0.05)
    assert axis.at(-1000) == values[0]
    assert axis.at(1000) == values[-1]


def test_empty_range() -> None:
    """A range that holds no value, or values that are none of the knob's, leave nothing to move."""
    depth = next(knob for knob in find_knobs(SCRIPT) if knob.name == "DEPTH")
    assert axis_of(depth, Range(low=5, high=4)) is None
    assert axis_of(depth, Range(values=("deep", True, -1))) is None


# --- what it tells a model ---------------------------------------------------------------------------------------------


def test_outlook() -> None:
    """Two to five plain lines: knobs with values and ranges, what mattered, what is next; asking changes nothing."""
    loop, proposer = Loop(), SearchProposer(Direction.MINIMIZE)
    at_first = proposer.outlook(loop.history, loop.script)
    assert "MATRIX_LR = 0.04 (" in at_first
    assert "Next: MATRIX_LR 0.04 → 0.08" in at_first
    assert loop.others({"DEPTH": 30, "MATRIX_LR": 20.0}) is Status.CRASH
    for _ in range(12):
        text = proposer.outlook(loop.history, loop.script)
        assert 2 <= len(text.splitlines()) <= 5
        proposal = loop.step(proposer)
        assert proposal is not None
        assert f"Next: {proposal.description}" in text
    assert "what mattered most first" in text


def test_outlook_of_nothing() -> None:
    """Without a knob, or with every value tried, the outlook says so."""
    loop = Loop(train=lambda _: 1.0, script="print('nothing to tune')\n")
    assert "nothing to propose" in SearchProposer(Direction.MINIMIZE).outlook(loop.history, loop.script)
    loop = Loop(train=lambda _: 1.0, script="USE_ROPE = True\nuse(USE_ROPE)\n")
    proposer = SearchProposer(Direction.MINIMIZE)
    loop.run(proposer, 5)
    assert "nothing is left" in proposer.outlook(loop.history, loop.script)
