from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from autoresearch_ci.cli.signals import Signals

if sys.platform == "win32":
    pytest.skip("these tests send POSIX signals", allow_module_level=True)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two byte codes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_the_first_signal_asks(number: signal.Signals, code: int) -> None:
    """It is remembered, with the contract's exit code, and nothing is raised."""
    with Signals() as signals:
        assert not signals.requested()
        assert signals.exit_code == 0
        send(number)
        assert signals.requested()
        assert signals.exit_code == code


def test_the_second_signal_insists() -> None:
    """A person who presses Ctrl-C twice wants to leave at once."""
    with Signals():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    """What was there before is there afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
