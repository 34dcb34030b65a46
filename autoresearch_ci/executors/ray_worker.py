"""A worker of the cluster: on its node, it makes one run after another by the executor of that machine.

An actor of Ray for each slot. It lives as long as the session: starting one takes a second, asking one some milliseconds. Ray
itself is not imported here.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from filelock import FileLock, Timeout

from autoresearch_ci import __version__
from autoresearch_ci.errors import AutoresearchError, MachineError
from autoresearch_ci.executors import ray_exports
from autoresearch_ci.executors.ray_messages import About, Kind, Outcome, Refused, Setup, Tail

if TYPE_CHECKING:
    from autoresearch_ci.executors.container import ContainerExecutor
    from autoresearch_ci.executors.native import NativeExecutor
    from autoresearch_ci.experiment import Run
    from autoresearch_ci.runs import Interrupt, RunRequest

PORTION_BYTES: Final = 4 * 2**20  # of a log, in one message
NOTICE_BYTES: Final = 200  # the first line of a log whose front was dropped is shorter
BUILD_TIMEOUT_S: Final = 3 * 3600.0  # a neighbour on this node builds what this worker waits for


class _Executor(Protocol):
    def run(self, request: RunRequest, interrupt: Interrupt) -> Run: ...

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run: ...

    def probe(self, script: str) -> str: ...


class Worker:
    """One slot. `number`: unique in the session, for its folder. `gpu`: it has a GPU, the one that Ray lets this process see."""

    def __init__(self, session: str, number: int, *, gpu: bool) -> None:
        self._folder = _own_folder() / session / f"worker-{number}"
        self._node_folder = _own_folder()
        self._device = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpu else ""
        self._ours = ExitStack()
        self._executor: _Executor | None = None
        self._kind: Kind = "native"
        self._interrupted = threading.Event()
        self._log = self._folder / "run.log"

    def about(self) -> About:
        """What this node has."""
        from autoresearch_ci.executors.engine import connect

        engine = ""
        try:
            connect().close()
        except MachineError as error:
            engine = error.message
        return About(version=__version__, python=platform.python_version(), engine=engine)

    def open(self, setup: Setup, kind: Kind) -> Refused | str:
        """Gets ready to make runs, builds what they need where it is not there yet; what the wall is."""
        self._kind = kind
        try:
            _make(self._folder)
            cache = Path(setup.cache).expanduser()
            _make(cache)
            if kind == "container":
                with _alone(self._node_folder):  # one worker of a node builds, the others find it built
                    self._executor = self._ours.enter_context(_container(setup, cache))
                    return (
                        "containers: no network, no capability, nothing of the node but the export and the data cache"
                    )
            native = self._ours.enter_context(_native(setup, cache, self._folder / "scratch", self._node_folder))
        except AutoresearchError as error:
            return Refused.of(error)
        self._executor = native
        return native.wall.says

    def probe(self, script: str) -> Refused | str:
        """What a Python program says where this worker's runs happen."""
        assert self._executor is not None
        try:
            return self._executor.probe(script)
        except AutoresearchError as error:
            return Refused.of(error)

    def run(self, request: RunRequest, export: bytes, given: bytes | None, *, preparing: bool) -> Outcome | Refused:
        """Makes one run and waits for its end. Of `request`, the paths are not this node's."""
        assert self._executor is not None
        self._interrupted.clear()
        self._log.unlink(missing_ok=True)
        try:
            with self._tree(export) as work:
                local = replace(
                    request,
                    tree=work / "tree",
                    log=self._log,
                    outputs=None if request.outputs is None else work / "outputs",
                    given=None if given is None else work / "given",
                    slot=replace(request.slot, device=self._device),
                    variables=self._variables(request),
                )
                if given is not None and local.given is not None:
                    ray_exports.unpack(given, local.given)
                if local.outputs is not None:
                    local.outputs.mkdir()
                make = self._executor.prepare if preparing else self._executor.run
                run = make(local, _Flag(self._interrupted))
                outputs = None if local.outputs is None else ray_exports.pack(local.outputs)
                return Outcome(run=run, outputs=outputs, changed=ray_exports.changed(export, local.tree))
        except AutoresearchError as error:
            return Refused.of(error)

    def tail(self, notice: bytes, offset: int) -> Tail:
        """The next portion of the log after `offset`; from its start, where its front was dropped since `notice`."""
        try:
            with self._log.open("rb") as file:
                first = file.readline(NOTICE_BYTES)
                now = first if first.startswith(b"[") and first.endswith(b"its end is kept]\n") else b""
                file.seek(offset if now == notice else 0)
                return Tail(notice=now, data=file.read(PORTION_BYTES))
        except FileNotFoundError:  # it has not begun
            return Tail(notice=b"", data=b"")

    def interrupt(self) -> None:
        """Ends the run that is on."""
        self._interrupted.set()

    def close(self) -> None:
        """Removes what this worker has left on its node."""
        self._interrupted.set()
        self._ours.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # another worker of this node is still there
            self._folder.parent.rmdir()

    def _variables(self, request: RunRequest) -> dict[str, str]:
        variables = dict(request.variables)
        if self._device and self._kind == "native":
            variables["CUDA_VISIBLE_DEVICES"] = self._device
        return variables

    @contextmanager
    def _tree(self, export: bytes) -> Iterator[Path]:
        """A folder of one run's own with the export in it, gone afterwards."""
        try:
            work = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))
        except OSError as error:
            raise MachineError(f"no folder for a run can be made: {error.strerror}", hint="make room there") from error
        try:
            ray_exports.unpack(export, work / "tree")
            yield work
        finally:
            _remove(work)


class _Flag:
    """An Interrupt."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def requested(self) -> bool:
        return self._event.is_set()


def _container(setup: Setup, cache: Path) -> ContainerExecutor:
    """The container executor of this node, with its image: here already, pulled or built."""
    from autoresearch_ci.executors import image, published
    from autoresearch_ci.executors.container import ContainerExecutor
    from autoresearch_ci.executors.engine import connect
    from autoresearch_ci.executors.environment import probe
    from autoresearch_ci.platforms import PROBE, parse_probe

    client = connect()
    name = setup.platform
    if name == "auto":
        name = parse_probe(probe(Path(sys.executable), PROBE)).platform.value
    arguments = {**published.standard_arguments(name), **setup.build_args}
    recipe = published.recipe_of(name, base_image=setup.base_image, arguments=arguments)
    built = image.ensure_image(
        client,
        platform=name,
        base_image=setup.base_image,
        requirements=setup.requirements,
        torch_version=None,
        build_args=arguments,
        on_line=lambda _line: None,
        registry=published.registry_for(recipe, setup.registry),
    )
    return ContainerExecutor(
        client,
        built,
        session=setup.session,
        cache=cache,
        platform=name,
        memory=setup.memory,
        cpus=setup.cpus,
        shm_size=setup.shm_size,
    )


def _native(setup: Setup, cache: Path, scratch: Path, node_folder: Path) -> NativeExecutor:
    """The native executor of this node. Its Python is the one that runs this worker, or one made for the training."""
    from autoresearch_ci.executors import image
    from autoresearch_ci.executors.environment import ensure_environment
    from autoresearch_ci.executors.native import NativeExecutor

    python = Path(sys.executable)
    if setup.requirements is not None:
        python = ensure_environment(
            node_folder,
            requirements=setup.requirements,
            torch_requirement=image.native_requirements(),
            python=sys.executable,
            on_line=lambda _line: None,
        )
    return NativeExecutor(scratch=scratch, cache=cache, memory=setup.memory, python=python, walled=setup.walled)


def _own_folder() -> Path:
    """Where workers of this user keep what they need on a node."""
    if sys.platform == "win32":
        return Path(tempfile.gettempdir(), "autoresearch-ci")  # which is the user's own there
    return Path(tempfile.gettempdir(), f"autoresearch-ci-{os.getuid()}")


def _make(folder: Path) -> None:
    """The folder and those above it; MachineError when it cannot be made, or another user made it before us."""
    try:
        own = _own_folder()
        own.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and (own.is_symlink() or own.stat().st_uid != os.getuid()):
            raise MachineError(f"{own} belongs to another user", hint="remove it on that node")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make {folder}: {error.strerror}", hint="make it, or room for it") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / "building.lock", timeout=BUILD_TIMEOUT_S):
            yield
    except Timeout as error:
        raise MachineError("another worker builds and does not end", hint="look at that node") from error


def _remove(folder: Path) -> None:
    """Removes the folder of a run, also where its script took the rights from it. What resists stays."""
    for path, names, _ in os.walk(folder):  # from the top: a folder is opened before it is walked into
        for inner in (Path(path, name) for name in names):
            if not inner.is_symlink():
                with suppress(OSError):
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
