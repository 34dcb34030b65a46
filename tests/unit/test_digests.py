"""The digests of what must not change."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_ci import digests


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {"train.py": "x", "prepare.py": "y", "data/answers/a.txt": "1", "data/b.txt": "2"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "link").symlink_to("prepare.py")
    (tmp_path / "folder").symlink_to("data")
    return tmp_path


def test_every_file_but_the_script_is_taken(tree: Path) -> None:
    """Files by their bytes, links by where they point to, in a stable order."""
    found = digests.take(tree, "train.py")
    assert list(found) == ["data/answers/a.txt", "data/b.txt", "folder", "link", "prepare.py"]
    assert found["prepare.py"] == hashlib.sha256(b"y").hexdigest()
    assert found["link"] == hashlib.sha256(b"prepare.py").hexdigest()
    assert digests.changed(tree, found) == []


@pytest.mark.parametrize("how", ["write", "remove", "link", "folder", "fifo", "same bytes by a link"])
def test_whatever_is_done_to_a_file_is_seen(tree: Path, tmp_path: Path, how: str) -> None:
    """Also what has the right content and is not the file any more; nothing is waited for."""
    before, path = digests.take(tree, "train.py"), tree / "prepare.py"
    if how == "write":
        path.write_text("z")
    else:
        path.unlink()
    if how == "link":
        path.symlink_to("/dev/zero")
    if how == "folder":
        path.mkdir()
    if how == "fifo":
        if sys.platform == "win32":
            pytest.skip("no fifos there")
        os.mkfifo(path)
    if how == "same bytes by a link":
        (tree / "elsewhere").write_text("y")
        path.symlink_to("elsewhere")
    assert digests.changed(tree, before) == ["prepare.py"]
    (tree / "train.py").write_text("the script may be anything")
    assert digests.changed(tree, before, absent=["prepare.py"]) == []


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (("data/answers",), ["data/answers/a.txt"]),
        (("data/answers/",), ["data/answers/a.txt"]),
        (("*.txt",), ["data/answers/a.txt", "data/b.txt"]),
        (("data/*/a.txt", "prepare.py"), ["data/answers/a.txt", "prepare.py"]),
        (("nothing.txt",), []),
        ((), []),
    ],
)
def test_what_only_the_evaluation_sees_is_hidden(tree: Path, patterns: tuple[str, ...], gone: list[str]) -> None:
    """By path, folder or glob; the rest stays and is still checked."""
    before = digests.take(tree, "train.py")
    assert digests.hide(tree, patterns, before) == gone
    assert not any((tree / name).exists() for name in gone)
    assert not (tree / "data/answers").exists() or "data/answers" not in patterns
    assert digests.changed(tree, before, gone) == []
    assert set(before) - set(digests.take(tree, "train.py")) == set(gone)


@pytest.mark.skipif(sys.platform == "win32", reason="no such names, no sha256sum")
def test_sha256sum_reads_what_is_written(tmp_path: Path) -> None:
    """Whatever a file is called, the standard tool checks it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("plain", "two  blanks", "new\nline", "back\\slash", "--check", "caf\udce9", "tab\t", "cr\r"):
        (tree / name).write_text(name.encode(errors="replace").decode())
    (tmp_path / "sums").write_bytes(digests.write(digests.take(tree, "train.py")))
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "../sums"], cwd=tree, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (tree / "new\nline").write_text("changed")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "../sums"], cwd=tree, capture_output=True, check=False
    )
    assert done.returncode == 1
