"""What can go wrong that a person can act on: one class, and one exit code, per kind of thing.

An outcome is not an error: a crashed run is a value. These classes are for "the session cannot go on".
"""

from __future__ import annotations

from typing import ClassVar


class AutoresearchError(Exception):
    """The base of every error the program raises on purpose.

    `message` is one line that says what is wrong; `hint` is one line that says what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(AutoresearchError):
    """A setting is missing, unknown or has a value it cannot have."""

    exit_code = 2


class BaselineError(AutoresearchError):
    """The untouched training script does not run, or prints no metric."""

    exit_code = 3


class MachineError(AutoresearchError):
    """The machine lacks what the runs need: an engine, a device, an image, disk space."""

    exit_code = 4


class ProposerError(AutoresearchError):
    """The proposer failed again and again; nothing can be tried."""

    exit_code = 5


class GitError(AutoresearchError):
    """The repository or its remote cannot be used as the session needs it."""

    exit_code = 6


class ForgeError(AutoresearchError):
    """The work is pushed, but the pull request could not be made or updated."""

    exit_code = 7
