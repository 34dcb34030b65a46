"""`finalize --drop`: the branch without the kept commits that a person does not want, beside the session's own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from autoresearch_ci import results, source
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.opening import measuring, opening
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.experiment import Experiment, History, Recheck, Status
from autoresearch_ci.forges.pull_request import PullRequest
from autoresearch_ci.noise import Interval, Readings, confirmed
from autoresearch_ci.report.markdown import cell, clean, code
from autoresearch_ci.report.trust import DOUBT, gain_text
from autoresearch_ci.verification import dropping, without
from autoresearch_ci.workspace import Reduced, push_without

MAX_TITLE: Final = 200
MAX_LISTED: Final = 60  # with the longest descriptions, what GitHub takes as a text
_HASH: Final = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True)
class Dropped:
    """What came of it: the new branch, what is known of it in one plain line, its pull request if any, and the exit code."""

    branch: str
    facts: str
    pull: PullRequest | None
    exit_code: int = 0


def drop_commits(call: Call, wanted: Sequence[str], *, measure: bool = True) -> Dropped:
    """Pushes a new branch with the session's keeps but those in `wanted`, measures it against the base as often as `verify-runs`
    says, and makes its pull request; prints the branch's name.

    The session's own branch stays as it is. SettingsError for a hash that is no keep of the session, GitError when another keep
    builds on it. Where nothing can be run, that is said, and the pull request is a draft.
    """
    with Signals() as signals, opening(call, signals) as opened:
        wiring.refuse_two(opened.tag, opened.running_in)
        history, dropped = keeps_named(opened.history, opened.tag, wanted)
        reduced = push_without(
            opened.workspace,
            opened.checkout,
            opened.remote,
            kept=history.kept,
            dropped={e.commit for e in dropped},
        )
        if measure:
            signals.gentle = True
            history = _measured(call, opened, history, reduced, dropped, signals)
        if signals.requested():
            call.console.info(
                "interrupted: the branch is pushed; the same command measures it and makes the pull request"
            )
            return Dropped(reduced.branch, _facts(history, reduced), None, signals.exit_code)
        pull, commands = _publish(opened, history, reduced, dropped), _commands(opened, reduced)
        facts = _facts(history, reduced)
    for warning in pull.warnings if pull else ():
        call.console.warning(warning)
    call.console.info(f"`{reduced.branch}`: {facts}")
    for line in commands:
        call.console.info(f"  {line}")
    if pull and pull.url:
        call.console.notice(f"Pull request {pull.operation.value}", pull.url)
    call.console.data(reduced.branch)
    return Dropped(reduced.branch, facts, pull)


def _measured(
    call: Call,
    opened: Opened,
    history: History,
    reduced: Reduced,
    dropped: Sequence[Experiment],
    signals: Signals,
) -> History:
    """The history with fresh runs of base and reduced branch, as far as they can be made here."""
    settings, made = opened.settings, dropping(history, reduced.tip)
    if settings.verify_runs == 0 or (made is not None and not made.note):
        return history
    try:
        with measuring(call, opened, signals) as runs:
            # The last process may have died before it could.
            opened.workspace.record(history, opened.journal.all_files())
            history = without(
                runs,
                history,
                commit=reduced.tip,
                dropped=[e.commit for e in dropped],
                wanted=settings.verify_runs,
                seconds=None if opened.hours.limit is None else opened.hours.limit * 3600,
                table=results.write(history),
            )
    except MachineError as error:
        call.console.warning(f"not measured, because nothing can be run here: {error.message}")
        return history
    if not opened.workspace.push(now=True):
        call.console.warning("the remote cannot be reached, so what was measured is not pushed yet")
    return history


def keeps_named(history: History | None, tag: str, wanted: Sequence[str]) -> tuple[History, list[Experiment]]:
    """The session's history, and its kept experiments with these hashes, in order; SettingsError for any other hash."""
    if history is None or not history.kept:
        raise SettingsError(
            f"the session `{tag}` has kept nothing that could be dropped",
            hint="`autoresearch-ci status` shows what was tried",
        )
    hint = "kept: " + ", ".join(e.commit[:7] for e in history.kept[-20:])
    named: set[int] = set()
    for text in wanted:
        shown = clean(text, 80)
        if not _HASH.fullmatch(text.lower()):
            raise SettingsError(f"no commit is `{shown}`: give 7 characters or more of the hash", hint=hint)
        found = [e for e in history.experiments if e.commit.startswith(text.lower())]
        kept = [e for e in found if e in history.kept]
        if not found:
            raise SettingsError(f"the session `{history.session.tag}` has no commit `{shown}`", hint=hint)
        if not kept:
            raise SettingsError(f"`{shown}` is {_no_change(found[0])}", hint=hint)
        if len(kept) > 1:
            raise SettingsError(f"more than one kept commit begins with `{shown}`", hint="give more of the hash")
        named.add(kept[0].number)
    if len(named) == len(history.kept):
        raise SettingsError("nothing would be left on the branch", hint="leave one of them in, or merge nothing at all")
    return history, [e for e in history.kept if e.number in named]


def _no_change(experiment: Experiment) -> str:
    """What a commit is that cannot be taken off the branch."""
    if experiment.base:
        return "a merge of the base, which stays"
    if experiment.number > 0 and experiment.status is Status.KEEP:
        return "in the base by now"
    what = "the baseline" if experiment.number == 0 else f"a {experiment.status.value}"
    return f"{what}, and was never on the branch as a change"


def _publish(opened: Opened, history: History, reduced: Reduced, dropped: Sequence[Experiment]) -> PullRequest | None:
    settings = opened.settings
    if settings.open_pr == "never":
        return None
    gain = _gain(history, reduced)
    doubtful = dropping(history, reduced.tip) is not None and (gain is None or gain.includes_zero)
    return opened.forge.publish(
        branch=reduced.branch,
        base=_base(opened),
        title=opened.scrubber.scrub(_title(history, reduced, dropped, doubtful=doubtful)),
        body=opened.scrubber.scrub(_body(opened, history, reduced, dropped)),
        draft=settings.draft or doubtful or not _runs(history, reduced),
        labels=settings.labels,
        attachments={},
    )


def _title(history: History, reduced: Reduced, dropped: Sequence[Experiment], *, doubtful: bool) -> str:
    gain = _gain(history, reduced)
    metric = history.session.metric + (f" gain {gain_text(gain, Readings.of(history).noise)}" if gain else "")
    shorts = ", ".join(e.commit[:7] for e in dropped)
    return clean(
        f"{'not confirmed: ' if doubtful else ''}{metric}: {history.session.branch} without {shorts}", MAX_TITLE
    )


def _gain(history: History, reduced: Reduced) -> Interval | None:
    """By how much the branch is better than the base, from fresh runs of both; None where there are none."""
    measured = dropping(history, reduced.tip)
    return confirmed(measured, Readings.of(history).fresh_noise, history.session.direction) if measured else None


def _runs(history: History, reduced: Reduced) -> int:
    """How often this very script was run in the session and counts: as an ablation, or as an experiment."""
    found = source.fingerprint(reduced.script)
    since = history.chain[0]  # on another base it was another program
    measurements = [m for e in history.experiments[since.number :] for m in e.measurements]
    measurements += [m for r in history.rechecks if r.comparable and not _before(r, since) for m in r.measurements]
    return sum(m.fingerprint == found and m.counts for m in measurements)


def _before(recheck: Recheck, merge: Experiment) -> bool:
    return bool(merge.base and recheck.finished_at and merge.finished_at and recheck.finished_at < merge.finished_at)


def _facts(history: History, reduced: Reduced) -> str:
    runs, gain = _runs(history, reduced), _gain(history, reduced)
    measured = (
        f"measured in {runs} run{'s' if runs > 1 else ''} of the session" if runs else "not measured in the session"
    )
    if gain is not None:
        measured = f"gain over the base {gain_text(gain, Readings.of(history).noise)}"
        measured += f"; {DOUBT}" if gain.includes_zero else ""
    elif (made := dropping(history, reduced.tip)) is not None and not made.readings(reduced.tip):
        measured = "measured, and no run of it gave a reading"
    return f"{len(reduced.commits)} of {len(history.kept)} kept commits, {measured}"


def _body(opened: Opened, history: History, reduced: Reduced, dropped: Sequence[Experiment]) -> str:
    lines = [
        f"`{history.session.branch}` without what is listed under Dropped: {_facts(history, reduced)}.",
        "",
        "## Kept",
        *_listed((commit, experiment) for experiment, commit in reduced.commits),
        "",
        "## Dropped",
        *_listed((experiment.commit, experiment) for experiment in dropped),
        "",
        "## Look at it, or merge it",
        *code(*_commands(opened, reduced)),
    ]
    return "\n".join(lines) + "\n"


def _listed(rows: Iterable[tuple[str, Experiment]]) -> list[str]:
    lines = [f"- {commit[:7]} {cell(experiment.description, 80)}" for commit, experiment in rows]
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], f"- … and {more} more"] if more > 0 else lines


def _commands(opened: Opened, reduced: Reduced) -> list[str]:
    base = _base(opened)
    on_forge = bool(opened.forge.repository_url)
    branch = shlex.quote(f"origin/{reduced.branch}" if on_forge else reduced.branch)
    return [
        *(["git fetch origin"] if on_forge else []),
        f"git log -p {shlex.quote(base)}..{branch}",
        f"git merge --squash {branch} && git commit  # on {base}",
    ]


def _base(opened: Opened) -> str:
    return opened.target()
