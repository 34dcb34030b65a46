"""autoresearch-summary.md in the skill's form (part 3.1): what was gained, what failed, and what to try next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from autoresearch_ci.experiment import Category, History, Status
from autoresearch_ci.report import again
from autoresearch_ci.report.markdown import NO_VALUE, cell, number
from autoresearch_ci.report.next_steps import next_steps
from autoresearch_ci.report.progress import change
from autoresearch_ci.report.proposers import HEADINGS, by_category, by_proposer, spending
from autoresearch_ci.report.provenance import slots
from autoresearch_ci.report.review import NO_TRIPWIRES, look_first, measured_by, suspects, wall
from autoresearch_ci.report.trust import (
    KEEP_HEADINGS,
    Trust,
    ablations,
    facts,
    gain_text,
    keep_rows,
    trust,
)
from autoresearch_ci.tripwires import Tripwire

MAX_ROWS: Final = 50
ODD_CHARACTERS: Final = 400_000  # of what to look at first: the step's summary in Actions holds 1 MiB
MAX_SENTENCE: Final = 1000  # of our own sentences, which bound what they quote


def summary(history: History, *, tripwires: Mapping[str, Sequence[Tripwire]] = NO_TRIPWIRES) -> str:
    """The whole document, the same for the same history.

    `tripwires`: what the script of a kept commit has that the one before had not, by its full hash.
    """
    session = history.session
    done, crashed = len(history.tried), len(history.of(Status.CRASH))
    kept = sum(e.status is Status.KEEP for e in history.tried)
    lines = [
        "# AutoResearch Summary",
        "",
        f"**Research session:** {cell(session.branch)}",
        f"**Platform:** {_platform(history)}",
        f"**Date:** {_dates(history)}",
        f"**Total iterations:** {done} ({kept} kept, {done - kept - crashed} discarded, {crashed} crashed)",
        f"**Time budget / run:** {_budget(session.time_budget_s)}",
    ]
    if together := slots(history):
        lines.append(f"**Slots:** {together}")
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
    since = history.chain[0].number  # metrics of two bases are not compared: those of the base as it is now come first
    ranked = sorted(
        history.kept,
        key=lambda e: (e.number > since, direction.gain(0.0, e.metric) if e.metric is not None else float("-inf")),
        reverse=True,
    )
    lines += ["| Rank | Commit | Metric | Description |", "|---|---|---|---|"]
    for rank, experiment in enumerate(ranked[:MAX_ROWS], start=1):
        lines.append(
            f"| {rank} | {cell(experiment.label)} | {number(experiment.metric)} | {cell(experiment.description)} |"
        )
    lines += _and_more(len(ranked))
    if any(e.number < since for e in history.kept):
        lines += ["", f"What was kept before experiment {since} was measured on the base as it was then."]
    return lines


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
    return ["## Recommended Next Steps", "", *(f"- {step}" for step in next_steps(history, found))]
