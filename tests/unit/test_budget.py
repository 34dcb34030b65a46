"""What models may cost: counted over process lifetimes, with the call in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch_ci.experiment import Status, Usage
from autoresearch_ci.proposers.budget import Budget
from tests.unit.histories import history

SPENT = Usage(calls=2, input_tokens=1000, output_tokens=500, cost=0.25)


def test_usages_add_up() -> None:
    """Calls and tokens are summed; an unknown cost does not hide a known one."""
    both = SPENT + Usage(calls=1, input_tokens=10, output_tokens=5)
    assert (both.calls, both.tokens, both.cost) == (3, 1515, 0.25)
    assert (Usage() + Usage(calls=1)).cost is None
    assert (SPENT + SPENT).cost == 0.5


def test_what_was_spent_before_counts() -> None:
    """A resumed session goes on counting, once."""
    before = history((1.0, Status.KEEP), (0.9, Status.DISCARD))
    before = replace(before, experiments=(before.experiments[0], replace(before.experiments[1], usage=SPENT)))
    budget = Budget(max_calls=3)
    budget.begin(before)
    budget.begin(before)
    assert budget.spent == SPENT
    assert budget.refusal(0, 0) == ""
    budget.add(Usage(calls=1))
    assert "`max-calls` 3 is reached" in budget.refusal(0, 0)


def test_prices() -> None:
    """Tokens cost what the person said; a report of the cost itself wins; without a price only tokens count."""
    budget = Budget(price_input=2.0, price_output=10.0)
    assert budget.add(Usage(calls=1, input_tokens=100_000, output_tokens=10_000)).cost == pytest.approx(0.3)
    assert budget.add(Usage(calls=1, input_tokens=100_000, cost=0.7)).cost == 0.7
    assert budget.spent.cost == pytest.approx(1.0)
    assert Budget().add(Usage(calls=1, input_tokens=5)).cost is None


def test_the_call_in_flight_counts() -> None:
    """A call that may pass a limit is not made: its answer is counted at its longest."""
    tokens = Budget(max_tokens=10_000)
    assert tokens.refusal(4000, 6000) == ""
    assert "10000 would be passed" in tokens.refusal(4000, 6001)
    cost = Budget(max_cost=1.0, price_input=1.0, price_output=10.0)
    assert cost.refusal(0, 100_000) == ""
    assert "may cost 1.01" in cost.refusal(10_000, 100_000)
    assert Budget().refusal(10**9, 10**9) == ""
