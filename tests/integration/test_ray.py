"""The executor for Ray clusters, on a real cluster of three nodes on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import autoresearch_ci
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.ray_cluster import RayExecutor
from autoresearch_ci.executors.ray_messages import Setup, Wanted
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.platforms import PROBE, parse_probe
from autoresearch_ci.runs import RunRequest
from tests.interrupts import After
from tests.project import wait_for

ray = pytest.importorskip("ray")
if sys.platform != "linux":
    pytest.skip("Ray's clusters of several nodes on one machine need Linux", allow_module_level=True)

PACKAGE = str(Path(autoresearch_ci.__file__).parents[1])
SECRET = "never-to-be-seen-" + "7f3a"
NODES = 3


class Bench:
    """An executor on a cluster, and requests for it."""

    def __init__(self, folder: Path, address: str, *, join_s: float = 60.0, **wanted: Any) -> None:
        self.folder, self.open = folder, ExitStack()
        self.session = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        setup = Setup(session=self.session, cache=str(folder / "cache"), **wanted.pop("setup", {}))
        options: dict[str, Any] = {"kind": "native", "allow_native": True, "patience_s": 4.0}
        self.executor = RayExecutor(
            Wanted(address=address, setup=setup, **{**options, **wanted}),
            environ=environment(),
            variables=coverage(),
            join_s=join_s,
        )

    def request(self, script: str, name: str = "nov22-0001", **others: Any) -> RunRequest:
        tree = self.folder / f"tree-{name}"
        tree.mkdir(exist_ok=True)
        (tree / "train.py").write_text(textwrap.dedent(script))
        (tree / "data.txt").write_text("1 2 3\n")
        fields = {"timeout_s": 60.0, "log": self.folder / f"{name}.log", "variables": {"MINE": "ä"}, **others}
        return RunRequest(name=name, tree=tree, script="train.py", command="python train.py", **fields)

    def run(self, script: str, interrupt: After | None = None, **others: Any) -> tuple[Run, str]:
        request = self.request(script, **others)
        run = self.executor.run(request, interrupt or After())
        return run, request.log.read_text()


def environment() -> dict[str, str]:
    """The session's variables, a token among them."""
    return {**os.environ, "GITHUB_TOKEN": SECRET}


def coverage() -> dict[str, str]:
    """What coverage needs to see the child."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Nodes that are started here have these variables besides ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own: Ray keeps the token of its clusters there."""
    folder = tmp_path_factory.mktemp("home")
    own = {"HOME": str(folder), "PYTHONPATH": PACKAGE, "RAY_USAGE_STATS_ENABLED": "0"}
    own["RAY_gcs_rpc_server_reconnect_timeout_s"] = "3"  # for a head that is gone; a minute is Ray's own
    with variables({**own, "DOCKER_HOST": "unix:///nowhere/docker.sock"}):
        yield folder


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Any]:
    """NODES nodes with room for one run each, the head among them."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "min_worker_port": 0}
    )
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1, wait=False)
        cluster.wait_for_nodes(timeout=60)
        yield cluster
    finally:
        cluster.shutdown()
        for left in Path(tempfile.gettempdir(), f"autoresearch-ci-{os.getuid()}").glob(f"test-{os.getpid()}-*"):
            shutil.rmtree(left)  # by the workers that were killed with their node


def refused(folder: Path, address: str, **wanted: Any) -> MachineError | SettingsError:
    """What an executor says that cannot be entered."""
    with pytest.raises((MachineError, SettingsError)) as caught, Bench(folder, address, **wanted).executor:
        pass
    assert isinstance(caught.value, MachineError | SettingsError)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_where_no_ray_answers(tmp_path: Path, home: Path) -> None:
    """A closed port, and a port on which something else is silent, are one line each, in bounded time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert refused(tmp_path, address, join_s=3.0).message.startswith(f"no Ray answers at {address}")
        assert time.monotonic() - started < 20
    assert refused(tmp_path, address).message == f"no Ray answers at {address}"


def test_what_is_no_address(tmp_path: Path) -> None:
    """Settings are told from machines: what cannot be an address is the settings' error."""
    for address in ("head", "head:99999", "ray://head:10001", "http://head:6379"):
        assert isinstance(refused(tmp_path, address), SettingsError)


def test_no_room(tmp_path: Path, cluster: Any) -> None:
    """More slots than the cluster has room for are refused before anything is started."""
    error = refused(tmp_path, cluster.address, parallel=NODES + 1)
    assert error.message == f"`parallel` is {NODES + 1}, and the cluster has room for {NODES} runs at a time"


def test_nodes_without_an_engine(tmp_path: Path, cluster: Any) -> None:
    """Containers are refused where a node has no engine; so are native runs that nobody has allowed."""
    error = refused(tmp_path, cluster.address, kind="container")
    assert "no container engine answers at DOCKER_HOST" in error.message
    error = refused(tmp_path, cluster.address, kind="auto", allow_native=False)
    assert isinstance(error, SettingsError)
    assert error.message.startswith("native runs need your leave: node ")


@pytest.fixture(scope="module")
def bench(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"), cluster.address)
    with bench.open:
        with variables({"GITHUB_TOKEN": SECRET}):  # as the session has it, and not as who started the cluster
            bench.open.enter_context(bench.executor)
        yield bench


def test_a_run_on_a_node_is_a_run_as_here(bench: Bench) -> None:
    """Its exit code, its log, its variables and its wall are those of the node's executor."""
    run, log = bench.run("import os, socket; print('loss: 0.5', os.environ['MINE']); raise SystemExit(3)")
    assert (run.ending, run.exit_code) == (Ending.EXITED, 3)
    assert log == "loss: 0.5 ä\n"
    assert run.wall_s > 0
    assert len(bench.executor.slots) == NODES
    assert bench.executor.ready.device_class == "cpu"
    assert bench.executor.ready.wall.startswith("bubblewrap")


def test_the_log_streams(bench: Bench) -> None:
    """What a run prints can be read here while it is on."""
    request = bench.request("import time; print('loss: 9', flush=True); time.sleep(2.5); print('loss: 1')")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.executor.run, request, After())
        deadline = time.monotonic() + 30
        while not (request.log.exists() and b"loss: 9\n" in request.log.read_bytes()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not running.done()
        assert running.result(60).exit_code == 0
    assert request.log.read_text() == "loss: 9\nloss: 1\n"


def test_an_interrupt_ends_a_run(bench: Bench) -> None:
    """An interrupt reaches the node at once."""
    started = time.monotonic()
    run, _ = bench.run("import time; time.sleep(50)", After(1.0))
    assert (run.ending, run.exit_code) == (Ending.INTERRUPTED, None)
    assert time.monotonic() - started < 6


def test_outputs_cross_both_ways(bench: Bench) -> None:
    """What a run leaves comes back, and what a run is given is there, and cannot be changed."""
    left = bench.folder / "left"
    left.mkdir()
    script = """\
        import os, pathlib
        folder = pathlib.Path(os.environ['AUTORESEARCH_OUTPUT_DIR'])
        (folder / 'inner').mkdir(); (folder / 'inner' / 'model.bin').write_bytes(b'weights')
        (folder / 'link').symlink_to('/etc/passwd')
    """
    run, log = bench.run(script, outputs=left)
    assert run.exit_code == 0
    assert [path.relative_to(left).as_posix() for path in left.rglob("*") if path.is_file()] == ["inner/model.bin"]
    assert "left out 1 × no regular file" in log
    script = """\
        import os, pathlib
        file = pathlib.Path(os.environ['AUTORESEARCH_OUTPUT_DIR'], 'inner', 'model.bin')
        print(file.read_bytes())
        file.write_bytes(b'other')
    """
    run, log = bench.run(script, given=left)
    assert log.startswith("b'weights'\n")
    assert run.exit_code == 1


def test_no_secret_leaves_the_orchestrator(bench: Bench, cluster: Any) -> None:
    """Neither a run, nor any process above it that it can read, nor Ray's own logs hold a token of ours."""
    script = """\
        import os, pathlib
        print(dict(os.environ))
        for folder in pathlib.Path('/proc').glob('[0-9]*'):
            try:
                print((folder / 'environ').read_bytes())
            except OSError:
                pass
    """
    _, log = bench.run(script)
    assert "AUTORESEARCH_OUTPUT_DIR" in log
    assert SECRET not in log
    assert "GITHUB_TOKEN" not in log
    session = Path(cluster.head_node.get_session_dir_path())
    texts = [path for path in session.rglob("*") if path.is_file() and path.stat().st_size < 2**24]
    assert texts
    assert not [path for path in texts if SECRET.encode() in path.read_bytes()]


def test_no_process_of_the_cluster_or_the_child_has_a_secret(bench: Bench) -> None:
    """The child that speaks to Ray, and the workers, were started with variables that hold no token."""
    seen = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            words = " ".join(process.cmdline())
            if "ray_driver" in words or words.startswith("ray::"):
                assert SECRET not in str(process.environ())
                seen += 1
        except psutil.Error:
            continue
    assert seen > NODES


def test_prepare_runs_on_every_node(bench: Bench) -> None:
    """Each has its own data cache (of the nodes of this machine it is the same folder)."""
    request = bench.request(
        "import os, tempfile; tempfile.mkstemp(dir=os.environ['AUTORESEARCH_CACHE']); print('filled')"
    )
    assert bench.executor.prepare(request, After()).exit_code == 0
    assert request.log.read_text() == "filled\n"
    assert len(list((bench.folder / "cache").iterdir())) == NODES


def test_a_prepare_that_fails_is_told(bench: Bench) -> None:
    """With the log of a node on which it failed."""
    request = bench.request("raise SystemExit('no network')")
    assert bench.executor.prepare(request, After()).exit_code == 1
    assert request.log.read_text() == "no network\n"


def test_another_program_can_be_asked(bench: Bench) -> None:
    """The probe of the platform was asked at the start; any other program is asked then."""
    assert bench.executor.probe("print(6 * 7)") == "42\n"
    with pytest.raises(MachineError, match="^node .*: the probe of"):
        bench.executor.probe("raise SystemExit(1)")
    assert parse_probe(bench.executor.probe(PROBE)).python


def busy_worker(cluster: Any) -> psutil.Process:
    """A worker that makes a run now."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for node in cluster.list_all_nodes():
            (raylet,) = node.all_processes["raylet"]
            for process in psutil.Process(raylet.process.pid).children():
                with suppress(psutil.Error):
                    if process.name().startswith("ray::Worker") and process.children():
                        return process
        time.sleep(0.05)
    raise AssertionError("no worker has a run")


def test_thirty_experiments_and_a_node_that_dies(bench: Bench, cluster: Any) -> None:
    """A node, and a worker of another, are killed in the middle of a run: it is made again, none is lost and none counts twice."""

    def one(number: int) -> tuple[Run, str, float]:
        started = time.monotonic()
        run, log = bench.run(f"import time; print('loss: {number}', flush=True); time.sleep(0.5)", name=f"e{number}")
        return run, log, time.monotonic() - started - run.wall_s

    with ThreadPoolExecutor(NODES) as pool:
        made = [pool.submit(one, number) for number in range(30)]
        while sum(future.done() for future in made) < 6:
            time.sleep(0.02)
        victim = cluster.list_all_nodes()[-1]
        time.sleep(0.3)
        cluster.remove_node(victim, allow_graceful=False)
        while sum(future.done() for future in made) < 14:
            time.sleep(0.02)
        time.sleep(0.3)
        busy_worker(cluster).kill()
        done = [future.result(120) for future in made]
    assert [(run.ending, run.exit_code) for run, _, _ in done] == [(Ending.EXITED, 0)] * 30
    assert [log for _, log, _ in done] == [f"loss: {number}\n" for number in range(30)]
    assert max(beside for _, _, beside in done) > 0.5  # one was begun in vain, or waited for the worker of another


def test_a_node_that_comes_is_used(bench: Bench, cluster: Any) -> None:
    """What is lost is replaced: with a new node, prepared as the others were, there are as many runs at a time as before."""
    prepare = bench.request("import os, tempfile; tempfile.mkstemp(dir=os.environ['AUTORESEARCH_CACHE'])")
    bench.executor.prepare(prepare, After())
    filled = len(list((bench.folder / "cache").iterdir()))
    cluster.add_node(num_cpus=1)
    script = "import time; print('on', flush=True); time.sleep(300)"
    requests = [bench.request(script, name=f"wide{number}", timeout_s=400) for number in range(NODES)]
    end = threading.Event()

    class Until:
        def requested(self) -> bool:
            return end.is_set()

    with ThreadPoolExecutor(NODES) as pool:
        running = [pool.submit(bench.executor.run, request, Until()) for request in requests]
        try:
            deadline = time.monotonic() + 120
            while not all(request.log.exists() and request.log.read_text() == "on\n" for request in requests):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            end.set()
        assert len(list((bench.folder / "cache").iterdir())) == filled + 1
        assert [future.result(60).ending for future in running] == [Ending.INTERRUPTED] * NODES


def test_a_node_with_another_version(tmp_path: Path, cluster: Any) -> None:
    """A node on which this package is another one is named."""
    old = tmp_path / "old" / "autoresearch_ci"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("__version__ = '0.0.1'\n")
    with variables({"PYTHONPATH": str(old.parent)}):
        cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:OLD": 1})
    error = refused(tmp_path, cluster.address, device_class="OLD")
    assert f"cannot import autoresearch-ci {autoresearch_ci.__version__}" in error.message
    assert "pip install" in error.hint


def test_a_ray_of_another_version(tmp_path: Path, cluster: Any) -> None:
    """A cluster of another Ray is refused, with both versions."""
    gcs = ray._raylet.GcsClient(address=cluster.address)
    before = gcs.internal_kv_get(b"CLUSTER_METADATA", b"cluster")
    gcs.internal_kv_put(b"CLUSTER_METADATA", before.replace(ray.__version__.encode(), b"2.9.9"), True, b"cluster")
    try:
        error = refused(tmp_path, cluster.address)
    finally:
        gcs.internal_kv_put(b"CLUSTER_METADATA", before, True, b"cluster")
    assert error.message.startswith("the cluster runs Ray 2.9.9 with Python ")


def test_a_head_that_dies(bench: Bench, cluster: Any, tmp_path: Path) -> None:
    """When the cluster is gone and does not come back, the session is told so in its exit code, and can go on later."""
    bench.open.close()
    last = Bench(tmp_path, cluster.address, parallel=1, device_class="cpu")
    request = last.request("import time; time.sleep(100)", name="last", timeout_s=200)
    with last.executor, ThreadPoolExecutor(1) as pool:
        running = pool.submit(last.executor.run, request, After())
        time.sleep(2)
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        with pytest.raises(MachineError) as caught:
            running.result(120)
    assert caught.value.exit_code == 4
    assert "the session goes on with the same command" in caught.value.hint


class Head:
    """A head with one node, started as people do, at the same address each time."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder, self.options = folder, options
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"]
        command += [
            f"--port={self.address.split(':')[1]}",
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            *self.options,
        ]
        with (self.folder / "head.log").open("ab") as log:
            self.process = psutil.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """As when the machine loses its power."""
        if self.process is None:
            return
        for process in [*self.process.children(recursive=True), self.process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(20)


@pytest.fixture
def head(home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Head]:
    """With the options that a test names."""
    made = Head(tmp_path, *getattr(request, "param", ()))
    made.start()
    try:
        wait_for(lambda: answers(made.address))
        yield made
    finally:
        made.kill()


def answers(address: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(address.split(":")[1])), timeout=1):
        return True
    return False


def test_a_head_that_comes_back(head: Head, tmp_path: Path) -> None:
    """What ran when it was lost is made again, once it is back and its nodes, which may be others, are prepared again."""
    bench = Bench(tmp_path, head.address, patience_s=90.0)
    data = tmp_path / "cache" / "data"
    script = "import os, pathlib, time; print(pathlib.Path(os.environ['AUTORESEARCH_CACHE'], 'data').read_text()); time.sleep(3)"
    request = bench.request(script)
    with bench.executor, ThreadPoolExecutor(1) as pool:
        prepare = bench.request(
            "import os, pathlib; pathlib.Path(os.environ['AUTORESEARCH_CACHE'], 'data').write_text('ready')", "p"
        )
        assert bench.executor.prepare(prepare, After()).exit_code == 0
        shutil.rmtree(prepare.tree)  # as an export is removed after its run
        running = pool.submit(bench.executor.run, request, After())
        wait_for(lambda: request.log.exists() and "ready" in request.log.read_text())
        head.kill()
        data.unlink()
        head.start()
        run = running.result(180)
    assert (run.ending, run.exit_code, request.log.read_text()) == (Ending.EXITED, 0, "ready\n")
    assert 3 <= run.wall_s < 10
    assert not list(tmp_path.glob("*.again.log"))


def test_a_cluster_that_comes_back_and_cannot_be_prepared(head: Head, tmp_path: Path) -> None:
    """No run is made where data is missing: the session ends as if the cluster were gone, and names the log."""
    bench = Bench(tmp_path, head.address, patience_s=20.0)
    with bench.executor:
        fails_later = "import os, pathlib; pathlib.Path(os.environ['AUTORESEARCH_CACHE'], 'once').mkdir()"
        assert bench.executor.prepare(bench.request(fails_later, "p"), After()).exit_code == 0
        head.kill()
        head.start()
        with pytest.raises(MachineError, match="`prepare` failed on the cluster that came back") as caught:
            bench.run("")
    assert caught.value.exit_code == 4
    assert "p.again.log" in caught.value.hint
    assert "FileExistsError" in (tmp_path / "p.again.log").read_text()


# Ray goes on in files when its memory is full, so a full store is one whose disk is full as well.
SMALL = (
    "--object-store-memory=80000000",
    '--system-config={"automatic_object_spilling_enabled":false,"local_fs_capacity_threshold":0.0}',
)
FILL = """
import os, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
held = []
try:
    while True:
        held.append(ray.put(os.urandom(2**20)))
except ray.exceptions.OutOfDiskError:
    print("full", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("head", [SMALL], indirect=True)
def test_an_object_store_that_is_full(head: Head, tmp_path: Path) -> None:
    """Of others' objects: what cannot be sent is tried again, then the session ends so that it can go on; with room it does."""
    bench = Bench(tmp_path, head.address)
    request = bench.request("print('done')")
    (request.tree / "large.bin").write_bytes(os.urandom(3 * 2**20))
    command = [sys.executable, "-c", FILL, head.address]
    with bench.executor, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as filling:
        assert filling.stdout is not None
        try:
            assert filling.stdout.readline() == b"full\n"
            with pytest.raises(MachineError, match="lost 4 times on the cluster: the object store is full") as caught:
                bench.executor.run(request, After())
        finally:
            filling.kill()

        def is_done() -> bool:
            with suppress(MachineError):  # Ray takes its time to notice that whose objects they are has gone
                return bench.executor.run(request, After()).exit_code == 0
            return False

        wait_for(is_done)
    assert caught.value.exit_code == 4
    assert "goes on with the same command" in caught.value.hint
    assert request.log.read_text() == "done\n"
