"""A local HTTP server that speaks OpenAI's chat completions and Anthropic's messages, streamed and not.

What it answers is a script: a function from the request to a `Reply`. It records every request.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """One request: `body` is its JSON, `prompt` every text of its messages, `last` the last one's."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return json.dumps(self.body)

    @property
    def last(self) -> str:
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass(frozen=True)
class Reply:
    """An answer. `text` in the protocol's form, `finish` as OpenAI calls it; or, with a status or `raw`, whatever that says.

    `cut`: the connection ends in the middle. `wait_s`: before anything is said. `usage`: (input, output) tokens, None for none.
    """

    text: str = ""
    finish: str = "stop"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    cut: bool = False
    wait_s: float = 0.0
    usage: tuple[int, int] | None = (1000, 100)


def error(
    status: int, message: str = "no", *, param: str | None = None, code: str | None = None, **headers: str
) -> Reply:
    """A refusal in OpenAI's form, which both SDKs read."""
    body = {"type": "error", "error": {"type": "invalid", "message": message, "param": param, "code": code}}
    return Reply(
        status=status, raw=json.dumps(body).encode(),
        headers={"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}},
    )  # fmt: skip


Answers = Callable[[Request], Reply]


def in_turn(replies: Iterable[Reply | str]) -> Answers:
    """These, one after another; a text is an answer of the model. A 500 when there are no more."""
    rest = iter(replies)

    def answer(_: Request) -> Reply:
        reply = next(rest, error(500, "the script of the test is at its end"))
        return Reply(reply) if isinstance(reply, str) else reply

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet where the client has gone, as one that was interrupted has."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ModelServer:
    """The server as a context manager. `url`: what an OpenAI client is given; Anthropic's takes `root`."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                self._json(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                request = Request(self.path, dict(self.headers), json.loads(self.rfile.read(length) or b"{}"))
                with outer._lock:
                    outer.requests.append(request)
                    reply = outer.answers(request)
                time.sleep(reply.wait_s)
                try:
                    outer._say(self, request, reply)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client has gone

            def _json(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = _Server(("127.0.0.1", 0), Handler)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _say(self, handler: Any, request: Request, reply: Reply) -> None:
        if reply.raw is not None or reply.status != 200:
            data = reply.raw or b""
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
            return
        anthropic = request.path.endswith("/messages")
        if not request.body.get("stream"):
            handler._json(200, (_message if anthropic else _completion)(request, reply))
            return
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.close_connection = True
        handler.end_headers()
        for event in (_message_events if anthropic else _chunks)(request, reply):
            handler.wfile.write(event.encode())
            handler.wfile.flush()


def _parts(text: str) -> list[str]:
    """A text in pieces, as a model says it."""
    size = max(20, len(text) // 50)
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


def _completion(request: Request, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": request.body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
        "usage": _openai_usage(reply),
    }  # fmt: skip


def _openai_usage(reply: Reply) -> dict[str, int] | None:
    if reply.usage is None:
        return None
    sent, said = reply.usage
    return {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}


def _chunks(request: Request, reply: Reply) -> Iterator[str]:
    def chunk(choices: list[Any], usage: Any = None) -> str:
        body = {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": request.body["model"],
            "choices": choices,
        }
        return f"data: {json.dumps(body | ({'usage': usage} if usage else {}))}\n\n"

    parts = _parts(reply.text)
    for part in parts[: len(parts) // 2 if reply.cut else None]:
        yield chunk([{"index": 0, "delta": {"role": "assistant", "content": part}, "finish_reason": None}])
    if reply.cut:
        return
    yield chunk([{"index": 0, "delta": {}, "finish_reason": reply.finish}])
    if reply.usage is not None and request.body.get("stream_options", {}).get("include_usage"):
        yield chunk([], _openai_usage(reply))
    yield "data: [DONE]\n\n"


def _anthropic_usage(reply: Reply) -> dict[str, int]:
    """A part of the prompt was in the provider's cache."""
    sent, said = reply.usage or (0, 0)
    return {
        "input_tokens": sent - sent // 2, "cache_read_input_tokens": sent // 2, "cache_creation_input_tokens": 0,
        "output_tokens": said,
    }  # fmt: skip


def _message(request: Request, reply: Reply) -> dict[str, Any]:
    reason = {"stop": "end_turn", "length": "max_tokens"}.get(reply.finish, reply.finish)
    return {
        "id": "m1", "type": "message", "role": "assistant", "model": request.body["model"], "stop_sequence": None,
        "content": [{"type": "text", "text": reply.text}], "stop_reason": reason, "usage": _anthropic_usage(reply),
    }  # fmt: skip


def _message_events(request: Request, reply: Reply) -> Iterator[str]:
    def event(kind: str, **body: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n"

    whole = _message(request, reply)
    yield event("message_start", message=whole | {"content": [], "stop_reason": None})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    parts = _parts(reply.text)
    for part in parts[: len(parts) // 2 if reply.cut else None]:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": part})
    if reply.cut:
        return
    yield event("content_block_stop", index=0)
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": whole["usage"]["output_tokens"]})
    yield event("message_stop")
