"""One night after another on GitHub: which session goes on, which is over, and what people see meanwhile."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import signal

import pytest

from tests.forge.git import git
from tests.forge.server import Forge
from tests.integration.test_github_app import PRIVATE, PUBLIC
from tests.project import Project, wait_for

NIGHT = ("run", "--verify-runs", "1", "--baseline-runs", "1")


def night(project: Project, *arguments: str, code: int = 0) -> str:
    """What a session of a few experiments says."""
    done = project.run(*NIGHT, *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def branches(forge: Forge) -> list[str]:
    names = git(forge.repository, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").splitlines()
    return sorted(name.removeprefix("autoresearch/") for name in names if name != "main")


def test_a_new_branch_each_night(hosted: Project, forge: Forge) -> None:
    """`nightly-{date}` begins anew with the date; the report after midnight still finds the night's session, on an empty machine too."""
    night(hosted, "--tag", "nightly-{date}", "--max-iterations", "2")
    today = f"nightly-{dt.datetime.now(dt.UTC).date().isoformat()}"
    assert branches(forge) == [today]
    shutil.rmtree(hosted.home / "state")
    done = hosted.run("finalize", "--tag", "nightly-{date}")
    assert done.returncode == 0, done.stderr
    assert branches(forge) == [today]
    assert [pull["number"] for pull in forge.api.pulls.values()] == [1]


def test_going_on_without_a_tag_is_the_latest_session(hosted: Project, forge: Forge) -> None:
    """`resume: require` on an empty machine finds the session that was last worked on, on the remote."""
    night(hosted, "--tag", "first", "--max-iterations", "1")
    night(hosted, "--tag", "second", "--max-iterations", "1")
    shutil.rmtree(hosted.home / "state")
    said = night(hosted, "--resume", "require", "--max-iterations", "3")
    assert "going on with `second` after 1 experiments" in said
    assert branches(forge) == ["first", "second"]


def test_after_a_merge_the_next_night_starts_from_the_new_base(hosted: Project, forge: Forge) -> None:
    """A merged pull request ends its session; the same tag then means the next generation, from the merged state, and so on."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    merged = forge.api.merge_pull(1, squash=True)
    hosted.git("pull", "--quiet", "--ff-only", "origin", "main")
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    assert branches(forge) == ["nightly", "nightly-2"]
    assert git(forge.repository, "merge-base", "main", "autoresearch/nightly-2") == merged
    night(hosted, "--tag", "nightly", "--max-iterations", "3")  # not merged yet: it goes on
    assert branches(forge) == ["nightly", "nightly-2"]
    assert [pull["number"] for pull in forge.api.pulls.values()] == [1, 2]


def test_a_closed_pull_request_ends_its_tag(hosted: Project, forge: Forge) -> None:
    """The night is a success that says why nothing was done, and nothing is written or trained."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    forge.api.close_pull(1)
    before = git(forge.repository, "for-each-ref")
    forge.requests.clear()
    said = night(hosted, "--tag", "nightly", "--max-iterations", "9")
    assert "Nothing to do: pull request #1 was closed by a person" in said
    assert git(forge.repository, "for-each-ref") == before
    assert not forge.writes
    assert forge.api.pulls[1]["state"] == "closed"


def test_a_session_that_has_all_it_wants_is_a_success(hosted: Project, forge: Forge) -> None:
    """With the same limit again nothing is built or trained; the pull request stays as it is."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    forge.requests.clear()
    said = night(hosted, "--tag", "nightly", "--max-iterations", "2")
    assert "Nothing to do: the maximum of 2 experiments is reached" in said
    assert "Experiment" not in said
    assert [pull["number"] for pull in forge.api.pulls.values()] == [1]


def test_a_forge_that_cannot_say_costs_no_night(hosted: Project, forge: Forge) -> None:
    """How the pull request stands is asked before the start; without an answer the session goes on with a warning."""
    forge.fail_next("GET", "/pulls", 404, {"message": "Not Found"})
    said = night(hosted, "--tag", "nightly", "--max-iterations", "1")
    assert "it could not be seen how the pull request of `nightly` stands" in said
    assert branches(forge) == ["nightly"]


def test_progress_in_a_draft(hosted: Project, forge: Forge) -> None:
    """A draft is opened at the first keep, updated with the reports, keeps what a person wrote, and is ready at the end."""
    said = night(
        hosted, "--tag", "nightly", "--max-iterations", "30", "--report-every", "2", "--progress", "pull-request",
        "--command", "sh -c 'sleep 0.6; exec python train.py'",
    )  # fmt: skip
    (pull,) = forge.api.pulls.values()
    created = next(seen for seen in forge.requests if seen.method == "POST" and seen.path.endswith("/pulls"))
    assert created.body["draft"] is True
    assert "running" in created.body["body"]
    assert not pull["draft"], said
    assert "running" not in pull["title"]
    updates = [seen for seen in forge.requests if seen.method == "PATCH" and "/pulls/" in seen.path]
    assert len(updates) >= 2
    kept = int(re.findall(r"(\d+) kept", pull["body"])[0])
    statuses = [seen for seen in forge.requests if "/statuses/" in seen.path]
    assert 1 <= len(statuses) <= kept + 1
    assert len(forge.writes) <= 2 * kept + 8  # two for each keep, and the end's
    assert f"{len(forge.requests)} requests to GitHub" in said


def test_a_person_who_ends_the_draft_ends_the_session(hosted: Project, forge: Forge) -> None:
    """Closed while the night goes on: no other one is opened, and the session stops by itself."""
    process = hosted.start(
        *NIGHT, "--tag", "nightly", "--max-iterations", "500", "--report-every", "1", "--progress", "pull-request",
        "--command", "sh -c 'sleep 0.5; exec python train.py'", log="log",
    )  # fmt: skip
    try:
        deadline = dt.datetime.now() + dt.timedelta(seconds=60)
        while not forge.api.pulls:
            assert dt.datetime.now() < deadline
        forge.api.close_pull(1)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert "a person ended pull request #1" in (hosted.home / "log").read_text()
    assert {number: pull["state"] for number, pull in forge.api.pulls.items()} == {1: "closed"}


def test_a_commit_status_is_only_a_decoration(hosted: Project, forge: Forge) -> None:
    """Where the job may not write statuses the night ends as always, with a warning."""
    refusal = {"message": "Resource not accessible by integration"}
    forge.fail_next("POST", "/statuses/", 403, refusal, times=20)
    said = night(hosted, "--tag", "nightly", "--max-iterations", "2")
    assert "the commit status could not be written" in said
    assert [pull["state"] for pull in forge.api.pulls.values()] == ["open"]


def test_the_end_has_a_status_and_a_badge(hosted: Project, forge: Forge) -> None:
    """The last commit of the branch says how it ended, and a small image for a README is beside the report."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    tip = git(forge.repository, "rev-parse", "autoresearch/nightly")
    last = [seen for seen in forge.requests if "/statuses/" in seen.path][-1]
    assert last.path.endswith(tip)
    assert last.body["state"] == "success"
    assert "val_bpb" in last.body["description"]
    assert git(forge.repository, "show", "autoresearch/nightly:autoresearch-badge.svg").startswith("<svg")


@pytest.mark.parametrize("how", ["pushed", "protected"])
def test_a_branch_that_cannot_be_pushed(hosted: Project, forge: Forge, how: str) -> None:
    """A person pushed to it, or a rule protects it: the night goes on, everything is on the remote, and one pull request tells it."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    if how == "pushed":
        hosted.git("fetch", "--quiet", "origin", "autoresearch/nightly")
        hosted.git("checkout", "--quiet", "-B", "mine", "FETCH_HEAD")
        hosted.commit({"notes.md": "a person's"}, "notes")
        hosted.git("push", "--quiet", "origin", "mine:autoresearch/nightly")
        hosted.git("checkout", "--quiet", "main")
    else:
        forge.protect("autoresearch/nightly")
    theirs = git(forge.repository, "rev-parse", "autoresearch/nightly")
    said = night(hosted, "--tag", "nightly", "--max-iterations", "5", code=6)
    assert "everything is on the remote" in said
    assert git(forge.repository, "rev-parse", "autoresearch/nightly") == theirs
    table = git(forge.repository, "show", "refs/autoresearch/nightly/branch:results.tsv").splitlines()
    assert len(table) == 5 + 2
    (pull,) = forge.api.pulls.values()
    assert pull["state"] == "open"
    assert "refs/autoresearch/nightly/branch" in pull["body"]


def test_the_successor(hosted: Project, forge: Forge) -> None:
    """Outside a job there is no workflow to start again, and that is said."""
    said = night(
        hosted, "--tag", "nightly", "--max-hours", "0.001", "--continue", "--timeout", "21",
        "--command", "sh -c 'sleep 1; exec python train.py'",
    )  # fmt: skip
    assert "`continue` starts a workflow again, and this is none" in said
    assert not forge.api.actions.dispatches


def test_a_github_app_for_a_night(hosted: Project, forge: Forge) -> None:
    """Its tokens are minted again while the session goes on, for git and for the API, and neither token nor key is left anywhere."""
    forge.api.apps.register("7", PUBLIC)
    forge.api.apps.life_s = 602.0  # renewed when ten minutes are left: every two seconds here
    del hosted.environment["GITHUB_TOKEN"]
    done = hosted.run(
        *NIGHT, "--tag", "nightly", "--max-iterations", "6", "--progress", "pull-request", "--report-every", "1",
        "--command", "sh -c 'sleep 0.6; exec python train.py'",
        AUTORESEARCH_APP_ID="7", AUTORESEARCH_APP_PRIVATE_KEY=PRIVATE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [pull["state"] for pull in forge.api.pulls.values()] == ["open"]
    minted = list(forge.api.apps.minted)
    assert len(minted) >= 2
    left = [path.read_bytes() for path in (hosted.home / "state").rglob("*") if path.is_file()]
    for secret in (*minted, *PRIVATE.splitlines()[1:3]):
        assert secret not in done.stdout + done.stderr
        assert not any(secret.encode() in data for data in left)


def test_two_jobs_at_one_session(hosted: Project, forge: Forge) -> None:
    """While a job is at work on a session, a start on another machine is refused, and a report there is shown but not pushed."""
    number = forge.api.actions.start_run()
    process = hosted.start(
        *NIGHT, "--tag", "nightly", "--max-iterations", "500", "--command", "sh -c 'sleep 0.3; exec python train.py'",
        log="log", GITHUB_RUN_ID=str(number),
    )  # fmt: skip
    elsewhere = str(hosted.home / "elsewhere")
    try:
        wait_for(lambda: "autoresearch/nightly" in git(forge.repository, "for-each-ref"))
        second = hosted.run(*NIGHT, "--tag", "nightly", "--max-iterations", "5", XDG_STATE_HOME=elsewhere)
        assert second.returncode == 6
        assert f"is running already, in {forge.server_url}/{forge.full_name}/actions/runs/{number}" in second.stderr
        report = hosted.run("task", "report", "--tag", "nightly", XDG_STATE_HOME=elsewhere)
        assert report.returncode == 0, report.stderr
        assert "which reports at its end" in report.stderr
        verify = hosted.run("task", "verify", "2", "--tag", "nightly", XDG_STATE_HOME=elsewhere)
        assert verify.returncode == 6
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    assert "not pushed any more" not in (hosted.home / "log").read_text(encoding="utf-8")
    assert [pull["state"] for pull in forge.api.pulls.values()] == ["open"]
    forge.api.actions.runs[number]["status"] = "completed"
    again = hosted.run("task", "report", "--tag", "nightly", XDG_STATE_HOME=elsewhere)
    assert again.returncode == 0, again.stderr


def test_a_report_brings_nothing_back(hosted: Project, forge: Forge) -> None:
    """After a merge that deleted the branch, a late report leaves it deleted."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2")
    forge.api.merge_pull(1, squash=True)
    git(forge.repository, "update-ref", "-d", "refs/heads/autoresearch/nightly")
    done = hosted.run("finalize", "--tag", "nightly")
    assert done.returncode == 0, done.stderr
    assert "was merged by a person" in done.stderr
    assert branches(forge) == []


def test_a_report_on_an_empty_machine(hosted: Project, forge: Forge) -> None:
    """Only analyse: without a tag it is the latest session of the remote, judged by the metric that it began with."""
    night(hosted, "--tag", "first", "--max-iterations", "1")
    night(hosted, "--tag", "second", "--max-iterations", "1", "--time-budget", "15s")
    shutil.rmtree(hosted.home / "state")
    done = hosted.run("task", "report")
    assert done.returncode == 0, done.stderr
    assert "Build" not in done.stderr
    assert "Experiment" not in done.stderr
    assert len(forge.api.pulls) == 2


def test_without_a_report_everything_is_pushed(hosted: Project, forge: Forge) -> None:
    """`--no-finalize` ends with the whole record on the remote, the reason of the end included."""
    night(hosted, "--tag", "nightly", "--max-iterations", "2", "--no-finalize")
    names = git(forge.repository, "ls-tree", "-r", "--name-only", "refs/autoresearch/nightly/journal", "--", "journal")
    last = git(forge.repository, "show", f"refs/autoresearch/nightly/journal:{names.splitlines()[-1]}")
    assert '"type": "ended"' in last
    assert not forge.api.pulls
