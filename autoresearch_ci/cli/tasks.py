"""`task`: one thing that was asked for, from a shell or by a dispatch; when a comment asked, the outcome is told where it stands."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, assert_never

from autoresearch_ci import settings
from autoresearch_ci.cli.comments import Place, answer_comment, counted, decide
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.trigger import check_event
from autoresearch_ci.errors import AutoresearchError, ForgeError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.report.chart import headline
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.report.markdown import table as markdown_table
from autoresearch_ci.scrubber import Scrubber
from autoresearch_ci.tasks import COMMENT, Kind, Task, parse

if TYPE_CHECKING:
    from autoresearch_ci.forges.github import GitHubForge

VARIABLE: Final = "AUTORESEARCH_TASK"
MAX_TOLD: Final = 600  # characters of an outcome or an error in a comment
MAX_CONFIG: Final = 60_000
# What a session's later runs must have as its first: where nobody says otherwise now, it is as recorded.
FIXED: Final = ("metric", "direction", "time-budget", "training-script")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task, in one line of Markdown, and the exit code."""

    code: int
    told: str


def run_task(call: Call, words: Sequence[str]) -> int:
    """Does what the words, or else AUTORESEARCH_TASK, ask for; its exit code. SettingsError for what cannot be understood."""
    text = " ".join(words).strip() or call.environ.get(VARIABLE, "").strip()
    call.console.mask()
    check_event(call.environ)
    if text == COMMENT:
        forge = _github(call)
        return answer_comment(call.console, call.environ, forge, _sessions(forge))
    task = parse(text)
    if task.answer_to is None:
        return _perform(call, task).code
    forge = _github(call)
    try:
        outcome = _perform(call, task)
    except AutoresearchError as error:
        hint = f" ({cell(error.hint, MAX_TOLD)})" if error.hint else ""
        _tell(call, forge, task, f"failed: {cell(error.message, MAX_TOLD)}{hint}")
        raise
    if outcome.code == 0:  # after a signal there is no time for it: the report follows
        _tell(call, forge, task, f"done: {outcome.told}")
    return outcome.code


def _tell(call: Call, forge: GitHubForge, task: Task, said: str) -> None:
    """Tells the outcome on the pull request; what was done stays done when that is not possible."""
    run = call.environ.get("GITHUB_RUN_ID", "")
    page = f" ([run]({forge.repository_url}/actions/runs/{run}))" if run.isdecimal() else ""
    text = f"`{replace(task, answer_to=None).text}`{page} {said}"
    try:
        forge.comment(task.answer_to or 0, call.console.scrubber.scrub(text))
    except ForgeError as error:
        call.console.warning(f"the outcome could not be told on #{task.answer_to}: {error.message}")


def _perform(call: Call, task: Task) -> Outcome:
    match task.kind:
        case Kind.CONFIG:
            return _show_config(call)
        case Kind.STOP | Kind.MERGE:
            return _decided(call, task)
        case Kind.CONTINUE:
            return _continue(as_recorded(call), task.count)
        case Kind.VERIFY:
            return _finalize(as_recorded(call), verify_runs=task.count)
        case Kind.REPORT:
            return _finalize(as_recorded(call), measure=False)
        case Kind.DROP:
            from autoresearch_ci.cli.dropping import drop_commits

            dropped = drop_commits(as_recorded(call), task.commits)
            link = f", {dropped.pull.url}" if dropped.pull and dropped.pull.url else ""
            return Outcome(dropped.exit_code, f"`{dropped.branch}`, {cell(dropped.facts, MAX_TOLD)}{link}")
        case _:
            assert_never(task.kind)


def as_recorded(call: Call) -> Call:
    """The call about the session that it names, or the latest: what is fixed in a session is as it was recorded.

    A dispatch of a task brings a tag and no more, and the settings file may not have what the session's own dispatch gave. What the
    environment or a flag says stays, and is refused later when the session began with something else.
    """
    from autoresearch_ci.cli.record import recorded

    check_event(call.environ)  # before anything of the checkout is read
    values = call.values()
    found = recorded(call.environ, call.directory, values)
    if found is None:
        return call
    session = found[0].session
    known = {**settings.read_environment(call.environ), **call.given()}
    then = {**session.settings, "metric": session.metric, "direction": session.direction.value}
    if session.time_budget_s is not None:
        then["time-budget"] = f"{session.time_budget_s:g}"
    fixed = {name.replace("-", "_"): then[name] for name in FIXED if name in then and name not in known}
    return _with(call, tag=session.tag, **fixed)


def _with(call: Call, **flags: Any) -> Call:
    return replace(call, flags={**call.flags, **flags})


def _continue(call: Call, count: int) -> Outcome:
    """So many more experiments of a session that is there already, whatever made it stop by its number or for lack of patience."""
    from autoresearch_ci.cli.research import run_session

    tag, done, kept = _so_far(call)
    most, never = str(done + count), str(done + count + 1)
    more = _with(call, tag=tag, resume="require", max_iterations=most, patience=never, max_crashes=never)
    code = run_session(more, finalize_after=True)
    after = _recorded(more)
    made = len(after.tried) - done
    why = f" It ended: {after.ended}." if made < count and after.ended else ""
    told = f"{counted(made, 'more experiment')}, {len(after.kept) - kept} of them kept.{why} {headline(after)}"
    return Outcome(code, cell(told, MAX_TOLD))


def _finalize(call: Call, *, measure: bool = True, verify_runs: int = 0) -> Outcome:
    from autoresearch_ci.cli.finalizing import finalize_session

    code = finalize_session(call, measure=measure, verify_runs=verify_runs)
    return Outcome(code, cell(headline(_recorded(call)), MAX_TOLD))


def _so_far(call: Call) -> tuple[str, int, int]:
    """The session's tag, how many experiments it has after the baseline, and how many of them it kept, here or on the remote."""
    from autoresearch_ci.cli import wiring

    today = dt.datetime.now(dt.UTC).date()
    with wiring.open_session(call.environ, call.directory, call.load(), today=today, starting=False) as opened:
        if opened.history is None:
            raise _nothing(opened.tag)
        return opened.tag, len(opened.history.tried), len(opened.history.kept)


def _recorded(call: Call) -> History:
    """The session as it is recorded on this machine, where it just was at work."""
    from autoresearch_ci.cli.record import recorded

    found = recorded(call.environ, call.directory, call.values())
    if found is None:
        raise _nothing(str(call.values().get("tag") or ""))
    return found[0]


def _nothing(tag: str) -> SettingsError:
    return SettingsError(f"the session `{tag}` has no experiment yet", hint="run it first: `autoresearch-ci run`")


def _decided(call: Call, task: Task) -> Outcome:
    """`stop` and `merge`, by GitHub: of the session's run and of its pull request."""
    forge = _github(call)
    found, sessions = as_recorded(call), _sessions(forge)
    tag = str(found.values().get("tag") or "")
    if not tag:
        raise SettingsError("it is not known which session is meant", hint="name it with `--tag`")
    place = Place(0, tag, "", is_open=False)
    if task.kind is Kind.MERGE:
        branch = f"autoresearch/{tag}"
        standing = forge.standing(branch)
        if standing.number is None:
            raise SettingsError(f"`{branch}` has no pull request", hint="`autoresearch-ci finalize` makes it")
        place = Place(standing.number, tag, forge.pull_head(standing.number)[1], standing.state.value == "open")
    said = decide(call.environ, forge, sessions, task, place).text
    call.console.info(said)
    return Outcome(0, said)


def _github(call: Call) -> GitHubForge:
    """GitHub, for what only it can do; SettingsError where none is known."""
    from autoresearch_ci.forges.github import GitHubForge
    from autoresearch_ci.workspace import inspect_repository

    origin = ""
    if not call.environ.get("GITHUB_REPOSITORY"):
        script = str(call.values().get("training-script") or "train.py")
        origin = inspect_repository(call.directory, script).origin
    forge = GitHubForge.from_environment(call.environ, origin)
    call.console.scrubber = Scrubber.of(call.environ, *forge.secrets())
    return forge


def _sessions(forge: GitHubForge) -> Callable[[str], History | None]:
    from autoresearch_ci.cli.reading import read_remote
    from autoresearch_ci.workspace import Remote

    return lambda tag: read_remote(Remote(url=forge.remote_url, token=lambda: forge.token), tag)


def _show_config(call: Call) -> Outcome:
    """The Research Config, and what can be said of the machine without building anything, in the log and in the step's summary."""
    loaded = call.load()
    rows = [row for row in loaded.rows() if row[1] or row[2] != "default"]
    rows.append(("this machine", _machine(), "looked at, nothing was built"))
    call.console.table("AutoResearch Config", ("Parameter", "Value", "From"), rows)
    cells = [tuple(cell(text) for text in row) for row in rows]
    lines = markdown_table(("Parameter", "Value", "From"), cells, MAX_CONFIG, "the log")
    call.console.step_summary("\n".join(["# AutoResearch Config", "", *lines, ""]))
    return Outcome(0, "the Research Config is in the run's summary and log")


def _machine() -> str:
    from autoresearch_ci.conditions import Cards

    cards = Cards.of_this_machine()
    gpu = f"NVIDIA driver {cards.driver}" if cards else "no NVIDIA driver"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {'Apple GPU' if sys.platform == 'darwin' else gpu}"
