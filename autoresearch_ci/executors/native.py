"""Runs as processes of this machine: for Apple Silicon, whose GPU no container can see, and where there is no engine.

There is no wall here. The export's files are read-only and the environment is explicit, but a script runs with the
rights of the user: it can undo the one, read and write what the user can (the cache too), and use the network. What
holds: the processes that a run started are gone when it is over, its log and its memory are bounded, and its scratch is
removed.
"""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.environment import NETWORK_VARIABLES, ask, run_variables, taken_from_here
from autoresearch_ci.executors.log import DEFAULT_CAP_BYTES, CappedLog
from autoresearch_ci.executors.outputs import from_folder
from autoresearch_ci.executors.process_tree import KILL_TIMEOUT_S, MARKER, ProcessTree, adopt_orphans, kill_marked
from autoresearch_ci.experiment import Ending, Run

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt, RunRequest

GRACE_S: Final = 10.0  # from SIGTERM to SIGKILL
TICK_S: Final = 0.1  # between two looks at the clock, the interrupt and the memory
FIRST_TICK_S: Final = 0.01  # a run of a moment has a memory too
WATCHING_SHARE: Final = 0.02  # of the time: where looking at the tree is slow, it is done less often
DRAIN_S: Final = 2.0  # for the rest of the output, once every process that can be found is gone


class NativeExecutor:
    """Where runs happen: one process tree for each, killed on every path.

    A context manager: entering kills and removes what a session that died left in `scratch`, which must be this
    session's alone. `cache`: the data cache. `memory`: bytes that a run's tree may use together. `python`: the
    interpreter of the environment that trains; its folder comes first on the PATH.
    """

    def __init__(
        self,
        *,
        scratch: Path,
        cache: Path | None,
        memory: int | None,
        python: Path,
        log_cap_bytes: int = DEFAULT_CAP_BYTES,
    ) -> None:
        self._scratch = scratch.absolute()
        self._cache = cache
        self._memory_bytes = memory
        self._python = python
        self._log_cap_bytes = log_cap_bytes
        self._adopting = False

    def __enter__(self) -> Self:
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            left = list(self._scratch.iterdir())
        except OSError as error:
            raise MachineError(
                f"the scratch folder {self._scratch} cannot be used: {error.strerror}",
                hint="point `state-dir` at a folder that can be written",
            ) from error
        if left:
            kill_marked(str(self._scratch))
        for folder in left:
            _remove(folder)
        self._adopting = adopt_orphans(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        adopt_orphans(False)

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run and waits for its end; a crash is a value. SettingsError when `command` is no program."""
        return self._run(request, interrupt, {})

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Runs the user's `prepare` command: as a run, and with the proxies and certificates that the user has set."""
        return self._run(request, interrupt, taken_from_here(NETWORK_VARIABLES))

    def probe(self, script: str) -> str:
        """Runs a Python program as a run would be and returns what it prints on stdout; MachineError when it fails."""
        with self._folder("probe") as folder:
            return ask(self._python, script, run_variables(folder, self._python, self._cache))

    def _run(self, request: RunRequest, interrupt: Interrupt, variables: Mapping[str, str]) -> Run:
        with self._folder(request.name) as folder, CappedLog(request.log, self._log_cap_bytes) as log:
            variables = {**variables, **request.variables, **run_variables(folder, self._python, self._cache)}
            if request.given is not None:
                _give(request.given, Path(variables[MARKER]))
            arguments = self._arguments(request, variables["PATH"])
            _protect(request.tree)
            tree = ProcessTree(variables[MARKER], adopting=self._adopting)
            cpu_s, started = _children_cpu_s(), time.monotonic()
            process = _start(arguments, request.tree / request.directory, variables)
            tree.root = process.pid
            assert process.stdout is not None
            output = _Output(process.stdout)
            watch = _Watch(process, tree, output, log.write, interrupt, started + request.timeout_s, self._memory_bytes)
            try:
                ending = watch.until_the_end()
                wall_s = time.monotonic() - started
            finally:
                tree.kill()
                _reap(process)
                output.drain(log.write)
            if request.outputs is not None and ending is not Ending.INTERRUPTED:  # nobody waits for anything then
                note = from_folder(Path(variables[MARKER]), request.outputs)
                if note:
                    log.write(f"\n[outputs: {note}]\n".encode())
        return Run(
            ending=ending,
            exit_code=process.returncode if ending is Ending.EXITED else None,
            wall_s=wall_s,
            peak_memory_mb=watch.peak_bytes / 2**20 if watch.peak_bytes else None,
            cpu_s=None if cpu_s is None else (_children_cpu_s() or 0.0) - cpu_s,
        )

    def _arguments(self, request: RunRequest, path: str) -> list[str]:
        """The words of the command, the first one as a program's path. Quotes are a POSIX shell's on every system."""
        try:
            words = shlex.split(request.command)
        except ValueError as error:
            raise SettingsError(f"`command` cannot be split into words: {error}", hint="check its quotes") from error
        if not words:
            raise SettingsError("`command` is empty", hint="the default is `python {training-script}`")
        if words[0] in ("python", "python3"):
            return [str(self._python), *words[1:]]
        program = words[0]
        if os.path.dirname(program):  # noqa: PTH120 - Path("./run.sh") forgets the dot
            program = str(request.tree / request.directory / program)
        found = shutil.which(program, path=path)
        if found is None:
            raise SettingsError(
                f"`command` starts `{words[0]}`, which is no program here", hint="install it or set `command`"
            )
        return [found, *words[1:]]

    @contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        """A scratch folder of its own for one run, removed at the end."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._scratch))
        except OSError as error:
            message = f"no scratch folder can be made: {error.strerror}"
            raise MachineError(message, hint="make room on the disk") from error
        try:
            yield folder
        finally:
            _remove(folder)


def _children_cpu_s() -> float | None:
    """CPU seconds of all our children that have ended: a run's difference is its own, and some milliseconds of git beside it."""
    if sys.platform != "win32":
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    return None


def _start(arguments: list[str], directory: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    flags: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        return subprocess.Popen(
            arguments,
            bufsize=0,
            cwd=directory,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **flags,
        )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"`command` cannot be started: {getattr(error, 'strerror', None) or error}", hint="check `command`"
        ) from error


class _Output:
    """The output of a process, in portions, never waiting for good: a daemon may hold the pipe open after the end."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.open = True
        self._portions: queue.Queue[bytes] = queue.Queue(maxsize=64)
        self._unwanted = threading.Event()
        threading.Thread(target=self._read, args=(pipe,), name="output of a run", daemon=True).start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while not self._unwanted.is_set() and (portion := pipe.read(65_536)):
                self._portions.put(portion)
        self._portions.put(b"")

    def next(self, timeout_s: float) -> bytes:
        """The next portion; empty when none came in `timeout_s`, or when the output is over (`open` is then False)."""
        try:
            portion = self._portions.get(timeout=timeout_s)
        except queue.Empty:
            return b""
        self.open = bool(portion)
        return portion

    def drain(self, write: Callable[[bytes], None]) -> None:
        """Writes what is left, for DRAIN_S at most: who holds the pipe longer cannot be found and is not waited for."""
        deadline = time.monotonic() + DRAIN_S
        try:
            while self.open and time.monotonic() < deadline:
                write(self.next(TICK_S))
        finally:
            self._unwanted.set()
            with suppress(queue.Empty):
                while True:  # makes room for the reader's last portion and its end
                    self._portions.get_nowait()


@dataclass(slots=True)
class _Watch:
    """What is looked at while a run is on, and what came of it."""

    process: subprocess.Popen[bytes]
    tree: ProcessTree
    output: _Output
    write: Callable[[bytes], None]
    interrupt: Interrupt
    deadline: float
    limit_bytes: int | None
    peak_bytes: int = 0
    measure_at: float = 0.0

    def until_the_end(self) -> Ending:
        """Waits until the run has ended, or must be killed. Terminates it at the deadline and gives it GRACE_S."""
        ending, tick_s, look_at = Ending.EXITED, FIRST_TICK_S, time.monotonic()
        # At the timeout a wrapper may die at once, while the training it started still writes its last numbers.
        while self.process.poll() is None or (ending is Ending.TIMEOUT and self.tree.alive()):
            self._wait(tick_s)
            now = time.monotonic()
            if now < look_at:
                continue
            if self.interrupt.requested():
                return Ending.INTERRUPTED
            if self._too_much_memory(now):
                return Ending.OUT_OF_MEMORY
            if now >= self.deadline:
                if ending is Ending.TIMEOUT:
                    return ending
                ending, self.deadline = Ending.TIMEOUT, now + GRACE_S
                self.tree.terminate()
            tick_s = min(2 * tick_s, TICK_S)
            look_at = now + tick_s
        return ending

    def _wait(self, timeout_s: float) -> None:
        """For output, or else for the end: both are seen at once, no run ends later because it was watched."""
        if self.output.open:
            self.write(self.output.next(timeout_s))
        elif self.process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        else:
            time.sleep(timeout_s)

    def _too_much_memory(self, now: float) -> bool:
        if now < self.measure_at:
            return False
        used = self.tree.memory_bytes()
        self.measure_at = now + (time.monotonic() - now) / WATCHING_SHARE
        self.peak_bytes = max(self.peak_bytes, used)
        return self.limit_bytes is not None and used > self.limit_bytes


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            "a killed run does not end", hint="a process may hang in a driver; the machine may need a restart"
        ) from error


def _give(given: Path, outputs: Path) -> None:
    """Fills a run's outputs folder with a copy that it is not meant to change."""
    try:
        shutil.copytree(given, outputs, dirs_exist_ok=True)
        for path in (*outputs.rglob("*"), outputs):
            path.chmod(0o555 if path.is_dir() else 0o444)
    except OSError as error:
        message = f"a run's outputs cannot be copied: {error.strerror or error}"
        raise MachineError(message, hint="make room on the disk") from error


def _protect(tree: Path) -> None:
    """Takes the right to write from the export's files, so that no script spoils its evaluation by mistake."""
    if sys.platform == "win32":  # a read-only file cannot be removed there, and the export must be
        return
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):  # through a link, chmod would reach out of the export
                path.chmod(stat.S_IMODE(mode) & ~0o222)


def _remove(folder: Path) -> None:
    """Removes a scratch folder, also where a script took its own rights from it. What resists stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    for path, names, _ in os.walk(folder):  # from the top: a folder is opened before it is walked into
        for inner in (Path(path), *(Path(path, name) for name in names)):
            if not inner.is_symlink():  # the data cache, or whatever a script linked to
                with suppress(OSError):
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
