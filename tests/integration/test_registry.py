"""Published environments: a real registry on this machine, a real engine that pushes to it and pulls from it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.client
import http.server
import io
import itertools
import json
import re
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import docker
import pytest
from docker.errors import ImageNotFound

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.engine import connect
from autoresearch_ci.executors.image import Image, Origin, ensure_image
from autoresearch_ci.executors.published import (
    RECIPE_LABEL,
    Recipe,
    recipe_of,
    reference,
    standard_arguments,
    standard_recipe,
)
from autoresearch_ci.executors.pulling import Patience, pull
from tests.integration.conftest import without_engine
from tests.project import Project, wait_for

SHORT: Final = Patience(answer_s=2, silence_s=3, whole_s=60)
LOGIN: Final = base64.b64encode(b"user:hunter2-hunter2").decode()
CONFIG: Final = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
log: {{level: error}}
"""


@pytest.fixture(scope="module")
def registry_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an empty registry."""
    program = shutil.which("docker-registry")
    if program is None:
        without_engine("docker-registry is not installed")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "config.yml").write_text(CONFIG.format(folder=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(port), timeout_s=20)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    try:
        return status(port, "GET", "/v2/") == 200
    except OSError:
        return False


def status(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"})
        return connection.getresponse().status
    finally:
        connection.close()


@dataclass(frozen=True)
class Case:
    """An environment that no test before has seen, and how a session asks for it."""

    engine: docker.DockerClient
    registry: str
    inputs: Mapping[str, Any]
    made: set[str] = field(default_factory=set)

    @property
    def recipe(self) -> Recipe:
        return recipe_of("cpu", base_image=self.inputs["base_image"], arguments=self.inputs["build_args"])

    @property
    def name(self) -> str:
        return reference(self.registry, self.recipe)

    def ensure(
        self, *, registry: str | None = "", patience: Patience = SHORT, **changes: Any
    ) -> tuple[Image, list[str]]:
        """What a session does before it runs anything, and what it says."""
        lines: list[str] = []
        image = ensure_image(
            self.engine,
            **{"requirements": None, **self.inputs, **changes},
            on_line=lines.append,
            registry=self.registry if registry == "" else registry,
            patience=patience,
        )
        self.made.update({self.name, image.tag, *([image.under.tag] if image.under else [])})
        return image, lines

    def publish(self, *instructions: str) -> None:
        """Builds the environment, with further lines of a Dockerfile, pushes it, and leaves nothing here."""
        built, _ = self.ensure(registry=None)
        self.add(built.tag, instructions)
        push(self.engine, self.name)
        self.forget(built.tag, self.name)

    def add(self, tag: str, instructions: Iterable[str]) -> None:
        dockerfile = "\n".join([f"FROM {tag}", *instructions])
        self.engine.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=self.name, rm=True)

    def forget(self, *tags: str) -> None:
        for tag in tags:
            try:
                self.engine.images.remove(tag)
            except ImageNotFound:
                continue


def push(engine: docker.DockerClient, name: str) -> None:
    for event in engine.images.push(name, stream=True, decode=True):
        assert "error" not in event, event


@pytest.fixture
def case(engine: docker.DockerClient, base_image: str, registry_port: int) -> Iterator[Case]:
    """A recipe of its own, by an index that no build asks; the tests' base and no torch, since nothing is fetched."""
    inputs = {
        "platform": "cpu",
        "base_image": base_image,
        "torch_version": None,
        "build_args": {
            "TORCH_VERSION": "",
            "PIP_FIND_LINKS": "http://127.0.0.1:9/",
            "TORCH_INDEX_URL": f"http://127.0.0.1:9/{uuid.uuid4().hex}",
        },
    }
    case = Case(engine, f"127.0.0.1:{registry_port}/autoresearch-ci", inputs)
    yield case
    case.forget(*case.made)


def test_a_published_environment_is_pulled_and_nothing_is_built(case: Case) -> None:
    """What the registry has is taken with its own name; the second session finds it here and says nothing."""
    case.publish()
    pulled, lines = case.ensure()
    assert str(pulled) == f"pulled: {case.name}"
    assert lines[0] == f"Pulling {case.name}"
    assert not any(line.startswith("Step ") for line in lines)
    assert case.engine.images.get(pulled.id).labels[RECIPE_LABEL] == case.recipe.digest
    output = case.engine.containers.run(
        pulled.id, ["python", "-c", "import os; print(os.getuid())"], network_mode="none", remove=True
    )
    assert output.decode() == "65532\n"

    assert case.ensure(registry=case.registry) == (Image(case.name, pulled.id, Origin.CACHED), [])


def test_only_the_requirements_are_built_on_top(case: Case) -> None:
    """With a requirements file the environment is pulled and one thin layer is built; again, and neither is."""
    case.publish()
    first, lines = case.ensure(requirements=b"# nothing\n")
    assert first.under is not None
    assert (first.origin, first.under.tag, first.under.origin) == (Origin.BUILT, case.name, Origin.PULLED)
    dockerfile = [line for line in lines if line.startswith("Step ")]
    assert any("COPY requirements.txt" in line for line in dockerfile)
    assert not any("useradd" in line or "venv" in line for line in dockerfile)
    assert case.engine.images.get(first.id).attrs["Config"]["User"] == "65532:65532"

    second, no_lines = case.ensure(requirements=b"# nothing\n")
    assert (second.id, str(second), no_lines) == (first.id, f"cached: {first.tag}, on cached: {case.name}", [])


def test_an_environment_with_a_wrong_label_is_refused(case: Case) -> None:
    """What is not labelled with the hash in its name is removed again, said, and built instead."""
    case.publish(f"LABEL {RECIPE_LABEL}=0123456789abcdef")
    built, lines = case.ensure()
    assert built.origin is Origin.BUILT
    assert f"No ready-made environment, so one is built: what {case.name} gave has another label" in "\n".join(lines)
    assert "autoresearch-ci.recipe=0123456789abcdef" in "\n".join(lines)
    with pytest.raises(ImageNotFound):
        case.engine.images.get(case.name)
    assert case.ensure() == (Image(built.tag, built.id, Origin.CACHED), [])


def test_an_environment_for_another_machine_is_not_pulled(case: Case, other_machine: str) -> None:
    """An image for other processors than the engine's is left where it is: not one layer of it is fetched."""
    push(case.engine, other_machine)
    built, lines = case.ensure()
    assert built.origin is Origin.BUILT
    assert lines[0].startswith(f"No ready-made environment, so one is built: {case.name} is not for linux/")
    assert lines[0].endswith("only for linux/mips64le")


@pytest.fixture
def other_machine(case: Case) -> str:
    """The name of the case, of an image with the right labels for a processor that no test runs on; it is here, too."""
    layer = tar({"empty": b""})
    config = {
        "architecture": "mips64le", "os": "linux", "config": {"Labels": case.recipe.labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [case.name], "Layers": ["layer.tar"]}]
    files = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    case.engine.images.load(tar({**files, "layer.tar": layer}))
    return case.name


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Faulty(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `fault` says."""

    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        fault = self.server.fault
        if fault == "asks for a login" and self.headers.get("Authorization") != f"Basic {LOGIN}":
            self.answer(401, {"WWW-Authenticate": 'Basic realm="a test"'}, b"")
            return
        layer = "/blobs/" in self.path and self.path != self.server.config
        if fault == "hangs" or (fault == "hangs in a layer" and layer):
            self.server.over.wait(60)
            return
        if isinstance(fault, int) and self.path != "/v2/":
            self.answer(fault, {"Content-Type": "text/html"}, b"<h1>no</h1>")
            return
        self.forward()

    do_HEAD = do_GET  # noqa: N815

    def forward(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=10)
        connection.request(
            self.command, self.path, headers={"Accept": ", ".join(self.headers.get_all("Accept", ["*/*"]))}
        )
        answer = connection.getresponse()
        content = answer.read()
        if "vnd.docker.distribution.manifest.v2" in answer.headers.get("Content-Type", "") and content:
            digest = re.search(rb'"config":.*?"digest": *"(sha256:[0-9a-f]+)"', content, re.DOTALL)
            assert digest is not None
            self.server.config = f"{self.path.split('/manifests/')[0]}/blobs/{digest[1].decode()}"
        kept = ("Content-Type", "Docker-Content-Digest", "Docker-Distribution-Api-Version")
        headers = {name: value for name in kept if (value := answer.headers.get(name))}
        self.answer(answer.status, headers, content, answer.headers.get("Content-Length"))

    def answer(self, code: int, headers: Mapping[str, str], content: bytes, length: str | None = None) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class FaultyServer(http.server.ThreadingHTTPServer):
    """A registry in front of a real one, with a fault."""

    daemon_threads = True

    def __init__(self, behind: int, fault: str | int) -> None:
        super().__init__(("127.0.0.1", 0), Faulty)
        self.behind, self.fault, self.config = behind, fault, ""
        self.asked: list[str] = []
        self.over = threading.Event()


@pytest.fixture
def faulty(registry_port: int) -> Iterator[Callable[[str | int], FaultyServer]]:
    """Starts registries with a fault."""
    with start_faulty(registry_port) as start:
        yield start


@contextmanager
def start_faulty(behind: int) -> Iterator[Callable[[str | int], FaultyServer]]:
    servers: list[FaultyServer] = []

    def start(fault: str | int) -> FaultyServer:
        server = FaultyServer(behind, fault)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, "refused to look for"),
        (403, "refused to look for"),
        (500, "refused to look for"),
        ("hangs", "no answer within 2 s when asked to look for"),
        ("hangs in a layer", "no answer within 3 s when asked to pull"),
    ],
)
def test_a_registry_with_a_fault_costs_little_and_is_said(
    case: Case, faulty: Callable[[str | int], FaultyServer], fault: str | int, words: str
) -> None:
    """Not there, not given, broken, silent, stuck in the middle: one line says so, and the environment is built."""
    case.publish(f"WORKDIR /layer/{uuid.uuid4().hex}")  # a layer that is not here
    server = faulty(fault)
    started = time.monotonic()
    built, lines = case.ensure(registry=f"127.0.0.1:{server.server_port}/autoresearch-ci")
    said = [
        (at, line) for at, line in enumerate(lines) if line.startswith("No ready-made environment, so one is built: ")
    ]
    assert len(said) == 1
    assert words in said[0][1]
    assert built.origin is Origin.BUILT
    assert built.tag.startswith("autoresearch-ci/cpu:")
    assert server.asked or fault == "hangs"  # the engine may be waiting for TLS still
    assert time.monotonic() - started < 60


def test_the_users_own_login_is_used(
    case: Case, faulty: Callable[[str | int], FaultyServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that gives nothing to strangers gives it to who has logged in with `docker login`."""
    case.publish()
    host = f"127.0.0.1:{faulty('asks for a login').server_port}"
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": LOGIN}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    client = connect()
    try:
        pulled, lines = dataclasses.replace(case, engine=client).ensure(registry=f"{host}/autoresearch-ci")
    finally:
        client.close()
    assert pulled.origin is Origin.PULLED
    assert "hunter2" not in "\n".join(lines)


def test_a_pull_says_how_far_it_is_and_has_an_end(case: Case) -> None:
    """There is a line every ten seconds, and after the whole time that a pull has it is given up, whatever still comes."""
    case.publish(f"WORKDIR /layer/{uuid.uuid4().hex}")
    lines: list[str] = []
    with pytest.raises(MachineError, match="it took longer than 5 s to pull"):
        pull(case.engine, case.name, lines.append, Patience(whole_s=5), clock=itertools.count(0, 11).__next__)
    assert pull(case.engine, case.name, lines.append, Patience(), clock=itertools.count(0, 11).__next__)
    assert lines[:2] == [f"Pulling {case.name}"] * 2
    assert len(lines) > 2
    assert all("MB" in line for line in lines[2:])


def test_a_registry_that_is_down_is_said(case: Case) -> None:
    """Nothing listens: one line, no waiting, and the environment is built."""
    built, lines = case.ensure(registry=f"127.0.0.1:{free_port()}/autoresearch-ci")
    assert built.origin is Origin.BUILT
    assert lines[0].startswith("No ready-made environment, so one is built: ")
    assert "connection refused" in lines[0]


def test_an_environment_that_is_not_published_is_built_from_then_on_here(case: Case) -> None:
    """The registry is asked once: what was built for want of a published one is what the next session uses."""
    built, lines = case.ensure()
    assert built.origin is Origin.BUILT
    assert "manifest unknown" in lines[0] or "not found" in lines[0]
    case_later, no_lines = case.ensure()
    assert (case_later.id, case_later.origin, no_lines) == (built.id, Origin.CACHED, [])


@pytest.fixture
def published(case: Case) -> Iterator[Case]:
    """The standard CPU environment in the registry: under its name and with its labels, but without torch."""
    recipe = standard_recipe("cpu")
    stand_in, _ = case.ensure(registry=None)
    standard = Case(case.engine, case.registry, {"base_image": None, "build_args": standard_arguments("cpu")})
    standard.add(stand_in.tag, [f"LABEL {name}={value}" for name, value in recipe.labels.items()])
    push(case.engine, standard.name)
    standard.forget(standard.name)
    yield standard
    standard.forget(standard.name)


SETTINGS = """\
time-budget = "20s"
metric = "val_bpb"
direction = "minimize"
executor = "container"
platform = "cpu"
max-iterations = 1
registry = "{registry}"
"""


def test_a_session_runs_in_the_published_environment(project: Project, published: Case) -> None:
    """A session whose settings change nothing about the environment pulls it, says so, and trains in it; the next finds it."""
    project.commit({"autoresearch.toml": SETTINGS.format(registry=published.registry)})
    done = project.run("run", "--tag", "first")
    assert done.returncode == 0, done.stderr
    name = published.name
    assert f"Pulling {name}\n" in done.stderr
    assert f"pulled: {name}\n" in done.stderr
    assert "Step 1/" not in done.stderr
    again = project.run("detect")
    assert again.returncode == 0, again.stderr
    assert f"cached: {name}\n" in again.stderr


@pytest.mark.parametrize(
    "own",
    [
        ["--base-image", "autoresearch-ci/test-base:bookworm"],
        ["--registry", "none", "--base-image", "autoresearch-ci/test-base:bookworm"],
    ],
)
def test_an_environment_of_ones_own_asks_no_registry(
    project: Project, faulty: Callable[[str | int], FaultyServer], own: list[str], base_image: str
) -> None:
    """With a base image or arguments of the user's own nothing can fit: not one request reaches the registry."""
    server = faulty("hangs")
    project.commit({"autoresearch.toml": SETTINGS.format(registry=f"127.0.0.1:{server.server_port}/any")})
    arguments = "TORCH_VERSION=,TORCH_INDEX_URL=,PIP_FIND_LINKS=http://127.0.0.1:9/"
    done = project.run("detect", "--build-args", arguments, *own)
    assert done.returncode == 0, done.stderr
    assert server.asked == []
    assert "ready-made" not in done.stderr


def test_a_registry_that_cannot_be_one_is_told(project: Project, engine: docker.DockerClient) -> None:
    """An address with a scheme is a mistake in the settings, not a registry that is down."""
    project.commit({"autoresearch.toml": SETTINGS.format(registry="https://ghcr.io/owner")})
    done = project.run("detect")
    assert done.returncode == 2
    assert "`registry` cannot be 'https://ghcr.io/owner'" in done.stderr
