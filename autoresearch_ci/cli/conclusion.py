"""The end of a session: its report on the branch, the last push, the pull request, and what the action hands on."""

from __future__ import annotations

import datetime as dt
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from autoresearch_ci import results
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.console import Console
from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.pull_request import Operation, PullRequest
from autoresearch_ci.report import pull_request
from autoresearch_ci.report.chart import CHART_FILE, chart, headline
from autoresearch_ci.report.page import page
from autoresearch_ci.report.summary import summary
from autoresearch_ci.report.trust import trust
from autoresearch_ci.runs import Runs
from autoresearch_ci.settings import Settings
from autoresearch_ci.tripwires import Tripwire, tripped
from autoresearch_ci.verification import ablate, holdout, holdout_metric, verify
from autoresearch_ci.workspace import merged_script

LAST_PUSH_TRIES: Final = 3


def check(runs: Runs, settings: Settings, history: History, began: dt.datetime) -> History:
    """The history with the fresh measurements that the settings ask for before the pull request: verification, holdout, ablation.

    What fits the remaining hours is made, and says so where it is less. Safe to repeat: what was measured is not measured again.
    After an interrupt nothing more is begun.
    """

    def left() -> float | None:
        if settings.max_hours is None:
            return None
        return settings.max_hours * 3600 - (runs.now() - began).total_seconds()

    table = results.write(history)
    history = verify(runs, history, wanted=settings.verify_runs, seconds=left(), table=table)
    wanted = max(1, settings.verify_runs)  # asked for by a setting of their own
    if settings.holdout_metric:
        history = holdout_metric(runs, history, name=settings.holdout_metric, table=table)
    elif settings.holdout_command and not runs.interrupt.requested():
        command = settings.holdout_command.replace("{training-script}", settings.training_script)
        history = holdout(runs, history, command=command, wanted=wanted, seconds=left(), table=table)
    if settings.ablate and not runs.interrupt.requested():
        history = ablate(runs, history, wanted=wanted, seconds=left(), table=table, merge=merged_script)
    return history


def conclude(console: Console, opened: Opened, history: History) -> int:
    """Report files on the branch, push, pull request, outputs. Safe to repeat; 0, or raises GitError or ForgeError."""
    workspace, settings = opened.workspace, opened.settings
    picture, tripwires = chart(history), _tripwires(opened, history)
    text = summary(history, tripwires=tripwires)
    report = {
        in_repository(opened, settings.summary_file): text.encode(),
        in_repository(opened, settings.results_file): results.write(history).encode(),
        in_repository(opened, CHART_FILE): picture.encode(),
    }
    opened.workspace.record(history, opened.journal.files())
    workspace.adopt_report(report, f"docs: report of {history.session.branch}")
    _check_branch(opened, history, report)
    for attempt in range(LAST_PUSH_TRIES):
        if workspace.push(now=True):
            break
        time.sleep(2**attempt)
    else:
        raise GitError(
            "the remote cannot be reached, so the last experiments are not pushed",
            hint="later: `autoresearch-ci finalize`",
        )
    pull = _publish(console, opened, history, text, picture, tripwires)
    for warning in pull.warnings:
        console.warning(warning)
    set_outputs(console, opened, history, pull, "improved" if history.kept else "unchanged")
    console.step_summary(text)
    console.info(headline(history))
    if pull.url:
        console.notice(f"Pull request {pull.operation.value}", pull.url)
    return 0


def _check_branch(opened: Opened, history: History, report: Mapping[str, bytes]) -> None:
    """Read-only means unchanged: what differs from the base beside the script and the report stops the pull request."""
    allowed = {history.session.training_script, *report}
    if foreign := [path for path in opened.workspace.changed_paths() if path not in allowed]:
        raise GitError(
            f"`{history.session.branch}` changes `{foreign[0]}`, and only the training script may change: no pull request",
            hint=f"see who did with `git log {history.session.branch} -- {shlex.quote(foreign[0])}`, and start with another tag",
        )


def _tripwires(opened: Opened, history: History) -> dict[str, tuple[Tripwire, ...]]:
    """What a reviewer should see in each kept change, by its full hash."""
    settings, script = opened.settings, opened.workspace.script
    protected = [in_repository(opened, path) for path in (*settings.evaluate_only, *settings.read_only)]
    return {
        kept.commit: tripped(script(kept.parent), script(kept.commit), protected=protected, metric=settings.metric)
        for kept in history.kept
    }


def _publish(
    console: Console,
    opened: Opened,
    history: History,
    text: str,
    picture: str,
    tripwires: Mapping[str, Sequence[Tripwire]],
) -> PullRequest:
    settings, forge = opened.settings, opened.forge
    if settings.open_pr == "never" or (settings.open_pr == "on-keep" and not history.kept):
        console.info(
            "nothing was kept: no pull request"
            if settings.open_pr == "on-keep"
            else "no pull request: `open-pr` is `never`"
        )
        return PullRequest(number=None, url="", operation=Operation.NONE)
    base = settings.base or forge.default_branch()
    diffs = {e.commit: opened.workspace.diff(e.parent, e.commit) for e in history.kept}
    files = pull_request.Files(
        summary=in_repository(opened, settings.summary_file),
        results=in_repository(opened, settings.results_file),
        chart=in_repository(opened, CHART_FILE),
    )
    scrub = opened.scrubber.scrub
    title = scrub(pull_request.title(history))
    body = scrub(pull_request.body(history, files=files, base=base, diffs=diffs, tripwires=tripwires))
    return forge.publish(
        branch=history.session.branch,
        base=base,
        title=title,
        body=body,
        draft=settings.draft or pull_request.unconfirmed(history),
        labels=settings.labels,
        attachments={
            "pull-request.html": scrub(page(history, title=title, base=base, diffs=diffs, tripwires=tripwires)),
            CHART_FILE: scrub(picture),
            Path(settings.results_file).name: scrub(results.write(history)),
            Path(settings.summary_file).name: scrub(text),
        },
    )


def set_outputs(console: Console, opened: Opened, history: History, pull: PullRequest | None, status: str) -> None:
    """The action's outputs (contract, part 4)."""
    baseline, best = history.baseline, history.best
    before = baseline.metric if baseline else None
    after = best.metric if best else None
    found = trust(history)
    confirmed = found.gain if found is not None else None  # measured again; the best reading promises too much
    gain = confirmed.gain if confirmed else None
    if gain is None and before is not None and after is not None:
        gain = history.session.direction.gain(before, after)
    console.set_outputs(
        {
            "branch": history.session.branch,
            "head-sha": opened.workspace.tip,
            "pull-request-number": str(pull.number or "") if pull else "",
            "pull-request-url": pull.url if pull else "",
            "pull-request-operation": pull.operation.value if pull else Operation.NONE.value,
            "baseline-metric": "" if before is None else repr(before),
            "best-metric": "" if after is None else repr(after),
            "improvement": "" if gain is None else f"{gain:.6g}",
            "iterations": str(max(0, len(history.experiments) - 1)),
            "kept": str(len(history.kept)),
            "status": status,
            "results-file": in_repository(opened, opened.settings.results_file),
            "summary-file": in_repository(opened, opened.settings.summary_file),
        }
    )


def in_repository(opened: Opened, name: str) -> str:
    return (Path(opened.directory) / name).as_posix()
