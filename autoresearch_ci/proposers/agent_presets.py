"""How each coding agent is started without a person: its command line, what it sees, and how its report of tokens is read.

After the agents' own `--help`, at the versions that `.ci/agents` installs. None of them gets a token that can write to the repository.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Usage

# Never passed on, also when `agent-env` names them: they can write.
FORBIDDEN: Final = frozenset(
    {"GITHUB_TOKEN", "GH_TOKEN", "AUTORESEARCH_TOKEN", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"}
)
PROMPT: Final = "{prompt}"
PROMPT_FILE: Final = "{prompt-file}"
MAX_ARGUMENT: Final = 120_000  # bytes: Linux takes 128 KiB in one argument


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says it did: its last words, and what they took."""

    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One agent. `command` holds `{prompt}` where the prompt is an argument; else it is on standard input, or in `{prompt-file}`.

    `model`: what is added for a model, `{model}` in it. `keys`: the variables that hold its credentials. `fixed`: variables that keep
    it from asking, updating and reporting. `endpoint`: arguments and variables for another address. `files`: what it needs in its
    folder for that, where the repository has none of that name.
    """

    command: tuple[str, ...]
    install: str = ""
    model: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    endpoint: Callable[[str, str], tuple[tuple[str, ...], Mapping[str, str]]] = lambda _url, _model: ((), {})
    files: Mapping[str, str] = field(default_factory=dict)
    report: Callable[[str], Report] = lambda output: Report(output, Usage(calls=1))


def preset(name: str | None, command: str | None) -> Preset:
    """The agent of the settings. SettingsError when there is none, or a command that cannot be split."""
    if command is not None:
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise SettingsError(
                f"`agent-command` cannot be split into words: {error}", hint="check its quotes"
            ) from error
        if not words:
            raise SettingsError("`agent-command` is empty", hint="write the agent's command line")
        return Preset(command=words)
    if name is None:
        raise SettingsError("there is no agent", hint=f"set `agent` to one of {', '.join(PRESETS)}, or `agent-command`")
    return PRESETS[name]


def _objects(output: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that stand on lines of their own; and the output as a whole, when it is one."""
    texts = [output[output.find("{") :], *output.splitlines()] if "{" in output else []
    for text in texts:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15 else 0


def _cost(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else None


def _complaint(output: str) -> str:
    """What went wrong, where an agent says it in JSON; else all that it printed."""
    for found in _objects(output):
        error = found if found.get("type") == "error" and "message" in found else found.get("error")
        if isinstance(error, dict):
            data = error.get("data")
            message = error.get("message") or (data.get("message") if isinstance(data, dict) else None)
            if isinstance(message, str):
                return message
    return output


def _claude(output: str) -> Report:
    for found in _objects(output):
        usage = found.get("usage")
        if "result" in found and isinstance(usage, dict):
            sent = sum(
                _number(usage.get(k))
                for k in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            )
            used = Usage(
                calls=max(1, _number(found.get("num_turns"))),
                input_tokens=sent,
                output_tokens=_number(usage.get("output_tokens")),
                cost=_cost(found.get("total_cost_usd")),
            )
            return Report(str(found["result"]), used)
    return Report(output, Usage(calls=1))


def _codex(output: str) -> Report:
    """Events: `item.completed` with an `agent_message`, and `turn.completed` with the usage of a turn."""
    text, used = "", Usage()
    for found in _objects(output):
        item, usage = found.get("item"), found.get("usage")
        if isinstance(item, dict) and item.get("type") == "agent_message":
            text = str(item.get("text", ""))
        if found.get("type") == "turn.completed" and isinstance(usage, dict):
            used += Usage(
                calls=1,
                input_tokens=_number(usage.get("input_tokens")),
                output_tokens=_number(usage.get("output_tokens")),
            )
    return Report(text or _complaint(output), used if used.calls else Usage(calls=1))


def _gemini(output: str) -> Report:
    for found in _objects(output):
        stats = found.get("stats")
        models = stats.get("models") if isinstance(stats, dict) else None
        if "response" not in found and not isinstance(models, dict):
            continue
        used = [model for model in models.values() if isinstance(model, dict)] if isinstance(models, dict) else []
        tokens, requests = _parts(used, "tokens"), _parts(used, "api")
        usage = Usage(
            calls=max(1, sum(_number(each.get("totalRequests")) for each in requests)),
            input_tokens=sum(_number(each.get("prompt")) for each in tokens),
            output_tokens=sum(_number(each.get("candidates")) + _number(each.get("thoughts")) for each in tokens),
        )
        return Report(str(found.get("response") or ""), usage)
    return Report(_complaint(output), Usage(calls=1))


def _parts(values: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [part for value in values if isinstance(part := value.get(name), dict)]


def _opencode(output: str) -> Report:
    """Events: `text` parts, and a `step_finish` for each call."""
    texts, used = [], Usage()
    for found in _objects(output):
        part = found.get("part")
        if not isinstance(part, dict):
            continue
        if found.get("type") == "text":
            texts.append(str(part.get("text", "")))
        tokens = part.get("tokens")
        if found.get("type") == "step_finish" and isinstance(tokens, dict):
            cost = _cost(part.get("cost"))
            used += Usage(
                calls=1,
                input_tokens=_number(tokens.get("input")),
                output_tokens=_number(tokens.get("output")),
                cost=cost or None,
            )
    return Report("\n".join(texts) or _complaint(output), used if used.calls else Usage(calls=1))


_AIDER: Final = re.compile(
    r"Tokens: ([\d.,]+)(k?) sent,(?: [^\n]*?,)? ?([\d.,]+)(k?) received\.(?: Cost: \$([\d.]+) message)?"
)


def _aider(output: str) -> Report:
    used = Usage()
    for sent, k, said, k2, cost in _AIDER.findall(output):
        used += Usage(
            calls=1,
            input_tokens=_thousands(sent, k),
            output_tokens=_thousands(said, k2),
            cost=float(cost) if cost else None,
        )
    return Report(output, used if used.calls else Usage(calls=1))


def _thousands(number: str, unit: str) -> int:
    return int(float(number.replace(",", "").rstrip(".") or 0) * (1000 if unit else 1))


def _codex_endpoint(url: str, _model: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    provider = f'{{name="endpoint",base_url={json.dumps(url)},env_key="OPENAI_API_KEY",wire_api="responses"}}'
    return ("-c", 'model_provider="endpoint"', "-c", f"model_providers.endpoint={provider}"), {}


def _opencode_endpoint(url: str, model: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": url, "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {model.removeprefix("endpoint/"): {}},
    }
    return (), {
        "OPENCODE_CONFIG_CONTENT": json.dumps(
            {"provider": {"endpoint": provider}, "autoupdate": False, "share": "disabled"}
        )
    }


PRESETS: Final[Mapping[str, Preset]] = {
    "claude": Preset(
        command=(
            "claude", "--bare", "-p", "--output-format", "json", "--max-turns", "60", "--allowedTools", "Read,Edit,Write,Grep,Glob",
        ),
        install="npm install -g @anthropic-ai/claude-code",
        model=("--model", "{model}"),
        keys=("ANTHROPIC_API_KEY",),
        fixed={"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"},
        endpoint=lambda url, _: ((), {"ANTHROPIC_BASE_URL": url}),
        report=_claude,
    ),
    "codex": Preset(
        command=("codex", "exec", "--json", "--skip-git-repo-check", "--ephemeral", "--sandbox", "workspace-write", "-"),
        install="npm install -g @openai/codex",
        model=("--model", "{model}"),
        keys=("OPENAI_API_KEY", "CODEX_API_KEY"),
        endpoint=_codex_endpoint,
        report=_codex,
    ),
    "gemini": Preset(
        command=("gemini", "--output-format", "json", "--approval-mode", "auto_edit"),
        install="npm install -g @google/gemini-cli",
        model=("--model", "{model}"),
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        fixed={"GEMINI_CLI_TRUST_WORKSPACE": "true"},
        endpoint=lambda url, _: ((), {"GOOGLE_GEMINI_BASE_URL": url}),
        # With another address, and only then, it does not believe that the key is what it is to use.
        files={".gemini/settings.json": '{"security": {"auth": {"selectedType": "gemini-api-key"}}}'},
        report=_gemini,
    ),
    "copilot": Preset(
        command=("copilot", "-s", "--no-ask-user", "--allow-tool", "write", "-p", PROMPT),
        install="npm install -g @github/copilot",
        model=("--model", "{model}"),
        keys=("COPILOT_GITHUB_TOKEN", "COPILOT_PROVIDER_API_KEY"),
        fixed={"COPILOT_AUTO_UPDATE": "false"},
        # Without GitHub, then.
        endpoint=lambda url, _: ((), {"COPILOT_PROVIDER_BASE_URL": url, "COPILOT_OFFLINE": "true"}),
    ),
    "opencode": Preset(
        command=("opencode", "run", "--format", "json"),
        install="npm install -g opencode-ai",
        model=("--model", "{model}"),
        keys=("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY"),
        fixed={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"},
        endpoint=_opencode_endpoint,
        report=_opencode,
    ),
    "aider": Preset(
        command=(
            "aider", "--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes",
            "--analytics-disable", "--no-pretty", "--no-stream", "--no-suggest-shell-commands", "--no-detect-urls",
            "--map-tokens", "0", "--chat-history-file", os.devnull, "--input-history-file", os.devnull,
            "--message-file", PROMPT_FILE, "{training-script}",
        ),
        install="pip install aider-chat",
        model=("--model", "{model}"),
        keys=("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "GEMINI_API_KEY"),
        endpoint=lambda url, _: ((), {"OPENAI_API_BASE": url}),
        report=_aider,
    ),
}  # fmt: skip
