"""The step summary while a session goes on: written anew after every experiment, so it costs the same after thousands of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final

from autoresearch_ci.experiment import Experiment, History, Status
from autoresearch_ci.live import Live
from autoresearch_ci.report.forecast import forecast, forecast_text, pace
from autoresearch_ci.report.kept import steps
from autoresearch_ci.report.links import commit_link, job_link
from autoresearch_ci.report.markdown import NO_VALUE, cell, details, duration, number, sentence, table
from autoresearch_ci.report.mermaid import mermaid
from autoresearch_ci.report.progress import change, direction
from autoresearch_ci.report.provenance import when
from autoresearch_ci.report.slots import slots_now
from autoresearch_ci.report.standing import elapsed_s, status_line

# GitHub drops a whole summary above 1 MiB. With four bytes for each character this is below 250,000 bytes.
CONFIG_CHARACTERS: Final = 10_000
RECENT_CHARACTERS: Final = 16_000
KEPT_CHARACTERS: Final = 20_000
MAX_RECENT: Final = 30
MAX_KEPT: Final = 60
MAX_DESCRIPTION: Final = 120
MAX_REASON: Final = 120
MAX_LINE: Final = 300
RECENT_HEADINGS: Final = ("#", "Commit", "Metric", "Status", "Change", "Why")


def running_summary(
    history: History,
    *,
    config: Sequence[tuple[str, str, str]],
    now: dt.datetime,
    requests: str = "",
    live: Live | None = None,
    hours: float | None = None,
) -> str:
    """GitHub Markdown, below 250,000 bytes whatever the history holds.

    `config`: the Research Config as (name, value, where it came from). `requests`: one line about the calls of the forge's API.
    `live`: what the session does at this moment. `hours`: how long this process may go on, None for as long as it likes.
    """
    session, live = history.session, None if history.ended else live
    over = f"ended: {cell(history.ended, MAX_LINE)}" if history.ended else "running"
    since = f" since {when(session.started_at)}" if session.started_at and not history.ended else ""
    page = f" · {link}" if (link := job_link(session)) else ""
    lines = [
        f"# AutoResearch: {cell(session.branch, MAX_LINE)}",
        "",
        f"**{cell(status_line(history))}** · {over}{since}{page}",
        "",
        *_config(config, unfolded=not history.experiments),
        *how_it_stands(history, now, since=live.since if live else None),
        *_now(history, live, hours, now),
        *mermaid(history),
        "",
        *recent(history, MAX_RECENT, RECENT_CHARACTERS),
        *_kept(history),
    ]
    if requests:
        lines.append(sentence(requests, MAX_LINE))
    return "\n".join(lines) + "\n"


def _now(history: History, live: Live | None, hours: float | None, now: dt.datetime) -> list[str]:
    """What every slot does, where there is more than one or something waits, and what is left of the session."""
    if live is None:
        return []
    left = forecast_text(history, forecast(history, now=now, since=live.since, hours=hours), since=live.since)
    return [*(slots_now(live, now) if live.several else ()), f"**Forecast:** {sentence(left, MAX_LINE)}", ""]


def how_it_stands(history: History, now: dt.datetime | None, *, since: dt.datetime | None = None) -> list[str]:
    """The best, how far it is from the baseline, how much is done and how fast, and where the session looks now.

    `now`: None for the end of the last experiment. `since`: when this process began, where that is known.
    """
    best, baseline = history.best, history.baseline
    if best is None or baseline is None:
        return ["The baseline is being measured.", ""]
    session = history.session
    gained = NO_VALUE
    if best.metric is not None and baseline.metric is not None:
        gained = change(baseline.metric, best.metric)
    done, limit, speed = len(history.tried), session.max_iterations, pace(history, since)
    counts = [
        f"{len(history.kept)} kept",
        f"{len(history.of(Status.DISCARD))} discarded",
        f"{len(history.of(Status.CRASH))} crashed",
    ]
    row = (
        f"{number(best.metric)} ({commit_link(session, best)})",
        gained,
        f"{done} of {'unlimited' if limit is None else limit}: {', '.join(counts)}",
        duration(elapsed_s(history, now)),
        f"{speed:.3g}" if speed else NO_VALUE,
    )
    headings = (f"Best {cell(session.metric, 40)}", "vs. baseline", "Experiments", "Elapsed", "Per hour")
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}", f"| {' | '.join(row)} |", ""]
    return lines if history.ended else [*lines, f"**Current direction:** {direction(history)}", ""]


def recent(history: History, count: int, characters: int) -> list[str]:
    """The last experiments, newest first."""
    if len(history.experiments) < 2:
        return []
    shown = history.experiments[-count:][::-1]
    heading = "Experiments" if len(shown) == len(history.experiments) else f"The last {len(shown)} experiments"
    lines = table(RECENT_HEADINGS, _rows(history, shown), characters, "results.tsv")
    return [f"## {heading}, newest first", "", *lines, ""]


def _rows(history: History, shown: Iterable[Experiment]) -> Iterable[tuple[str, ...]]:
    for each in shown:
        yield (
            str(each.number),
            commit_link(history.session, each),
            number(each.metric),
            f"**{each.status.value}**" if each.status is Status.KEEP else each.status.value,
            cell(each.description, MAX_DESCRIPTION),
            cell(each.verdict.reason, MAX_REASON),
        )


def _kept(history: History) -> list[str]:
    """Every keep, also those that are no longer among the last experiments; nothing while they all are."""
    if not history.kept or len(history.experiments) <= MAX_RECENT:
        return []
    rows = (
        (
            str(step.experiment.number),
            commit_link(history.session, step.experiment),
            number(step.experiment.metric),
            step.shown_gain,
            cell(step.experiment.description, MAX_DESCRIPTION),
        )
        for step in reversed(steps(history, {}, last=MAX_KEPT))
    )
    lines = table(("#", "Commit", "Metric", "Gain on the one before", "Change"), rows, KEPT_CHARACTERS, "results.tsv")
    cut = len(history.kept) - MAX_KEPT
    older = ["", f"… and {cut} older ones in results.tsv"] if cut > 0 else []
    return ["## Kept, newest first", "", *lines, *older, ""]


def _config(config: Sequence[tuple[str, str, str]], *, unfolded: bool) -> list[str]:
    """Unfolded until there is something newer to see."""
    rows = ((cell(name, 60), cell(value) or NO_VALUE, cell(source, 60)) for name, value, source in config)
    lines = table(("Setting", "Value", "From"), rows, CONFIG_CHARACTERS, "the settings file") if config else []
    folded = details(f"Research Config ({len(config)} settings)", lines)
    return ["<details open>", *folded[1:]] if folded and unfolded else folded
