"""SIGINT, SIGTERM and SIGHUP: the first one asks the session to end, a second one ends the waiting."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

ENDING: Final = ("SIGINT", "SIGTERM", "SIGHUP")


class SignalledError(BaseException):
    """A signal that ends the program; `exit_code` is the contract's. No KeyboardInterrupt: Typer would make 130 of every one."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def exit_code_of(received: signal.Signals) -> int:
    """130 for SIGINT, 143 for the others."""
    return 128 + (signal.SIGINT if received is signal.SIGINT else signal.SIGTERM)


def awake() -> None:
    """From here on a signal raises instead of ending the process on the spot: what is begun is put away."""
    for name in ENDING:
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), _raise)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise SignalledError(exit_code_of(signal.Signals(number)))


class Signals:
    """An Interrupt. While `gentle` is set, the first signal is only noted, and the loop ends by itself; any other raises.

    GitHub's runner sends SIGINT, 7.5 s later SIGTERM, and kills the tree 2.5 s after that (runner, ProcessInvoker.cs); a lost
    terminal sends SIGHUP. `hurry` is called once with the first signal, whatever the program is doing then.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.gentle = False
        self.hurry: Callable[[], None] = lambda: None
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for the others; 0 when none came."""
        return 0 if self.received is None else exit_code_of(self.received)

    def forget(self) -> None:
        """As if none had come: the next one is the first."""
        self.received = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self.received = self.received is None, signal.Signals(number)
        if first:
            self.hurry()
        if not (first and self.gentle):
            raise SignalledError(self.exit_code)

    def __enter__(self) -> Self:
        for name in ENDING:
            if hasattr(signal, name):
                which = getattr(signal, name)
                self._before[which] = signal.signal(which, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
