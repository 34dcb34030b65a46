"""The skill's progress report: every few experiments, and whenever somebody asks."""

from __future__ import annotations

import datetime as dt
from typing import Final

from autoresearch_ci.experiment import History, Status
from autoresearch_ci.report.markdown import cell, duration, number
from autoresearch_ci.report.proposers import by_category, by_proposer, shares, spending
from autoresearch_ci.report.standing import elapsed_s
from autoresearch_ci.report.trust import noise_text, trust

RECENT: Final = 5


def progress_report(history: History, *, now: dt.datetime) -> str:
    """Markdown in the form of the skill's part 2.6."""
    session, best, baseline = history.session, history.best, history.baseline
    done = len(history.tried)
    limit = "unlimited" if session.max_iterations is None else str(session.max_iterations)
    lines = [f"## AutoResearch Progress — Iteration {done}", ""]
    if best is not None:
        lines.append(f"**Best so far:** {number(best.metric)} (iteration {best.number}, commit {best.label})")
    if best is not None and baseline is not None and best.metric is not None and baseline.metric is not None:
        lines.append(f"**vs. Baseline:** {change(baseline.metric, best.metric)}")
    lines += [f"**Iterations:** {done} completed / {limit}", f"**Time elapsed:** {duration(elapsed_s(history, now))}"]
    if (found := trust(history)) is not None:
        repeats = f"{found.spent.repeats} of {found.spent.runs} runs were repeats"
        lines.append(f"**Noise of one reading:** {noise_text(history, found.noise)} · {repeats}")
    if proposers := by_proposer(history):
        lines.append(f"**Kept by proposer:** {shares(proposers)} · **by category:** {shares(by_category(history))}")
    if spent := spending(history):
        lines.append(f"**Models:** {spent}")
    lines.append("")
    lines += [
        f"**Recent results (last {RECENT}):**",
        "| Iter | Commit | Metric | Status | Change |",
        "|---|---|---|---|---|",
    ]
    for experiment in reversed(history.experiments[-RECENT:]):
        lines.append(
            f"| {experiment.number} | {cell(experiment.label)} | {number(experiment.metric)} | {experiment.status.value} "
            f"| {cell(experiment.description)} |"
        )
    lines += ["", f"**Current direction:** {direction(history)}"]
    return "\n".join(lines) + "\n"


def change(before: float, after: float) -> str:
    """The difference as a signed number, and as a share where there is something to share: `-0.0282 (-2.83%)`."""
    share = f" ({(after - before) / abs(before):+.2%})" if before else ""
    return f"{after - before:+.6g}{share}"


def direction(history: History) -> str:
    """Where the session is looking now, as far as its last results tell."""
    after = history.tried
    if not after:
        return "the baseline is measured; the search begins"
    last = after[-1]
    if history.merges and history.merges[-1].number > last.number:
        return "the base was merged and measured; the search goes on from there"
    if last.status is Status.KEEP:
        return f"near what was just kept: {cell(last.description)}"
    misses = next((n for n, e in enumerate(reversed(after)) if e.status is Status.KEEP), len(after))
    return f"{last.category.value}; {misses} experiments since the last keep"
