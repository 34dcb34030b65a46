"""The `llm` proposer: answers become proposals, or go back to the model, or are declined with what they cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from autoresearch_ci.errors import ProposerError
from autoresearch_ci.experiment import Category, Direction, History, Proposal, Status, Usage
from autoresearch_ci.proposals import Declined, Gate
from autoresearch_ci.proposers.budget import Budget
from autoresearch_ci.proposers.hybrid import HybridProposer
from autoresearch_ci.proposers.line import Line
from autoresearch_ci.proposers.llm import LLMProposer
from autoresearch_ci.proposers.models import Answer, ModelFailed, Question
from autoresearch_ci.proposers.prompt import Prompts
from tests.unit.histories import experiment, history

KEEP, DISCARD = Status.KEEP, Status.DISCARD
SCRIPT = "LEARNING_RATE = 0.1\nWIDTH = 64\n\n\ndef train():\n    return LEARNING_RATE * WIDTH\n\n\nprint('val_bpb:', train())\n"
GOOD = """\
HYPOTHESIS: a higher rate learns faster
CATEGORY: optimizer
DESCRIPTION: Double the learning rate
```python
<<<<<<< SEARCH
LEARNING_RATE = 0.1
=======
LEARNING_RATE = 0.2
>>>>>>> REPLACE
```"""
USED = Usage(calls=1, input_tokens=1000, output_tokens=100)


@dataclass
class Script:
    """A model that gives these answers in turn, or fails."""

    answers: list[str | Answer | ModelFailed]
    asked: list[Question] = field(default_factory=list)

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        answer = self.answers.pop(0)
        if isinstance(answer, ModelFailed):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(answer, USED)


def proposer(
    *answers: str | Answer | ModelFailed, gate: Gate | None = None, budget: Budget | None = None, **values: Any
) -> tuple[LLMProposer, Script]:
    model = Script(list(answers))
    prompts = Prompts(
        script_name="train.py", metric="val_bpb", direction=Direction.MINIMIZE, time_budget_s=60, scope="all",
        tokens=8000, log=lambda _: "",
    )  # fmt: skip
    made = LLMProposer(
        model=model,
        name=str(values.pop("name", "big")),
        gate=gate or Gate(),
        budget=budget or Budget(),
        prompts=prompts,
        **values,
    )
    return made, model


HISTORY = history((1.0, KEEP))


def test_a_good_answer() -> None:
    """One request gives one proposal, with its reasons, its knobs and what it took."""
    llm, model = proposer(GOOD)
    proposal = llm.propose(HISTORY, SCRIPT)
    assert proposal.script == SCRIPT.replace("0.1", "0.2")
    assert (proposal.description, proposal.category) == ("Double the learning rate", Category.OPTIMIZER)
    assert (proposal.proposer, proposal.rationale) == ("llm", "a higher rate learns faster")
    assert proposal.parameters == {"from LEARNING_RATE": 0.1, "to LEARNING_RATE": 0.2}
    assert (proposal.usage, proposal.notes) == (USED, ())
    assert len(model.asked) == 1


def test_an_answer_that_says_nothing_of_itself() -> None:
    """The change is described from what it is; other code that changed is noted."""
    bare = GOOD[GOOD.index("```") :]
    assert proposer(bare)[0].propose(HISTORY, SCRIPT).description == "LEARNING_RATE 0.1 → 0.2"
    more = bare.replace("= 0.2", "= 0.2\nimport math")
    proposal = proposer(more)[0].propose(HISTORY, SCRIPT)
    assert proposal.parameters["also"] == "other code"
    rewritten = (
        "```\n<<<<<<< SEARCH\n    return LEARNING_RATE * WIDTH\n=======\n    return 2 * WIDTH\n>>>>>>> REPLACE\n```"
    )
    assert proposer(rewritten)[0].propose(HISTORY, SCRIPT).description == "1 lines added, 1 removed"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (GOOD.replace("= 0.2", "= 0.1"), "it changes nothing"),
        (GOOD.replace("= 0.2", "= (0.2"), "it does not parse"),
        (GOOD.replace("RATE = 0.1", "RATES = 0.9"), "not in the file"),
        ("I cannot do that.", "no code"),
        (Answer(GOOD, USED, truncated=True), "cut off"),
    ],
)
def test_a_refusal_goes_back_to_the_model(bad: str | Answer, told: str) -> None:
    """What cannot be run is told to the model with the reason; its next answer counts, and both are paid for."""
    llm, model = proposer(bad, GOOD)
    proposal = llm.propose(HISTORY, SCRIPT)
    assert proposal.script == SCRIPT.replace("0.1", "0.2")
    assert told in model.asked[1].messages[-1].text
    assert [m.role for m in model.asked[1].messages] == ["user", "assistant", "user"]
    assert proposal.usage == USED + USED
    assert len(proposal.notes) == 1
    assert told in proposal.notes[0]


def test_what_was_tried_is_not_run_again() -> None:
    """A repeat is refused by its program, however it is written."""
    gate = Gate()
    from autoresearch_ci.source import fingerprint

    gate.remember(experiment(1, 1.0, DISCARD, fingerprint=fingerprint(SCRIPT.replace("0.1", "0.2"))))
    llm, model = proposer(GOOD, GOOD.replace("= 0.2", "= 0.20  # again"), GOOD.replace("= 0.2", "= 0.3"), gate=gate)
    assert "0.3" in llm.propose(HISTORY, SCRIPT).script
    assert len(model.asked) == 3


def test_three_refusals_are_the_end() -> None:
    """Sent back twice; then the experiment is somebody else's, with what the tries took."""
    llm, model = proposer(*["nothing"] * 3)
    with pytest.raises(Declined) as caught:
        llm.propose(HISTORY, SCRIPT)
    assert len(model.asked) == 3
    assert caught.value.usage.calls == 3
    assert len(caught.value.notes) == 3


def test_the_last_try_may_be_the_whole_file() -> None:
    """Blocks that failed twice are followed by the whole file, where the script is short and the form is ours to choose."""
    whole = f"```python\n{SCRIPT.replace('64', '128')}```"
    llm, model = proposer("x", "x", whole)
    assert "WIDTH = 128" in llm.propose(HISTORY, SCRIPT).script
    assert "whole file" in model.asked[2].messages[-1].text
    _, model = proposer("x", "x", GOOD, edit_format="blocks")
    assert "whole file" not in str([m.text for q in model.asked for m in q.messages])


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ({"name": "gpt-6"}, "blocks"),
        ({"name": "gpt-6-mini"}, "whole"),
        ({"name": "qwen3:8b"}, "whole"),
        ({"name": "qwen3-235b"}, "blocks"),
        ({"name": "big", "local": True}, "whole"),
        ({"name": "gpt-6-mini", "edit_format": "blocks"}, "blocks"),
        ({"name": "gpt-6", "edit_format": "whole"}, "whole"),
    ],
)
def test_the_form_of_the_answer(values: dict[str, Any], form: str) -> None:
    """Weak and local models write short files whole, the others blocks, unless a person says so."""
    llm, model = proposer(GOOD, **values)
    llm.propose(HISTORY, SCRIPT)
    assert ("<<<<<<< SEARCH" in model.asked[0].system) == (form == "blocks")


def test_a_long_script_is_never_written_whole() -> None:
    """More than 400 lines are changed by blocks."""
    script = SCRIPT + "x = 1\n" * 401
    llm, model = proposer(GOOD, name="mini")
    llm.propose(HISTORY, script)
    assert "<<<<<<< SEARCH" in model.asked[0].system


def test_an_endpoint_that_fails_for_good() -> None:
    """At the first request it ends the session with the reason and what to do; later, others go on."""
    wrong = ModelFailed("the key was refused", hint="check OPENAI_API_KEY", lasting=True)
    with pytest.raises(ProposerError, match="the key was refused") as caught:
        proposer(wrong)[0].propose(HISTORY, SCRIPT)
    assert caught.value.hint == "check OPENAI_API_KEY"
    llm, _ = proposer(GOOD, wrong)
    llm.propose(HISTORY, SCRIPT)
    with pytest.raises(Declined, match="the key was refused"):
        llm.propose(HISTORY, SCRIPT)


def test_an_endpoint_that_fails_now() -> None:
    """Its calls count, and the next experiment asks it again."""
    llm, _ = proposer(ModelFailed("429 for ten minutes", usage=Usage(calls=7)), GOOD)
    with pytest.raises(Declined, match="429") as caught:
        llm.propose(HISTORY, SCRIPT)
    assert caught.value.usage.calls == 7
    assert llm.propose(HISTORY, SCRIPT).script


def test_limits() -> None:
    """A call that may pass a limit is not made, and a session that is resumed has spent what the journal says."""
    llm, model = proposer(GOOD, GOOD.replace("0.2", "0.3"), budget=Budget(max_calls=2))
    spent = replace(HISTORY, experiments=(replace(HISTORY.experiments[0], usage=Usage(calls=1)),))
    llm.propose(spent, SCRIPT)
    with pytest.raises(Declined, match="max-calls"):
        llm.propose(spent, SCRIPT)
    assert len(model.asked) == 1


def test_an_endpoint_that_reads_half() -> None:
    """Ollama cuts a prompt silently at its context length; the count of tokens gives it away."""
    llm, _ = proposer(Answer(GOOD, Usage(calls=1, input_tokens=50, output_tokens=10)))
    assert "raise its context length" in llm.propose(HISTORY, SCRIPT).notes[0]


def test_a_wish_is_asked_for() -> None:
    """It stands in the prompt, and in the parameters of its proposal."""
    llm, model = proposer(GOOD)
    proposal = llm.propose(HISTORY, SCRIPT, wish="try a higher rate")
    assert "try a higher rate" in model.asked[0].messages[0].text
    assert proposal.parameters["wish"] == "try a higher rate"


def test_a_script_too_long_for_the_prompt() -> None:
    """Nothing is asked, and the reason names the setting."""
    llm, model = proposer()
    with pytest.raises(Declined, match="prompt-tokens"):
        llm.propose(HISTORY, SCRIPT * 1000)
    assert model.asked == []


def test_a_crash_is_mended() -> None:
    """The model sees the version that crashed and the end of its log; the mended one is a change of the incumbent's."""
    broken = Proposal(
        script=SCRIPT.replace("0.1", "rate"), description="A rate", category=Category.OPTIMIZER, proposer="llm",
        parameters={"wish": "w"}, usage=USED,
    )  # fmt: skip
    same = "```\n<<<<<<< SEARCH\nWIDTH = 64\n=======\nWIDTH = 64  # mended\n>>>>>>> REPLACE\n```"
    good = "```\n<<<<<<< SEARCH\nLEARNING_RATE = rate\n=======\nLEARNING_RATE = 0.3\n>>>>>>> REPLACE\n```"
    llm, model = proposer(same, good)
    mended = llm.repair(SCRIPT, broken, "exit code 1: NameError", "NameError: name 'rate' is not defined")
    assert mended.script == SCRIPT.replace("0.1", "0.3")
    assert mended.description == "A rate (mended)"
    assert mended.parameters == {"wish": "w", "from LEARNING_RATE": 0.1, "to LEARNING_RATE": 0.3}
    assert mended.usage == USED + USED + USED
    assert "NameError: name 'rate'" in model.asked[0].messages[0].text
    assert "it changes nothing" in model.asked[1].messages[-1].text


@dataclass
class Fixed:
    """A proposer that has one answer."""

    answer: Callable[[], Proposal | None]
    asked: int = 0

    def propose(self, history: History, script: str, *, wish: str = "", outlook: str = "") -> Proposal | None:
        self.asked += 1
        return self.answer()

    def outlook(self, history: History, script: str) -> str:
        return "the optimizer's view"


def declined() -> Proposal | None:
    raise Declined("no", usage=USED, notes=("refused: no",))


def proposal(name: str = "search") -> Proposal:
    return Proposal(
        script="x = 1\n", description="d", category=Category.OTHER, proposer=name, usage=USED, notes=("own",)
    )


def test_the_next_in_line_takes_over() -> None:
    """With what the ones before it took and said."""
    found = Line(Fixed(declined), Fixed(lambda: None), Fixed(proposal)).propose(HISTORY, SCRIPT)
    assert found is not None
    assert (found.proposer, found.usage, found.notes) == ("search", USED + USED, ("refused: no", "own"))


def test_a_line_with_nothing() -> None:
    """Nothing left is the end only when it is so for all."""
    assert Line(Fixed(lambda: None)).propose(HISTORY, SCRIPT) is None
    with pytest.raises(Declined):
        Line(Fixed(declined), Fixed(lambda: None)).propose(HISTORY, SCRIPT)


@pytest.mark.parametrize(("share", "turns"), [(0.3, 3), (0.0, 0), (1.0, 10), (0.5, 5), (0.25, 2)])
def test_hybrid_shares_the_experiments(share: float, turns: int) -> None:
    """The model has its share of ten experiments, evenly spread, and the same ones in every process."""
    optimizer, author = Fixed(proposal), Fixed(lambda: proposal("llm"))
    made: list[str] = []
    for number in range(1, 11):
        hybrid = HybridProposer(optimizer, author, share=share)
        found = hybrid.propose(history(*[(1.0, KEEP)] * number), SCRIPT)
        assert found is not None
        made.append(found.proposer)
    assert made.count("llm") == turns
    gaps = [i for i, name in enumerate(made) if name == "llm"]
    assert len({b - a for a, b in itertools.pairwise(gaps)}) <= 2


def test_hybrid_goes_on_with_the_model() -> None:
    """When the optimizer has tried everything; a wish is the model's in any turn."""
    author = Fixed(lambda: proposal("llm"))
    hybrid = HybridProposer(Fixed(lambda: None), author, share=0.1)
    found = hybrid.propose(HISTORY, SCRIPT)
    assert found is not None
    assert found.proposer == "llm"
    assert HybridProposer(Fixed(lambda: None), author, share=0.0).propose(HISTORY, SCRIPT) is None
    assert hybrid.propose(HISTORY, SCRIPT, wish="w") is not None
