"""One push at a time, beside the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_S = 0.2


class Courier:
    """Makes a push in a thread of its own, which never keeps the process from ending: that of an executor does."""

    def __init__(self) -> None:
        self._flight: _Flight | None = None

    def send(self, push: Callable[[], bool]) -> None:
        """Starts `push`; the one before it must have landed."""
        self._flight = _Flight(push)
        self._flight.start()

    def land(self, longest_s: Callable[[], float]) -> bool | None:
        """What the push in flight came to, once: False when there is none. Raises what it raised.

        None: it is still under way after `longest_s`, which is asked again and again, for a hurry makes it shorter.
        """
        flight, began = self._flight, time.monotonic()
        if flight is None:
            return False
        while flight.is_alive():
            if time.monotonic() > began + longest_s():
                return None
            flight.join(_LOOK_S)
        self._flight = None
        if flight.error is not None:
            raise flight.error
        return flight.done


class _Flight(threading.Thread):
    def __init__(self, push: Callable[[], bool]) -> None:
        super().__init__(name="push", daemon=True)
        self._push = push
        self.done = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.done = self._push()
        except BaseException as error:  # noqa: BLE001 - raised again where the push lands
            self.error = error
