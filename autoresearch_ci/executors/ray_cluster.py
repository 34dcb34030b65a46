"""Runs on a cluster of machines, by Ray: each on a node of its own, behind the same wall as on this machine.

This is the session's side. It asks a child (`ray_driver.py`), which has Ray; that has a worker for each slot (`ray_worker.py`), which
makes the run by the container or the native executor of its node. The child gets a few variables of ours and no secret.
"""

from __future__ import annotations

import importlib.util
import math
import re
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

import autoresearch_ci
from autoresearch_ci.errors import AutoresearchError, MachineError, SettingsError
from autoresearch_ci.executors import ray_exports
from autoresearch_ci.executors.environment import USER_VARIABLES, WINDOWS_VARIABLES
from autoresearch_ci.executors.process_tree import unreadable
from autoresearch_ci.executors.ray_child import Child, GoneError
from autoresearch_ci.executors.ray_messages import AUTO, LOCAL, Ready, Wanted
from autoresearch_ci.executors.ray_nodes import CPU
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.platforms import PROBE
from autoresearch_ci.slots import Slot

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt, RunRequest

# How a cluster is joined that asks for a token or for TLS, and how long its head may be away: as Ray's own documentation lists them.
RAY_VARIABLES: Final = (
    "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH",
    "RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT",
    "RAY_gcs_rpc_server_reconnect_timeout_s",
)  # fmt: skip
ENGINE_VARIABLES: Final = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")  # for a cluster that is started here
CONNECT_S: Final = 5.0  # for the head to take a connection
JOIN_S: Final = 60.0  # for Ray to say whether it is one; where something else answers, its library waits for minutes
OPEN_S: Final = 4 * 3600.0 + 900  # for the nodes to get ready: they may build an image
PROBE_S: Final = 600.0
TRIES: Final = 4  # of a run whose driver died: it is repeated three times
TICK_S: Final = 0.1

_ADDRESS: Final = re.compile(r"\[?([A-Za-z0-9._:-]+?)\]?:([0-9]{1,5})")


def check_installed() -> None:
    """SettingsError without the package `ray`, which is not imported here."""
    if importlib.util.find_spec("ray") is None:
        raise SettingsError("`executor: ray` needs the package `ray`", hint='`pip install "autoresearch-ci[ray]"`')


def check_address(address: str, environ: Mapping[str, str]) -> str:
    """The address to join: `local`, `auto`, or `host:port`, which is then known to take connections.

    `auto` is `RAY_ADDRESS` where that is set. Raises SettingsError for what is no address, MachineError where nothing answers.
    """
    if address == AUTO:
        address = environ.get("RAY_ADDRESS", "").strip() or AUTO
    if address in (AUTO, LOCAL):
        return address
    if address.startswith("ray://"):
        raise SettingsError(
            f"`ray-address` is {address[:100]!r}: the client protocol of Ray is not supported",
            hint="make this machine a node of the cluster (`ray start --address=HEAD:6379`), and use `auto`",
        )
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise SettingsError(
            f"`ray-address` cannot be {address[:100]!r}", hint="write it as `HOST:6379`, or `auto` or `local`"
        )
    try:
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT_S).close()
    except OSError as error:
        raise MachineError(
            f"no Ray answers at {address}", hint="is the head up (`ray status`), and its port reachable from here?"
        ) from error
    return address


class RayExecutor:
    """Where runs happen: the nodes of one device class of a cluster, one run in each slot.

    A context manager: entering joins the cluster, checks it and gets its nodes ready; leaving ends everything there. Then `ready`
    says what there is, and `slots` are what runs are given. For several threads. `environ`: our own variables, of which the child
    gets a few; `variables`: what it gets besides. Raises SettingsError and MachineError when no run can be made at all.
    """

    def __init__(
        self,
        wanted: Wanted,
        *,
        environ: Mapping[str, str],
        variables: Mapping[str, str] | None = None,
        join_s: float = JOIN_S,
    ) -> None:
        check_installed()
        self._wanted = wanted
        self._environ = environ
        self._variables = dict(variables or {})
        self._join_s = join_s
        self._child: Child | None = None
        self._joining = threading.Lock()
        self._prepared: tuple[RunRequest, bytes] | None = None  # what to prepare nodes by, and the tree that it needs
        self._ours = ExitStack()  # what is given back at the end
        self.ready = Ready(slots=0, kind="native", device_class="", says="")

    def __enter__(self) -> Self:
        with ExitStack() as ours:
            ours.enter_context(unreadable())
            ours.callback(self._leave)
            self._join()
            self._ours = ours.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """One for each worker. On cores, numeric libraries start no more threads than a slot has of them."""
        cpus = self._wanted.setup.cpus or (1 if self.ready.device_class == CPU else None)
        threads = None if cpus is None else math.ceil(cpus)
        return tuple(Slot(number=number, threads=threads) for number in range(1, self.ready.slots + 1))

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run on a node and waits for its end; a crash is a value. What is lost is made again, and counts once."""
        return self._made("run", request, interrupt)

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Runs the user's `prepare` command once on every node: each has its own data cache. Again on a cluster that comes back."""
        self._prepared = request, ray_exports.pack(request.tree)
        return self._made("prepare", request, interrupt)

    def probe(self, script: str) -> str:
        """Runs a Python program where runs happen, on one of the nodes, and returns what it prints on stdout."""
        if script == PROBE:  # which every node was asked at the start
            return self.ready.probed
        assert self._child is not None
        try:
            said = self._child.wait(self._child.ask("probe", script=script), PROBE_S)
        except GoneError as error:
            raise MachineError("the cluster was lost", hint="look at its head with `ray status`") from error
        assert isinstance(said, str)
        return said

    def _made(self, what: Literal["run", "prepare"], request: RunRequest, interrupt: Interrupt) -> Run:
        plain = replace(request, variables=dict(request.variables))  # whatever it was, it is pickled
        for _ in range(TRIES):
            child = self._living_child(interrupt)
            if child is None:
                request.log.touch()
                return Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=0.0)
            try:
                run = child.wait(child.ask(what, request=plain), None, interrupt)
            except GoneError:
                continue
            assert isinstance(run, Run)
            return run
        raise MachineError(
            f"the connection to the cluster was lost {TRIES} times in one run",
            hint="look at its head with `ray status`; the session goes on with the same command",
        )

    def _living_child(self, interrupt: Interrupt) -> Child | None:
        """The child, and a new one where it has died: a head may be starting again. None when interrupted.

        MachineError when the cluster does not come back within the patience of the session.
        """
        deadline = time.monotonic() + self._wanted.patience_s
        while not interrupt.requested():
            if not self._joining.acquire(timeout=TICK_S):
                continue
            try:
                if self._child is not None and self._child.alive:
                    return self._child
                try:
                    self._join()
                    self._prepare_again(interrupt)
                except (MachineError, SettingsError) as error:  # its nodes come one after another
                    if time.monotonic() >= deadline:
                        raise MachineError(
                            f"the cluster was lost, and is not back: {error.message}",
                            hint=f"{error.hint}; the session goes on with the same command",
                        ) from error
            finally:
                self._joining.release()
            time.sleep(TICK_S)
        return None

    def _join(self) -> None:
        """Starts a child that joins the cluster and gets its nodes ready; there is none when that fails."""
        self._leave()
        address = check_address(self._wanted.address, self._environ)
        self._child = Child({**variables_of_child(self._environ), **self._variables})
        wanted = replace(self._wanted, address=address)
        if self.ready.slots:  # as before, also where the cluster has other nodes now
            wanted = replace(wanted, device_class=self.ready.device_class, kind=self.ready.kind, parallel=None)
        try:
            joined = self._child.wait(self._child.ask("join", wanted=wanted), self._join_s)
            assert joined == ""
            ready = self._child.wait(self._child.ask("open"), OPEN_S)
        except GoneError as error:
            where = "on this machine" if address in (AUTO, LOCAL) else f"at {address}"
            said = self._child.close(patient=False)
            self._child = None
            raise MachineError(
                f"no Ray answers {where}" + (f": {said}" if said else ""),
                hint="is it the address of a head, as `ray start --head` prints it, and of the same version as here?",
            ) from error
        except AutoresearchError:
            self._leave()
            raise
        assert isinstance(ready, Ready)
        self.ready = self.ready if self.ready.slots else ready

    def _prepare_again(self, interrupt: Interrupt) -> None:
        """Brings the nodes to where those were that the cluster had before it was lost; leaves it when that fails."""
        if self._prepared is None or self._child is None:
            return
        request, packed = self._prepared
        log = request.log.with_suffix(".again.log")
        with tempfile.TemporaryDirectory(prefix="autoresearch-ci-prepare-") as folder:
            tree = Path(folder, "tree")
            ray_exports.unpack(packed, tree)
            again = replace(request, tree=tree, log=log, variables=dict(request.variables))
            try:
                run = self._child.wait(self._child.ask("prepare", request=again), None, interrupt)
            except GoneError as error:
                self._leave()
                raise MachineError("the cluster was lost again", hint="look at its head with `ray status`") from error
        assert isinstance(run, Run)
        if run.ending is not Ending.EXITED or run.exit_code != 0:
            self._leave()
            raise MachineError("`prepare` failed on the cluster that came back", hint=f"see {log}")
        log.unlink(missing_ok=True)

    def _leave(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def variables_of_child(environ: Mapping[str, str]) -> dict[str, str]:
    """All that the child has of our environment, and with it a cluster that it starts: how to run, and how to join. No token."""
    names = (*USER_VARIABLES, *WINDOWS_VARIABLES, *RAY_VARIABLES, *ENGINE_VARIABLES)
    kept = {name: environ[name] for name in names if name in environ}
    package = str(Path(autoresearch_ci.__file__).resolve().parents[1])
    return {**kept, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
