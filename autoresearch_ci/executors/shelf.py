"""Where a run in a container leaves its outputs until they are taken over: memory, of a limited size, never the disk.

A tmpfs lives as long as somebody has it mounted, and the run is over before its outputs are wanted. So it is a volume of
the engine, and a second container in which nothing runs holds it meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.models.volumes import Volume
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from autoresearch_ci.executors.engine import talking
from autoresearch_ci.executors.mounts import OUTPUTS, SHELF_OPTIONS, shelf_mount
from autoresearch_ci.executors.outputs import from_tar
from autoresearch_ci.executors.wall import wall

HOLDER_MEMORY_BYTES: Final = 64 * 2**20
HOLDER_PIDS: Final = 16


class Shelf:
    """The outputs of one run, in the engine's keeping. `name`: of the volume, to be mounted into the run."""

    def __init__(self, name: str, holder: Container) -> None:
        self.name = name
        self._holder = holder

    def take_over(self, folder: Path) -> str:
        """Takes what may cross into `folder`; a note on what was left out, in one line."""
        try:
            stream, _ = self._holder.get_archive(str(OUTPUTS))
            with closing(
                cast(Generator[bytes, None, None], stream)
            ):  # the engine lets no container go while somebody reads from it
                return from_tar(stream, folder)
        except (DockerException, RequestException, HTTPError):
            # Names and depths that the engine itself stumbles over; when it is the engine that is gone, the next word to
            # it says so.
            return "left out all that the engine could not read"


@contextmanager
def shelf(client: docker.DockerClient, image: str, name: str, labels: dict[str, str]) -> Iterator[Shelf]:
    """A shelf for one run, removed on every path."""
    name = f"autoresearch-ci-{name}-outputs-{uuid.uuid4().hex[:8]}"
    with talking("to make room for outputs"):
        volume = client.volumes.create(name, driver="local", driver_opts=SHELF_OPTIONS, labels=labels)
    try:
        with talking("to make room for outputs"):
            holder = client.containers.create(
                image,
                ["sleep", "2147483647"],
                name=name,
                labels=labels,
                pids_limit=HOLDER_PIDS,
                mem_limit=HOLDER_MEMORY_BYTES,
                memswap_limit=HOLDER_MEMORY_BYTES,
                mounts=[shelf_mount(name, read_only=True)],
                **wall(),
            )
        try:
            with talking("to make room for outputs"):
                holder.start()
            yield Shelf(name, holder)
        finally:
            remove(holder)
    finally:
        remove(volume)


def remove(thing: Container | Volume) -> None:
    """Removes a container or a volume, unless it is gone or going already."""
    options: dict[str, Any] = {"v": True} if isinstance(thing, Container) else {}
    with talking("to remove a run"):
        try:
            thing.remove(force=True, **options)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # somebody else is removing it
                raise
