"""The container engine: finding it, and its errors in words that say what to do next."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import docker
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from autoresearch_ci.errors import MachineError

OLDEST_API: Final = (1, 41)  # Docker Engine 20.10, as cibuildwheel asks for
REQUEST_TIMEOUT_S: Final = 60
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_NATIVE: Final = 'or use `executor = "native"`, which has no wall around the script'


def connect(environ: Mapping[str, str] | None = None) -> docker.DockerClient:
    """A client of the engine that `DOCKER_HOST` names, or of this machine's own.

    Raises MachineError when none answers, when this user may not speak to it, or when it is older than Docker 20.10.
    """
    environ = os.environ if environ is None else environ
    try:
        client = docker.from_env(environment=dict(environ), timeout=REQUEST_TIMEOUT_S)
    except DockerException as error:
        raise no_engine(str(error), environ) from error
    version = client.api.api_version
    if tuple(int(part) for part in version.split(".")) < OLDEST_API:
        client.close()
        raise MachineError(
            f"the container engine is too old: API {version}", hint="update to Docker Engine 20.10 or newer"
        )
    return client


def no_engine(cause: str, environ: Mapping[str, str]) -> MachineError:
    """Why there is no engine, judged by docker-py's words and by where this program runs."""
    if "Permission denied" in cause:
        return MachineError(
            "this user may not speak to the container engine",
            hint=f"add the user to the group `docker` and log in again, {_NATIVE}",
        )
    if "KUBERNETES_SERVICE_HOST" in environ and "DOCKER_HOST" not in environ:
        return MachineError(
            "no container engine: pods have no Docker socket",
            hint="use the runner scale set's containerMode `dind`, or set DOCKER_HOST",
        )
    if "DOCKER_HOST" in environ:
        return MachineError(
            "no container engine answers at DOCKER_HOST", hint=f"start it, or unset DOCKER_HOST, {_NATIVE}"
        )
    return MachineError("no container engine answers", hint=f"install and start Docker, or set DOCKER_HOST, {_NATIVE}")


@contextmanager
def talking(doing: str) -> Iterator[None]:
    """Turns what the engine, or the way to it, reports into a MachineError; `doing`: what was asked, `to start …`."""
    try:
        yield
    except APIError as error:
        message = one_line(error.explanation or str(error))
        raise MachineError(f"the container engine refused {doing}: {message}", hint=_remedy(message)) from error
    except (
        DockerException,
        RequestException,
        HTTPError,
    ) as error:  # docker-py lets some of its transport's errors through
        raise MachineError(
            f"the container engine stopped answering when asked {doing}",
            hint="see `docker info` and the engine's own log",
        ) from error


def _remedy(message: str) -> str:
    if "could not select device driver" in message:
        return "install the NVIDIA Container Toolkit, restart the engine, and try `docker run --gpus all`"
    if "no space left" in message:
        return "make room on the engine's disk, as by `docker system prune`"
    if "source path does not exist" in message:
        return "the engine must see this machine's folders: is DOCKER_HOST another machine, or a folder not shared?"
    return "see `docker info` and the engine's own log"


def one_line(text: str, limit: int = 300) -> str:
    """The text of an engine or a build as one short line, without colours and other control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in _COLOUR.sub("", text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
