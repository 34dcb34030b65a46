"""OpenAI's protocol, which most endpoints speak: chat completions, by the official SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx2
import openai

from autoresearch_ci.proposers.models import Question
from autoresearch_ci.proposers.models.endpoint import Malformed, Piece
from autoresearch_ci.proposers.models.transport import client

BASE_URL: Final = "https://api.openai.com/v1"


class OpenAIDialect:
    """Chat completions of `model`. Streamed where the endpoint can, so that a long answer is not taken for a dead connection."""

    def __init__(self, *, model: str, key: str, base_url: str | None, timeout_s: float) -> None:
        self._model = model
        self._key = key
        self._base_url = base_url or BASE_URL
        self._timeout_s = timeout_s

    def optional(self, left_out: frozenset[str]) -> tuple[str, ...]:
        return tuple(self._options(1, left_out))

    def errors(self) -> tuple[type[Exception], ...]:
        return (openai.OpenAIError, httpx2.HTTPError, ValueError)

    async def say(self, question: Question, left_out: frozenset[str]) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer. Malformed when it is not of the protocol's form."""
        messages: list[Any] = [{"role": "system", "content": question.system}]
        messages += [{"role": message.role, "content": message.text} for message in question.messages]
        options = self._options(question.answer_tokens, left_out)
        async with openai.AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, max_retries=0, http_client=client(self._timeout_s, self._key)
        ) as sdk:
            made: Any = await sdk.chat.completions.create(model=self._model, messages=messages, **options)
            if "stream" not in options:
                for piece in _pieces(made, "message"):
                    yield piece
                return
            async for chunk in made:
                for piece in _pieces(chunk, "delta"):
                    yield piece

    def _options(self, answer_tokens: int, left_out: frozenset[str]) -> dict[str, Any]:
        """The parameters that can be left out, without those that are."""
        options: dict[str, Any] = {}
        # OpenAI's own models know the new name only, many other endpoints the old one only.
        limits = ["max_completion_tokens", "max_tokens"]
        if self._base_url != BASE_URL:
            limits.reverse()
        for limit in limits:
            if limit not in left_out:
                options[limit] = answer_tokens
                break
        if "stream" not in left_out:
            options["stream"] = True
            if "stream_options" not in left_out:
                options["stream_options"] = {"include_usage": True}
        return options


def _pieces(answer: Any, holder: str) -> list[Piece]:
    """What a chunk, or a whole answer, says."""
    try:
        pieces = []
        for choice in (answer.choices or [])[:1]:
            held = getattr(choice, holder)
            pieces.append(Piece((held and held.content) or "", choice.finish_reason or ""))
        if usage := getattr(answer, "usage", None):
            pieces.append(Piece(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens))
    except (AttributeError, TypeError) as error:  # the SDK hands over whatever JSON it got
        raise Malformed from error
    if not pieces and holder == "message":
        raise Malformed
    return pieces
