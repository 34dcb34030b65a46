"""Finding the container engine, and what is said when there is none."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.engine import connect, no_engine, one_line, talking


def test_an_engine_that_answers_is_used(engine: docker.DockerClient) -> None:
    """A client of an engine that is new enough can talk to it."""
    assert engine.ping()


def test_no_engine_is_a_machine_error(tmp_path: Path) -> None:
    """An engine that is not there is told in one line, with what to do."""
    with pytest.raises(MachineError, match="DOCKER_HOST") as caught:
        connect({"DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"})
    assert "native" in caught.value.hint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_not_speak_to_the_engine_is_told_how(tmp_path: Path) -> None:
    """A socket that this user may not open is told apart from one that is not there."""
    tmp_path.chmod(0o700)
    program = (
        "import os\n"
        "from autoresearch_ci.executors.engine import connect\n"
        "from autoresearch_ci.errors import MachineError\n"
        "os.setgroups([]); os.setgid(65532); os.setuid(65532)\n"
        f"try: connect({{'DOCKER_HOST': 'unix://{tmp_path}/engine.sock'}})\n"
        "except MachineError as error: print(error.message, '/', error.hint)\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.startswith("this user may not speak to the container engine / add the user to the group `docker`")


@pytest.fixture
def old_engine() -> Iterator[str]:
    """The address of an engine of 2018, as far as its version."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"ApiVersion": "1.38", "MinAPIVersion": "1.12", "Version": "18.06"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_old_engine_is_a_machine_error(old_engine: str) -> None:
    """An engine before Docker 20.10 is refused with its version."""
    with pytest.raises(MachineError, match=r"API 1\.38"):
        connect({"DOCKER_HOST": old_engine})


def test_the_reason_of_no_engine_is_told_by_the_surroundings() -> None:
    """In a pod the remedy is another mode of the runners; elsewhere it is Docker."""
    assert "dind" in no_engine("FileNotFoundError", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).hint
    assert "install and start Docker" in no_engine("FileNotFoundError", {}).hint


@pytest.mark.parametrize(
    ("explanation", "remedy"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "NVIDIA Container Toolkit"),
        ("write /var/lib/x: no space left on device", "make room"),
        ("something else", "docker info"),
    ],
)
def test_what_the_engine_refuses_has_a_remedy(explanation: str, remedy: str) -> None:
    """The engine's own words are in the message, what to do in the hint."""
    with pytest.raises(MachineError, match="refused to start a run") as caught, talking("to start a run"):
        raise APIError("500 Server Error", explanation=explanation)
    assert explanation in caught.value.message
    assert remedy in caught.value.hint


def test_words_from_outside_become_one_short_line() -> None:
    """Colours, line ends and length of an outside text do not reach an error message."""
    assert one_line("\x1b[91mtwo\nlines\x07\x1b[0m " + "x" * 1000, limit=20) == "two lines xxxxxxxxx…"
