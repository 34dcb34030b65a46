"""OpenAI's protocol, which most endpoints speak: chat completions, by the official SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import openai

from autoresearch_ci.proposers.models import Question
from autoresearch_ci.proposers.models.endpoint import Piece
from autoresearch_ci.proposers.models.transport import client

BASE_URL: Final = "https://api.openai.com/v1"


class OpenAIDialect:
    """Chat completions of `model`. Streamed where the endpoint can, so that a long answer is not taken for a dead connection."""

    def __init__(self, *, model: str, key: str, base_url: str | None, timeout_s: float) -> None:
        self._model = model
        self._key = key
        self._base_url = base_url or BASE_URL
        self._timeout_s = timeout_s

    @property
    def optional(self) -> tuple[str, ...]:
        return ("stream_options", "max_completion_tokens", "max_tokens", "stream")

    def errors(self) -> tuple[type[Exception], ...]:
        return (openai.OpenAIError, httpx2.HTTPError, ValueError)

    async def say(self, question: Question, left_out: frozenset[str]) -> AsyncIterator[Piece]:
        """The pieces of one answer."""
        messages: list[Any] = [{"role": "system", "content": question.system}]
        messages += [{"role": message.role, "content": message.text} for message in question.messages]
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        # OpenAI's own models know the new name only, many other endpoints the old one only.
        first, second = ("max_completion_tokens", "max_tokens")
        if self._base_url != BASE_URL:
            first, second = second, first
        options[second if first in left_out else first] = question.answer_tokens
        options = {name: value for name, value in options.items() if name not in left_out}
        if "stream" in left_out:
            options.pop("stream_options", None)
        async with openai.AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, max_retries=0, http_client=client(self._timeout_s)
        ) as sdk:
            made: Any = await sdk.chat.completions.create(model=self._model, messages=messages, **options)
            if "stream" in left_out:
                for piece in _pieces(made, "message"):
                    yield piece
                return
            async for chunk in made:
                for piece in _pieces(chunk, "delta"):
                    yield piece


def _pieces(answer: Any, holder: str) -> list[Piece]:
    """What a chunk, or a whole answer, says. ValueError when it is not of the protocol's form."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list):
        raise ValueError(f"not an answer of the protocol: {str(answer)[:100]}")
    pieces = []
    for choice in choices[:1]:
        content = getattr(getattr(choice, holder, None), "content", None)
        pieces.append(Piece(content or "", getattr(choice, "finish_reason", None) or ""))
    if usage := getattr(answer, "usage", None):
        pieces.append(Piece(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens))
    return pieces
