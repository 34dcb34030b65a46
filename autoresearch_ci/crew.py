"""The hands of a session: a thread for each slot, which makes runs, and those that make proposals beside them.

Nothing is decided here. The runs and the making of proposals are all that happens in other threads; trials go on, and are
decided, in the one that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from autoresearch_ci.errors import AutoresearchError
from autoresearch_ci.experiment import Measurement, Proposal, Verdict
from autoresearch_ci.slots import Slot
from autoresearch_ci.trials import Mending, Steps, Trial, Wanted

LOOK_S: Final = 0.5  # a wait without an end would not see Ctrl-C on Windows


@dataclass(frozen=True, slots=True)
class Making:
    """A proposal that is being made. `ask` makes it, as a change of `commit`, by what was known after so many `experiments`."""

    ask: Callable[[], Proposal | None]
    commit: str
    experiments: int


class Crew:
    """Makes the runs that trials want, each in its slot, and proposals, of which up to `authors` shall be made at the same time.

    Whoever makes proposals also mends them. A context manager: leaving it by an error calls `halt`,
    and in any case what is under way is waited for. `error`: the first one that came of a run or a proposal; what else is in flight
    is not its fault, and is brought to its end.
    """

    def __init__(self, slots: Sequence[Slot], halt: Callable[[], None], authors: int = 1) -> None:
        self.free = list(slots)
        self.error: AutoresearchError | None = None
        self._halt = halt
        self._pool = ThreadPoolExecutor(len(slots), thread_name_prefix="slot")
        everybody = authors + len(slots)  # so that who mends need not wait for those who think
        self._authors = ThreadPoolExecutor(everybody, thread_name_prefix="proposer")
        self._trials: dict[Future[Any], tuple[Trial, Steps]] = {}
        self._makings: dict[Future[Proposal | None], Making] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._halt()
        self._pool.shutdown()
        self._authors.shutdown()
        for _, steps in self._trials.values():
            steps.close()

    @property
    def trials(self) -> list[Trial]:
        """What is in flight, in the order in which it was begun."""
        return sorted((trial for trial, _ in self._trials.values()), key=lambda trial: trial.number)

    @property
    def being_made(self) -> int:
        """How many proposals are."""
        return len(self._makings)

    @property
    def is_idle(self) -> bool:
        return not self._trials and not self._makings

    def make(self, making: Making) -> None:
        """Starts to make a proposal."""
        self._makings[self._authors.submit(making.ask)] = making

    def begin(self, trial: Trial) -> None:
        """Starts a trial in its slot, which is not free from then on."""
        self.free.remove(trial.slot)
        steps = trial.steps()
        try:
            self._submit(next(steps), trial, steps)
        except AutoresearchError as error:
            self._failed(trial, error)

    def made(self) -> Iterator[tuple[Making, Proposal | None]]:
        """What came of making proposals, each once."""
        for future in [future for future in self._makings if future.done()]:
            making = self._makings.pop(future)
            try:
                yield making, future.result()
            except AutoresearchError as error:
                self.error = self.error or error

    def decided(self) -> Iterator[tuple[Trial, Verdict | None]]:
        """Waits until a run has ended or a proposal is made, and lets the trials go on: those that are decided now, oldest first."""
        while not (done := self._done()) and not any(making.done() for making in self._makings):
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
        done = wait([*self._trials, *self._makings], timeout=LOOK_S, return_when=FIRST_COMPLETED).done
        return [future for future in self._trials if future in done]

    def _submit(self, wanted: Wanted | Mending, trial: Trial, steps: Steps) -> None:
        pool = self._authors if isinstance(wanted, Mending) else self._pool
        self._trials[pool.submit(wanted)] = trial, steps

    def _free(self, trial: Trial) -> None:
        self.free.append(trial.slot)
        self.free.sort(key=lambda slot: slot.number)

    def _failed(self, trial: Trial, error: AutoresearchError) -> None:
        self._free(trial)
        self.error = self.error or error
