from __future__ import annotations

import pytest

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Category, History, Proposal, Status
from autoresearch_ci.proposals import Declined, Gate
from autoresearch_ci.proposers.plan import read_plan, read_wish
from autoresearch_ci.proposers.queue import Author, QueueProposer
from autoresearch_ci.scope import Range
from autoresearch_ci.source import fingerprint
from tests.unit.histories import experiment, history

SCRIPT = 'LEARNING_RATE = 0.1\nWIDTH = 64\nBIAS = True\nACTIVATION = "relu"\n' + (
    "act = {'relu': 1, 'gelu': 2}[ACTIVATION]\nprint(LEARNING_RATE, WIDTH, BIAS)\n"
)
NEW = history((1.0, Status.KEEP))


def queue(
    wishes: list[str], *, script: str, then: Then | None, gate: Gate | None = None, author: Author | None = None
) -> QueueProposer:
    read = [read_wish(wish, script=script) for wish in wishes]
    return QueueProposer(read, script=script, gate=gate or Gate(), author=author, then=then)


class Then:
    def propose(self, history: History, script: str) -> Proposal | None:
        return Proposal(script=script + "# then\n", description="then", category=Category.OTHER)


def test_wishes_come_first_and_in_order() -> None:
    """A person's hypothesis is the first proposal; when the queue is empty the other proposer goes on."""
    proposer = queue(["WIDTH=128", "LEARNING_RATE = 3e-4"], script=SCRIPT, then=Then())
    proposals = [proposer.propose(NEW, SCRIPT) for _ in range(3)]
    assert [p.description for p in proposals if p] == ["WIDTH 64 → 128", "LEARNING_RATE 0.1 → 0.0003", "then"]
    assert proposals[0] is not None
    assert "WIDTH = 128" in proposals[0].script
    assert proposals[0].proposer == "queue"
    assert proposals[0].parameters == {"wish": "WIDTH=128", "from WIDTH": 64, "to WIDTH": 128}


def test_alone_it_ends_with_its_last_wish() -> None:
    """`proposer: queue` tries what was asked for and stops."""
    proposer = queue(["WIDTH=128"], script=SCRIPT, then=None)
    assert proposer.propose(NEW, SCRIPT) is not None
    assert proposer.propose(NEW, SCRIPT) is None


def test_what_was_tried_is_not_asked_again() -> None:
    """A resumed session goes on with the next wish; a wish that is the case already is passed over."""
    tried = experiment(1, 2.0, Status.DISCARD, fingerprint=fingerprint(SCRIPT.replace("64", "128")))
    before = History(session=NEW.session, experiments=(*NEW.experiments, tried))
    gate = Gate()
    gate.remember(tried)
    proposer = queue(["WIDTH=128", "WIDTH=64", "BIAS=False"], script=SCRIPT, then=None, gate=gate)
    proposal = proposer.propose(before, SCRIPT)
    assert proposal is not None
    assert proposal.description == "BIAS True → False"


def test_a_knob_that_is_gone_is_passed_over() -> None:
    """The incumbent may have lost a knob since the session began."""
    proposer = queue(["WIDTH=128"], script=SCRIPT, then=None)
    with pytest.raises(Declined, match="no knob `WIDTH`") as caught:
        proposer.propose(NEW, "LEARNING_RATE = 0.1\nprint(LEARNING_RATE)\n")
    assert caught.value.notes == (
        "passed over `WIDTH=128`: it does not fit the script any more: there is no knob `WIDTH`",
    )
    assert proposer.propose(NEW, SCRIPT) is None


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("wider", "not something to try"),
        ("WIDTH=", "not something to try"),
        ("WIDHT=3", "no knob `WIDHT`"),
        ("XYZ=3", "no knob `XYZ`"),
        ("WIDTH=big", "no value for `WIDTH`"),
        ("WIDTH=True", "no value for `WIDTH`"),
        ("BIAS=3", "no value for `BIAS`"),
        ("ACTIVATION=cubic", "cannot be `cubic`"),
    ],
)
def test_a_wrong_wish_costs_no_time_budget(wish: str, says: str) -> None:
    """It is an error with a hint before anything runs."""
    with pytest.raises(SettingsError) as caught:
        queue([wish], script=SCRIPT, then=None)
    assert says in caught.value.message
    assert caught.value.hint


def test_a_choice_is_asked_for_by_name() -> None:
    """`ACTIVATION=gelu` needs no quotes."""
    proposal = queue(["ACTIVATION=gelu"], script=SCRIPT, then=None).propose(NEW, SCRIPT)
    assert proposal is not None
    assert 'ACTIVATION = "gelu"' in proposal.script


class Model:
    """An author that has one answer, and remembers what it was asked."""

    def __init__(self, *, declines: bool = False) -> None:
        self.wishes: list[str] = []
        self.declines = declines

    def propose(self, history: History, script: str, *, wish: str = "") -> Proposal | None:
        self.wishes.append(wish)
        if self.declines:
            raise Declined("no idea")
        return Proposal(script=script + "x = 1\n", description="d", category=Category.OTHER, parameters={"wish": wish})


def test_words_are_for_a_model() -> None:
    """A wish that is no `KNOB=value` is read by the author, in its turn, and once."""
    author = Model()
    proposer = queue(["try sliding windows", "WIDTH=128"], script=SCRIPT, then=None, author=author)
    first, second = proposer.propose(NEW, SCRIPT), proposer.propose(NEW, SCRIPT)
    assert first is not None
    assert second is not None
    assert author.wishes == ["try sliding windows"]
    assert second.description == "WIDTH 64 → 128"
    tried = experiment(1, 2.0, Status.DISCARD, parameters={"wish": "try sliding windows"})
    resumed = queue(["try sliding windows"], script=SCRIPT, then=None, author=author)
    assert resumed.propose(History(session=NEW.session, experiments=(*NEW.experiments, tried)), SCRIPT) is None


def test_words_that_come_to_nothing() -> None:
    """The next wish follows, and says what was passed over; at the end somebody is told once."""
    author = Model(declines=True)
    proposer = queue(["words", "more words", "WIDTH=128", "the last words"], script=SCRIPT, then=None, author=author)
    proposal = proposer.propose(NEW, SCRIPT)
    assert proposal is not None
    assert proposal.description == "WIDTH 64 → 128"
    assert proposal.notes == ("passed over `words`: no idea", "passed over `more words`: no idea")
    with pytest.raises(Declined, match="the last words"):
        proposer.propose(NEW, SCRIPT)
    assert proposer.propose(NEW, SCRIPT) is None
    assert author.wishes == ["words", "more words", "the last words"]


def test_words_without_a_model() -> None:
    """Are refused before anything runs, with what to choose."""
    with pytest.raises(SettingsError, match="no model is there to read it") as caught:
        queue(["try sliding windows"], script=SCRIPT, then=None)
    assert "llm" in caught.value.hint


def test_what_the_plan_itself_forbids() -> None:
    """A wish outside of `vary`, or of what is held, is an error of the plan."""
    for gate in (Gate(hold=("WIDTH",)), Gate(vary={"WIDTH": Range(1, 100)}), Gate(scope="optimizer")):
        with pytest.raises(SettingsError, match="`WIDTH=128` cannot be tried"):
            queue(["WIDTH=128"], script=SCRIPT, then=None, gate=gate)


PATCH = """\
--- a/train.py
+++ b/train.py
@@ -1,4 +1,4 @@
-LEARNING_RATE = 0.1
+LEARNING_RATE = 0.2
 WIDTH = 64
 BIAS = True
 ACTIVATION = "relu"
"""


def test_a_patch() -> None:
    """A patch of the base commit is applied to the script as it is; one that does not fit any more is passed over with a reason."""
    plan = read_plan(
        b"try:\n  - patch: lr.diff\n  - WIDTH: 32\n    BIAS: false\n", "plan.yaml", script=SCRIPT, script_name="train.py",
        files={"lr.diff": PATCH.encode()}.get,
    )  # fmt: skip
    proposer = QueueProposer(plan.wishes, script=SCRIPT, gate=Gate())
    first, second = proposer.propose(NEW, SCRIPT.replace("act =", "# moved\nact =")), proposer.propose(NEW, SCRIPT)
    assert first is not None
    assert second is not None
    assert "LEARNING_RATE = 0.2" in first.script
    assert first.description == "patch lr.diff: LEARNING_RATE 0.1 → 0.2"
    assert second.description == "WIDTH 64 → 32, BIAS True → False"
    again = QueueProposer(plan.wishes, script=SCRIPT, gate=Gate())
    third = again.propose(NEW, SCRIPT.replace("LEARNING_RATE = 0.1", "LEARNING_RATE = 0.3"))
    assert third is not None
    assert third.description == "WIDTH 64 → 32, BIAS True → False"
    assert third.notes == (
        "passed over `patch lr.diff`: it does not fit the script any more: the lines of the patch from line 1 are not there",
    )
    crlf = QueueProposer(plan.wishes, script=SCRIPT, gate=Gate()).propose(NEW, SCRIPT.replace("\n", "\r\n"))
    assert crlf is not None
    assert crlf.script.count("\r\n") == SCRIPT.count("\n")


def test_a_patch_that_never_fitted() -> None:
    """Is an error of the plan, before anything runs; so is one that makes no Python of the script."""
    for patch, says in (
        (PATCH.replace("0.1", "0.7"), "from line 1 are not there"),
        (PATCH.replace("0.2", "(("), "was never closed"),
    ):
        plan = read_plan(
            b"try: [{patch: lr.diff}]",
            "plan.yaml",
            script=SCRIPT,
            script_name="train.py",
            files={"lr.diff": patch.encode()}.get,
        )
        with pytest.raises(SettingsError, match=says):
            QueueProposer(plan.wishes, script=SCRIPT, gate=Gate())


def test_many_wishes_that_are_passed_over() -> None:
    """Are told of in one note each, and cost the session nothing: it does not count as a proposer that fails."""
    tried = experiment(1, 2.0, Status.DISCARD, fingerprint=fingerprint(SCRIPT.replace("64", "128")))
    gate = Gate()
    gate.remember(tried)
    proposer = queue(["WIDTH=128", *(f"WIDTH={n}" for n in range(64, 100))], script=SCRIPT, then=Then(), gate=gate)
    first = proposer.propose(NEW, SCRIPT)
    assert first is not None
    assert first.description == "WIDTH 64 → 65"
    assert first.notes == ("passed over `WIDTH=128`: it was tried before", "passed over `WIDTH=64`: it changes nothing")
