"""What is looked at while a native run is on: its output, the clock, its memory, its processes and what it writes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from autoresearch_ci.executors import limits
from autoresearch_ci.executors.child import Child
from autoresearch_ci.executors.limits import Disk
from autoresearch_ci.executors.process_tree import ProcessTree
from autoresearch_ci.experiment import Ending

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt

GRACE_S: Final = 10.0  # from SIGTERM to SIGKILL
TICK_S: Final = 0.1  # between two looks at the clock, the interrupt and the memory
FIRST_TICK_S: Final = 0.01  # a run of a moment has a memory too
WATCHING_SHARE: Final = 0.02  # of the time: where looking at the tree is slow, it is done less often
DRAIN_S: Final = 2.0  # for the rest of the output, once every process that can be found is gone


class Output:
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
class Watch:
    """What is looked at while a run is on, and what came of it."""

    process: Child
    tree: ProcessTree
    output: Output
    disk: Disk
    write: Callable[[bytes], None]
    interrupt: Interrupt
    deadline: float
    limit_bytes: int | None
    peak_bytes: int = 0
    stopped_because: str = ""
    measure_at: float = 0.0
    measure_disk_at: float = 0.0

    def until_the_end(self) -> Ending:
        """Waits until the run has ended, or must be killed. Terminates it at the deadline and gives it GRACE_S."""
        ending, tick_s, look_at = Ending.EXITED, FIRST_TICK_S, time.monotonic()
        # At the timeout a wrapper may die at once, while the training it started still writes its last numbers.
        while self.tree.alive() if ending is Ending.TIMEOUT else self.process.poll() is None:
            self._wait(tick_s)
            now = time.monotonic()
            if now < look_at:
                continue
            if self.interrupt.requested():
                return Ending.INTERRUPTED
            if self._too_much_memory(now):
                return Ending.OUT_OF_MEMORY
            if self._too_many_processes() or self._too_much_disk(now):
                return Ending.STOPPED
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

    def _too_many_processes(self) -> bool:
        if self.tree.has_more_than(limits.MAX_PROCESSES):
            self.stopped_because = f"it started more than {limits.MAX_PROCESSES} processes"
        return bool(self.stopped_because)

    def _too_much_disk(self, now: float) -> bool:
        if now < self.measure_disk_at:
            return False
        if self.disk.used_bytes(self.tree) > limits.MAX_DISK_BYTES:
            self.stopped_because = f"it wrote more than {limits.MAX_DISK_BYTES / 2**30:.3g} GiB"
        took_s = time.monotonic() - now
        self.measure_disk_at = now + max(limits.DISK_TICK_S, took_s / WATCHING_SHARE)
        return bool(self.stopped_because)
