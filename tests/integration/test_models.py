"""The model clients against a real HTTP server, by the real SDKs: good answers, bad ones, and none."""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import pytest

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Usage
from autoresearch_ci.proposers.models import Message, ModelFailed, Question
from autoresearch_ci.proposers.models.connecting import connect
from autoresearch_ci.proposers.models.endpoint import Endpoint
from tests.models.server import ModelServer, Reply, Request, error, in_turn

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


def test_several_questions_at_once(server: ModelServer, speaks: Speaks) -> None:
    """Each has its own answer and its own usage; a parameter that all of them are refused for is left out by all of them."""

    def answer(request: Request) -> Reply:
        if request.body.get("stream"):
            return replace(error(400, "unknown parameter: stream", param="stream"), wait_s=0.5)
        return Reply(f"to {request.last}", usage=(int(request.last), 1))

    server.answers = answer
    made = model(server, speaks)
    questions = [replace(QUESTION, messages=(Message("user", f"{number}"),)) for number in range(1, 5)]
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = list(pool.map(made.ask, questions))
    assert [each.text for each in answers] == ["to 1", "to 2", "to 3", "to 4"]
    assert [each.usage for each in answers] == [
        Usage(calls=2, input_tokens=number, output_tokens=1) for number in range(1, 5)
    ]


def test_an_endpoint_that_does_not_stream(server: ModelServer, speaks: Speaks) -> None:
    """A refusal of a parameter leaves it out, now and from then on."""
    server.answers = in_turn([error(400, "unknown parameter: stream", param="stream"), "whole", "again"])
    made = model(server, speaks)
    assert made.ask(QUESTION).text == "whole"
    assert made.ask(QUESTION).text == "again"
    assert [bool(r.body.get("stream")) for r in server.requests] == [True, False, False]


def test_the_names_of_the_limit(server: ModelServer) -> None:
    """Endpoints call the length of the answer by one of two names, or know neither; OpenAI's refusal names both."""
    refusal = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    server.answers = in_turn([error(400, refusal), error(422, "max_completion_tokens: extra fields"), "fine"])
    assert model(server, "openai").ask(QUESTION).usage.calls == 3
    sent = [sorted(k for k in r.body if k.startswith("max_")) for r in server.requests]
    assert sent == [["max_tokens"], ["max_completion_tokens"], []]


def test_usage_that_is_not_known_in_a_stream(server: ModelServer) -> None:
    """Only what asks for it is left out: the answer is streamed still."""
    server.answers = in_turn([error(400, "extra field", param="stream_options"), "fine"])
    assert model(server, "openai").ask(QUESTION).usage.output_tokens == 1
    assert [("stream_options" in r.body, r.body.get("stream")) for r in server.requests] == [
        (True, True),
        (False, True),
    ]


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


def test_what_was_cut_off_is_paid_for_as_well(server: ModelServer, speaks: Speaks) -> None:
    """Its tokens are counted, by the server's figures where it gave any: Anthropic's tells those of the prompt first."""
    server.answers = in_turn([Reply("x" * 400, cut=True), "whole"])
    usage = model(server, speaks).ask(QUESTION).usage
    assert (usage.calls, usage.output_tokens) == (2, 150)
    assert usage.input_tokens == (2000 if speaks == "anthropic" else 1004)


def test_an_error_in_the_middle_of_a_stream(server: ModelServer, speaks: Speaks) -> None:
    """An endpoint that says in its stream that it is overloaded is asked again, whatever the status was."""
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    event = f"event: error\ndata: {json.dumps(overloaded)}\n\n".encode()
    server.answers = in_turn([Reply(raw=event, headers={"content-type": "text/event-stream"}), "whole"])
    assert model(server, speaks).ask(QUESTION).text == "whole"


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


def test_retry_after_as_a_date(server: ModelServer) -> None:
    """The header may hold a date; one that is past, or that is none, does not hurt."""
    later = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=4), usegmt=True)
    past = "Wed, 21 Oct 2015 07:28:00"
    server.answers = in_turn([*(error(429, "busy", retry_after=said) for said in (later, past, "soon")), "fine"])
    start = time.monotonic()
    assert model(server, "openai").ask(QUESTION).usage.calls == 4
    assert time.monotonic() - start >= 2


def test_an_endpoint_that_wants_no_pause(server: ModelServer, speaks: Speaks) -> None:
    """One that refuses for ever and says `Retry-After: 0` is not asked hundreds of times."""
    failure = failed(server, speaks, *[error(429, "busy", retry_after="0")] * 1000, timeout_s=2)
    assert 2 <= failure.usage.calls <= 20


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
        (Reply(status=200, raw=b"\n<!doctype html><title>Sign in</title>", headers={"content-type": "text/plain"}), "base-url"),
        (Reply(status=307, raw=b"", headers={"location": "http://127.0.0.1:9/v1/chat/completions"}), "base-url"),
    ],
    ids=["401", "403", "404", "402", "quota", "html", "plain html", "redirect"],
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
    assert failure.usage.output_tokens > 500_000, "what was said was paid for"


def test_a_body_without_end(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not streamed is bounded as well."""
    monkeypatch.setattr("autoresearch_ci.proposers.models.transport.MAX_BODY", 100_000)
    failure = failed(server, "openai", error(400, "stream", param="stream"), "x" * 1_000_000)
    assert "longer than 2 MB" in failure.reason


MALFORMED = [
    b"{}", b"[]", b"5", b"null", b'{"choices": 5}', b'{"choices": [5]}', b'{"choices": []}',
    b'{"choices": [{"message": {"content": ["x"]}, "finish_reason": "stop"}]}',
    b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": "x"}}',
    b'{"type": "message", "content": 5}', b'{"type": "message", "content": [5], "stop_reason": "end_turn"}',
    b'{"type": "message", "content": [{"type": "text"}], "stop_reason": "end_turn", "usage": null}',
]  # fmt: skip


@pytest.mark.parametrize("raw", MALFORMED)
def test_an_answer_of_another_form(server: ModelServer, speaks: Speaks, raw: bytes) -> None:
    """JSON that is no answer of the protocol is no answer, and no traceback; it is not asked for again."""
    replies = [Reply(status=200, raw=raw, headers={"content-type": "application/json"})] * 9
    failure = failed(server, speaks, error(400, "stream", param="stream"), *replies)
    assert "protocol" in failure.reason
    assert not failure.lasting
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "raw",
    [b"data: 5\n\n", b'data: {"choices":[{"delta":{"content":5}}]}\n\n', b"data: {\n\n", b"\xff\xfe",
     b'event: message_start\ndata: {"type":"message_start"}\n\n', b"event: message_start\ndata: {\n\n",
     b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":5}}\n\n'],
)  # fmt: skip
def test_a_stream_of_another_form(server: ModelServer, speaks: Speaks, raw: bytes) -> None:
    """Events that are none of the protocol's end in a failure as well."""
    failure = failed(server, speaks, *[Reply(raw=raw, headers={"content-type": "text/event-stream"})] * 9, timeout_s=1)
    assert "protocol" in failure.reason or "cut off" in failure.reason


@pytest.mark.parametrize("raw", [b"not json", b"", b'{"choices": [{"mess'])
def test_a_body_that_is_no_json(server: ModelServer, speaks: Speaks, raw: bytes) -> None:
    """It may have been cut off: it is asked for again until the time is over."""
    replies = [Reply(status=200, raw=raw, headers={"content-type": "application/json"})] * 9
    assert (
        "no answer in 1 s" in failed(server, speaks, error(400, "stream", param="stream"), *replies, timeout_s=1).reason
    )


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


def test_ctrl_c_while_a_name_is_looked_up(speaks: Speaks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that hangs does not hold it up."""
    released = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        released.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    stopped = threading.Event()
    threading.Timer(0.3, stopped.set).start()
    made = connect(
        speaks=speaks, model="m", base_url="http://models.local/v1", key_variable="KEY", environ={}, timeout_s=60,
        interrupted=stopped.is_set,
    )  # fmt: skip
    start = time.monotonic()
    try:
        with pytest.raises(ModelFailed, match="interrupted"):
            made.ask(QUESTION)
        assert time.monotonic() - start < 10
    finally:
        released.set()


def test_the_environment_does_not_choose_the_endpoint(
    server: ModelServer, speaks: Speaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that the SDKs would obey by themselves are not obeyed, and no other credential is sent."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another-credential")
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "another-credential")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Team: another-credential\nX-Api-Key: another-credential")
    server.answers = in_turn(["fine"])
    assert model(server, speaks).ask(QUESTION).text == "fine"
    assert "another-credential" not in str(server.requests[0].headers)
    assert KEY in str(server.requests[0].headers)


def test_an_address_with_the_version(server: ModelServer) -> None:
    """Anthropic's SDK adds it by itself: an address that has it already is taken as well."""
    server.answers = in_turn(["fine"])
    connect(
        speaks="anthropic", model="m", base_url=server.url + "/", key_variable="KEY", environ={}, timeout_s=20,
        interrupted=lambda: False,
    ).ask(QUESTION)  # fmt: skip
    assert [request.path for request in server.requests] == ["/v1/messages"]


def test_the_key_is_not_in_what_is_printed(server: ModelServer, speaks: Speaks) -> None:
    """Neither as itself nor in another form, by whatever repeats it."""
    assert KEY not in repr(model(server, speaks))
    encoded = base64.b64encode(f"x:{KEY}".encode()).decode()
    assert encoded[4:-6] not in failed(server, speaks, error(403, f"not allowed: Basic {encoded}")).reason


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": None}, "`model` must be set"),
        ({"environ": {}, "base_url": None}, "KEY is not set"),
        ({"environ": {"KEY": "sk-pass\nsk-pass"}}, "KEY holds no key"),
        ({"environ": {"KEY": "sk-pässword"}}, "KEY holds no key"),
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
    with pytest.raises(SettingsError, match=f"the `{speaks}` package is not installed"):
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
