"""Pure: what a run costs the one beside it, from the baseline measured alone and in all slots at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

from autoresearch_ci.experiment import Measurement

LIMIT: Final = 0.03  # of the speed and of the metric: what neighbours may cost before a person should know
LEAST_S: Final = 5.0  # of a run whose wall clock says what a neighbour costs
STEPS: Final = "num_steps"  # as karpathy/autoresearch's script prints it


def cost(alone: Sequence[Measurement], together: Sequence[Measurement]) -> str:
    """In one line what neighbours cost, in percent, and whether that is above LIMIT; empty when nothing can be said.

    `alone`: runs of the baseline with nothing beside them; `together`: those made at the same time in all slots. The speed is the
    steps where both logs tell them, for a script that stops by the clock takes as long as ever; else the wall clock.
    """
    alone, together = ([m for m in made if m.counts] for made in (alone, together))
    steps = _change(alone, together, lambda m: m.reading.numbers.get(STEPS))
    slower = _change(alone, together, lambda m: m.run.wall_s)
    metric = _change(alone, together, lambda m: m.reading.metric)
    speed = None if slower is None else (slower, "wall clock")
    if steps is not None:
        speed = (steps, "steps")
    changes = [*([speed] if speed else []), *([] if metric is None else [(metric, "metric")])]
    if not changes:
        return ""
    told = ", ".join(f"{name} {change:+.1%}" for change, name in changes)
    above = any(abs(change) > LIMIT for change, _ in changes)
    verdict = f"more than {LIMIT:.0%}, so parallel may be too high here" if above else f"within {LIMIT:.0%}"
    if speed is not None and speed[1] == "wall clock" and fmean(m.run.wall_s for m in alone) < LEAST_S:
        verdict = "of runs this short that is mostly how long it takes to start them"
    return f"beside {len(together) - 1} other run{'' if len(together) == 2 else 's'}: {told}; {verdict}"


def _change(
    alone: Sequence[Measurement], together: Sequence[Measurement], value: Callable[[Measurement], float | None]
) -> float | None:
    """The mean of a number together relative to alone, less one; None where a run does not tell it, or nothing was there."""
    before, after = ([value(m) for m in made] for made in (alone, together))
    known = [[v for v in values if v is not None] for values in (before, after)]
    if not alone or not together or [len(values) for values in known] != [len(before), len(after)]:
        return None
    base = fmean(known[0])
    return (fmean(known[1]) - base) / abs(base) if base else None
