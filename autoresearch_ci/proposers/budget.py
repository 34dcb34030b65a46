"""What models may cost in a session: calls, tokens, dollars, with what is in flight counted as if it were spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autoresearch_ci.experiment import History, Usage

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
    _in_flight: list[Usage] = field(default_factory=list)
    dearest: Usage = field(
        default=Usage(calls=1), init=False
    )  # of all calls so far; of an agent, nobody knows what it will take

    def begin(self, history: History) -> None:
        """Counts what the journal says was spent before this process took up the session; only the first time."""
        if self._before is None:
            self._before = sum((e.usage for e in history.experiments), Usage())

    @property
    def spent(self) -> Usage:
        return (self._before or Usage()) + self._here

    def add(self, usage: Usage) -> Usage:
        """Counts what was spent; the same with its cost, where the prices are known and it does not say one itself."""
        usage = self._priced(usage)
        self._here += usage
        self.dearest = max(self.dearest, usage, key=lambda each: (each.cost or 0.0, each.tokens))
        return usage

    @contextmanager
    def in_flight(self, usage: Usage) -> Iterator[None]:
        """Makes a call meanwhile, which the other ones take into account as if this was spent for it."""
        usage = self._priced(usage)
        self._in_flight.append(usage)
        try:
            yield
        finally:
            self._in_flight.remove(usage)

    def refusal(self, input_tokens: int, output_tokens: int) -> str:
        """Why one more call that may take so many tokens is not made, in one line; empty when it may be."""
        spent = sum(self._in_flight, self.spent)
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

    def _priced(self, usage: Usage) -> Usage:
        if usage.cost is not None or self.price_input is None or self.price_output is None:
            return usage
        cost = (usage.input_tokens * self.price_input + usage.output_tokens * self.price_output) / MILLION
        return replace(usage, cost=cost)
