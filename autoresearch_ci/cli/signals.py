"""How a person or a runner stops a session: the first signal asks, the second insists."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self


class Signals:
    """While entered: the first SIGINT, SIGTERM or SIGHUP is remembered (`requested`), a second one raises KeyboardInterrupt.

    GitHub's runner sends SIGINT, 7.5 s later SIGTERM, and kills the tree 2.5 s after that (runner, ProcessInvoker.cs); a lost
    terminal sends SIGHUP.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for the others; 0 when none came."""
        if self.received is None:
            return 0
        return 128 + (signal.SIGINT if self.received is signal.SIGINT else signal.SIGTERM)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):  # Windows has no SIGHUP
                which = getattr(signal, name)
                self._before[which] = signal.signal(which, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
