from __future__ import annotations

import pytest

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Category, History, Proposal, Status
from autoresearch_ci.proposers.queue import QueueProposer
from autoresearch_ci.source import fingerprint
from tests.unit.histories import experiment, history

SCRIPT = 'LEARNING_RATE = 0.1\nWIDTH = 64\nBIAS = True\nACTIVATION = "relu"\n' + (
    "act = {'relu': 1, 'gelu': 2}[ACTIVATION]\nprint(LEARNING_RATE, WIDTH, BIAS)\n"
)
NEW = history((1.0, Status.KEEP))


class Then:
    def propose(self, history: History, script: str) -> Proposal | None:
        return Proposal(script=script + "# then\n", description="then", category=Category.OTHER)


def test_wishes_come_first_and_in_order() -> None:
    """A person's hypothesis is the first proposal; when the queue is empty the other proposer goes on."""
    proposer = QueueProposer(["WIDTH=128", "LEARNING_RATE = 3e-4"], script=SCRIPT, then=Then())
    proposals = [proposer.propose(NEW, SCRIPT) for _ in range(3)]
    assert [p.description for p in proposals if p] == ["WIDTH 64 → 128", "LEARNING_RATE 0.1 → 0.0003", "then"]
    assert proposals[0] is not None
    assert "WIDTH = 128" in proposals[0].script
    assert proposals[0].proposer == "queue"
    assert proposals[0].parameters == {"from WIDTH": 64, "to WIDTH": 128}


def test_alone_it_ends_with_its_last_wish() -> None:
    """`proposer: queue` tries what was asked for and stops."""
    proposer = QueueProposer(["WIDTH=128"], script=SCRIPT, then=None)
    assert proposer.propose(NEW, SCRIPT) is not None
    assert proposer.propose(NEW, SCRIPT) is None


def test_what_was_tried_is_not_asked_again() -> None:
    """A resumed session goes on with the next wish; a wish that is the case already is passed over."""
    tried = experiment(1, 2.0, Status.DISCARD, fingerprint=fingerprint(SCRIPT.replace("64", "128")))
    before = History(session=NEW.session, experiments=(*NEW.experiments, tried))
    proposer = QueueProposer(["WIDTH=128", "WIDTH=64", "BIAS=False"], script=SCRIPT, then=None)
    proposal = proposer.propose(before, SCRIPT)
    assert proposal is not None
    assert proposal.description == "BIAS True → False"


def test_a_knob_that_is_gone_is_passed_over() -> None:
    """The incumbent may have lost a knob since the session began."""
    proposer = QueueProposer(["WIDTH=128"], script=SCRIPT, then=None)
    assert proposer.propose(NEW, "LEARNING_RATE = 0.1\n") is None


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
        QueueProposer([wish], script=SCRIPT, then=None)
    assert says in caught.value.message
    assert caught.value.hint


def test_a_choice_is_asked_for_by_name() -> None:
    """`ACTIVATION=gelu` needs no quotes."""
    proposal = QueueProposer(["ACTIVATION=gelu"], script=SCRIPT, then=None).propose(NEW, SCRIPT)
    assert proposal is not None
    assert 'ACTIVATION = "gelu"' in proposal.script
