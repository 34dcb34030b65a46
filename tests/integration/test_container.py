"""Runs in containers, against a real engine."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import docker
import psutil
import pytest
from docker.errors import APIError
from docker.models.containers import Container

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors import container as container_module
from autoresearch_ci.executors import usage
from autoresearch_ci.executors.container import ContainerExecutor
from autoresearch_ci.executors.image import Image
from autoresearch_ci.executors.owner import Owner
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.runs import RunRequest
from tests.interrupts import Never

SESSION = "container-tests"
MEMORY = 256 * 2**20
if sys.platform == "win32":
    UNIX = -1
else:
    UNIX = socket.AF_UNIX


class When:
    """Somebody asks to stop as soon as a file has content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked_at = 0.0

    def requested(self) -> bool:
        if not self.asked_at and self.path.exists() and self.path.stat().st_size:
            self.asked_at = time.monotonic()
        return bool(self.asked_at)


class Bench:
    """A folder with an export, a cache and a log, and a container executor."""

    def __init__(self, folder: Path, executor: ContainerExecutor) -> None:
        self.executor = executor
        self.tree, self.cache, self.log = folder / "tree", folder / "cache", folder / "run.log"
        self.script("pass")

    def script(self, text: str) -> None:
        (self.tree / "train.py").write_text(text)

    def request(self, command: str = "python train.py", *, timeout_s: float = 60, directory: str = ".") -> RunRequest:
        return RunRequest(
            name="tests-0001-1",
            tree=self.tree,
            script="train.py",
            command=command,
            variables={"AUTORESEARCH_SEED": "42", "LANG": "C.UTF-8"},
            timeout_s=timeout_s,
            log=self.log,
            directory=directory,
        )

    def run(self, script: str, *, timeout_s: float = 60) -> tuple[Run, str]:
        self.script(script)
        run = self.executor.run(self.request(timeout_s=timeout_s), Never())
        return run, self.log.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tree", "cache"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def bench(engine: docker.DockerClient, cpu_image: Image, folder: Path) -> Iterator[Bench]:
    with ContainerExecutor(
        engine,
        cpu_image,
        session=SESSION,
        cache=folder / "cache",
        platform="cpu",
        memory=MEMORY,
        cpus=1,
        shm_size=32 * 2**20,
        pids_limit=64,
        log_cap_bytes=2**20,
    ) as executor:
        yield Bench(folder, executor)
        assert own_containers(engine) == []


def own_containers(engine: docker.DockerClient) -> list[Container]:
    return engine.containers.list(all=True, filters={"label": f"autoresearch-ci.session={SESSION}"})


def test_a_run_ends_with_its_exit_code_and_its_log(bench: Bench) -> None:
    """stdout and stderr are in one log, the exit code and the wall clock in the run."""
    run, log = bench.run("import sys, time; print('out'); print('err', file=sys.stderr); time.sleep(1); sys.exit(3)")
    assert (run.ending, run.exit_code) == (Ending.EXITED, 3)
    assert 1 <= run.wall_s < 30
    assert sorted(log.split()) == ["err", "out"]


def test_a_run_sees_the_variables_of_the_contract_and_no_others(bench: Bench) -> None:
    """Neither the image's variables nor the engine's own reach the script."""
    bench.executor.run(bench.request("env"), Never())
    variables = dict(line.split("=", 1) for line in bench.log.read_text().splitlines())
    assert variables.pop("PATH").startswith("/opt/venv/bin:")
    assert variables == {
        "AUTORESEARCH_SEED": "42",
        "LANG": "C.UTF-8",
        "HOME": "/home/runner",
        "AUTORESEARCH_OUTPUT_DIR": "/outputs",
        "AUTORESEARCH_CACHE": "/home/runner/.cache/autoresearch",
    }


def test_a_run_has_no_rights(bench: Bench) -> None:
    """No capability, no new privileges, no root, a seccomp filter, a read-only root, no engine, no core dumps."""
    _, log = bench.run(
        "import os, resource\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(*(int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapBnd', 'CapInh', 'CapAmb')))\n"
        "print(status['NoNewPrivs'].strip(), status['Seccomp'].strip(), os.getuid(), os.getgid(), os.getgroups())\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), os.path.exists('/var/run/docker.sock'))\n"
        "for path in ('/etc/x', '/usr/x', '/x', '/var/tmp/x', '/opt/venv/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError as error: print(path, error.strerror)\n"
    )
    none, user, limits, *refused = log.splitlines()
    assert none == "0 0 0 0 0"
    assert user == "1 2 65532 65532 [65532]"
    assert limits == "(0, 0) False"
    assert refused == [
        f"{path} Read-only file system" for path in ("/etc/x", "/usr/x", "/x", "/var/tmp/x", "/opt/venv/x")
    ]


def test_a_run_has_no_network(bench: Bench) -> None:
    """Only the loopback interface is there, and it leads nowhere."""
    _, log = bench.run(
        "import os, socket\n"
        "print(os.listdir('/sys/class/net'))\n"
        "try: socket.create_connection(('192.0.2.1', 80), 5)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    assert log.splitlines() == ["['lo']", "Network is unreachable"]


def test_limits_hold(bench: Bench) -> None:
    """Processes, shared memory and CPUs are limited as asked for, and scratch is finite."""
    _, log = bench.run(
        "import os\n"
        "def size(path): s = os.statvfs(path); return s.f_blocks * s.f_frsize\n"
        "print(size('/dev/shm'), {size(p) for p in ('/tmp', '/workspace', '/outputs', '/home/runner')})\n"
        "children = 0\n"
        "try:\n"
        "    while children < 1000:\n"
        "        if os.fork() == 0: os.read(os.pipe()[0], 1)\n"
        "        children += 1\n"
        "except BlockingIOError: print(40 < children < 64)\n"
    )
    assert log.splitlines() == [f"{32 * 2**20} {{{4 * 2**30}}}", "True"]


def test_the_commit_cannot_be_changed_but_new_files_can_be_written(bench: Bench) -> None:
    """No entry of the export can be written, deleted, renamed or replaced; beside them there is room for new files."""
    (bench.tree / "data").mkdir()
    (bench.tree / "data" / "words.txt").write_text("words")
    (bench.tree / "prepare.py").write_text("READY = True")
    before = {path: path.read_bytes() for path in bench.tree.rglob("*") if path.is_file()}
    attempts = [
        "open('train.py', 'a')",
        "open('prepare.py', 'w')",
        "os.remove('prepare.py')",
        "os.rename('prepare.py', 'other.py')",
        "os.rename('/tmp/new', 'prepare.py')",
        "os.chmod('prepare.py', 0o777)",
        "os.rename('data', 'other')",
        "open('data/words.txt', 'w')",
        "open('data/more.txt', 'w')",
        "os.remove('data/words.txt')",
        "open('/proc/self/cwd/prepare.py', 'w')",
        "os.link('prepare.py', 'linked.py')",
        "open(cache + '/poison', 'w')",
    ]
    _, log = bench.run(
        "import os\n"
        "cache = os.environ['AUTORESEARCH_CACHE']\n"
        "open('/tmp/new', 'w').write('READY = False')\n"
        f"for attempt in {attempts!r}:\n"
        "    try: exec(attempt)\n"
        "    except OSError: continue\n"
        "    print('managed:', attempt)\n"
        "os.makedirs('checkpoints/deep')\n"
        "for path in ('run.log', 'checkpoints/deep/x', os.environ['AUTORESEARCH_OUTPUT_DIR'] + '/model',\n"
        "             os.path.expanduser('~/.config'), os.path.expanduser('~/.cache/x')):\n"
        "    open(path, 'w').write('new')\n"
        "import prepare\n"
        "print(prepare.READY)\n"
    )
    assert log == "True\n"
    assert {path: path.read_bytes() for path in bench.tree.rglob("*") if path.is_file()} == before | {
        bench.tree / "train.py": (bench.tree / "train.py").read_bytes()
    }
    assert list(bench.cache.iterdir()) == []


def test_a_run_in_a_folder_of_the_export_can_write_there(bench: Bench) -> None:
    """`directory` is where the command starts and may write, and the rest of the export stands around it."""
    working = bench.tree / "projects" / "tiny"
    working.mkdir(parents=True)
    (working / "train.py").write_text(
        "open('new', 'w'); print(open('../shared.txt').read(), open('../../top.txt').read())"
    )
    (bench.tree / "projects" / "shared.txt").write_text("shared")
    (bench.tree / "top.txt").write_text("top")
    run = bench.executor.run(bench.request(directory="projects/tiny"), Never())
    assert (run.exit_code, bench.log.read_text()) == (0, "shared top\n")
    assert [path.name for path in working.iterdir()] == ["train.py"]


def test_links_in_the_export_do_not_lead_out_of_it(bench: Bench, tmp_path: Path) -> None:
    """A link to a file of the commit works; one to a file of the machine shows nothing."""
    secret = tmp_path / "secret"
    secret.write_text("token")
    (bench.tree / "real.txt").write_text("real")
    (bench.tree / "inside").symlink_to("real.txt")
    (bench.tree / "outside").symlink_to(secret)
    (bench.tree / "dangling").symlink_to("nowhere")
    run, log = bench.run("import os; print(sorted(os.listdir()), open('inside').read())")
    assert run.exit_code == 0
    assert log == "['inside', 'real.txt', 'train.py'] real\n"


def test_an_export_written_under_a_strict_umask_can_be_read(bench: Bench) -> None:
    """The run's uid reads what only the owner could, and executes what the owner can."""
    bench.script("print(open('package/module.py').read())")
    package = bench.tree / "package"
    package.mkdir(mode=0o700)
    (package / "module.py").write_text("text")
    (package / "module.py").chmod(0o600)
    start = bench.tree / "start.sh"
    start.write_text("#!/bin/sh\nexec python train.py\n")
    start.chmod(0o700)
    run = bench.executor.run(bench.request("./start.sh"), Never())
    assert (run.exit_code, bench.log.read_text()) == (0, "text\n")


def test_the_cache_can_be_read_where_scripts_look_for_it(bench: Bench) -> None:
    """The data cache is at AUTORESEARCH_CACHE and at ~/.cache/autoresearch."""
    (bench.cache / "shard").write_text("data")
    _, log = bench.run(
        "import os\n"
        "for folder in (os.environ['AUTORESEARCH_CACHE'], os.path.expanduser('~/.cache/autoresearch')):\n"
        "    print(open(folder + '/shard').read())\n"
    )
    assert log == "data\ndata\n"


def test_prepare_fills_the_cache(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `prepare` command writes into the cache as its owner, and runs can read what it wrote."""
    monkeypatch.setattr(container_module, "PREPARE_NETWORK", "none")
    bench.script("import os; open(os.environ['AUTORESEARCH_CACHE'] + '/shard', 'w').write('data')")
    run = bench.executor.prepare(bench.request(), Never())
    assert (run.exit_code, bench.log.read_text()) == (0, "")
    assert (bench.cache / "shard").read_text() == "data"
    assert (bench.cache / "shard").stat().st_uid == bench.cache.stat().st_uid
    assert bench.run("import os; print(open(os.environ['AUTORESEARCH_CACHE'] + '/shard').read())")[1] == "data\n"


def test_prepare_has_a_network(engine: docker.DockerClient, cpu_image: Image, folder: Path) -> None:
    """The `prepare` command, unlike runs, has a network interface; with or without a cache to fill."""
    trial = engine.containers.create(cpu_image.id, ["true"], network_mode="bridge")
    try:
        trial.start()
    except APIError as error:
        pytest.skip(f"this engine has no bridge network: {error.explanation}")
    finally:
        trial.remove(force=True)
    with ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cpu") as executor:
        bench = Bench(folder, executor)
        executor.prepare(bench.request("ls /sys/class/net"), Never())
        assert bench.log.read_text().split() == ["eth0", "lo"]


def test_without_a_cache_and_a_limit(engine: docker.DockerClient, cpu_image: Image, folder: Path) -> None:
    """An executor without a cache names none to the script; without a limit, a run gets less than the machine."""
    with ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cpu") as executor:
        bench = Bench(folder, executor)
        _, log = bench.run(
            "import os; print('AUTORESEARCH_CACHE' in os.environ)\n"
            "for path in ('memory/memory.limit_in_bytes', 'memory.max'):\n"
            "    if os.path.exists('/sys/fs/cgroup/' + path): print(open('/sys/fs/cgroup/' + path).read())\n"
        )
    cache, limit = log.split()
    assert cache == "False"
    assert int(limit) < psutil.virtual_memory().total


def test_a_script_that_obeys_sigterm_ends_at_the_timeout(bench: Bench) -> None:
    """At the timeout the script gets SIGTERM, and may still print its last reading."""
    run, log = bench.run(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('loss: 1.5'), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n",
        timeout_s=4,
    )
    assert (run.ending, run.exit_code) == (Ending.TIMEOUT, None)
    assert log == "ready\nloss: 1.5\n"
    assert 4 <= run.wall_s < 12


def test_a_script_that_ignores_sigterm_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the grace comes SIGKILL, for the script and for a daemon it has left behind."""
    monkeypatch.setattr(container_module, "GRACE_S", 2.0)
    run, log = bench.run(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(60)\n"
        "    os._exit(0)\n"
        "while True: time.sleep(1)\n",
        timeout_s=3,
    )
    assert (run.ending, run.exit_code, log) == (Ending.TIMEOUT, None, "no\n")
    assert 5 <= run.wall_s < 20


def test_a_script_without_a_handler_ends_at_sigterm(bench: Bench) -> None:
    """A plain script, though first in its container, does not live on through the grace."""
    run, _ = bench.run("import time; time.sleep(60)", timeout_s=1)
    assert run.ending is Ending.TIMEOUT
    assert run.wall_s < 9


def test_an_interrupt_ends_a_run_at_once(bench: Bench) -> None:
    """A run is gone two seconds after the interrupt, whatever it does with signals."""
    interrupt = When(bench.log)
    bench.script(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    run = bench.executor.run(bench.request(), interrupt)
    assert (run.ending, run.exit_code) == (Ending.INTERRUPTED, None)
    assert time.monotonic() - interrupt.asked_at < 4


def test_an_interrupt_before_the_start_ends_a_run_at_once(bench: Bench) -> None:
    """A run that begins while the interrupt is already there does not wait for anything."""
    interrupt = When(bench.log)
    interrupt.asked_at = 1.0
    bench.script("import time; time.sleep(60)")
    assert bench.executor.run(bench.request(), interrupt).ending is Ending.INTERRUPTED


@pytest.mark.parametrize(
    "script",
    [
        "b = bytearray(2**29); import time; time.sleep(60)",
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'b = bytearray(2**29)']) != 0)",
        "open('large', 'wb').write(bytes(200 * 2**20)); b = bytearray(150 * 2**20); b[::4096] = b[::4096]",
    ],
    ids=["itself", "a child", "with files in memory"],
)
def test_a_run_that_the_memory_limit_killed_says_so(bench: Bench, script: str) -> None:
    """The limit counts the whole run: the script, its children, and the files it writes."""
    run, _ = bench.run(script)
    assert run.ending is Ending.OUT_OF_MEMORY


@pytest.mark.parametrize("from_engine", [False, True])
def test_memory_and_cpu_time_are_measured_from_outside(
    bench: Bench, from_engine: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The highest memory is told although it was given back, and the CPU time: from the control group, or from the engine."""
    if from_engine:
        monkeypatch.setattr(usage, "CGROUP_ROOT", tmp_path)
        monkeypatch.setattr(usage, "STATS_INTERVAL_S", 0.3)
    run, _ = bench.run(
        "import time; b = bytearray(100 * 2**20)\nwhile time.process_time() < 1: pass\ntime.sleep(2.5); del b; time.sleep(1)"
    )
    assert run.peak_memory_mb is not None
    assert 100 <= run.peak_memory_mb < 160
    assert run.cpu_s is not None
    assert 0.9 < run.cpu_s < 3


def test_a_flood_of_output_is_capped_and_its_end_kept(bench: Bench) -> None:
    """Of 50 MB of lines and one line of 30 MB the last MB stays, with the metric; memory and disk stay bounded."""
    before = psutil.Process().memory_info().rss
    run, log = bench.run(
        "import sys\n"
        "for i in range(50): sys.stdout.write(('flood %06d ' % i * 8 + '\\n') * (2**20 // 104))\n"
        "sys.stdout.write('x' * (30 * 2**20) + '\\n')\n"
        "print('loss: 1.25')\n"
    )
    assert run.exit_code == 0
    assert log.startswith("[")
    assert "bytes of this log were dropped" in log.splitlines()[0]
    assert log.endswith("x\nloss: 1.25\n")
    assert len(log) <= 2**20 + 100
    assert psutil.Process().memory_info().rss - before < 40 * 2**20


def test_a_log_that_cannot_be_written_ends_the_run(bench: Bench) -> None:
    """A full disk is told as such, at once, and the run does not stay behind."""
    bench.log = Path("/dev/full")
    bench.script("import time\nwhile True: print('x' * 100, flush=True); time.sleep(0.1)")
    with pytest.raises(MachineError, match="cannot be written"):
        bench.executor.run(bench.request(), Never())


def test_a_command_that_does_not_exist_is_a_crash(bench: Bench) -> None:
    """A wrong program is a run with exit code 127, and the log names it."""
    run = bench.executor.run(bench.request("pythn train.py"), Never())
    assert (run.ending, run.exit_code) == (Ending.EXITED, 127)
    assert "pythn" in bench.log.read_text()


def test_a_command_that_is_no_words_is_a_setting_to_change(bench: Bench) -> None:
    """An open quote in `command` is told before anything starts."""
    with pytest.raises(SettingsError, match="command"):
        bench.executor.run(bench.request('python "train.py'), Never())


def test_a_script_that_closes_its_output_is_still_waited_for(bench: Bench) -> None:
    """The end of the log is not taken for the end of the run."""
    run, _ = bench.run("import os, time; os.close(1); os.close(2); time.sleep(2); os._exit(5)")
    assert run.exit_code == 5
    assert run.wall_s >= 2


def test_nothing_is_left_when_a_run_is_broken_off(bench: Bench, engine: docker.DockerClient) -> None:
    """An exception in the midst of a run, of whatever kind, removes the container."""

    class Broken:
        def requested(self) -> bool:
            raise KeyboardInterrupt

    bench.script("import time; time.sleep(60)")
    with pytest.raises(KeyboardInterrupt):
        bench.executor.run(bench.request(), Broken())
    assert own_containers(engine) == []


def test_a_folder_that_the_engine_cannot_see_is_a_machine_error(bench: Bench) -> None:
    """A folder that the engine does not find is told with its likely cause."""
    bench.cache.rmdir()
    with pytest.raises(MachineError, match="source path does not exist") as caught:
        bench.executor.run(bench.request(), Never())
    assert "DOCKER_HOST" in caught.value.hint


def test_the_probe_returns_what_the_program_prints(bench: Bench) -> None:
    """Only stdout comes back, without what a library says on stderr."""
    assert bench.executor.probe("import sys; print('noise', file=sys.stderr); print('{\"a\": 1}')") == '{"a": 1}\n'


def test_a_failing_probe_is_a_machine_error(bench: Bench) -> None:
    """An image whose Python does not work ends in one line with the program's last words."""
    with pytest.raises(MachineError, match="no module named x"):
        bench.executor.probe("raise SystemExit('no module named x')")


def test_a_machine_without_gpu_support_is_told_what_to_install(engine: docker.DockerClient, cpu_image: Image) -> None:
    """Asking for a GPU that the engine cannot give names the toolkit that is missing."""
    if "nvidia" in engine.info()["Runtimes"]:
        pytest.skip("this engine can give a GPU")
    with (
        ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cuda") as executor,
        pytest.raises(MachineError, match="could not select device driver") as caught,
    ):
        executor.probe("pass")
    assert "NVIDIA Container Toolkit" in caught.value.hint
    assert own_containers(engine) == []


def start_container(engine: docker.DockerClient, image: Image, owner: Owner) -> Container:
    return engine.containers.run(image.id, ["sleep", "60"], labels=owner.labels(), detach=True, network_mode="none")


def test_what_dead_sessions_left_is_removed_and_what_lives_is_not(
    engine: docker.DockerClient, cpu_image: Image
) -> None:
    """Entering removes the containers of processes that are gone from this host, and no others."""
    me = Owner.of_this_process(SESSION)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        alive = Owner(session=SESSION, host=me.host, pid=child.pid, started=psutil.Process(child.pid).create_time())
        reused = Owner(session=SESSION, host=me.host, pid=child.pid, started=alive.started - 1000)
        elsewhere = Owner(session=SESSION, host="another", pid=child.pid, started=alive.started - 1000)
        kept = {start_container(engine, cpu_image, owner).id for owner in (alive, elsewhere)}
        start_container(engine, cpu_image, reused)
        with ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cpu"):
            assert {container.id for container in own_containers(engine)} == kept
    finally:
        child.kill()
        child.wait()
    with ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cpu"):
        assert [container.labels["autoresearch-ci.host"] for container in own_containers(engine)] == ["another"]
    for container in own_containers(engine):
        container.remove(force=True)


def test_leaving_removes_what_is_left(engine: docker.DockerClient, cpu_image: Image) -> None:
    """A container of this session and process does not outlive the executor."""
    with ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cpu"):
        start_container(engine, cpu_image, Owner.of_this_process(SESSION))
    assert own_containers(engine) == []


def test_a_run_that_somebody_else_removes_is_a_machine_error(bench: Bench, engine: docker.DockerClient) -> None:
    """A container that is gone, as by a prune, is no crash of the script."""

    def removed_when_ready() -> bool:
        if bench.log.stat().st_size:
            for container in own_containers(engine):
                container.remove(force=True)
        return False

    bench.script("import time; print('ready', flush=True); time.sleep(60)")
    with pytest.raises(MachineError, match="No such container"):
        bench.executor.run(bench.request(), SimpleNamespace(requested=removed_when_ready))


def test_a_run_that_does_not_die_is_a_machine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SIGKILL does not end in time, as a process that hangs in a driver, ends the session in words."""
    monkeypatch.setattr(container_module, "SETTLE_S", 0.01)
    with pytest.raises(MachineError, match="does not end"):
        container_module.settled(Future())


class Relay:
    """Stands between a client and the engine, and can be cut as an engine that dies."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self._server = socket.socket(UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._open = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(UNIX)
            far.connect("/var/run/docker.sock")
            self._open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def test_an_engine_that_dies_meanwhile_is_a_machine_error(
    engine: docker.DockerClient, cpu_image: Image, folder: Path, tmp_path: Path
) -> None:
    """Losing the engine in the midst of a run ends the session in words, and the next start removes the rest."""
    if not Path("/var/run/docker.sock").is_socket():
        pytest.skip("the engine is not behind the usual socket")
    relay = Relay(tmp_path / "engine.sock")
    client = docker.DockerClient(base_url=relay.address, version="1.41", timeout=5)
    bench = Bench(folder, ContainerExecutor(client, cpu_image, session=SESSION, cache=None, platform="cpu"))
    bench.script("import time; print('ready', flush=True); time.sleep(60)")

    def cut_when_ready() -> bool:
        if bench.log.stat().st_size:
            relay.cut()
        return False

    with pytest.raises(MachineError, match="stopped answering"), bench.executor:
        bench.executor.run(bench.request(), SimpleNamespace(requested=cut_when_ready))
    assert len(own_containers(engine)) == 1
    with ContainerExecutor(engine, cpu_image, session=SESSION, cache=None, platform="cpu"):
        pass
    assert own_containers(engine) == []
