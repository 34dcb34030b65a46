from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from autoresearch_ci.cli.signals import SignalledError, Signals

if sys.platform == "win32":
    pytest.skip("these tests send POSIX signals", allow_module_level=True)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two byte codes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_the_first_signal_asks(number: signal.Signals, code: int) -> None:
    """While the loop is on it is remembered, with the contract's exit code, and nothing is raised."""
    with Signals() as signals:
        signals.gentle = True
        assert not signals.requested()
        assert signals.exit_code == 0
        send(number)
        assert signals.requested()
        assert signals.exit_code == code


def test_the_second_signal_insists() -> None:
    """A person who presses Ctrl-C twice wants to leave at once."""
    with Signals() as signals:
        signals.gentle = True
        send(signal.SIGINT)
        with pytest.raises(SignalledError):
            send(signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_the_loop_the_first_signal_raises(number: signal.Signals, code: int) -> None:
    """While an image is built nothing is to be ended gently."""
    with Signals() as signals:
        with pytest.raises(SignalledError) as raised:
            send(number)
        assert raised.value.exit_code == signals.exit_code == code


def test_the_first_signal_hurries() -> None:
    """Whoever may be waiting for a slow remote is told at once, and once."""
    told: list[str] = []
    with Signals() as signals:
        signals.gentle, signals.hurry = True, lambda: told.append("hurry")
        send(signal.SIGINT)
        with pytest.raises(SignalledError):
            send(signal.SIGTERM)
    assert told == ["hurry"]


def test_a_forgotten_signal_is_none() -> None:
    """After Ctrl-C at a shell comes the report, and the next Ctrl-C is the first again."""
    with Signals() as signals:
        signals.gentle = True
        send(signal.SIGINT)
        signals.forget()
        assert not signals.requested()
        send(signal.SIGINT)
        assert signals.exit_code == 130


def test_handlers_are_put_back() -> None:
    """What was there before is there afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
