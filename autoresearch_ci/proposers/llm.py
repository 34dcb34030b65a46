"""The `llm` proposer: one request, one proposal; what cannot be run goes back to the model, at most twice."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from autoresearch_ci.errors import ProposerError
from autoresearch_ci.experiment import History, Proposal, Usage
from autoresearch_ci.knobs import Scope
from autoresearch_ci.proposals import Declined, Floor, Gate, TooEarly
from autoresearch_ci.proposers.budget import Budget
from autoresearch_ci.proposers.changes import described, noted
from autoresearch_ci.proposers.directions import Courses
from autoresearch_ci.proposers.edits import EditFormat, Suggestion, Unusable, read_answer
from autoresearch_ci.proposers.models import Message, Model, ModelFailed, Question
from autoresearch_ci.proposers.prompt import Prompts, correction, tokens_of
from autoresearch_ci.report.markdown import clean

MAX_CORRECTIONS: Final = 2
SHORT_LINES: Final = 400
SHORT_TOKENS: Final = 6000
# Models that write whole files better than blocks: small ones, by what their makers call them or by their size.
WEAK: Final = re.compile(
    r"mini|nano|lite|tiny|small|haiku|flash|gemma|llama|codestral|\b(?:[0-9]|[1-3][0-9])(?:\.\d+)?b\b"
)
UNREAD: Final = 0.5  # a model that counts so much less than was sent has not read it all


@dataclass(slots=True, kw_only=True)
class LLMProposer:
    """Asks a model for one change after another; matches the `Proposer` protocol.

    `edit_format`: the setting. `local`: the endpoint is this machine or its network. `answer_tokens`: the longest answer.
    """

    model: Model
    name: str
    gate: Gate
    budget: Budget
    prompts: Prompts
    edit_format: Literal["auto", "blocks", "whole"] = "auto"
    local: bool = False
    answer_tokens: int = 16_000
    stuck_after: int = 5
    scope: Scope = "all"
    floor: Floor = field(default_factory=Floor)
    courses: Courses = field(init=False)
    answered: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.courses = Courses(self.scope, self.stuck_after)

    def propose(self, history: History, script: str, *, wish: str = "", outlook: str = "") -> Proposal:
        """The model's next change. `wish`: what a person asks for; `outlook`: what an optimizer would do.

        Raises Declined when this gave none, and ProposerError when the endpoint cannot be used and never could.
        """
        self.budget.begin(history)
        form = self._form(script)
        with self.courses.next(history, wish) as (course, others):
            try:
                task = self.prompts.task(history, script, course, wish=wish, outlook=outlook, others=others, form=form)
            except ValueError as error:
                raise Declined(str(error)) from error
            return self._converse(task, script, script, form, wish)

    def repair(self, script: str, proposal: Proposal, reason: str, log: str) -> Proposal:
        """The proposal, a change of `script`, without the mistake that its run crashed of. Raises as `propose` does."""
        form = self._form(proposal.script)
        task = self.prompts.repair(proposal.script, reason, log)
        mended = self._converse(task, proposal.script, script, form, "")
        return replace(
            mended,
            description=clean(f"{proposal.description} (mended)", 160),
            category=proposal.category,
            rationale=proposal.rationale,
            parameters={**mended.parameters, **{k: v for k, v in proposal.parameters.items() if k == "wish"}},
            usage=proposal.usage + mended.usage,
            notes=(*proposal.notes, f"mended after a crash: {clean(reason, 160)}", *mended.notes),
        )

    def _converse(self, task: str, text: str, script: str, form: EditFormat, wish: str) -> Proposal:
        """Asks for a change of `text` until it may be run instead of `script`, the incumbent's."""
        system = self.prompts.system(form)
        messages = [Message("user", task)]
        usage, notes = Usage(), list[str]()
        problem = ""
        for attempt in range(1 + MAX_CORRECTIONS):
            sent = tokens_of(system) + sum(tokens_of(message.text) for message in messages)
            try:
                refusal = self.budget.refusal(sent, self.answer_tokens)
            except TooEarly:
                if attempt == 0:
                    raise
                refusal = (
                    "what is in flight leaves no room for a correction"  # to ask anew would forget what this one took
                )
            if refusal:
                raise Declined(refusal, usage=usage, notes=(*notes, refusal))
            question = Question(system=system, messages=tuple(messages), answer_tokens=self.answer_tokens)
            longest = Usage(calls=1, input_tokens=sent, output_tokens=self.answer_tokens)
            try:
                with self.budget.in_flight(longest), self.floor.left():
                    answer = self.model.ask(question)
            except ModelFailed as failure:
                usage += self.budget.add(failure.usage)
                reason = f"the model gave no answer: {failure.reason}"
                if failure.lasting and not self.answered:
                    raise ProposerError(reason, hint=failure.hint or "`proposer: search` needs no model") from failure
                raise Declined(reason, usage=usage, notes=(*notes, reason)) from failure
            self.answered = True
            usage += self.budget.add(answer.usage)
            if 0 < answer.usage.input_tokens < UNREAD * len(system + task) / 6:
                notes.append(
                    f"the endpoint read only {answer.usage.input_tokens} tokens of the prompt: raise its context length"
                )
            try:
                if answer.truncated:
                    raise Unusable("the answer was cut off at its limit: be shorter, with small search/replace blocks")
                suggestion = read_answer(answer.text, text, self.prompts.script_name)
                problem = self.gate.refusal(suggestion.script, script)
                if text != script and not problem:  # what crashed, once more
                    problem = self.gate.refusal(suggestion.script, text)
            except Unusable as error:
                problem = str(error)
            if not problem:
                return self._proposal(suggestion, script, wish, usage, tuple(notes))
            notes.append(f"refused: {clean(problem, 200)}")
            if self.edit_format == "auto" and attempt == MAX_CORRECTIONS - 1 and _is_short(text):
                form = "whole"  # blocks failed twice
            messages += [Message("assistant", answer.text or "(nothing)"), Message("user", correction(problem, form))]
        raise Declined(
            f"{1 + MAX_CORRECTIONS} answers were refused, the last because {clean(problem, 200)}",
            usage=usage,
            notes=tuple(notes),
        )

    def _proposal(
        self, suggestion: Suggestion, script: str, wish: str, usage: Usage, notes: tuple[str, ...]
    ) -> Proposal:
        return Proposal(
            script=suggestion.script,
            description=suggestion.description or described(script, suggestion.script),
            category=suggestion.category,
            rationale=suggestion.hypothesis,
            proposer="llm",
            parameters=noted(script, suggestion.script, wish),
            usage=usage,
            notes=notes,
        )

    def _form(self, script: str) -> EditFormat:
        if self.edit_format != "auto":
            return self.edit_format
        weak = self.local or WEAK.search(self.name.lower()) is not None
        return "whole" if weak and _is_short(script) else "blocks"


def _is_short(script: str) -> bool:
    return script.count("\n") <= SHORT_LINES and tokens_of(script) <= SHORT_TOKENS
