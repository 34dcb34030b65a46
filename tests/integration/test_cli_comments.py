"""A decision by comment, from GitHub's event to what the pull request says of it: two jobs on two machines, and a forge over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.git import git
from tests.forge.objects import BOT
from tests.forge.server import Forge

ROOT = str(Path(__file__).parents[2])
WORKFLOW = """\
on:
  workflow_dispatch:
    inputs:
      tag: {type: string}
      task: {type: string}
  issue_comment: {types: [created]}
"""
SETTINGS = """\
time-budget = "20s"
metric = "val_bpb"
direction = "minimize"
executor = "native"
allow-native = true
proposer = "queue"
plan = "plan.txt"
forge = "github"
"""
PLAN = "LEARNING_RATE=0.08\nDROPOUT=0.05\nWIDTH=128\n"


@dataclass
class Night:
    """A session of two keeps on the forge, whose machine is gone, and its pull request."""

    forge: Forge
    checkout: Checkout
    folder: Path
    number: int = 1

    def run(
        self, machine: str, *arguments: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The program on a machine of that name: what one machine keeps, another does not have."""
        home = self.folder / machine
        home.mkdir(exist_ok=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AUTORESEARCH_", "GITHUB_", "GH_", "GIT_", "RUNNER_", "ACTIONS_"))
        }
        environment |= dict(self.checkout.environment) | {
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "AUTORESEARCH_CACHE": str(home / "cache"),
            "PYTHONPATH": ROOT,
            "GITHUB_API_URL": self.forge.api_url,
            "GITHUB_SERVER_URL": self.forge.server_url,
            "GITHUB_REPOSITORY": self.forge.full_name,
            "GITHUB_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "autoresearch_ci", *arguments],
            cwd=cwd or self.checkout.path, env=environment | variables, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        said = (done.stdout + done.stderr).replace(f"::add-mask::{TOKEN}", "")
        assert TOKEN not in said
        assert "Traceback" not in said
        return done

    def comment(self, body: str, login: str = "ada", **event: object) -> subprocess.CompletedProcess[str]:
        """Somebody comments on the pull request, and GitHub starts the job for it, on a machine without a checkout."""
        identity = self.forge.api.issues.say(self.number, login, body)
        kind = "Bot" if login.endswith("[bot]") else "User"
        content = {
            "action": "created",
            "comment": {"id": identity, "body": body, "user": {"login": login, "type": kind}},
            "issue": {"number": self.number, "state": self.forge.api.pulls[self.number]["state"], "pull_request": {}},
            **event,
        }
        folder = self.folder / f"job-{identity}"
        folder.mkdir()
        (folder / "event.json").write_text(json.dumps(content), encoding="utf-8")
        return self.run(
            folder.name,
            "task",
            cwd=folder,
            GITHUB_ACTIONS="true",
            GITHUB_EVENT_NAME="issue_comment",
            GITHUB_EVENT_PATH=str(folder / "event.json"),
            GITHUB_WORKFLOW_REF=f"{self.forge.full_name}/.github/workflows/night.yml@refs/heads/main",
            AUTORESEARCH_TASK="comment",
        )

    def dispatched(self, machine: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The last dispatch's job, on a machine of its own with a new clone."""
        given = self.forge.api.actions.dispatches[-1]
        assert (given.workflow, given.ref) == ("night.yml", "main")
        path = self.folder / f"clone-of-{machine}"
        self.checkout.git("clone", "--quiet", self.forge.clone_url, str(path))
        inputs = {f"AUTORESEARCH_{name.upper()}": str(value) for name, value in given.inputs.items()}
        return self.run(machine, "task", cwd=path, GITHUB_RUN_ID="9001", **inputs, **variables)

    @property
    def said(self) -> list[str]:
        """What was said on the pull request by us."""
        return [c.body for c in self.forge.api.issues.comments.values() if c.number == self.number and c.login == BOT]

    @property
    def reactions(self) -> list[str]:
        """Ours to the last comment of a person."""
        *_, last = (c for c in self.forge.api.issues.comments.values() if c.login != BOT)
        return [content for _, content in last.reactions]

    def kept(self) -> list[str]:
        """The hashes of the keeps, the first one first."""
        found = git(self.forge.repository, "log", "--reverse", "--format=%H %s", "main..autoresearch/night")
        return [line.split()[0] for line in found.splitlines() if " exp: " in line]


@pytest.fixture
def night(forge: Forge, checkout: Checkout, tmp_path: Path) -> Night:
    """Two experiments, both kept, and a pull request; `ada` may write here, `eve` may not."""
    for name, text in ((".github/workflows/night.yml", WORKFLOW), ("autoresearch.toml", SETTINGS), ("plan.txt", PLAN)):
        checkout.commit(name, text, name)
    checkout.git("push", "--quiet", "origin", "main")
    forge.api.permissions |= {"ada": "write", "eve": "read"}
    night = Night(forge, checkout, tmp_path)
    done = night.run("first", "run", "--tag", "night", "--max-iterations", "2")
    assert done.returncode == 0, done.stderr
    assert list(forge.api.pulls) == [night.number]
    assert len(night.kept()) == 2
    return night


def writes(forge: Forge) -> Mapping[str, int]:
    return {write: forge.writes.count(write) for write in forge.writes}


def test_who_may_not_write_is_not_heard(night: Night) -> None:
    """No write on GitHub and exit code 0, whoever it is and whatever is asked; an answer of ours starts nothing either."""
    before = writes(night.forge)
    for body, login in (
        ("/autoresearch merge squash", "eve"),
        ("/autoresearch merge squash", "stranger"),
        ("/autoresearch merge squash", "github-actions[bot]"),
        ("what a night", "ada"),
        ("I would say\n/autoresearch merge squash", "ada"),
    ):
        night.forge.api.permissions["stranger"] = "none"
        done = night.comment(body, login)
        assert done.returncode == 0, done.stderr
        assert "ignored: " in done.stderr
    assert night.comment("/autoresearch merge squash", action="edited").returncode == 0
    night.forge.api.forks[night.number] = "eve/research"
    assert "of a fork" in night.comment("/autoresearch merge squash").stderr
    assert writes(night.forge) == before
    assert git(night.forge.repository, "rev-parse", "main") == night.checkout.git("rev-parse", "main")


def test_continue_by_comment(night: Night) -> None:
    """The comment is seen, answered and dispatched; the job on another machine makes the experiment and tells what came of it."""
    done = night.comment("/autoresearch continue 1\nand thank you")
    assert done.returncode == 0, done.stderr
    assert night.reactions == ["eyes", "rocket"]
    assert night.said[0].startswith("Started: 1 more experiment, after the 2 that are done.")
    assert night.forge.api.actions.dispatches[-1].inputs == {"tag": "night", "task": "continue 1 #1"}

    job = night.dispatched("second")
    assert job.returncode == 0, job.stderr
    assert len(night.kept()) == 3
    assert night.said[1].startswith(
        f"`continue 1` ([run]({night.forge.server_url}/octo/research/actions/runs/9001)) done: "
    )
    assert "1 more experiment, 1 of them kept" in night.said[1]
    assert list(night.forge.api.pulls) == [1]
    assert "3 of 3 kept" in night.forge.api.pulls[1]["title"]


def test_drop_by_comment(night: Night) -> None:
    """A new branch with a pull request of its own, measured against the base; the first pull request tells where it is."""
    first, second = night.kept()
    assert night.comment(f"/autoresearch drop {'0' * 7}").returncode == 0
    assert night.reactions == ["eyes", "confused"]
    assert "has no commit" in night.said[0]
    assert night.comment(f"/autoresearch drop {second[:10]}").returncode == 0
    job = night.dispatched("second")
    assert job.returncode == 0, job.stderr
    branch = f"autoresearch/night-without-{second[:7]}"
    pull = night.forge.api.pulls[2]
    assert (pull["head"], pull["draft"]) == (branch, False)
    assert pull["title"].startswith("val_bpb gain 0.1")
    assert "gain over the base 0.1" in pull["body"]
    assert f"`{branch}`, 1 of 2 kept commits, gain over the base 0.1" in night.said[-1]
    assert "/pull/2" in night.said[-1]
    assert night.kept() == [first, second]


def test_verify_that_cannot_be_made(night: Night) -> None:
    """The dispatched job fails with its exit code, and the pull request says why."""
    assert night.comment("/autoresearch verify 2").returncode == 0
    job = night.dispatched("second", AUTORESEARCH_EXECUTOR="container", DOCKER_HOST="unix:///nowhere.sock")
    assert job.returncode == 4, job.stderr
    assert night.said[1].startswith("`verify 2` ([run](")
    assert " failed: " in night.said[1]
    again = night.dispatched("third")
    assert again.returncode == 0, again.stderr
    assert "2 runs of each" in night.said[2]
    assert "2 runs of each" in night.forge.api.pulls[1]["title"]


def test_report_and_stop_by_comment(night: Night) -> None:
    """The report needs no place for runs, and is made whether it can be told or not; stop cancels the run that the journal names."""
    run = night.forge.api.actions.start_run("night.yml")
    _as_of_run(night, f"{night.forge.server_url}/octo/research/actions/runs/{run}")
    assert night.comment("/autoresearch stop").returncode == 0
    assert night.forge.api.actions.runs[run]["conclusion"] == "cancelled"
    assert night.said[-1].startswith("Stopping")
    assert night.comment("/autoresearch stop").returncode == 0
    assert night.said[-1].startswith("Nothing to stop")
    by_hand = night.run("shell", "task", "stop", "--tag", "night")
    assert by_hand.returncode == 0, by_hand.stderr
    assert "Nothing to stop" in by_hand.stderr
    assert night.comment("/autoresearch report").returncode == 0
    job = night.dispatched("second", AUTORESEARCH_EXECUTOR="container", DOCKER_HOST="unix:///nowhere.sock")
    assert job.returncode == 0, job.stderr
    assert "platform:" not in job.stderr
    assert "done: autoresearch/night" in night.said[-1]
    told = len(night.said)
    night.forge.fail_next("POST", r"/issues/1/comments$", 403, {"message": "Resource not accessible by integration"})
    untold = night.dispatched("third", AUTORESEARCH_EXECUTOR="container", DOCKER_HOST="unix:///nowhere.sock")
    assert untold.returncode == 0, untold.stderr
    assert "the outcome could not be told on #1" in untold.stderr
    assert len(night.said) == told


def test_merge_by_comment(night: Night) -> None:
    """Only when a person says so and GitHub agrees: a refusal is quoted, a merge is told, and what is merged is over."""
    night.forge.fail_next("PUT", r"/pulls/1/merge$", 405, {"message": 'Required status check "tests" is expected.'})
    assert night.comment("/autoresearch merge squash").returncode == 0
    assert "Required status check" in night.said[-1]
    assert night.reactions == ["eyes", "confused"]
    before = git(night.forge.repository, "rev-parse", "main")
    assert before == night.checkout.git("rev-parse", "main")
    night.forge.fail_next("PUT", r"/pulls/1/merge$", 405, {"message": "Pull Request is still a draft"})
    by_hand = night.run("shell", "task", "merge", "squash", "--tag", "night")
    assert by_hand.returncode == 7, by_hand.stderr
    assert "still a draft" in by_hand.stderr
    assert night.comment("/autoresearch merge squash").returncode == 0
    merged = git(night.forge.repository, "rev-parse", "main")
    assert night.said[-1] == f"Merged (squash): {merged}"
    assert "LEARNING_RATE = 0.08" in git(night.forge.repository, "show", "main:train.py")
    again = night.run("shell", "task", "merge", "squash", "--tag", "night")
    assert again.returncode == 2, again.stderr
    assert "not open" in again.stderr
    assert night.comment("/autoresearch continue 5").returncode == 0
    assert "not open" in night.said[-1]
    assert night.forge.api.actions.dispatches == []


def test_status_from_anywhere(night: Night, tmp_path: Path) -> None:
    """Without a checkout, and without a token where the repository is public; without a tag it is the latest session."""
    empty = tmp_path / "empty"
    empty.mkdir()
    night.forge.api.private = False
    without = {"GITHUB_TOKEN": "", "GITHUB_REPOSITORY": "", "GITHUB_API_URL": ""}
    done = night.run("elsewhere", "status", "--repo", "octo/research", "--tag", "night", cwd=empty, **without)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## AutoResearch Progress")
    latest = night.run("elsewhere", "status", "--repo", "octo/research", "--json", cwd=empty, **without)
    found = json.loads(latest.stdout)
    assert (found["tag"], found["experiments"], found["kept"]) == ("night", 2, 2)
    night.forge.api.private = True
    hidden = night.run("elsewhere", "status", "--repo", "octo/research", cwd=empty, **without)
    assert hidden.returncode == 6, hidden.stdout
    shown = night.run("elsewhere", "status", "--repo", "octo/research", cwd=empty)
    assert shown.returncode == 0, shown.stderr
    for arguments, says in (
        (("--repo", "octo"), "`owner/name`"),
        (("--repo", "https://github.com/o/r"), "`owner/name`"),
        (("--repo", "octo/research", "--tag", "day"), "no session `day`"),
    ):
        refused = night.run("elsewhere", "status", *arguments, cwd=empty)
        assert refused.returncode == 2, refused.stderr
        assert says in refused.stderr


def _as_of_run(night: Night, url: str) -> None:
    """The session's journal as one that a job with this page wrote."""
    repository, ref, name = night.forge.repository, "refs/autoresearch/night/journal", "journal/0000.jsonl"
    lines = [json.loads(line) for line in git(repository, "show", f"{ref}:{name}").splitlines()]
    for line in lines:
        if line["type"] == "session":
            line["run_url"] = url
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    blob = git(repository, "hash-object", "-w", "--stdin", text=text)
    inner = git(repository, "ls-tree", f"{ref}:journal").splitlines()
    changed = [f"100644 blob {blob}\t0000.jsonl" if row.endswith("\t0000.jsonl") else row for row in inner]
    folder = git(repository, "mktree", text="\n".join(changed) + "\n")
    outer = git(repository, "ls-tree", ref).splitlines()
    tree = git(
        repository, "mktree", text="\n".join(f"040000 tree {folder}\tjournal" if row.endswith("\tjournal") else row for row in outer) + "\n"
    )  # fmt: skip
    commit = git(repository, "commit-tree", tree, "-p", ref, "-m", "a run's page")
    git(repository, "update-ref", ref, commit)
