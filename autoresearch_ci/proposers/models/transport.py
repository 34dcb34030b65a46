"""The HTTP below the SDKs: no redirects, which could carry the key elsewhere; no web pages; no body without end.

The SDKs also obey environment variables that no setting of ours names (OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS,
ANTHROPIC_CUSTOM_HEADERS): a header that is not known is not sent, and no credential but the key.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

import httpx2

from autoresearch_ci.proposers.models.endpoint import MAX_BODY, NoModel, TooLong

CREDENTIALS: Final = frozenset({"authorization", "x-api-key"})
HEADERS: Final = re.compile(
    r"host|connection|user-agent|accept(?:-encoding)?|(?:content|transfer)-[a-z]+|anthropic-version|x-stainless-[a-z-]+"
    r"|authorization|x-api-key"
)


def client(timeout_s: float, key: str) -> httpx2.AsyncClient:
    """A client for one question. The time limit is of every read; the question's own is kept elsewhere."""

    async def strip(request: httpx2.Request) -> None:
        for name, value in list(request.headers.items()):
            if not HEADERS.fullmatch(name.lower()) or (name.lower() in CREDENTIALS and key not in value):
                del request.headers[name]
        request.headers["accept-encoding"] = "identity"  # what is bounded below are the bytes as they are sent

    return httpx2.AsyncClient(
        timeout=timeout_s, follow_redirects=False, event_hooks={"request": [strip], "response": [_inspect]}
    )


async def _inspect(response: httpx2.Response) -> None:
    if response.is_success and "html" in response.headers.get("content-type", "").lower():
        raise NoModel
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, page=response.is_success)


class _Bounded(httpx2.AsyncByteStream):
    """The same bytes. TooLong when there are too many; NoModel when they begin as a `page` of the web does."""

    def __init__(self, stream: httpx2.AsyncByteStream, *, page: bool) -> None:
        self._stream = stream
        self._page = page

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for part in self._stream:
            if self._page and part.strip():
                self._page = False
                if part.lstrip().startswith(b"<"):
                    raise NoModel
            length += len(part)
            if length > MAX_BODY:
                raise TooLong
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
