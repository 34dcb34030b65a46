"""Human decisions by comment: `/autoresearch …` on a session's pull request, from people who may write here.

GitHub starts the job for every comment of everybody. Whoever is not obeyed gets no answer at all, so that nobody can make the
repository speak; whoever is gets a reaction at once, and a comment with what was done or why not. What an answer says is ours: of the
comment nothing is repeated. No answer begins with the command, and bots are not obeyed, so no answer is answered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, assert_never

from autoresearch_ci.cli.trigger import BOT, MAY_WRITE
from autoresearch_ci.console import Console
from autoresearch_ci.errors import AutoresearchError, ForgeError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.tasks import COMMAND, EXAMPLES, Kind, Task, asked, parse

Reaction: TypeAlias = Literal["eyes", "+1", "confused", "rocket"]
Sessions: TypeAlias = Callable[[str], History | None]  # by tag, as the remote has it; None: there is none

MAX_QUOTE: Final = 400  # of a reason in an answer
_BRANCH: Final = re.compile(r"autoresearch/(?P<tag>[A-Za-z0-9][A-Za-z0-9._-]{0,63})")
_WORKFLOW: Final = re.compile(r"/\.github/workflows/(?P<file>[^/@\s]+\.ya?ml)@")
_RUN: Final = re.compile(r"/actions/runs/(?P<number>[0-9]{1,18})(?:/.*)?")


class Forge(Protocol):
    """What a comment can make GitHub do. Every method raises ForgeError."""

    @property
    def repository_url(self) -> str: ...

    def default_branch(self) -> str: ...

    def permission(self, user: str) -> str: ...

    def is_from_fork(self, number: int) -> bool: ...

    def pull_head(self, number: int) -> tuple[str, str]: ...

    def comment(self, number: int, text: str) -> None: ...

    def react(self, comment_id: int, content: Reaction) -> None: ...

    def dispatch(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None: ...

    def run_status(self, run_id: int) -> str: ...

    def cancel_run(self, run_id: int) -> None: ...

    def merge_pull(self, number: int, *, method: Literal["squash", "rebase", "merge"], head_sha: str = "") -> str: ...


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment that asks for something. `text`: what stands behind the command. `is_open`: whether the pull request is."""

    number: int
    identity: int
    author: str
    text: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class Place:
    """The pull request that a comment is on: its branch's tag, and the branch's commit when the comment was taken up."""

    number: int
    tag: str
    sha: str
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What was done, in Markdown, and the reaction that says it in short."""

    text: str
    reaction: Reaction


def answer_comment(console: Console, environ: Mapping[str, str], forge: Forge, sessions: Sessions) -> int:
    """Obeys the comment that started this job, or ignores it; 0 either way.

    SettingsError when the job was started by something else, ForgeError when it cannot be seen who wrote the comment, or the answer
    cannot be given.
    """
    comment = read_comment(environ)
    if isinstance(comment, str):
        console.info(f"ignored: {comment}")
        return 0
    place = _place(forge, comment)
    if isinstance(place, str):
        console.info(f"ignored: {place}")
        return 0
    _react(console, forge, comment, "eyes")
    answer = _answer(console, environ, forge, sessions, comment, place)
    forge.comment(place.number, console.scrubber.scrub(answer.text))
    _react(console, forge, comment, answer.reaction)
    return 0


def read_comment(environ: Mapping[str, str]) -> Comment | str:
    """The comment of the event, or why it is ignored; SettingsError when the event is none."""
    if environ.get("GITHUB_EVENT_NAME") != "issue_comment":
        raise SettingsError(
            "no comment started this job, so there is none to obey",
            hint="`task: comment` is for a workflow with `on: issue_comment`",
        )
    try:
        event = json.loads(Path(environ.get("GITHUB_EVENT_PATH", "")).read_text(encoding="utf-8"))
        return _comment(event)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingsError(
            "the comment cannot be read from GITHUB_EVENT_PATH", hint="it is the runner that writes this file"
        ) from error


def _comment(event: Any) -> Comment | str:
    comment, issue = event["comment"], event["issue"]
    text, author = asked(str(comment["body"] or "")), str(comment["user"]["login"])
    if event["action"] != "created":
        return "a comment that was changed or removed asks for nothing"
    if text is None:
        return f"its first line is no `{COMMAND}`"
    if comment["user"]["type"] == "Bot" or author.endswith(BOT):
        return "it is by a bot"
    if "pull_request" not in issue:
        return "it is not on a pull request"
    return Comment(int(issue["number"]), int(comment["id"]), author, text, issue["state"] == "open")


def _place(forge: Forge, comment: Comment) -> Place | str:
    """Where the comment is, or why it is ignored there."""
    if forge.permission(comment.author) not in MAY_WRITE:
        return "whoever wrote it may not write to this repository"
    if forge.is_from_fork(comment.number):
        return "the pull request is of a fork"
    branch, sha = forge.pull_head(comment.number)
    match = _BRANCH.fullmatch(branch)
    if match is None:
        return "the pull request's branch is no session's"
    return Place(comment.number, match["tag"], sha, comment.is_open)


def _react(console: Console, forge: Forge, comment: Comment, reaction: Reaction) -> None:
    try:
        forge.react(comment.identity, reaction)
    except ForgeError as error:  # the comment may be gone by now; the answer still says it
        console.warning(f"no reaction to the comment: {error.message}")


def _answer(
    console: Console, environ: Mapping[str, str], forge: Forge, sessions: Sessions, comment: Comment, place: Place
) -> Answer:
    try:
        task = parse(comment.text)
    except SettingsError as error:
        console.warning(error.message)
        return Answer("\n".join([f"Sorry, {_quoted(error)}.", "", *_menu()]), "confused")
    try:
        return decide(environ, forge, sessions, replace(task, answer_to=place.number), place)
    except AutoresearchError as error:
        console.warning(f"{task.kind.value}: {error.message}")
        return Answer(f"Not done, `{task.kind.value}`: {_quoted(error)}.", "confused")


def _menu() -> list[str]:
    return [
        "What can be said, on the first line of a comment:",
        "",
        *(f"- `{COMMAND} {example}`: {meaning}" for example, meaning in EXAMPLES.items()),
    ]


def _quoted(error: AutoresearchError) -> str:
    """The error on one line of Markdown: what it quotes of others does nothing there."""
    message = cell(error.message, MAX_QUOTE)
    return f"{message} ({cell(error.hint, MAX_QUOTE)})" if error.hint else message


def decide(environ: Mapping[str, str], forge: Forge, sessions: Sessions, task: Task, place: Place) -> Answer:
    """Does what was asked for, or starts the workflow that does; AutoresearchError with the reason when it cannot be.

    Nothing is ever merged but by `merge`, of what the branch held when it was asked for.
    """
    match task.kind:
        case Kind.STOP:
            return stop(forge, sessions(place.tag), place.tag)
        case Kind.MERGE:
            return merge(forge, task, place)
        case Kind.CONTINUE | Kind.DROP | Kind.VERIFY | Kind.REPORT | Kind.CONFIG:
            return _start(environ, forge, sessions, task, place)
        case _:
            assert_never(task.kind)


def stop(forge: Forge, history: History | None, tag: str) -> Answer:
    """Cancels the run that the session is in: its own signal handling saves, pushes and reports."""
    url = history.session.run_url if history else ""
    match = _RUN.fullmatch(url.removeprefix(forge.repository_url)) if url.startswith(forge.repository_url) else None
    if match is None:
        return Answer(f"Nothing to stop: no run of `autoresearch/{tag}` on GitHub is known.", "+1")
    number = int(match["number"])
    page = f"{forge.repository_url}/actions/runs/{number}"
    if forge.run_status(number) == "completed":
        return Answer(
            f"Nothing to stop: [the last run]({page}) of `autoresearch/{tag}` that is known here is over. One that still builds its "
            "environment is known to nobody yet: cancel it on its own page.",
            "+1",
        )
    forge.cancel_run(number)
    return Answer(f"Stopping: [the run]({page}) was told to end. It saves, pushes, and reports here.", "+1")


def merge(forge: Forge, task: Task, place: Place) -> Answer:
    """Merges the pull request as it was when this was asked for; ForgeError with GitHub's reason when it will not."""
    if not place.is_open:
        raise SettingsError("the pull request is not open")
    method = _METHODS[task.method]
    commit = forge.merge_pull(place.number, method=method, head_sha=place.sha)
    return Answer(f"Merged ({method}): {commit[:40]}", "+1")


_METHODS: Final[Mapping[str, Literal["squash", "rebase", "merge"]]] = {
    "squash": "squash",
    "rebase": "rebase",
    "merge": "merge",
}


def _start(environ: Mapping[str, str], forge: Forge, sessions: Sessions, task: Task, place: Place) -> Answer:
    """Starts the workflow for what needs the session's runner; what can be seen to fail is refused here and now."""
    if not place.is_open:
        raise SettingsError(
            "the pull request is not open, so its session is over", hint="another `tag` starts a new session"
        )
    history = sessions(place.tag)
    if history is None or not history.experiments:
        raise SettingsError(f"there is no session `{place.tag}` on the remote", hint="was its journal deleted?")
    done = len(history.tried)
    match task.kind:
        case Kind.CONTINUE:
            what = f"{counted(task.count, 'more experiment')}, after the {done} that are done"
        case Kind.VERIFY:
            if not history.kept:
                raise SettingsError("the session has kept nothing that could be verified")
            what = f"{counted(task.count, 'fresh run')} each of the base and of the best commit"
        case Kind.DROP:
            from autoresearch_ci.cli.dropping import keeps_named

            _, dropped = keeps_named(history, place.tag, task.commits)
            what = "a branch without " + ", ".join(f"`{e.commit[:7]}`" for e in dropped)
        case _:
            what = "the report, without running anything" if task.kind is Kind.REPORT else "showing the Research Config"
    workflow = _workflow(environ)
    forge.dispatch(workflow, forge.default_branch(), {"tag": place.tag, "task": task.text})
    page = f"{forge.repository_url}/actions/workflows/{workflow}"
    return Answer(
        f"Started: {what}. It is [a run of its own]({page}), after one of this session that is still on; "
        "what came of it will be told here.",
        "rocket",
    )


def counted(count: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _workflow(environ: Mapping[str, str]) -> str:
    """The name of the workflow file that this job is from: it is the one that also runs sessions."""
    match = _WORKFLOW.search(environ.get("GITHUB_WORKFLOW_REF", ""))
    if match is None:
        raise SettingsError("GITHUB_WORKFLOW_REF names no workflow to start", hint="it is the runner that sets it")
    return match["file"]
