"""The attacks on the wall of a container, against a real engine.

More of them are in test_container.py: limits of memory, processes and the log, a script that ignores SIGTERM.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import psutil
import pytest

from autoresearch_ci.canary import PROGRAM, Attempt, parse
from autoresearch_ci.executors import container
from autoresearch_ci.executors.container import ContainerExecutor
from autoresearch_ci.executors.image import Image
from autoresearch_ci.executors.mounts import SCRATCH_BYTES
from autoresearch_ci.executors.owner import Owner
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.runs import Interrupt, RunRequest
from tests.integration.test_container import When
from tests.interrupts import Never

ATTEMPTS = re.findall(r'^@attempt\("(.*)"\)$', PROGRAM, re.MULTILINE)
# By the engine's default seccomp profile: moby #44563 and #52494.
REFUSED_SINCE = {"open a socket to the hypervisor": 23, "open a socket to the kernel's ciphers": 30}

if sys.platform == "win32":
    pytest.skip("containers of Linux, watched from Linux or macOS", allow_module_level=True)

SESSION = "attack-tests"
MEMORY = 512 * 2**20
MIB = 2**20
SECRET = "hunter2-hunter2"


@dataclass
class Attack:
    """A tree whose files anybody may write, so that it is the wall that refuses; a cache, a log and an executor."""

    folder: Path
    executor: ContainerExecutor

    @property
    def tree(self) -> Path:
        return self.folder / "repository" / "tree"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    def request(self, script: str, *, timeout_s: float = 60, **more: Any) -> RunRequest:
        (self.tree / "train.py").write_text(script)
        open_to_all(self.tree)
        return RunRequest(
            name="attack-0001-1",
            tree=self.tree,
            script="train.py",
            command="python train.py",
            variables={"AUTORESEARCH_SEED": "42"},
            timeout_s=timeout_s,
            log=self.log,
            **more,
        )

    def run(self, script: str, *, interrupt: Interrupt | None = None, **more: Any) -> tuple[Run, str]:
        run = self.executor.run(self.request(script, **more), interrupt or Never())
        return run, self.log.read_text(errors="replace")

    def outputs(self, script: str, **more: Any) -> tuple[dict[str, int], str]:
        """The sizes of the files that crossed, by name, and the log."""
        wanted = self.folder / "outputs"
        shutil.rmtree(wanted, ignore_errors=True)
        wanted.mkdir()
        _, log = self.run(script, outputs=wanted, **more)
        for path in wanted.rglob("*"):
            assert path.is_dir() or (path.is_file() and path.stat().st_nlink == 1)
            assert not path.is_symlink()
        return {str(p.relative_to(wanted)): p.stat().st_size for p in wanted.rglob("*") if p.is_file()}, log


def open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def prepared(folder: Path) -> None:
    """A user's repository with a token in its configuration, and in it an export; a data cache."""
    for name in ("repository/tree/data", "repository/.git/hooks", "cache"):
        (folder / name).mkdir(parents=True)
    (folder / "repository/.git/config").write_text("[http]\n\textraheader = Authorization: basic c2VjcmV0\n")
    (folder / "repository/tree/prepare.py").write_text("READY = True\n")
    (folder / "repository/tree/data/answers.txt").write_text("42\n")
    (folder / "cache/shard.bin").write_bytes(b"data")
    open_to_all(folder)


def made_executor(engine: docker.DockerClient, image: Image, folder: Path) -> ContainerExecutor:
    return ContainerExecutor(
        engine,
        image,
        session=SESSION,
        cache=folder / "cache",
        platform="cpu",
        memory=MEMORY,
        cpus=1,
        pids_limit=128,
        log_cap_bytes=MIB,
    )


@pytest.fixture
def attack(engine: docker.DockerClient, cpu_image: Image, tmp_path: Path) -> Iterator[Attack]:
    prepared(tmp_path)
    with made_executor(engine, cpu_image, tmp_path) as executor:
        yield Attack(tmp_path, executor)
        assert left_over(engine) == []


def left_over(engine: docker.DockerClient) -> list[str]:
    """The names of this session's containers and volumes."""
    label = f"autoresearch-ci.session={SESSION}"
    found = [str(container.name) for container in engine.containers.list(all=True, filters={"label": label})]
    return found + [str(volume.name) for volume in engine.volumes.list(filters={"label": label})]


def managed(attempts: list[Attempt]) -> set[str]:
    return {attempt.name for attempt in attempts if attempt.managed}


@pytest.fixture(scope="module")
def canary(
    engine: docker.DockerClient, cpu_image: Image, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Attempt]:
    """What the canary says in a run; the orchestrator's own environment holds a token meanwhile."""
    folder = tmp_path_factory.mktemp("canary")
    prepared(folder)
    with made_executor(engine, cpu_image, folder) as executor, pytest.MonkeyPatch.context() as patch:
        for name in ("GITHUB_TOKEN", "AUTORESEARCH_TOKEN", "OPENAI_API_KEY"):
            patch.setenv(name, SECRET)
        patch.setenv("GITHUB_ENV", str(folder / "github-env"))
        attack = Attack(folder, executor)
        before = snapshot(folder / "cache")
        _, log = attack.run(PROGRAM)
        assert snapshot(folder / "cache") == before
    assert SECRET not in log
    return {attempt.name: attempt for attempt in parse(log)}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_canary_is_refused(canary: dict[str, Attempt], engine: docker.DockerClient, name: str) -> None:
    """Each thing that a script can try on its own sandbox is refused by the container's options."""
    if name == "open a socket to the hypervisor" and canary[name].managed:
        version = engine.version()["Version"]
        if int(version.split(".")[0]) < 23:
            pytest.skip(
                f"the default seccomp profile of Docker Engine {version} lets AF_VSOCK pass; 23 and newer do not"
            )
    assert canary[name].managed is False, canary[name].detail


def test_the_canary_gets_through_where_there_is_no_wall(
    engine: docker.DockerClient, cpu_image: Image, tmp_path: Path
) -> None:
    """The same canary as root in a container with capabilities and without a filter manages nearly everything: its attempts are real."""
    prepared(tmp_path)
    tree = tmp_path / "repository" / "tree"
    (tree / "train.py").write_text(PROGRAM)
    before = snapshot(tmp_path)
    script = (
        "sleep 60 & mkdir -p /root/.ssh /home/runner/_work; echo key > /root/.ssh/id_ed25519\n"
        "python3 -c 'import socket, time\n"
        'for path in ("\\0abstract", "/run/docker.sock"): s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(); globals()[path] = s\n'
        't = socket.create_server(("127.0.0.1", 8080)); time.sleep(60)\' &\n'
        "sleep 2; setsid --wait python3 train.py"
    )
    log = engine.containers.run(
        cpu_image.id, ["sh", "-c", script], user="0:0", network_mode="none", remove=True,
        cap_add=["SYS_ADMIN", "SYS_PTRACE"], security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        working_dir="/code/tree", ulimits=[docker.types.Ulimit(name="nofile", soft=1024, hard=1024)],
        environment={"GITHUB_TOKEN": SECRET, "GITHUB_ENV": "/tmp", "AUTORESEARCH_CACHE": "/cache"},
        volumes={
            str(tmp_path / "repository"): {"bind": "/code"},
            str(tree / "prepare.py"): {"bind": "/code/tree/prepare.py", "mode": "ro"},
            str(tmp_path / "cache"): {"bind": "/cache"},
        },
    ).decode()  # fmt: skip
    attempts = parse(log)
    assert [attempt.name for attempt in attempts] == ATTEMPTS
    assert SECRET not in log
    assert snapshot(tmp_path) == before  # harmless also where it succeeds
    not_here = {  # what needs a network, and what a kernel may lack
        "ask a cloud's metadata service", "open a TCP connection to outside", "send a UDP packet to outside",
        "open an IPv6 connection to outside", "ask a name server", "open a socket to the hypervisor",
        "open a socket to the kernel's ciphers", "read the machine's memory", "read the machine's disks", "use the kernel's key rings, perf events or bpf",
        "raise its control group's limits", "raise its limits", "change the machine's kernel settings",
    }  # fmt: skip
    assert set(ATTEMPTS) - managed(attempts) <= not_here


def test_the_wall_is_what_the_engine_was_told(attack: Attack, engine: docker.DockerClient) -> None:
    """No option of a run, or of the container that holds its outputs, takes the default seccomp profile or the masks away."""
    seen: dict[str, Any] = {}

    def look() -> bool:
        for started in engine.containers.list(filters={"label": f"autoresearch-ci.session={SESSION}"}):
            started.reload()
            seen[str(started.name)] = started.attrs
        return len(seen) == 2

    wanted = attack.folder / "outputs"
    wanted.mkdir()
    attack.run("import time; time.sleep(30)", interrupt=SimpleNamespace(requested=look), outputs=wanted)
    assert len(seen) == 2
    for attributes in seen.values():
        host = attributes["HostConfig"]
        assert host["SecurityOpt"] == ["no-new-privileges"]  # and no seccomp, apparmor or label besides
        assert (host["Privileged"], host["CapAdd"], host["CapDrop"]) == (False, None, ["ALL"])
        assert (host["NetworkMode"], host["IpcMode"], host["PidMode"], host["UTSMode"]) == ("none", "private", "", "")
        assert (host["UsernsMode"], host["ReadonlyRootfs"], host["Devices"] or []) == ("", True, [])
        assert {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} <= set(host["MaskedPaths"])
        assert {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"} <= set(host["ReadonlyPaths"])
        assert host["Memory"] == host["MemorySwap"] > 0
        assert host["PidsLimit"] > 0
        assert {"core", "fsize"} == {limit["Name"] for limit in host["Ulimits"]}
        assert not host["Binds"]
        assert not any("sock" in mount.get("Source", "") for mount in attributes["Mounts"])
        assert attributes["Config"]["User"] == "65532:65532"


def test_scratch_can_hold_neither_devices_nor_setuid_programs(attack: Attack) -> None:
    """Every folder that a run may write in is mounted `nosuid,nodev`, shared memory also `noexec`."""
    _, log = attack.run("print(open('/proc/mounts').read())")
    options = {line.split()[1]: line.split()[3].split(",") for line in log.splitlines() if line}
    for path in ("/tmp", "/outputs", "/workspace", "/home/runner", "/home/runner/.cache"):
        assert {"rw", "nosuid", "nodev"} <= set(options[path])
    assert {"nosuid", "nodev", "noexec", f"size={2**20}k"} <= set(options["/dev/shm"])
    for path in ("/", "/workspace/train.py", "/workspace/data", "/home/runner/.cache/autoresearch"):
        assert "ro" in options[path]


PLANTS = """
import glob, os, pickle, site, stat, sys, sysconfig
payload = "open('/outputs/poisoned', 'w').write('x'); print('poisoned')"
cache, home = os.environ["AUTORESEARCH_CACHE"], os.path.expanduser("~")
class Pickle:
    def __reduce__(self): return (exec, (payload,))
places = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"], site.getusersitepackages(), "/usr/lib/python3/dist-packages",
          "/workspace", "/workspace/data", home, "/tmp", "/outputs", cache, "/etc", "/var/tmp", "/dev/shm"]
for folder in places:
    for name, text in (
        ("sitecustomize.py", payload), ("usercustomize.py", payload), ("x.pth", "import os; " + payload), (".pythonrc.py", payload),
        ("__pycache__/prepare.cpython-311.pyc", "poison"), (".git/hooks/post-checkout", "#!/bin/sh\\ntouch /outputs/poisoned"),
        (".git/config", "[core]\\n\\tfsmonitor = touch /outputs/poisoned"), (".gitconfig", "[core]\\n\\thooksPath = /tmp"),
        (".gitattributes", "* filter=x"), (".gitmodules", '[submodule "x"]\\n\\tpath = x\\n\\turl = ext::sh'), (".profile", payload),
    ):
        try:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file: file.write(text)
            os.chmod(path, 0o777)
        except OSError: pass
    try: pickle.dump(Pickle(), open(os.path.join(folder, "shard.bin"), "wb"))
    except OSError: pass
os.environ["PYTHONSTARTUP"] = "/tmp/.pythonrc.py"
print("planted", len(glob.glob("/tmp/*")))
"""

FINDS = """
import os, sys
found = [os.path.join(folder, name) for top in ("/workspace", "/tmp", "/outputs", "/dev/shm", "/home/runner", "/etc", "/opt/venv/lib")
         for folder, folders, names in os.walk(top) for name in (*folders, *names)]
print(sorted(path for path in found if "customize" in path and "/etc/python" not in path or path.endswith(("x.pth", ".pythonrc.py"))
             or "/.git" in path or path.startswith(("/tmp", "/outputs", "/dev/shm", "/workspace/__"))))
print("PYTHONSTARTUP" in os.environ, open(os.environ["AUTORESEARCH_CACHE"] + "/shard.bin").read())
import prepare; print(prepare.READY)
"""


def test_what_a_run_plants_is_gone_for_the_next(attack: Attack) -> None:
    """Start-up files, bytecode, git hooks, filters, submodules and pickles die with the container; cache and tree are read-only."""
    attack.request("")
    before = snapshot(attack.folder / "cache") | snapshot(attack.folder / "repository")
    _, log = attack.run(PLANTS)
    assert log.startswith("planted ")
    assert int(log.split()[1]) > 0
    (attack.tree / "train.py").write_text("")
    assert snapshot(attack.folder / "cache") | snapshot(attack.folder / "repository") == before
    _, log = attack.run(FINDS)
    assert log.splitlines() == ["[]", "False data", "True"]


def test_two_runs_at_once_do_not_see_each_other(attack: Attack, tmp_path: Path) -> None:
    """Scratch folders, shared memory, processes and outputs of a run are its container's own."""
    folder = tmp_path / "other"
    prepared(folder)
    other = Attack(folder, attack.executor)
    (other.folder / "outputs").mkdir()
    other_request = other.request(
        "import os, time\n"
        "for folder in ('/tmp', '/outputs', '/workspace', '/dev/shm', '/home/runner'): open(folder + '/secret', 'w').write('x')\n"
        "print('ready', flush=True); time.sleep(30)",
        outputs=other.folder / "outputs",
    )
    done = threading.Event()
    thread = threading.Thread(
        target=attack.executor.run, args=(other_request, SimpleNamespace(requested=done.is_set)), daemon=True
    )
    thread.start()
    try:
        ready = When(other.log)
        while not ready.requested():
            assert thread.is_alive()
            time.sleep(0.05)
        files, log = attack.outputs(
            "import glob, os\n"
            "print(glob.glob('/*/secret') + glob.glob('/*/*/secret'), len(glob.glob('/proc/[0-9]*')) <= 2)"
        )
    finally:
        done.set()
        thread.join(60)
    assert (files, log) == ({}, "[] True\n")


def test_a_daemon_dies_with_its_run(attack: Attack) -> None:
    """A process that left by double fork and setsid, ignores every signal and holds the log open ends with the container."""
    marker = f"daemon-{os.getpid()}-{time.time_ns()}"
    run, log = attack.run(
        "import os, signal, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for n in range(1, 32):\n"
        "            if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
        f"        os.execvp('sh', ['sh', '-c', 'echo out; sleep 300; true {marker}'])\n"
        "    os._exit(0)\n"
        "time.sleep(2); print('done')\n"
    )
    assert (run.ending, run.exit_code) == (Ending.EXITED, 0)
    assert sorted(log.split()) == ["done", "out"]
    assert run.wall_s < 60
    assert [p for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or [])] == []


@dataclass(frozen=True)
class Machine:
    """What the machine has left: bytes of memory and of the engine's and our disk, and how many processes there are."""

    memory: int
    engine_disk: int
    own_disk: int
    processes: int

    @classmethod
    def now(cls, engine_root: Path, own: Path) -> Machine:
        root = engine_root if engine_root.exists() else own  # the engine of macOS is in a virtual machine
        return cls(
            psutil.virtual_memory().available,
            shutil.disk_usage(root).free,
            shutil.disk_usage(own).free,
            len(psutil.pids()),
        )

    def like(self, before: Machine, folder: Path) -> bool:
        """Within 1 % of the machine's memory and disk, and of its processes, of which others may start a few meanwhile."""
        memory, disk = psutil.virtual_memory().total, shutil.disk_usage(folder).total
        return (
            abs(self.memory - before.memory) < memory / 100
            and abs(self.engine_disk - before.engine_disk) < disk / 100
            and abs(self.own_disk - before.own_disk) < disk / 100
            and self.processes - before.processes <= max(10, before.processes // 100)
        )


@pytest.fixture
def as_before(attack: Attack, engine: docker.DockerClient) -> Iterator[None]:
    """Asserts that the machine is after a test what it was before, once it has settled."""
    root = Path(engine.info()["DockerRootDir"])
    before = Machine.now(root, attack.folder)
    yield
    deadline = time.monotonic() + 60
    while not (now := Machine.now(root, attack.folder)).like(before, attack.folder):
        assert time.monotonic() < deadline, (before, now)
        time.sleep(1)
    assert [p for p in psutil.process_iter(["uids"]) if p.info["uids"] and p.info["uids"].real == 65532] == []


@pytest.mark.usefixtures("as_before")
def test_a_fork_bomb_is_bounded_and_leaves_nothing(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pids limit stops a fork bomb, the timeout kills all of it; memory, disk and processes are what they were."""
    monkeypatch.setattr(container, "GRACE_S", 1.0)
    seen: list[int] = []

    def count() -> bool:
        seen.append(sum(1 for p in psutil.process_iter(["uids"]) if p.info["uids"] and p.info["uids"].real == 65532))
        return False

    run, _ = attack.run(
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except OSError: pass\n",
        timeout_s=3,
        interrupt=SimpleNamespace(requested=count),
    )
    assert run.ending is Ending.TIMEOUT
    assert run.wall_s < 60
    assert 20 < max(seen) <= 128


@pytest.mark.usefixtures("as_before")
def test_a_disk_filler_fills_no_disk(attack: Attack) -> None:
    """All that a run can write is memory of its own, which its limit ends; memory, disk and processes are what they were."""
    run, log = attack.run(
        "import os, sys\n"
        "kept = []\n"
        "for top in ('/tmp', '/outputs', '/workspace', '/home/runner', '/dev/shm', '/var/tmp', '/', os.environ['AUTORESEARCH_CACHE']):\n"
        "    try:\n"
        "        file = open(top + '/filler', 'wb'); kept.append(file)\n"
        "        for n in range(90): file.write(bytes(2**20))\n"
        "        print('filled', top, flush=True)\n"
        "    except OSError as error: print(top, error.strerror, flush=True)\n"
        "while True: kept[0].write(bytes(2**20))\n"
    )
    assert run.ending is Ending.OUT_OF_MEMORY
    assert log.count("filled") >= 4
    assert run.peak_memory_mb is None or run.peak_memory_mb <= MEMORY / MIB


@pytest.mark.usefixtures("as_before")
def test_a_disk_filler_on_the_shelf_fills_no_disk(attack: Attack) -> None:
    """Also outputs that are wanted lie in memory that the run's limit ends, and none of it stays with the engine."""
    files, log = attack.outputs("file = open('/outputs/filler', 'wb')\nwhile True: file.write(bytes(2**20))\n")
    assert (list(files), log) == (["filler"], "")
    assert files["filler"] <= MEMORY
    shutil.rmtree(attack.folder / "outputs")


@pytest.mark.usefixtures("as_before")
def test_a_flood_of_output_that_never_ends(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script on its way to print 10 GB is bounded by the log's cap while it prints, and by the timeout."""
    monkeypatch.setattr(container, "GRACE_S", 1.0)
    sizes: list[int] = []

    def measure() -> bool:
        sizes.append(attack.log.stat().st_size)
        return False

    memory = psutil.Process().memory_info().rss
    run, log = attack.run(
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for n in range(10_000): os.write(1, (b'flood %d ' % n * 9 + b'\\n') * 10_000)\n",
        timeout_s=5,
        interrupt=SimpleNamespace(requested=measure),
    )
    assert run.ending is Ending.TIMEOUT
    assert max(sizes) <= 2 * MIB + 2**16
    assert len(log) <= MIB + 200
    assert "bytes of this log were dropped" in log.splitlines()[0]
    assert psutil.Process().memory_info().rss - memory < 64 * MIB


def test_one_line_of_a_gigabyte(attack: Attack) -> None:
    """A line without an end is cut like any other output: neither memory nor the log grows with it, and the metric is read."""
    memory = psutil.Process().memory_info().rss
    run, log = attack.run(
        "import os\nfor n in range(1024): os.write(1, b'x' * 2**20)\nprint('\\nloss: 1.5')", timeout_s=120
    )
    assert (run.ending, run.exit_code) == (Ending.EXITED, 0)
    assert len(log) <= MIB + 200
    assert log.endswith("x\nloss: 1.5\n")
    assert psutil.Process().memory_info().rss - memory < 64 * MIB


def test_a_sparse_file_of_100_gb_is_refused(attack: Attack) -> None:
    """The file-size limit refuses it in every folder, by truncate, seek or fallocate."""
    _, log = attack.run(
        "import os\n"
        "for top in ('/tmp', '/outputs', '/workspace', '/home/runner', '/dev/shm'):\n"
        "    for make in (lambda f: f.truncate(100 * 10**9), lambda f: (f.seek(100 * 10**9), f.write(b'x'), f.flush()),\n"
        "                 lambda f: os.posix_fallocate(f.fileno(), 0, 100 * 10**9)):\n"
        "        file = open(top + '/sparse', 'wb', buffering=0)\n"
        "        try: make(file)\n"
        "        except OSError as error: print(error.errno)\n"
        "        else: print('made', top)\n"
    )
    assert log.split() == ["27"] * 15  # EFBIG


def test_many_sparse_outputs_cost_neither_time_nor_disk(attack: Attack) -> None:
    """Of files that are large and hold nothing no more is read than twice what may cross."""
    free, started = shutil.disk_usage(attack.folder).free, time.monotonic()
    files, log = attack.outputs(
        "open('/outputs/a', 'w').write('x')\n"
        f"for n in range(1000): open('/outputs/sparse%d' % n, 'wb').truncate({SCRATCH_BYTES})\n"
    )
    assert files == {"a": 1}
    assert "too large" in log
    assert time.monotonic() - started < 60
    assert free - shutil.disk_usage(attack.folder).free < 2**30


def test_a_script_cannot_replace_itself(attack: Attack) -> None:
    """A link, pipe, device or folder in the script's place is refused: it is a mount point, and the tree is not touched."""
    script = (
        "import os, stat\n"
        "makes = {\n"
        "    'symlink': lambda path: os.symlink('/etc/passwd', path),\n"
        "    'fifo': os.mkfifo,\n"
        "    'device': lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)),\n"
        "    'folder': os.mkdir,\n"
        "}\n"
        "for name, make in makes.items():\n"
        "    for path in ('train.py', 'prepare.py', 'data'):\n"
        "        for replace in (lambda: (os.remove(path), make(path)), lambda: (make(name), os.replace(name, path))):\n"
        "            try: replace()\n"
        "            except OSError: pass\n"
        "            else: print('managed', name, path)\n"
        "print(sorted(os.listdir()))\n"
    )
    run, log = attack.run(script)
    assert run.exit_code == 0
    assert log == "['data', 'fifo', 'folder', 'prepare.py', 'symlink', 'train.py']\n"
    assert (attack.tree / "train.py").read_text() == script
    assert {path.name: path.is_file() and not path.is_symlink() for path in attack.tree.iterdir()} == {
        "train.py": True,
        "prepare.py": True,
        "data": False,
    }


def test_outputs_cross_as_regular_files(attack: Attack) -> None:
    """Files and folders that a run leaves in its outputs folder are there afterwards, with nothing to note."""
    files, log = attack.outputs(
        "import os\n"
        "os.makedirs('/outputs/deep/er')\n"
        "open('/outputs/model.bin', 'wb').write(bytes(5 * 2**20)); open('/outputs/deep/er/x', 'w').write('x')\n"
        "os.chmod('/outputs/deep/er/x', 0); os.chmod('/outputs/deep/er', 0)\n"
        "print('loss: 1')"
    )
    assert files == {"model.bin": 5 * MIB, "deep/er/x": 1}
    assert log == "loss: 1\n"


def test_links_pipes_and_devices_in_the_outputs_do_not_cross(attack: Attack) -> None:
    """Symbolic links to the machine's files and the evaluation's answers, hard links, pipes and devices are left out and counted."""
    files, log = attack.outputs(
        "import os, socket, stat\n"
        "os.chdir('/outputs')\n"
        "os.symlink('/etc/passwd', 'passwd'); os.symlink('/workspace/data/answers.txt', 'answers'); os.symlink('/', 'root')\n"
        "os.symlink('../../../../etc/shadow', 'up'); os.mkfifo('fifo')\n"
        "open('kept', 'w').write('x'); os.link('kept', 'linked')\n"
        "try: os.link('/etc/passwd', 'hard'); print('linked')\n"
        "except OSError: pass\n"
        "try: os.mknod('null', stat.S_IFCHR | 0o666, os.makedev(1, 3)); print('device')\n"
        "except OSError: pass\n"
        "socket.socket(socket.AF_UNIX).bind('socket')\n"
    )
    assert files == {"kept": 1}
    assert log == "\n[outputs: left out 6 × no regular file]\n"


def test_hostile_names_in_the_outputs_do_not_cross(attack: Attack) -> None:
    """Names with newlines, tabs, quotes, escapes, options and bytes that are no text are left out, and not told."""
    files, log = attack.outputs(
        "import os\n"
        "os.chdir('/outputs')\n"
        "for name in (b'new\\nline', b'loss: 0.1\\n', b'tab\\t', b\"quote'\", b'\"', b'--option', b'-rf', b'\\x1b[31m', b'\\xff\\xfe', b'::error::x\\n', b'`id`'):\n"
        "    os.mkdir(name + b'.d'); open(name, 'w').close(); open(name + b'.d/inside', 'w').close()\n"
        "open('kept', 'w').close()\n"
    )
    assert files == {"kept": 0}
    assert re.fullmatch(r"\n\[outputs: left out \d+ × no plain name(, \d+ × no regular file)?\]\n", log)


def test_a_hundred_thousand_outputs_do_not_cross(attack: Attack) -> None:
    """The first thousand files are taken, and no more are looked at."""
    files, log = attack.outputs("for n in range(100_000): open('/outputs/%d' % n, 'w').close()")
    assert len(files) == 1000
    assert log == "\n[outputs: left out 1 × all after too many files]\n"


def test_outputs_deeper_than_any_path_end_no_session(attack: Attack) -> None:
    """A tree of folders that is too deep for the engine itself is left out; it is no error of the machine."""
    files, log = attack.outputs(
        "import os\n"
        "open('/outputs/0', 'w').close(); os.chdir('/outputs')\n"
        "for n in range(3000): os.mkdir('folder'); os.chdir('folder')\n"
        "open('x', 'w').close()"
    )
    assert files == {"0": 0}
    assert "[outputs: left out" in log


def test_the_outputs_folder_itself_cannot_be_replaced(attack: Attack) -> None:
    """A link in the outputs folder's own place is refused: it is a mount point."""
    files, log = attack.outputs(
        "import os\n"
        "open('/outputs/kept', 'w').close()\n"
        "for replace in (lambda: os.rename('/outputs', '/tmp/o'), lambda: os.rmdir('/outputs'), lambda: os.symlink('/etc', '/outputs')):\n"
        "    try: replace(); print('managed')\n"
        "    except OSError: pass\n"
    )
    assert (files, log) == ({"kept": 0}, "")


def test_given_outputs_cannot_be_changed(attack: Attack) -> None:
    """The files that an evaluation is given are a read-only mount; what it reads is what the run left."""
    given = attack.folder / "given"
    given.mkdir()
    (given / "model").write_text("weights")
    given.chmod(0o777)
    (given / "model").chmod(0o666)
    _, log = attack.run(
        "import os\n"
        "print(os.environ['AUTORESEARCH_OUTPUT_DIR'], open('/outputs/model').read())\n"
        "for change in (lambda: open('/outputs/model', 'w'), lambda: os.remove('/outputs/model'), lambda: open('/outputs/new', 'w'),\n"
        "               lambda: os.chmod('/outputs/model', 0o777), lambda: os.rename('/outputs', '/tmp/x')):\n"
        "    try: change(); print('managed')\n"
        "    except OSError: pass\n",
        given=given,
    )
    assert log == "/outputs weights\n"
    assert snapshot(given) == {"model": b"weights"}


def test_an_interrupted_run_leaves_its_outputs(attack: Attack) -> None:
    """Who asked to stop does not wait for files, however many there are."""
    interrupt = When(attack.log)
    files, _ = attack.outputs(
        "import time\nopen('/outputs/x', 'w').close(); print('ready', flush=True); time.sleep(60)", interrupt=interrupt
    )
    assert files == {}
    assert time.monotonic() - interrupt.asked_at < 8


def test_outputs_of_a_run_that_was_killed_cross(attack: Attack) -> None:
    """What a run wrote before its timeout or its memory's end is there."""
    files, _ = attack.outputs("import time\nopen('/outputs/x', 'w').close(); time.sleep(60)", timeout_s=2)
    assert files == {"x": 0}


@pytest.mark.parametrize("leave", ["an exception", "a dead session"])
def test_no_shelf_is_left(
    attack: Attack, engine: docker.DockerClient, leave: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume of outputs and its holder are removed when a run is broken off, and by the next session when this one died."""
    broken = SimpleNamespace(requested=lambda: bool(1 / 0))
    (attack.folder / "outputs").mkdir()
    if leave == "a dead session":
        monkeypatch.setattr("autoresearch_ci.executors.shelf.remove", lambda thing: None)
    with pytest.raises(ZeroDivisionError):
        attack.run("import time; time.sleep(60)", interrupt=broken, outputs=attack.folder / "outputs")
    if leave == "a dead session":
        assert len(left_over(engine)) == 2
        monkeypatch.setattr(Owner, "is_gone", staticmethod(lambda labels: labels["autoresearch-ci.session"] == SESSION))
        with made_executor(engine, attack.executor._image, attack.folder):
            pass
    assert left_over(engine) == []


def test_outputs_that_somebody_else_removed_end_no_session(attack: Attack, engine: docker.DockerClient) -> None:
    """When the holder is gone before the run is over, as by a prune, the outputs are told as lost and the run stands."""

    def prune_when_ready() -> bool:
        if attack.log.stat().st_size:
            for started in engine.containers.list(filters={"label": f"autoresearch-ci.session={SESSION}"}):
                if "-outputs-" in str(started.name):
                    started.remove(force=True)
        return False

    files, log = attack.outputs(
        "import time\nopen('/outputs/x', 'w').close(); print('ready', flush=True); time.sleep(2)",
        interrupt=SimpleNamespace(requested=prune_when_ready),
    )
    assert (files, log) == ({}, "ready\n\n[outputs: left out all that the engine could not read]\n")
