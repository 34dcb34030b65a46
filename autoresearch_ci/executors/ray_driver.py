"""The session's child that speaks to Ray: a driver of the cluster, asked over its stdin, answering over its stdout.

A process of its own because Ray's library ends the process in which it is used when the head or the local node dies, waits for
minutes where something else answers, and hands its environment on to the cluster that it starts. This one holds no secret, may be
killed at any time, and ends, with all that it has on the cluster, when its stdin does.
"""

from __future__ import annotations

import os
import platform
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

from autoresearch_ci import __version__
from autoresearch_ci.errors import AutoresearchError, MachineError
from autoresearch_ci.executors import outputs, ray_exports
from autoresearch_ci.executors.ray_messages import (
    AUTO,
    LOCAL,
    About,
    Answer,
    Ask,
    Outcome,
    Ready,
    Refused,
    Tail,
    Wanted,
    receive,
    send,
)
from autoresearch_ci.executors.ray_pool import LostError, Place, Pool, get
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.runs import RunRequest

TRIES: Final = 4  # of one run: it is repeated three times
LOOK_S: Final = 1.0  # between two looks at the log of a run that is on
TICK_S: Final = 0.1
TAIL_S: Final = 30.0  # for a portion of a log
GIVE_UP_S: Final = 15.0  # for a run that was interrupted to end
SLACK_S: Final = 120.0  # after the timeout of a run, for its worker to say so
FULL_S: Final = 1.0  # for Ray to make room
MAX_EXPORTS: Final = 8  # that are kept in the object store
MAX_PORTIONS: Final = 64  # of a log, at a look: more than its cap holds


class Exports:
    """What is in the object store for runs: every version once, the last used last. `put`: Ray's."""

    def __init__(self, put: Callable[[bytes], Any]) -> None:
        self._put = put
        self._known: dict[str, Any] = {}  # by the hash of the content
        self._lock = threading.Lock()

    def put(self, export: bytes) -> Any:
        """The reference to an export; a node fetches what it names once, and keeps it while it is known here."""
        name = ray_exports.content_hash(export)
        with self._lock:
            reference = self._known.pop(name, None) or self._put(export)
            self._known[name] = reference
            while len(self._known) > MAX_EXPORTS:
                self._known.pop(next(iter(self._known)))
        return reference

    def forget(self) -> None:
        """Lets Ray remove all that no run uses."""
        with self._lock:
            self._known.clear()


class Driver:
    """What the session has on the cluster."""

    def __init__(self, wanted: Wanted) -> None:
        self.pool = Pool(wanted, About(version=__version__, python=platform.python_version(), engine=""))
        self.pool.prepare = self._prepare_late
        self._exports = Exports(ray.put)
        self._prepared: tuple[RunRequest, bytes, bytes | None] | None = None

    def run(self, request: RunRequest, interrupted: threading.Event) -> Run | Refused:
        """Makes a run, and makes it again when it is lost. It counts once: only the last one's log is kept."""
        export = ray_exports.pack(request.tree)
        given = None if request.given is None else ray_exports.pack(request.given)
        lost: list[str] = []
        while len(lost) < TRIES:
            place = self.pool.take(interrupted.is_set)
            if place is None:
                return _never_made(request)
            try:
                outcome = self._make(place, request, export, given, interrupted)
            except LostError as error:
                lost.append(str(error))
                self.pool.lost(place)
                continue
            except (ObjectStoreFullError, OutOfDiskError) as error:
                lost.append(f"the object store is full: {type(error).__name__}")
                self._exports.forget()
                self.pool.give_back(place)
                time.sleep(FULL_S)
                continue
            self.pool.give_back(place)
            return self._taken_over(request, outcome)
        return Refused(
            message=f"a run was lost {len(lost)} times on the cluster: {lost[-1]}",
            hint="look at it with `ray status`, at its memory and disks; the session goes on with the same command",
        )

    def prepare(self, request: RunRequest, interrupted: threading.Event) -> Run | Refused:
        """Runs the `prepare` command once on every node; the run that failed, else the last one."""
        export = ray_exports.pack(request.tree)
        places = self.pool.one_each()
        logs = [request.log.with_suffix(f".node-{number}.log") for number in range(len(places))]

        def prepare_one(place: Place, log: Path) -> Outcome | Refused:
            try:
                return self._make(place, replace(request, log=log), export, None, interrupted, preparing=True)
            except (LostError, RayError) as error:
                return Refused(message=f"node {place.node.name} was lost: {error}"[:300], hint="see `ray status`")

        with ThreadPoolExecutor(len(places)) as pool:
            made = list(pool.map(prepare_one, places, logs))
        for place in places:
            self.pool.give_back(place)
        worst = max(range(len(made)), key=lambda number: _failed(made[number]))
        if logs[worst].exists():
            logs[worst].replace(request.log)
        for log in logs:
            log.unlink(missing_ok=True)
        self._prepared = (request, export, None)
        outcome = made[worst]
        return outcome if isinstance(outcome, Refused) else outcome.run

    def _prepare_late(self, place: Place) -> None:
        """The `prepare` command on a node that has come later; MachineError when it fails there."""
        if self._prepared is None:
            return
        request, export, given = self._prepared
        log = request.log.with_suffix(".late.log")
        try:
            outcome = self._make(place, replace(request, log=log), export, given, threading.Event(), preparing=True)
        except LostError as error:
            raise MachineError(f"node {place.node.name} was lost: {error}", hint="see `ray status`") from error
        if _failed(outcome):
            raise MachineError(f"`prepare` failed on node {place.node.name}, which joined", hint=f"see {log.name}")
        log.unlink(missing_ok=True)

    def _make(
        self,
        place: Place,
        request: RunRequest,
        export: bytes,
        given: bytes | None,
        interrupted: threading.Event,
        *,
        preparing: bool = False,
    ) -> Outcome | Refused:
        """One run on one worker; LostError when it is gone before it has handed all back."""
        made = place.actor.run.remote(request, self._exports.put(export), given, preparing=preparing)
        log = _Mirror(request.log, place)
        deadline = time.monotonic() + request.timeout_s + SLACK_S
        look_at, give_up_at = time.monotonic() + LOOK_S, float("inf")
        while not ray.wait([made], timeout=TICK_S)[0]:
            now = time.monotonic()
            if interrupted.is_set() and give_up_at == float("inf"):
                place.actor.interrupt.remote()
                give_up_at = now + GIVE_UP_S
            if now >= min(deadline, give_up_at):
                raise LostError("it does not end")
            if now >= look_at:
                log.look()
                look_at = time.monotonic() + LOOK_S
        outcome = get(made, TAIL_S)
        assert isinstance(outcome, Outcome | Refused)
        log.look()
        return outcome

    def _taken_over(self, request: RunRequest, outcome: Outcome | Refused) -> Run | Refused:
        """The run, after what it left and what it did to its export has happened here too."""
        if isinstance(outcome, Refused):
            return outcome
        for name in outcome.changed:  # whoever compares the export with its commit must see it
            (request.tree / name).unlink(missing_ok=True)
        if request.outputs is not None and outcome.outputs is not None:
            note = outputs.from_tar([outcome.outputs], request.outputs)
            if note:
                with request.log.open("ab") as file:
                    file.write(f"\n[outputs: {note}]\n".encode())
        return outcome.run


class _Mirror:
    """The log of a run on a node, as it is here. The node's cap holds for both."""

    def __init__(self, path: Path, place: Place) -> None:
        self._path, self._place, self._notice, self._offset = path, place, b"", 0
        try:
            path.write_bytes(b"")
        except OSError as error:
            raise _unwritable(path, error) from error

    def look(self) -> None:
        """Fetches what is new."""
        for _ in range(MAX_PORTIONS):
            tail = get(self._place.actor.tail.remote(self._notice, self._offset), TAIL_S)
            assert isinstance(tail, Tail)
            if not tail.data:
                return
            try:
                with self._path.open("ab") as file:
                    if tail.notice != self._notice:
                        file.truncate(0)
                        self._notice, self._offset = tail.notice, 0
                    file.write(tail.data)
            except OSError as error:
                raise _unwritable(self._path, error) from error
            self._offset += len(tail.data)


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(f"the log `{path.name}` cannot be written: {error.strerror}", hint="make room on the disk")


def _failed(outcome: Outcome | Refused) -> bool:
    return isinstance(outcome, Refused) or outcome.run.ending is not Ending.EXITED or outcome.run.exit_code != 0


def _never_made(request: RunRequest) -> Run:
    request.log.touch()
    return Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=0.0)


def connect(wanted: Wanted) -> str:
    """Joins the cluster, or starts one; nothing to say. Raises what a person can act on."""
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "namespace": wanted.setup.session}
    try:
        if wanted.address == LOCAL:
            ray.init(
                address=LOCAL,
                num_cpus=wanted.local_cpus,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            ray.init(address=wanted.address, **quiet)
    except ConnectionError as error:
        where = "on this machine" if wanted.address == AUTO else f"at {wanted.address}"
        raise MachineError(
            f"no Ray answers {where}", hint="start it with `ray start --head`, or set `ray-address`"
        ) from error
    except (RuntimeError, ValueError, OSError) as error:
        text = str(error)
        if found := re.search(r"started with:\s*Ray: (\S+)\s*Python: (\S+)", text):
            raise MachineError(
                f"the cluster runs Ray {found[1]} with Python {found[2]}, and here are Ray {ray.__version__} and "
                f"Python {platform.python_version()}",
                hint=f"use the same on every node and here: `pip install ray=={ray.__version__}`",
            ) from error
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        raise MachineError(
            f"Ray cannot be joined: {(lines or [type(error).__name__])[0][:300]}",
            hint="this machine must be a node of the cluster: `ray start --address=HEAD:6379`",
        ) from error
    return ""


def serve(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Answers until `stdin` ends; then everything on the cluster is ended."""
    answers: queue.Queue[Answer | None] = queue.Queue()
    writer = threading.Thread(target=_write, args=(answers, stdout), name="answers", daemon=True)
    writer.start()
    interrupts: dict[int, threading.Event] = {}
    driver: Driver | None = None
    with ThreadPoolExecutor(1100) as pool:  # as many as `parallel` can be, and some
        while (ask := _next(stdin)) is not None:
            if ask.what == "interrupt":
                if ask.number in interrupts:
                    interrupts[ask.number].set()
                continue
            if ask.what == "join":
                assert ask.wanted is not None
                driver = Driver(ask.wanted)
                answers.put(_answer(ask, partial(connect, ask.wanted)))
                continue
            assert driver is not None
            event = interrupts[ask.number] = threading.Event()
            pool.submit(_serve_one, driver, ask, event, answers, interrupts).add_done_callback(_die_of_a_mistake)
        for event in list(interrupts.values()):
            event.set()
    if driver is not None:
        driver.pool.close()
    answers.put(None)
    writer.join(TICK_S)
    ray.shutdown()


def _die_of_a_mistake(made: Future[None]) -> None:
    """A mistake of ours must not leave the session waiting: it sees at once that this process is gone, and why."""
    if (error := made.exception()) is not None:
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def _serve_one(
    driver: Driver,
    ask: Ask,
    event: threading.Event,
    answers: queue.Queue[Answer | None],
    interrupts: dict[int, threading.Event],
) -> None:
    def value() -> Ready | Run | str | Refused:
        if ask.what == "open":
            return driver.pool.open()
        if ask.what == "probe":
            place = driver.pool.take(event.is_set)
            assert place is not None
            try:
                return driver.pool.probe(place, ask.script)
            finally:
                driver.pool.give_back(place)
        assert ask.request is not None
        make = driver.prepare if ask.what == "prepare" else driver.run
        return make(ask.request, event)

    answers.put(_answer(ask, value))
    interrupts.pop(ask.number, None)


def _answer(ask: Ask, value: Callable[[], Ready | Run | str | Refused]) -> Answer:
    try:
        return Answer(number=ask.number, value=value())
    except AutoresearchError as error:
        return Answer(number=ask.number, value=Refused.of(error))
    except (RayError, OSError) as error:
        refused = Refused(message=f"Ray failed: {str(error).splitlines()[0][:300]}", hint="see `ray status`")
        return Answer(number=ask.number, value=refused)


def _next(stdin: IO[bytes]) -> Ask | None:
    try:
        ask = receive(stdin)
    except EOFError:
        return None
    assert isinstance(ask, Ask)
    return ask


def _write(answers: queue.Queue[Answer | None], stdout: IO[bytes]) -> None:
    while (answer := answers.get()) is not None:
        try:
            send(stdout, answer)
        except BrokenPipeError:  # the session is gone
            return


def main() -> None:
    """Takes stdout for the answers; what Ray prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
