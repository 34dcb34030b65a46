"""A session's commits and refs: what the loop relies on."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from autoresearch_ci.errors import GitError, MachineError, SettingsError
from autoresearch_ci.experiment import Status
from autoresearch_ci.workspace import Remote, Standing, Workspace, inspect_repository
from autoresearch_ci.workspace.clone import remove_tree
from tests.forge.fixtures import Checkout
from tests.integration.conftest import BOT, SCRIPT, history_of

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH
HEAD, STATE = "refs/heads/autoresearch/nov22", "refs/autoresearch/nov22"
Open = Callable[..., Workspace]
PR_SET_DUMPABLE = 4  # linux/prctl.h


def refs_in(folder: Path) -> dict[str, str]:
    done = subprocess.run(
        [
            "git",
            "-C",
            folder,
            "for-each-ref",
            "--format=%(refname) %(objectname)",
            "refs/heads/autoresearch",
            "refs/autoresearch",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def show(folder: Path, what: str) -> str:
    return subprocess.run(
        ["git", "-C", folder, "show", what], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_a_session_in_the_users_repository(repository: Checkout, open_workspace: Open) -> None:
    """Keeps move the branch, the others get refs of their own, the journal is a commit; the checkout stays."""
    workspace = open_workspace()
    base = workspace.base_commit
    assert workspace.compare() is Standing.ABSENT
    better = workspace.commit(base, "LR = 0.2\n", "LR 0.1 → 0.2\n\nwhy")
    worse = workspace.commit(better, "LR = 0.3\n", "LR 0.2 → 0.3")
    assert refs_in(repository.path) == {}
    workspace.record(
        history_of([(base, KEEP), (better, KEEP)], base=base), {"results.tsv": b"two\n", "logs/00/0.log": b"a"}
    )
    assert workspace.push()
    workspace.record(
        history_of([(base, KEEP), (better, KEEP), (worse, DISCARD)], base=base),
        {"results.tsv": b"three\n", "logs/00/2.log": b"b"},
    )
    assert workspace.push()
    assert workspace.push()
    refs = refs_in(repository.path)
    assert refs == refs_in(workspace.clone)
    assert refs[HEAD] == better == workspace.tip
    assert refs[f"{STATE}/experiments/0002"] == worse
    assert set(refs) == {HEAD, f"{STATE}/experiments/0002", f"{STATE}/journal"}
    files = workspace.journal_files()
    assert files == {"results.tsv": b"three\n", "logs/00/0.log": b"a", "logs/00/2.log": b"b"}
    assert workspace.journal_files("results.tsv", "absent") == {"results.tsv": b"three\n"}
    assert repository.git("rev-list", "--count", f"{STATE}/journal") == "2"
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("log", "-1", "--format=%an %cn %s", better) == "a bot a bot LR 0.1 → 0.2"
    repository.git("fsck", "--strict", "--no-dangling")


def test_a_candidate_is_the_base_with_one_file_changed(repository: Checkout, open_workspace: Open) -> None:
    """A candidate's tree is the base commit's with one blob replaced, mode kept, whatever its parent holds."""
    repository.git("update-index", "--chmod=+x", "train.py")
    repository.git("commit", "--quiet", "-m", "executable")
    workspace = open_workspace()
    stray = repository.commit("data/prepare.py", "READY = False\n", "somebody's")
    candidate = workspace.commit(stray, "LR = 0.5\n", "half")
    changed = repository.git("-C", str(workspace.clone), "diff-tree", "-r", workspace.base_commit, candidate).split()
    assert changed[0] == ":100755"
    assert changed[1] == "100755"
    assert changed[-1] == "train.py"
    assert len(changed) == 6
    assert workspace.script(candidate) == "LR = 0.5\n"
    assert open_workspace().script(candidate) == "LR = 0.5\n"
    assert workspace.script(workspace.base_commit) == SCRIPT


def test_a_script_in_a_nested_folder(repository: Checkout, tmp_path: Path) -> None:
    """A nested script is replaced where it is; its neighbours stay."""
    repository.commit("src/model/train.py", SCRIPT, "nested")
    repository.commit("src/model.py", "SIBLING = 1\n", "a name that sorts differently as file and as folder")
    checkout = inspect_repository(repository.path, "src/model/train.py")
    workspace = Workspace.open(tmp_path / "s", checkout, tag="t", remote=Remote(url=str(repository.path)), author=BOT)
    candidate = workspace.commit(workspace.base_commit, "LR = 7\n", "seven")
    with workspace.export(candidate) as tree:
        assert (tree / "src/model/train.py").read_text() == "LR = 7\n"
        assert (tree / "src/model.py").read_text() == "SIBLING = 1\n"
    repository.git("-C", str(workspace.clone), "fsck", "--strict")


def test_text_goes_through_unchanged(open_workspace: Open) -> None:
    """Line ends, a byte order mark and a missing last newline survive; bad characters stop nothing."""
    workspace = open_workspace()
    text = "\ufeffA = 1\r\nB = 'é'\rC = 3"
    commit = workspace.commit(workspace.base_commit, text, "odd \udc80 message\0")
    assert open_workspace().script(commit) == text


def test_an_export_is_exact(repository: Checkout, open_workspace: Open) -> None:
    """An export holds every file byte for byte, with modes and symlinks: no filter, no export-ignore."""
    (repository.path / ".gitattributes").write_text(
        "*.txt text eol=crlf\n*.bin filter=lfs\nhidden export-ignore\n*.id ident\n"
    )
    (repository.path / "a.txt").write_bytes(b"one\ntwo\n")
    (repository.path / "b.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (repository.path / "c.id").write_text("$Id$\n")
    (repository.path / "hidden").write_text("here\n")
    (repository.path / "link").symlink_to("a.txt")
    (repository.path / "run.sh").write_text("#!/bin/sh\n")
    (repository.path / "run.sh").chmod(0o755)
    repository.git("add", "--all")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{repository.git('rev-parse', 'HEAD')},module")
    repository.git("commit", "--quiet", "-m", "everything")
    repository.git("config", "filter.lfs.smudge", "touch planted; cat")
    workspace = open_workspace()
    with workspace.export(workspace.base_commit) as tree:
        assert (tree / "a.txt").read_bytes() == b"one\ntwo\n"
        assert (tree / "b.bin").read_bytes().startswith(b"version https://git-lfs")
        assert (tree / "c.id").read_text() == "$Id$\n"
        assert (tree / "hidden").exists()
        assert (tree / "link").readlink() == Path("a.txt")
        assert os.access(tree / "run.sh", os.X_OK)
        assert list((tree / "module").iterdir()) == []
        assert not (tree / ".git").exists()
        assert not (tree / "planted").exists()
        assert [entry.name for entry in tree.parent.iterdir()] == ["tree"]
    assert not tree.parent.exists()


def test_an_export_goes_away_on_every_path(open_workspace: Open, tmp_path: Path) -> None:
    """The scratch folder is removed after an error too; what a link in it points to is left alone."""
    workspace = open_workspace()
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    export = workspace.export(workspace.base_commit)
    tree = export.__enter__()
    (tree / "locked" / "deeper").mkdir(parents=True)
    (tree / "locked" / "link").symlink_to(outside)
    (tree / "locked" / "deeper").chmod(0)
    (tree / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    error = KeyError()
    assert not export.__exit__(KeyError, error, None)
    assert not tree.parent.exists()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o750


def test_folders_without_permissions_are_removed() -> None:
    """A folder is removed although the script took away its own right to look into it."""
    if sys.platform == "win32":
        pytest.skip("no such permissions")
    folder = Path(tempfile.mkdtemp())
    (folder / "locked" / "deeper").mkdir(parents=True)
    (folder / "locked" / "deeper" / "file").write_text("x")
    (folder / "locked" / "link").symlink_to("/")
    for path in (folder / "locked" / "deeper", folder / "locked", folder):
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        path.chmod(0)
    with as_nobody() if os.geteuid() == 0 else nullcontext():  # permissions mean nothing to root
        remove_tree(folder)
        left = sorted(folder.rglob("*"))
    assert left == []


@contextmanager
def as_nobody() -> Iterator[None]:
    """Another user for a while. Linux makes a process unreadable whose user changes, also when it changes back: that is undone."""
    if sys.platform == "win32":
        raise NotImplementedError
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def test_left_over_scratch_folders_are_reaped(open_workspace: Open, tmp_path: Path) -> None:
    """Opening removes the scratch of dead processes and leaves that of live ones."""
    workspace = open_workspace()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(timeout=60)
    for name in (f"{dead.pid}-1", f"{os.getppid()}-1", "nonsense"):
        (tmp_path / "state" / "scratch" / name).mkdir()
    open_workspace()
    assert [entry.name for entry in (tmp_path / "state" / "scratch").iterdir()] == [f"{os.getppid()}-1"]
    with pytest.raises(GitError, match="cannot export"), workspace.export("0" * 40):
        pytest.fail("there is no such commit")


def test_record_is_idempotent(open_workspace: Open) -> None:
    """The same history and files, recorded again by this or another process, change nothing."""
    workspace = open_workspace()
    base = workspace.base_commit
    crashed = workspace.commit(base, "LR = 1\n", "one")
    history = history_of([(base, KEEP), (crashed, CRASH)], base=base)
    files = {"journal.jsonl": b"{}\n", "logs/00/1.log": b"boom"}
    workspace.record(history, files)
    before = refs_in(workspace.clone)
    workspace.record(history, files)
    again = open_workspace(clock=lambda: 2e9)
    again.record(history, files)
    again.record(history, {})
    assert refs_in(workspace.clone) == before


@pytest.mark.parametrize("killed", ["before anything", "after the objects", "in the ref transaction"])
def test_a_kill_between_objects_and_refs(open_workspace: Open, repository: Checkout, killed: str) -> None:
    """After a kill at any point, recording the journaled history again ends in the state of a session never killed."""
    workspace = open_workspace()
    base = workspace.base_commit
    workspace.record(history_of([(base, KEEP)], base=base), {"journal.jsonl": b"0\n"})
    kept = workspace.commit(base, "LR = 2\n", "two")
    lost = workspace.commit(kept, "LR = 3\n", "three")
    history = history_of([(base, KEEP), (kept, KEEP), (lost, DISCARD)], base=base)
    if killed == "after the objects":
        workspace._journal_tree.put("journal.jsonl", b"0\n1\n2\n")
        workspace._write_commit(workspace._journal_tree.write(), "", "never referred to")
    if killed == "in the ref transaction":
        (workspace.clone / f"{HEAD}.lock").write_text(kept)
        (workspace.clone / "packed-refs.lock").write_text("")
        (repository.path / ".git" / f"{HEAD}.lock").parent.mkdir(parents=True)
        (repository.path / ".git" / f"{HEAD}.lock").write_text("")
        (workspace.clone / "objects" / kept[:2] / "tmp_obj_half").write_text("half")
    survivor = open_workspace()
    survivor.record(history, {"journal.jsonl": b"0\n1\n2\n"})
    assert survivor.push()
    assert refs_in(repository.path) == refs_in(survivor.clone)
    assert refs_in(survivor.clone)[HEAD] == kept
    assert refs_in(survivor.clone)[f"{STATE}/experiments/0002"] == lost
    assert survivor.journal_files() == {"journal.jsonl": b"0\n1\n2\n"}
    assert list(survivor.clone.glob("objects/??/tmp_obj_*")) == []


@pytest.mark.parametrize("folder", ["repository.git", "repository.new"])
def test_a_half_made_clone_is_made_again(open_workspace: Open, tmp_path: Path, folder: str) -> None:
    """A clone that was cut off while it was made is made again."""
    (tmp_path / "state" / folder / "objects").mkdir(parents=True)
    workspace = open_workspace()
    assert workspace.script(workspace.base_commit) == SCRIPT
    assert not (tmp_path / "state" / "repository.new").exists()


def test_a_damaged_clone_is_never_thrown_away(open_workspace: Open) -> None:
    """A clone that git cannot read is an error, since it may hold experiments that were not pushed."""
    workspace = open_workspace()
    (workspace.clone / "HEAD").write_text("")
    with pytest.raises(GitError, match="damaged"):
        open_workspace()
    assert (workspace.clone / "objects").exists()


def test_sha256_repositories(tmp_path: Path, repository: Checkout) -> None:
    """A repository with SHA-256 names works as any other."""
    modern = Checkout(tmp_path / "modern", repository.environment)
    modern.path.mkdir()
    modern.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    modern.commit("train.py", SCRIPT, "train")
    checkout = inspect_repository(modern.path, "train.py")
    workspace = Workspace.open(tmp_path / "s", checkout, tag="nov22", remote=Remote(url=str(modern.path)), author=BOT)
    commit = workspace.commit(workspace.base_commit, "LR = 1\n", "one")
    workspace.record(
        history_of([(workspace.base_commit, KEEP), (commit, KEEP)], base=workspace.base_commit), {"a": b"b"}
    )
    assert workspace.push()
    assert len(refs_in(modern.path)[HEAD]) == 64
    modern.git("fsck", "--strict")


def test_objects_are_shared_through_a_checkout_that_shares(repository: Checkout, tmp_path: Path) -> None:
    """A checkout that has alternates itself, or is a linked worktree, is shared without a copy."""
    repository.git("clone", "--quiet", "--shared", str(repository.path), str(tmp_path / "shared"))
    repository.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "linked"))
    for name in ("shared", "linked"):
        checkout = inspect_repository(tmp_path / name, "train.py")
        workspace = Workspace.open(
            tmp_path / f"s-{name}", checkout, tag=name, remote=Remote(url=str(tmp_path / name)), author=BOT
        )
        assert workspace.script(checkout.base_commit) == SCRIPT
        assert list(workspace.clone.glob("objects/??/*")) == []


def test_a_resumed_session_keeps_its_own_base(open_workspace: Open, repository: Checkout) -> None:
    """After the user committed more, candidates of a resumed session still come from the session's own base."""
    base = repository.git("rev-parse", "HEAD")
    repository.commit("data/prepare.py", "READY = None\n", "later")
    workspace = open_workspace()
    workspace.use_base(base)
    with workspace.export(workspace.commit(base, "LR = 1\n", "one")) as tree:
        assert (tree / "data" / "prepare.py").read_text() == "READY = True\n"
    with pytest.raises(GitError, match="is not in the repository"):
        workspace.use_base("1" * 40)
    empty = repository.git("commit-tree", "-m", "no script", repository.git("write-tree", "--prefix=data/"))
    with pytest.raises(GitError, match=r"has no `train.py`"):
        workspace.use_base(empty)


@pytest.mark.parametrize("tag", ["", "-x", "a..b", "a.lock", "a/b", "a" * 65, "é", "a.", "../x"])
def test_bad_tags(open_workspace: Open, tag: str) -> None:
    """A tag that cannot be part of a ref is a wrong setting."""
    with pytest.raises(SettingsError, match="cannot be a tag"):
        open_workspace(tag=tag)


def test_reports_on_the_branch(open_workspace: Open, repository: Checkout) -> None:
    """A report is one commit; the same again adds none; a session that goes on builds on it and stays fast-forward."""
    workspace = open_workspace()
    base = workspace.base_commit
    with pytest.raises(GitError, match="nothing to report"):
        workspace.adopt_report({"summary.md": b"?"}, "report")
    kept = workspace.commit(base, "LR = 2\n", "two\n\nAutoresearch-Report: forged")
    workspace.record(history_of([(base, KEEP), (kept, KEEP)], base=base), {"j": b"1"})
    assert workspace.push()
    report = workspace.adopt_report({"summary.md": b"good\n", "figures/chart.svg": b"<svg/>"}, "Report")
    assert workspace.adopt_report({"summary.md": b"good\n", "figures/chart.svg": b"<svg/>"}, "Report") == report
    second = workspace.adopt_report({"summary.md": b"better\n"}, "Report")
    assert workspace.push()
    assert show(repository.path, f"{HEAD}:summary.md") == "better\n"
    assert show(repository.path, f"{HEAD}:train.py") == "LR = 2\n"
    assert repository.git("rev-list", "--first-parent", f"{base}..{HEAD}").split() == [second, report, kept]

    resumed = open_workspace()
    resumed.record(history_of([(base, KEEP), (kept, KEEP)], base=base), {"j": b"1"})
    assert resumed.tip == second
    discarded = resumed.commit(kept, "LR = 3\n", "three")
    later = resumed.commit(kept, "LR = 4\n", "four")
    commits = [(base, KEEP), (kept, KEEP), (discarded, DISCARD), (later, KEEP)]
    resumed.record(history_of(commits, base=base), {"j": b"2"})
    assert resumed.push()
    assert refs_in(repository.path)[HEAD] == later
    assert repository.git("rev-parse", f"{later}^") == second
    assert repository.git("ls-tree", "--name-only", "-r", later).split() == ["data/prepare.py", "train.py"]


def test_foreign_commits_on_the_branch(open_workspace: Open) -> None:
    """Recording refuses a branch that holds commits which the journal does not know."""
    workspace = open_workspace()
    base = workspace.base_commit
    workspace.record(history_of([(base, KEEP)], base=base), {})
    kept = workspace.commit(base, "LR = 2\n", "two")
    stray = workspace.commit(base, "LR = 3\n", "three")
    workspace.record(history_of([(base, KEEP), (kept, KEEP)], base=base), {})
    with pytest.raises(GitError, match="does not know"):
        open_workspace().record(history_of([(base, KEEP), (stray, KEEP)], base=base), {})


def test_refs_changed_behind_our_back(open_workspace: Open, repository: Checkout) -> None:
    """A ref that somebody moved in the clone is an error, not overwritten."""
    workspace = open_workspace()
    base = workspace.base_commit
    workspace.record(history_of([(base, KEEP)], base=base), {})
    kept = workspace.commit(base, "LR = 2\n", "two")
    repository.git("-C", str(workspace.clone), "update-ref", HEAD, kept)
    with pytest.raises(GitError, match="cannot be moved"):
        workspace.record(history_of([(base, KEEP), (workspace.commit(base, "LR = 3\n", "3"), KEEP)], base=base), {})


def test_a_baseline_that_failed(open_workspace: Open, repository: Checkout) -> None:
    """A session without any keep has no branch, only the refs of its experiments and its journal."""
    workspace = open_workspace()
    workspace.record(history_of([(workspace.base_commit, CRASH)], base=workspace.base_commit), {"j": b"1"})
    assert workspace.push()
    assert set(refs_in(repository.path)) == {f"{STATE}/experiments/0000", f"{STATE}/journal"}
    assert workspace.compare() is Standing.EQUAL
    assert workspace.tip == ""


def test_reading_for_reports(open_workspace: Open) -> None:
    """A report can show the script's difference between two commits, and read files of the base commit."""
    workspace = open_workspace()
    commit = workspace.commit(workspace.base_commit, SCRIPT.replace("0.1", "0.2"), "two")
    assert "-LR = 0.1\n+LR = 0.2\n" in workspace.diff(workspace.base_commit, commit)
    assert workspace.read_base("data/prepare.py") == b"READY = True\n"
    assert workspace.read_base("absent") is None


def test_many_experiments(open_workspace: Open, repository: Checkout) -> None:
    """Hundreds of refs that were never pushed go in one push, and refs are packed on both sides."""
    workspace = open_workspace()
    base = workspace.base_commit
    commits = [(base, KEEP), *((workspace.commit(base, f"LR = {n}\n", f"{n}"), DISCARD) for n in range(1, 151))]
    workspace.record(history_of(commits, base=base), {"j": b"1"})
    assert workspace.push()
    assert refs_in(repository.path) == refs_in(workspace.clone)
    assert len(refs_in(repository.path)) == 152
    for folder in (workspace.clone, repository.path / ".git"):
        assert "experiments/0100" in (folder / "packed-refs").read_text()


def test_objects_are_valid_and_durable_files(open_workspace: Open) -> None:
    """An object is a read-only zlib file under the name git gives it."""
    workspace = open_workspace()
    commit = workspace.commit(workspace.base_commit, "LR = 1\n", "one")
    path = workspace.clone / "objects" / commit[:2] / commit[2:]
    assert zlib.decompress(path.read_bytes()).startswith(b"commit ")
    assert not path.stat().st_mode & stat.S_IWUSR


def test_a_state_folder_that_cannot_be_written(open_workspace: Open, tmp_path: Path) -> None:
    """A full or read-only disk ends in a machine error with a hint, and no half-written object stays."""
    workspace = open_workspace()
    base = workspace.base_commit
    workspace.record(history_of([(base, KEEP)], base=base), {})
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # EFBIG: the nearest to a full disk without being root
    try:
        with pytest.raises(MachineError, match="cannot write"):
            workspace.commit(base, os.urandom(20_000).hex(), "big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(workspace.clone.glob("objects/??/tmp_obj_*")) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="cannot write"):
        open_workspace("file/state")
