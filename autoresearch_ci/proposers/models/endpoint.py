"""One question to an endpoint, persistently: what can be tried again is, until the time is over, and Ctrl-C ends it at once.

The SDKs' own retries are off: theirs know no deadline over all tries together. Both SDKs have the same errors (they are generated
by the same tool), which is why one classification is enough; `openai` and `anthropic` say how a question is put.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import math
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import tenacity

from autoresearch_ci.experiment import Usage
from autoresearch_ci.proposers.models import Answer, ModelFailed, Question
from autoresearch_ci.report.markdown import clean
from autoresearch_ci.scrubber import Scrubber

MAX_TEXT: Final = 2_000_000  # characters of one answer
MAX_BODY: Final = 64 * 2**20  # bytes of one response: a stream wraps every word in an event of some hundred bytes
MAX_REASON: Final = 300
LOOK_S: Final = 0.1  # how often is looked whether a person wants to stop
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
A_DAY_S: Final = 86_400.0
LASTING: Final = frozenset({401, 402, 403, 404, 405, 410})
AGAIN: Final = frozenset({408, 409, 425, 429})  # and everything from 500
REFUSED: Final = frozenset({400, 422})
AT_LIMIT: Final = frozenset({"length", "max_tokens", "model_context_window_exceeded"})


@dataclass(slots=True)
class Piece:
    """A part of an answer. `finish`: why the model ended, in the last part that says so; empty: it has not said.

    TypeError when a value has another type: the SDKs hand over whatever the endpoint sent, unchecked.
    """

    text: str = ""
    finish: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not isinstance(self.finish, str):
            raise TypeError("a text is no text")
        for tokens in (self.input_tokens, self.output_tokens):
            if tokens is not None and (not isinstance(tokens, int) or tokens < 0):
                raise TypeError("a number of tokens is no number")


class Dialect(Protocol):
    """How a provider is spoken to."""

    def optional(self, left_out: frozenset[str]) -> tuple[str, ...]:
        """The parameters that are sent, that an endpoint may not know, and that can be left out."""

    def errors(self) -> tuple[type[Exception], ...]:
        """What the SDK and its transport raise."""

    def say(self, question: Question, left_out: frozenset[str]) -> AsyncGenerator[Piece, None]:
        """Puts the question once, over a connection of its own. Malformed when the answer is of another form."""


class TooLong(Exception):  # noqa: N818 - of an answer, not of the program
    """An answer that is longer than any script."""


class NoModel(Exception):  # noqa: N818
    """A web page where a model should be."""


class Malformed(Exception):  # noqa: N818
    """An answer that is not of the protocol's form."""


class _Cut(Exception):  # noqa: N818
    """An answer that stopped before its end."""


@dataclass(slots=True)
class _Heard:
    """What was heard of one answer so far."""

    parts: list[str] = field(default_factory=list)
    length: int = 0
    finish: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None

    def add(self, piece: Piece) -> None:
        """TooLong when the answer is."""
        self.parts.append(piece.text)
        self.length += len(piece.text)
        self.finish = piece.finish or self.finish
        self.input_tokens = self.input_tokens if piece.input_tokens is None else piece.input_tokens
        self.output_tokens = self.output_tokens if piece.output_tokens is None else piece.output_tokens
        if self.length > MAX_TEXT:
            raise TooLong

    def usage(self, question: Question) -> Usage:
        """The tokens as the endpoint told them, else an estimate; none when nothing was said."""
        if not (self.length or self.finish or self.input_tokens):
            return Usage()
        asked = len(question.system) + sum(len(message.text) for message in question.messages)
        return Usage(
            input_tokens=-(-asked // 4) if self.input_tokens is None else self.input_tokens,
            output_tokens=-(-self.length // 4) if self.output_tokens is None else self.output_tokens,
        )


class _Again(Exception):  # noqa: N818
    """A try that may go better: `wait_s` is what the endpoint asked for."""

    def __init__(self, failure: ModelFailed, wait_s: float | None = None) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.wait_s = wait_s


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """A model at an address; matches the `Model` protocol. `key`: never said in a reason. `timeout_s`: for all tries together.

    A model that refuses to answer, or whose answer a filter held back, gives an answer with an empty text. Any number of threads may
    ask.
    """

    dialect: Dialect
    model: str
    key: str = field(repr=False)
    key_variable: str
    timeout_s: float
    interrupted: Callable[[], bool] = lambda: False
    _left_out: set[str] = field(default_factory=set)  # what is known of the endpoint: all questions share it
    _usage: Usage = field(default_factory=Usage)
    _last: str = ""

    def ask(self, question: Question, /) -> Answer:
        """The answer. ModelFailed when there is none in time, the endpoint refuses, or a person wants to stop."""
        return replace(self, _usage=Usage(), _last="")._answered(question)

    def _answered(self, question: Question) -> Answer:
        # Not `asyncio.run`: that waits for the threads of the resolver, and a name server that hangs would hold up Ctrl-C.
        loop = asyncio.new_event_loop()
        # The generators of the HTTP library, left in the middle, close one another twice; nobody needs to read of it.
        loop.set_exception_handler(lambda *_: None)
        try:
            return loop.run_until_complete(self._watched(question))
        finally:
            loop.run_until_complete(asyncio.wait({loop.create_task(loop.shutdown_asyncgens())}, timeout=LOOK_S))
            loop.close()

    async def _watched(self, question: Question) -> Answer:
        task = asyncio.create_task(self._persist(question))
        end = asyncio.get_running_loop().time() + self.timeout_s
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            late = asyncio.get_running_loop().time() > end
            if not task.done() and (late or self.interrupted()):
                task.cancel()
                await asyncio.wait({task}, timeout=LOOK_S)
                raise self._failed(f"no answer in {self.timeout_s:g} s{self._last}" if late else "interrupted")
        return task.result()

    async def _persist(self, question: Question) -> Answer:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Again), wait=_wait, stop=tenacity.stop_never, reraise=True
        )
        return await retrying(self._try, question)

    async def _try(self, question: Question) -> Answer:
        """One try, made again at once without a parameter that the endpoint does not know."""
        errors: tuple[type[Exception], ...] = (TooLong, NoModel, Malformed, _Cut, *self.dialect.errors())
        while True:
            self._usage += Usage(calls=1)
            left_out = frozenset(self._left_out)
            try:
                return await self._read(question, left_out)
            except errors as error:
                unknown = self._unknown_parameter(error, left_out)
                if unknown:
                    self._left_out.add(unknown)
                    continue
                again = self._classify(error)
                self._last = f"; the last try: {again.failure.reason}"
                if again.failure.lasting or again.wait_s == math.inf:
                    raise again.failure from error
                raise again from error

    async def _read(self, question: Question, left_out: frozenset[str]) -> Answer:
        heard = _Heard()
        try:
            async with aclosing(self.dialect.say(question, left_out)) as pieces:
                async for piece in pieces:
                    heard.add(piece)
        finally:
            self._usage += heard.usage(question)  # an answer that is of no use was paid for as well
        if not heard.finish:
            raise _Cut
        return Answer("".join(heard.parts), self._usage, truncated=heard.finish in AT_LIMIT)

    def _unknown_parameter(self, error: Exception, left_out: frozenset[str]) -> str:
        """The optional parameter that this refusal is about; empty when it is about something else."""
        if getattr(error, "status_code", None) not in REFUSED:
            return ""
        optional = self.dialect.optional(left_out)
        body = getattr(error, "body", None)
        named = body.get("param") if isinstance(body, dict) else None
        if named in optional:
            return str(named)
        # "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.": the first that was sent.
        found = [(match.start(), name) for name in optional if (match := re.search(rf"\b{name}\b", str(error)))]
        return min(found)[1] if found else ""

    def _classify(self, error: Exception) -> _Again:
        """What the error means; a wait of infinity: this question has no answer, though another may."""
        for cause in (error, error.__cause__):  # the SDKs wrap what is raised below them
            match cause:
                case NoModel():
                    return _Again(
                        self._failed(
                            "the endpoint answers with a web page (HTML), not a model", "check `base-url`", lasting=True
                        )
                    )
                case TooLong():
                    return _Again(self._failed(f"the answer is longer than {MAX_TEXT // 1_000_000} MB"), math.inf)
                case Malformed():
                    reason = "the answer is not of the protocol's form"
                    return _Again(self._failed(reason, "check `base-url`, and whose protocol it speaks"), math.inf)
                case _Cut() | ValueError():  # JSON that stops in the middle
                    return _Again(self._failed("the answer was cut off in the middle"))
        status = getattr(error, "status_code", None)
        if isinstance(status, int) and status >= 300:
            return self._classify_status(error, status)
        if isinstance(status, int) or getattr(error, "body", None) is not None:  # an error within a stream
            return _Again(self._failed(f"the endpoint broke off: {self._said(error)}"))
        said = self._said(error.__cause__ or error) or type(error.__cause__ or error).__name__
        return _Again(self._failed(f"the endpoint cannot be reached: {said}", "check `base-url`, and that it runs"))

    def _classify_status(self, error: Exception, status: int) -> _Again:
        reason = f"{status}: {self._said(error)}"
        if status in (401, 403):
            return _Again(self._failed(reason, f"check the key in {self.key_variable}", lasting=True))
        if status == 404:
            return _Again(self._failed(reason, f"check `model` ({self.model[:80]}) and `base-url`", lasting=True))
        if status in LASTING or status < 400 or "insufficient_quota" in str(getattr(error, "body", "")):
            return _Again(self._failed(reason, "check the account and `base-url`", lasting=True))
        if status in AGAIN or status >= 500:
            return _Again(self._failed(reason), _retry_after(error))
        return _Again(self._failed(reason), math.inf)

    def _said(self, error: BaseException) -> str:
        """What the error says, in one line and without the key, which some endpoints repeat."""
        said = str(getattr(error, "message", "") or error)
        return clean(Scrubber.of({}, self.key).scrub(said), MAX_REASON - 60)

    def _failed(self, reason: str, hint: str = "", *, lasting: bool = False) -> ModelFailed:
        return ModelFailed(clean(reason, MAX_REASON), hint=hint, lasting=lasting, usage=self._usage)


_backoff = tenacity.wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """What the endpoint asked for, else longer every time; never nothing, for some ask for 0 s again and again."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait_s if isinstance(error, _Again) else None
    return _backoff(state) if asked is None else max(asked, _backoff(state) / 10)


def _retry_after(error: Any) -> float | None:
    """Seconds of the header Retry-After, which holds a number or a date; None without it, and for anything else."""
    said = error.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d+)?", said):
        return min(float(said), A_DAY_S)
    try:
        until = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return None
    # A date without a zone is in UTC (RFC 9110, 5.6.7).
    seconds = (until.replace(tzinfo=until.tzinfo or dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
    return min(max(seconds, 0.0), A_DAY_S)
