"""The transport of the test forge: a real HTTP server for REST and, by `git http-backend`, for git.

Tokens are checked on both.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import random
import re
import subprocess
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.forge.answers import Answer, Request
from tests.forge.api import Api
from tests.forge.git import as_github_words_it, bare_environment, git, protect
from tests.forge.objects import refusal
from tests.forge.openapi import find_operation

_PREFIX = "/api/v3"
_GRAPHQL = "/api/graphql"
_UNICORN = "<html><title>Unicorn!</title></html>"
_SECONDARY = '{"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}'
# What a spoilt request gets, as `spoil` mixes it: status, text, whether it took effect, headers.
_MIX: list[tuple[int | None, str, bool, dict[str, str]]] = [
    (500, '{"message": "Server Error"}', False, {}),
    (502, _UNICORN, False, {}),
    (502, _UNICORN, True, {}),
    (None, "", False, {}),
    (None, "", True, {}),
    (429, '{"message": "Too many requests"}', False, {"Retry-After": "0"}),
    (429, '{"message": "Too many requests"}', False, {"Retry-After": "1"}),
    (403, _SECONDARY, False, {"Retry-After": "1"}),
]
_GIT_PATH = re.compile(r"/(?P<name>[^/]+/[^/]+?)(?:\.git)?(?P<rest>/(?:info/refs|git-upload-pack|git-receive-pack))")


@dataclass
class Fault:
    """What happens to the next `times` requests that match, instead of the answer, or (`after`) once it took effect."""

    method: str
    path: re.Pattern[str]
    status: int | None
    body: str
    after: bool
    headers: Mapping[str, str]
    delay_s: float
    times: int


@dataclass(frozen=True)
class Seen:
    """A request as it came: `path` without prefix and query."""

    method: str
    path: str
    body: Any = field(default=None, repr=False)


class Forge:
    """A forge with one repository; a context manager, listening on loopback inside it.

    `violations` are requests and answers that GitHub's description does not allow, and the server's own mistakes: a
    test that leaves some behind has failed. `requests` are all REST requests, in order.
    """

    def __init__(self, root: Path, full_name: str = "octo/research", tokens: frozenset[str] = frozenset()) -> None:
        self.root = root
        self.full_name = full_name
        self.repository = root / f"{full_name}.git"
        self.tokens = set(tokens)
        self.violations: list[str] = []
        self.requests: list[Seen] = []
        self.repository.mkdir(parents=True)
        git(self.repository, "init", "--bare", "--quiet", "--initial-branch=main")
        git(self.repository, "config", "http.receivepack", "true")
        git(self.repository, "config", "receive.hideRefs", "refs/pull")  # GitHub takes no push to them
        self.api = Api(full_name, self.repository)
        self.spoilt: list[str] = []  # what `spoil` did to which request
        self._faults: list[Fault] = []
        self._rate = 0.0
        self._random = random.Random()
        self._protected: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Forge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    @property
    def server_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def api_url(self) -> str:
        return f"{self.server_url}{_PREFIX}"

    @property
    def clone_url(self) -> str:
        return f"{self.server_url}/{self.full_name}.git"

    @property
    def writes(self) -> list[str]:
        """The REST requests that were to change something, as `POST /repos/…`."""
        return [f"{seen.method} {seen.path}" for seen in self.requests if seen.method != "GET"]

    def fail_next(
        self,
        method: str,
        path_regex: str,
        status: int | None,
        body: str | Mapping[str, Any] = "",
        *,
        after: bool = False,
        headers: Mapping[str, str] | None = None,
        delay_s: float = 0.0,
        times: int = 1,
    ) -> None:
        """Spoils the next `times` requests with this method whose path (no prefix, no query) holds the regex.

        `status` None: the connection is dropped without an answer. `after`: the request takes effect, and only then
        its answer is replaced. `delay_s`: silence before the spoilt answer. git's requests can be spoilt as well.
        """
        text = body if isinstance(body, str) else json.dumps(body)
        fault = Fault(method, re.compile(path_regex), status, text, after, headers or {}, delay_s, times)
        with self._lock:
            self._faults.append(fault)

    def clear_faults(self) -> None:
        """Forgets what `fail_next` has not done yet."""
        with self._lock:
            self._faults.clear()

    def spoil(self, rate: float, seed: int) -> None:
        """From now on spoils this share of all requests, git's as well, with a mix of everything that passes by itself."""
        with self._lock:
            self._rate, self._random = rate, random.Random(seed)

    def protect(self, branch: str) -> None:
        """Refuses pushes to the branch from now on, in the words of GitHub's protected branches."""
        self._protected.add(f"refs/heads/{branch}")
        protect(self.repository, self._protected)

    def accepts(self, token: str | None) -> bool:
        """Whether the token is one of `tokens`, or one that an App minted and that is not over."""
        return token is not None and (token in self.tokens or self.api.apps.holds(token))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                    return fault
            if self._random.random() >= self._rate:
                return None
            status, text, after, headers = self._random.choice(_MIX)
            self.spoilt.append(f"{method} {path}: {status or 'dropped'}{' after it took effect' if after else ''}")
            return Fault(method, re.compile(""), status, text, after, headers, 0.0, 1)

    def pause(self, seconds: float) -> None:
        """Waits, but never longer than the forge lives."""
        self._closing.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, forge: Forge) -> None:
        self.forge = forge
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        trace = traceback.format_exc()
        if (
            "ConnectionResetError" not in trace and "BrokenPipeError" not in trace
        ):  # a client that gave up is no mistake
            self.forge.violations.append(trace)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing: the requests are recorded."""

    def _serve(self) -> None:
        forge = self.server.forge
        body = self._read_body()
        parts = urlsplit(self.path)
        prefix = _PREFIX if parts.path.startswith(f"{_PREFIX}/") else "/api" if parts.path == _GRAPHQL else ""
        path = parts.path.removeprefix(prefix)
        to_git = None if prefix else _GIT_PATH.fullmatch(path)
        fault = forge.take_fault(self.command, path)
        if fault is None or fault.after:
            reply = self._git(to_git, parts.query, body) if to_git else self._rest(prefix, path, parts.query, body)
        if fault is None:
            self._send(*reply)
        else:
            self._spoil(fault)

    def _read_body(self) -> bytes:
        """The whole body, whichever way it is sent: by length or in chunks, plain or compressed."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            body = b"".join(chunks)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _spoil(self, fault: Fault) -> None:
        self.server.forge.pause(fault.delay_s)
        if fault.status is None:
            self.close_connection = True
            return
        kind = "application/json; charset=utf-8" if fault.body.startswith(("{", "[")) else "text/html"
        self._send(fault.status, {"Content-Type": kind, **fault.headers}, fault.body.encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        if body and "gzip" in self.headers.get("Accept-Encoding", "") and "json" in headers.get("Content-Type", ""):
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _rest(self, prefix: str, path: str, query: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        answer = self._answer(prefix, path, query, body)
        headers = {"Content-Type": "application/json; charset=utf-8", **answer.headers}
        headers |= {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "4000", "X-RateLimit-Reset": "2000000000"}
        return answer.status, headers, b"" if answer.body is None else json.dumps(answer.body).encode()

    def _answer(self, prefix: str, path: str, query: str, body: bytes) -> Answer:
        forge = self.server.forge
        token = self._token()
        app = "" if forge.accepts(token) else forge.api.apps.sender_of(token or "")
        if not app and not forge.accepts(token):
            return Answer(401, refusal(401, "Bad credentials"))
        content = json.loads(body) if body else None
        forge.requests.append(Seen(self.command, path, content))
        if prefix == "/api":
            return Answer(200, forge.api.graphql(content or {}))
        operation = find_operation(self.command, path)
        if operation is None:
            forge.violations.append(f"{self.command} {path}: not in GitHub's API description (or cut out of it)")
            return Answer(404, refusal(404, "Not Found"))
        fields = parse_qs(query, keep_blank_values=True)
        forge.violations += operation.check_request(fields, content)
        base = f"http://{self.headers['Host']}{prefix}"
        try:
            if app and operation.template not in forge.api.apps.templates:
                return Answer(401, refusal(401, "Bad credentials"))  # an App as itself may only ask for tokens
            answer = forge.api.answer(Request(operation, base, fields, content, app))
        except Exception:  # noqa: BLE001 - the client gets its 500, the test the traceback
            forge.violations.append(traceback.format_exc())
            return Answer(500, refusal(500, "the test forge made a mistake"))
        forge.violations += operation.check_answer(answer.status, answer.body)
        return answer

    def _token(self) -> str | None:
        """The token that the client shows: `token T`, `Bearer T`, or T as the password of Basic (as git does)."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
        return value if kind.lower() in ("token", "bearer") else None

    def _git(self, to_git: re.Match[str], query: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        forge = self.server.forge
        token = self._token()
        everybody = token is None and not forge.api.private and "upload-pack" in to_git["rest"] + query
        if not everybody and not forge.accepts(token):
            return 401, {"WWW-Authenticate": 'Basic realm="GitHub"', "Content-Type": "text/plain"}, b"Bad credentials\n"
        if to_git["name"].lower() != forge.full_name.lower():
            return 404, {"Content-Type": "text/plain"}, b"Repository not found.\n"
        done = subprocess.run(
            ["git", "http-backend"],
            env={
                **bare_environment(forge.root),
                "GIT_PROJECT_ROOT": str(forge.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "PATH_INFO": f"/{forge.full_name}.git{to_git['rest']}",
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "REMOTE_USER": "x-access-token",
                "REMOTE_ADDR": "127.0.0.1",
            },
            input=body,
            capture_output=True,
            check=False,
            timeout=60,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        if not headers:
            forge.violations.append(f"git http-backend: {done.stderr.decode()}")
            return 500, {}, b""
        if to_git["rest"] == "/git-receive-pack":
            content = as_github_words_it(content)
        return int(headers.pop("Status", "200 OK").split()[0]), headers, content
