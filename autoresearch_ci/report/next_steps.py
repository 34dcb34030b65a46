"""What to do after a session: three to five steps, each from what it found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from autoresearch_ci.experiment import Category, Experiment, History, Status
from autoresearch_ci.knobs import from_parameters
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.report.trust import Trust, ablations, near_misses

MAX_DROPPED: Final = 10  # commits in one command
MAX_NEAR_MISSES: Final = 3  # how many discards close to the incumbent are named
SMALL_GAIN: Final = 0.001  # of the metric: what two runs of the same script commonly differ by
MAX_TEXT: Final = 100  # of a description or a knob's name inside a step
OUT_OF_MEMORY: Final = re.compile(r"out of memory|\bOOM\b", re.IGNORECASE)  # a bare table says it in the description


def next_steps(history: History, found: Trust | None) -> list[str]:
    """Three to five recommendations in Markdown, a line each, from what this session found; the most specific first."""
    after = history.tried
    rest = [*_untouched(after), *_crashes(after)]
    if found is not None and found.noise.degrees:
        steps = [*_by_evidence(history, found), *_go_on(history), *rest]
    else:
        steps = [*_go_on(history), *_near_misses(history), *rest, *_doubt(history)]
    general = [
        f"Run on, from where it stands: `autoresearch-ci run --tag {cell(history.session.tag)}`."
        if history.session.tag
        else "Run on, with a larger number of iterations.",
        "Measure the baseline and the best commit again, a few times each and in turn, before merging."
        if found is None or found.verified is None
        else "Measure on another machine too: what pays on this one may not pay there.",
        "Try a longer time budget: what pays in a short run may not pay in a long one.",
    ]
    return [*steps[:4], *general][: max(3, min(5, len(steps) + 1))]


def _go_on(history: History) -> list[str]:
    """Knobs whose last step was still a gain."""
    steps = []
    moved = {name: e for e in history.experiments for name in from_parameters(e.parameters)}
    for name, last in moved.items():
        if last.status is Status.KEEP:
            steps.append(
                f"Go on with {cell(name, MAX_TEXT)}: its last step ({cell(last.description, MAX_TEXT)}) was still a gain."
            )
    return steps[:2]


def _by_evidence(history: History, found: Trust) -> list[str]:
    """What the readings leave open: a gain that was not confirmed, keeps that no longer matter, discards that were close."""
    steps = []
    if found.unconfirmed:
        steps.append("Do not merge on the numbers alone: the gain was not confirmed. More `verify-runs` say more.")
    idle = [each.experiment for each in ablations(history, found) if not each.matters]
    if idle:
        words = [cell(history.session.tag), *(cell(e.label) for e in idle)][: 1 + MAX_DROPPED]
        steps.append(f"Leave out what no longer matters: `autoresearch-ci finalize --tag {' --drop '.join(words)}`.")
    missed = near_misses(history)[:MAX_NEAR_MISSES]
    if missed:
        steps.append(
            f"Try the near misses again, or together: {'; '.join(cell(e.description, MAX_TEXT) for e in missed)}."
        )
    return steps


def _near_misses(history: History) -> list[str]:
    incumbent = history.incumbent
    if incumbent is None or incumbent.metric is None:
        return []
    discarded = history.of(Status.DISCARD)
    scale = abs(incumbent.metric) or 1.0
    near = [e for e in discarded if e.metric is not None and abs(e.metric - incumbent.metric) < SMALL_GAIN * scale]
    if not near:
        return []
    near.sort(key=lambda e: abs((e.metric or 0.0) - (incumbent.metric or 0.0)))
    named = "; ".join(cell(e.description, MAX_TEXT) for e in near[:MAX_NEAR_MISSES])
    return [f"Try the near misses again, or together: {named}."]


def _untouched(after: Sequence[Experiment]) -> list[str]:
    """Categories nobody tried; not of a bare results.tsv, which does not say what belongs to which."""
    tried = {e.category for e in after}
    if tried == {Category.OTHER}:
        return []
    missing = [c.value for c in (Category.ARCHITECTURE, Category.OPTIMIZER, Category.TRAINING) if c not in tried]
    return (
        [f"Nothing of {' and '.join(missing)} was tried: widen `scope`, or name a `hypothesis`."]
        if after and missing
        else []
    )


def _crashes(after: Sequence[Experiment]) -> list[str]:
    crashed = [e for e in after if e.verdict.status is Status.CRASH]
    without_memory = sum(bool(OUT_OF_MEMORY.search(e.verdict.reason or e.description)) for e in crashed)
    steps = []
    if without_memory:
        steps.append(
            f"{without_memory} experiment{'s' if without_memory > 1 else ''} ran out of memory: lower the device batch, "
            "or raise `memory`."
        )
    if len(crashed) > len(after) / 4:
        steps.append(f"{len(crashed)} of {len(after)} experiments crashed: look at their logs.")
    return steps


def _doubt(history: History) -> list[str]:
    """Gains that may be luck. In karpathy/autoresearch's own log 17 of 22 kept gains are below 0.001, and its final
    configuration reproduced 73 % of the claimed gain when it was run again (its issue 243)."""
    chain = [e.metric for e in history.chain if e.metric is not None]
    small = sum(abs(b - a) < SMALL_GAIN * (abs(a) or 1.0) for a, b in pairwise(chain))
    if not small:
        return []
    return [
        f"{small} of {len(chain) - 1} kept gains are below {SMALL_GAIN:.1%} of the metric: measure them again before merging."
    ]
