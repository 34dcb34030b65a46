"""Images built by a real engine, from what is on this machine alone."""

from __future__ import annotations

import functools
import http.server
import threading
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.image import Image, Origin, build_network, ensure_image, native_requirements
from autoresearch_ci.executors.published import default_base, images_folder

LOOPBACK = {"PIP_FIND_LINKS": "http://127.0.0.1:9/"}  # a build on the host's network; nothing answers there


@pytest.fixture
def unique() -> str:
    """A name that no build before has seen."""
    return f"tiny_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def built_images(engine: docker.DockerClient) -> Iterator[list[Image]]:
    """Images put into this list are removed at the end."""
    images: list[Image] = []
    yield images
    for tag in {image.tag for image in images}:
        engine.images.remove(tag)


@pytest.fixture
def wheels(tmp_path: Path, unique: str) -> Iterator[str]:
    """The address of a folder on the loopback interface with one wheel, of the package `unique`."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    information = f"{unique}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{unique}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{unique}.py", "ANSWER = 42\n")
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {unique}\nVersion: 1.0\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def build(engine: docker.DockerClient, base_image: str, **changes: Any) -> tuple[Image, list[str]]:
    lines: list[str] = []
    arguments: dict[str, Any] = {
        "platform": "cpu",
        "base_image": base_image,
        "requirements": None,
        "torch_version": "",
        "build_args": LOOPBACK,
    }
    return ensure_image(engine, **{**arguments, **changes}, on_line=lines.append), lines


def test_an_image_is_built_once_and_holds_what_was_asked_for(
    engine: docker.DockerClient, base_image: str, built_images: list[Image], wheels: str, unique: str
) -> None:
    """The repository's requirements are in the image, the output came line by line, a second session builds nothing."""
    changes = {
        "requirements": f"{unique}==1.0\n".encode(),
        "build_args": {"PIP_FIND_LINKS": wheels, "PIP_INDEX_URL": wheels},
    }
    first, lines = build(engine, base_image, **changes)
    assert first.under is not None
    built_images += [first, first.under]
    assert first.built
    assert first.tag.startswith("autoresearch-ci/cpu:")
    assert len(first.tag.rpartition(":")[2]) == 16
    assert any(
        line.startswith("Successfully installed") and unique.replace("_", "-") in line.replace("_", "-")
        for line in lines
    )
    assert not any("\n" in line for line in lines)

    second, no_lines = build(engine, base_image, **changes)
    assert (second.tag, second.id, second.built, no_lines) == (first.tag, first.id, False, [])

    program = f"import {unique}, getpass, sys; print({unique}.ANSWER, getpass.getuser(), sys.prefix)"
    output = engine.containers.run(first.id, ["python", "-c", program], network_mode="none", remove=True)
    assert output.decode() == "42 runner /opt/venv\n"


def test_the_cuda_image_has_a_compiler(engine: docker.DockerClient, base_image: str, built_images: list[Image]) -> None:
    """The CUDA image compiles against Python's headers, as torch.compile does."""
    image, _ = build(engine, base_image, platform="cuda")
    built_images.append(image)
    program = (
        "import pathlib, subprocess, sysconfig\n"
        "pathlib.Path('/tmp/x.c').write_text('#include <Python.h>')\n"
        "subprocess.run(['gcc', '-c', '-I', sysconfig.get_path('include'), '/tmp/x.c', '-o', '/tmp/x.o'], check=True)\n"
    )
    engine.containers.run(image.id, ["python", "-c", program], network_mode="none", remove=True)


def test_every_input_is_in_the_tag(engine: docker.DockerClient, base_image: str, built_images: list[Image]) -> None:
    """Other requirements, other arguments, another platform: another image; the same again: the same. No requirements need a new environment."""
    variants: list[dict[str, Any]] = [
        {},
        {"requirements": b"# nothing\n"},
        {"build_args": LOOPBACK | {"TORCH_INDEX_URL": "http://127.0.0.1:9/torch"}},
        {"platform": "cuda"},
    ]
    images = [build(engine, base_image, **variant)[0] for variant in [*variants, {}]]
    built_images += images[1:3]  # the others are kept for the tests of runs
    assert len({image.tag for image in images}) == len(variants)
    assert images[0].tag == images[-1].tag
    assert images[1].under is not None  # the requirements came on top of what was here
    assert (images[1].under.tag, images[1].under.origin) == (images[0].tag, Origin.CACHED)


def test_a_failed_build_says_why_and_leaves_nothing(
    engine: docker.DockerClient, base_image: str, wheels: str, unique: str
) -> None:
    """A package that cannot be had ends the build with pip's own words, in one line; no container stays behind."""
    before = {container.id for container in engine.containers.list(all=True)}
    lines: list[str] = []
    with pytest.raises(MachineError, match=f"No matching distribution found for {unique}_missing") as caught:
        ensure_image(
            engine,
            platform="cpu",
            base_image=base_image,
            requirements=f"{unique}_missing\n".encode(),
            torch_version="",
            build_args={"PIP_INDEX_URL": wheels},
            on_line=lines.append,
        )
    assert caught.value.message.isprintable()
    assert "requirements" in caught.value.hint
    assert any(unique in line for line in lines)
    assert {container.id for container in engine.containers.list(all=True)} <= before


def test_a_base_image_that_cannot_be_had_is_named(engine: docker.DockerClient) -> None:
    """A base image that is neither here nor to be pulled is told by its name, before anything is built."""
    name = "127.0.0.1:9/autoresearch-ci/nowhere:latest"
    with pytest.raises(MachineError, match=f"base image {name} cannot be pulled") as caught:
        build(engine, name)
    assert "base-image" in caught.value.hint


def test_a_platform_without_an_image_is_told(engine: docker.DockerClient) -> None:
    """MPS has no container image, and the error says what to use."""
    with pytest.raises(MachineError, match="mps") as caught:
        build(engine, "any", platform="mps")
    assert "native" in caught.value.hint


@pytest.mark.parametrize("name", ["PIP_FIND_LINKS", "PIP_INDEX_URL", "TORCH_INDEX_URL"])
@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("http://127.0.0.1:8080/simple", "host"),
        ("http://user@127.8.0.1/", "host"),
        ("http://localhost", "host"),
        ("https://[::1]:80/", "host"),
        ("https://example.org/127.0.0.1/", None),
        ("https://localhost.example.org/", None),
        ("", None),
    ],
)
def test_only_a_loopback_address_opens_the_hosts_network(name: str, address: str, network: str | None) -> None:
    """A build is on the host's network when packages come from the host's own loopback, and else on the engine's."""
    assert build_network({name: address}) == network


def test_the_images_are_found_in_a_package_first_and_beside_it_second(tmp_path: Path) -> None:
    """An installed package brings the folder inside, a checkout beside itself; else it is broken."""
    package = tmp_path / "autoresearch_ci"
    with pytest.raises(MachineError, match="images"):
        images_folder(package)
    (tmp_path / "images").mkdir()
    assert images_folder(package) == tmp_path / "images"
    (package / "_images").mkdir(parents=True)
    assert images_folder(package) == package / "_images"


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_the_default_base_is_the_dockerfiles_own(platform: str) -> None:
    """Without `base-image` an image stands on Debian's Python 3.11, which is read from the Dockerfile."""
    assert default_base((images_folder() / platform / "Dockerfile").read_text()) == "python:3.11-slim-bookworm"


def test_the_native_environment_installs_torch() -> None:
    """What Apple Silicon gets is a requirements file with the same torch as the images."""
    assert "torch==2.13.0" in native_requirements().splitlines()
    for platform in ("cpu", "cuda"):
        assert "ARG TORCH_VERSION=2.13.0\n" in (images_folder() / platform / "Dockerfile").read_text()
