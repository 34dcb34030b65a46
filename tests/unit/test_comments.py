"""Who is obeyed, what is done, and what is answered."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from autoresearch_ci.cli.comments import answer_comment
from autoresearch_ci.console import Console
from autoresearch_ci.errors import ForgeError, GitError, SettingsError
from autoresearch_ci.experiment import History, Status
from tests.unit.histories import experiment, history

URL = "https://github.example/octo/research"
BASE, KEPT, OTHER = "a" * 40, "b" * 40, "c" * 40


@dataclass
class FakeForge:
    """GitHub as far as comments are concerned: what it was told to do, in order."""

    repository_url: str = URL
    permissions: Mapping[str, str] = field(default_factory=lambda: {"ada": "write", "root": "admin", "eve": "read"})
    branch: str = "autoresearch/night"
    fork: bool = False
    status: str = "in_progress"
    refuses: Mapping[str, str] = field(default_factory=dict)  # the method, and the reason
    done: list[tuple[Any, ...]] = field(default_factory=list)

    def _do(self, method: str, *arguments: Any) -> None:
        if method in self.refuses:
            raise ForgeError(self.refuses[method], hint="look at the settings")
        self.done.append((method, *arguments))

    def default_branch(self) -> str:
        return "main"

    def permission(self, user: str) -> str:
        return self.permissions.get(user, "none")

    def is_from_fork(self, number: int) -> bool:
        return self.fork

    def pull_head(self, number: int) -> tuple[str, str]:
        return self.branch, KEPT

    def comment(self, number: int, text: str) -> None:
        self._do("comment", number, text)

    def react(self, comment_id: int, content: str) -> None:
        self._do("react", comment_id, content)

    def dispatch(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None:
        self._do("dispatch", workflow, ref, dict(inputs))

    def run_status(self, run_id: int) -> str:
        if "run_status" in self.refuses:
            raise ForgeError(self.refuses["run_status"])
        return self.status

    def cancel_run(self, run_id: int) -> None:
        self._do("cancel_run", run_id)

    def merge_pull(self, number: int, *, method: str, head_sha: str = "") -> str:
        self._do("merge_pull", number, method, head_sha)
        return OTHER

    @property
    def reactions(self) -> list[str]:
        return [what for method, *rest in self.done if method == "react" for what in rest[1:]]

    @property
    def answer(self) -> str:
        (text,) = [rest[1] for method, *rest in self.done if method == "comment"]
        return str(text)

    @property
    def acts(self) -> list[tuple[Any, ...]]:
        return [done for done in self.done if done[0] not in ("comment", "react")]


def session(*commits: tuple[str, Status], run_url: str = "") -> History:
    """A session whose experiments have these commits and verdicts."""
    made = tuple(experiment(n, 1.0, status, commit=commit) for n, (commit, status) in enumerate(commits))
    empty = history()
    return replace(empty, session=replace(empty.session, tag="night", run_url=run_url), experiments=made)


def night(run_url: str = f"{URL}/actions/runs/77/job/8") -> History:
    """A session with one keep and one discard."""
    return session((BASE, Status.KEEP), (KEPT, Status.KEEP), (OTHER, Status.DISCARD), run_url=run_url)


def said(
    folder: Path,
    body: str,
    forge: FakeForge,
    *,
    author: str = "ada",
    recorded: History | None = night(),
    **changes: Any,
) -> str:
    """What the log says after a comment with this body."""
    event = {
        "action": changes.get("action", "created"),
        "comment": {"id": 5, "body": body, "user": {"login": author, "type": changes.get("type", "User")}},
        "issue": {"number": 4, "state": changes.get("state", "open"), "pull_request": {"url": "x"}},
    }
    if changes.get("issue"):
        del event["issue"]["pull_request"]
    path = folder / "event.json"
    path.write_text(json.dumps(event), encoding="utf-8")
    environ = {
        "GITHUB_EVENT_NAME": "issue_comment",
        "GITHUB_EVENT_PATH": str(path),
        "GITHUB_WORKFLOW_REF": "octo/research/.github/workflows/night.yml@refs/heads/main",
    }
    log = io.StringIO()
    assert answer_comment(Console(io.StringIO(), log), environ, forge, lambda tag: recorded) == 0
    return log.getvalue()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"body": "well done"}, "its first line is no `/autoresearch`"),
        ({"body": "> /autoresearch stop"}, "its first line is no"),
        ({"author": "eve"}, "may not write"),
        ({"author": "mallory"}, "may not write"),
        ({"author": "some-app[bot]"}, "by a bot"),
        ({"author": "github-actions[bot]"}, "by a bot"),
        ({"type": "Bot", "author": "root"}, "by a bot"),
        ({"action": "edited"}, "changed or removed"),
        ({"action": "deleted"}, "changed or removed"),
        ({"issue": True}, "not on a pull request"),
        ({"forge": FakeForge(fork=True)}, "of a fork"),
        ({"forge": FakeForge(branch="main")}, "no session's"),
        ({"forge": FakeForge(branch="autoresearch/a/b")}, "no session's"),
        ({"forge": FakeForge(branch="xautoresearch/night")}, "no session's"),
    ],
)
def test_who_is_not_obeyed_gets_no_answer(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    """One line in the log, exit code 0, and nothing is written on GitHub."""
    forge = changes.pop("forge", FakeForge())
    log = said(tmp_path, changes.pop("body", "/autoresearch merge squash"), forge, **changes)
    assert why in log
    assert len(log.splitlines()) == 1
    assert forge.done == []


def test_whether_somebody_may_write_must_be_seen(tmp_path: Path) -> None:
    """When GitHub does not say, nothing is done, and the job fails."""

    class Silent(FakeForge):
        def permission(self, user: str) -> str:
            raise ForgeError("GitHub is out of order")

    forge = Silent()
    with pytest.raises(ForgeError):
        said(tmp_path, "/autoresearch stop", forge)
    assert forge.done == []


@pytest.mark.parametrize("author", ["ada", "root"])
def test_continue_starts_the_workflow(tmp_path: Path, author: str) -> None:
    """With the tag and the task, on the default branch; the answer says what was started, and the reactions that it was seen and done."""
    forge = FakeForge()
    said(tmp_path, "/autoresearch continue 20", forge, author=author)
    inputs = {"tag": "night", "task": "continue 20 #4"}
    assert forge.acts == [("dispatch", "night.yml", "main", inputs)]
    assert forge.answer.startswith("Started: 20 more experiments, after the 2 that are done.")
    assert f"{URL}/actions/workflows/night.yml" in forge.answer
    assert forge.reactions == ["eyes", "rocket"]
    assert [method for method, *_ in forge.done] == ["react", "dispatch", "comment", "react"]


@pytest.mark.parametrize(
    ("text", "task", "answer"),
    [
        ("verify 5", "verify 5 #4", "5 fresh runs each of the base and of the best commit"),
        ("report", "report #4", "without running anything"),
        ("config", "config #4", "Research Config"),
    ],
)
def test_what_else_needs_the_runner(tmp_path: Path, text: str, task: str, answer: str) -> None:
    """It is dispatched, and told so; a number that the comment itself gives for the answer does not count."""
    forge = FakeForge()
    said(tmp_path, f"/autoresearch {text} #999", forge)
    assert forge.acts == [("dispatch", "night.yml", "main", {"tag": "night", "task": task})]
    assert answer in forge.answer


def test_drop_needs_a_keep_and_something_left(tmp_path: Path) -> None:
    """A hash is looked up before anything is started: one that is no keep, or the only one, is answered with the reason."""
    for wanted, reason in ((OTHER[:7], "discard"), ("0123456", "has no commit"), (KEPT[:7], "nothing would be left")):
        forge = FakeForge()
        said(tmp_path, f"/autoresearch drop {wanted}", forge)
        assert forge.acts == []
        assert reason in forge.answer
        assert forge.reactions == ["eyes", "confused"]
    forge = FakeForge()
    two = session((BASE, Status.KEEP), (KEPT, Status.KEEP), (OTHER, Status.KEEP))
    said(tmp_path, f"/autoresearch drop {OTHER[:9].upper()}", forge, recorded=two)
    assert forge.acts == [("dispatch", "night.yml", "main", {"tag": "night", "task": f"drop {OTHER[:9]} #4"})]
    assert f"without `{OTHER[:7]}`" in forge.answer


def test_stop_cancels_the_run_that_the_journal_names(tmp_path: Path) -> None:
    """GitHub then signals the program, which saves and reports."""
    forge = FakeForge()
    said(tmp_path, "/autoresearch stop", forge)
    assert forge.acts == [("cancel_run", 77)]
    assert f"{URL}/actions/runs/77)" in forge.answer
    assert forge.reactions == ["eyes", "+1"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (f"{URL}/actions/runs/77", "completed"),
        ("", "in_progress"),
        ("https://elsewhere.example/octo/research/actions/runs/77", "in_progress"),
        (f"{URL}-of-another/actions/runs/77", "in_progress"),
        (f"{URL}/actions/runs/77x", "in_progress"),
    ],
)
def test_nothing_to_stop(tmp_path: Path, url: str, status: str) -> None:
    """A run that is over, unknown, or of another repository is not cancelled, and that is said."""
    forge = FakeForge(status=status)
    said(tmp_path, "/autoresearch stop", forge, recorded=night(url))
    assert forge.acts == []
    assert forge.answer.startswith("Nothing to stop")


@pytest.mark.parametrize("method", ["squash", "rebase", "merge"])
def test_merge_is_of_what_the_branch_held(tmp_path: Path, method: str) -> None:
    """GitHub gets the commit that was looked at, so that one which came meanwhile is not merged unseen; a session is not needed."""
    forge = FakeForge(branch="autoresearch/night-without-abcdef0")
    said(tmp_path, f"/autoresearch merge {method}", forge, recorded=None)
    assert forge.acts == [("merge_pull", 4, method, KEPT)]
    assert OTHER in forge.answer


def test_a_merge_that_github_refuses(tmp_path: Path) -> None:
    """Its reason is the answer; nobody is mentioned and nothing linked by what it quotes."""
    forge = FakeForge(refuses={"merge_pull": "Base branch was modified by @octocat, see #1 <b>"})
    log = said(tmp_path, "/autoresearch merge squash", forge)
    assert "Base branch was modified" in log
    assert forge.answer.startswith(
        "Not done, `merge`: Base branch was modified by @\u200boctocat, see #\u200b1 &lt;b&gt;"
    )
    assert "look at the settings" in forge.answer
    assert forge.reactions == ["eyes", "confused"]


@pytest.mark.parametrize("text", ["continue 20", "verify 5", f"drop {KEPT[:7]}", "report", "merge squash"])
def test_a_closed_pull_request_stays_closed(tmp_path: Path, text: str) -> None:
    """Its session is over: nothing is started and nothing merged."""
    forge = FakeForge()
    said(tmp_path, f"/autoresearch {text}", forge, state="closed")
    assert forge.acts == []
    assert "not open" in forge.answer


def test_a_session_that_the_remote_does_not_have(tmp_path: Path) -> None:
    """A branch of that form that is no session's cannot be gone on with."""
    forge = FakeForge()
    said(tmp_path, "/autoresearch continue 5", forge, recorded=None)
    assert forge.acts == []
    assert "there is no session" in forge.answer


def test_a_remote_that_cannot_be_read_is_answered(tmp_path: Path) -> None:
    """The reason goes into the answer, not only into a log that nobody reads."""
    forge = FakeForge()
    log = io.StringIO()
    said(tmp_path, "/autoresearch", FakeForge())  # writes the event
    event = json.loads((tmp_path / "event.json").read_text())
    event["comment"]["body"] = "/autoresearch stop"
    (tmp_path / "event.json").write_text(json.dumps(event))

    def unreachable(tag: str) -> History | None:
        raise GitError("the remote cannot be reached", hint="later")

    environ = {"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}
    assert answer_comment(Console(io.StringIO(), log), environ, forge, unreachable) == 0
    assert "the remote cannot be reached (later)" in forge.answer


def test_without_the_workflows_name_nothing_is_started(tmp_path: Path) -> None:
    """GITHUB_WORKFLOW_REF is the runner's; without it the answer says so."""
    said(tmp_path, "/autoresearch continue 1", FakeForge())
    environ = {"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}
    forge = FakeForge()
    answer_comment(Console(io.StringIO(), io.StringIO()), environ, forge, lambda tag: night())
    assert forge.acts == []
    assert "GITHUB&#95;WORKFLOW&#95;REF" in forge.answer or "GITHUB_WORKFLOW_REF" in forge.answer


@pytest.mark.parametrize("text", ["", "do it", "continue", "merge --admin", "drop main", "continue 20 @everybody"])
def test_what_is_not_understood_gets_the_list(tmp_path: Path, text: str) -> None:
    """A confused reaction, and everything that can be said; nothing of the comment is repeated."""
    forge = FakeForge()
    said(tmp_path, f"/autoresearch {text}", forge)
    assert forge.acts == []
    assert forge.reactions == ["eyes", "confused"]
    for example in ("continue 20", "drop a1b2c3d", "verify 5", "merge squash", "stop", "report"):
        assert f"- `/autoresearch {example}`" in forge.answer
    for word in ("everybody", "--admin", "do it", "drop main"):
        assert word not in forge.answer


def test_a_comment_that_is_gone_is_answered_without_a_reaction(tmp_path: Path) -> None:
    """A reaction is a courtesy: what was asked for is done and told without one."""
    forge = FakeForge(refuses={"react": "Not Found"})
    log = said(tmp_path, "/autoresearch continue 1", forge)
    assert "no reaction to the comment: Not Found" in log
    assert [method for method, *_ in forge.done] == ["dispatch", "comment"]


def test_an_answer_that_cannot_be_given_fails_the_job(tmp_path: Path) -> None:
    """Otherwise nobody would know."""
    with pytest.raises(ForgeError):
        said(tmp_path, "/autoresearch continue 1", FakeForge(refuses={"comment": "not accessible"}))


@pytest.mark.parametrize("text", ["null", "{}", '{"comment": {}}', "[" * 100_000, "\xff", '{"comment": 1, "issue": 2}'])
def test_an_event_that_is_none(tmp_path: Path, text: str) -> None:
    """The runner's file is checked as well: exit code 2, never a traceback."""
    path = tmp_path / "event.json"
    path.write_text(text, encoding="latin-1")
    forge = FakeForge()
    console = Console(io.StringIO(), io.StringIO())
    for environ in (
        {"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_EVENT_PATH": str(path)},
        {"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_EVENT_PATH": str(tmp_path / "missing.json")},
        {"GITHUB_EVENT_NAME": "issue_comment"},
        {"GITHUB_EVENT_NAME": "push"},
        {},
    ):
        with pytest.raises(SettingsError):
            answer_comment(console, environ, forge, lambda tag: night())
    assert forge.done == []


@given(body=st.text(max_size=300) | st.text(max_size=80).map(lambda text: f"/autoresearch {text}"))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_answer_is_a_request(tmp_path: Path, body: str) -> None:
    """Whatever is said, no answer begins with the command, mentions anybody, or is long."""
    forge = FakeForge()
    said(tmp_path, body, forge)
    for method, *rest in forge.done:
        if method == "comment":
            assert rest[1].startswith(("Sorry", "Started", "Not done", "Stopping", "Merged"))
            assert "@" not in rest[1]
            assert len(rest[1]) < 3000
