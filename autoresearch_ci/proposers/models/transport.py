"""The HTTP below the SDKs: no redirects, which could carry the key elsewhere; no web pages; no body without end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from autoresearch_ci.proposers.models.endpoint import MAX_BODY, NoModel, TooLong


def client(timeout_s: float) -> httpx2.AsyncClient:
    """A client for one question. The time limit is of every read; the question's own is kept elsewhere."""
    return httpx2.AsyncClient(timeout=timeout_s, follow_redirects=False, event_hooks={"response": [_inspect]})


async def _inspect(response: httpx2.Response) -> None:
    if response.is_success and "html" in response.headers.get("content-type", ""):
        raise NoModel
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for part in self._stream:
            length += len(part)
            if length > MAX_BODY:
                raise TooLong
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
