"""bubblewrap around native runs: what a run sees, what it does not, and that its absence is told."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ci.executors.native import NativeExecutor
from tests.integration.test_native import Bench
from tests.interrupts import After
from tests.project import Project

if sys.platform != "linux":
    pytest.skip("bubblewrap is Linux's", allow_module_level=True)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench whose executor has a wall."""
    return walled_bench(tmp_path)


def walled_bench(folder: Path, memory: int | None = None) -> Bench:
    """The same in `folder`; without bubblewrap the test is skipped, or fails where REQUIRE_DOCKER=1."""
    bench = Bench(folder, memory=memory)
    with bench.executor:
        says = bench.executor.wall.says
    if not says.startswith("bubblewrap:"):
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(f"REQUIRE_DOCKER=1, but the wall is {says}")
        pytest.skip(says)
    return bench


def test_a_run_finds_its_world_at_the_same_paths(bench: Bench) -> None:
    """The working directory, the cache, the home and the interpreter are where they are outside."""
    (bench.cache / "data").write_text("tokens")
    run = bench.run(
        """
        import getpass, os, pathlib, sys, tempfile
        print(pathlib.Path.cwd(), sys.executable, open(os.environ["AUTORESEARCH_CACHE"] + "/data").read())
        print(getpass.getuser(), pathlib.Path.home() == pathlib.Path(os.path.expanduser("~research")), tempfile.gettempdir())
        """
    )
    assert run.exit_code == 0, bench.text
    first, second = bench.text.splitlines()
    assert first == f"{bench.tree} {sys.executable} tokens"
    assert second.startswith(f"research True {bench.scratch}/")


def test_the_network_is_empty_and_its_loopback_works(bench: Bench) -> None:
    """A script may speak to itself over localhost, as distributed training does, and to nobody of the machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        run = bench.run(
            f"""
            import socket
            with socket.create_server(("localhost", 0)) as own:
                socket.create_connection(("localhost", own.getsockname()[1]), timeout=5).close()
                print("own loopback")
            socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5)
            """
        )
    assert run.exit_code == 1
    assert bench.text.startswith("own loopback\n")
    assert "ConnectionRefusedError" in bench.text


def test_prepare_has_the_network(bench: Bench) -> None:
    """`prepare` reaches what the user reaches."""
    with socket.create_server(("127.0.0.1", 0)) as server, bench.executor:
        script = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=5)"
        run = bench.executor.prepare(bench.request(script), After())
    assert run.exit_code == 0, bench.text


def test_files_of_the_machine_are_not_there(bench: Bench, tmp_path: Path) -> None:
    """Neither the user's home nor what lies beside the run's folders can be seen; the folders on the way are empty."""
    (tmp_path / "secret").write_text("token")
    home = Path.home()
    bench.run(
        f"""
        import os
        print(sorted(os.listdir({str(tmp_path)!r})), os.path.exists({str(tmp_path / "secret")!r}))
        print([name for name in (".ssh", ".bashrc", ".profile", ".cache", ".config") if os.path.exists({str(home)!r} + "/" + name)])
        print(os.path.exists("/run"), os.path.exists("/var"), os.path.exists("/etc/shadow"))
        """
    )
    assert bench.text.splitlines() == ["['cache', 'scratch', 'tree'] False", "[]", "False False False"]


def test_the_commits_files_cannot_be_changed_by_any_means(bench: Bench) -> None:
    """What came from the commit is a mount point: not written to, not replaced, not removed; new files lie beside it."""
    (bench.tree / "prepare.py").write_text("x = 1\n")
    (bench.tree / "data").mkdir()
    (bench.tree / "data" / "answers").write_text("42")
    bench.run(
        """
        import os, pathlib
        def attempt(function, *arguments):
            try:
                function(*arguments)
                print("managed", function.__name__, arguments)
            except OSError:
                pass
        for path in ("prepare.py", "train.py", "data/answers"):
            attempt(os.chmod, path, 0o666)
            attempt(open, path, "a")
            attempt(os.unlink, path)
            attempt(os.rename, path, "elsewhere")
            pathlib.Path("mine").write_text("x = 2")
            attempt(os.replace, "mine", path)
        attempt(os.rename, "data", "date")
        print("tried")
        """
    )
    assert bench.text == "tried\n"
    assert (bench.tree / "mine").exists()
    assert (bench.tree / "prepare.py").read_text() == "x = 1\n"


def test_a_command_in_a_folder_of_the_export_may_write_beside_itself(bench: Bench) -> None:
    """The working directory takes new files; the commit's, there and above, stay read-only."""
    (bench.tree / "sub" / "deep").mkdir(parents=True)
    (bench.tree / "sub" / "other.py").write_text("")
    script = (
        "import os\nopen('new', 'w').close()\nprint(os.access('../other.py', os.W_OK), os.access('train.py', os.W_OK))"
    )
    request = replace(bench.request(), directory="sub/deep")
    (bench.tree / "sub" / "deep" / "train.py").write_text(script)
    with bench.executor:
        bench.executor.run(request, After())
    assert bench.text == "False False\n"


def test_given_outputs_cannot_be_changed(bench: Bench, tmp_path: Path) -> None:
    """What an evaluation scores is read-only to it, even where it owns the files."""
    given = tmp_path / "given"
    given.mkdir()
    (given / "model").write_text("weights")
    script = """
    import os, pathlib
    folder = pathlib.Path(os.environ["AUTORESEARCH_OUTPUT_DIR"])
    print((folder / "model").read_text())
    for path in ("model", "more"):
        try:
            (folder / path).write_text("")
        except OSError as error:
            print(error.strerror)
    """
    with bench.executor:
        bench.executor.run(replace(bench.request(script), given=given), After())
    assert bench.text == "weights\nRead-only file system\nRead-only file system\n"


def test_the_probe_is_behind_the_wall(bench: Bench) -> None:
    """What is detected is what a run can see."""
    with bench.executor:
        assert bench.executor.probe("import os; print(os.getuid(), os.path.exists('/run'))") == "65532 False\n"


def test_a_missing_bubblewrap_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program there is no wall, and the text says why; runs go on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with NativeExecutor(scratch=tmp_path / "scratch", cache=None, memory=None, python=Path(sys.executable)) as executor:
        assert executor.wall.says == "none: bubblewrap is not installed"
        assert executor.probe("print(1)") == "1\n"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n", "No permissions to create"),
        ("no program", "Exec format error"),
    ],
)
def test_a_bubblewrap_that_does_not_work_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str
) -> None:
    """Where the kernel refuses it, as in most containers, there is no wall, and its own words say why."""
    (tmp_path / "bwrap").write_text(program)
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with NativeExecutor(scratch=tmp_path / "scratch", cache=None, memory=None, python=Path(sys.executable)) as executor:
        assert executor.wall.says.startswith("none: bubblewrap does not work here: ")
        assert why in executor.wall.says


def test_a_session_says_what_its_wall_was(project: Project, bench: Bench) -> None:
    """On the terminal when it begins, and in the journal for the reports."""
    done = project.run("run", "--tag", "night", "--max-iterations", "0")
    assert done.returncode == 0, done.stderr
    assert "runs are native" in done.stderr
    assert "bubblewrap: no network" in done.stderr
    journal = next((project.home / "state").rglob("journal.jsonl")).read_text()
    assert "bubblewrap: no network" in journal
