"""Attacks on the machine by the training script of a native run: behind bubblewrap, and where there is no wall at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from autoresearch_ci import canary, journal
from autoresearch_ci.experiment import Ending, History
from tests.forge.fixtures import TRAIN
from tests.integration.test_native import Bench
from tests.integration.test_native_wall import walled_bench
from tests.interrupts import After
from tests.project import Project

if sys.platform != "linux":
    pytest.skip("the attacks use what Linux has", allow_module_level=True)


@pytest.fixture
def walled(tmp_path: Path) -> Bench:
    return walled_bench(tmp_path)


@pytest.fixture(params=[False, True], ids=["bare", "walled"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return walled_bench(tmp_path) if request.param else Bench(tmp_path, walled=False)


def test_the_canary_gets_through_with_nothing(walled: Bench) -> None:
    """Everything that `doctor --sandbox` tries is refused by bubblewrap, as in a container."""
    (walled.tree / "prepare.py").write_text("READY = True\n")
    (walled.tree / "data").mkdir()
    (walled.tree / "data" / "answers.txt").write_text("42\n")
    (walled.cache / "tokens").write_text("x")
    run = walled.run(canary.PROGRAM, timeout_s=200)
    attempts = canary.parse(walled.text)
    assert run.exit_code == 0, walled.text
    assert len(attempts) > 40
    assert [attempt for attempt in attempts if attempt.managed is not False] == []


def test_writes_to_the_steps_files_reach_nothing(
    walled: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of GITHUB_ENV and its like are neither named to a run nor, where it guesses their paths, there."""
    files = [tmp_path / name for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH")]
    for file in files:
        file.touch()
        monkeypatch.setenv(file.name, str(file))
    walled.run(
        f"""
        import os
        print([name for name in os.environ if name.startswith(("GITHUB", "RUNNER"))])
        for path in {[str(file) for file in files]!r}:
            try:
                open(path, "a").write("LD_PRELOAD=/tmp/evil.so")
            except OSError as error:
                print(error.strerror)
        """
    )
    assert [file.read_text() for file in files] == ["", "", ""]
    assert walled.text.splitlines() == ["[]", *["Read-only file system"] * 3]


def test_a_fork_bomb_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than a run may have end it, with all of them; the wait for that is a look every 0.1 s."""
    monkeypatch.setattr("autoresearch_ci.executors.limits.MAX_PROCESSES", 100)
    before = len(psutil.pids())
    run = bench.run("import os, time\nwhile os.fork():\n    time.sleep(0.002)\ntime.sleep(100)")
    assert (run.ending, run.exit_code) == (Ending.STOPPED, None)
    assert run.stopped_because == "it started more than 100 processes"
    assert bench.survivors() == []
    assert len(psutil.pids()) < before + 60


@pytest.mark.parametrize("kept", [True, False], ids=["named", "removed but open"])
def test_a_disk_filler_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """More bytes than a run may write end it, also where no name leads to them any more; then they are gone."""
    monkeypatch.setattr("autoresearch_ci.executors.limits.MAX_DISK_BYTES", 64 * 2**20)
    run = bench.run(
        f"""
        import os, time
        folder, files = os.environ["TMPDIR"], []
        for number in range(100):
            files.append(open(folder + "/" + str(number), "wb"))
            files[-1].write(b"x" * 2**20)
            files[-1].flush()
            if not {kept}:
                os.unlink(files[-1].name)
        time.sleep(100)
        """
    )
    assert (run.ending, run.stopped_because) == (Ending.STOPPED, "it wrote more than 0.0625 GiB")
    assert list(bench.scratch.iterdir()) == []


def test_a_hundred_thousand_empty_files_are_counted_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names cost the disk as well: they are bounded like bytes, in the export too."""
    monkeypatch.setattr("autoresearch_ci.executors.limits.MAX_DISK_BYTES", 8 * 2**20)
    run = bench.run("import time\nfor n in range(4000):\n    open(str(n), 'w').close()\ntime.sleep(100)")
    assert run.ending is Ending.STOPPED


def test_a_sparse_file_is_not_made_larger_than_the_limit(bench: Bench) -> None:
    """A file of 100 GB without content is refused by the limit of a file's size, which a run cannot raise; nor are cores dumped."""
    bench.run(
        """
        import errno, os, resource
        with open(os.environ["TMPDIR"] + "/sparse", "wb") as file:
            try:
                file.truncate(100 * 2**30)
            except OSError as error:
                print(errno.errorcode[error.errno])
        print(resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_CORE))
        """
    )
    limit = 4 * 2**30
    assert bench.text.splitlines() == ["EFBIG", f"({limit}, {limit}) (0, 0)"]


def test_prepare_may_write_a_large_file(bench: Bench) -> None:
    """The data set that `prepare` fetches is not bounded."""
    script = "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY)"
    with bench.executor:
        bench.executor.prepare(bench.request(script), After())
    assert bench.text == "True\n"


def test_a_patched_clock_does_not_change_what_a_run_took(bench: Bench) -> None:
    """The wall clock that counts is ours: `time` in the script's process says nothing about it."""
    run = bench.run("import time\nreal = time.sleep\ntime.time = time.monotonic = lambda: 0.0\nreal(0.6)")
    assert 0.6 <= run.wall_s < 30


def test_a_timeout_that_is_slept_through_is_an_end(walled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignoring SIGTERM behind a wall gets its SIGKILL, and nothing that it forked lives on."""
    monkeypatch.setattr("autoresearch_ci.executors.watching.GRACE_S", 0.5)
    script = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nos.setsid\ntime.sleep(100)"
    )
    run = walled.run(script, timeout_s=1.0)
    assert run.ending is Ending.TIMEOUT
    assert walled.survivors() == []


def test_another_runs_scratch_is_out_of_reach(walled: Bench) -> None:
    """The scratch of a run that is on beside it is not there for a script that knows its path."""
    with walled.executor:
        other = walled.scratch / "nov22-0009-xxxx"
        (other / "outputs").mkdir(parents=True)
        (other / "outputs" / "model").write_text("weights")
        walled.executor.run(
            walled.request(f"import os\nprint(os.path.exists({str(other)!r}), os.listdir({str(walled.scratch)!r}))"),
            After(),
        )
    assert walled.text.startswith("False ['nov22-0001-1-")


def test_the_orchestrators_memory_and_environment_cannot_be_read(tmp_path: Path) -> None:
    """Without a wall: a script of the same user finds neither in /proc while native runs are on; afterwards all is as before."""
    script = tmp_path / "look.py"
    script.write_text(
        textwrap.dedent(
            """
            import ctypes, os, sys
            from pathlib import Path
            from autoresearch_ci.executors.process_tree import unreadable
            def look():
                reading, writing = os.pipe()
                if os.fork() == 0:
                    os.execv(sys.executable, [sys.executable, "-c", (
                        "import os\\n"
                        "for name in ('environ', 'mem'):\\n"
                        "    try:\\n"
                        "        print(name, bool(open(f'/proc/{os.getppid()}/{name}', 'rb').fileno()))\\n"
                        "    except OSError as error:\\n"
                        "        print(name, error.strerror)\\n"
                    )])
                os.wait()
            with unreadable():
                print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
                if os.getuid():
                    look()
            print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    refused = "" if os.getuid() == 0 else "environ Permission denied\nmem Permission denied\n"
    assert done.stdout == f"0\n{refused}1\n", done.stderr


def test_an_executor_is_unreadable_while_it_is_on(tmp_path: Path) -> None:
    """From its beginning to its end. In a process of its own: a test before this one may have changed the user, and so this."""
    program = textwrap.dedent(
        f"""
        import ctypes, sys
        from pathlib import Path
        from autoresearch_ci.executors.native import NativeExecutor
        def dumpable():
            return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
        scratch = Path({str(tmp_path / "s")!r})
        before = dumpable()
        with NativeExecutor(scratch=scratch, cache=None, memory=None, python=Path(sys.executable), walled=False):
            during = dumpable()
        print(before, during, dumpable())
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "1 0 1\n", done.stderr


# What follows are whole sessions whose script has the rights of the user: a `bwrap` that fails takes the wall away.


@pytest.fixture
def bare(project: Project, tmp_path: Path) -> Project:
    program = tmp_path / "bin" / "bwrap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    project.environment["PATH"] = f"{program.parent}:{project.environment['PATH']}"
    return project


def night(project: Project, code: str, plan: str = "EVIL=True\nLEARNING_RATE=0.08\n") -> History:
    """A session in which some experiments set EVIL or KIND, and `code` acts on it."""
    project.commit({"train.py": TRAIN + "EVIL = False\nKIND = 99\n" + textwrap.dedent(code), "plan.txt": plan})
    done = project.run(
        "run", "--tag", "night", "--proposer", "queue", "--plan", "plan.txt", "--verify-runs", "1", timeout_s=300
    )
    assert done.returncode == 0, done.stderr
    assert "none: bubblewrap does not work here" in done.stderr
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def logs(project: Project) -> str:
    return "".join(path.read_text() for path in sorted((project.home / "state").rglob("logs/*/*.log")))


def test_hooks_planted_in_the_users_checkout_never_run(bare: Project, tmp_path: Path) -> None:
    """A pre-push hook, a file system monitor and a hooks path in the user's `.git` are not ours: the program's git runs elsewhere."""
    ran = tmp_path / "ran"
    hook = f'#!/bin/sh\necho "$0" >> {ran}\n'
    history = night(
        bare,
        f"""
        if EVIL:
            import pathlib
            git = pathlib.Path({str(bare.path)!r}, ".git")
            for name in ("pre-push", "post-commit", "pre-commit", "post-checkout", "post-index-change", "fsmonitor"):
                (git / "hooks").mkdir(exist_ok=True)
                (git / "hooks" / name).write_text({hook!r})
                (git / "hooks" / name).chmod(0o755)
            monitor = str(git / "hooks" / "fsmonitor")
            with (git / "config").open("a") as file:
                file.write("[core]\\n\\tfsmonitor = " + monitor + "\\n\\thooksPath = " + str(git / "hooks") + "\\n")
            print("planted")
        """,
    )
    assert "planted" in logs(bare)
    assert len(history.experiments) == 3
    assert not ran.exists() or ran.read_text() == ""
    bare.git("status")  # the user's own git runs them: they were armed
    assert ran.exists()


def test_code_planted_for_the_next_python_is_not_started(bare: Project) -> None:
    """What one run leaves in its home, its export and its temporary folder is gone before the next: each has its own."""
    history = night(
        bare,
        """
        import os, pathlib, site, sys
        import prepare
        if EVIL:
            here, home = pathlib.Path.cwd(), pathlib.Path.home()
            evil = "print('PLANTED CODE RAN', flush=True)\\n"
            user = pathlib.Path(site.getusersitepackages())
            for folder in (here, home, user, pathlib.Path(os.environ["TMPDIR"])):
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("sitecustomize.py", "usercustomize.py", ".pythonrc.py", "torch.py", "json.py"):
                    (folder / name).write_text(evil)
                (folder / "evil.pth").write_text("import sys; " + evil)
            (here / "__pycache__").mkdir(exist_ok=True)
            for cached in (here / "__pycache__").iterdir():
                cached.write_bytes(b"")
            print("planted")
        """,
    )
    text = logs(bare)
    assert "planted\n" in text
    assert "PLANTED CODE RAN" not in text
    assert len(history.experiments) == 3


REPLACE = """
import contextlib, os, shutil, stat
for path in ("train.py", "prepare.py")[: KIND // 10 + 1] if KIND != 99 else ():
    os.unlink(path)
    kind = KIND % 10
    if kind == 1:
        os.symlink("/dev/zero", path)
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        os.mkdir(path)
        os.chmod(path, 0)
    elif kind == 4:
        with contextlib.suppress(PermissionError):
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    elif kind == 5:
        os.symlink(path, path)
    print("replaced", path)
"""


def test_a_script_that_replaces_itself_by_something_else_is_survived(bare: Project) -> None:
    """A link to an endless device, a pipe, a closed folder, a device or a loop in the script's place, and in a read-only file's:
    nothing follows, waits for or reads them, and the second is a crash."""
    kinds = range(1, 6)
    plan = "".join(f"KIND={kind}\nKIND={10 + kind}\n" for kind in kinds)
    history = night(bare, REPLACE, plan)
    verdicts = {e.description: e for e in history.experiments[1:]}
    assert len(verdicts) == 10
    spoilt = [e.verdict.reason for e in history.experiments if "prepare.py" in e.verdict.reason]
    assert spoilt == ["it changed `prepare.py`, which is read-only"] * 5
    assert logs(bare).count("replaced train.py") >= 10
