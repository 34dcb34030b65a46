"""Shows people how a session stands while it goes on: the step's summary, a commit status at the branch, and a draft pull request.

The summary is a file, and is written at once. What goes to GitHub goes from a thread of its own: training never waits for it, and a
forge that fails costs a warning. Of several things to tell only the newest is told.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final

from autoresearch_ci.cli.conclusion import report_files
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.console import Console
from autoresearch_ci.errors import ForgeError
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.pull_request import Operation
from autoresearch_ci.report import pull_request
from autoresearch_ci.report.running import running_summary
from autoresearch_ci.report.standing import status_line

# GitHub allows a job's token 1,000 requests an hour, which all workflows of the repository share; a night of ours takes 200 at most.
# What is kept free is for the end, and for a `finalize` after it.
NIGHT_REQUESTS: Final = 200
END_REQUESTS: Final = 40
SPACING_S: Final = 10.0  # between two tellings; GitHub takes 80 writes a minute and 500 an hour from everybody together
PATIENCE_S: Final = 20.0  # of one telling with GitHub's bad moments; the next one tells more
MAX_FAILURES: Final = 3  # in a row, then no more is tried
LAST_WAIT_S: Final = 75.0  # for a telling that is under way when the session ends: two calls with a last request each


class _Channel(Enum):
    STATUS = "commit status"
    DRAFT = "draft pull request"


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    """One telling, made complete before the thread has it: the thread only talks to the forge. `status` or `body` may be empty."""

    commit: str
    status: str = ""
    title: str = ""
    body: str = ""
    base: str = ""


@dataclass(slots=True, kw_only=True)
class Teller:
    """Told of every experiment by the loop. `over`: why the session should end, once a person ended its pull request."""

    console: Console
    opened: Opened
    now: Callable[[], dt.datetime]
    monotonic: Callable[[], float] = time.monotonic
    over: str = ""
    _diffs: dict[str, str] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _told: str = ""  # the commit that the last status is on
    _drafted: int | None = None  # how many progress reports the draft had seen when it was last written
    _failures: Counter[_Channel] = field(default_factory=Counter)
    _given_up: set[_Channel] = field(default_factory=set)
    _last: float = float("-inf")
    _thread: threading.Thread | None = None

    def tell(self, history: History) -> str:
        """Shows the state after an experiment. Returns why the session should end, empty to go on."""
        opened = self.opened
        self.console.step_summary(
            running_summary(
                history,
                config=opened.loaded.rows(),
                now=self.now(),
                live=opened.journal.now_running(),
                hours=opened.hours.limit,
            )
        )
        for why in (self.opened.workspace.trouble, self.opened.workspace.detached):
            if why and why not in self._warned:
                self._warned.add(why)
                self.console.warning(
                    f"not pushed yet, and tried again: {why}" if why != self.opened.workspace.detached else why
                )
        if self.opened.forge.repository_url:
            self._send(history)
        return self.over

    def finish(self) -> None:
        """Nothing more is told from here on, and what is under way is waited for: the end writes the same pull request."""
        self._given_up = set(_Channel)
        if self._thread is not None:
            self._thread.join(LAST_WAIT_S)

    def _send(self, history: History) -> None:
        busy = self._thread is not None and self._thread.is_alive()
        if busy or self.monotonic() - self._last < SPACING_S or (news := self._news(history)) is None:
            return
        if self.opened.forge.requests.total >= NIGHT_REQUESTS - END_REQUESTS:
            self.console.info(f"{NIGHT_REQUESTS - END_REQUESTS} requests to GitHub are made: the rest is for the end")
            self._given_up = set(_Channel)
            return
        self._last = self.monotonic()
        # A daemon: after a signal the process ends at once, whatever GitHub is thinking about.
        self._thread = threading.Thread(target=self._talk, args=(news,), daemon=True, name="telling")
        self._thread.start()

    def _news(self, history: History) -> _News | None:
        """What GitHub does not know yet; a commit can be told about only when the remote has it."""
        on_remote, settings = self.opened.workspace.on_remote, self.opened.settings
        known = next((e for e in reversed(history.kept) if e.commit == on_remote), None)
        # A report, or a merge of the base, may lie above the last keep.
        above = bool(on_remote) and all(e.commit != on_remote or e.base for e in history.experiments)
        if known is None and not (above and history.kept):
            return None
        reports = len(history.tried) // settings.report_every
        wanted = settings.progress == "pull-request" and settings.open_pr != "never"
        draft = wanted and self._drafted != reports and _Channel.DRAFT not in self._given_up
        status = status_line(history) if self._told != on_remote and _Channel.STATUS not in self._given_up else ""
        if not draft:
            return _News(commit=on_remote, status=status) if status else None
        for each in history.kept:
            if each.commit not in self._diffs:
                self._diffs[each.commit] = self.opened.workspace.diff(each.parent, each.commit)
        self._drafted = reports
        try:
            base = self.opened.target(PATIENCE_S)
        except ForgeError as error:
            self.console.warning(f"the draft pull request could not be written: {error.message}")
            return None
        body = pull_request.progress_body(history, files=report_files(self.opened), base=base, diffs=self._diffs)
        scrub, title = self.opened.scrubber.scrub, pull_request.progress_title(history)
        return _News(commit=on_remote, status=status, title=scrub(title), body=scrub(body), base=base)

    def _talk(self, news: _News) -> None:
        if news.status:
            self._attempt(_Channel.STATUS, partial(self._set_status, news))
        if news.body and _Channel.DRAFT not in self._given_up:
            self._attempt(_Channel.DRAFT, partial(self._draft, news))

    def _attempt(self, channel: _Channel, action: Callable[[], None]) -> None:
        try:
            action()
            self._failures[channel] = 0
        except ForgeError as error:
            self._failures[channel] += 1
            last = ""
            if self._failures[channel] == MAX_FAILURES:
                self._given_up.add(channel)
                last = ", and is not tried again"
            self.console.warning(f"the {channel.value} could not be written{last}: {error.message}")

    def _set_status(self, news: _News) -> None:
        forge = self.opened.forge.within(PATIENCE_S)
        forge.set_status(news.commit, state="pending", description=news.status, url=self.opened.run_url)
        self._told = news.commit

    def _draft(self, news: _News) -> None:
        forge = self.opened.forge.within(PATIENCE_S)
        pull = forge.publish(
            branch=self.opened.workspace.refs.branch,
            base=news.base,
            title=news.title,
            body=news.body,
            draft=True,
            labels=(),
            attachments={},
        )
        if pull.operation is Operation.NONE and pull.number is not None:
            self.over = f"a person ended pull request #{pull.number}, and with it the session"
