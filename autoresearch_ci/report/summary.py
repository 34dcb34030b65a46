"""autoresearch-summary.md in the skill's form (part 3.1): what was gained, what failed, and what to try next."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from autoresearch_ci.experiment import Category, Experiment, History, Status
from autoresearch_ci.knobs import from_parameters
from autoresearch_ci.report import again
from autoresearch_ci.report.markdown import NO_VALUE, cell, number
from autoresearch_ci.report.progress import change
from autoresearch_ci.report.proposers import HEADINGS, by_category, by_proposer, spending
from autoresearch_ci.report.review import NO_TRIPWIRES, look_first, measured_by, suspects, wall
from autoresearch_ci.report.trust import (
    KEEP_HEADINGS,
    Trust,
    ablations,
    facts,
    gain_text,
    keep_rows,
    near_misses,
    trust,
)
from autoresearch_ci.tripwires import Tripwire

MAX_ROWS: Final = 50
ODD_CHARACTERS: Final = 400_000  # of what to look at first: the step's summary in Actions holds 1 MiB
MAX_SENTENCE: Final = 1000  # of our own sentences, which bound what they quote
MAX_DROPPED: Final = 10  # commits in one command
MAX_NEAR_MISSES: Final = 3  # how many discards close to the incumbent are named
SMALL_GAIN: Final = 0.001  # of the metric: what two runs of the same script commonly differ by
OUT_OF_MEMORY: Final = re.compile(r"out of memory|\bOOM\b", re.IGNORECASE)  # a bare table says it in the description


def summary(history: History, *, tripwires: Mapping[str, Sequence[Tripwire]] = NO_TRIPWIRES) -> str:
    """The whole document, the same for the same history.

    `tripwires`: what the script of a kept commit has that the one before had not, by its full hash.
    """
    session = history.session
    done = max(0, len(history.experiments) - 1)
    crashed = len(history.of(Status.CRASH))
    lines = [
        "# AutoResearch Summary",
        "",
        f"**Research session:** {cell(session.branch)}",
        f"**Platform:** {_platform(history)}",
        f"**Date:** {_dates(history)}",
        f"**Total iterations:** {done} ({len(history.kept)} kept, {done - len(history.kept) - crashed} discarded, {crashed} crashed)",
        f"**Time budget / run:** {_budget(session.time_budget_s)}",
    ]
    if history.ended:
        lines.append(f"**Stopped because:** {cell(history.ended)}")
    found = trust(history)
    lines += ["", *_results(history, found), ""]
    if found is not None:
        lines += [*_sure(history, found), ""]
    odd = suspects(history, tripwires)
    lines += look_first(
        history, odd, lambda e: cell(e.label), characters=ODD_CHARACTERS, most=MAX_ROWS, where="the diffs themselves"
    )
    lines += [*_improvements(history), "", *_failures(history), ""]
    lines += [*_proposers(history), *_next_steps(history, found)]
    return "\n".join(lines) + "\n"


def _platform(history: History) -> str:
    session = history.session
    if not session.platform:
        return "unknown"
    details = ", ".join(part for part in (cell(session.device), session.executor) if part)
    return session.platform.upper() + (f" ({details})" if details else "")


def _dates(history: History) -> str:
    times = [history.session.started_at, *(e.finished_at for e in history.experiments)]
    days = sorted({time.date() for time in times if isinstance(time, dt.datetime)})
    if not days:
        return "unknown"
    return str(days[0]) if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _budget(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:.4g} minutes"


def _results(history: History, found: Trust | None) -> list[str]:
    baseline, best = history.baseline, history.best
    lines = ["## Results", "", "| Baseline metric | Best metric | Improvement | Best commit |", "|---|---|---|---|"]
    before = baseline.metric if baseline else None
    after = best.metric if best else None
    gained = change(before, after) if before is not None and after is not None else "—"
    lines.append(f"| {number(before)} | {number(after)} | {gained} | {cell(best.label) if best else '—'} |")
    if found is None or found.verified is None:
        return lines
    said = "Not confirmed" if found.unconfirmed else "Confirmed gain"
    gain = "no fresh reading of both commits" if found.gain is None else gain_text(found.gain, found.noise)
    return [*lines, "", f"**{said}:** {gain}"]


def _sure(history: History, found: Trust) -> list[str]:
    """What the readings themselves say about the result: noise, confirmed gain, and what was run again for it."""
    said = cell(f"{measured_by(history.session)} {wall(history.session)}", MAX_SENTENCE)
    lines = ["## How sure this is", "", said, ""]
    lines += [f"- **{topic}:** {cell(sentence, MAX_SENTENCE)}" for topic, sentence in facts(history, found)]
    lines += _table("Keeps by evidence", KEEP_HEADINGS, keep_rows(history, found))
    lines += _table("What was run again, and why", again.HEADINGS, again.rows(history))
    rows = [
        (
            each.experiment.label,
            NO_VALUE if each.loss is None else gain_text(each.loss, found.noise),
            each.answer,
            each.experiment.description,
        )
        for each in ablations(history, found)
    ]
    return lines + _table("Ablation", ("Without", "Loss", "Does it matter", "Description"), rows)


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of plain text under a heading of the third level; nothing where there are none."""
    if not rows:
        return []
    shown = [f"| {' | '.join(cell(value) for value in row)} |" for row in rows[:MAX_ROWS]]
    table = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *shown]
    return ["", f"### {heading}", "", *table, *_and_more(len(rows))]


def _improvements(history: History) -> list[str]:
    lines = ["## Top Improvements (kept commits)", ""]
    if not history.kept:
        return [*lines, "Nothing was kept: no change was better than the baseline."]
    direction = history.session.direction
    ranked = sorted(
        history.kept,
        key=lambda e: direction.gain(0.0, e.metric) if e.metric is not None else float("-inf"),
        reverse=True,
    )
    lines += ["| Rank | Commit | Metric | Description |", "|---|---|---|---|"]
    for rank, experiment in enumerate(ranked[:MAX_ROWS], start=1):
        lines.append(
            f"| {rank} | {cell(experiment.label)} | {number(experiment.metric)} | {cell(experiment.description)} |"
        )
    return lines + _and_more(len(ranked))


def _failures(history: History) -> list[str]:
    failed = [*history.of(Status.DISCARD), *history.of(Status.CRASH)]
    lines = ["## What Didn't Work", ""]
    if not failed:
        return [*lines, "Nothing failed."]
    lines += ["| Category | Description | Outcome |", "|---|---|---|"]
    order = {category: index for index, category in enumerate(Category)}
    for experiment in sorted(failed, key=lambda e: (order[e.category], e.number))[:MAX_ROWS]:
        outcome = experiment.verdict.reason or (f"{number(experiment.metric)}" if experiment.metric is not None else "")
        shown = f"{experiment.status.value}: {cell(outcome)}" if outcome else experiment.status.value
        lines.append(f"| {experiment.category.value} | {cell(experiment.description)} | {shown} |")
    return lines + _and_more(len(failed))


def _proposers(history: History) -> list[str]:
    """Who proposed, and what it cost; nothing of a bare table, which does not say."""
    rows = by_proposer(history)
    if not rows:
        return []
    spent = spending(history)
    lines = ["## Proposers", "", f"Models: {spent}." if spent else "No model was asked."]
    lines += _table("Kept by proposer", ("Proposer", *HEADINGS), rows)
    return [*lines, *_table("Kept by category", ("Category", *HEADINGS), by_category(history)), ""]


def _and_more(count: int) -> list[str]:
    return ["", f"… and {count - MAX_ROWS} more in the results file."] if count > MAX_ROWS else []


def _next_steps(history: History, found: Trust | None) -> list[str]:
    steps = _steps(history, found)
    return ["## Recommended Next Steps", "", *(f"- {step}" for step in steps)]


def _steps(history: History, found: Trust | None) -> list[str]:
    """Three to five recommendations, each from what this session found; the most specific first."""
    after = [e for e in history.experiments if e.number > 0]
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
            steps.append(f"Go on with {cell(name)}: its last step ({cell(last.description)}) was still a gain.")
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
        steps.append(f"Try the near misses again, or together: {'; '.join(cell(e.description) for e in missed)}.")
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
    named = "; ".join(cell(e.description) for e in near[:MAX_NEAR_MISSES])
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
    chain = [e.metric for e in history.of(Status.KEEP) if e.metric is not None]
    small = sum(abs(b - a) < SMALL_GAIN * (abs(a) or 1.0) for a, b in pairwise(chain))
    if not small:
        return []
    return [
        f"{small} of {len(chain) - 1} kept gains are below {SMALL_GAIN:.1%} of the metric: measure them again before merging."
    ]
