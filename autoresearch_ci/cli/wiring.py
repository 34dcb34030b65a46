"""Opens a session from the settings: its repository, its record, its forge, held by this process alone.

PyGithub is imported only when GitHub is the forge: a local session does not wait for it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import platformdirs
from filelock import FileLock, Timeout

from autoresearch_ci import journal
from autoresearch_ci.errors import ForgeError, GitError, MachineError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.local import LocalForge
from autoresearch_ci.forges.pull_request import PullRequest
from autoresearch_ci.journal import Journal
from autoresearch_ci.scrubber import Scrubber, in_git_config
from autoresearch_ci.settings import Loaded, Settings, default_tag
from autoresearch_ci.workspace import Checkout, Remote, Standing, Workspace, find_author, inspect_repository

if TYPE_CHECKING:
    pass


class Forge(Protocol):
    """Where the branch is pushed to, and the pull request made."""

    @property
    def remote_url(self) -> str: ...

    @property
    def repository_url(self) -> str: ...

    @property
    def token(self) -> str: ...

    def default_branch(self) -> str: ...

    def permission(self, user: str) -> str: ...

    def is_public(self) -> bool: ...

    def is_from_fork(self, number: int) -> bool: ...

    def publish(
        self,
        *,
        branch: str,
        base: str,
        title: str,
        body: str,
        draft: bool,
        labels: tuple[str, ...],
        attachments: Mapping[str, bytes | str],
    ) -> PullRequest: ...


@dataclass(slots=True)
class Opened:
    """A session that this process holds: its repository, its record and where it is pushed to."""

    settings: Settings
    checkout: Checkout
    tag: str
    folder: Path
    directory: str
    scrubber: Scrubber
    forge: Forge
    workspace: Workspace
    journal: Journal
    history: History | None


def state_folder(directory: Path, git_dir: Path, state_dir: str | None) -> Path:
    """The folder for all sessions of one repository, wherever in it a command is started."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", git_dir.parent.name if git_dir.name == ".git" else git_dir.name)
    return state_root(directory, state_dir) / f"{name}-{hashlib.sha256(str(git_dir).encode()).hexdigest()[:8]}"


def state_root(directory: Path, state_dir: str | None) -> Path:
    """The folder for everything the program keeps: the setting, else the system's place for it."""
    return directory / Path(state_dir).expanduser() if state_dir else platformdirs.user_state_path("autoresearch_ci")


def choose_forge(environ: Mapping[str, str], settings: Settings, checkout: Checkout, state: Path) -> Forge:
    """GitHub inside Actions or when asked for; else a folder on this machine."""
    in_actions = environ.get("GITHUB_ACTIONS") == "true"
    if settings.forge == "github" or (settings.forge == "auto" and in_actions):
        return _github(environ, checkout)
    return LocalForge(checkout.root, state / "pull-requests", base_branch=checkout.base_branch or "HEAD")


def _github(environ: Mapping[str, str], checkout: Checkout) -> Forge:
    from autoresearch_ci.forges.github import GitHubForge

    return GitHubForge.from_environment(environ, checkout.origin)


@contextmanager
def open_session(
    environ: Mapping[str, str], directory: Path, loaded: Loaded, *, today: dt.date, starting: bool
) -> Iterator[Opened]:
    """The session of the settings' tag, held by this process alone, with what is recorded of it here and on the remote.

    `starting`: a tag that is not set is the date's, and `resume` is obeyed; else it is the repository's latest session.
    """
    settings = loaded.settings
    checkout = inspect_repository(directory, settings.training_script)
    state = state_folder(directory, checkout.git_dir, settings.state_dir)
    tag = settings.tag or (default_tag(today) if starting else latest_tag(state))
    folder = state / tag
    with _lock(folder, tag):
        forge = choose_forge(environ, settings, checkout, state)
        keys = (environ.get(name, "") for name in (settings.key_variable, *settings.agent_env))
        scrubber = Scrubber.of(environ, forge.token, *keys, *in_git_config(_git_config(checkout)))
        workspace = Workspace.open(
            folder,
            checkout,
            tag=tag,
            remote=Remote(url=forge.remote_url, token=forge.token),
            author=find_author(checkout, environ),
            scrubber=scrubber,
        )
        record = Journal(folder, scrubber)
        history = _recorded(workspace, record)
        if history is not None and not history.experiments:
            history = None  # not even a baseline: nothing that a new try would have to agree with
        if starting:
            _obey_resume(settings, tag, history)
            (state / "latest").write_text(tag, encoding="utf-8")
        if history is not None:
            _check_same(settings, checkout, history)
            workspace.use_base(history.session.base_commit)
        where = Path(os.path.relpath(os.path.realpath(directory), checkout.root)).as_posix()
        yield Opened(settings, checkout, tag, folder, where, scrubber, forge, workspace, record, history)


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


def latest_tag(state: Path) -> str:
    """The tag of the session that was started last in this repository."""
    try:
        return (state / "latest").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            "no session was started from this repository here",
            hint="`autoresearch-ci run` starts one; `--tag` names another",
        ) from error


def recorded(environ: Mapping[str, str], directory: Path, values: Mapping[str, Any]) -> tuple[History, Journal] | None:
    """The session that is recorded on this machine for looking at it, without holding it; None when there is none.

    A session known only to the remote is read from its refs.
    """
    try:
        checkout = inspect_repository(directory, str(values.get("training-script") or "train.py"))
    except (GitError, SettingsError):
        return None  # a folder with nothing but a results.tsv can be reported on, too
    state = state_folder(directory, checkout.git_dir, values.get("state-dir"))
    tag = str(values.get("tag") or "")
    if not tag:
        if not (state / "latest").is_file():
            return None
        tag = latest_tag(state)
    record = Journal(state / tag)
    data = record.load() or _remote_record(environ, checkout, tag, values)
    if not data:
        return None
    try:
        return journal.parse(data), record
    except ValueError as error:
        raise GitError(f"the session's journal cannot be read: {error}", hint="was it edited?") from error


def _remote_record(environ: Mapping[str, str], checkout: Checkout, tag: str, values: Mapping[str, Any]) -> bytes:
    """The record of a session that another machine ran, read from the remote through a clone that is thrown away."""
    forge: Forge = LocalForge(checkout.root, checkout.root)
    if values.get("forge") != "local" and checkout.origin:
        try:
            forge = _github(environ, checkout)
        except (ForgeError, SettingsError):
            return b""  # without a token only what is here can be looked at
    with tempfile.TemporaryDirectory(prefix="autoresearch-status-") as folder:
        workspace = Workspace.open(
            Path(folder),
            checkout,
            tag=tag,
            remote=Remote(url=forge.remote_url, token=forge.token),
            author=find_author(checkout, environ),
        )
        if workspace.compare() is not Standing.BEHIND:
            return b""
        workspace.adopt_remote()
        return journal.join_segments(workspace.journal_files("journal"))
