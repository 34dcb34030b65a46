"""Checks requests and answers by GitHub's description of its REST API (OpenAPI 3.0; @octokit/openapi 23.0.2, cut).

The cut: of `generated/api.github.com.deref.json` in that npm package, the paths and methods that the file beside this one
holds, each without its prose (every key `summary`, `description`, `tags`, `operationId`, `externalDocs`, `title`,
`examples`, `example` and `x-github` that is not the name of a property), keys sorted, no white space. A path that is
missing is cut and added in the same way.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jsonschema import Draft4Validator, FormatChecker

DESCRIPTION = Path(__file__).with_name("github-openapi-23.0.2-cut.json")

# Statuses that GitHub sends everywhere without saying so for each operation.
_EVERYWHERE = frozenset({401, 403, 404, 422, 429})
_FORMATS = FormatChecker(())


@_FORMATS.checks("date-time", ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or bool(dt.datetime.fromisoformat(value))


@_FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme and urlsplit(value).netloc)


@dataclass(frozen=True)
class Operation:
    """One operation of the description, found for one request; `parameters` are those in the path."""

    method: str
    template: str
    parameters: Mapping[str, str]
    definition: Mapping[str, Any] = field(repr=False)

    def check_request(self, query: Mapping[str, list[str]], body: object) -> list[str]:
        """What is wrong with the request; `body` is None when there is none."""
        problems: list[str] = []
        declared = {(p["in"], p["name"]): p for p in self.definition.get("parameters", ())}
        for name, value in self.parameters.items():
            problems += self._check(declared["path", name]["schema"], _typed(declared["path", name], value), name)
        for name, values in query.items():
            parameter = declared.get(("query", name))
            if parameter is None:
                problems.append(f"{self}: unknown query parameter `{name}`")
            else:
                problems += self._check(parameter["schema"], _typed(parameter, values[0]), name)
        content = self.definition.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            return problems + ([f"{self}: takes no body"] if body is not None else [])
        if body is None:
            return problems + ([f"{self}: needs a body"] if self.definition["requestBody"].get("required") else [])
        unknown = set(body) - set(content["schema"].get("properties", body)) if isinstance(body, dict) else set()
        problems += [f"{self}: unknown property `{name}` in the body" for name in sorted(unknown)]
        return problems + self._check(content["schema"], body, "body")

    def check_answer(self, status: int, body: object) -> list[str]:
        """What is wrong with the answer."""
        described = self.definition["responses"].get(str(status))
        content = (described or {}).get("content", {}).get("application/json")
        if described is None and status not in _EVERYWHERE:
            return [f"{self}: status {status} is not described"]
        if content is None and status >= 400:  # of many refusals only the status is described
            return [] if isinstance(body, dict) and "message" in body else [f"{self}: {status} without a message"]
        if content is None:
            return [f"{self}: {status} has no body"] if body is not None else []
        return self._check(content["schema"], body, f"answer {status}")

    def _check(self, schema: Mapping[str, Any], value: object, where: str) -> list[str]:
        validator = _validator(json.dumps(schema, sort_keys=True))
        return [f"{self}: {where} {error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


def find_operation(method: str, path: str) -> Operation | None:
    """The operation that `path` (without prefix and query) belongs to, None when it is not described."""
    for template, pattern, methods in _paths():
        match = pattern.fullmatch(path)
        if match is not None and method.lower() in methods:
            parameters = {name: unquote(value) for name, value in match.groupdict().items()}
            return Operation(method, template, parameters, methods[method.lower()])
    return None


@functools.cache
def _paths() -> list[tuple[str, re.Pattern[str], Mapping[str, Any]]]:
    description = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    paths = []
    for template, methods in description["paths"].items():
        long = {
            parameter["name"]
            for operation in methods.values()
            for parameter in operation.get("parameters", ())
            if parameter.get("x-multi-segment")
        }
        parts = (
            (f"(?P<{part[1:-1]}>.+)" if part[1:-1] in long else f"(?P<{part[1:-1]}>[^/]+)")
            if part.startswith("{")
            else re.escape(part)
            for part in template.split("/")
        )
        pattern = "/".join(parts)
        paths.append((template, re.compile(pattern), methods))
    # The most literal template first: `/labels/{name}` must not take what `/labels` is for.
    return sorted(paths, key=lambda entry: (entry[0].count("{"), -len(entry[0])))


@functools.cache
def _validator(schema: str) -> Draft4Validator:
    # Draft 4 is the JSON Schema that OpenAPI 3.0 is a dialect of.
    return Draft4Validator(_as_json_schema(json.loads(schema)), format_checker=_FORMATS)


def _as_json_schema(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` spelled as JSON Schema spells it."""
    if isinstance(schema, list):
        return [_as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: _as_json_schema(value) for name, value in schema.items()}
    if converted.pop("nullable", False) is True:
        return {"anyOf": [converted, {"type": "null"}]}
    return converted


def _typed(parameter: Mapping[str, Any], value: str) -> object:
    if parameter["schema"].get("type") == "integer" and re.fullmatch(r"-?\d+", value):
        return int(value)
    return value
