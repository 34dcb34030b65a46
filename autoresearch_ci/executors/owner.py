"""Whose a container is: labels by which a later session finds what a dead one left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

_CLOCK_SLACK_S = 5.0  # a start time is counted from the boot time, which moves when the clock is set


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that starts a session's containers.

    `started`: seconds since the epoch. `host` tells apart machines, and runners in containers that share an engine,
    whose pids mean nothing to each other.
    """

    FILTER: ClassVar[str] = "autoresearch-ci=run"

    session: str
    host: str
    pid: int
    started: float

    @classmethod
    def of_this_process(cls, session: str) -> Owner:
        return cls(session=session, host=_host(), pid=os.getpid(), started=psutil.Process().create_time())

    def labels(self) -> dict[str, str]:
        return {
            "autoresearch-ci": "run",
            "autoresearch-ci.session": self.session,
            "autoresearch-ci.host": self.host,
            "autoresearch-ci.pid": str(self.pid),
            "autoresearch-ci.pid-started": str(self.started),
        }

    def owns(self, labels: Mapping[str, str]) -> bool:
        """Whether a container with these labels is of this very session and process."""
        return labels.items() >= self.labels().items()

    @staticmethod
    def is_gone(labels: Mapping[str, str]) -> bool:
        """Whether the process that these labels name is surely dead: it lived here, its pid is free or another's."""
        if labels.get("autoresearch-ci.host") != _host():
            return False
        try:
            pid, started = int(labels["autoresearch-ci.pid"]), float(labels["autoresearch-ci.pid-started"])
            return bool(abs(psutil.Process(pid).create_time() - started) > _CLOCK_SLACK_S)
        except psutil.NoSuchProcess:
            return True
        except (KeyError, ValueError, psutil.AccessDenied):
            return False


def _host() -> str:
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no such thing on macOS and Windows
        return socket.gethostname()
