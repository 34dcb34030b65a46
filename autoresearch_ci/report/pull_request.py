"""The pull request's title and text: what a reviewer needs who was asleep while it was made."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from autoresearch_ci.experiment import Category, Experiment, History, Session, Status
from autoresearch_ci.report.chart import headline, percent, thinned
from autoresearch_ci.report.markdown import NO_VALUE, cell, clean, duration, number

# GitHub refuses a body of more than 65,536 characters. These budgets and the text around them stay below 60,000.
KEPT_CHARACTERS: Final = 24_000
FAILED_CHARACTERS: Final = 6_000
SETTINGS_CHARACTERS: Final = 6_000
MERMAID_CHARACTERS: Final = 4_000
MERMAID_POINTS: Final = 40
MAX_TITLE: Final = 200
MAX_NAME: Final = 100  # of a branch or a file inside a command
TOP_REASONS: Final = 3
SMALL_GAIN: Final = 0.001  # of the metric: what two runs of the same script commonly differ by


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the report's files in the branch."""

    summary: str
    results: str
    chart: str


@dataclass(frozen=True, slots=True)
class Step:
    """A kept experiment, what it gained on the keep before it (positive is better), and its changed lines."""

    experiment: Experiment
    gain: float | None
    share: str
    added: int
    removed: int


def title(history: History) -> str:
    """One line of at most 200 characters with the numbers, honest when nothing was kept."""
    return clean(headline(history), MAX_TITLE)


def body(history: History, *, files: Files, base: str, diffs: Mapping[str, str]) -> str:
    """GitHub Markdown below 60,000 characters. `diffs`: the unified diff of every kept commit, by its full hash."""
    session = history.session
    parts = [
        *_opening(history, base),
        *_picture(history, files),
        *_kept(history, files, diffs),
        *_failed(history, files),
        *_measured(history, diffs),
        *_reproduce(session),
        *_merge(session, base),
        *_details("Settings", _rows(("Setting", "Value"), session.settings.items(), SETTINGS_CHARACTERS)),
        *_details("Adjustments for the platform", _rows(("Variable", "Value"), session.adjustments.items(), 3000)),
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
            gain = history.session.direction.gain(before, after)
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


def merge_commands(session: Session) -> tuple[str, str]:
    """The two ways to merge."""
    command = f"autoresearch-ci merge --tag {shlex.quote(clean(session.tag, MAX_NAME))} --method"
    return f"{command} squash", f"{command} rebase"


def reproduce_commands(session: Session) -> tuple[str, str]:
    """Get the branch, and run its script as it was run."""
    branch = shlex.quote(clean(session.branch, MAX_NAME))
    checkout = (
        f"git fetch origin {branch} && git checkout FETCH_HEAD" if session.repository else f"git checkout {branch}"
    )
    variables = dict(session.adjustments)
    if session.time_budget_s is not None:
        variables = {"AUTORESEARCH_TIME_BUDGET": f"{session.time_budget_s:g}", **variables}
    words = [f"{clean(k, 60)}={shlex.quote(clean(v, 60))}" for k, v in list(variables.items())[:20]]
    script = session.settings.get("training-script", session.training_script)
    command = shlex.split(session.settings.get("command", "python {training-script}"))
    words += [shlex.quote(clean(word.replace("{training-script}", script), MAX_NAME)) for word in command]
    # Runs start in the folder that the settings are relative to; the session has the script's path from the root.
    folder, inside, rest = session.training_script.rpartition(f"/{posixpath.normpath(script)}")
    start = f"cd {shlex.quote(clean(folder, MAX_NAME))} && " if inside and not rest else ""
    return checkout, start + " ".join(words)


def show_command(session: Session, experiment_number: int) -> str:
    """Show an experiment's change, also a discarded one's."""
    ref = shlex.quote(clean(f"refs/autoresearch/{session.tag}/experiments/{experiment_number:04d}", MAX_NAME))
    return f"git fetch origin {ref} && git show FETCH_HEAD" if session.repository else f"git show {ref}"


def failures(history: History) -> list[tuple[Category, int, int, str]]:
    """By category, where anything failed: discarded, crashed, and the most common reasons in one line of plain text."""
    found = []
    for category in Category:
        failed = [e for e in history.experiments if e.category is category and e.status is not Status.KEEP]
        if not failed:
            continue
        crashed = sum(e.status is Status.CRASH for e in failed)
        # A discard's reason ends in its number (`worse by 0.0012`), which would make every one a reason of its own.
        reasons = Counter(re.sub(r" by [-+.\de]+$", "", clean(e.verdict.reason, 80)) or e.status.value for e in failed)
        top = ", ".join(f"{reason} ({count}×)" for reason, count in reasons.most_common(TOP_REASONS))
        found.append((category, len(failed) - crashed, crashed, top))
    return found


def _opening(history: History, base: str) -> list[str]:
    session, baseline, best = history.session, history.baseline, history.best
    tried = max(0, len(history.experiments) - 1)
    counts = Counter(e.status for e in history.experiments if e.number > 0)
    line = f"**Nothing was kept**: no change was better than the baseline in {tried} experiments."
    if history.kept and baseline and best and baseline.metric is not None and best.metric is not None:
        share = percent(baseline.metric, best.metric)
        moved = f"{number(baseline.metric)} → {number(best.metric)}"
        line = (
            f"**{cell(session.metric)}: {moved}**{f' ({share})' if share else ''}: "
            f"{len(history.kept)} changes kept of {tried} tried in {duration(elapsed_s(history))} h."
        )
    ended = f" Ended: {cell(history.ended)}." if history.ended else ""
    return [
        line,
        "",
        f"{counts[Status.KEEP]} kept · {counts[Status.DISCARD]} discarded · {counts[Status.CRASH]} crashed · "
        f"merges into {cell(base, MAX_NAME)} · changes only {cell(session.training_script, MAX_NAME)} "
        f"besides the report.{ended}",
        "",
    ]


def _picture(history: History, files: Files) -> list[str]:
    session = history.session
    name = quote(PurePosixPath(files.chart).name)
    if session.repository:
        name = f"{session.repository}/raw/{quote(session.branch)}/{quote(files.chart)}"
    lines = [f"![every experiment and the best so far]({name})", ""]
    diagram = _mermaid(history)
    return lines + (_details("The chart as a diagram", diagram) if diagram else [])


def _mermaid(history: History) -> list[str]:
    """The running best as a Mermaid chart, for where no image is shown; nothing when it would be long or flat."""
    best: float | None = None
    points: list[tuple[int, float]] = []
    for experiment in history.experiments:
        metric = experiment.metric
        if experiment.status is Status.KEEP and metric is not None:
            best = metric if best is None or history.session.direction.better(metric, best) else best
        if best is not None:
            points.append((experiment.number, best))
    if len({metric for _, metric in points}) < 2:
        return []
    shown = thinned(points, MERMAID_POINTS)
    low, high = min(m for _, m in shown), max(m for _, m in shown)
    margin = (high - low) * 0.1
    name = re.sub(r"[^\w ./-]", "", clean(history.session.metric, 40))
    lines = [
        "```mermaid",
        "xychart-beta",
        '  title "Best so far"',
        f'  x-axis "experiment" [{", ".join(str(n) for n, _ in shown)}]',
        f'  y-axis "{name}" {_decimal(low - margin)} --> {_decimal(high + margin)}',
        f"  line [{', '.join(_decimal(m) for _, m in shown)}]",
        "```",
    ]
    return lines if sum(map(len, lines)) <= MERMAID_CHARACTERS else []


def _decimal(value: float) -> str:
    """Mermaid's charts read no exponents."""
    return format(Decimal(f"{value:.6g}"), "f")


def _kept(history: History, files: Files, diffs: Mapping[str, str]) -> list[str]:
    if not history.kept:
        return []
    metric = cell(history.session.metric, 40)
    rows = (
        (
            str(step.experiment.number),
            _commit(history.session, step.experiment),
            number(step.experiment.metric),
            NO_VALUE if step.gain is None else f"{step.gain:+.4g}" + (f" ({step.share})" if step.share else ""),
            f"+{step.added} −{step.removed}" if step.experiment.commit in diffs else NO_VALUE,
            cell(step.experiment.description),
            step.experiment.category.value,
        )
        for step in steps(history, diffs)
    )
    headings = ("#", "Commit", metric, "Gain on the keep before", "Lines", "Change", "Category")
    return ["## What was kept", "", *_table(headings, rows, KEPT_CHARACTERS, _file(history.session, files.results)), ""]


def _failed(history: History, files: Files) -> list[str]:
    found = failures(history)
    if not found:
        return []
    rows = ((c.value, str(discarded), str(crashed), cell(why, 300)) for c, discarded, crashed, why in found)
    where = _file(history.session, files.results)
    table = _table(("Category", "Discarded", "Crashed", "Most common reasons"), rows, FAILED_CHARACTERS, where)
    example = next(e.number for e in history.experiments if e.status is not Status.KEEP)
    return [
        "## What did not work",
        "",
        *table,
        "",
        "Every experiment's change is kept as a ref. To see one:",
        "",
        *_code(show_command(history.session, example)),
        "",
    ]


def _measured(history: History, diffs: Mapping[str, str]) -> list[str]:
    session = history.session
    where = ", ".join(cell(part, MAX_NAME) for part in (session.platform, session.device, session.executor) if part)
    budget = "" if session.time_budget_s is None else f", {session.time_budget_s:g} s of training each"
    found = steps(history, diffs)
    small = sum(
        step.gain is not None and step.experiment.metric is not None
        and 0 < step.gain < SMALL_GAIN * abs(step.experiment.metric) for step in found
    )  # fmt: skip
    lines = [
        "## How sure this is",
        "",
        f"One run per experiment{f' on {where}' if where else ''}{budget}. The training script prints "
        f"{cell(session.metric)} itself. "
        "An improvement near the noise of a run may not hold when it is measured again.",
    ]
    if small:
        lines.append(
            f"{small} of {len(found)} kept changes gained less than {100 * SMALL_GAIN:g} %: look at these first."
        )
    return [*lines, ""]


def _reproduce(session: Session) -> list[str]:
    return ["## How to reproduce", "", *_code(*reproduce_commands(session)), ""]


def _merge(session: Session, base: str) -> list[str]:
    squash, rebase = merge_commands(session)
    return [
        "## How to merge",
        "",
        f"Squash for one commit on {cell(base, MAX_NAME)}, rebase to keep every improvement as its own commit; "
        "by the button here, or:",
        "",
        *_code(squash, rebase),
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


def _code(*commands: str) -> list[str]:
    return ["```sh", *commands, "```"]


def _details(heading: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{heading}</summary>", "", *lines, "", "</details>", ""] if lines else []


def _rows(headings: Sequence[str], pairs: Iterable[tuple[str, str]], characters: int) -> list[str]:
    rows = [(cell(name, MAX_NAME), cell(value)) for name, value in pairs]
    return _table(headings, rows, characters, "the session's journal") if rows else []


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], characters: int, where: str) -> list[str]:
    """A table of cells that are already safe, cut before it has more than `characters`."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    left = characters
    cut = 0
    for row in rows:
        line = f"| {' | '.join(row)} |"
        left -= len(line) + 1
        if left < 0:
            cut += 1
        else:
            lines.append(line)
    return [*lines, "", f"… and {cut} more in {where}"] if cut else lines
