"""Runs as processes of this machine: for Apple Silicon, whose GPU no container can see, and where there is no engine.

The wall is what the system offers (`bubblewrap`, `seatbelt`), and `NativeExecutor.wall` says what that is. Where it offers none,
the export's files are read-only and the environment is explicit, but a script runs with the rights of the user: it can undo the
one, read and write what the user can (the cache too), and use the network. What holds everywhere: the processes that a run
started are gone when it is over, its log, memory, processes and files are bounded, and its scratch is removed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from autoresearch_ci import slots
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors import bubblewrap, seatbelt
from autoresearch_ci.executors.child import Child, on_cores
from autoresearch_ci.executors.confinement import Confinement, NativeWall, NoWall
from autoresearch_ci.executors.environment import NETWORK_VARIABLES, ask, run_variables, taken_from_here
from autoresearch_ci.executors.limits import Disk, limited
from autoresearch_ci.executors.log import DEFAULT_CAP_BYTES, CappedLog
from autoresearch_ci.executors.outputs import from_folder
from autoresearch_ci.executors.process_tree import (
    KILL_TIMEOUT_S,
    MARKER,
    ProcessTree,
    adopting_orphans,
    kill_marked,
    unreadable,
)
from autoresearch_ci.executors.watching import Output, Watch
from autoresearch_ci.experiment import Ending, Run

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt, RunRequest
# Of ELF, of scripts, and of Mach-O (universal, and 64 bits in both orders).
_MAGIC: Final = (b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf")


class NativeExecutor:
    """Where runs happen: one process tree for each, killed on every path.

    A context manager: entering kills and removes what a session that died left in `scratch`, which must be this
    session's alone. `cache`: the data cache. `memory`: bytes that a run's tree may use together. `python`: the
    interpreter of the environment that trains; its folder comes first on the PATH. `walled`: False leaves the wall away, for a
    comparison. `wall` is known once it is entered. Runs may go on side by side, from several threads, each with what its
    request's slot owns.
    """

    def __init__(
        self,
        *,
        scratch: Path,
        cache: Path | None,
        memory: int | None,
        python: Path,
        log_cap_bytes: int = DEFAULT_CAP_BYTES,
        walled: bool = True,
    ) -> None:
        self._scratch = scratch.absolute()
        self._cache = cache
        self._memory_bytes = memory
        self._python = python
        self._log_cap_bytes = log_cap_bytes
        self._walled = walled
        self._adopting = False
        self._ours = ExitStack()  # what this process is while runs are made
        self.wall: NativeWall = NoWall("not asked for")

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
        if self._walled:
            self.wall = self._find_wall()
        self._adopting = self._ours.enter_context(adopting_orphans())
        self._ours.enter_context(unreadable())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run and waits for its end; a crash is a value. SettingsError when `command` is no program."""
        return self._run(request, interrupt)

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Runs the user's `prepare` command: as a run, and with the proxies and certificates that the user has set."""
        return self._run(request, interrupt, preparing=True)

    def probe(self, script: str) -> str:
        """Runs a Python program as a run would be and returns what it prints on stdout; MachineError when it fails."""
        with self._folder("probe") as folder:
            variables = run_variables(folder, self._python, self._cache)
            confinement = Confinement(scratch=folder, program=self._python, cache=self._cache)
            return ask(self._python, script, variables, behind=self.wall.arguments(confinement))

    def _find_wall(self) -> NativeWall:
        with self._folder("wall") as folder:
            variables = run_variables(folder, self._python, None)
            if sys.platform == "linux":
                return bubblewrap.find(self._python, folder, variables)
            if sys.platform == "darwin":
                return seatbelt.find(self._python, folder, variables)
        return NoWall("this system has none that is supported")

    def _run(self, request: RunRequest, interrupt: Interrupt, *, preparing: bool = False) -> Run:
        with self._folder(request.name) as folder, CappedLog(request.log, self._log_cap_bytes) as log:
            network = taken_from_here(NETWORK_VARIABLES) if preparing else {}
            given = slots.variables(request.slot, request.variables)
            variables = {**network, **given, **run_variables(folder, self._python, self._cache)}
            if request.given is not None:
                _give(request.given, Path(variables[MARKER]))
            arguments = self._arguments(request, variables["PATH"])
            _protect(request.tree)
            confinement = Confinement(
                scratch=folder,
                program=Path(arguments[0]),
                tree=request.tree,
                directory=request.directory,
                cache=self._cache,
                given=request.given is not None,
                readable=_files_named(network.values()),
                preparing=preparing,
            )
            arguments = self.wall.arguments(confinement) + limited(arguments, largest_file=not preparing)
            disk = Disk((folder, request.tree))
            memory = request.slot.memory or self._memory_bytes
            with ProcessTree(
                variables[MARKER], adopting=self._adopting, led=self.wall.leads, cpus=request.slot.cpus
            ) as tree:
                started = time.monotonic()
                with on_cores(request.slot.cpus):
                    process = tree.begin(partial(_start, arguments, request.tree / request.directory, variables))
                output, deadline = Output(process.stdout), started + request.timeout_s
                watch = Watch(process, tree, output, disk, log.write, interrupt, deadline, memory)
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
            cpu_s=None if process.cpu_s is None else process.cpu_s + tree.cpu_s,
            stopped_because=watch.stopped_because if ending is Ending.STOPPED else "",
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
        if not _can_be_started(Path(found)):
            raise SettingsError(f"`command` cannot be started: {words[0]} is no program", hint="check `command`")
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


def _can_be_started(program: Path) -> bool:
    """Whether the kernel takes it: a script without a first line would else be run by whatever shell comes along."""
    try:
        with program.open("rb") as file:
            return file.read(4).startswith(_MAGIC) or sys.platform == "win32"
    except OSError:
        return True  # to be executed, not to be read: the kernel knows


def _files_named(values: Iterable[str]) -> tuple[Path, ...]:
    """The files and folders among the values of variables: certificates, not addresses."""
    return tuple(Path(value) for value in values if os.path.isabs(value) and os.path.exists(value))  # noqa: PTH110, PTH117


def _start(arguments: list[str], directory: Path, variables: Mapping[str, str]) -> Child:
    flags: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        return Child(
            subprocess.Popen(
                arguments,
                bufsize=0,
                cwd=directory,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **flags,
            )
        )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"`command` cannot be started: {getattr(error, 'strerror', None) or error}", hint="check `command`"
        ) from error


def _reap(process: Child) -> None:
    if not process.wait(KILL_TIMEOUT_S):
        raise MachineError(
            "a killed run does not end", hint="a process may hang in a driver; the machine may need a restart"
        )


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
