"""The image of a container platform: here already, pulled ready-made, or built; never built twice from the same inputs.

Two steps: the environment, which anybody with the same recipe shares, and the repository's own requirements on top of it.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import docker
from docker.errors import APIError, ImageNotFound

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.engine import one_line, talking
from autoresearch_ci.executors.published import (
    Recipe,
    images_folder,
    recipe_of,
    reference,
    short_hash,
)
from autoresearch_ci.executors.pulling import PATIENCE, Patience, machines_of, pull

REPOSITORY: Final = "autoresearch-ci"
# Of silence: pip says nothing while it fetches and unpacks gigabytes of CUDA libraries.
BUILD_TIMEOUT_S: Final = 3600
BASE_PATIENCE: Final = Patience(silence_s=300, whole_s=4 * 3600)  # nothing goes on without it; bases of 20 GB exist
_SHOWN_LINES: Final = 5  # of a failed build, in its error
_SOURCES: Final = ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_FIND_LINKS", "TORCH_INDEX_URL")  # where packages come from


class Origin(StrEnum):
    """Where an image came from in this session."""

    CACHED = "cached"
    PULLED = "pulled"
    BUILT = "built"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that runs can start from. `under`: the environment below it, when it adds the repository's requirements."""

    tag: str
    id: str
    origin: Origin
    under: Image | None = None

    @property
    def built(self) -> bool:
        return self.origin is Origin.BUILT

    def __str__(self) -> str:
        return f"{self.origin}: {self.tag}" + (f", on {self.under}" if self.under else "")


def native_requirements() -> str:
    """What the native environment on Apple Silicon installs: the text of a requirements file."""
    return (images_folder() / "mps" / "requirements.txt").read_text(encoding="utf-8")


def ensure_image(
    client: docker.DockerClient,
    *,
    platform: str,
    base_image: str | None,
    requirements: bytes | None,
    torch_version: str | None,
    build_args: Mapping[str, str],
    on_line: Callable[[str], None],
    registry: str | None = None,
    patience: Patience = PATIENCE,
) -> Image:
    """The image for `platform` (`cpu` or `cuda`) with these inputs; made when this machine does not have it yet.

    `base_image`: the Dockerfile's own when None. `requirements`: the content of the repository's requirements file.
    `torch_version`: the Dockerfile's own when None, no torch when empty. `build_args`: see images/README.md. `on_line`
    gets each line of what is done. `registry`: where the environment may be found ready-made under the name of its recipe;
    it is built when it is not there, or not in time. Raises MachineError when the base cannot be had or a build fails.
    """
    arguments = dict(build_args)
    if torch_version is not None:
        arguments["TORCH_VERSION"] = torch_version
    recipe = recipe_of(platform, base_image=base_image, arguments=arguments)
    environment = _environment(client, recipe, registry, on_line, patience)
    return _with_requirements(client, environment, recipe, requirements, on_line) if requirements else environment


def _environment(
    client: docker.DockerClient,
    recipe: Recipe,
    registry: str | None,
    on_line: Callable[[str], None],
    patience: Patience,
) -> Image:
    """What is here comes first, whether it was pulled or built: a second session asks no registry."""
    name = None if registry is None else reference(registry, recipe)
    if name is not None and (image_id := _find(client, name)) is not None and not _misfit(client, name, recipe):
        return Image(name, image_id, Origin.CACHED)
    base_id = _find(client, recipe.base)
    if base_id is not None and (image_id := _find(client, tag := _built_tag(recipe, base_id))) is not None:
        return Image(tag, image_id, Origin.CACHED)
    if name is not None and (pulled := _ready_made(client, name, recipe, on_line, patience)) is not None:
        return pulled
    tag = _built_tag(recipe, base_id or _pull_base(client, recipe.base, on_line))
    if (image_id := _find(client, tag)) is not None:
        return Image(tag, image_id, Origin.CACHED)
    files = {"Dockerfile": recipe.dockerfile.encode()}
    image_id = _build(client, tag, recipe.platform, recipe.arguments, files, on_line, recipe.labels)
    return Image(tag, image_id, Origin.BUILT)


def _built_tag(recipe: Recipe, base_id: str) -> str:
    """The local name of what was built. The base counts by its id: a name of the user's own may have got a new image."""
    return f"{REPOSITORY}/{recipe.platform}:{short_hash({'recipe': recipe.digest, 'base': base_id})}"


def _ready_made(
    client: docker.DockerClient, name: str, recipe: Recipe, on_line: Callable[[str], None], patience: Patience
) -> Image | None:
    """The environment from a registry; None, and a line that says why, when there is none for this machine."""
    try:
        machine = _machine(client)
        offered = machines_of(client, name, patience)
        if offered and machine not in offered:
            raise MachineError(f"{name} is not for {machine}, only for {', '.join(offered)[:100]}")
        image_id = pull(client, name, on_line, patience)
        if misfit := _misfit(client, name, recipe):
            with talking(f"to remove {name}"):
                client.images.remove(name)
            raise MachineError(f"what {name} gave {misfit}")
    except MachineError as error:
        on_line(f"No ready-made environment, so one is built: {error.message}")
        return None
    return Image(name, image_id, Origin.PULLED)


def _misfit(client: docker.DockerClient, name: str, recipe: Recipe) -> str:
    """Why a local image is not what its name promises, in words that follow its name; empty when it is."""
    with talking("to look at an image"):
        image = client.images.get(name)
    labels = image.labels or {}
    wrong = {
        label: labels.get(label, "nothing") for label, value in recipe.labels.items() if labels.get(label) != value
    }
    if wrong:
        return "has another label: " + one_line(
            ", ".join(f"{label}={value}" for label, value in wrong.items()), limit=100
        )
    is_for, machine = f"{image.attrs.get('Os')}/{image.attrs.get('Architecture')}", _machine(client)
    return "" if is_for == machine else f"is for {is_for[:50]}, and this machine is {machine}"


def _machine(client: docker.DockerClient) -> str:
    """What the engine runs on, as `linux/amd64`."""
    with talking("what it runs on"):
        version = client.version()
    return f"{version.get('Os')}/{version.get('Arch')}"


def _with_requirements(
    client: docker.DockerClient,
    environment: Image,
    recipe: Recipe,
    requirements: bytes,
    on_line: Callable[[str], None],
) -> Image:
    """The environment with the repository's requirements installed on top."""
    dockerfile = (images_folder() / "requirements" / "Dockerfile").read_bytes()
    sources = {name: value for name, value in recipe.arguments.items() if name in _SOURCES}
    inputs = {
        "dockerfile": dockerfile.decode(),
        "under": environment.id,
        "text": requirements.hex(),
        "sources": sources,
    }
    tag = f"{REPOSITORY}/{recipe.platform}:{short_hash(inputs)}"
    if (image_id := _find(client, tag)) is not None:
        return Image(tag, image_id, Origin.CACHED, environment)
    files = {"Dockerfile": dockerfile, "requirements.txt": requirements}
    arguments = {**sources, "ENVIRONMENT": environment.tag}
    return Image(tag, _build(client, tag, recipe.platform, arguments, files, on_line), Origin.BUILT, environment)


def _find(client: docker.DockerClient, name: str) -> str | None:
    """The id of a local image."""
    with talking("to look for an image"):
        try:
            return str(client.images.get(name).id)
        except ImageNotFound:
            return None


def _pull_base(client: docker.DockerClient, base: str, on_line: Callable[[str], None]) -> str:
    """The id of the base image, which is not here yet."""
    try:
        return pull(client, base, on_line, BASE_PATIENCE)
    except MachineError as error:
        why = error.__cause__.explanation if isinstance(error.__cause__, APIError) else error.message
        raise MachineError(
            f"the base image {base} cannot be pulled: {one_line(str(why))}",
            hint="check its name and the network, log in to its registry, or set `base-image` to one that is here",
        ) from error


def _build(
    client: docker.DockerClient,
    tag: str,
    platform: str,
    arguments: Mapping[str, str],
    files: Mapping[str, bytes],
    on_line: Callable[[str], None],
    labels: Mapping[str, str] | None = None,
) -> str:
    """Builds an image from these files, line by line, and gives its id."""
    with talking("to build the image"):
        output = client.api.build(
            fileobj=_context(files),
            custom_context=True,
            tag=tag,
            buildargs=dict(arguments),
            network_mode=build_network(arguments),
            labels={REPOSITORY: "image", **(labels or {})},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=BUILD_TIMEOUT_S,
        )
        _follow_build(platform, output, on_line)
        return str(client.images.get(tag).id)


def build_network(build_args: Mapping[str, str]) -> str | None:
    """The engine's default; the host's when packages come from its loopback, which no other network reaches."""
    sources = " ".join(build_args.get(name, "") for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "TORCH_INDEX_URL"))
    return "host" if re.search(r"//([^/@\s]*@)?(localhost|127\.\d+\.\d+\.\d+|\[::1\])([:/\s]|$)", sources) else None


def _context(files: Mapping[str, bytes]) -> io.BytesIO:
    """A build context whose bytes depend on the files alone, so that the engine's layer cache can hit."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def _follow_build(platform: str, output: Iterable[dict[str, Any]], on_line: Callable[[str], None]) -> None:
    """Passes the output on line by line; raises MachineError with the last lines when the build fails."""
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    unfinished = ""
    for event in output:
        *lines, unfinished = (unfinished + str(event.get("stream", ""))).split("\n")
        if "error" in event:
            lines.append(unfinished)
        for line in filter(None, map(str.strip, lines)):
            last.append(line)
            on_line(line)
        if "error" in event:
            shown = one_line(" / ".join([*last, one_line(str(event["error"]))]), limit=1000)
            raise MachineError(
                f"the {platform} image cannot be built: {shown}",
                hint="check `base-image`, `requirements` and `build-args`; the whole output is above",
            )
