"""What the walls of native runs are told: the arguments of bubblewrap, its filter of system calls, the profile of sandbox-exec."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors import seccomp
from autoresearch_ci.executors.bubblewrap import Bubblewrap
from autoresearch_ci.executors.confinement import Confinement, NoWall, python_folders, read_only_entries
from autoresearch_ci.executors.seatbelt import PROGRAM, Seatbelt, profile, quoted

PYTHON = Path("/opt/python")


@pytest.fixture
def confinement(tmp_path: Path) -> Confinement:
    """A run in the folder `sub` of an export with four entries."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for name in ("train.py", "sub/prepare.py", 'odd "name\\.py'):
        (tree / name).touch()
    (tree / "link").symlink_to("/etc/passwd")
    (tmp_path / "scratch").mkdir()
    return Confinement(
        scratch=tmp_path / "scratch",
        program=PYTHON / "bin/python",
        tree=tree,
        directory="sub",
        cache=tmp_path / "cache",
    )


def pairs(arguments: list[str], option: str) -> list[str]:
    """The first value of each such option."""
    return [arguments[at + 1] for at, word in enumerate(arguments) if word == option]


def test_bubblewrap_takes_everything_away_first(confinement: Confinement) -> None:
    """All namespaces, no capability, nobody's uid, gone with the program; the whole root read-only at the end."""
    arguments = Bubblewrap("/usr/bin/bwrap", (PYTHON,)).arguments(confinement)
    for option in ("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"):
        assert option in arguments
    assert pairs(arguments, "--cap-drop") == ["ALL"]
    assert pairs(arguments, "--uid") == ["65532"]
    assert "--share-net" not in arguments
    assert {"/proc", "/dev", "/"} <= set(pairs(arguments, "--remount-ro"))
    assert arguments[-1] == "--"


def test_bubblewrap_binds_what_a_run_may_write_and_no_more(confinement: Confinement) -> None:
    """Its scratch and its export, whose entries lie read-only over themselves; the cache and the Python read-only."""
    tree, scratch = confinement.tree, confinement.scratch
    assert tree is not None
    arguments = Bubblewrap("/usr/bin/bwrap", (PYTHON,)).arguments(confinement)
    assert pairs(arguments, "--bind") == [
        str(path) for path in (scratch / "home", scratch / "tmp", scratch / "outputs", tree)
    ]
    read_only = pairs(arguments, "--ro-bind")
    assert {str(PYTHON), str(confinement.cache), str(tree / "train.py"), str(tree / "sub/prepare.py")} <= set(read_only)
    assert str(tree / "sub") not in read_only  # new files may lie there
    assert str(tree / "link") not in read_only
    assert arguments.index(str(tree)) < arguments.index(str(tree / "train.py"))
    assert pairs(arguments, "--chdir") == [str(tree / "sub")]
    assert not [path for path in read_only if path.startswith(("/home", "/root", "/var", "/run"))]


def test_bubblewrap_lets_prepare_have_the_network_and_the_cache(confinement: Confinement) -> None:
    """The one command that fetches; given outputs are read-only."""
    arguments = Bubblewrap("/usr/bin/bwrap", (PYTHON,)).arguments(replace(confinement, preparing=True))
    assert "--share-net" in arguments
    assert str(confinement.cache) in pairs(arguments, "--bind")
    assert "/etc/resolv.conf" in arguments
    arguments = Bubblewrap("/usr/bin/bwrap", (PYTHON,)).arguments(replace(confinement, given=True))
    assert str(confinement.scratch / "outputs") in pairs(arguments, "--ro-bind")
    assert str(confinement.scratch / "outputs") not in pairs(arguments, "--bind")


def test_bubblewrap_uses_what_newer_versions_have(confinement: Confinement) -> None:
    """Sizes of its tmpfs and an end to user namespaces, where `--help` names them; older versions refuse unknown options."""
    old = Bubblewrap("/usr/bin/bwrap", (PYTHON,)).arguments(confinement)
    new = Bubblewrap("/usr/bin/bwrap", (PYTHON,), frozenset({"--size", "--disable-userns"})).arguments(confinement)
    assert {"--size", "--disable-userns"} & set(old) == set()
    assert {"--size", "--disable-userns"} <= set(new)


@pytest.mark.parametrize(
    ("machine", "architecture", "keyctl", "socket"),
    [("x86_64", 0xC000003E, 250, 41), ("aarch64", 0xC00000B7, 219, 198)],
)
def test_the_filter_refuses_and_allows(machine: str, architecture: int, keyctl: int, socket: int) -> None:
    """Run as the kernel would: key rings, foreign architectures and sockets to the hypervisor are refused, others are not."""
    allowed, refused, missing = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    assert evaluate(machine, architecture, keyctl) == refused
    assert evaluate(machine, architecture, socket, 40) == refused
    assert evaluate(machine, architecture, socket, 38) == refused
    assert evaluate(machine, architecture, socket, 2) == allowed
    assert evaluate(machine, architecture, 0, 40) == allowed
    assert evaluate(machine, architecture, 0x40000000) == refused
    assert evaluate(machine, 0x40000003, 0) == missing
    assert seccomp.program("riscv64") == b""


def evaluate(machine: str, architecture: int, number: int, argument: int = 0) -> int:
    """What the filter returns for a call: the four instructions that it uses, as filter(7) of BSD defines them."""
    data = struct.pack("<IIQQ", number, architecture, 0, argument)
    steps = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def test_the_profile_of_a_run(confinement: Confinement) -> None:
    """No network, no home but what is needed of it, writes to the scratch and beside the script; the commit's files last."""
    home, tree = confinement.scratch.parent, confinement.tree
    assert tree is not None
    lines = profile(home, (PYTHON,), confinement).splitlines()
    assert lines[:2] == ["(version 1)", "(allow default)"]
    assert "(deny network*)" in lines
    assert "(deny file-write*)" in lines
    assert f"(deny file-read* (subpath {quoted(home)}))" in lines
    writes = next(line for line in lines if line.startswith("(allow file-write* (subpath"))
    for folder in ("home", "tmp", "outputs"):
        assert f"(subpath {quoted(confinement.scratch / folder)})" in writes
    assert str(confinement.cache) not in writes
    kept = next(line for line in lines if line.startswith("(deny file-write* (subpath"))
    assert lines.index(kept) > lines.index(writes)  # the last rule that matches decides
    assert quoted(tree / "train.py") in kept
    assert quoted(tree / "sub/prepare.py") in kept
    assert f"(subpath {quoted(tree / 'sub')})" not in kept


def test_the_profile_of_prepare_and_of_an_evaluation(confinement: Confinement) -> None:
    """`prepare` has the network and writes the cache; an evaluation does not write what was given."""
    preparing = profile(Path("/Users/me"), (), replace(confinement, preparing=True))
    assert "(deny network*)" not in preparing
    writes = next(line for line in preparing.splitlines() if line.startswith("(allow file-write* (subpath"))
    assert f"(subpath {quoted(confinement.scratch.parent / 'cache')})" in writes
    evaluating = profile(Path("/Users/me"), (), replace(confinement, given=True))
    outputs = quoted(confinement.scratch / "outputs")
    assert not [line for line in evaluating.splitlines() if line.startswith("(allow file-write*") and outputs in line]


def test_the_profile_is_one_argument(confinement: Confinement) -> None:
    """No shell and no file stands between it and `sandbox-exec`, and no process of its own before the command."""
    wall = Seatbelt(Path("/Users/me"), (PYTHON,))
    arguments = wall.arguments(confinement)
    assert arguments[:2] == [PROGRAM, "-p"]
    assert len(arguments) == 3
    assert not wall.leads
    assert wall.says.startswith("sandbox-exec: no network")


@given(st.text(st.characters(exclude_characters="\0/"), min_size=1))
def test_a_path_stays_one_string_of_the_profile(name: str) -> None:
    """Whatever is in a name, Scheme reads the same name back, and nothing behind it."""
    text = quoted(Path("/", name))
    inner, escaped, read = text[1:-1], False, ""
    for character in inner:
        if not escaped and character == "\\":
            escaped = True
            continue
        assert escaped or character != '"'
        read, escaped = read + character, False
    assert not escaped
    assert read == str(Path("/", name))


def test_no_wall_is_nothing_before_the_command(confinement: Confinement) -> None:
    """And says why there is none."""
    wall = NoWall("it rains")
    assert wall.arguments(confinement) == []
    assert wall.says == "none: it rains"


def test_the_entries_of_an_export_end_at_the_working_directory(confinement: Confinement) -> None:
    """Everything beside the way to it, and everything in it, but no links."""
    assert confinement.tree is not None
    found = [str(path.relative_to(confinement.tree)) for path in read_only_entries(confinement.tree, "sub")]
    assert found == ['odd "name\\.py', "train.py", "sub/prepare.py"]


def test_a_python_that_does_not_say_where_it_is(tmp_path: Path) -> None:
    """Something else by that name is told as a broken installation."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho hello\n")
    python.chmod(0o755)
    with pytest.raises(MachineError, match="does not say where"):
        python_folders(python, {})
