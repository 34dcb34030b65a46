"""What a request to the test forge is, and what an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.forge.objects import Json
from tests.forge.openapi import Operation


@dataclass(frozen=True)
class Request:
    """A REST request: what it asks for, and `base`, the URL of the API as the client sees it.

    `app`: the ID of the GitHub App that asks, as itself and not by a token.
    """

    operation: Operation
    base: str
    query: Mapping[str, list[str]]
    body: Any
    app: str = ""

    def first(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]


@dataclass(frozen=True)
class Answer:
    status: int
    body: Json | list[Json] | None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Answer]


class NotFoundError(Exception):
    """The object that the path names does not exist: 404."""


def page(request: Request, items: list[Json]) -> Answer:
    """The part of a long list that the request asks for, with the link to the next."""
    size, number = int(request.first("per_page", "30")), int(request.first("page", "1"))
    headers = {}
    if number * size < len(items):
        names = {**{name: values[0] for name, values in request.query.items()}, "page": str(number + 1)}
        path = request.operation.template.format(**request.operation.parameters)
        query = "&".join(f"{name}={value}" for name, value in names.items())
        headers["Link"] = f'<{request.base}{path}?{query}>; rel="next"'
    return Answer(200, items[(number - 1) * size : number * size], headers)
