"""Runs in containers, by Docker Engine: the wall between untrusted code and the machine."""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import docker
from docker.errors import APIError, DockerException
from docker.models.containers import Container
from docker.types import DeviceRequest

from autoresearch_ci import slots
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.engine import one_line, talking
from autoresearch_ci.executors.image import Image
from autoresearch_ci.executors.log import DEFAULT_CAP_BYTES, CappedLog
from autoresearch_ci.executors.mounts import (
    CACHE,
    HOME,
    OUTPUTS,
    SCRATCH_BYTES,
    WORKSPACE,
    make_export_readable,
    make_readable,
    mounts,
)
from autoresearch_ci.executors.owner import Owner
from autoresearch_ci.executors.shelf import Shelf, remove, shelf
from autoresearch_ci.executors.usage import Usage
from autoresearch_ci.executors.wall import RUN_USER, wall
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.slots import MEMORY_SHARE, ONLY, Slot

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt, RunRequest

PREPARE_NETWORK: Final = "bridge"  # of the `prepare` command alone
GRACE_S: Final = 10.0  # from SIGTERM to SIGKILL
TICK_S: Final = 0.1
SETTLE_S: Final = 60.0  # for a killed container to be gone and the rest of its log to arrive
PROBE_TIMEOUT_S: Final = 300.0  # a first `import torch` from a cold disk takes minutes

# Threads count too: 2048 lets a loader with many workers on a large machine live and stops a fork bomb.
PIDS_LIMIT: Final = 2048
SHM_BYTES: Final = 2**30  # Docker's own 64 MB is too little for torch's data loaders
_KEPT_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH")  # of an image's: where it keeps its programs and libraries


@dataclass(frozen=True, slots=True)
class _Plan:
    """What differs between a run, the `prepare` command and the probe."""

    name: str
    arguments: list[str]
    timeout_s: float
    interrupted: Callable[[], bool]
    on_output: Callable[[bytes | None, bytes | None], None]  # one of stdout and stderr, as it arrives
    environment: Mapping[str, str]
    tree: Path | None = None
    directory: str = "."
    network: str = "none"
    user: str = RUN_USER
    cache_writable: bool = False
    given: Path | None = None
    shelf: str | None = None
    slot: Slot = ONLY


class ContainerExecutor:
    """Where runs happen: one container for each, removed on every path.

    A context manager: entering removes what dead sessions left, leaving removes what this one left. `cache`: the data
    cache, mounted read-only; `platform`: `cpu` or `cuda`; `memory`, `shm_size`: bytes; `cpus`: cores. Runs may go on side by side,
    from several threads, each with what its request's slot owns. `machine_bytes`: the memory of the engine's machine, known
    once it is entered. Raises MachineError when the engine cannot make runs at all.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        image: Image,
        *,
        session: str,
        cache: Path | None,
        platform: str,
        memory: int | None = None,
        cpus: float | None = None,
        shm_size: int | None = None,
        pids_limit: int = PIDS_LIMIT,
        log_cap_bytes: int = DEFAULT_CAP_BYTES,
    ) -> None:
        self._client = client
        self._image = image
        self._owner = Owner.of_this_process(session)
        self._cache = cache
        self._platform = platform
        self._memory_bytes = memory
        self._cpus = cpus
        self._shm_bytes = shm_size or SHM_BYTES
        self._pids_limit = pids_limit
        self._log_cap_bytes = log_cap_bytes
        self._foreign_variables: list[str] = []
        self.machine_bytes = 0

    def __enter__(self) -> Self:
        with talking("to describe itself and the image"):
            self.machine_bytes = int(self._client.info()["MemTotal"])
            if self._memory_bytes is None:
                self._memory_bytes = int(self.machine_bytes * MEMORY_SHARE)
            variables = self._client.images.get(self._image.id).attrs["Config"].get("Env") or []
        names = ["HOSTNAME", *(variable.partition("=")[0] for variable in variables)]
        self._foreign_variables = [name for name in names if name not in _KEPT_VARIABLES]
        if self._cache is not None:
            make_readable(self._cache)
        self._remove_where(Owner.is_gone)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove_where(self._owner.owns)

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run and waits for its end; a crash is a value."""
        return self._logged(request, interrupt)

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Runs the user's `prepare` command: as a run, but with network and with a cache that it may write.

        It runs as the owner of the cache folder, the only one who can write there; when that is root, as root without
        any capability.
        """
        if self._cache is None:
            return self._logged(request, interrupt, network=PREPARE_NETWORK)
        owner = self._cache.stat()
        return self._logged(
            request, interrupt, network=PREPARE_NETWORK, user=f"{owner.st_uid}:{owner.st_gid}", cache_writable=True
        )

    def probe(self, script: str) -> str:
        """Runs a Python program as a run would be, with its devices, and returns what it prints on stdout.

        The preflight of the platform: MachineError when the engine cannot give the device, or when the program fails.
        """
        outputs: tuple[list[bytes], list[bytes]] = ([], [])

        def collect(stdout: bytes | None, stderr: bytes | None) -> None:
            for kept, chunk in zip(outputs, (stdout, stderr), strict=True):
                kept.append(chunk or b"")

        run = self._execute(
            _Plan(
                name="probe",
                arguments=["python", "-c", script],
                timeout_s=PROBE_TIMEOUT_S,
                interrupted=lambda: False,
                on_output=collect,
                environment={},
            )
        )
        stdout, stderr = (b"".join(kept).decode(errors="replace") for kept in outputs)
        if run.exit_code != 0:
            raise MachineError(
                f"the probe of the image failed ({run.ending}): {one_line(stderr[-300:])}",
                hint=f"try `docker run --rm {self._image.tag} python --version`",
            )
        return stdout

    def _logged(self, request: RunRequest, interrupt: Interrupt, **differences: Any) -> Run:
        try:
            arguments = shlex.split(request.command)
        except ValueError as error:
            raise SettingsError(f"`command` cannot be split into words: {error}", hint="check its quotes") from error
        for folder in (request.tree, request.given):
            if folder is not None:
                make_export_readable(folder)
        wanted = request.outputs
        with (
            CappedLog(request.log, self._log_cap_bytes) as log,
            nullcontext() if wanted is None else self._shelf(request.name) as shelved,
        ):
            run = self._execute(
                _Plan(
                    name=request.name,
                    arguments=arguments,
                    timeout_s=request.timeout_s,
                    interrupted=interrupt.requested,
                    on_output=lambda stdout, stderr: log.write(stdout or stderr or b""),
                    environment=slots.variables(request.slot, request.variables),
                    tree=request.tree,
                    directory=request.directory,
                    given=request.given,
                    slot=request.slot,
                    shelf=shelved.name if shelved else None,
                    **differences,
                )
            )
            if shelved and wanted and run.ending is not Ending.INTERRUPTED:  # nobody waits for anything then
                note = shelved.take_over(wanted)
                if note:
                    log.write(f"\n[outputs: {note}]\n".encode())
            return run

    def _execute(self, plan: _Plan) -> Run:
        with ThreadPoolExecutor(max_workers=3) as pool, self._container(plan) as container:
            with talking("to attach to a run"):
                # Attached before the start, so that nothing is missed, and instead of a log driver: those write all of
                # a 10 GB flood to the engine's disk, while a full pipe makes the script wait for us.
                output = container.attach(stdout=True, stderr=True, stream=True, demux=True)
            try:
                reading = pool.submit(_read, output, plan.on_output)
                started = time.monotonic()
                with talking("to start a run"):
                    container.start()
                waiting = pool.submit(container.wait, timeout=plan.timeout_s + GRACE_S + SETTLE_S)
                usage = Usage(container, pool)
                ending, exit_code = _follow(container, plan, started, waiting, reading, usage)
                wall_s = time.monotonic() - started
                settled(reading)
            finally:
                with suppress(OSError, DockerException):
                    output.close()  # ends the reading thread also when the engine hangs
        return Run(ending=ending, exit_code=exit_code, wall_s=wall_s, peak_memory_mb=usage.peak_mb, cpu_s=usage.cpu_s)

    @contextmanager
    def _container(self, plan: _Plan) -> Iterator[Container]:
        memory = plan.slot.memory or self._memory_bytes
        with talking("to create a run"):
            container = self._client.containers.create(
                self._image.id,
                plan.arguments,
                name=f"autoresearch-ci-{plan.name}-{uuid.uuid4().hex[:8]}",
                labels=self._owner.labels(),
                environment=self._environment(plan),
                working_dir=str(WORKSPACE / plan.directory),
                pids_limit=self._pids_limit,
                mem_limit=memory,
                memswap_limit=memory,  # equal: no swap
                cpuset_cpus=",".join(map(str, plan.slot.cpus)) or None,
                nano_cpus=None if self._cpus is None else int(self._cpus * 1e9),
                shm_size=self._shm_bytes,
                device_requests=self._devices(plan.slot),
                **wall(
                    network=plan.network,
                    user=plan.user,
                    largest_file=None if plan.cache_writable else max(SCRATCH_BYTES, self._shm_bytes),
                ),
                **mounts(
                    plan.tree,
                    plan.directory,
                    self._cache,
                    cache_writable=plan.cache_writable,
                    given=plan.given,
                    shelf=plan.shelf,
                ),
            )
        try:
            yield container
        finally:
            remove(container)

    def _shelf(self, name: str) -> AbstractContextManager[Shelf]:
        return shelf(self._client, self._image.id, name, self._owner.labels())

    def _devices(self, slot: Slot) -> list[DeviceRequest]:
        if self._platform != "cuda":
            return []
        which: dict[str, Any] = {"device_ids": slot.device.split(",")} if slot.device else {"count": -1}
        # `compute` is not among the capabilities that every version of the toolkit gives without being asked.
        return [DeviceRequest(**which, capabilities=[["gpu", "compute", "utility"]])]

    def _environment(self, plan: _Plan) -> list[str]:
        own = {"HOME": str(HOME), "AUTORESEARCH_OUTPUT_DIR": str(OUTPUTS)}
        if self._cache is not None:
            own["AUTORESEARCH_CACHE"] = str(CACHE)
        given = {**plan.environment, **own}
        # Without a value the engine leaves a variable out: a run sees the contract's variables and no others.
        removed = [name for name in self._foreign_variables if name not in given]
        return [*removed, *(f"{name}={value}" for name, value in given.items())]

    def _remove_where(self, chosen: Callable[[Mapping[str, str]], bool]) -> None:
        with talking("to list what dead sessions left"):
            containers = self._client.containers.list(all=True, filters={"label": Owner.FILTER}, ignore_removed=True)
            volumes = self._client.volumes.list(filters={"label": Owner.FILTER})
        for container in containers:
            if chosen(container.labels):
                remove(container)
        for volume in volumes:
            if chosen(volume.attrs["Labels"]):
                remove(volume)


def _read(output: Any, on_output: Callable[[bytes | None, bytes | None], None]) -> None:
    for stdout, stderr in output:
        on_output(stdout, stderr)


def _follow(
    container: Container,
    plan: _Plan,
    started: float,
    waiting: Future[Any],
    reading: Future[None],
    usage: Usage,
) -> tuple[Ending, int | None]:
    """Waits for the end of a started run, or brings it about; how it ended, and its exit code when that was its own."""
    ending, deadline = Ending.EXITED, started + plan.timeout_s
    while not waiting.done():
        usage.sample()
        if reading.done():
            reading.result()  # raises when the log cannot be written: the run would wait for a reader for ever
        if plan.interrupted():
            ending = Ending.INTERRUPTED
            _signal(container, "SIGKILL")
            break
        if time.monotonic() >= deadline:
            _signal(container, "SIGTERM" if ending is Ending.EXITED else "SIGKILL")
            if ending is Ending.TIMEOUT:
                break
            ending, deadline = Ending.TIMEOUT, deadline + GRACE_S
        with suppress(TimeoutError), talking("to wait for a run"):
            waiting.result(timeout=TICK_S)
    with talking("to wait for a run"):
        exit_code = int(settled(waiting)["StatusCode"])
        if ending is not Ending.EXITED:
            return ending, None
        if exit_code != 0:
            container.reload()
            if container.attrs["State"][
                "OOMKilled"
            ]:  # the limit may have killed a child, of which the script then died
                return Ending.OUT_OF_MEMORY, exit_code
        return ending, exit_code


def settled(future: Future[Any]) -> Any:
    """What comes soon, now that the run is over or killed."""
    try:
        return future.result(timeout=SETTLE_S)
    except TimeoutError as error:
        raise MachineError(
            "a killed run does not end",
            hint="a process may hang in a driver: see `dmesg`; the machine may need a restart",
        ) from error


def _signal(container: Container, signal: str) -> None:
    with talking(f"to send {signal} to a run"):
        try:
            container.kill(signal=signal)
        except APIError as error:
            if error.status_code not in (404, 409):  # it has just ended by itself
                raise
