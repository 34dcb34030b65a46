"""What crosses from an outputs folder that a hostile script filled."""

from __future__ import annotations

import io
import os
import socket
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors import outputs
from autoresearch_ci.executors.outputs import from_folder, from_tar

if sys.platform == "win32":
    pytest.skip("a folder's outputs are not taken over here", allow_module_level=True)

BAD_NAMES = [
    "new\nline",
    "tab\t",
    "'quote'",
    '"',
    "`id`",
    "--option",
    "back\\slash",
    "\x1b[31m",
    "x" * 201,
    "\u202eexe",
]
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def cut(data: bytes, size: int = 700) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def files(folder: Path) -> dict[str, bytes]:
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_regular_files_of_a_tar_are_taken_over(target: Path) -> None:
    """Files come with their content and their folders, an empty folder does not, and there is nothing to note."""
    folders = [member("outputs", kind=tarfile.DIRTYPE), member("outputs/empty", kind=tarfile.DIRTYPE)]
    data = tar([*folders, member("outputs/a.txt", b"a" * 3000), member("outputs/deep/er/b", b"b"), member("outputs/c")])
    assert from_tar(cut(data), target) == ""
    assert files(target) == {"a.txt": b"a" * 3000, "deep/er/b": b"b", "c": b""}
    assert not (target / "empty").exists()


def test_what_is_no_regular_file_in_a_tar_is_left_out(target: Path, tmp_path: Path) -> None:
    """Symbolic and hard links, pipes and devices do not cross, nor what is written through a link's name."""
    outside = tmp_path / "outside"
    outside.mkdir()
    data = tar(
        [
            member("outputs/link", kind=tarfile.SYMTYPE, link=str(outside)),
            member("outputs/link/planted", b"x"),
            member("outputs/hard", kind=tarfile.LNKTYPE, link="/etc/passwd"),
            member("outputs/fifo", kind=tarfile.FIFOTYPE),
            member("outputs/null", kind=tarfile.CHRTYPE),
            member("outputs/disk", kind=tarfile.BLKTYPE),
        ]
    )
    assert from_tar(cut(data), target) == "left out 5 × no regular file"
    assert files(target) == {"link/planted": b"x"}
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", [*BAD_NAMES, "..", "../../up", "a//b", "/".join("abcdefghi"), "a/../b"])
def test_a_name_that_is_not_plain_is_left_out(target: Path, name: str) -> None:
    """A name that climbs, splits lines, quotes, hides or looks like an option does not cross, as file or as folder."""
    data = tar([member(f"outputs/{name}", b"x"), member(f"outputs/{name}", kind=tarfile.DIRTYPE)])
    assert from_tar([data], target).startswith("left out ")
    assert list(target.rglob("*")) == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_an_absolute_name_stays_inside(target: Path) -> None:
    """The first part of a name is the outputs folder, whatever it says, so that no path starts at the root."""
    assert from_tar([tar([member("/planted", b"x")])], target) == ""
    assert files(target) == {"planted": b"x"}


def test_too_many_files_are_left_out(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last file that is wanted the tar is not read further."""
    monkeypatch.setattr(outputs, "MAX_FILES", 3)
    chunks = iter(cut(tar(member(f"outputs/{n}", b"x") for n in range(2000)), 65536))
    assert from_tar(chunks, target) == "left out 1 × all after too many files"
    assert sorted(files(target)) == ["0", "1", "2"]
    assert sum(len(chunk) for chunk in chunks) > 2**20


def test_too_many_entries_end_the_reading(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links and folders without end are not looked at without end."""
    monkeypatch.setattr(outputs, "MAX_ENTRIES", 5)
    links = [member(f"outputs/{n}", kind=tarfile.SYMTYPE, link="x") for n in range(3)]
    folders = [member(f"outputs/f{n}", kind=tarfile.DIRTYPE) for n in range(3)]
    note = from_tar([tar([*links, *folders, member("outputs/late", b"x")])], target)
    assert note == "left out 1 × all after too many files, 3 × no regular file"
    assert files(target) == {}


def test_files_that_are_too_large_are_left_out(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that would go beyond the cap of all is skipped, and a small one after it is taken."""
    monkeypatch.setattr(outputs, "MAX_BYTES", 5000)
    data = tar([member("outputs/1", b"x" * 3000), member("outputs/2", b"x" * 3000), member("outputs/3", b"x" * 2000)])
    assert from_tar(cut(data), target) == "left out 1 × too large"
    assert {name: len(content) for name, content in files(target).items()} == {"1": 3000, "3": 2000}


def test_a_stream_without_end_is_left(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large is not read to its end when that is far: a sparse file of a terabyte costs nothing."""
    monkeypatch.setattr(outputs, "MAX_STREAM_BYTES", 2**20)
    info, _ = member("outputs/sparse")
    info.size = 2**40
    header, zeros, read = info.tobuf(tarfile.GNU_FORMAT), bytes(65536), 0

    def endless() -> Iterable[bytes]:
        nonlocal read
        yield tar([member("outputs/first", b"x")])[:1024] + header
        while True:
            read += len(zeros)
            yield zeros

    assert from_tar(endless(), target) == "left out 1 × all after too many bytes, 1 × too large"
    assert files(target) == {"first": b"x"}
    assert read <= 2**20 + 2 * len(zeros)


@pytest.mark.parametrize("data", [b"no tar" * 200, tar([member("outputs/a", b"x" * 3000)])[:2000]])
def test_a_broken_tar_is_told(target: Path, data: bytes) -> None:
    """A tar that is none, or that breaks off in a file, leaves no half of a file and ends no session."""
    assert from_tar([data], target) == "left out 1 × all after a break"
    assert files(target) == {}


def test_a_folder_that_cannot_be_written_is_a_machine_error(tmp_path: Path) -> None:
    """A disk that refuses is the machine's trouble, not the script's."""
    with pytest.raises(MachineError, match="cannot be written") as caught:
        from_tar([tar([member("outputs/a", b"x")])], tmp_path / ("too long a name" * 30))
    assert str(tmp_path) in caught.value.hint


@given(names=st.lists(NAMES, max_size=8), content=st.binary(max_size=2000))
@settings(max_examples=200, deadline=None)
def test_no_name_leaves_the_folder(names: list[str], content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the entries are called, what is written lies inside the folder, and nothing else is raised."""
    root = tmp_path_factory.mktemp("names")
    (root / "target").mkdir()
    note = from_tar(cut(tar(member(f"outputs/{name}", content) for name in names)), root / "target")
    assert note.isprintable()
    assert [path.name for path in root.iterdir()] == ["target"]
    assert all(found == content for found in files(root / "target").values())


@given(data=st.binary(max_size=3000))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_reading(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Random bytes, alone or after a valid header, are at most a note."""
    header = tar([member("outputs/a", b"x" * 700)])[:1024]
    for stream in (data, header + data):
        assert from_tar(cut(stream), tmp_path_factory.mktemp("bytes")).isprintable()


def test_regular_files_of_a_folder_are_taken_over(source: Path, target: Path) -> None:
    """Files come with their content and their folders."""
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "b").write_bytes(b"b")
    (source / "a.txt").write_bytes(b"a" * 300_000)
    assert from_folder(source, target) == ""
    assert files(target) == {"a.txt": b"a" * 300_000, "deep/er/b": b"b"}


def test_what_is_no_regular_file_in_a_folder_is_left_out(source: Path, target: Path, tmp_path: Path) -> None:
    """Links to files and folders of the machine, hard links, pipes and sockets do not cross, and none is waited for."""
    secret = tmp_path / "secret"
    secret.write_text("token")
    (source / "link").symlink_to(secret)
    (source / "folder").symlink_to(tmp_path)
    (source / "passwd").symlink_to("/etc/passwd")
    (source / "null").symlink_to("/dev/zero")
    (source / "hard").hardlink_to(secret)
    os.mkfifo(source / "fifo")
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(source)  # a socket's path has 108 characters
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    (source / "kept").write_bytes(b"x")
    assert from_folder(source, target) == "left out 7 × no regular file"
    assert files(target) == {"kept": b"x"}


def test_names_in_a_folder_are_checked_too(source: Path, target: Path) -> None:
    """Names that are not plain, of files and folders, do not cross, nor what lies too deep."""
    for name in ("new\nline", "--option", "'"):
        (source / name).write_bytes(b"x")
    (source / "tab\t").mkdir()
    (source / "tab\t" / "inside").write_bytes(b"x")
    deep = source.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "i").write_bytes(b"x")
    assert from_folder(source, target) == "left out 4 × no plain name, 1 × no regular file"
    assert files(target) == {}


def test_a_folder_is_not_read_without_end(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many files the first are taken, of too many entries the first are looked at, in whatever folders they lie."""
    monkeypatch.setattr(outputs, "MAX_ENTRIES", 4)
    for name in ("a/1", "a/2", "a/3", "b/4"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    assert from_folder(source, target) == "left out 1 × all after too many files"
    assert sorted(files(target)) == ["a/1", "a/2", "a/3"]


def test_a_sparse_file_does_not_cross(source: Path, target: Path) -> None:
    """A file of 100 GB that takes no room costs none here either."""
    with (source / "sparse").open("wb") as file:
        file.truncate(100 * 2**30)
    assert from_folder(source, target) == "left out 1 × too large"
    assert files(target) == {}


def test_what_cannot_be_read_is_left_out(source: Path, target: Path) -> None:
    """A file without rights, and a folder that is gone, are counted and not raised."""
    if os.geteuid() != 0:
        (source / "closed").write_bytes(b"x")
        (source / "closed").chmod(0)
        assert from_folder(source, target) == "left out 1 × not readable"
    assert from_folder(source / "gone", target) == "left out 1 × all: the folder is gone"


def test_an_outputs_folder_that_became_a_link_is_not_followed(source: Path, target: Path, tmp_path: Path) -> None:
    """A script that puts a link in the place of its outputs folder gives nothing away."""
    (tmp_path / "replaced").symlink_to(source)
    (source / "secret").write_bytes(b"token")
    assert from_folder(tmp_path / "replaced", target) == "left out 1 × all: the folder is gone"
    assert files(target) == {}


def test_files_that_this_file_system_takes_for_one_are_one(target: Path) -> None:
    """A second file under a name that is taken does not replace the first, nor a file a folder."""
    data = tar([member("outputs/a", b"first"), member("outputs/a", b"second"), member("outputs/a/b", b"third")])
    assert from_tar(cut(data), target) == "left out 2 × a name twice"
    assert files(target) == {"a": b"first"}
