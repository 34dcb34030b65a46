"""The child process that speaks to Ray, as the session sees it: asked, waited for, ended; and what it said last."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import IO, TYPE_CHECKING, Any, Final

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.ray_messages import Ask, Ready, Refused, Wanted, What, receive, send
from autoresearch_ci.experiment import Run

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt, RunRequest

TICK_S: Final = 0.05  # between two looks at an interrupt
INTERRUPT_S: Final = 60.0  # for it to end a run that is interrupted; it gives up on a worker sooner
END_S: Final = 45.0  # for it to end the workers, and the cluster that it has started
KILL_S: Final = 5.0
SAID_BYTES: Final = 4000


class GoneError(Exception):
    """The child is gone, and with it all that it had on the cluster."""


class Child:
    """One `python -m autoresearch_ci.executors.ray_driver`. For several threads. `variables`: its whole environment."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Ready | Run | str | Refused]] = {}
        self._lock = threading.Lock()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._folder = tempfile.TemporaryDirectory(prefix="autoresearch-ci-driver-", ignore_cleanup_errors=True)
        try:
            # Where it is matters: Ray puts the folder of a driver on the path of every worker.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "autoresearch_ci.executors.ray_driver"],
                cwd=self._folder.name,
                env=dict(variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # a Ctrl-C is the session's to deal with
            )
        except OSError as error:
            raise MachineError(
                f"{sys.executable} cannot be started: {error.strerror}", hint="install it again"
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name="answers of the cluster", daemon=True
        )
        self.alive = True
        self._reader.start()

    def ask(
        self, what: What, *, wanted: Wanted | None = None, request: RunRequest | None = None, script: str = ""
    ) -> int:
        """Asks for something; the number to wait for it by. GoneError when the child is gone."""
        number = next(self._numbers)
        with self._lock:
            if not self.alive:
                raise GoneError
            self._waiting[number] = Future()
            self._send(Ask(number=number, what=what, wanted=wanted, request=request, script=script))
        return number

    def wait(self, number: int, timeout_s: float | None, interrupt: Interrupt | None = None) -> Ready | Run | str:
        """The answer. Raises the error that it holds; GoneError when the child dies, or is silent for `timeout_s`.

        Without a timeout the child bounds the wait: a run has its own, and room for it is waited for with patience.
        """
        future = self._waiting[number]
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        told = False
        try:
            while True:
                try:
                    value = future.result(TICK_S)
                    break
                except TimeoutError:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise GoneError from None
                if interrupt is not None and not told and interrupt.requested():
                    told, deadline = True, time.monotonic() + INTERRUPT_S
                    with self._lock:
                        self._send(Ask(number=number, what="interrupt"))
        finally:
            self._waiting.pop(number, None)
        if isinstance(value, Refused):
            raise value.error()
        return value

    def close(self, *, patient: bool = True) -> str:
        """Ends the child and what it has on the cluster; the last line that it said, where it died by itself.

        `patient`: False where it does not answer, and has nothing to put away.
        """
        died = self._process.poll() not in (None, 0)
        try:
            with self._lock:
                self._stdin.close()
        except BrokenPipeError:
            died = True
        try:
            self._process.wait(END_S if patient and self.alive else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(KILL_S)
        self._reader.join(KILL_S)
        self._folder.cleanup()
        self._said.seek(max(0, self._said.seek(0, 2) - SAID_BYTES))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._said.close()
        return lines[-1].strip()[:300] if died and lines else ""

    def _send(self, ask: Ask) -> None:
        try:
            send(self._stdin, ask)
        except (OSError, ValueError):  # gone, or closed: the reader tells those who wait
            return

    def _read(self, stdout: IO[bytes]) -> None:
        while (answer := _next(stdout)) is not None:
            if (future := self._waiting.get(answer.number)) is not None:
                future.set_result(answer.value)
        with self._lock:
            self.alive = False
            waiting = list(self._waiting.values())
        for future in waiting:
            if not future.done():
                future.set_exception(GoneError())


def _next(stdout: IO[bytes]) -> Any:
    try:
        return receive(stdout)
    except EOFError:
        return None
