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
from autoresearch_ci.knobs import Knob, find_knobs, from_parameters
from autoresearch_ci.proposers.search import SearchProposer
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
        if proposal is None:
            return None
        best = self.history.incumbent
        assert best is not None
        assert best.metric is not None
        metric = self.loss(proposal.script)
        better = metric is not None and self.history.session.direction.better(metric, best.metric)
        status = Status.KEEP if better else Status.CRASH if metric is None else Status.DISCARD
        self.add(proposal, proposal.script, status, metric)
        if better:
            self.script = proposal.script
        return proposal

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


def test_resume() -> None:
    """At every moment a new process proposes what the old one would have: the history is all there is to know."""
    loop, proposer = Loop(), SearchProposer(Direction.MINIMIZE, seed=5)
    for _ in range(40):
        fresh = SearchProposer(Direction.MINIMIZE, seed=5).propose(loop.history, loop.script)
        assert loop.step(proposer) == fresh


def test_other_history() -> None:
    """A proposer that is given the history of another session forgets the first one."""
    proposer = SearchProposer(Direction.MINIMIZE)
    Loop().run(proposer, 12)
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
