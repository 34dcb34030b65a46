"""How a step's process ends when its job is cancelled."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

# What the runner sends to the step's entry process, and how many seconds it then waits (ProcessInvoker.cs).
RUNNER_LADDER: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5))
# No warning at all: the machine's power goes, or the kernel's out-of-memory killer comes.
KILL: tuple[tuple[signal.Signals, float], ...] = ()

_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """Cancels the job while `step` runs, as soon as `when()` is true.

    `ladder`: the signals and waits; whoever is left after the last one is killed with all its children.
    """

    step: str
    when: Callable[[], bool]
    ladder: Sequence[tuple[signal.Signals, float]] = RUNNER_LADDER


def wait(
    process: subprocess.Popen[bytes], cancellation: Cancellation | None, timeout_s: float
) -> tuple[int, float | None]:
    """The exit code (128 + the signal's number where one ended it), and, where the job was cancelled meanwhile, how many seconds
    after the first signal the process was gone.

    Raises TimeoutError, with everything killed, when the step takes longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if cancellation is not None and cancellation.when():
            signalled = time.monotonic()
            _descend(process, cancellation.ladder)
            return _shell_code(process.wait()), time.monotonic() - signalled
        if time.monotonic() > deadline:
            _kill_tree(process)
            raise TimeoutError(f"the step took longer than {timeout_s:g} s")
        time.sleep(_POLL_S)
    return _shell_code(process.returncode), None


def _descend(process: subprocess.Popen[bytes], ladder: Sequence[tuple[signal.Signals, float]]) -> None:
    for which, patience_s in ladder:
        process.send_signal(which)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
        return
    _kill_tree(process)


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    try:
        entry = psutil.Process(process.pid)
        family = [entry, *entry.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _shell_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode
