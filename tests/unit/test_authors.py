"""Several proposals made at the same time: models think beside one another, and nothing else happens beside anything."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from autoresearch_ci.console import Console
from autoresearch_ci.crew import Crew, Making
from autoresearch_ci.errors import ProposerError
from autoresearch_ci.experiment import Category, Direction, Evidence, History, Proposal, Status, Usage, Verdict
from autoresearch_ci.proposals import Declined, Floor, Gate, Proposals, Proposer, TooEarly
from autoresearch_ci.proposers.budget import Budget
from autoresearch_ci.proposers.directions import CATEGORIES, Courses, Mode, next_course
from autoresearch_ci.proposers.hybrid import HybridProposer
from autoresearch_ci.proposers.line import Line
from autoresearch_ci.proposers.llm import LLMProposer
from autoresearch_ci.proposers.models import Answer, Question
from autoresearch_ci.proposers.plan import read_wish
from autoresearch_ci.proposers.prompt import Prompts
from autoresearch_ci.proposers.queue import QueueProposer
from autoresearch_ci.proposers.search import SearchProposer
from autoresearch_ci.slots import Slot
from tests.unit.histories import experiment, history
from tests.unit.test_session import FakeWorkspace, Hand

SCRIPT = "LEARNING_RATE = 0.1\nWIDTH = 64\nprint('val_bpb:', LEARNING_RATE * WIDTH)\n"
HISTORY = history((1.0, Status.KEEP))
MISSED = replace(HISTORY, experiments=(*HISTORY.experiments, experiment(
    1, 0.99, Status.DISCARD, verdict=Verdict(status=Status.DISCARD, reason="not sure", evidence=Evidence(
        gain=0.01, standard_error=0.005, needed=0.02, runs=2, incumbent_runs=2, noise=0.01, degrees=2)),
)))  # fmt: skip
AT_ONCE = 4
LOST_S = 20.0  # after which the test has failed


def answered(old: str, new: str, category: str = "optimizer") -> Answer:
    text = (
        f"HYPOTHESIS: it may help\nCATEGORY: {category}\nDESCRIPTION: {new}\n\n```python\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n"
        ">>>>>>> REPLACE\n```"
    )
    return Answer(text, Usage(calls=1, input_tokens=1000, output_tokens=100))


@dataclass
class Together:
    """A model that answers nobody before so many have asked."""

    asking: int
    answer: Callable[[int, Question], Answer]
    asked: list[Question] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.all_there = threading.Barrier(self.asking)
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Answer:
        with self._lock:
            self.asked.append(question)
            number = len(self.asked)
        if number <= self.asking:
            self.all_there.wait(LOST_S)
        return self.answer(number, question)


def llm(model: Together, floor: Floor, gate: Gate, **values: Any) -> LLMProposer:
    prompts = Prompts(
        script_name="train.py", metric="val_bpb", direction=Direction.MINIMIZE, time_budget_s=60, scope="all",
        tokens=8000, log=lambda _: "",
    )  # fmt: skip
    defaults: dict[str, Any] = {"budget": Budget()}
    return LLMProposer(model=model, name="big", gate=gate, prompts=prompts, floor=floor, **{**defaults, **values})


def proposals(proposer: Proposer, floor: Floor, gate: Gate) -> Proposals:
    workspace = FakeWorkspace(SCRIPT)
    workspace.scripts |= {each.commit: SCRIPT for each in MISSED.experiments}
    return Proposals(
        proposer=proposer, gate=gate, relieve=lambda _: None, workspace=workspace, console=Console(io.StringIO(), io.StringIO()),
        interrupt=Hand(), floor=floor,
    )  # fmt: skip


def all_at_once(made: Proposals, times: int = AT_ONCE, seen: History = HISTORY) -> list[Proposal]:
    with ThreadPoolExecutor(times) as pool:
        asked = [pool.submit(made.following, replace(seen, being_made=number)) for number in range(times)]
        return [proposal for each in asked if (proposal := each.result(LOST_S)) is not None]


def test_models_think_at_the_same_time() -> None:
    """All four questions are out before the first answer comes, each points another way and tells of the others."""
    floor, gate = Floor(), Gate()
    model = Together(AT_ONCE, lambda number, _: answered("WIDTH = 64", f"WIDTH = {64 + number}"))
    author = llm(model, floor, gate)
    made = all_at_once(proposals(author, floor, gate))
    assert len({proposal.script for proposal in made}) == AT_ONCE
    tasks = [question.messages[0].text for question in model.asked]
    tasks.sort(key=lambda task: task.count("somebody else thinks of something in this direction"))
    for others, (task, category) in enumerate(zip(tasks, CATEGORIES, strict=True)):
        assert task.count("somebody else thinks of something in this direction") == others
        assert f"A direction worth a look: {category.value}" in task
    assert author.courses.taken == []


def test_the_same_idea_twice_is_one() -> None:
    """Two models that have the same idea at the same moment: the second one is told that it was tried, and thinks again."""
    floor, gate = Floor(), Gate()
    model = Together(2, lambda number, _: answered("WIDTH = 64", "WIDTH = 96" if number <= 2 else "WIDTH = 128"))
    made = all_at_once(proposals(llm(model, floor, gate), floor, gate), 2)
    assert {proposal.parameters["to WIDTH"] for proposal in made} == {96, 128}
    assert "it was tried before" in model.asked[2].messages[-1].text


def test_what_is_in_flight_is_as_good_as_spent() -> None:
    """`max-calls` of 2 and four that want to ask at once: two do, and the search goes on for the others."""
    floor, gate = Floor(), Gate()
    model = Together(2, lambda number, _: answered("WIDTH = 64", f"WIDTH = {64 + number}"))
    budget = Budget(max_calls=2)
    line = Line(llm(model, floor, gate, budget=budget), SearchProposer(Direction.MINIMIZE, gate=gate))
    made = all_at_once(proposals(line, floor, gate))
    assert sorted(proposal.proposer for proposal in made) == ["llm", "llm", "search", "search"]
    assert budget.spent.calls == len(model.asked) == 2
    assert len({proposal.script for proposal in made}) == AT_ONCE


def test_what_turns_out_cheap_makes_room() -> None:
    """Calls in flight count at their longest: who finds no room waits until it is known what they took, and asks then."""
    floor, gate = Floor(), Gate()
    model = Together(2, lambda number, _: answered("WIDTH = 64", f"WIDTH = {64 + number}"))
    budget = Budget(max_tokens=40_000)
    made = all_at_once(proposals(llm(model, floor, gate, budget=budget), floor, gate))
    assert len(made) == AT_ONCE
    assert budget.spent.tokens == 4 * 1100


def test_no_room_for_a_correction() -> None:
    """What others have in flight by then: the model is not asked anew, and what the first answer took is not forgotten."""
    budget = Budget(max_tokens=40_000)
    with ExitStack() as others:

        def answer(_number: int, _question: Question) -> Answer:
            others.enter_context(budget.in_flight(Usage(calls=1, input_tokens=30_000)))
            return answered("WIDTH = 64", "WIDTH = (")

        author = llm(Together(1, answer), Floor(), Gate(), budget=budget)
        with pytest.raises(Declined, match="no room for a correction") as caught:
            author.propose(HISTORY, SCRIPT)
    assert caught.value.usage == Usage(calls=1, input_tokens=1000, output_tokens=100)
    assert any("does not parse" in note for note in caught.value.notes)


def test_tokens_and_dollars_in_flight() -> None:
    """A call under way counts at its longest, and no longer than it lasts."""
    budget = Budget(max_tokens=10_000, max_cost=1.0, price_input=1.0, price_output=100.0)
    assert budget.refusal(4000, 5000) == ""
    with budget.in_flight(Usage(calls=1, input_tokens=3000, output_tokens=2000)):
        with pytest.raises(TooEarly):
            budget.refusal(4000, 5000)
        assert "`max-tokens` 10000 would be passed: 0 are spent" in budget.refusal(6000, 5000)
        assert budget.refusal(4000, 1000) == ""
        with budget.in_flight(Usage(calls=1, output_tokens=900, cost=0.75)), pytest.raises(TooEarly):
            budget.refusal(100, 1000)
    assert budget.refusal(4000, 5000) == ""


def test_agents_in_flight() -> None:
    """Nobody knows what a run of an agent will take: it counts as the dearest so far, also of an earlier process."""
    first = Budget(max_cost=1.0)
    assert first.refusal_of_agent() == ""
    with first.in_flight(first.expected), pytest.raises(TooEarly):
        first.refusal_of_agent()
    with Budget().in_flight(Usage(calls=1)):
        assert Budget().refusal_of_agent() == ""
    for cost, calls in ((0.2, 3), (0.4, 1), (0.1, 5)):
        first.add(Usage(calls=calls, cost=cost))
    assert (first.expected.cost, first.expected.calls) == (0.4, 5)
    with first.in_flight(first.expected), pytest.raises(TooEarly):
        first.refusal_of_agent()
    spent = replace(HISTORY.experiments[0], usage=Usage(calls=2, cost=0.6))
    later = Budget(max_cost=1.0)
    later.begin(replace(HISTORY, experiments=(spent,)))
    assert later.expected == spent.usage
    assert later.refusal_of_agent() == ""
    with later.in_flight(later.expected), pytest.raises(TooEarly):
        later.refusal_of_agent()
    with later.in_flight(Usage(calls=1, cost=0.1)):
        assert later.refusal_of_agent() == ""


def test_wishes_keep_their_order() -> None:
    """What comes after a wish in words is not proposed before it, however long an author is at it."""
    floor, gate = Floor(), Gate()
    thinking = threading.Event()

    def answer(_number: int, _question: Question) -> Answer:
        assert thinking.wait(LOST_S)
        return answered("WIDTH = 64", "WIDTH = 96")

    model = Together(1, answer)
    wishes = [read_wish(text, script=SCRIPT) for text in ("try something wide", "WIDTH=128", "LEARNING_RATE=0.2")]
    author = llm(model, floor, gate)
    then = SearchProposer(Direction.MINIMIZE, gate=gate)
    made = proposals(QueueProposer(wishes, script=SCRIPT, gate=gate, author=author, then=then), floor, gate)
    done: list[Proposal | None] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in [pool.submit(made.following, HISTORY) for _ in range(AT_ONCE)]:
            each.add_done_callback(lambda future: done.append(future.result()))
        while not model.asked:
            time.sleep(0.01)
        time.sleep(0.2)
        assert done == []
        thinking.set()
    found = [proposal for proposal in done if proposal is not None]
    assert found[0].parameters["wish"] == "try something wide"
    assert [proposal.proposer for proposal in found].count("queue") == 2
    assert len(found) == AT_ONCE
    assert author.courses.taken == []


def test_a_wish_that_came_too_early_is_asked_again() -> None:
    """With the same words, once there is room for it."""
    floor, gate = Floor(), Gate()
    wishes = [read_wish("try something wide", script=SCRIPT)]
    early = iter([True, True, False])

    class Author:
        def propose(self, _history: History, script: str, *, wish: str = "") -> Proposal:
            if next(early):
                raise TooEarly
            return Proposal(script=f"{script}A = 1\n", description=wish, category=Category.OTHER)

    (made,) = all_at_once(proposals(QueueProposer(wishes, script=SCRIPT, gate=gate, author=Author()), floor, gate), 1)
    assert made.description == "try something wide"


def test_no_author_is_asked_after_ctrl_c() -> None:
    """The wishes that are left are not read one after another only to be dropped; and nobody waits for those who think."""
    floor, gate, hand = Floor(), Gate(), Hand(after=0)
    model = Together(1, lambda number, _: answered("WIDTH = 64", f"WIDTH = {96 + number}"))
    wishes = [read_wish(f"try this {number}", script=SCRIPT) for number in range(9)]
    queue = QueueProposer(wishes, script=SCRIPT, gate=gate, author=llm(model, floor, gate), stopping=hand.requested)
    made = proposals(queue, floor, gate)
    made.interrupt = hand
    assert made.following(HISTORY) is None
    assert model.asked == []

    class Early:
        def propose(self, _history: History, _script: str) -> None:
            raise TooEarly

    waiting = proposals(Early(), floor, gate)
    waiting.interrupt = Hand(after=1)
    assert waiting.following(HISTORY) is None


def test_two_are_not_mended_to_the_same() -> None:
    """What one author has mended is taken as soon as it is there."""
    floor, gate = Floor(), Gate()
    model = Together(2, lambda number, _: answered("WIDTH = wide", "WIDTH = 96" if number <= 2 else "WIDTH = 128"))
    author = llm(model, floor, gate)
    made = proposals(author, floor, gate)
    made.repair = author.repair
    crashed = SCRIPT.replace("64", "wide")
    wide = Proposal(script=crashed, description="wide", category=Category.OTHER)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(made.mended, SCRIPT, wide, "NameError", "") for _ in range(2)]
        mended = {each.result(LOST_S).script for each in asked}
    assert mended == {SCRIPT.replace("64", "96"), SCRIPT.replace("64", "128")}


def test_hybrid_gives_the_model_its_share_of_what_is_made_at_once() -> None:
    """Proposals that are asked for in one instant have different numbers: half of eight are the model's."""
    floor, gate = Floor(), Gate()
    model = Together(4, lambda number, _: answered("WIDTH = 64", f"WIDTH = {1000 + number}"))
    hybrid = HybridProposer(SearchProposer(Direction.MINIMIZE, gate=gate), llm(model, floor, gate), share=0.5)
    made = all_at_once(proposals(hybrid, floor, gate), 8)
    assert sorted(proposal.proposer for proposal in made) == ["llm"] * 4 + ["search"] * 4


def test_nobody_else_has_the_floor() -> None:
    """What proposers share is looked at and changed by one of them at a time; only thinking is done beside one another."""
    floor, gate = Floor(), Gate()
    inside, most, thinking = 0, 0, threading.Barrier(AT_ONCE)

    class Watched:
        def propose(self, _history: History, script: str) -> Proposal:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1
            with floor.left():
                number = thinking.wait(LOST_S)
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1
            return Proposal(script=f"{script}A = {number}\n", description="more", category=Category.OTHER)

    assert len(all_at_once(proposals(Watched(), floor, gate))) == AT_ONCE
    assert most == 1


def test_the_floor_is_free_after_an_error() -> None:
    """However somebody leaves it; and who works alone need not have it."""
    floor = Floor()
    with floor.held():
        pass
    with floor.left():
        pass
    with pytest.raises(ValueError, match="lost"), floor.held(), floor.left():
        raise ValueError("lost")
    with ThreadPoolExecutor(1) as pool:

        def take() -> bool:
            with floor.held():
                return True

        assert pool.submit(take).result(LOST_S)


def test_who_is_sent_after_a_keep() -> None:
    """One goes near what was just kept, and the others where little was tried; what waits counts as tried as well."""
    kept = history((1.0, Status.KEEP), (0.9, Status.KEEP))
    courses = Courses("all", 9)
    with courses.next(kept) as (first, _), courses.next(kept) as (second, _), courses.next(kept) as (third, _):
        assert [first.mode, second.mode, third.mode] == [Mode.NEAR, Mode.SUGGESTED, Mode.SUGGESTED]
        assert second.category is not third.category
    waiting = Proposal(script="", description="wider", category=Category.ARCHITECTURE)
    assert next_course(HISTORY, stuck_after=9).category is Category.ARCHITECTURE
    assert next_course(replace(HISTORY, pending=(waiting,)), stuck_after=9).category is Category.OPTIMIZER


def test_a_near_miss_is_tried_again_once() -> None:
    """Two that have nothing new at the same time do not repeat the same experiment."""

    class Nothing:
        def propose(self, _history: History, _script: str) -> None:
            return None

    assert len(all_at_once(proposals(Nothing(), Floor(), Gate()), 2, MISSED)) == 1


@contextmanager
def crew(authors: int) -> Iterator[Crew]:
    with Crew([Slot()], lambda: None, authors) as made:
        yield made


def test_a_crew_makes_several() -> None:
    """Each proposal comes once, with what it was asked for; an error ends none of the others."""
    gate = threading.Event()

    def late() -> Proposal:
        assert gate.wait(LOST_S)
        return Proposal(script="late", description="late", category=Category.OTHER)

    def fails() -> Proposal:
        raise ProposerError("out of ideas", hint="")

    with crew(3) as made:
        made.make(Making(late, "one", 1))
        made.make(Making(fails, "two", 2))
        made.make(Making(lambda: None, "three", 3))
        assert made.being_made == 3
        found: list[tuple[Making, Proposal | None]] = []
        while made.being_made > 1:
            assert list(made.decided()) == []
            found += made.made()
        assert [(making.commit, making.experiments, proposal) for making, proposal in found] == [("three", 3, None)]
        assert isinstance(made.error, ProposerError)
        gate.set()
        while not made.is_idle:
            assert list(made.decided()) == []
            found += made.made()
        assert found[-1][0].commit == "one"
        assert found[-1][1] is not None
