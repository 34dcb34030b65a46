from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.local import LocalForge
from autoresearch_ci.forges.pull_request import Operation, PullRequest, PullStanding, PullState


def publish(
    forge: LocalForge,
    body: str = "the report",
    branch: str = "autoresearch/nov22",
    attachments: Mapping[str, bytes | str] | None = None,
) -> PullRequest:
    return forge.publish(
        branch=branch,
        base="main",
        title="val_bpb 1.0 → 0.9",
        body=body,
        draft=True,
        labels=("autoresearch",),
        attachments=attachments or {},
    )


def test_a_pull_request_is_a_folder_with_text_page_and_files(tmp_path: Path) -> None:
    """The text names title, branches and report; every attachment lies beside it; the URL opens the page."""
    forge = LocalForge(tmp_path / "repository", tmp_path / "pull-requests")
    result = publish(forge, attachments={"pull-request.html": "<p>ü</p>", "images/chart.svg": b"<svg/>"})
    folder = tmp_path / "pull-requests" / "nov22"
    assert result == PullRequest(number=None, url=(folder / "pull-request.html").as_uri(), operation=Operation.CREATED)
    text = (folder / "pull-request.md").read_text(encoding="utf-8")
    assert text.startswith("# val_bpb 1.0 → 0.9\n")
    assert "`autoresearch/nov22` → `main` · draft · autoresearch" in text
    assert text.endswith("the report\n")
    assert (folder / "pull-request.html").read_text(encoding="utf-8") == "<p>ü</p>"
    assert (folder / "images" / "chart.svg").read_bytes() == b"<svg/>"
    assert sorted(path.name for path in folder.iterdir()) == ["images", "pull-request.html", "pull-request.md"]


def test_publishing_again_updates_the_same_folder(tmp_path: Path) -> None:
    """The second time it is an update, with the new text; without a page the URL is that of the text."""
    forge = LocalForge(tmp_path, tmp_path / "pull-requests")
    publish(forge)
    result = publish(forge, body="a newer report")
    text = tmp_path / "pull-requests" / "nov22" / "pull-request.md"
    assert result == PullRequest(number=None, url=text.as_uri(), operation=Operation.UPDATED)
    assert text.read_text(encoding="utf-8").endswith("a newer report\n")


@pytest.mark.parametrize(
    ("branch", "folder"), [("autoresearch/a/b", "a-b"), ("feature/ü x", "feature-x"), ("autoresearch/..", "branch")]
)
def test_a_branch_gives_a_harmless_folder_name(tmp_path: Path, branch: str, folder: str) -> None:
    """No branch name leads out of the folder of pull requests."""
    publish(LocalForge(tmp_path, tmp_path / "pull-requests"), branch=branch)
    assert [path.name for path in (tmp_path / "pull-requests").iterdir()] == [folder]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\b", "c:evil", ""])
def test_an_attachment_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    """A name that leads elsewhere is refused."""
    with pytest.raises(ForgeError, match="is not a name for a file"):
        publish(LocalForge(tmp_path, tmp_path / "pull-requests"), attachments={name: "x"})


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A file where the folder should be ends in one line and a hint, exit code 7."""
    (tmp_path / "pull-requests").write_text("in the way")
    with pytest.raises(ForgeError, match="cannot be written") as caught:
        publish(LocalForge(tmp_path, tmp_path / "pull-requests"))
    assert caught.value.exit_code == 7
    assert "autoresearch-ci finalize" in caught.value.hint


def test_a_write_that_fails_leaves_no_part_behind(tmp_path: Path) -> None:
    """When a file cannot take its place (a folder is there), no temporary file stays."""
    folder = tmp_path / "pull-requests" / "nov22"
    (folder / "chart.svg" / "in-the-way").mkdir(parents=True)
    with pytest.raises(ForgeError, match="cannot be written"):
        publish(LocalForge(tmp_path, tmp_path / "pull-requests"), attachments={"chart.svg": "<svg/>"})
    assert [path.name for path in folder.iterdir()] == ["chart.svg"]


def test_git_pushes_to_the_users_repository(tmp_path: Path) -> None:
    """The remote of a local session is the repository itself, as an absolute path."""
    assert LocalForge(tmp_path / "x" / "..", tmp_path).remote_url == str(tmp_path)


def test_a_folder_is_open_from_the_first_publication_on(tmp_path: Path) -> None:
    """With the page that shows it; nothing here closes it, and there is nothing to keep secret or to count."""
    forge = LocalForge(tmp_path / "repository", tmp_path / "pull-requests")
    assert forge.standing("autoresearch/nov22") == PullStanding(state=PullState.NONE)
    publish(forge)
    text = tmp_path / "pull-requests" / "nov22" / "pull-request.md"
    assert forge.standing("autoresearch/nov22") == PullStanding(state=PullState.OPEN, url=text.as_uri())
    result = publish(forge, attachments={"pull-request.html": "<p>"})
    assert forge.within(1.0).standing("autoresearch/nov22").url == result.url
    forge.set_status("0" * 40, state="success", description="3 kept")
    assert (forge.secrets(), forge.token_hours, forge.requests.total) == ((), None, 0)


def test_a_note_goes_before_the_report(tmp_path: Path) -> None:
    """As on GitHub; reviewers and assignees are nobody's here."""
    forge = LocalForge(tmp_path / "repository", tmp_path / "pull-requests")
    forge.publish(
        branch="autoresearch/nov22", base="main", title="t", body="the report", draft=False, labels=(), attachments={},
        reviewers=("ada",), assignees=("ada",), note="A person pushed to the branch.",
    )  # fmt: skip
    text = (tmp_path / "pull-requests" / "nov22" / "pull-request.md").read_text(encoding="utf-8")
    assert text.endswith("A person pushed to the branch.\n\nthe report\n")
    assert "ada" not in text


@pytest.mark.parametrize(
    "ask",
    [
        lambda forge: forge.pull_head(1),
        lambda forge: forge.comment(1, "x"),
        lambda forge: forge.react(1, "eyes"),
        lambda forge: forge.dispatch("autoresearch.yml", "main", {}),
        lambda forge: forge.run_status(1),
        lambda forge: forge.cancel_run(1),
        lambda forge: forge.merge_pull(1, method="squash"),
    ],
)
def test_a_folder_has_nobody_to_ask(tmp_path: Path, ask: Callable[[LocalForge], object]) -> None:
    """What needs a server says so, with what to do."""
    with pytest.raises(ForgeError, match="no server to ask") as caught:
        ask(LocalForge(tmp_path, tmp_path))
    assert "--forge github" in caught.value.hint
