"""Whose a container is."""

from __future__ import annotations

import os

import pytest

from autoresearch_ci.executors.owner import Owner


def test_a_process_owns_what_it_labels() -> None:
    """Labels of this process and session are its own; those of another session are not, and this process lives."""
    me = Owner.of_this_process("nov22")
    assert me.pid == os.getpid()
    assert me.owns(me.labels() | {"more": "labels"})
    assert not me.owns(Owner.of_this_process("nov23").labels())
    assert not Owner.is_gone(me.labels())


@pytest.mark.parametrize("change", [{"autoresearch-ci.pid": "no number"}, {"autoresearch-ci.pid-started": ""}])
def test_labels_that_say_nothing_prove_no_death(change: dict[str, str]) -> None:
    """A container is removed only when its process is surely dead."""
    assert not Owner.is_gone(Owner.of_this_process("nov22").labels() | change)


def test_labels_of_others_prove_no_death() -> None:
    """A container without our labels is not ours to remove."""
    assert not Owner.is_gone({})
