"""Runs git, and says in our words what went wrong."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from autoresearch_ci.errors import AutoresearchError, GitError, MachineError
from autoresearch_ci.scrubber import NAMES

try:
    import git
except ImportError as error:  # GitPython looks for the executable when it is imported
    raise GitError("git is not installed", hint="install git 2.38 or newer and make sure that it is on PATH") from error

_DISK_TROUBLE = (
    "No space left on device",
    "Read-only file system",
    "Disk quota exceeded",
    "Input/output error",
    "unable to write file",
    "couldn't write",
)
_DISK_CODES = (
    errno.ENOSPC,
    errno.EROFS,
    errno.EDQUOT,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENOTDIR,
)
_MAX_MESSAGE = 300
_FULL = 64 * 1024  # bytes: less than git needs for anything
_LOOK_S = 0.2  # how often a child that takes long is looked after
_LAST_BREATH_S = 1.0  # for the pipes of a killed child to close, and for its helpers to be gone
_BREATH_S = 0.01
# For work in the user's own repository: a native training script could have planted a hook or a monitor there.
NO_HOOKS = {
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "core.hooksPath",
    "GIT_CONFIG_VALUE_0": os.devnull,
    "GIT_CONFIG_KEY_1": "core.fsmonitor",
    "GIT_CONFIG_VALUE_1": "false",
}


@dataclass(frozen=True, slots=True)
class Output:
    """What a git command answered. `code` is 124 when it ran past its time limit and was killed."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace").strip()

    @property
    def complaint(self) -> str:
        """The one line of stderr that says most: the last `fatal:` or `error:`, else the last line."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
        return telling[-1][:_MAX_MESSAGE] if telling else f"git ended with exit code {self.code}"


class Git:
    """git in one folder with one environment; every call has a time limit.

    Each child gets its own process group, so that Ctrl-C in a terminal never stops git between two refs. It stays in our
    session: that is how an executor tells it from what a run has left (see `ProcessTree`).
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self._git = git.Git(str(folder))
        self._variables = dict(variables)

    def run(
        self,
        *arguments: str,
        data: bytes = b"",
        variables: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        give_up: Callable[[], str] = lambda: "",
    ) -> Output:
        """The command's output, whatever its exit code. GitError when there is no git.

        `give_up` is asked several times a second: when it answers why, the command is ended at once, as it is after `timeout_s`.
        """
        with storage(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as source:
            source.write(data)
            source.seek(0)
            try:
                # The handle kills the process when it goes out of scope, so it is held until the end.
                handle = self._git.execute(
                    ["git", *arguments],
                    istream=source.fileno(),
                    as_process=True,
                    env={**_no_secrets(), **self._variables, **(variables or {})},
                    process_group=0,
                )
            except git.GitCommandNotFound as error:
                raise GitError("git is not installed", hint="install git and make sure that it is on PATH") from error
            return _wait(handle.proc, timeout_s, give_up)

    def read(self, *arguments: str, data: bytes = b"", variables: Mapping[str, str] | None = None) -> Output:
        """The command's output; GitError (or MachineError, when the disk is the reason) when it fails."""
        output = self.run(*arguments, data=data, variables=variables)
        if output.code:
            raise failure(output, f"git {arguments[0]} failed", self.folder)
        return output

    def leads_to(self, old: str | None, new: str | None) -> bool:
        """Whether a ref could go from `old` to `new` by a fast-forward; not where one of the commits is not here."""
        if not old or old == new:
            return True
        return bool(new) and self.run("merge-base", "--is-ancestor", old, str(new)).code == 0


def failure(output: Output, what: str, folder: Path) -> AutoresearchError:
    """The error for a failed command: `what`, and git's own complaint."""
    if any(sign in output.err for sign in _DISK_TROUBLE) or "Permission denied" in output.complaint:
        # git does not always pass on why a file could not be written.
        full = shutil.disk_usage(folder).free < _FULL
        return MachineError(
            f"cannot write to {folder}: {'the disk is full' if full else output.complaint}",
            hint="free some disk space, or make the folder writable",
        )
    return GitError(f"{what}: {output.complaint}", hint=f"look at it with `git -C {folder} fsck`")


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Turns "the disk is full, read-only or not ours" into a MachineError; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_CODES:
            raise
        raise MachineError(
            f"cannot write to {error.filename or folder}: {error.strerror}",
            hint="free some disk space, or make the folder writable",
        ) from error


def _no_secrets() -> dict[str, str]:
    """Our own secrets, empty: GitPython hands on the whole environment, and a run without a wall can read that of a child."""
    return {name: "" for name in os.environ if NAMES.fullmatch(name)}


def _wait(child: Any, timeout_s: float, give_up: Callable[[], str]) -> Output:
    """What the child said until its end, or until it was ended. It is waited for in small steps, in this very thread: one
    that only watched could keep the program from ending."""
    ends = time.monotonic() + timeout_s
    why = ""
    while not why:
        try:
            out, err = child.communicate(timeout=min(_LOOK_S, max(ends - time.monotonic(), 0.0)))
        except TimeoutExpired:
            why = give_up() or (f"timed out after {timeout_s:g} s" if time.monotonic() >= ends else "")
        else:
            return Output(child.returncode, out, err.decode("utf-8", "replace"))
    _kill(child.pid)
    try:
        out, err = child.communicate(timeout=_LAST_BREATH_S)
    except TimeoutExpired:  # something outside its group holds the pipes open
        return Output(124, b"", f"fatal: {why}")
    _reap_helpers(child.pid)
    if child.returncode == 0:  # it ended by itself in this very moment
        return Output(0, out, err.decode("utf-8", "replace"))
    return Output(124, out, f"fatal: {why}")


def _kill(pid: int) -> None:
    try:
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)  # with its helpers, such as git-remote-https, which hold our pipes open
    except ProcessLookupError:
        pass  # it ended by itself in this very moment


def _reap_helpers(group: int) -> None:
    """Waits for the helpers of a killed git, which are ours to wait for where a native run made us adopt orphans."""
    if sys.platform == "win32":
        return
    ends = time.monotonic() + _LAST_BREATH_S
    with suppress(ChildProcessError):  # none, or none is left
        while time.monotonic() < ends:
            if os.waitpid(-group, os.WNOHANG) == (0, 0):  # killed, but not gone yet
                time.sleep(_BREATH_S)
