"""`run`: a session from its beginning, or from where it was cut off, to its pull request."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, assert_never

from autoresearch_ci import digests
from autoresearch_ci.cli.conclusion import check, conclude, save, set_outputs
from autoresearch_ci.cli.environment import Place
from autoresearch_ci.cli.finalizing import checked
from autoresearch_ci.cli.following import base_to_follow, merge_message
from autoresearch_ci.cli.opening import describe, digest, files_of, now, opening, place_for, reconcile
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.parts import make_limits, make_loop, make_runs
from autoresearch_ci.cli.proposing import Preparation
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.cli.succession import start_successor
from autoresearch_ci.cli.telling import Teller
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.conditions import moved
from autoresearch_ci.console import Console
from autoresearch_ci.errors import MachineError
from autoresearch_ci.experiment import Ending, History, Session
from autoresearch_ci.following import take_in
from autoresearch_ci.forges.pull_request import Operation, PullRequest, PullState
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.runs import RunRequest, Runs
from autoresearch_ci.stopping import out_of_hours, reason_to_stop

PREPARE_TIMEOUT_S: Final = 6 * 3600.0


def run_session(
    call: Call,
    *,
    finalize_after: bool,
    native_when_no_container: bool = False,
) -> int:
    """A whole session; its exit code. See the contract's `run`."""
    began = now()
    in_actions = call.environ.get("GITHUB_ACTIONS") == "true"
    with Signals() as signals, opening(call, signals, starting=True) as opened:
        # The report step must find this session, also one that is named by a date when that is another by then.
        call.console.set_outputs({"tag": opened.tag, "branch": f"autoresearch/{opened.tag}"})
        _announce(call.console, opened)
        new_base = base_to_follow(call.console, opened)
        if why := _over(opened, base_moved=bool(new_base)):
            return _nothing_to_do(call, opened, signals, began, why)
        merge = _merge_base(opened, new_base)
        preparation = Preparation(call.environ, opened, signals)
        teller = Teller(console=call.console, opened=opened, now=now)
        with place_for(call, opened, native_when_no_container=native_when_no_container) as place:
            describe(call.console, place)
            files = files_of(opened)
            history = _begin(opened, place, files)
            before = len(history.tried)
            if not history.experiments or merge:
                _prepare(call.console, opened, place, signals)
            runs = make_runs(call.console, opened, place, signals, files)
            loop = make_loop(opened, runs, preparation.finish(place), place.slots, began, teller.tell)
            runs.recall(history)
            signals.gentle = True
            if merge:
                history = _take_in(opened, runs, history, merge, files)
            if not signals.requested():
                history = loop.research(history, moved=moved(history, runs.conditions.fixed))
            if finalize_after and not signals.requested():
                history = check(runs, opened.settings, history, began, opened.hours.limit)
        if signals.requested():
            return _interrupted(call.console, opened, history, signals, teller, finalize_after and not in_actions)
        teller.finish()
        call.console.info(f"stopped: {history.ended}")
        try:
            return conclude(call.console, opened, history) if finalize_after else save(opened, history)
        finally:  # also where the pull request is not possible: the work is pushed
            if opened.settings.continue_ and out_of_hours(history.ended) and not signals.requested():
                start_successor(call, opened, history, made=len(history.tried) - before)


def _over(opened: Opened, *, base_moved: bool) -> str:
    """Why there is nothing to do, known before anything is built; empty when there is. On another base what failed may not fail."""
    standing, history, limits = opened.standing, opened.history, make_limits(opened)
    if base_moved:
        limits = replace(limits, patience=None, max_crashes=None)
    match standing.state:
        case PullState.CLOSED | PullState.MERGED:
            return f"pull request #{standing.number} was {standing.state.value} by a person, and with it `{opened.tag}` is over"
        case PullState.NONE | PullState.OPEN:
            return reason_to_stop(history, limits, elapsed_s=0, next_s=0) if history else ""
        case other:
            assert_never(other)


def _nothing_to_do(call: Call, opened: Opened, signals: Signals, began: dt.datetime, why: str) -> int:
    """A success that says why: a nightly whose session is over is no failure. What its end still lacks is made up for."""
    call.console.notice("Nothing to do", why)
    history = opened.history
    if history is not None and opened.standing.state in (PullState.NONE, PullState.OPEN):
        if not history.ended:
            history = opened.journal.end(history, why)
        reconcile(opened, history, {})
        signals.gentle = True
        history = checked(call, opened, history, signals, began)
        return signals.exit_code or conclude(call.console, opened, history)
    call.console.step_summary(f"## Nothing to do\n\n{cell(why)}\n")
    if history is not None:
        status = "improved" if history.kept else "unchanged"
        ended = PullRequest(number=opened.standing.number, url=opened.standing.url, operation=Operation.NONE)
        set_outputs(call.console, opened, history, ended, status)
    return 0


def _announce(console: Console, opened: Opened) -> None:
    """The skill's Research Config, with where each value came from."""
    rows = [("branch", f"autoresearch/{opened.tag}", "tag")]
    rows += [row for row in opened.loaded.rows() if row[1] or row[2] != "default"]
    console.table("AutoResearch Config", ("Parameter", "Value", "From"), rows)
    if opened.warning:
        console.warning(opened.warning)
    if opened.hours.because:
        console.info(
            f"no experiment is started that would not end within {opened.hours.limit:.3g} hours{opened.hours.because}"
        )
    if opened.checkout.dirty_script:
        console.warning(f"{opened.checkout.script} has changes that are not committed: the commit's version is used")
    if opened.history is not None:
        done = len(opened.history.tried)
        console.info(f"going on with `{opened.tag}` after {done} experiments{_cut_short(opened, opened.history)}")


def _cut_short(opened: Opened, history: History) -> str:
    """What a process that died is the reason to repeat."""
    if history.ended:
        return ""
    live, number = opened.journal.now_running(), len(history.experiments)
    cut = {slot.number: slot.description for slot in live.running} if live else {}
    if len(cut) > 1:
        return f"; the last process ended without a word, so {len(cut)} experiments that had begun are made again"
    what = f": {cut[number]}" if number in cut else ""
    return f"; the last process ended without a word, so experiment {number}, if it had begun, is made again{what}"


def _begin(opened: Opened, place: Place, files: Mapping[str, str]) -> History:
    """Records that this process takes up the session, new or resumed, and brings the refs to what the journal says."""
    settings, before = opened.settings, opened.history
    base_commit = before.session.base_commit if before else opened.checkout.base_commit
    merging = base_commit != opened.workspace.base_commit  # not before it is measured
    session = Session(
        tag=opened.tag,
        metric=settings.metric,
        direction=settings.direction,
        training_script=opened.checkout.script,
        base_commit=base_commit,
        base_branch=before.session.base_branch if before else opened.checkout.base_branch,
        time_budget_s=settings.time_budget,
        max_iterations=settings.max_iterations,
        platform=place.platform.value,
        device=place.device,
        executor=place.kind,
        adjustments=place.adjustments.variables(),
        settings=settings.texts(),
        repository=opened.forge.repository_url,
        files_digest=before.session.files_digest if before and merging else digest(files),
        wall=place.wall,
        run_url=opened.run_url,
        started_at=before.session.started_at if before else now(),
    )
    history = opened.journal.begin(replace(before, session=session) if before else History(session=session))
    if not merging:
        reconcile(opened, history, {digests.DIGESTS_FILE: digests.write(files)})
    return history


def _merge_base(opened: Opened, new: str) -> str:
    """The commit that brings `new`, the base's, to the session's branch; empty when there is nothing to follow.

    Nothing of it is recorded yet, and no ref moves; but the workspace's base is the new one from here on, since environment and
    plan come from it. GitError when both changed the same lines.
    """
    if not new or opened.history is None:
        return ""
    reconcile(opened, opened.history, {})  # the tip that is merged must be the journal's
    return opened.workspace.merge_base_in(new, merge_message(opened.history, new))


def _take_in(opened: Opened, runs: Runs, history: History, merge: str, files: Mapping[str, str]) -> History:
    """The history with the base's new commit measured and merged by the commit `merge`; as it was when interrupted."""
    session = replace(history.session, base_commit=opened.workspace.base_commit, files_digest=digest(files))
    history = take_in(
        runs,
        history,
        commit=merge,
        session=session,
        files={digests.DIGESTS_FILE: digests.write(files)},
        wanted=opened.settings.baseline_runs,
        hidden=opened.settings.holdout_metric,
    )
    opened.workspace.use_base(history.session.base_commit)  # the one before, where it was not measured
    return history


def _prepare(console: Console, opened: Opened, place: Place, signals: Signals) -> None:
    """The user's `prepare` command, once, before a baseline: the only run with network and a writable cache."""
    command = opened.settings.prepare
    if command is None:
        return
    with console.group("Prepare"), opened.workspace.export(opened.workspace.base_commit) as tree:
        name = "prepare.log"
        run = place.executor.prepare(
            RunRequest(
                name=f"{opened.tag.lower().replace('_', '-').replace('.', '-')}-prepare",
                tree=tree,
                directory=opened.directory,
                script=opened.checkout.script,
                command=command,
                variables=dict(opened.settings.env),
                timeout_s=PREPARE_TIMEOUT_S,
                log=opened.journal.log_path(name),
            ),
            signals,
        )
        opened.journal.scrub_log(name)
        console.untrusted(opened.journal.read_log(name, 4096).splitlines()[-10:])
    if run.ending is not Ending.INTERRUPTED and run.exit_code != 0:
        raise MachineError(
            f"`prepare` failed with exit code {run.exit_code}", hint=f"its log is {opened.journal.log_path(name)}"
        )


def _interrupted(
    console: Console, opened: Opened, history: History, signals: Signals, teller: Teller, report: bool
) -> int:
    """After a signal: everything is on the disk already, so push. Ctrl-C is also how a person ends an open-ended session, and
    then gets the `report`; in Actions the step under `always()` makes it, for the runner leaves 7.5 s."""
    pushed = opened.workspace.push(now=True)
    set_outputs(console, opened, history, None, "interrupted")
    if signals.exit_code == 130 and report and history.experiments:
        console.info("interrupted: reporting; Ctrl-C again to leave at once")
        signals.forget()
        teller.finish()
        conclude(console, opened, opened.journal.end(history, "stopped by hand"))
        return 130
    where = "" if pushed else " on this machine; the remote did not answer in time"
    console.info(f"interrupted: everything decided is saved{where}; `autoresearch-ci run` goes on, `finalize` reports")
    return signals.exit_code
