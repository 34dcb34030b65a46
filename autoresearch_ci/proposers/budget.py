"""What models may cost in a session: calls, tokens, dollars, with what is in flight counted as if it were spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autoresearch_ci.experiment import History, Usage
from autoresearch_ci.proposals import TooEarly

MILLION = 1_000_000


@dataclass(slots=True, kw_only=True)
class Budget:
    """The limits of a session, None where there is none, and what was spent. Prices are US dollars for a million tokens."""

    max_cost: float | None = None
    max_tokens: int | None = None
    max_calls: int | None = None
    price_input: float | None = None
    price_output: float | None = None
    _here: Usage = field(default_factory=Usage)  # by this process
    _before: Usage | None = None  # by the processes before it
    _dearest: Usage | None = None  # what any experiment or run of an agent took at most, each field by itself
    _in_flight: list[Usage] = field(default_factory=list)

    def begin(self, history: History) -> None:
        """Counts what the journal says was spent before this process took up the session; only the first time."""
        if self._before is not None:
            return
        self._before = Usage()
        for experiment in history.experiments:
            self._before += experiment.usage
            self._compare(experiment.usage)

    @property
    def spent(self) -> Usage:
        return (self._before or Usage()) + self._here

    @property
    def expected(self) -> Usage:
        """What a run of an agent may take: nobody knows, so what the dearest one took."""
        return self._dearest or Usage(calls=1)

    def add(self, usage: Usage) -> Usage:
        """Counts what was spent; the same with its cost, where the prices are known and it does not say one itself."""
        usage = self._priced(usage)
        self._here += usage
        self._compare(usage)
        return usage

    @contextmanager
    def in_flight(self, usage: Usage) -> Iterator[None]:
        """A call that is made meanwhile, and counts for the other ones as if this was spent for it."""
        usage = self._priced(usage)
        self._in_flight.append(usage)
        try:
            yield
        finally:
            self._in_flight.remove(usage)

    def refusal(self, input_tokens: int, output_tokens: int) -> str:
        """Why one more call that may take so many tokens is not made, in one line; empty when it may be.

        TooEarly when that depends on what the calls in flight take.
        """
        refusal = self._refusal(self.spent, input_tokens, output_tokens)
        if not refusal and self._refusal(sum(self._in_flight, self.spent), input_tokens, output_tokens):
            raise TooEarly
        return refusal

    def refusal_of_agent(self) -> str:
        """The same for a run of an agent, whose limits are looked at between its runs; with limits, the first one is alone."""
        limited = (self.max_cost, self.max_tokens, self.max_calls) != (None, None, None)
        if limited and self._in_flight and self._dearest is None:
            raise TooEarly
        return self.refusal(0, 0)

    def _refusal(self, spent: Usage, input_tokens: int, output_tokens: int) -> str:
        if self.max_calls is not None and spent.calls >= self.max_calls:
            return f"`max-calls` {self.max_calls} is reached"
        tokens = input_tokens + output_tokens
        if self.max_tokens is not None and spent.tokens + tokens > self.max_tokens:
            return f"`max-tokens` {self.max_tokens} would be passed: {spent.tokens} are spent, the next call may take {tokens}"
        cost = spent.cost or 0.0
        next_cost = (input_tokens * (self.price_input or 0) + output_tokens * (self.price_output or 0)) / MILLION
        if self.max_cost is not None and cost + next_cost > self.max_cost:
            return f"`max-cost` {self.max_cost:g} would be passed: {cost:.4g} is spent, the next call may cost {next_cost:.4g}"
        return ""

    def _compare(self, usage: Usage) -> None:
        if usage == Usage():
            return
        known = self._dearest or usage
        costs = [cost for cost in (known.cost, usage.cost) if cost is not None]
        self._dearest = Usage(
            calls=max(known.calls, usage.calls),
            input_tokens=max(known.input_tokens, usage.input_tokens),
            output_tokens=max(known.output_tokens, usage.output_tokens),
            cost=max(costs, default=None),
        )

    def _priced(self, usage: Usage) -> Usage:
        if usage.cost is not None or self.price_input is None or self.price_output is None:
            return usage
        cost = (usage.input_tokens * self.price_input + usage.output_tokens * self.price_output) / MILLION
        return replace(usage, cost=cost)
