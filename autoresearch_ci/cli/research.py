"""`run` and `finalize`: a session from its beginning, or from where it was cut off, to its pull request."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from autoresearch_ci import digests, results
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.conclusion import check, conclude, in_repository, set_outputs
from autoresearch_ci.cli.environment import Place, environment
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.parts import make_loop, make_runs
from autoresearch_ci.cli.proposing import Preparation
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.cli.trigger import check_event, check_trigger
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.conditions import moved
from autoresearch_ci.console import Console
from autoresearch_ci.errors import GitError, MachineError, SettingsError
from autoresearch_ci.experiment import Ending, History, Purpose, Session
from autoresearch_ci.runs import RunRequest
from autoresearch_ci.settings import Loaded, Settings
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
    call.console.mask()
    check_event(call.environ)
    loaded = call.load()
    with (
        Signals() as signals,
        wiring.open_session(call.environ, call.directory, loaded, today=began.date(), starting=True) as opened,
    ):
        check_trigger(call.console, call.environ, opened.forge, opened.checkout.git_dir / "config")
        _announce(call.console, loaded, opened)
        preparation = Preparation(call.environ, opened, signals)
        with _place(call, opened, native_when_no_container=native_when_no_container) as place:
            _describe(call.console, place)
            files = _files(opened)
            history = _begin(opened, place, files)
            if not history.experiments:
                _prepare(call.console, opened, place, signals)
            runs = make_runs(call.console, opened, place, signals, files)
            loop = make_loop(opened, runs, preparation.finish(place), began)
            runs.recall(history)
            history = loop.research(history, moved=moved(history, runs.conditions.fixed))
            if finalize_after and not signals.requested():
                history = check(runs, opened.settings, history, began)
        if signals.requested():
            return _interrupted(call.console, call.environ, opened, history, signals, finalize_after=finalize_after)
        call.console.info(f"stopped: {history.ended}")
        return conclude(call.console, opened, history) if finalize_after else 0


def finalize_session(call: Call) -> int:
    """Verification, report, push and pull request of the session as it is recorded; its exit code."""
    call.console.mask()
    check_event(call.environ)
    began, loaded = _now(), call.load()
    with (
        Signals() as signals,
        wiring.open_session(call.environ, call.directory, loaded, today=began.date(), starting=False) as opened,
    ):
        check_trigger(call.console, call.environ, opened.forge, opened.checkout.git_dir / "config")
        if opened.history is None or not opened.history.experiments:
            raise SettingsError(
                f"the session `{opened.tag}` has no experiment yet", hint="run it first: `autoresearch-ci run`"
            )
        _reconcile(opened, opened.history, {})
        history = _checked(call, opened, opened.history, signals, began)
        if signals.requested():
            opened.workspace.push(now=True)
            return signals.exit_code
        return conclude(call.console, opened, history)


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
        with _place(call, opened) as place:
            _describe(call.console, place)
            runs = make_runs(call.console, opened, place, signals, _files(opened))
            return check(runs, opened.settings, history, began)
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
    if opened.checkout.dirty_script:
        console.warning(f"{opened.checkout.script} has changes that are not committed: the commit's version is used")
    if opened.history is not None:
        done = max(0, len(opened.history.experiments) - 1)
        console.info(f"going on with `{opened.tag}` after {done} experiments")


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
    recorded = opened.history.session.files_digest if opened.history else ""
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
    session = Session(
        tag=opened.tag,
        metric=settings.metric,
        direction=settings.direction,
        training_script=opened.checkout.script,
        base_commit=before.session.base_commit if before else opened.checkout.base_commit,
        base_branch=before.session.base_branch if before else opened.checkout.base_branch,
        time_budget_s=settings.time_budget,
        max_iterations=settings.max_iterations,
        platform=place.platform.value,
        device=place.detection.name,
        executor=place.kind,
        adjustments=place.adjustments.variables(),
        settings=settings.texts(),
        repository=opened.forge.repository_url,
        files_digest=_digest(files),
        wall=place.wall,
        started_at=before.session.started_at if before else _now(),
    )
    history = opened.journal.begin(replace(before, session=session) if before else History(session=session))
    _reconcile(opened, history, {digests.DIGESTS_FILE: digests.write(files)})
    return history


def _reconcile(opened: Opened, history: History, files: Mapping[str, bytes]) -> None:
    """Refs as the journal says, whatever instant the last process died at; `files` go with it."""
    recorded = opened.journal.all_files() | {"results.tsv": results.write(history).encode()}
    opened.workspace.record(history, recorded | dict(files))
    opened.workspace.push()


def _prepare(console: Console, opened: Opened, place: Place, signals: Signals) -> None:
    """The user's `prepare` command, once, before the baseline: the only run with network and a writable cache."""
    command = opened.settings.prepare
    if command is None:
        return
    with console.group("Prepare"), opened.workspace.export(opened.checkout.base_commit) as tree:
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
    console: Console,
    environ: Mapping[str, str],
    opened: Opened,
    history: History,
    signals: Signals,
    *,
    finalize_after: bool,
) -> int:
    """After a signal: everything is on the disk already, so push. Ctrl-C is also how a person ends an open-ended session, and
    then gets the report; in Actions the step under `always()` makes it, for the runner leaves 7.5 s."""
    opened.workspace.push(now=True)
    set_outputs(console, opened, history, None, "interrupted")
    in_actions = environ.get("GITHUB_ACTIONS") == "true"
    if signals.exit_code == 130 and finalize_after and not in_actions and history.experiments:
        console.info("interrupted: reporting; Ctrl-C again to leave at once")
        signals.received = None
        conclude(console, opened, opened.journal.end(history, "stopped by hand"))
        return 130
    console.info("interrupted: everything decided is saved; `autoresearch-ci run` goes on, `finalize` reports")
    return signals.exit_code
