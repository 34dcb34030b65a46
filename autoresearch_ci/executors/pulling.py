"""Getting images from a registry, through the engine: in bounded time, with a line now and then.

docker-py's own `pull` waits for ever, and passes over what goes wrong in the middle; so the engine's HTTP API is spoken here
(https://docs.docker.com/reference/api/engine/, DistributionInspect and ImageCreate), over docker-py's connection.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import docker
from docker.auth import get_config_header, resolve_repository_name
from docker.errors import create_api_error_from_http_exception
from docker.utils import parse_repository_tag
from requests import HTTPError, Response
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import Timeout

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.engine import one_line, talking

_REPORT_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a registry may take, in seconds: to say whether it has an image, between two signs of life, and in all."""

    answer_s: float = 10.0  # without a network an engine needs up to half a minute to say so
    silence_s: float = 60.0
    whole_s: float = 1800.0


PATIENCE: Final = Patience()


def machines_of(client: docker.DockerClient, reference: str, patience: Patience = PATIENCE) -> list[str]:
    """The machines that an image in a registry is for, as `linux/amd64`; empty when the engine cannot tell.

    Raises MachineError when the registry does not have it, does not give it, or does not answer in time.
    """
    with _bounded(f"to look for {reference}", patience.answer_s):
        response = client.api.get(
            f"{_api(client)}/distribution/{reference}/json",
            headers=_login(client, reference),
            timeout=patience.answer_s,
        )
        found = _checked(response).json()
    platforms = (platform for platform in found.get("Platforms") or [] if isinstance(platform, dict))
    return [f"{platform.get('os')}/{platform.get('architecture')}" for platform in platforms]


def pull(
    client: docker.DockerClient,
    reference: str,
    on_line: Callable[[str], None],
    patience: Patience = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Pulls an image and gives its id; `on_line` gets how far it is. Raises MachineError when it fails or takes too long."""
    doing = f"to pull {reference}"
    on_line(f"Pulling {reference}")
    name, tag = parse_repository_tag(reference)
    deadline = clock() + patience.whole_s
    progress = Progress()
    last_said = clock()
    with _bounded(doing, patience.silence_s):
        response = client.api.post(
            f"{_api(client)}/images/create",
            params={"fromImage": name, "tag": tag or "latest"},
            headers=_login(client, reference),
            stream=True,
            timeout=patience.silence_s,
        )
        with response:  # closed before its end, the engine stops pulling
            for line in filter(None, _checked(response).iter_lines()):
                event = json.loads(line)
                if "error" in event:
                    raise MachineError(
                        f"the container engine was refused when asked {doing}: {one_line(str(event['error']))}"
                    )
                progress.take(event)
                if clock() > deadline:
                    raise MachineError(f"it took longer than {patience.whole_s:.0f} s {doing}")
                if clock() - last_said >= _REPORT_EVERY_S:
                    on_line(progress.text)
                    last_said = clock()
        return str(client.images.get(reference).id)


@dataclass(slots=True)
class Progress:
    """How far a pull is, from the engine's events about its layers."""

    _layers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        layer, detail = str(event.get("id", "")), event.get("progressDetail") or {}
        match event.get("status"):
            case "Downloading" if "total" in detail:
                self._layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
            case "Download complete" | "Pull complete" if layer in self._layers:
                total = self._layers[layer][1]
                self._layers[layer] = (total, total)

    @property
    def text(self) -> str:
        """One line for a person."""
        done, total = (sum(sizes) for sizes in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        return (
            f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if done < total else f"{total / 1e6:.0f} MB are here; unpacking"
        )


@contextmanager
def _bounded(doing: str, silence_s: float) -> Iterator[None]:
    """`talking`, and silence in words that name the registry: the engine itself answers at once."""
    with talking(doing):
        try:
            yield
        except (Timeout, RequestsConnectionError) as error:
            if "timed out" not in str(error).lower():
                raise
            raise MachineError(f"no answer within {silence_s:.0f} s when asked {doing}") from error


def _api(client: docker.DockerClient) -> str:
    return f"{client.api.base_url}/v{client.api.api_version}"


def _login(client: docker.DockerClient, reference: str) -> dict[str, str]:
    """The header with the user's own login at the image's registry, when there is one."""
    registry, _ = resolve_repository_name(parse_repository_tag(reference)[0])
    header = get_config_header(client.api, registry)
    return {} if header is None else {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else str(header)}


def _checked(response: Response) -> Response:
    try:
        response.raise_for_status()
    except HTTPError as error:
        create_api_error_from_http_exception(error)
    return response
