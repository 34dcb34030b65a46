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
from autoresearch_ci.errors import ForgeError, GitError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.pull_request import Operation, PullRequest
from autoresearch_ci.report import pull_request
from autoresearch_ci.report.badge import BADGE_FILE, badge
from autoresearch_ci.report.chart import CHART_FILE, chart, headline
from autoresearch_ci.report.page import page
from autoresearch_ci.report.running import running_summary
from autoresearch_ci.report.standing import status_line
from autoresearch_ci.report.summary import summary
from autoresearch_ci.report.trust import trust
from autoresearch_ci.runs import Runs
from autoresearch_ci.settings import Settings
from autoresearch_ci.tripwires import Tripwire, tripped
from autoresearch_ci.verification import ablate, holdout, holdout_metric, verify
from autoresearch_ci.workspace import merged_script

LAST_PUSH_TRIES: Final = 3


def check(runs: Runs, settings: Settings, history: History, began: dt.datetime, limit: float | None = None) -> History:
    """The history with the fresh measurements that the settings ask for before the pull request: verification, holdout, ablation.

    What fits the `limit` in hours since `began` is made, and says so where it is less. Safe to repeat: what was measured is not
    measured again. After an interrupt nothing more is begun.
    """

    def left() -> float | None:
        return None if limit is None else limit * 3600 - (runs.now() - began).total_seconds()

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


def verify_again(runs: Runs, history: History, wanted: int, limit: float | None) -> History:
    """The history with `wanted` fresh runs of base and best each, whatever was measured before; SettingsError without a keep."""
    if not history.kept:
        raise SettingsError(
            f"the session `{history.session.tag}` has kept nothing that could be verified",
            hint="`autoresearch-ci status` shows what was tried",
        )
    seconds = None if limit is None else limit * 3600
    return verify(runs, history, wanted=wanted, seconds=seconds, table=results.write(history), again=True)


def conclude(console: Console, opened: Opened, history: History) -> int:
    """Report files on the branch, push, pull request, outputs. Safe to repeat; 0, or raises GitError or ForgeError."""
    workspace, settings = opened.workspace, opened.settings
    picture, tripwires = chart(history), _tripwires(opened, history)
    text = summary(history, tripwires=tripwires)
    report = {
        in_repository(opened, settings.summary_file): text.encode(),
        in_repository(opened, settings.results_file): results.write(history).encode(),
        in_repository(opened, CHART_FILE): picture.encode(),
        in_repository(opened, BADGE_FILE): badge(history).encode(),
    }
    opened.workspace.record(history, opened.journal.files())
    workspace.adopt_report(report, f"docs: report of {history.session.branch}")
    _check_branch(opened, history, report)
    _push(opened)
    pull = _publish(console, opened, history, text, picture, tripwires)
    for warning in pull.warnings:
        console.warning(warning)
    set_outputs(console, opened, history, pull, "improved" if history.kept else "unchanged")
    _show(console, opened, history, pull, text)
    return _attached(opened, history)


def save(opened: Opened, history: History) -> int:
    """Everything on the remote, without a report; 0, or raises GitError."""
    opened.workspace.record(history, opened.journal.files())
    _push(opened)
    return _attached(opened, history)


def _attached(opened: Opened, history: History) -> int:
    if opened.workspace.detached:
        raise GitError(
            f"everything is on the remote, but not on `{history.session.branch}`: {opened.workspace.detached}",
            hint="decide what belongs on the branch, then go on with another tag",
        )
    return 0


def _push(opened: Opened) -> None:
    for attempt in range(LAST_PUSH_TRIES):
        if opened.workspace.push(now=True):
            return
        time.sleep(2**attempt)
    why = f": {opened.workspace.trouble}" if opened.workspace.trouble else ""
    raise GitError(
        f"the remote cannot be reached, so the last experiments are not pushed{why}",
        hint="later: `autoresearch-ci finalize`",
    )


def _show(console: Console, opened: Opened, history: History, pull: PullRequest, text: str) -> None:
    """The end as people see it: the status of the branch, the step's summary with the session's own (`text`) below, the log."""
    forge = opened.forge
    if forge.repository_url and history.kept and opened.workspace.on_remote:
        try:
            forge.set_status(
                opened.workspace.on_remote, state="success", description=status_line(history), url=pull.url
            )
        except ForgeError as error:  # a decoration: the job may lack `statuses: write`
            console.warning(f"the commit status could not be written: {error.message}")
    show(console, opened, history, text)
    requests = _requests(opened)
    console.info(headline(history))
    if requests:
        console.info(requests)
    if pull.url:
        console.notice(f"Pull request {pull.operation.value}", pull.url)


def show(console: Console, opened: Opened, history: History, text: str = "") -> None:
    """The step's summary: how the session stands, and its own summary (`text`) below."""
    now, rows = dt.datetime.now(dt.UTC), opened.loaded.rows()
    shown = running_summary(history, config=rows, now=now, requests=_requests(opened))
    console.step_summary(f"{shown}\n{text or summary(history)}")


def _requests(opened: Opened) -> str:
    """How often GitHub was asked, in one line; empty without it."""
    asked = opened.forge.requests
    return f"{asked.total} requests to GitHub, {asked.writes} of them writes" if opened.forge.repository_url else ""


def report_files(opened: Opened) -> pull_request.Files:
    """Where the report lies in the branch."""
    return pull_request.Files(
        summary=in_repository(opened, opened.settings.summary_file),
        results=in_repository(opened, opened.settings.results_file),
        chart=in_repository(opened, CHART_FILE),
    )


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
    base = opened.target()
    diffs = {e.commit: opened.workspace.diff(e.parent, e.commit) for e in history.kept}
    scrub = opened.scrubber.scrub
    title = scrub(pull_request.title(history))
    note, files = opened.workspace.detached, report_files(opened)
    body = scrub(pull_request.body(history, files=files, base=base, diffs=diffs, tripwires=tripwires, note=note))
    return forge.publish(
        branch=history.session.branch,
        base=base,
        title=title,
        body=body,
        draft=settings.draft or pull_request.unconfirmed(history),
        labels=settings.labels,
        reviewers=settings.reviewers,
        assignees=settings.assignees,
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
            "iterations": str(len(history.tried)),
            "kept": str(len(history.kept)),
            "status": status,
            "results-file": in_repository(opened, opened.settings.results_file),
            "summary-file": in_repository(opened, opened.settings.summary_file),
        }
    )


def in_repository(opened: Opened, name: str) -> str:
    return (Path(opened.directory) / name).as_posix()
