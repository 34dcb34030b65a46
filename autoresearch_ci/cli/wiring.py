"""Opens a session from the settings: its repository, its record, its forge, held by this process alone."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

import platformdirs
from filelock import FileLock, Timeout

from autoresearch_ci import journal
from autoresearch_ci.cli import tags
from autoresearch_ci.cli.forge import Forge, choose_forge
from autoresearch_ci.cli.hours import Hours, hours
from autoresearch_ci.errors import ForgeError, GitError, MachineError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.pull_request import PullStanding, PullState
from autoresearch_ci.journal import Journal
from autoresearch_ci.scrubber import Scrubber, in_git_config
from autoresearch_ci.settings import Loaded, Settings
from autoresearch_ci.workspace import (
    Checkout,
    Remote,
    Standing,
    Workspace,
    find_author,
    inspect_repository,
)


@dataclass(slots=True)
class Opened:
    """A session that this process holds: its repository, its record and where it is pushed to.

    `standing`: how its pull request stands at the start, where that matters: when a session is to begin or to go on. `hours`: how
    long this process may go on. `run_url`: the page of the job it runs in, empty outside one.
    """

    loaded: Loaded
    checkout: Checkout
    tag: str
    folder: Path
    directory: str
    scrubber: Scrubber
    forge: Forge
    remote: Remote
    workspace: Workspace
    journal: Journal
    history: History | None
    standing: PullStanding
    hours: Hours
    run_url: str
    running_in: str = ""
    warning: str = ""
    _target: str = ""

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def target(self, patience_s: float | None = None) -> str:
        """The branch that the pull request goes to; the forge is asked once. Raises ForgeError."""
        if not self._target:
            forge = self.forge if patience_s is None else self.forge.within(patience_s)
            self._target = self.settings.base or forge.default_branch()
        return self._target


def state_folder(directory: Path, git_dir: Path, state_dir: str | None) -> Path:
    """The folder for all sessions of one repository, wherever in it a command is started."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", git_dir.parent.name if git_dir.name == ".git" else git_dir.name)
    return state_root(directory, state_dir) / f"{name}-{hashlib.sha256(str(git_dir).encode()).hexdigest()[:8]}"


def state_root(directory: Path, state_dir: str | None) -> Path:
    """The folder for everything the program keeps: the setting, else the system's place for it."""
    return directory / Path(state_dir).expanduser() if state_dir else platformdirs.user_state_path("autoresearch_ci")


@contextmanager
def open_session(
    environ: Mapping[str, str], directory: Path, loaded: Loaded, *, today: dt.date, starting: bool
) -> Iterator[Opened]:
    """The session of the settings' tag, held by this process alone, with what is recorded of it here and on the remote.

    `starting`: a tag that is not set is the date's, and `resume` is obeyed; else it is the repository's latest session. Once a
    session's pull request was merged, its next generation begins.
    """
    settings = loaded.settings
    checkout = inspect_repository(directory, settings.training_script)
    state = state_folder(directory, checkout.git_dir, settings.state_dir)
    forge = choose_forge(environ, settings, checkout, state)
    keys = (environ.get(name, "") for name in (settings.key_variable, *settings.agent_env))
    scrubber = Scrubber.of(environ, *forge.secrets(), *keys, *in_git_config(_git_config(checkout)))

    def token() -> str:
        scrubber.learn(current := forge.token)  # an App's changes every hour
        return current

    remote = Remote(url=forge.remote_url, token=token)
    tag, standing, warning = _tag(settings, today, starting, state, forge, remote)
    folder = state / tag
    with _lock(folder, tag):
        workspace = Workspace.open(
            folder,
            checkout,
            tag=tag,
            remote=remote,
            author=find_author(checkout, environ),
            scrubber=scrubber,
        )
        record = Journal(folder, scrubber)
        history = _recorded(workspace, record)
        if history is not None and not history.experiments:
            history = None  # not even a baseline: nothing that a new try would have to agree with
        running_in = _running_in(environ, forge, history)
        if starting:
            refuse_two(tag, running_in)
            _obey_resume(settings, tag, history)
            (state / tags.LATEST).write_text(tag, encoding="utf-8")
        if history is not None:
            _check_same(settings, checkout, history)
            workspace.use_base(history.session.base_commit)
        where = Path(os.path.relpath(os.path.realpath(directory), checkout.root)).as_posix()
        try:
            yield Opened(
                loaded=loaded,
                checkout=checkout,
                tag=tag,
                folder=folder,
                directory=where,
                scrubber=scrubber,
                forge=forge,
                remote=remote,
                workspace=workspace,
                journal=record,
                history=history,
                standing=standing,
                hours=hours(settings, forge.token_hours),
                run_url=_run_url(environ, forge),
                running_in=running_in,
                warning=warning,
            )
        finally:
            workspace.close()


def _tag(
    settings: Settings, today: dt.date, starting: bool, state: Path, forge: Forge, remote: Remote
) -> tuple[str, PullStanding, str]:
    """The tag, how its pull request stands, and a warning where GitHub cannot say: no night is lost for that."""
    latest, unknown = partial(tags.latest_tag, state, remote), PullStanding(state=PullState.NONE)
    if not starting:
        return tags.recorded_tag(settings.tag, latest), unknown, ""
    tag = tags.starting_tag(settings, today, latest)
    try:
        match settings.resume:
            case "never":  # the tag is new: there is nothing to ask about
                return tag, unknown, ""
            case "require":
                return tag, forge.standing(f"autoresearch/{tag}"), ""
            case "auto":
                return *tags.generation(tag, forge.standing, remote), ""
            case other:
                assert_never(other)
    except ForgeError as error:
        return tag, unknown, f"it could not be seen how the pull request of `{tag}` stands: {error.message}"


def refuse_two(tag: str, running_in: str) -> None:
    """GitError when the session goes on in another job: what both decided could not be put together."""
    if running_in:
        raise GitError(
            f"the session `{tag}` is running already, in {running_in}",
            hint="wait for its end, or stop it there; another `tag` can run beside it",
        )


def _running_in(environ: Mapping[str, str], forge: Forge, history: History | None) -> str:
    """The page of the job, other than this one, that is at work on the session; empty when there is none, or GitHub cannot say."""
    url = history.session.run_url if history is not None and not history.ended else ""
    number = url.removeprefix(f"{forge.repository_url}/actions/runs/")
    if not number.isdecimal() or number == environ.get("GITHUB_RUN_ID"):
        return ""
    try:
        return "" if forge.run_status(int(number)) == "completed" else url
    except ForgeError:  # the job may lack `actions: read`; the remote refuses what would be lost
        return ""


def _run_url(environ: Mapping[str, str], forge: Forge) -> str:
    number = environ.get("GITHUB_RUN_ID", "")
    return f"{forge.repository_url}/actions/runs/{number}" if number.isdecimal() and forge.repository_url else ""


def _git_config(checkout: Checkout) -> str:
    try:
        return (checkout.git_dir / "config").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def _lock(folder: Path, tag: str) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise GitError(
            f"the session `{tag}` is running already, in another process",
            hint="`autoresearch-ci status` shows it; another `tag` can run beside it",
        ) from error
    except OSError as error:
        raise MachineError(
            f"cannot write to the state folder {folder}: {error.strerror or error}",
            hint="point `state-dir` at a folder that can be written",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _recorded(workspace: Workspace, record: Journal) -> History | None:
    """What is known of the session here and on the remote, whichever is further; None for a new one."""
    local = record.load()
    standing = workspace.compare()
    if standing is Standing.UNKNOWN and not local:
        raise GitError("the remote cannot be reached", hint="check the network and the address of the remote")
    if standing is Standing.BEHIND:
        workspace.adopt_remote()
    data = journal.newest(local, journal.join_segments(workspace.journal_files("journal")))
    if not data:
        return None
    record.restore(data)
    try:
        return journal.parse(data)
    except ValueError as error:
        raise GitError(
            f"the session's journal cannot be read: {error}", hint="start with another tag, or restore the journal"
        ) from error


def _obey_resume(settings: Settings, tag: str, history: History | None) -> None:
    if settings.resume == "never" and history is not None:
        raise SettingsError(f"the tag `{tag}` is taken, and `resume` is `never`", hint="choose another `tag`")
    if settings.resume == "require" and history is None:
        raise SettingsError(f"there is no session `{tag}` to resume", hint="check `tag`, or set `resume` to `auto`")


def _check_same(settings: Settings, checkout: Checkout, history: History) -> None:
    """A session has one metric, one direction and one script; readings of others cannot be compared."""
    session = history.session
    for name, now, then in (
        ("metric", settings.metric, session.metric),
        ("direction", settings.direction, session.direction),
        ("training-script", checkout.script, session.training_script),
        ("time-budget", settings.time_budget, session.time_budget_s),
    ):
        if now != then:
            raise SettingsError(
                f"`{name}` is {now}, but the session `{session.tag}` began with {then}",
                hint="its results could not be compared: set it back, or choose another `tag`",
            )
