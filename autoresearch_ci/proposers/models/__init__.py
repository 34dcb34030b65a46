"""A language model behind an HTTP endpoint: one question, one answer, and what that took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from autoresearch_ci.experiment import Usage


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: `system`, then the messages in turn. `answer_tokens`: the longest answer that is wanted."""

    system: str
    messages: tuple[Message, ...]
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` as the model gave it, `truncated` when it ended at the limit. `usage`: without a cost."""

    text: str
    usage: Usage
    truncated: bool = False


class ModelFailed(Exception):  # noqa: N818 - like a crash of a run, it is an outcome
    """A question got no answer: `reason` in one line, without secrets. `lasting`: asking again cannot help.

    `hint`: what a person can do. `usage`: of the calls that were made, as far as it is known.
    """

    def __init__(self, reason: str, *, hint: str = "", lasting: bool = False, usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.lasting = lasting
        self.usage = usage or Usage(calls=1)


class Model(Protocol):
    """What answers. ModelFailed when it does not, within its time limit and its retries."""

    def ask(self, question: Question, /) -> Answer: ...
