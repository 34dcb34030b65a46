"""The pull request's title and text: what a reviewer needs who was asleep while it was made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from autoresearch_ci.experiment import Category, Experiment, History, Session, Status
from autoresearch_ci.report.chart import headline, percent
from autoresearch_ci.report.commands import MAX_NAME, merge_commands, reproduce_commands, show_command
from autoresearch_ci.report.markdown import NO_VALUE, cell, clean, code, details, duration, number, table
from autoresearch_ci.report.mermaid import mermaid
from autoresearch_ci.report.proposers import HEADINGS, by_category, by_proposer, shares, spending
from autoresearch_ci.report.review import NO_TRIPWIRES, WARNING, look_first, measured_by, suspects, wall
from autoresearch_ci.report.trust import DOUBT, Trust, best_single, evidence_text, facts, gain_text, trust
from autoresearch_ci.tripwires import Tripwire

# GitHub refuses a body of more than 65,536 characters. These budgets and the text around them stay below 60,000.
KEPT_CHARACTERS: Final = 24_000  # with what is to be looked at first
SUSPECT_CHARACTERS: Final = 12_000
MAX_REASONS: Final = 8  # of one commit, to look at first
FAILED_CHARACTERS: Final = 6_000
SETTINGS_CHARACTERS: Final = 6_000
PROPOSERS_CHARACTERS: Final = 2_000
MAX_TITLE: Final = 200
MAX_SENTENCE: Final = 800  # of our own sentences about how sure it is, which bound what they quote
TOP_REASONS: Final = 3
MAX_REASON: Final = 400
NUMBERS: Final = re.compile(r"^[-+.\de]+|(?: \([-+.\de]+ is\))?, after \d+ runs? against \d+$")
SMALL_GAIN: Final = 0.001  # of the metric: what two runs of the same script commonly differ by


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the report's files in the branch."""

    summary: str
    results: str
    chart: str


@dataclass(frozen=True, slots=True)
class Step:
    """A kept experiment, what it gained on the keep before it (positive is better), and its changed lines.

    The gain is the one that decided where there is evidence, for those readings were made together.
    """

    experiment: Experiment
    gain: float | None
    share: str
    added: int
    removed: int

    @property
    def shown_gain(self) -> str:
        """The gain as text, with its standard error where it is known: `+0.0123 ± 0.0011 (1.2 %)`."""
        if self.gain is None:
            return NO_VALUE
        evidence = self.experiment.verdict.evidence
        gain = f"{self.gain:+.4g}" if evidence is None else evidence_text(evidence)
        return gain + (f" ({self.share})" if self.share else "")


def title(history: History) -> str:
    """One line of at most 200 characters with the numbers, honest when nothing was kept or the gain was not confirmed."""
    return clean(headline(history), MAX_TITLE)


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
) -> str:
    """GitHub Markdown below 60,000 characters.

    `diffs`: the unified diff of every kept commit, `tripwires`: what its script has that the one before had not, both by its
    full hash.
    """
    session, found, odd = history.session, trust(history), suspects(history, tripwires)
    where = _file(session, files.summary)
    first = look_first(
        history, odd, lambda e: _commit(session, e), characters=SUSPECT_CHARACTERS, most=MAX_REASONS, where=where
    )
    left = KEPT_CHARACTERS - sum(len(line) + 1 for line in first)
    parts = [
        *_opening(history, found, base),
        *first,
        *_picture(history, files),
        *_kept(history, files, diffs, {each.experiment.commit for each in odd}, left),
        *_failed(history, files),
        *_measured(history, found, diffs),
        *_proposers(history, where),
        *_reproduce(session),
        *_merge(session, base),
        *details("Settings", _rows(("Setting", "Value"), session.settings.items(), SETTINGS_CHARACTERS)),
        *details("Adjustments for the platform", _rows(("Variable", "Value"), session.adjustments.items(), 3000)),
        f"Full report: {_file(session, files.summary)} · all experiments: {_file(session, files.results)}",
    ]
    return "\n".join(parts) + "\n"


def steps(history: History, diffs: Mapping[str, str]) -> list[Step]:
    """The kept experiments in order, each compared with the keep before it."""
    found: list[Step] = []
    before = history.baseline.metric if history.baseline else None
    for experiment in history.kept:
        after = experiment.metric
        gain, share = None, ""
        if before is not None and after is not None:
            evidence = experiment.verdict.evidence
            gain = history.session.direction.gain(before, after) if evidence is None else evidence.gain
            share = f"{100 * gain / abs(before):.3g} %" if before else ""
        signs = Counter(sign for sign, _ in diff_lines(diffs.get(experiment.commit, "")))
        found.append(Step(experiment, gain, share, signs["+"], signs["-"]))
        before = after if after is not None else before
    return found


def diff_lines(diff: str) -> Iterator[tuple[str, str]]:
    """The lines of a unified diff as (kind, text): kind is `+`, `-`, a space, `@` (a hunk's header) or empty."""
    inside = False
    for line in diff.splitlines():
        if line.startswith("diff --git "):
            inside = False
        elif line.startswith("@@"):
            inside = True
            yield "@", line
            continue
        yield (line[:1] if inside and line[:1] in {"+", "-", " "} else ""), line


def elapsed_s(history: History) -> float:
    """Seconds from the session's start, or the first experiment's, to the end of the last."""
    times = [t for e in history.experiments for t in (e.started_at, e.finished_at) if t is not None]
    start = history.session.started_at or min(times, default=None)
    return max(0.0, (max(times) - start).total_seconds()) if times and start else 0.0


def failures(history: History) -> list[tuple[Category, int, int, str]]:
    """By category, where anything failed: discarded, crashed, and the most common reasons in one line of plain text."""
    found = []
    for category in Category:
        failed = [e for e in history.experiments if e.category is category and e.status is not Status.KEEP]
        if not failed:
            continue
        crashed = sum(e.status is Status.CRASH for e in failed)
        reasons = Counter(clean(_without_numbers(e.verdict.reason), 80) or e.status.value for e in failed)
        top = ", ".join(f"{reason} ({count}×)" for reason, count in reasons.most_common(TOP_REASONS))
        found.append((category, len(failed) - crashed, crashed, top))
    return found


def _without_numbers(reason: str) -> str:
    """A discard's reason holds its numbers (`worse by 0.0012, after 1 run against 3`), which would make each one its own."""
    kind, by, rest = reason[:MAX_REASON].partition(" by ")
    if not by or not NUMBERS.match(rest):
        return reason
    return f"{kind}{NUMBERS.sub('', rest)}".replace("better only", "better, but too little")


def _opening(history: History, found: Trust | None, base: str) -> list[str]:
    session, baseline, best = history.session, history.baseline, history.best
    tried = max(0, len(history.experiments) - 1)
    counts = Counter(e.status for e in history.experiments if e.number > 0)
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


def _kept(history: History, files: Files, diffs: Mapping[str, str], odd: Collection[str], characters: int) -> list[str]:
    if not history.kept:
        return []
    metric = cell(history.session.metric, 40)
    rows = (
        (
            str(step.experiment.number),
            f"{WARNING} " * (step.experiment.commit in odd) + _commit(history.session, step.experiment),
            number(step.experiment.metric),
            step.shown_gain,
            f"+{step.added} −{step.removed}" if step.experiment.commit in diffs else NO_VALUE,
            cell(step.experiment.description),
            step.experiment.category.value,
        )
        for step in steps(history, diffs)
    )
    headings = ("#", "Commit", metric, "Gain on the keep before", "Lines", "Change", "Category")
    return ["## What was kept", "", *table(headings, rows, characters, _file(history.session, files.results)), ""]


def _failed(history: History, files: Files) -> list[str]:
    found = failures(history)
    if not found:
        return []
    rows = ((c.value, str(discarded), str(crashed), cell(why, 300)) for c, discarded, crashed, why in found)
    where = _file(history.session, files.results)
    counts = table(("Category", "Discarded", "Crashed", "Most common reasons"), rows, FAILED_CHARACTERS, where)
    example = next(e.number for e in history.experiments if e.status is not Status.KEEP)
    return [
        "## What did not work",
        "",
        *counts,
        "",
        "Every experiment's change is kept as a ref. To see one:",
        "",
        *code(show_command(history.session, example)),
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
    small = sum(
        step.gain is not None and step.experiment.metric is not None
        and 0 < step.gain < SMALL_GAIN * abs(step.experiment.metric) for step in made
    )  # fmt: skip
    if small:
        lines.append(
            f"{small} of {len(made)} kept changes gained less than {100 * SMALL_GAIN:g} %: read these with care."
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


def _reproduce(session: Session) -> list[str]:
    return ["## How to reproduce", "", *code(*reproduce_commands(session)), ""]


def _merge(session: Session, base: str) -> list[str]:
    squash, rebase = merge_commands(session)
    return [
        "## How to merge",
        "",
        f"Squash for one commit on {cell(base, MAX_NAME)}, rebase to keep every improvement as its own commit; "
        "by the button here, or:",
        "",
        *code(squash, rebase),
        "",
        f"Never force-push {cell(base, MAX_NAME)}. To keep the branch as it is, close this pull request.",
        "",
    ]


def _commit(session: Session, experiment: Experiment) -> str:
    label = cell(experiment.label)
    return f"[{label}]({session.repository}/commit/{quote(experiment.commit)})" if session.repository else label


def _file(session: Session, path: str) -> str:
    name = cell(PurePosixPath(path).name, MAX_NAME)
    target = quote(PurePosixPath(path).name)
    if session.repository:
        target = f"{session.repository}/blob/{quote(session.branch)}/{quote(path)}"
    return f"[{name}]({target})"


def _rows(headings: Sequence[str], pairs: Iterable[tuple[str, str]], characters: int) -> list[str]:
    rows = [(cell(name, MAX_NAME), cell(value)) for name, value in pairs]
    return table(headings, rows, characters, "the session's journal") if rows else []
