"""The wall round every container, whatever runs in it: the options of the engine that take its rights away.

The engine's default seccomp profile and masked paths hold because nothing here replaces them; no device, socket or folder
of the host is in a container that `mounts` does not name.
"""

from __future__ import annotations

from typing import Any, Final

from docker.types import LogConfig, Ulimit

from autoresearch_ci.executors.mounts import SCRATCH_BYTES

RUN_USER: Final = "65532:65532"  # the images' `runner`: a uid that owns nothing on any host


def wall(*, network: str = "none", user: str = RUN_USER, largest_file: int | None = SCRATCH_BYTES) -> dict[str, Any]:
    """Arguments of docker-py for a container that can do nothing. `largest_file`: bytes, None for what writes on a disk."""
    ulimits = [Ulimit(name="core", soft=0, hard=0)]
    if largest_file is not None:
        # A sparse file takes no memory, and a terabyte when somebody reads it.
        ulimits.append(Ulimit(name="fsize", soft=largest_file, hard=largest_file))
    return {
        "init": True,  # reaps orphans, and a SIGTERM ends a script that has no handler, as it would outside
        "network_mode": network,
        "user": user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "ipc_mode": "private",
        "ulimits": ulimits,
        "log_config": LogConfig(type="none"),
    }
