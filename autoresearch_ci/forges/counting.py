"""How many requests a session has sent to the forge: GitHub gives an hour's budget, and a night is to stay far below it."""

from __future__ import annotations

import threading


class Requests:
    """Counts requests, from any thread. Reads only look; writes change something, and GitHub counts each five times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads = 0
        self._writes = 0

    def count(self, verb: str) -> None:
        """One request that is about to be sent."""
        with self._lock:
            if verb in ("GET", "HEAD"):
                self._reads += 1
            else:
                self._writes += 1

    @property
    def reads(self) -> int:
        return self._reads

    @property
    def writes(self) -> int:
        return self._writes

    @property
    def total(self) -> int:
        with self._lock:
            return self._reads + self._writes
