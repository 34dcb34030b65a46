"""One question to an endpoint, persistently: what can be tried again is, until the time is over, and Ctrl-C ends it at once.

The SDKs' own retries are off: theirs know no deadline over all tries together. Both SDKs have the same errors (they are generated
by the same tool), which is why one classification is enough; `openai` and `anthropic` say how a question is put.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import tenacity

from autoresearch_ci.experiment import Usage
from autoresearch_ci.proposers.models import Answer, ModelFailed, Question
from autoresearch_ci.report.markdown import clean

MAX_TEXT: Final = 2_000_000  # characters of one answer
MAX_BODY: Final = 64 * 2**20  # bytes of one response: a stream wraps every word in an event of some hundred bytes
MAX_REASON: Final = 300
LOOK_S: Final = 0.1  # how often is looked whether a person wants to stop
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
LASTING: Final = frozenset({401, 402, 403, 404, 405, 410})
AGAIN: Final = frozenset({408, 409, 425, 429})  # and everything from 500
REFUSED: Final = frozenset({400, 422})


@dataclass(slots=True)
class Piece:
    """A part of an answer. `finish`: why the model ended, in the last part that says so; empty: it has not said."""

    text: str = ""
    finish: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None


class Dialect(Protocol):
    """How a provider is spoken to."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The parameters that an endpoint may not know, and that can be left out."""

    def errors(self) -> tuple[type[Exception], ...]:
        """What the SDK and its transport raise."""

    def say(self, question: Question, left_out: frozenset[str]) -> AsyncIterator[Piece]:
        """Puts the question once, over a connection of its own."""


class TooLong(Exception):  # noqa: N818 - of an answer, not of the program
    """An answer that is longer than any script."""


class NoModel(Exception):  # noqa: N818
    """A web page where a model should be."""


class _Again(Exception):  # noqa: N818
    """A try that may go better: `wait_s` is what the endpoint asked for."""

    def __init__(self, failure: ModelFailed, wait_s: float | None = None) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.wait_s = wait_s


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """A model at an address; matches the `Model` protocol. `key`: never said in a reason. `timeout_s`: for all tries together."""

    dialect: Dialect
    model: str
    key: str
    key_variable: str
    timeout_s: float
    interrupted: Callable[[], bool] = lambda: False
    _left_out: set[str] = field(default_factory=set)
    _calls: int = 0
    _last: str = ""

    def ask(self, question: Question, /) -> Answer:
        """The answer. ModelFailed when there is none in time, the endpoint refuses, or a person wants to stop."""
        self._calls, self._last = 0, ""
        return asyncio.run(self._watched(question))

    async def _watched(self, question: Question) -> Answer:
        task = asyncio.create_task(self._persist(question))
        end = asyncio.get_running_loop().time() + self.timeout_s
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            late = asyncio.get_running_loop().time() > end
            if not task.done() and (late or self.interrupted()):
                task.cancel()
                await asyncio.wait({task})
                raise self._failed(f"no answer in {self.timeout_s:g} s{self._last}" if late else "interrupted")
        return task.result()

    async def _persist(self, question: Question) -> Answer:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Again), wait=_wait, stop=tenacity.stop_never, reraise=True
        )
        return await retrying(self._try, question)

    async def _try(self, question: Question) -> Answer:
        """One try, made again at once without a parameter that the endpoint does not know."""
        errors: tuple[type[Exception], ...] = (TooLong, NoModel, *self.dialect.errors())
        while True:
            self._calls += 1
            try:
                return await self._read(question)
            except errors as error:
                unknown = self._unknown_parameter(error)
                if unknown:
                    self._left_out.add(unknown)
                    continue
                again = self._classify(error)
                self._last = f"; the last try: {again.failure.reason}"
                if again.failure.lasting or again.wait_s == math.inf:
                    raise again.failure from error
                raise again from error

    async def _read(self, question: Question) -> Answer:
        parts: list[str] = []
        length, finish = 0, ""
        sent: tuple[int | None, int | None] = (None, None)
        async for piece in self.dialect.say(question, frozenset(self._left_out)):
            parts.append(piece.text)
            length += len(piece.text)
            finish = piece.finish or finish
            sent = (
                sent[0] if piece.input_tokens is None else piece.input_tokens,
                sent[1] if piece.output_tokens is None else piece.output_tokens,
            )
            if length > MAX_TEXT:
                raise TooLong
        text = "".join(parts)
        if not finish:
            raise _Again(self._failed("the answer was cut off in the middle"))
        asked = len(question.system) + sum(len(message.text) for message in question.messages)
        usage = Usage(
            calls=self._calls,
            input_tokens=-(-asked // 4) if sent[0] is None else sent[0],
            output_tokens=-(-length // 4) if sent[1] is None else sent[1],
        )
        return Answer(text, usage, truncated=finish in ("length", "max_tokens"))

    def _unknown_parameter(self, error: Exception) -> str:
        """The optional parameter that this refusal is about; empty when it is about something else."""
        if getattr(error, "status_code", None) not in REFUSED:
            return ""
        body = getattr(error, "body", None)
        named = str(body.get("param") or "") if isinstance(body, dict) else ""
        said = f"{named} {error}"
        rest = (name for name in self.dialect.optional if name not in self._left_out)
        return next((name for name in rest if re.search(rf"\b{name}\b", said)), "")

    def _classify(self, error: Exception) -> _Again:
        """What the error means; a wait of infinity: this question has no answer, though another may."""
        cause = error.__cause__
        if isinstance(error, NoModel) or isinstance(cause, NoModel):
            return _Again(
                self._failed("the endpoint answers with a web page, no model", "check `base-url`", lasting=True)
            )
        if isinstance(error, TooLong) or isinstance(cause, TooLong):
            return _Again(self._failed(f"the answer is longer than {MAX_TEXT // 1_000_000} MB"), math.inf)
        status = getattr(error, "status_code", None)
        said = clean(str(getattr(error, "message", "") or error).replace(self.key, "***"), MAX_REASON - 60)
        if not isinstance(status, int):
            return _Again(self._failed(f"the endpoint cannot be reached: {said}", "check `base-url`, and that it runs"))
        reason = f"{status}: {said}"
        if status in (401, 403):
            return _Again(self._failed(reason, f"check the key in {self.key_variable}", lasting=True))
        if status == 404:
            return _Again(self._failed(reason, f"check `model` ({self.model[:80]}) and `base-url`", lasting=True))
        if status in LASTING or 300 <= status < 400 or "insufficient_quota" in str(getattr(error, "body", "")):
            return _Again(self._failed(reason, "check the account and `base-url`", lasting=True))
        if status in AGAIN or status >= 500:
            return _Again(self._failed(reason), _retry_after(error))
        return _Again(self._failed(reason), math.inf)

    def _failed(self, reason: str, hint: str = "", *, lasting: bool = False) -> ModelFailed:
        return ModelFailed(clean(reason, MAX_REASON), hint=hint, lasting=lasting, usage=Usage(calls=self._calls))


_backoff = tenacity.wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """What the endpoint asked for, else longer every time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait_s if isinstance(error, _Again) else None
    return _backoff(state) if asked is None else asked


def _retry_after(error: Any) -> float | None:
    """Seconds of the header Retry-After; None without, or where it is a date."""
    said = error.response.headers.get("retry-after", "")
    return min(float(said), 86_400.0) if re.fullmatch(r"\d{1,9}(?:\.\d+)?", said) else None
