"""What is tried next: asked of the proposer, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from autoresearch_ci import source
from autoresearch_ci.console import Console
from autoresearch_ci.errors import ProposerError
from autoresearch_ci.experiment import NEAR_MISS, Experiment, History, Proposal, Usage
from autoresearch_ci.judge import near_miss
from autoresearch_ci.knobs import Scope
from autoresearch_ci.runs import Interrupt, Workspace
from autoresearch_ci.scope import Range, held, out_of_range, outside
from autoresearch_ci.sketches import left_out, unreadable

NOTHING: Final = Usage()
MAX_REFUSALS: Final = 20  # proposals refused in a row before the proposer counts as failed
MAX_DECLINED: Final = 3  # and how often one may say that it has none now
LOOK_S: Final = 0.5  # how often whoever waits for others looks whether a person wants to stop

_Made = TypeVar("_Made")


class Declined(Exception):  # noqa: N818 - an answer, not an error
    """A proposer has no proposal for this experiment, though it may for the next: `reason` in one line.

    `usage` and `notes`: as those of a proposal, for what was tried in vain.
    """

    def __init__(self, reason: str, *, usage: Usage = NOTHING, notes: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.usage = usage
        self.notes = notes


class TooEarly(Exception):  # noqa: N818
    """A proposer cannot say before another proposal is made that is being made now. It is asked again then."""


class Proposer(Protocol):
    """What makes proposals."""

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next proposal, a change of `script` (the incumbent's text); None when nothing is left to try.

        Raises Declined when there is none now, TooEarly, and ProposerError when there will never be one.
        """


@dataclass(slots=True)
class Patience:
    """The interrupt of whoever makes proposals: a person's, or `enough`, since no proposal is of use any more."""

    interrupt: Interrupt
    enough: threading.Event = field(default_factory=threading.Event)

    def requested(self) -> bool:
        return self.enough.is_set() or self.interrupt.requested()


class Floor:
    """Lets several proposals be made at the same time: whoever makes one has the floor, and leaves it to the others while a model
    or an agent is thinking. So what proposers share is looked at and changed by one of them at a time."""

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._holder: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """This thread has it."""
        with self._free:
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._give_up()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Others have it meanwhile. A thread that never had it, since it works alone, need not wait for it afterwards."""
        if self._holder != threading.get_ident():
            yield
            return
        self._give_up()
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()
            self._holder = threading.get_ident()

    def wait(self, timeout_s: float) -> None:
        """Leaves it until somebody else has had it, or so long."""
        self._give_up()
        self._free.wait(timeout_s)
        self._holder = threading.get_ident()

    def _give_up(self) -> None:
        self._holder = None
        self._free.notify_all()


class Repair(Protocol):
    """Mends a proposal, a change of `script`, whose run crashed for `reason` and ended with `log`. Declined when it cannot."""

    def __call__(self, script: str, proposal: Proposal, reason: str, log: str, /) -> Proposal: ...


@dataclass(slots=True, kw_only=True)
class Gate:
    """What a text must be before time is spent on it. One for a session: whoever proposes can ask it first.

    `scope`: the setting. `classify`: what names belong to, where a person says so. `hold`: names that stay as they are.
    `vary`: what the knobs with these names may be.
    """

    scope: Scope = "all"
    classify: Mapping[str, str] = field(default_factory=dict)
    hold: tuple[str, ...] = ()
    vary: Mapping[str, Range] = field(default_factory=dict)
    _tried: set[str] = field(default_factory=set)
    _reserved: set[str] = field(default_factory=set)  # waits or runs
    _admitting: threading.Lock = field(default_factory=threading.Lock)

    def remember(self, experiment: Experiment) -> None:
        """What was run is not tried again."""
        self._tried.add(experiment.fingerprint)
        self._tried.update(m.fingerprint for m in experiment.measurements)

    def admit(self, text: str, script: str) -> str:
        """As `refusal`, and reserves what is not refused: of two who come with the same at the same time one is told so."""
        with self._admitting:
            refusal = self.refusal(text, script)
            if not refusal:
                self.reserve(text)
            return refusal

    def reserve(self, text: str) -> None:
        """What is about to be run is not proposed again, either. ValueError when it is not Python."""
        self._reserved.add(source.fingerprint(text))

    def release(self, text: str) -> None:
        """What will not be run after all may be proposed again. ValueError when it is not Python."""
        self._reserved.discard(source.fingerprint(text))

    def tried(self, text: str) -> bool:
        """Whether this program was run, or will be. ValueError when it is not Python."""
        return self._is_taken(source.fingerprint(text))

    def refusal(self, text: str, script: str) -> str:
        """Why `text` is not run as a change of `script`, in one line; empty when it may be."""
        if reason := unreadable(text, script):
            return reason
        try:
            fingerprint = source.fingerprint(text)
        except ValueError as error:
            return f"it does not parse ({error})"
        if fingerprint == source.fingerprint(script):
            return "it changes nothing"
        return "it was tried before" if self._is_taken(fingerprint) else self.broken_rule(text, script)

    def _is_taken(self, fingerprint: str) -> bool:
        return fingerprint in self._tried or fingerprint in self._reserved

    def broken_rule(self, text: str, script: str) -> str:
        """What the session's rules have against `text` as a change of `script`, in one line. Both must parse."""
        return (
            left_out(text, script)
            or outside(script, text, self.scope, self.classify)
            or held(script, text, self.hold)
            or out_of_range(script, text, self.vary)
        )


@dataclass(slots=True, kw_only=True)
class Proposals:
    """The proposals of one session.

    `relieve` halves a script's device batch, None when it has none. `repair`: what mends a proposal that crashed, if anything.
    """

    proposer: Proposer
    gate: Gate
    relieve: Callable[[str], str | None]
    workspace: Workspace
    console: Console
    interrupt: Interrupt
    floor: Floor = field(default_factory=Floor)
    repair: Repair | None = None
    _again: set[int] = field(default_factory=set)  # the near misses that are being tried once more

    def following(self, history: History) -> Proposal | None:
        """A proposal that may be run and never was; None when nothing is left, and when a person wants to stop.

        With nothing new to try there is time for what looked better but was not sure. ProposerError after MAX_REFUSALS
        useless proposals in a row. Any number of threads may call it.
        """
        with self.floor.held():
            return self._following(history)

    def _following(self, history: History) -> Proposal | None:
        incumbent = history.incumbent
        assert incumbent is not None  # the baseline is one
        script = self.workspace.script(incumbent.commit)
        usage, refusal, declined = sum((proposal.usage for proposal in history.dropped), NOTHING), "", 0
        notes: tuple[str, ...] = ()
        for _ in range(MAX_REFUSALS):
            seen, history = (
                replace(history, rechecks=()),
                replace(history, dropped=()),
            )  # blind to the holdout; told once
            try:
                proposal = self._patiently(partial(self.proposer.propose, seen, script))
            except Declined as no:
                usage, notes, declined = usage + no.usage, (*notes, *no.notes), declined + 1
                if self.interrupt.requested():
                    return None
                self.console.info(f"no proposal: {no.reason}")
                if declined == MAX_DECLINED:
                    raise ProposerError(
                        f"no proposal in {declined} tries, the last because {no.reason}",
                        hint="`proposer: search` needs no model",
                    ) from no
                continue
            if proposal is None:
                return self._near_miss(history, incumbent)
            usage, notes = usage + proposal.usage, (*notes, *proposal.notes)
            refusal = self.gate.admit(proposal.script, script)
            if not refusal:
                for note in notes:
                    self.console.info(note)
                return replace(proposal, usage=usage, notes=notes)
            notes = (*notes, f"refused `{proposal.description}` of {proposal.proposer}: {refusal}")
        raise ProposerError(
            f"{MAX_REFUSALS} proposals in a row were refused, the last because {refusal}",
            hint="widen `scope`, or try another `proposer`",
        )

    def relieved(self, proposal: Proposal) -> Proposal | None:
        """The same with half the device batch; None when its script has none to halve, or that was tried."""
        script = self.relieve(proposal.script)
        if script is None or self.gate.tried(script):
            return None
        return replace(proposal, script=script, description=f"{proposal.description} (half the device batch)")

    def mended(self, script: str, proposal: Proposal, reason: str, log: str) -> Proposal:
        """The proposal without the mistake it crashed of; with the same script when nobody could mend it."""
        if self.repair is None:
            return proposal
        try:
            with self.floor.held():
                mended = self._patiently(partial(self.repair, script, proposal, reason, log))
                self.gate.reserve(mended.script)
                return mended
        except Declined as no:
            return replace(proposal, usage=proposal.usage + no.usage, notes=(*proposal.notes, *no.notes))

    def _patiently(self, ask: Callable[[], _Made]) -> _Made:
        """What is asked for, asked again as long as it is too early. Declined when a person wants to stop."""
        while True:
            try:
                return ask()
            except TooEarly:
                if self.interrupt.requested():
                    raise Declined("interrupted") from None
                self.floor.wait(LOOK_S)

    def _near_miss(self, history: History, incumbent: Experiment) -> Proposal | None:
        """What looked better than the incumbent but was not sure: once more, by fresh runs alone."""
        again = {parameters.get(NEAR_MISS) for parameters in history.parameters} | self._again
        for experiment in history.experiments:
            fresh = experiment.number not in again and NEAR_MISS not in experiment.parameters
            if fresh and experiment.parent == incumbent.commit and near_miss(experiment):
                self._again.add(experiment.number)
                return Proposal(
                    script=self.workspace.script(experiment.commit),
                    description=f"Again: {experiment.description}",
                    category=experiment.category,
                    rationale=f"experiment {experiment.number} looked better, but was not sure",
                    proposer=experiment.proposer,
                    parameters={NEAR_MISS: experiment.number},
                )
        return None
