"""The image of a container platform, built once for each set of inputs: its tag is their hash."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import ImageNotFound

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.engine import one_line, talking

REPOSITORY: Final = "autoresearch-ci"
# Of silence: pip says nothing while it fetches and unpacks gigabytes of CUDA libraries.
BUILD_TIMEOUT_S: Final = 3600
_SHOWN_LINES: Final = 5  # of a failed build, in its error


@dataclass(frozen=True, slots=True)
class Image:
    """An image that runs can start from. `built`: whether this call built it."""

    tag: str
    id: str
    built: bool


def images_folder(package: Path = Path(__file__).parents[1]) -> Path:
    """The folder with one folder for each platform: inside the installed package, or beside it in a checkout."""
    for folder in (package / "_images", package.parent / "images"):
        if folder.is_dir():
            return folder
    raise MachineError("this installation has no `images` folder", hint="install autoresearch-ci again")


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
) -> Image:
    """The image for `platform` (`cpu` or `cuda`) with these inputs; built when this machine does not have it yet.

    `base_image`: the Dockerfile's own when None. `requirements`: the content of the repository's requirements file.
    `torch_version`: the Dockerfile's own when None, no torch when empty. `build_args`: see images/README.md. `on_line`
    gets each line of the build's output. Raises MachineError when the base cannot be had or the build fails.
    """
    dockerfile = _dockerfile(platform)
    base = base_image or default_base(dockerfile)
    arguments = {**build_args, "BASE_IMAGE": base}
    if torch_version is not None:
        arguments["TORCH_VERSION"] = torch_version
    inputs = {
        "dockerfile": dockerfile.decode(),
        "base": _base_id(client, base, on_line),
        "requirements": (requirements or b"").hex(),
        "arguments": arguments,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    tag = f"{REPOSITORY}/{platform}:{digest[:16]}"
    if (image_id := _find(client, tag)) is not None:
        return Image(tag, image_id, built=False)
    context = _context({"Dockerfile": dockerfile, "requirements.txt": requirements or b""})
    with talking("to build the image"):
        output = client.api.build(
            fileobj=context,
            custom_context=True,
            tag=tag,
            buildargs=arguments,
            network_mode=build_network(build_args),
            labels={REPOSITORY: "image"},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=BUILD_TIMEOUT_S,
        )
        _follow_build(platform, output, on_line)
        return Image(tag, str(client.images.get(tag).id), built=True)


def _dockerfile(platform: str) -> bytes:
    try:
        return (images_folder() / platform / "Dockerfile").read_bytes()
    except FileNotFoundError as error:
        raise MachineError(
            f"there is no container image for the platform {platform}", hint='use `executor = "native"` on it'
        ) from error


def default_base(dockerfile: bytes) -> str:
    """The base image that a Dockerfile of ours names itself."""
    match = re.search(rb"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert match is not None, "every Dockerfile of ours names its base"
    return match[1].decode()


def _find(client: docker.DockerClient, name: str) -> str | None:
    """The id of a local image."""
    with talking("to look for an image"):
        try:
            return str(client.images.get(name).id)
        except ImageNotFound:
            return None


def _base_id(client: docker.DockerClient, base: str, on_line: Callable[[str], None]) -> str:
    """The id of the base image, pulled only when it is not here: a second session asks no registry."""
    if (image_id := _find(client, base)) is not None:
        return image_id
    on_line(f"Pulling {base}")
    try:
        with talking(f"to pull {base}"):
            return str(client.images.pull(base).id)
    except MachineError as error:
        raise MachineError(
            f"the base image {base} cannot be pulled: {one_line(str(error.__cause__))}",
            hint="check its name and the network, log in to its registry, or set `base-image` to one that is here",
        ) from error


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
