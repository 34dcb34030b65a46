"""Exports on their way to a node."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.executors.ray_exports import changed, content_hash, pack, unpack

if sys.platform == "win32":
    pytest.skip("links and modes", allow_module_level=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A file, a program, a link and a folder without anything."""
    tree = tmp_path / "tree"
    (tree / "data" / "empty").mkdir(parents=True)
    (tree / "train.py").write_text("print(1)\n")
    (tree / "data" / "run.sh").write_text("#!/bin/sh\n")
    (tree / "data" / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("data/run.sh")
    (tree / "far").symlink_to("/etc")
    return tree


def test_what_is_packed_comes_out(tree: Path, tmp_path: Path) -> None:
    """Files, modes, links (not followed) and empty folders."""
    copy = tmp_path / "copy"
    unpack(pack(tree), copy)
    assert (copy / "train.py").read_text() == "print(1)\n"
    assert os.access(copy / "data" / "run.sh", os.X_OK)
    assert not os.access(copy / "train.py", os.X_OK)
    assert (copy / "link").readlink() == Path("data/run.sh")
    assert (copy / "far").readlink() == Path("/etc")
    assert (copy / "data" / "empty").is_dir()
    assert changed(pack(tree), copy) == ()


def test_the_same_content_has_the_same_hash(tree: Path, tmp_path: Path) -> None:
    """Neither times nor the order of making count; a byte does."""
    copy = tmp_path / "copy"
    unpack(pack(tree), copy)
    os.utime(copy / "train.py", (1, 1))
    assert content_hash(pack(copy)) == content_hash(pack(tree))
    (copy / "train.py").write_text("print(2)\n")
    assert content_hash(pack(copy)) != content_hash(pack(tree))


def test_every_change_is_seen(tree: Path, tmp_path: Path) -> None:
    """Another content, a link instead of a file, another target, nothing at all; new files are none of ours."""
    packed, copy = pack(tree), tmp_path / "copy"
    unpack(packed, copy)
    (copy / "new.txt").write_text("x")
    assert changed(packed, copy) == ()
    (copy / "train.py").write_text("print(2)\n")
    (copy / "data" / "run.sh").unlink()
    (copy / "data" / "run.sh").symlink_to("/etc/passwd")
    (copy / "far").unlink()
    assert set(changed(packed, copy)) == {"train.py", "data/run.sh", "far"}


def test_pipes_and_sockets_stay_behind(tree: Path, tmp_path: Path) -> None:
    """Nothing that a reader would wait for is packed."""
    os.mkfifo(tree / "pipe")
    copy = tmp_path / "copy"
    unpack(pack(tree), copy)
    assert not (copy / "pipe").exists()


@given(st.dictionaries(st.from_regex(r"[a-zäß ]{1,20}", fullmatch=True), st.binary(max_size=2000), max_size=6))
def test_any_content_survives(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    """Whatever the names and the bytes."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "tree").mkdir()
    for name, content in files.items():
        (folder / "tree" / name).write_bytes(content)
    unpack(pack(folder / "tree"), folder / "copy")
    assert {path.name: path.read_bytes() for path in (folder / "copy").iterdir()} == files
