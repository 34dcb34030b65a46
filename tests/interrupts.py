"""Whether a person wants to stop, as tests and benchmarks need it."""

from __future__ import annotations

import time


class Never:
    """Nobody asks to stop."""

    def requested(self) -> bool:
        return False


class After:
    """Somebody does, `delay_s` after this was made; by default never."""

    def __init__(self, delay_s: float = 1e9) -> None:
        self.at = time.monotonic() + delay_s

    def requested(self) -> bool:
        return time.monotonic() >= self.at
