"""The rules that bench-judge compares ours with: what they must have in common for the comparison to be fair."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Direction, Status, Verdict
from autoresearch_ci.judge import RunAgain
from autoresearch_ci.noise import Noise
from tests.bench.judging import CONTENDERS, Contender, World, session

contenders = st.sampled_from(CONTENDERS)
MAD = next(c for c in CONTENDERS if "MAD" in c.name)
values = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=3, max_size=3)


def answer(contender: Contender, candidate: list[float], incumbent: list[float]) -> int:
    """discard 0, run again 1, keep 2, after as many readings as the rule asks for of the three."""
    rule = contender.make()
    verdict: Verdict | RunAgain = RunAgain(False, "")
    for count in range(1, 4):
        verdict = rule(
            candidate[:count], incumbent, noise=Noise(1.0, 9), typical_gain=1.0, runs=count, lines=1, incumbent_lines=1,
            direction=Direction.MAXIMIZE, rule=contender.rule,
        )  # fmt: skip
        if isinstance(verdict, Verdict):
            return 2 * (verdict.status is Status.KEEP)
    return 1


@given(contenders.filter(lambda c: c is not MAD), values, values, st.floats(0, 1e3))
def test_better_is_never_worse(contender: Contender, candidate: list[float], incumbent: list[float], by: float) -> None:
    """No rule keeps a candidate and would discard a better one."""
    if answer(contender, candidate, incumbent) == 2:
        assert answer(contender, [value + by for value in candidate], incumbent) == 2


def test_a_better_reading_may_be_worse_by_its_own_deviation() -> None:
    """The rule that divides by the deviation of all readings has no such invariant: a large gain widens it. Not ours to mend."""
    assert answer(MAD, [0.0] * 3, [-96.574, 0.0, 0.0]) == 2
    assert answer(MAD, [416.0] * 3, [-96.574, 0.0, 0.0]) == 0


@given(contenders, values, st.integers(0, 2))
def test_nan_never_keeps(contender: Contender, incumbent: list[float], at: int) -> None:
    """A reading that is no number is no gain to any rule that looks at it."""
    candidate = [max(incumbent) + 1e6] * 3
    candidate[at] = math.nan
    looked_at = 1 if answer(contender, [max(incumbent) + 1e6, math.nan, math.nan], incumbent) == 2 else 3
    if at < looked_at:
        assert answer(contender, candidate, incumbent) < 2


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_a_session_of_each_rule(contender: Contender, tmp_path_factory: pytest.TempPathFactory) -> None:
    """At noise 0 no rule keeps a false gain, and rules of one baseline run repeat nothing."""
    outcome = session(contender, World(0.0), 3, tmp_path_factory.mktemp("journal"))
    assert outcome.false_keeps == 0
    assert outcome.true_gain > 0
    if contender.name.startswith("ours"):
        assert outcome.repeats == 1
        assert outcome.covered
        assert outcome.claimed_gain == pytest.approx(outcome.true_gain)
