"""The model clients against a real HTTP server, by the real SDKs: good answers, bad ones, and none."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Literal

import pytest

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Usage
from autoresearch_ci.proposers.models import Message, ModelFailed, Question
from autoresearch_ci.proposers.models.connecting import connect
from autoresearch_ci.proposers.models.endpoint import Endpoint
from tests.models.server import ModelServer, Reply, error, in_turn

Speaks = Literal["openai", "anthropic"]
KEY = "sk-secret-0123456789abcdef"
QUESTION = Question(system="Be brief.", messages=(Message("user", "Say it."),), answer_tokens=500)


@pytest.fixture(params=["openai", "anthropic"])
def speaks(request: pytest.FixtureRequest) -> Speaks:
    return "openai" if request.param == "openai" else "anthropic"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(in_turn([])) as made:
        yield made


def model(server: ModelServer, speaks: Speaks, timeout_s: float = 20.0, **values: object) -> Endpoint:
    return connect(
        speaks=speaks, model="scripted", base_url=server.url if speaks == "openai" else server.root,
        key_variable="KEY", environ={"KEY": KEY}, timeout_s=timeout_s, interrupted=lambda: False, **values,
    )  # fmt: skip


def failed(server: ModelServer, speaks: Speaks, *replies: Reply | str, timeout_s: float = 20.0) -> ModelFailed:
    server.answers = in_turn(replies)
    with pytest.raises(ModelFailed) as caught:
        model(server, speaks, timeout_s).ask(QUESTION)
    assert KEY not in str(caught.value.reason)
    assert "\n" not in caught.value.reason
    return caught.value


def test_a_streamed_answer(server: ModelServer, speaks: Speaks) -> None:
    """The text is whole, its tokens are the server's, those of the cache among them, and what was sent is what was asked."""
    server.answers = in_turn(["Grüße " * 100])
    answer = model(server, speaks).ask(QUESTION)
    assert answer.text == "Grüße " * 100
    assert answer.usage == Usage(calls=1, input_tokens=1000, output_tokens=100)
    assert not answer.truncated
    (request,) = server.requests
    assert request.body["stream"] is True
    assert "Be brief." in request.prompt
    assert request.last == "Say it."
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert KEY in (headers.get("x-api-key") or headers["authorization"])
    if speaks == "anthropic":
        assert request.body["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_an_endpoint_that_does_not_stream(server: ModelServer, speaks: Speaks) -> None:
    """A refusal of a parameter leaves it out, now and from then on."""
    server.answers = in_turn([error(400, "unknown parameter: stream", param="stream"), "whole", "again"])
    made = model(server, speaks)
    assert made.ask(QUESTION).text == "whole"
    assert made.ask(QUESTION).text == "again"
    assert [bool(r.body.get("stream")) for r in server.requests] == [True, False, False]


def test_the_names_of_the_limit(server: ModelServer) -> None:
    """Endpoints call the length of the answer by one of two names, or know neither."""
    server.answers = in_turn(
        [error(400, "Unsupported parameter: 'max_tokens'"), error(422, "max_completion_tokens: extra fields"), "fine"]
    )
    assert model(server, "openai").ask(QUESTION).usage.calls == 3
    sent = [sorted(k for k in r.body if k.startswith("max_")) for r in server.requests]
    assert sent == [["max_tokens"], ["max_completion_tokens"], []] or sent[-1] != sent[0]


def test_an_answer_without_a_count_of_tokens(server: ModelServer) -> None:
    """They are estimated from the text."""
    server.answers = in_turn([Reply("x" * 400, usage=None)])
    usage = model(server, "openai").ask(QUESTION).usage
    assert usage.output_tokens == 100
    assert usage.input_tokens > 0


def test_an_answer_cut_at_its_limit(server: ModelServer, speaks: Speaks) -> None:
    """It is an answer, and says that it was cut."""
    server.answers = in_turn([Reply("half", finish="length")])
    assert model(server, speaks).ask(QUESTION).truncated


def test_a_stream_cut_in_the_middle(server: ModelServer, speaks: Speaks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said is not taken for the answer: it is asked again."""
    server.answers = in_turn([Reply("one two three " * 50, cut=True), "whole"])
    answer = model(server, speaks).ask(QUESTION)
    assert (answer.text, answer.usage.calls) == ("whole", 2)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529, 408])
def test_a_busy_endpoint_is_asked_again(server: ModelServer, speaks: Speaks, status: int) -> None:
    """After as long as it says, and every request counts."""
    server.answers = in_turn([error(status, "busy", retry_after="0"), error(status, "busy", retry_after="0"), "fine"])
    assert model(server, speaks).ask(QUESTION).usage.calls == 3


def test_retry_after_is_obeyed(server: ModelServer) -> None:
    """The next request is not made before the endpoint wants it."""
    server.answers = in_turn([error(429, "busy", retry_after="2"), "fine"])
    start = time.monotonic()
    model(server, "openai").ask(QUESTION)
    assert time.monotonic() - start >= 2


def test_a_busy_endpoint_for_ever(server: ModelServer, speaks: Speaks) -> None:
    """The time limit holds over all tries, and the reason says what the last one was."""
    start = time.monotonic()
    failure = failed(server, speaks, *[error(429, "slow down", retry_after="600")] * 5, timeout_s=2)
    assert 2 <= time.monotonic() - start < 12
    assert not failure.lasting
    assert "no answer in 2 s" in failure.reason
    assert "slow down" in failure.reason


def test_a_silent_endpoint(server: ModelServer, speaks: Speaks) -> None:
    """One that never answers is given up at the limit."""
    failure = failed(server, speaks, Reply("late", wait_s=30), timeout_s=1)
    assert "no answer in 1 s" in failure.reason
    assert failure.usage.calls == 1


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (error(401, "Incorrect API key provided: " + KEY), "KEY"),
        (error(403, "not allowed"), "KEY"),
        (error(404, "The model `scripted` does not exist"), "model"),
        (error(402, "no credit"), "account"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "account"),
        (Reply(status=200, raw=b"<html><body>Sign in</body></html>", headers={"content-type": "text/html"}), "base-url"),
        (Reply(status=307, raw=b"", headers={"location": "http://127.0.0.1:9/v1/chat/completions"}), "base-url"),
    ],
    ids=["401", "403", "404", "402", "quota", "html", "redirect"],
)  # fmt: skip
def test_what_asking_again_cannot_help(server: ModelServer, speaks: Speaks, reply: Reply, hint: str) -> None:
    """It is asked once, the reason never holds the key, and the hint says where to look."""
    failure = failed(server, speaks, reply)
    assert failure.lasting
    assert hint in failure.hint
    assert len(server.requests) == 1


def test_a_question_that_is_refused(server: ModelServer, speaks: Speaks) -> None:
    """A prompt too long for the model is not asked again, but the next one may fit."""
    failure = failed(server, speaks, error(400, "context length exceeded:\x1b[31m\n8192 tokens"))
    assert not failure.lasting
    assert failure.reason == "400: " + failure.reason.removeprefix("400: ")
    assert "8192 tokens" in failure.reason
    assert len(server.requests) == 1


def test_an_answer_of_ten_megabytes(server: ModelServer, speaks: Speaks) -> None:
    """It is not read to its end."""
    failure = failed(server, speaks, "x" * 10_000_000)
    assert "longer than 2 MB" in failure.reason
    assert not failure.lasting


def test_a_body_without_end(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not streamed is bounded as well."""
    monkeypatch.setattr("autoresearch_ci.proposers.models.transport.MAX_BODY", 100_000)
    failure = failed(server, "openai", error(400, "stream", param="stream"), "x" * 1_000_000)
    assert "longer than 2 MB" in failure.reason


@pytest.mark.parametrize("raw", [b"{}", b"[]", b'{"choices": 5}', b"not json", b'{"error": "x"}', b""])
def test_an_answer_of_no_form(server: ModelServer, speaks: Speaks, raw: bytes) -> None:
    """What is not of the protocol's form is no answer, and no traceback."""
    replies = [Reply(status=200, raw=raw, headers={"content-type": "application/json"})] * 9
    assert failed(server, speaks, error(400, "stream", param="stream"), *replies, timeout_s=1.5).reason


def test_no_server(speaks: Speaks) -> None:
    """An address where nobody listens is said, with what to look at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        made = connect(
            speaks=speaks, model="m", base_url=f"http://127.0.0.1:{held.getsockname()[1]}/v1", key_variable="KEY",
            environ={}, timeout_s=1.5, interrupted=lambda: False,
        )  # fmt: skip
        with pytest.raises(ModelFailed, match="cannot be reached") as caught:
            made.ask(QUESTION)
    assert "no answer in 1.5 s" in caught.value.reason


def test_ctrl_c_while_it_thinks(server: ModelServer, speaks: Speaks) -> None:
    """The question is dropped at once."""
    server.answers = in_turn([Reply("late", wait_s=30)])
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    made = model(server, speaks)
    made.interrupted = stopped.is_set
    start = time.monotonic()
    with pytest.raises(ModelFailed, match="interrupted"):
        made.ask(QUESTION)
    assert time.monotonic() - start < 5


def test_the_environment_does_not_choose_the_endpoint(
    server: ModelServer, speaks: Speaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that the SDKs would obey by themselves are not obeyed, and no other credential is sent."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another-credential")
    monkeypatch.setenv("OPENAI_API_KEY", "another-credential")
    server.answers = in_turn(["fine"])
    assert model(server, speaks).ask(QUESTION).text == "fine"
    assert "another-credential" not in str(server.requests[0].headers)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": None}, "`model` must be set"),
        ({"environ": {}, "base_url": None}, "KEY is not set"),
        ({"base_url": "ftp://x/v1"}, "no http or https address"),
        ({"base_url": "http://[::1"}, "no http or https address"),
        ({"base_url": "http://me:pass@x/v1"}, "more than an address"),
        ({"base_url": "https://models.github.ai/inference"}, "retired in July 2026"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, object], message: str) -> None:
    """They are refused before anything is sent, with a hint."""
    defaults: dict[str, object] = {
        "speaks": "openai", "model": "m", "base_url": "https://models.example/v1", "key_variable": "KEY",
        "environ": {"KEY": KEY}, "timeout_s": 1, "interrupted": lambda: False,
    }  # fmt: skip
    with pytest.raises(SettingsError, match=message) as caught:
        connect(**{**defaults, **values})  # type: ignore[arg-type]
    assert caught.value.hint
    assert "pass" not in caught.value.message


@pytest.mark.parametrize(
    ("base_url", "needed"),
    [("http://127.0.0.1:11434/v1", False), ("http://box:8000/v1", False), ("http://192.168.1.5/v1", False),
     ("http://gpu.local/v1", False), ("https://models.example/v1", True), (None, True)],
)  # fmt: skip
def test_who_needs_a_key(base_url: str | None, needed: bool) -> None:
    """Endpoints of this machine or its network have none, commonly."""

    def make() -> Endpoint:
        return connect(
            speaks="openai", model="m", base_url=base_url, key_variable="KEY", environ={}, timeout_s=1,
            interrupted=lambda: False,
        )  # fmt: skip

    if needed:
        with pytest.raises(SettingsError, match="KEY is not set"):
            make()
    else:
        assert make().key == "none"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, speaks: Speaks) -> None:
    """What to install is said."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=f"`{speaks}` is not installed"):
        connect(
            speaks=speaks, model="m", base_url="http://localhost/v1", key_variable="KEY", environ={}, timeout_s=1,
            interrupted=lambda: False,
        )  # fmt: skip


def test_the_program_starts_without_them() -> None:
    """The SDKs are imported when a model is asked, and not before."""
    program = (
        "import sys, autoresearch_ci.cli; print([n for n in ('openai', 'anthropic', 'httpx2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
