"""The native executor, with real processes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.runs import RunRequest
from autoresearch_ci.workspace.commands import Git, Output
from tests.interrupts import After

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts use POSIX sessions and signals")


class Bench:
    """An executor and an export to fill."""

    def __init__(
        self,
        folder: Path,
        memory: int | None = None,
        python: Path | None = None,
        cap: int = 2**20,
        walled: bool = True,
    ) -> None:
        self.folder, self.walled = folder, walled
        self.tree, self.log, self.scratch, self.cache = (
            folder / name for name in ("tree", "run.log", "scratch", "cache")
        )
        self.tree.mkdir(exist_ok=True)
        self.cache.mkdir(exist_ok=True)
        self.executor = NativeExecutor(
            scratch=self.scratch,
            cache=self.cache,
            memory=memory,
            python=python or Path(sys.executable),
            log_cap_bytes=cap,
            walled=walled,
        )

    def request(self, script: str = "", command: str = "python train.py", timeout_s: float = 60.0) -> RunRequest:
        (self.tree / "train.py").write_text(textwrap.dedent(script))
        return RunRequest(
            name="nov22-0001-1",
            tree=self.tree,
            script="train.py",
            command=command,
            variables={"AUTORESEARCH_TIME_BUDGET": "5", "MINE": "ä"},
            timeout_s=timeout_s,
            log=self.log,
        )

    def run(
        self,
        script: str = "",
        command: str = "python train.py",
        timeout_s: float = 60.0,
        interrupt: After | None = None,
    ) -> Run:
        with self.executor:
            return self.executor.run(self.request(script, command, timeout_s), interrupt or After())

    @property
    def text(self) -> str:
        return self.log.read_text()

    def survivors(self) -> list[psutil.Process]:
        """Processes with this bench's folder in their arguments, and not our own."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and any(str(self.folder) in word for word in process.cmdline()):
                    found.append(process)
        return found


@pytest.fixture(params=[False, True], ids=["bare", "walled"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tmp_path, walled=request.param)
    yield bench
    for process in bench.survivors():
        process.kill()


def test_a_git_beside_a_run_is_not_the_runs(bench: Bench) -> None:
    """A push goes on while runs begin and end: it has a group of its own, but it is no orphan of theirs."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as pool:
        try:
            began = threading.Event()
            push = pool.submit(_ask_in_vain, silent, bench.folder, began, stop)
            bench.run("import time; time.sleep(0.5)", interrupt=After())
            assert began.is_set()
            time.sleep(0.5)
            assert not push.done()
        finally:
            stop.set()
        assert "stopped" in push.result().err


def _ask_in_vain(silent: socket.socket, folder: Path, began: threading.Event, stop: threading.Event) -> Output:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.git"
    time.sleep(0.2)  # so that the run is there first, and git is new to it
    began.set()
    return Git(folder, {}).run("ls-remote", url, give_up=lambda: "stopped" if stop.is_set() else "")


# A daemon as daemons are made: two forks, a session of its own; `environ` is what it keeps of its variables.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        code = '''
import os, sys, time
tree, quiet = sys.argv[1:]
path = os.path.join(tree, "daemon.pid")
open(path + "~", "w").write(str(os.getpid()))
os.rename(path + "~", path)
if quiet == "quiet":
    os.close(1); os.close(2)
time.sleep(120)
'''
        arguments = [sys.executable, "-c", code, os.getcwd(), "QUIET"]
        os.execve(sys.executable, arguments, ENVIRON)
    os._exit(0)
while not os.path.exists("daemon.pid"):
    time.sleep(0.01)
"""


def daemon(*, hidden: bool, quiet: bool) -> str:
    return DAEMON.replace("ENVIRON", "{}" if hidden else "os.environ").replace("QUIET", "quiet" if quiet else "loud")


def test_a_run_is_its_log_and_its_numbers(bench: Bench) -> None:
    """stdout and stderr are in the log in order, exit code and time are told, and the scratch is empty again."""
    run = bench.run("import sys\nprint('val_bpb: 1.5', flush=True)\nprint('oh', file=sys.stderr)\nsys.exit(3)")
    assert (run.ending, run.exit_code) == (Ending.EXITED, 3)
    assert bench.text == "val_bpb: 1.5\noh\n"
    assert 0 < run.wall_s < 30
    assert list(bench.scratch.iterdir()) == []


def test_a_script_sees_the_contract_and_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the contract's variables reach a run, HOME is scratch, stdin is empty, upstream's cache is ours."""
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    run = bench.run(
        """
        import os, pathlib, sys
        home = pathlib.Path.home()
        print(*os.environ)
        print(home, pathlib.Path(os.environ["AUTORESEARCH_OUTPUT_DIR"]).is_dir(), os.environ["MINE"])
        print((home / ".cache/autoresearch").samefile(os.environ["AUTORESEARCH_CACHE"]), repr(sys.stdin.read()))
        print(pathlib.Path.cwd())
        """
    )
    assert run.exit_code == 0
    names, home, cache, directory = bench.text.splitlines()
    seen = set(names.split()) - {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}  # Python and macOS add these to all processes
    assert seen == {
        "PATH", "HOME", "TMPDIR", "MINE", "AUTORESEARCH_CACHE", "AUTORESEARCH_OUTPUT_DIR", "AUTORESEARCH_TIME_BUDGET"
    }  # fmt: skip
    assert home.startswith(str(bench.scratch))
    assert home.endswith("True ä")
    assert cache == "True ''"
    assert Path(directory).samefile(bench.tree)


def test_the_interpreter_is_the_one_that_was_given(bench: Bench, tmp_path: Path) -> None:
    """`python` is the given interpreter, also for what a script starts by the name `python`."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho given "$@"\n[ "$1" = stop ] || exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    bench = Bench(tmp_path, python=python)
    bench.run("import subprocess; subprocess.run(['python', 'stop'])")
    assert bench.text == "given train.py\ngiven stop\n"


def test_the_exports_files_are_read_only(bench: Bench) -> None:
    """Files lose the right to write and keep the right to run; what a link of the export points to is left alone."""
    (bench.tree / "data").mkdir()
    (bench.tree / "data" / "run.sh").write_text("#!/bin/sh\n")
    (bench.tree / "data" / "run.sh").chmod(0o755)
    outside = bench.cache / "outside"
    outside.touch(0o644)
    (bench.tree / "link").symlink_to(outside)
    bench.run("open('new', 'w').close()")
    assert stat.S_IMODE((bench.tree / "train.py").stat().st_mode) == 0o444
    assert stat.S_IMODE((bench.tree / "data" / "run.sh").stat().st_mode) == 0o555
    assert stat.S_IMODE(outside.stat().st_mode) & 0o200
    assert (bench.tree / "new").exists()


def test_a_program_of_the_repository_can_be_the_command(bench: Bench) -> None:
    """A command with a folder in it is looked up in the export, in the directory of the run."""
    (bench.tree / "go.sh").write_text('#!/bin/sh\necho "$1"\n')
    (bench.tree / "go.sh").chmod(0o755)
    bench.run(command="./go.sh 'two words'")
    assert bench.text == "two words\n"


@pytest.mark.parametrize("command", ["no-such-program train.py", "./missing.sh", "python 'train.py", "", "./train.py"])
def test_a_wrong_command_is_a_settings_error(bench: Bench, command: str) -> None:
    """A command that cannot be started is the user's setting: exit code 2 with a hint, and nothing is left."""
    with pytest.raises(SettingsError) as caught:
        bench.run(command=command)
    assert caught.value.hint
    assert list(bench.scratch.iterdir()) == []


def test_a_file_that_is_no_program_is_a_settings_error(bench: Bench) -> None:
    """What the kernel refuses to start is told like a missing program."""
    (bench.tree / "go").write_bytes(b"\x00\x01")
    (bench.tree / "go").chmod(0o755)
    with pytest.raises(SettingsError, match="cannot be started"):
        bench.run(command="./go")


def test_a_timeout_lets_a_script_write_its_last_numbers(bench: Bench) -> None:
    """At the timeout the script gets SIGTERM and time for its last lines, behind a shell that dies at once, too."""
    (bench.tree / "go.sh").write_text("#!/bin/sh\npython train.py\ntrue\n")
    (bench.tree / "go.sh").chmod(0o755)
    script = """
    import signal, sys, time
    def stop(*_):
        time.sleep(0.5)
        print("val_bpb: 2.0", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    time.sleep(60)
    """
    run = bench.run(script, command="./go.sh", timeout_s=1.0)
    assert (run.ending, run.exit_code) == (Ending.TIMEOUT, None)
    assert bench.text == "ready\nval_bpb: 2.0\n"


def test_a_script_that_ignores_the_timeout_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ignores SIGTERM gets SIGKILL when the grace is over."""
    monkeypatch.setattr("autoresearch_ci.executors.watching.GRACE_S", 0.5)
    run = bench.run(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('on', flush=True)\ntime.sleep(60)",
        timeout_s=0.7,
    )
    assert run.ending is Ending.TIMEOUT
    assert 1.0 < run.wall_s < 20
    assert bench.text == "on\n"


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "holding the pipe"])
@pytest.mark.parametrize("hidden", [False, True], ids=["daemon", "daemon without its environment"])
def test_a_daemon_does_not_outlive_its_run(bench: Bench, hidden: bool, quiet: bool) -> None:
    """A daemon of its own session is gone when the run is over, and does not hold the run up."""
    if hidden and sys.platform != "linux":
        pytest.skip("only Linux hands us orphans")
    run = bench.run(daemon(hidden=hidden, quiet=quiet))
    assert (run.ending, run.exit_code) == (Ending.EXITED, 0)
    assert (bench.tree / "daemon.pid").exists()
    assert bench.survivors() == []
    assert run.wall_s < 20


def test_a_pipe_that_stays_open_does_not_hold_the_run_up(bench: Bench) -> None:
    """Somebody who is not of the run and holds its output open is not waited for."""
    if sys.platform == "win32":
        return
    path = bench.cache / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
        server.listen()
        run = bench.run(
            f"""
            import socket
            with socket.socket(socket.AF_UNIX) as client:
                client.connect({os.path.relpath(path, bench.tree)!r})
                socket.send_fds(client, [b"x"], [1])
            print("done", flush=True)
            """
        )
        connection, _ = server.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    os.close(descriptors[0])
    assert (run.ending, run.exit_code) == (Ending.EXITED, 0)
    assert bench.text == "done\n"


def test_a_run_that_closed_its_output_is_waited_for(bench: Bench) -> None:
    """The end of the output is not the end of the run."""
    run = bench.run("import os, time\nos.close(1); os.close(2)\ntime.sleep(0.5)\nos._exit(7)")
    assert run.exit_code == 7
    assert run.wall_s >= 0.5


def test_an_interrupt_ends_a_run_at_once(bench: Bench) -> None:
    """Whatever the script does about signals, an interrupted run is over in two seconds, its children too."""
    script = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + daemon(hidden=False, quiet=False)
    started = time.monotonic()
    run = bench.run(script + "\ntime.sleep(60)", interrupt=After(1.0))
    assert run.ending is Ending.INTERRUPTED
    assert run.exit_code is None
    assert time.monotonic() - started < 10
    assert bench.survivors() == []


def test_too_much_memory_ends_a_run(tmp_path: Path) -> None:
    """A tree above the limit is killed and told as out of memory, also when no single process is above it."""
    bench = Bench(tmp_path, memory=300 * 2**20)
    run = bench.run(
        """
        import subprocess, sys, time
        code = "import time; block = bytearray(b'x') * (200 * 2**20); time.sleep(60)"
        for _ in range(2):
            subprocess.Popen([sys.executable, "-c", code])
        time.sleep(60)
        """
    )
    assert run.ending is Ending.OUT_OF_MEMORY
    assert run.exit_code is None
    assert run.peak_memory_mb is not None
    assert run.peak_memory_mb > 300
    assert run.wall_s < 30


def test_the_cpu_time_is_that_of_the_whole_tree(bench: Bench) -> None:
    """What a run and its children burnt, whatever the wall clock says; sleeping is free."""
    run = bench.run(
        """
        import subprocess, sys, time
        burn = "import time\\nwhile time.process_time() < 0.5: pass"
        subprocess.run([sys.executable, "-c", burn])
        while time.process_time() < 0.5: pass
        time.sleep(0.5)
        """
    )
    assert run.exit_code == 0
    assert run.cpu_s is not None
    assert 0.9 < run.cpu_s < 2.0


def test_the_peak_memory_is_that_of_the_run(bench: Bench) -> None:
    """The highest memory of the tree is measured, not the last, and not that of this process."""
    ballast = bytearray(b"x") * (400 * 2**20)
    run = bench.run("import time\nblock = bytearray(b'x') * (150 * 2**20)\ntime.sleep(0.5)\ndel block\ntime.sleep(0.3)")
    assert len(ballast) > 0
    assert run.peak_memory_mb is not None
    assert 150 < run.peak_memory_mb < 300


def test_a_flood_fills_no_disk(tmp_path: Path) -> None:
    """A log of hundreds of megabytes is cut to its cap, and its end is kept."""
    bench = Bench(tmp_path, cap=100_000)
    run = bench.run(
        """
        import sys
        for _ in range(300):
            sys.stdout.buffer.write((b"x" * 99 + b"\\n") * 10_000)
        print("end")
        """
    )
    assert run.exit_code == 0
    assert bench.text.endswith("end\n")
    assert bench.log.stat().st_size < 110_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_ends_the_run_and_is_told(bench: Bench) -> None:
    """When the log cannot be written the tree is killed, and the error says what is full."""
    bench.log = Path("/dev/full")
    with pytest.raises(MachineError, match="No space left"):
        bench.run(daemon(hidden=False, quiet=True) + "\nprint('x', flush=True)\ntime.sleep(60)")
    assert bench.survivors() == []


def test_what_a_dead_session_left_is_killed_and_removed(bench: Bench) -> None:
    """After a SIGKILL of the program the next session ends the training that went on, and removes its scratch."""
    request = bench.request(
        """
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", __file__], start_new_session=True)
        open("started", "w").close()
        time.sleep(60)
        """
    )
    paths = [str(path) for path in (bench.scratch, bench.cache, request.tree, bench.log, sys.executable)]
    program = f"""
from pathlib import Path
from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.runs import RunRequest
from autoresearch_ci.workspace.commands import Git, Output
class Never:
    def requested(self): return False
scratch, cache, tree, log, python = map(Path, {paths!r})
with NativeExecutor(scratch=scratch, cache=cache, memory=None, python=python, walled={bench.walled}) as executor:
    command = "python train.py"
    request = RunRequest(name="dead", tree=tree, script="", command=command, variables={{}}, timeout_s=60, log=log)
    executor.run(request, Never())
"""
    with subprocess.Popen([sys.executable, "-c", program]) as session:
        deadline = time.monotonic() + 30
        while not (bench.tree / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        session.kill()
    assert bench.walled or bench.survivors() != []  # a wall dies with the program, and its run with it
    assert list(bench.scratch.iterdir()) != []
    with bench.executor:
        gone = time.monotonic() + 10
        while bench.survivors() and time.monotonic() < gone:
            time.sleep(0.02)
        assert bench.survivors() == []
        assert list(bench.scratch.iterdir()) == []


def test_a_scratch_without_rights_is_removed_and_its_links_are_not_followed(bench: Bench) -> None:
    """What a script did to its scratch does not keep it there; the data cache keeps its content and rights."""
    (bench.cache / "data").write_text("kept")
    bench.cache.chmod(0o755)
    bench.run(
        """
        import os, pathlib
        home = pathlib.Path.home()
        (home / "deep" / "deeper").mkdir(parents=True)
        (home / "deep" / "deeper" / "file").touch()
        (home / "deep" / "deeper").chmod(0)
        (home / "deep").chmod(0)
        """
    )
    assert list(bench.scratch.iterdir()) == []
    assert (bench.cache / "data").read_text() == "kept"
    assert stat.S_IMODE(bench.cache.stat().st_mode) == 0o755


def test_a_scratch_that_cannot_be_made_is_a_machine_error(tmp_path: Path) -> None:
    """A file in the way of the scratch folder is told with a hint."""
    (tmp_path / "scratch").touch()
    with pytest.raises(MachineError, match="scratch"):
        Bench(tmp_path).run()


def test_a_scratch_that_vanished_is_a_machine_error(bench: Bench) -> None:
    """When no folder can be made for a run, the run is refused in one line."""
    with bench.executor:
        bench.scratch.rmdir()
        with pytest.raises(MachineError, match="no scratch folder"):
            bench.executor.run(bench.request(), After())


def test_prepare_has_the_users_network(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` sees the user's proxies and may write the cache; a run sees no proxy."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    script = (
        "import os\nprint(os.environ.get('HTTPS_PROXY'))\nopen(os.environ['AUTORESEARCH_CACHE'] + '/data', 'w').close()"
    )
    with bench.executor:
        bench.executor.prepare(bench.request(script), After())
        assert bench.text == "http://127.0.0.1:9\n"
        assert (bench.cache / "data").exists()
    bench.run(script)
    assert bench.text.startswith("None\n")
    assert ("Read-only file system" in bench.text) == bench.walled


def test_the_probe_runs_as_a_run_would(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe sees a run's variables and nothing else; what it prints comes back."""
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    with bench.executor:
        answer = bench.executor.probe("import os; print(os.environ['HOME'], os.environ.get('GITHUB_TOKEN'))")
        assert answer.startswith(str(bench.scratch))
        assert answer.strip().endswith("None")
        with pytest.raises(MachineError, match="exit code 1: ValueError: broken"):
            bench.executor.probe("raise ValueError('broken')")


def test_the_log_can_be_read_while_it_is_written(bench: Bench) -> None:
    """A line is in the file as soon as it was printed: the log is followed live."""
    seen: list[str] = []

    class Look(After):
        def requested(self) -> bool:
            seen.append(bench.text if bench.log.exists() else "")
            return super().requested()

    bench.run("import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('second', flush=True)", interrupt=Look())
    assert "first\n" in seen
