"""`run` and `finalize`: a session from its beginning, or from where it was cut off, to its pull request."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Final, assert_never

from autoresearch_ci import digests, results
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.conclusion import check, conclude, in_repository, save, set_outputs, show, verify_again
from autoresearch_ci.cli.environment import Place, environment
from autoresearch_ci.cli.following import base_to_follow, merge_message
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.parts import make_limits, make_loop, make_runs
from autoresearch_ci.cli.proposing import Preparation
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.cli.succession import start_successor
from autoresearch_ci.cli.telling import Teller
from autoresearch_ci.cli.trigger import check_event, check_trigger
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.conditions import moved
from autoresearch_ci.console import Console
from autoresearch_ci.errors import ForgeError, GitError, MachineError, SettingsError
from autoresearch_ci.experiment import Ending, History, Purpose, Session
from autoresearch_ci.following import take_in
from autoresearch_ci.forges.pull_request import Operation, PullRequest, PullState
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.runs import RunRequest, Runs
from autoresearch_ci.settings import Loaded, Settings
from autoresearch_ci.stopping import out_of_hours, reason_to_stop
from autoresearch_ci.verification import complete

PREPARE_TIMEOUT_S: Final = 6 * 3600.0


def run_session(
    call: Call,
    *,
    finalize_after: bool,
    native_when_no_container: bool = False,
) -> int:
    """A whole session; its exit code. See the contract's `run`."""
    began = _now()
    in_actions = call.environ.get("GITHUB_ACTIONS") == "true"
    with Signals() as signals:
        call.console.mask()
        check_event(call.environ)
        loaded = call.load()
        with wiring.open_session(call.environ, call.directory, loaded, today=began.date(), starting=True) as opened:
            attend(call, opened, signals)
            # The report step must find this session, also one that is named by a date when that is another by then.
            call.console.set_outputs({"tag": opened.tag, "branch": f"autoresearch/{opened.tag}"})
            _announce(call.console, loaded, opened)
            new_base = base_to_follow(call.console, opened)
            if why := _over(opened, base_moved=bool(new_base)):
                return _nothing_to_do(call, opened, signals, began, why)
            merge = _merge_base(opened, new_base)
            preparation = Preparation(call.environ, opened, signals)
            teller = Teller(console=call.console, opened=opened, now=_now)
            with _place(call, opened, native_when_no_container=native_when_no_container) as place:
                _describe(call.console, place)
                files = _files(opened)
                history = _begin(opened, place, files)
                before = len(history.tried)
                if not history.experiments or merge:
                    _prepare(call.console, opened, place, signals)
                runs = make_runs(call.console, opened, place, signals, files)
                loop = make_loop(opened, runs, preparation.finish(place), began, teller.tell)
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


def attend(call: Call, opened: Opened, signals: Signals) -> None:
    """What every command does that works on a session: nobody else may have started it, no secret is said, a signal is quick."""
    call.console.mask(opened.scrubber)
    check_trigger(call.console, call.environ, opened.forge, opened.checkout.git_dir / "config")
    if call.environ.get("GITHUB_ACTIONS") == "true":
        signals.hurry = opened.workspace.hurry


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
        _reconcile(opened, history, {})
        signals.gentle = True
        history = _checked(call, opened, history, signals, began)
        return signals.exit_code or conclude(call.console, opened, history)
    call.console.step_summary(f"## Nothing to do\n\n{cell(why)}\n")
    if history is not None:
        status = "improved" if history.kept else "unchanged"
        ended = PullRequest(number=opened.standing.number, url=opened.standing.url, operation=Operation.NONE)
        set_outputs(call.console, opened, history, ended, status)
    return 0


def finalize_session(call: Call, *, measure: bool = True, verify_runs: int = 0) -> int:
    """Verification, report, push and pull request of the session as it is recorded; its exit code.

    `measure` False: nothing is run and no environment built. `verify_runs`: base and best are measured again, so often each,
    whatever was measured before; MachineError when that cannot be done here.
    """
    began = _now()
    with Signals() as signals:
        call.console.mask()
        check_event(call.environ)
        loaded = call.load()
        with wiring.open_session(call.environ, call.directory, loaded, today=began.date(), starting=False) as opened:
            attend(call, opened, signals)
            if opened.history is None or not opened.history.experiments:
                raise SettingsError(
                    f"the session `{opened.tag}` has no experiment yet", hint="run it first: `autoresearch-ci run`"
                )
            if verify_runs:
                wiring.refuse_two(opened.tag, opened.running_in)
            if why := _left_alone(opened):
                call.console.notice("Nothing is written", why)
                show(call.console, opened, opened.history)
                return 0
            _reconcile(opened, opened.history, {})
            history, signals.gentle = opened.history, True
            if verify_runs:
                with measuring(call, opened, signals) as runs:
                    history = verify_again(runs, history, verify_runs, opened.hours.limit)
            elif measure:
                history = _checked(call, opened, history, signals, began)
            if signals.requested():
                opened.workspace.push(now=True)
                return signals.exit_code
            return conclude(call.console, opened, history)


def _left_alone(opened: Opened) -> str:
    """Why a report would be in the way: a person ended the pull request, or the session goes on in another job, whose next keep
    could not be pushed after a report commit. Empty where it would not, and where GitHub cannot say."""
    if opened.running_in:
        return f"`{opened.tag}` goes on in {opened.running_in}, which reports at its end"
    try:
        standing = opened.forge.standing(f"autoresearch/{opened.tag}")
    except ForgeError:
        return ""  # publishing will say what is wrong
    if standing.state in (PullState.CLOSED, PullState.MERGED):
        return f"pull request #{standing.number} was {standing.state.value} by a person, and with it `{opened.tag}` is over"
    return ""


@contextmanager
def measuring(call: Call, opened: Opened, signals: Signals) -> Iterator[Runs]:
    """What makes runs of the session's commits, here and now. MachineError when nothing can be run here."""
    with _place(call, opened) as place:
        _describe(call.console, place)
        yield make_runs(call.console, opened, place, signals, _files(opened))


def _checked(call: Call, opened: Opened, history: History, signals: Signals, began: dt.datetime) -> History:
    """Measured again now, as far as it was not yet.

    In a job, what did not fit `max-hours` is not made up for here, and a job that was cancelled has five minutes left: they
    are for the report.
    """
    in_actions = call.environ.get("GITHUB_ACTIONS") == "true"
    missing = [purpose for purpose in _wanted(opened.settings, history) if not complete(history, purpose)]
    if in_actions and history.ended:
        recorded = {
            r.purpose for r in history.rechecks if history.best and history.best.commit in (r.subject, r.reference)
        }
        missing = [purpose for purpose in missing if purpose not in recorded]
    if not missing:
        return history
    if in_actions and not history.ended:
        call.console.warning("not measured again: the job was cut off; `autoresearch-ci finalize` does it later")
        return history
    try:
        with measuring(call, opened, signals) as runs:
            return check(runs, opened.settings, history, began, opened.hours.limit)
    except MachineError as error:
        call.console.warning(f"not measured again, because nothing can be run here: {error.message}")
        return history


def _wanted(settings: Settings, history: History) -> list[Purpose]:
    """What is to be measured before the pull request."""
    asked = {
        Purpose.VERIFY: settings.verify_runs > 0,
        Purpose.HOLDOUT: settings.holdout is not None,
        Purpose.ABLATE: settings.ablate and len(history.kept) > 1,
    }
    return [purpose for purpose, wanted in asked.items() if wanted and history.kept]


def _place(call: Call, opened: Opened, *, native_when_no_container: bool = False) -> AbstractContextManager[Place]:
    return environment(
        call.console,
        call.environ,
        opened.settings,
        state=opened.folder,
        session=opened.tag,
        requirements=_requirements(opened),
        native_when_no_container=native_when_no_container,
        ask_native=not native_when_no_container,  # the demo's script is our own
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _announce(console: Console, loaded: Loaded, opened: Opened) -> None:
    """The skill's Research Config, with where each value came from."""
    rows = [("branch", f"autoresearch/{opened.tag}", "tag")]
    rows += [row for row in loaded.rows() if row[1] or row[2] != "default"]
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


def _describe(console: Console, place: Place) -> None:
    detected = place.detection
    console.info(f"platform: {place.platform.value} ({detected.name}), executor: {place.kind} ({place.why})")
    for line in place.adjustments.lines():
        console.info(f"  {line}")
    if place.kind == "native":
        console.warning(f"runs are native, no container walls them in; what does: {place.wall}")


def _requirements(opened: Opened) -> bytes | None:
    """The repository's own requirements, as the base commit has them."""
    name = opened.settings.requirements
    if name is None:
        return None
    path = in_repository(opened, name)
    data = opened.workspace.read_base(path)
    if data is None:
        raise SettingsError(f"the base commit has no `{path}`", hint="commit it, or change `requirements`")
    return data


def _files(opened: Opened) -> dict[str, str]:
    """The digest of every file of the base commit but the training script; GitError when they are not the journal's."""
    with opened.workspace.export(opened.workspace.base_commit) as tree:
        files = digests.take(tree, opened.checkout.script)
    session = opened.history.session if opened.history else None
    recorded = session.files_digest if session and session.base_commit == opened.workspace.base_commit else ""
    if recorded and recorded != _digest(files):
        raise GitError(
            "the base commit's files are not those that the session began with",
            hint="the session's clone may be damaged: look at it with `git fsck`, or start with another tag",
        )
    return files


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(digests.write(files)).hexdigest()


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
        device=place.detection.name,
        executor=place.kind,
        adjustments=place.adjustments.variables(),
        settings=settings.texts(),
        repository=opened.forge.repository_url,
        files_digest=before.session.files_digest if before and merging else _digest(files),
        wall=place.wall,
        run_url=opened.run_url,
        started_at=before.session.started_at if before else _now(),
    )
    history = opened.journal.begin(replace(before, session=session) if before else History(session=session))
    if not merging:
        _reconcile(opened, history, {digests.DIGESTS_FILE: digests.write(files)})
    return history


def _merge_base(opened: Opened, new: str) -> str:
    """The commit that brings `new`, the base's, to the session's branch; empty when there is nothing to follow.

    Nothing of it is recorded yet, and no ref moves; but the workspace's base is the new one from here on, since environment and
    plan come from it. GitError when both changed the same lines.
    """
    if not new or opened.history is None:
        return ""
    _reconcile(opened, opened.history, {})  # the tip that is merged must be the journal's
    return opened.workspace.merge_base_in(new, merge_message(opened.history, new))


def _take_in(opened: Opened, runs: Runs, history: History, merge: str, files: Mapping[str, str]) -> History:
    """The history with the base's new commit measured and merged by the commit `merge`; as it was when interrupted."""
    session = replace(history.session, base_commit=opened.workspace.base_commit, files_digest=_digest(files))
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


def _reconcile(opened: Opened, history: History, files: Mapping[str, bytes]) -> None:
    """Refs as the journal says, whatever instant the last process died at; `files` go with it."""
    recorded = opened.journal.all_files() | {"results.tsv": results.write(history).encode()}
    opened.workspace.record(history, recorded | dict(files))
    opened.workspace.push()


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
