"""Anthropic's protocol: messages, by the official SDK. The system prompt, which never changes, is marked for the cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import httpx2

from autoresearch_ci.proposers.models import Question
from autoresearch_ci.proposers.models.endpoint import Piece
from autoresearch_ci.proposers.models.transport import client

BASE_URL: Final = "https://api.anthropic.com"


class AnthropicDialect:
    """Messages of `model`, streamed where the endpoint can."""

    def __init__(self, *, model: str, key: str, base_url: str | None, timeout_s: float) -> None:
        self._model = model
        self._key = key
        self._base_url = base_url or BASE_URL
        self._timeout_s = timeout_s

    @property
    def optional(self) -> tuple[str, ...]:
        return ("cache_control", "stream")

    def errors(self) -> tuple[type[Exception], ...]:
        return (anthropic.AnthropicError, httpx2.HTTPError, ValueError)

    async def say(self, question: Question, left_out: frozenset[str]) -> AsyncIterator[Piece]:
        """The pieces of one answer."""
        system: dict[str, Any] = {"type": "text", "text": question.system}
        if "cache_control" not in left_out:
            system["cache_control"] = {"type": "ephemeral"}
        messages: list[Any] = [{"role": message.role, "content": message.text} for message in question.messages]
        streamed = "stream" not in left_out
        async with anthropic.AsyncAnthropic(
            api_key=self._key, base_url=self._base_url, max_retries=0, http_client=client(self._timeout_s)
        ) as sdk:
            made: Any = await sdk.messages.create(
                model=self._model,
                system=[system],  # type: ignore[list-item]
                messages=messages,
                max_tokens=question.answer_tokens,
                stream=streamed,
            )
            if not streamed:
                yield _whole(made)
                return
            async for event in made:
                piece = _piece(event)
                if piece is not None:
                    yield piece


def _piece(event: Any) -> Piece | None:
    """What an event of a stream says; None for those that say nothing."""
    match event.type:
        case "message_start":
            return Piece(input_tokens=_input(event.message.usage))
        case "content_block_delta" if event.delta.type == "text_delta":
            return Piece(event.delta.text)
        case "message_delta":
            return Piece(finish=event.delta.stop_reason or "", output_tokens=event.usage.output_tokens)
    return None


def _whole(message: Any) -> Piece:
    """A whole answer. ValueError when it is not of the protocol's form."""
    if not isinstance(getattr(message, "content", None), list):
        raise ValueError(f"not an answer of the protocol: {str(message)[:100]}")
    text = "".join(block.text for block in message.content if block.type == "text")
    return Piece(text, message.stop_reason or "", _input(message.usage), message.usage.output_tokens)


def _input(usage: Any) -> int:
    """All tokens of the prompt: the SDK counts those that the cache held or took apart."""
    return int(
        (usage.input_tokens or 0) + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    )
