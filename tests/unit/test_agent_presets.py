"""How agents are started, and how their own reports are read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Usage
from autoresearch_ci.proposers.agent_presets import PRESETS, Report, preset

CLAUDE = {
    "type": "result", "result": "DESCRIPTION: x", "num_turns": 4, "total_cost_usd": 0.25,
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30, "output_tokens": 5},
}  # fmt: skip
CODEX = [
    {"type": "item.completed", "item": {"type": "reasoning", "text": "hm"}},
    {"type": "item.completed", "item": {"type": "agent_message", "text": "DESCRIPTION: x"}},
    {"type": "turn.completed", "usage": {"input_tokens": 60, "cached_input_tokens": 10, "output_tokens": 5}},
]
GEMINI = {
    "response": "DESCRIPTION: x",
    "stats": {
        "models": {"pro": {"api": {"totalRequests": 2}, "tokens": {"prompt": 60, "candidates": 4, "thoughts": 1}}}
    },
}
OPENCODE = [
    {"type": "text", "part": {"text": "DESCRIPTION: x"}},
    {"type": "step_finish", "part": {"cost": 0.1, "tokens": {"input": 40, "output": 3}}},
    {"type": "step_finish", "part": {"cost": 0.15, "tokens": {"input": 20, "output": 2}}},
]
AIDER = "DESCRIPTION: x\nTokens: 1.2k sent, 50 received. Cost: $0.10 message, $0.10 session.\nTokens: 800 sent, 1k cache hit, 2k received.\n"


def lines(*events: object) -> str:
    return "starting\n" + "\n".join(map(json.dumps, events)) + "\n"


@pytest.mark.parametrize(
    ("agent", "output", "usage"),
    [
        (
            "claude",
            "warning: x\n" + json.dumps(CLAUDE, indent=2),
            Usage(calls=4, input_tokens=60, output_tokens=5, cost=0.25),
        ),
        ("codex", lines(*CODEX), Usage(calls=1, input_tokens=60, output_tokens=5)),
        ("gemini", json.dumps(GEMINI, indent=2), Usage(calls=2, input_tokens=60, output_tokens=5)),
        ("opencode", lines(*OPENCODE), Usage(calls=2, input_tokens=60, output_tokens=5, cost=0.25)),
        ("aider", AIDER, Usage(calls=2, input_tokens=2000, output_tokens=2050, cost=0.1)),
    ],
)
def test_reports(agent: str, output: str, usage: Usage) -> None:
    """What an agent says it took is read, and its last words."""
    report = PRESETS[agent].report(output)
    assert report.usage == usage
    assert "DESCRIPTION: x" in report.text


@pytest.mark.parametrize(
    ("agent", "output"),
    [
        ("claude", json.dumps(CLAUDE | {"is_error": True, "result": "wrong key"})),
        ("codex", lines({"type": "error", "message": "wrong key"}, {"type": "turn.failed", "error": {"message": "x"}})),
        (
            "gemini",
            "Warning\n" + json.dumps({"error": {"type": "Error", "message": "wrong key", "code": 41}}, indent=2),
        ),
        ("opencode", lines({"type": "error", "error": {"name": "APIError", "data": {"message": "wrong key"}}})),
        ("aider", "wrong key"),
    ],
)
def test_complaints(agent: str, output: str) -> None:
    """What went wrong is said in the agent's own words, not in braces."""
    assert PRESETS[agent].report(output).text == "wrong key"


@given(
    st.sampled_from(sorted(PRESETS)),
    st.text(st.sampled_from('{}[]":,0 \n') | st.characters(codec="utf-8"), max_size=200),
)
def test_any_output_is_a_report(agent: str, output: str) -> None:
    """One call at least, and never a traceback."""
    assert PRESETS[agent].report(output).usage.calls >= 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "usage",
                    "result",
                    "part",
                    "tokens",
                    "stats",
                    "models",
                    "item",
                    "type",
                    "cost",
                    "input_tokens",
                    "api",
                    "data",
                    "message",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.sampled_from(sorted(PRESETS)),
    st.dictionaries(
        st.sampled_from(["usage", "result", "part", "stats", "item", "type", "response", "error", "message"]),
        VALUES,
        max_size=5,
    ),
)
def test_any_object_is_a_report(agent: str, value: object) -> None:
    """Reports of another form than expected count as a call."""
    report = PRESETS[agent].report(json.dumps(value))
    assert isinstance(report, Report)
    assert report.usage.calls >= 1


def test_every_preset_says_how_to_install_it() -> None:
    """And starts the program of its name, asks nothing, and passes no token that can write."""
    for name, each in PRESETS.items():
        assert each.command[0] == name
        assert each.install
        assert not {"GITHUB_TOKEN", "GH_TOKEN"} & set(each.keys)


def test_endpoints() -> None:
    """Another address is given in each agent's own way."""
    url = "http://127.0.0.1:1/v1"
    for name, each in PRESETS.items():
        arguments, variables = each.endpoint(url, "endpoint/m")
        assert url in "".join((*arguments, *variables.values())), name
    assert preset(None, "my-agent --yes '{prompt}'").command == ("my-agent", "--yes", "{prompt}")
