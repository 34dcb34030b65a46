"""The test forge itself: what the sessions' git, the client's tests and the checks of the descriptions rely on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.forge.client import BRANCH, at, publish
from tests.forge.fixtures import TOKEN, Checkout, git_environment
from tests.forge.server import Forge


def test_git_pushes_and_clones_with_the_token_in_the_environment(
    forge: Forge, checkout: Checkout, tmp_path: Path
) -> None:
    """An atomic push of a branch and of refs outside refs/heads arrives; a big one too, which git sends in chunks."""
    sha = checkout.commit("weights.bin", "0123456789abcdef" * 8, "small")
    big = b"".join(index.to_bytes(4, "big") for index in range(700_000))
    (checkout.path / "big.bin").write_bytes(big)
    checkout.git("add", "big.bin")
    checkout.git("-c", "core.compression=0", "commit", "--quiet", "-m", "big")
    checkout.git(
        "push", "--quiet", "--atomic", "origin", f"HEAD:refs/heads/{BRANCH}", f"{sha}:refs/autoresearch/x/journal"
    )
    listed = checkout.git("ls-remote", "origin")
    assert f"{sha}\trefs/autoresearch/x/journal" in listed
    checkout.git("clone", "--quiet", "--branch", BRANCH, forge.clone_url, str(tmp_path / "again"))
    assert (tmp_path / "again" / "big.bin").read_bytes() == big


@pytest.mark.parametrize("token", ["", "ghs_WrongTokenOfSomebody"])
def test_git_is_refused_without_the_token(forge: Forge, checkout: Checkout, tmp_path: Path, token: str) -> None:
    """Neither reading nor pushing works, and git does not ask a person."""
    environment = git_environment(forge.server_url, token, home=tmp_path)
    for command in (("ls-remote", "origin"), ("push", "origin", "main:refs/heads/other")):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            checkout.git(*command, environment=environment)
        assert caught.value.returncode == 128
        assert "Authentication failed" in caught.value.stderr or "could not read" in caught.value.stderr


def test_a_push_that_is_refused_once_is_not_lost(forge: Forge, checkout: Checkout) -> None:
    """Faults reach git as well: a 503 fails the push; dropped after it took effect, the ref has moved all the same."""
    sha = checkout.git("rev-parse", "main")
    forge.fail_next("POST", "git-receive-pack", 503)
    with pytest.raises(subprocess.CalledProcessError):
        checkout.git("push", "origin", f"main:refs/heads/{BRANCH}")
    forge.fail_next("POST", "git-receive-pack", None, after=True)
    with pytest.raises(subprocess.CalledProcessError):
        checkout.git("push", "origin", f"main:refs/heads/{BRANCH}")
    assert f"{sha}\trefs/heads/{BRANCH}" in checkout.git("ls-remote", "origin")


def test_a_request_that_github_does_not_describe_is_a_violation(tmp_path: Path) -> None:
    """The check of the descriptions can fail: wrong path, wrong query, wrong body, missing body, no such operation."""
    with Forge(tmp_path / "forge", tokens=frozenset({TOKEN})) as forge:
        for method, path, body in (
            ("GET", "/repos/octo/research/nothing", None),
            ("GET", "/repos/octo/research/pulls?state=new&hed=x&page=one", None),
            ("POST", "/repos/octo/research/pulls", b'{"base": "main", "titel": 1}'),
            ("POST", "/repos/octo/research/labels", None),
            ("GET", "/user", b"{}"),
            ("GET", "/repos/octo/research/pulls/1/files", None),
        ):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            request = Request(f"{forge.api_url}{path}", data=body, method=method, headers=headers)
            try:
                urlopen(request, timeout=10).close()
            except HTTPError as error:
                error.close()
        found = "\n".join(forge.violations)
    for expected in (
        "not in GitHub's API description",
        "'new' is not one of",
        "unknown query parameter `hed`",
        "'one' is not of type 'integer'",
        "'head' is a required property",
        "unknown property `titel`",
        "needs a body",
        "takes no body",
        "status 501 is not described",
    ):
        assert expected in found


# What it can do to a client.


def test_a_protected_branch_refuses_a_push_in_githubs_words(forge: Forge, checkout: Checkout) -> None:
    """The reason is there in full; with an atomic push nothing else moves either; other branches go on."""
    checkout.push_branch(BRANCH)
    before = checkout.git("ls-remote", "origin")
    forge.protect(BRANCH)
    checkout.commit("train.py", "WIDTH = 1\n", "another")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        checkout.git("push", "--atomic", "origin", f"HEAD:{BRANCH}", "HEAD:refs/autoresearch/x/journal")
    assert f"error: GH006: Protected branch update failed for refs/heads/{BRANCH}." in caught.value.stderr
    assert "(protected branch hook declined)" in caught.value.stderr
    assert checkout.git("ls-remote", "origin") == before
    checkout.git("push", "--quiet", "origin", "HEAD:refs/heads/autoresearch/other")


def test_spoilt_requests_are_a_mix_that_a_seed_decides(forge: Forge, checkout: Checkout) -> None:
    """All kinds of fault occur, on REST and on git; none of them at rate 0."""
    forge.spoil(1.0, seed=1)
    for _ in range(60):
        with pytest.raises((HTTPError, OSError)):
            urlopen(Request(f"{forge.api_url}/user", headers={"Authorization": f"Bearer {TOKEN}"}), timeout=10).close()
    with pytest.raises(subprocess.CalledProcessError):
        checkout.git("ls-remote", "origin")
    kinds = {line.split(": ", 1)[1] for line in forge.spoilt}
    assert kinds == {"500", "502", "502 after it took effect", "dropped", "dropped after it took effect", "429", "403"}
    assert any("info/refs" in line for line in forge.spoilt)
    forge.spoil(0.0, seed=1)
    checkout.git("ls-remote", "origin")


@pytest.mark.parametrize("method", ["squash", "rebase", "merge"])
def test_a_merge_is_a_real_one(forge: Forge, checkout: Checkout, method: str) -> None:
    """The base has the branch's lines and its own newer ones, in one commit, in the branch's commits, or in a merge."""
    checkout.push_branch(BRANCH)
    checkout.push_branch(BRANCH, BRANCH, text="LEARNING_RATE = 0.2\n")
    publish(at(forge))
    checkout.git("checkout", "--quiet", "main")
    checkout.commit("README.md", "# Newer\n", "meanwhile")
    checkout.git("push", "--quiet", "origin", "main")
    merged = at(forge).merge_pull(1, method=method)  # type: ignore[arg-type]
    checkout.git("fetch", "--quiet", "origin", "main")
    assert checkout.git("rev-parse", "FETCH_HEAD") == merged
    assert checkout.git("show", f"{merged}:train.py") == "LEARNING_RATE = 0.2"
    assert checkout.git("show", f"{merged}:README.md") == "# Newer"
    count = checkout.git("rev-list", "--count", f"main..{merged}")
    assert count == {"squash": "1", "rebase": "2", "merge": "3"}[method]
