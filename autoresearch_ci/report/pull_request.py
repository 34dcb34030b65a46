"""The pull request's titles and texts: what a reviewer needs who was asleep while it was made, and a draft of it until then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from autoresearch_ci.experiment import History, Status
from autoresearch_ci.report import deciding
from autoresearch_ci.report.chart import headline, percent
from autoresearch_ci.report.commands import MAX_NAME, show_command
from autoresearch_ci.report.failed import failures
from autoresearch_ci.report.kept import SMALL_GAIN, kept_table, small, steps
from autoresearch_ci.report.links import commit_link, file_link, job_link
from autoresearch_ci.report.markdown import cell, clean, code, details, duration, number, sentence, table
from autoresearch_ci.report.mermaid import mermaid
from autoresearch_ci.report.next_steps import next_steps
from autoresearch_ci.report.proposers import HEADINGS, by_category, by_proposer, shares, spending
from autoresearch_ci.report.provenance import how_it_was_run, when
from autoresearch_ci.report.review import NO_TRIPWIRES, look_first, measured_by, suspects, wall
from autoresearch_ci.report.running import how_it_stands, recent
from autoresearch_ci.report.standing import elapsed_s
from autoresearch_ci.report.trust import DOUBT, Trust, best_single, facts, gain_text, trust
from autoresearch_ci.tripwires import Tripwire

# GitHub refuses a body of more than 65,536 characters. These budgets and the text around them stay below 60,000.
KEPT_CHARACTERS: Final = 20_000  # with what is to be looked at first
SUSPECT_CHARACTERS: Final = 10_000
MAX_REASONS: Final = 8  # of one commit, to look at first
FAILED_CHARACTERS: Final = 5_000
SETTINGS_CHARACTERS: Final = 5_000
ADJUSTMENTS_CHARACTERS: Final = 2_000
PROPOSERS_CHARACTERS: Final = 2_000
RECENT_CHARACTERS: Final = 10_000
MAX_RECENT: Final = 10
MAX_TITLE: Final = 200
MAX_SENTENCE: Final = 800  # of our own sentences about how sure it is, which bound what they quote


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the report's files in the branch."""

    summary: str
    results: str
    chart: str


def title(history: History) -> str:
    """One line of at most 200 characters with the numbers, honest when nothing was kept or the gain was not confirmed."""
    return clean(headline(history), MAX_TITLE)


def progress_title(history: History) -> str:
    """The draft's title while the session goes on, of at most 200 characters."""
    return clean(f"running: {headline(history)}", MAX_TITLE)


def unconfirmed(history: History) -> bool:
    """Whether the base and the best were measured again and that does not show an improvement: a draft, then."""
    found = trust(history)
    return found is not None and found.unconfirmed


def body(
    history: History,
    *,
    files: Files,
    base: str,
    diffs: Mapping[str, str],
    tripwires: Mapping[str, Sequence[Tripwire]] = NO_TRIPWIRES,
    note: str = "",
) -> str:
    """GitHub Markdown below 60,000 characters.

    `diffs`: the unified diff of every kept commit, `tripwires`: what its script has that the one before had not, both by its
    full hash. `note`: one line for the very top, with commands between backticks.
    """
    session, found, odd = history.session, trust(history), suspects(history, tripwires)
    where, results = file_link(session, files.summary), file_link(session, files.results)
    first = look_first(
        history, odd, lambda e: commit_link(session, e), characters=SUSPECT_CHARACTERS, most=MAX_REASONS, where=where
    )
    left = KEPT_CHARACTERS - sum(len(line) + 1 for line in first)
    kept = kept_table(history, diffs, odd, tripwires=tripwires, characters=left, where=results)
    parts = [
        *_note(note),
        *_opening(history, found, base),
        *first,
        *_picture(history, files),
        *_section("What was kept", kept),
        *_measured(history, found, diffs),
        *_failed(history, results),
        *_section("Next steps", [*(f"- {step}" for step in next_steps(history, found)), ""]),
        *_section("How it was run", [*(f"- **{topic}:** {said}" for topic, said in how_it_was_run(history)), ""]),
        *deciding.reproduce(session),
        *deciding.merge(history, base),
        *deciding.by_comment(history, found),
        *_proposers(history, where),
        *details("Settings", _rows(("Setting", "Value"), session.settings.items(), SETTINGS_CHARACTERS)),
        *details(
            "Adjustments for the platform",
            _rows(("Variable", "Value"), session.adjustments.items(), ADJUSTMENTS_CHARACTERS),
        ),
        f"Full report: {where} · all experiments: {results}",
    ]
    return "\n".join(parts) + "\n"


def progress_body(history: History, *, files: Files, base: str, diffs: Mapping[str, str]) -> str:
    """The draft's text while the session goes on, as `body`; it claims nothing that is not verified."""
    session = history.session
    last = history.experiments[-1].finished_at if history.experiments else None
    since = f" since {when(session.started_at)}" if session.started_at else ""
    seen = f" This is how it stood at {when(last)}." if last else ""
    page = f" Watch it on {link}." if (link := job_link(session)) else ""
    kept = kept_table(
        history, diffs, (), characters=KEPT_CHARACTERS, where=f"{file_link(session, files.results)} at the end"
    )
    parts = [
        f"**This session is running**{since}, and this pull request is a draft until it ends.{seen}{page}",
        "",
        f"**No gain here is verified yet:** the base and the best commit are measured again at the end, before anybody is asked to "
        f"merge into {cell(base, MAX_NAME)}. This part of the text is replaced then; what you write above or below it stays.",
        "",
        *how_it_stands(history, None),
        *deciding.stop_early(session),
        *mermaid(history),
        "",
        *_section("Kept so far", kept),
        *recent(history, MAX_RECENT, RECENT_CHARACTERS),
    ]
    return "\n".join(parts) + "\n"


def _note(note: str) -> list[str]:
    return ["> [!IMPORTANT]", f"> {shown}", ""] if (shown := sentence(note, MAX_SENTENCE)) else []


def _section(heading: str, lines: Sequence[str]) -> list[str]:
    return [f"## {heading}", "", *lines] if lines else []


def _opening(history: History, found: Trust | None, base: str) -> list[str]:
    session, baseline, best = history.session, history.baseline, history.best
    tried = len(history.tried)
    counts = Counter(e.status for e in history.tried)
    line = f"**Nothing was kept**: no change was better than the baseline in {tried} experiments."
    if history.kept and baseline and best and baseline.metric is not None and best.metric is not None:
        share = percent(baseline.metric, best.metric)
        moved = f"{number(baseline.metric)} → {number(best.metric)}"
        kept = f"{len(history.kept)} changes kept of {tried} tried in {duration(elapsed_s(history))} h."
        line = f"**{cell(session.metric)}: {moved}**{f' ({share})' if share else ''}: {kept}"
        if verdict := _verdict(history, found):
            line = f"{verdict}\n\nWhile searching: {moved}{f' ({share})' if share else ''}{_single(history)}; {kept}"
    ended = f" Ended: {cell(history.ended)}." if history.ended else ""
    return [
        line,
        "",
        f"{counts[Status.KEEP]} kept · {counts[Status.DISCARD]} discarded · {counts[Status.CRASH]} crashed · "
        f"merges into {cell(base, MAX_NAME)} · changes only {cell(session.training_script, MAX_NAME)} "
        f"besides the report.{ended}",
        "",
    ]


def _verdict(history: History, found: Trust | None) -> str:
    """What the fresh runs of base and best say, in one line; empty without them."""
    metric = cell(history.session.metric)
    if found is None or found.verified is None:
        return ""
    if found.gain is None:
        return f"**Not confirmed: {metric}**: the fresh runs gave no reading of both the base and the best commit."
    gain = gain_text(found.gain, found.noise)
    if found.unconfirmed:
        return f"**Not confirmed: {metric} gain {gain}**: {DOUBT}."
    return f"**{metric}: confirmed gain {gain}**, by fresh runs of the base and the best commit."


def _single(history: History) -> str:
    best = best_single(history)
    return "" if best is None else f", best single reading {number(best)}"


def _picture(history: History, files: Files) -> list[str]:
    session = history.session
    name = quote(PurePosixPath(files.chart).name)
    if session.repository:
        name = f"{session.repository}/raw/{quote(session.branch)}/{quote(files.chart)}"
    lines = [f"![every experiment and the best so far]({name})", ""]
    return lines + details("The chart as a diagram", mermaid(history))


def _failed(history: History, where: str) -> list[str]:
    found = failures(history)
    if not found:
        return []
    rows = ((c.value, str(discarded), str(crashed), cell(why, 300)) for c, discarded, crashed, why in found)
    counts = table(("Category", "Discarded", "Crashed", "Most common reasons"), rows, FAILED_CHARACTERS, where)
    example = next(e for e in history.experiments if e.status is not Status.KEEP)
    such = f", such as {commit_link(history.session, example)}" if history.session.repository else ""
    return [
        "## What did not work",
        "",
        *counts,
        "",
        f"Every experiment's change is kept as a ref{such}. To see one:",
        "",
        *code(show_command(history.session, example.number)),
        "",
    ]


def _measured(history: History, found: Trust | None, diffs: Mapping[str, str]) -> list[str]:
    session = history.session
    where = ", ".join(cell(part, MAX_NAME) for part in (session.platform, session.device, session.executor) if part)
    budget = "" if session.time_budget_s is None else f", {session.time_budget_s:g} s of training each"
    repeated = found is not None and found.spent.repeats > 0
    lines = [
        "## How sure this is",
        "",
        f"{'Runs' if repeated else 'One run per experiment'}{f' on {where}' if where else ''}{budget}. "
        f"{cell(f'{measured_by(session)} {wall(session)}', MAX_SENTENCE)}",
    ]
    if found is not None and repeated:
        said = (f"- **{topic}:** {cell(sentence, MAX_SENTENCE)}" for topic, sentence in facts(history, found))
        return [*lines, "", *said, ""]
    lines[-1] += " An improvement near the noise of a run may not hold when it is measured again."
    made = steps(history, diffs)
    if few := small(made):
        lines.append(
            f"{few} of {len(history.kept)} kept changes gained less than {100 * SMALL_GAIN:g} %: read these with care."
        )
    return [*lines, ""]


def _proposers(history: History, where: str) -> list[str]:
    """Who proposed, how much of it was kept, and what models cost."""
    proposers = by_proposer(history)
    if not proposers:
        return []
    spent = spending(history)
    said = [f"Models: {spent}.", ""] if spent else []
    tables = [
        *table(
            ("Proposer", *HEADINGS), ([cell(value) for value in row] for row in proposers), PROPOSERS_CHARACTERS, where
        ),
        "",
        *table(
            ("Category", *HEADINGS),
            ([cell(value) for value in row] for row in by_category(history)),
            PROPOSERS_CHARACTERS,
            where,
        ),
    ]
    return details(f"Proposers: {shares(proposers)} kept", [*said, *tables])


def _rows(headings: Sequence[str], pairs: Iterable[tuple[str, str]], characters: int) -> list[str]:
    rows = [(cell(name, MAX_NAME), cell(value)) for name, value in pairs]
    return table(headings, rows, characters, "the session's journal") if rows else []
