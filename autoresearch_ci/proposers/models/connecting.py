"""The settings' model, ready to be asked. What is wrong with the settings is found here, before anything is built or trained."""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Callable, Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.proposers.models.endpoint import Dialect, Endpoint

RETIRED: Final = ("models.github.ai", "models.inference.ai.azure.com")
NO_KEY: Final = "none"  # what is sent to an endpoint that needs no key, for the SDKs insist on one


def connect(
    *,
    speaks: Literal["openai", "anthropic"],
    model: str | None,
    base_url: str | None,
    key_variable: str,
    environ: Mapping[str, str],
    timeout_s: float,
    interrupted: Callable[[], bool],
) -> Endpoint:
    """The endpoint; nothing is sent yet. SettingsError when the model, its key, its address or its package is missing."""
    if not model:
        raise SettingsError(
            "`model` must be set for this proposer", hint="name one that your endpoint has, as `--model gpt-5`"
        )
    check_address(base_url)
    key = environ.get(key_variable, "").strip()
    if not key and not is_local(base_url):
        raise SettingsError(
            f"there is no key: {key_variable} is not set",
            hint="set it in the environment (in Actions: the input for the key), or name another variable by `api-key-env`",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"{key_variable} holds no key: keys are one word of letters, digits and signs",
            hint="copy the key again, without quotes or a second line",
        )
    if importlib.util.find_spec(speaks) is None:
        raise SettingsError(f"the `{speaks}` package is not installed", hint=f"pip install 'autoresearch-ci[{speaks}]'")
    key = key or NO_KEY
    dialect: Dialect
    if speaks == "openai":
        from autoresearch_ci.proposers.models.openai import OpenAIDialect

        dialect = OpenAIDialect(model=model, key=key, base_url=base_url, timeout_s=timeout_s)
    else:
        from autoresearch_ci.proposers.models.anthropic import AnthropicDialect

        dialect = AnthropicDialect(model=model, key=key, base_url=base_url, timeout_s=timeout_s)
    return Endpoint(
        dialect=dialect, model=model, key=key, key_variable=key_variable, timeout_s=timeout_s, interrupted=interrupted
    )


def check_address(base_url: str | None) -> None:
    """SettingsError when this cannot be the address of a model."""
    if base_url is None:
        return
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        valid = parts.scheme in ("http", "https") and bool(host) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid, host, parts = False, "", urlsplit("")
    if not valid:
        raise SettingsError("`base-url` is no http or https address", hint="write it as `http://127.0.0.1:11434/v1`")
    if parts.username or parts.password or parts.query:
        raise SettingsError(
            "`base-url` holds more than an address", hint="the key belongs into the variable of `api-key-env`"
        )
    if host in RETIRED:
        raise SettingsError(
            "GitHub Models was retired in July 2026: this address answers no more",
            hint="use another `base-url` (OpenAI, OpenRouter, Ollama, vLLM), or `proposer: agent` with `agent: copilot`",
        )


def is_local(base_url: str | None) -> bool:
    """Whether the address is this machine or a private network, where endpoints commonly have no key."""
    host = (urlsplit(base_url).hostname or "") if base_url else ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or (bool(host) and "." not in host) or host.endswith((".local", ".internal"))
