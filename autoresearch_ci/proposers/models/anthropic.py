"""Anthropic's protocol: messages, by the official SDK. The system prompt, which never changes, is marked for the cache."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import anthropic
import httpx2

from autoresearch_ci.proposers.models import Question
from autoresearch_ci.proposers.models.endpoint import Malformed, Piece
from autoresearch_ci.proposers.models.transport import client

BASE_URL: Final = "https://api.anthropic.com"


class AnthropicDialect:
    """Messages of `model`, streamed where the endpoint can."""

    def __init__(self, *, model: str, key: str, base_url: str | None, timeout_s: float) -> None:
        self._model = model
        self._key = key
        # The SDK adds the version by itself; addresses of gateways are commonly given with it.
        self._base_url = (base_url or BASE_URL).rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s

    def optional(self, left_out: frozenset[str]) -> tuple[str, ...]:
        return tuple(name for name in ("cache_control", "stream") if name not in left_out)

    def errors(self) -> tuple[type[Exception], ...]:
        return (anthropic.AnthropicError, httpx2.HTTPError, ValueError)

    async def say(self, question: Question, left_out: frozenset[str]) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer. Malformed when it is not of the protocol's form."""
        system: dict[str, Any] = {"type": "text", "text": question.system}
        if "cache_control" not in left_out:
            system["cache_control"] = {"type": "ephemeral"}
        messages: list[Any] = [{"role": message.role, "content": message.text} for message in question.messages]
        streamed = "stream" not in left_out
        async with anthropic.AsyncAnthropic(
            api_key=self._key, base_url=self._base_url, max_retries=0, http_client=client(self._timeout_s, self._key)
        ) as sdk:
            made: Any = await sdk.messages.create(
                model=self._model,
                system=[system],  # type: ignore[list-item]
                messages=messages,
                max_tokens=question.answer_tokens,
                stream=streamed,
            )
            if not streamed:
                if getattr(made, "type", "") != "message":
                    raise Malformed
                yield _piece(made)
                return
            async for event in made:
                yield _piece(event)


def _piece(event: Any) -> Piece:
    """What an event of a stream says, or a whole message; nothing, for those that have no part in the answer."""
    try:
        match event.type:
            case "message":
                text = "".join(block.text for block in event.content if block.type == "text")
                return Piece(text, event.stop_reason or "", _input(event.usage), event.usage.output_tokens)
            case "message_start":
                return Piece(input_tokens=_input(event.message.usage))
            case "content_block_delta" if event.delta.type == "text_delta":
                return Piece(event.delta.text)
            case "message_delta":
                return Piece(finish=event.delta.stop_reason or "", output_tokens=event.usage.output_tokens)
    except (AttributeError, TypeError) as error:  # the SDK hands over whatever JSON it got
        raise Malformed from error
    return Piece()


def _input(usage: Any) -> int:
    """All tokens of the prompt: the SDK counts those that the cache held or took apart."""
    held: int = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return held + int(usage.input_tokens or 0)
