"""What a model says to a coding agent so that it changes LEARNING_RATE from 0.04 to 0.06, in the protocol of each."""

from __future__ import annotations

import json
from typing import Any

from tests.models.server import Reply, Request

BEFORE, AFTER = "LEARNING_RATE = 0.04", "LEARNING_RATE = 0.06"
LAST_WORDS = "HYPOTHESIS: it learns faster\nCATEGORY: optimizer\nDESCRIPTION: A higher rate"
PATCH = f"*** Begin Patch\n*** Update File: train.py\n@@\n-{BEFORE}\n+{AFTER}\n*** End Patch"


def codex(request: Request) -> Reply:
    """The Responses API: a call of the shell with apply_patch, then the last words."""
    worked = any(str(item.get("type", "")).endswith("call_output") for item in request.body["input"])
    tools = {tool.get("name") for tool in request.body.get("tools", [])}
    item: dict[str, Any] = {
        "type": "message", "id": "m1", "role": "assistant", "content": [{"type": "output_text", "text": LAST_WORDS}],
    }  # fmt: skip
    if not worked and "apply_patch" in tools:
        item = {"type": "custom_tool_call", "id": "t1", "call_id": "c1", "name": "apply_patch", "input": PATCH}
    elif not worked:
        command = f"apply_patch <<'EOF'\n{PATCH}\nEOF"
        arguments = {"cmd": command} if "exec_command" in tools else {"command": command}
        name = "exec_command" if "exec_command" in tools else "shell_command"
        item = {"type": "function_call", "id": "f1", "call_id": "c1", "name": name, "arguments": json.dumps(arguments)}
    usage = {
        "input_tokens": 1000, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 1050,
    }  # fmt: skip
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r1"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "r1", "usage": usage}},
    ]
    return _stream("".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events))


def opencode(request: Request) -> Reply:
    """Chat completions: a call of the tool `edit`, then the last words."""
    messages, tools = request.body["messages"], request.body.get("tools", [])
    delta: dict[str, Any] = {"role": "assistant", "content": LAST_WORDS}
    finish = "stop"
    if tools and not any(message["role"] == "tool" for message in messages):
        arguments = json.dumps({"filePath": "train.py", "oldString": BEFORE, "newString": AFTER})
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "edit", "arguments": arguments}}
        delta, finish = {"role": "assistant", "tool_calls": [call]}, "tool_calls"
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}

    def chunk(delta: dict[str, Any], finish: str | None, usage: dict[str, int] | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": [choice]}
        return f"data: {json.dumps(body | ({'usage': usage} if usage else {}))}\n\n"

    return _stream(chunk(delta, None, None) + chunk({}, finish, usage) + "data: [DONE]\n\n")


def aider(request: Request) -> Reply:
    """Chat completions: the whole file, which is how aider asks models that it does not know."""
    text = request.body["messages"][-1]["content"]
    shown = next(
        m["content"]
        for m in request.body["messages"]
        if BEFORE in str(m["content"]) and "train.py\n```" in m["content"]
    )
    file = shown.split("train.py\n```", 1)[1].split("\n", 1)[1].split("\n```", 1)[0]
    assert text
    return Reply(f"train.py\n```\n{file.replace(BEFORE, AFTER)}\n```\n\n{LAST_WORDS}\n", usage=(1000, 50))


def _stream(text: str) -> Reply:
    return Reply(raw=text.encode(), headers={"content-type": "text/event-stream"})
