"""Who proposed what, how much of it was kept, and what models cost for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from autoresearch_ci.experiment import Experiment, History, Status, Usage
from autoresearch_ci.report.markdown import NO_VALUE, cell

HEADINGS: Final = ("Experiments", "Kept", "Share", "Tokens", "Cost")
MAX_NAMES: Final = 20


def spending(history: History) -> str:
    """What models took in the whole session, in one line; empty when none was asked."""
    total = _total(history.experiments)
    return _usage(total) if total.calls else ""


def rows(history: History, key: Callable[[Experiment], str]) -> list[tuple[str, ...]]:
    """For each value of `key` its name and what HEADINGS say, in the order of their first experiments.

    Tokens and cost count for the experiment that they led to, with those of refused attempts.
    """
    groups: dict[str, list[Experiment]] = {}
    for experiment in history.tried:
        if key(experiment):
            groups.setdefault(key(experiment), []).append(experiment)
    found: list[tuple[str, ...]] = []
    for name, made in list(groups.items())[:MAX_NAMES]:
        kept = sum(e.status is Status.KEEP for e in made)
        used = _total(made)
        tokens = f"{used.tokens:,}" if used.calls else NO_VALUE
        found.append((name, str(len(made)), str(kept), f"{kept / len(made):.0%}", tokens, cost(used)))
    return found


def by_proposer(history: History) -> list[tuple[str, ...]]:
    """Rows under HEADINGS for each proposer."""
    return rows(history, lambda e: e.proposer)


def by_category(history: History) -> list[tuple[str, ...]]:
    """Rows under HEADINGS for each category; none of a bare table, which does not tell categories."""
    return rows(history, lambda e: e.category.value if e.proposer else "")


def shares(found: list[tuple[str, ...]]) -> str:
    """Rows as one line: `search 3 of 10, llm 2 of 8`."""
    return ", ".join(f"{cell(name, 40)} {kept} of {count}" for name, count, kept, *_ in found)


def cost(usage: Usage) -> str:
    """US dollars, a dash where they are not known."""
    return NO_VALUE if usage.cost is None else f"${usage.cost:.2f}" if usage.cost >= 1 else f"${usage.cost:.4f}"


def _usage(usage: Usage) -> str:
    calls = f"{usage.calls:,} call{'' if usage.calls == 1 else 's'}"
    tokens = f"{usage.tokens:,} tokens ({usage.input_tokens:,} in, {usage.output_tokens:,} out)"
    return f"{calls}, {tokens}, " + (cost(usage) if usage.cost is not None else "cost not known: no price is set")


def _total(experiments: tuple[Experiment, ...] | list[Experiment]) -> Usage:
    return sum((e.usage for e in experiments), Usage())
