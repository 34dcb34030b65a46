"""`finalize --drop`: the branch without the kept commits that a person does not want, beside the session's own."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from autoresearch_ci import source
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Experiment, History, Purpose
from autoresearch_ci.forges.pull_request import PullRequest
from autoresearch_ci.report.markdown import cell, clean, code
from autoresearch_ci.workspace import Reduced, Remote, push_without

MAX_TITLE: Final = 200
MAX_LISTED: Final = 60  # with the longest descriptions, what GitHub takes as a text
_HASH: Final = re.compile(r"[0-9a-f]{7,64}")


def drop_commits(call: Call, wanted: Sequence[str]) -> int:
    """Pushes a new branch with the session's keeps but those in `wanted`, and makes its pull request; prints the branch's name.

    The session's own branch and journal stay as they are. SettingsError for a hash that is no keep of the session, GitError when
    another keep builds on it.
    """
    loaded, today = call.load(), dt.datetime.now(dt.UTC).date()
    with wiring.open_session(call.environ, call.directory, loaded, today=today, starting=False) as opened:
        call.console.mask()
        history = opened.history
        if history is None or not history.kept:
            raise SettingsError(
                f"the session `{opened.tag}` has kept nothing that could be dropped",
                hint="`autoresearch-ci status` shows what was tried",
            )
        dropped = _dropped(history, wanted)
        reduced = push_without(
            opened.workspace,
            opened.checkout,
            Remote(url=opened.forge.remote_url, token=opened.forge.token),
            kept=history.kept,
            dropped={e.commit for e in dropped},
        )
        pull, commands = _publish(opened, history, reduced, dropped), _commands(opened, reduced)
    for warning in pull.warnings if pull else ():
        call.console.warning(warning)
    call.console.info(f"`{reduced.branch}`: {_facts(history, reduced)}")
    for line in commands:
        call.console.info(f"  {line}")
    if pull and pull.url:
        call.console.notice(f"Pull request {pull.operation.value}", pull.url)
    call.console.data(reduced.branch)
    return 0


def _dropped(history: History, wanted: Sequence[str]) -> list[Experiment]:
    """The kept experiments with these hashes, in the session's order."""
    hint = "kept: " + ", ".join(e.commit[:7] for e in history.kept[-20:])
    named: set[int] = set()
    for text in wanted:
        shown = clean(text, 80)
        if not _HASH.fullmatch(text.lower()):
            raise SettingsError(f"`--drop` cannot be `{shown}`: give 7 characters or more of the hash", hint=hint)
        found = [e for e in history.experiments if e.commit.startswith(text.lower())]
        kept = [e for e in found if e in history.kept]
        if not found:
            raise SettingsError(f"the session `{history.session.tag}` has no commit `{shown}`", hint=hint)
        if not kept:
            what = "the baseline" if found[0].number == 0 else f"a {found[0].status.value}"
            raise SettingsError(f"`{shown}` is {what}, and was never on the branch as a change", hint=hint)
        if len(kept) > 1:
            raise SettingsError(f"more than one kept commit begins with `{shown}`", hint="give more of the hash")
        named.add(kept[0].number)
    if len(named) == len(history.kept):
        raise SettingsError(
            "nothing would be left on the branch", hint="leave out one `--drop`, or merge nothing at all"
        )
    return [e for e in history.kept if e.number in named]


def _publish(opened: Opened, history: History, reduced: Reduced, dropped: Sequence[Experiment]) -> PullRequest | None:
    settings = opened.settings
    if settings.open_pr == "never":
        return None
    without = ", ".join(e.commit[:7] for e in dropped)
    title = f"{history.session.metric}: {history.session.branch} without {without}"
    return opened.forge.publish(
        branch=reduced.branch,
        base=_base(opened),
        title=clean(title, MAX_TITLE),
        body=_body(opened, history, reduced, dropped),
        draft=settings.draft or not _runs(history, reduced),
        labels=settings.labels,
        attachments={},
    )


def _runs(history: History, reduced: Reduced) -> int:
    """How often this very script was run in the session and counts: as an ablation, or as an experiment."""
    found = source.fingerprint(reduced.script)
    measurements = [m for e in history.experiments for m in e.measurements]
    measurements += [m for r in history.rechecks if r.purpose is not Purpose.HOLDOUT for m in r.measurements]
    return sum(m.fingerprint == found and m.counts for m in measurements)


def _facts(history: History, reduced: Reduced) -> str:
    runs = _runs(history, reduced)
    measured = (
        f"measured in {runs} run{'s' if runs > 1 else ''} of the session" if runs else "not measured in the session"
    )
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
    return opened.settings.base or opened.forge.default_branch()
