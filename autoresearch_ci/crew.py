"""The hands of a session: a thread for each slot, which makes runs, and one that makes proposals beside them.

Nothing is decided here. The runs and the making of proposals are all that happens in other threads; trials go on, and are
decided, in the one that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Self

from autoresearch_ci.errors import AutoresearchError
from autoresearch_ci.experiment import Measurement, Proposal, Verdict
from autoresearch_ci.slots import Slot
from autoresearch_ci.trials import Mending, Steps, Trial, Wanted

LOOK_S: Final = 0.5  # a wait without an end would not see Ctrl-C on Windows
Making = Callable[[], Proposal | None]


class Crew:
    """Makes the runs that trials want, each in its slot, and one proposal at a time.

    Whoever made a proposal also mends it, so both are done by one thread. A context manager: leaving it by an error calls `halt`,
    and in any case what is under way is waited for. `error`: the first one that came of a run or a proposal; what else is in flight
    is not its fault, and is brought to its end.
    """

    def __init__(self, slots: Sequence[Slot], halt: Callable[[], None]) -> None:
        self.free = list(slots)
        self.error: AutoresearchError | None = None
        self._halt = halt
        self._pool = ThreadPoolExecutor(len(slots), thread_name_prefix="slot")
        self._author = ThreadPoolExecutor(1, thread_name_prefix="proposer")
        self._trials: dict[Future[Any], tuple[Trial, Steps]] = {}
        self._making: Future[Proposal | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._halt()
        self._pool.shutdown()
        self._author.shutdown()
        for _, steps in self._trials.values():
            steps.close()

    @property
    def trials(self) -> list[Trial]:
        """What is in flight, in the order in which it was begun."""
        return sorted((trial for trial, _ in self._trials.values()), key=lambda trial: trial.number)

    @property
    def is_making(self) -> bool:
        """Whether a proposal is being made."""
        return self._making is not None

    @property
    def is_idle(self) -> bool:
        return not self._trials and self._making is None

    def make(self, making: Making) -> None:
        """Starts to make a proposal; the one before it must have been taken."""
        self._making = self._author.submit(making)

    def begin(self, trial: Trial) -> None:
        """Starts a trial in its slot, which is not free from then on."""
        self.free.remove(trial.slot)
        steps = trial.steps()
        try:
            self._submit(next(steps), trial, steps)
        except AutoresearchError as error:
            self._failed(trial, error)

    def made(self) -> tuple[Proposal | None] | None:
        """What came of making a proposal, once; None as long as there is nothing to take."""
        if self._making is None or not self._making.done():
            return None
        making, self._making = self._making, None
        try:
            return (making.result(),)
        except AutoresearchError as error:
            self.error = self.error or error
            return None

    def decided(self) -> Iterator[tuple[Trial, Verdict | None]]:
        """Waits until a run has ended or a proposal is made, and lets the trials go on: those that are decided now, oldest first."""
        while not (done := self._done()) and not (self._making and self._making.done()):
            pass
        for future in done:
            trial, steps = self._trials.pop(future)
            try:
                self._submit(steps.send(future.result()), trial, steps)
            except StopIteration as end:
                self._free(trial)
                yield trial, end.value
            except AutoresearchError as error:
                steps.close()
                self._failed(trial, error)

    def together(self, wanted: Sequence[Wanted]) -> list[list[Measurement]]:
        """Makes runs at the same time, one in each slot, and waits for all."""
        return [future.result() for future in [self._pool.submit(each) for each in wanted]]

    def _done(self) -> list[Future[Any]]:
        waited_for: list[Future[Any]] = [*self._trials, *([self._making] if self._making else [])]
        done = wait(waited_for, timeout=LOOK_S, return_when=FIRST_COMPLETED).done
        return [future for future in self._trials if future in done]

    def _submit(self, wanted: Wanted | Mending, trial: Trial, steps: Steps) -> None:
        pool = self._author if isinstance(wanted, Mending) else self._pool
        self._trials[pool.submit(wanted)] = trial, steps

    def _free(self, trial: Trial) -> None:
        self.free.append(trial.slot)
        self.free.sort(key=lambda slot: slot.number)

    def _failed(self, trial: Trial, error: AutoresearchError) -> None:
        self._free(trial)
        self.error = self.error or error
