"""The program: `autoresearch-ci` and `python -m autoresearch_ci`.

Importing takes half a second. A signal within it ends the program quietly: nothing was begun, and a traceback from the middle of an
import tells nobody anything. `cli.signals.awake` gives the signals back once a command has all that it needs.
"""

import os
import signal
from types import FrameType


def _leave(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM))


def main() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), _leave)
    from autoresearch_ci.cli import main as command

    command()


if __name__ == "__main__":
    main()
