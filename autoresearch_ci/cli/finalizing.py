"""`finalize`: only the end of a session, as often as somebody wants it."""

from __future__ import annotations

import datetime as dt

from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.conclusion import check, conclude, show, verify_again
from autoresearch_ci.cli.opening import measuring, now, opening, reconcile
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.errors import ForgeError, MachineError, SettingsError
from autoresearch_ci.experiment import History, Purpose
from autoresearch_ci.forges.pull_request import PullState
from autoresearch_ci.settings import Settings
from autoresearch_ci.verification import complete


def finalize_session(call: Call, *, measure: bool = True, verify_runs: int = 0) -> int:
    """Verification, report, push and pull request of the session as it is recorded; its exit code.

    `measure` False: nothing is run and no environment built. `verify_runs`: base and best are measured again, so often each,
    whatever was measured before; MachineError when that cannot be done here.
    """
    began = now()
    with Signals() as signals, opening(call, signals) as opened:
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
        reconcile(opened, opened.history, {})
        history, signals.gentle = opened.history, True
        if verify_runs:
            with measuring(call, opened, signals) as runs:
                history = verify_again(runs, history, verify_runs, opened.hours.limit)
        elif measure:
            history = checked(call, opened, history, signals, began)
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


def checked(call: Call, opened: Opened, history: History, signals: Signals, began: dt.datetime) -> History:
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
