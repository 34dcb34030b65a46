"""The canary: a training script that attacks the machine it runs on, and says what it managed.

`doctor --sandbox` and the tests put this file's text in the place of the training script and run it as any other, so it
stands alone: standard library only, Python 3.8 or newer. Every attempt is harmless when it succeeds: what it writes is what
was there before, what it makes it removes, of a secret it tells the name and never the value, and nothing is connected to
that could take it for a request. Floods (processes, memory, disk, output) are not tried here; the test suite does that.
"""

# The system's own calls are what is tried.
# ruff: noqa: PTH100, PTH101, PTH104, PTH105, PTH108, PTH109, PTH110, PTH111, PTH112, PTH114, PTH116, PTH118, PTH119, PTH120, PTH123, PTH207, PTH211
from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import sysconfig
import tempfile
from typing import TYPE_CHECKING

assert sys.platform != "win32"  # nothing is sandboxed there
import pwd  # noqa: E402
import resource  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Attempt = Callable[[], str | None]  # what was managed, or nothing; an OSError says why not

MARK = "CANARY "  # before each line of JSON, to tell it from what else a log holds
TIMEOUT_S = 15
CONNECT_TIMEOUT_S = 2
OUTSIDE = "192.0.2.1"  # TEST-NET-1: packets to it go nowhere and annoy nobody (RFC 5737)
METADATA = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200")
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
# Whole words of a name: TOKENIZERS_PARALLELISM is no secret.
SECRET = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?|(API|ACCESS|PRIVATE)_?KEY)(_|$)", re.IGNORECASE
)
STEP_FILES = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")
INITS = ("docker-init", "tini", "catatonit", "dumb-init", "bwrap", "init")  # the first process of a sandbox of our own
MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH = 1, 32, 4096, 2
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PR_GET_NO_NEW_PRIVS, PTRACE_SEIZE = 39, 0x4206
# bpf, perf_event_open, keyctl
SYSTEM_CALLS = {"x86_64": (321, 298, 250), "aarch64": (280, 241, 219)}

ATTEMPTS: dict[str, Attempt] = {}
MADE: list[str] = []  # folders to be removed


def attempt(name: str) -> Callable[[Attempt], Attempt]:
    def register(function: Attempt) -> Attempt:
        ATTEMPTS[name] = function
        return function

    return register


def main() -> None:
    say({"attempts": list(ATTEMPTS)})
    for name, function in ATTEMPTS.items():
        say({"attempt": name, **apart(function)})


def say(fields: dict[str, object]) -> None:
    print("\n" + MARK + json.dumps(fields), flush=True)


def apart(function: Attempt) -> dict[str, object]:
    """The result of an attempt made in a process of its own: it may be killed for it, hang, or spoil its process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(result(function)).encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], TIMEOUT_S)
        told = os.read(reading, 65536) if ready else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not told:
        return {"managed": False, "detail": "was killed" if ready else "got no answer"}
    return dict(json.loads(told))


def result(function: Attempt) -> dict[str, object]:
    try:
        managed = function()
    except OSError as error:
        return {"managed": False, "detail": error.strerror or str(error)}
    finally:
        for folder in MADE:
            shutil.rmtree(folder, ignore_errors=True)
    return {"managed": bool(managed), "detail": (managed or "nothing there")[:300]}


def some(found: list[str]) -> str:
    """The first few of what was found, and how many there are."""
    shown = ", ".join(repr(each)[1:-1] for each in found[:4])
    return shown if len(found) <= 4 else f"{shown} and {len(found) - 4} more"


def secret_names(variables: Iterator[str]) -> list[str]:
    pairs = (variable.partition("=") for variable in variables)
    return sorted(name for name, _, value in pairs if value and SECRET.search(name))


def others() -> list[str]:
    """The folders in /proc of processes that are neither this script's nor the first one of its sandbox."""
    found, own = [], os.getpgrp()
    for folder in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(os.path.basename(folder))
            with open(folder + "/comm") as file:
                first_here = pid == 1 and file.read().strip() in INITS
            if not first_here and os.getpgid(pid) != own:
                found.append(folder)
    return found


@attempt("read a secret in the environment")
def own_environment() -> str:
    return some(secret_names(name + "=" + value for name, value in os.environ.items()))


@attempt("read other processes' environments")
def other_environments() -> str:
    readable, names = 0, set()
    for folder in others():
        with contextlib.suppress(OSError), open(folder + "/environ", errors="replace") as file:
            variables = file.read().split("\0")
            readable += len(variables) > 1
            names.update(secret_names(iter(variables)))
    return f"{readable} processes; names of secrets: {some(sorted(names)) or 'none'}" if readable else ""


@attempt("read other processes' arguments")
def other_arguments() -> str:
    readable = 0
    for folder in others():
        with contextlib.suppress(OSError), open(folder + "/cmdline", "rb") as file:
            readable += bool(file.read(1))
    return f"{readable} processes" if readable else ""


@attempt("read other processes' memory")
def other_memory() -> str:
    readable = 0
    for folder in others():
        with contextlib.suppress(OSError), open(folder + "/mem", "rb"):
            readable += 1
    return f"{readable} processes" if readable else ""


@attempt("trace another process")
def trace() -> str:
    """SEIZE, unlike ATTACH, does not stop it, and ends with this process."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "ptrace") or sys.platform != "linux":
        return ""
    traced = [
        folder for folder in others() if library.ptrace(PTRACE_SEIZE, int(os.path.basename(folder)), None, None) == 0
    ]
    return f"{len(traced)} processes" if traced else ""


@attempt("signal other processes")
def signal_others() -> str:
    reached = 0
    for folder in others():
        with contextlib.suppress(OSError):
            os.kill(int(os.path.basename(folder)), 0)
            reached += 1
    return f"{reached} processes" if reached else ""


def repositories() -> list[str]:
    """The `.git` of every folder above the script and the home folders."""
    here, found = os.path.abspath(__file__), []
    starts = [here, os.getcwd(), *homes(), os.environ.get("GITHUB_WORKSPACE", "/")]
    for start in starts:
        while start != os.path.dirname(start):
            start = os.path.dirname(start)
            found.append(os.path.join(start, ".git"))
    found += [os.path.join(home, ".git") for home in homes()]
    return sorted({path for path in found if os.path.exists(path)})


def homes() -> list[str]:
    """Every home folder; that of the contract is scratch, and empty."""
    folders = {os.path.expanduser("~"), "/root", *glob.glob("/home/*"), *glob.glob("/Users/*")}
    with contextlib.suppress(KeyError):
        folders.add(pwd.getpwuid(os.getuid()).pw_dir)
    return sorted(folders)


@attempt("read a repository's configuration")
def git_configuration() -> str:
    found = []
    for folder in repositories():
        with contextlib.suppress(OSError), open(os.path.join(folder, "config"), errors="replace") as file:
            found.append(
                folder + (" with credentials" if re.search(r"extraheader|//[^/\s]+@", file.read(), re.I) else "")
            )
    return some(found)


@attempt("read credentials in home folders")
def credentials() -> str:
    names = (
        ".ssh/*", ".netrc", ".git-credentials", ".config/git/credentials", ".config/gh/hosts.yml", ".docker/config.json",
        ".aws/credentials", ".config/gcloud/*.json", ".azure/*.json", ".kube/config", ".pypirc", ".npmrc",
        ".cache/huggingface/token", ".wandb*", "actions-runner/.credentials*", "Library/Keychains/*",
    )  # fmt: skip
    found = []
    for path in (path for home in homes() for name in names for path in glob.glob(os.path.join(home, name))):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if file.read(1):
                found.append(path)
    return some(found)


@attempt("see the runner's folders")
def runner_folders() -> str:
    patterns = [
        "/actions-runner", "/opt/actions-runner", "/home/*/actions-runner", "/Users/*/actions-runner", "/home/*/_work",
        "/home/runner/work", "/runner", "/__w", "/__e", "/github/home", "/_work",
    ]  # fmt: skip
    named = [
        os.environ[name] for name in ("RUNNER_TEMP", "RUNNER_WORKSPACE", "RUNNER_TOOL_CACHE") if os.environ.get(name)
    ]
    found = [path for pattern in patterns for path in glob.glob(pattern)]
    return some(found + [path for path in named if os.path.isdir(path)])


@attempt("write to the step's GITHUB_ files")
def step_files() -> str:
    named = [os.environ[name] for name in STEP_FILES if os.environ.get(name)]
    found = [path for home in homes() for path in glob.glob(home + "/**/_runner_file_commands/*")]
    return some([path for path in named + found if os.access(path, os.W_OK)])


@attempt("speak to the container engine")
def engine() -> str:
    home, runtime = os.path.expanduser("~"), os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    paths = [
        "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
        "/run/crio/crio.sock", runtime + "/docker.sock", runtime + "/podman/podman.sock", home + "/.docker/run/docker.sock",
        home + "/.colima/default/docker.sock", os.environ.get("DOCKER_HOST", "").replace("unix://", ""),
    ]  # fmt: skip
    return some([path for path in paths if is_open_socket(path)])


def is_open_socket(path: str) -> bool:
    """Whether a socket is there that this process may connect to. It does not: nobody is to be woken."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode) and os.access(path, os.W_OK)
    except (OSError, ValueError):
        return False


@attempt("ask a cloud's metadata service")
def metadata() -> str:
    return some([address for address in METADATA if connects(address, 80) == "connected"])


def connects(address: str, port: int) -> str:
    """What came of a TCP connection; nothing when no packet could leave."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect((address, port))
        except socket.timeout:  # noqa: UP041 - no TimeoutError before Python 3.10
            return "a packet left"
        except OSError as error:
            if error.errno in NO_ROUTE:
                raise
            return "a packet left"
        return "connected"


@attempt("open a TCP connection to outside")
def tcp() -> str:
    return connects(OUTSIDE, 443)


@attempt("send a UDP packet to outside")
def udp() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.sendto(b"\0", (OUTSIDE, 9))
    return "a packet left"


@attempt("open an IPv6 connection to outside")
def ipv6() -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as packets:
        packets.sendto(b"\0", ("2001:db8::1", 9))  # the documentation's prefix (RFC 3849)
    return "a packet left"


@attempt("ask a name server")
def dns() -> str:
    question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1"
    with open("/etc/resolv.conf", errors="replace") as file:
        servers = re.findall(r"^nameserver\s+([\d.]+)", file.read(), re.MULTILINE)
    for server in servers[:3]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.settimeout(CONNECT_TIMEOUT_S)
            packets.connect((server, 53))
            packets.send(question)
            if packets.recv(512)[:2] == question[:2]:
                return f"{server} answered"
    socket.getaddrinfo("example.com", 443)
    return "example.com has an address"


@attempt("reach services on the machine's loopback")
def loopback() -> str:
    """Those that are listening in this network namespace: nobody but the script should be in it."""
    ports: set[int] = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(path) as file:
            ports.update(
                int(fields[1].rpartition(":")[2], 16) for fields in map(str.split, list(file)[1:]) if fields[3] == "0A"
            )
    return some([f"port {port}" for port in sorted(ports)])


@attempt("reach abstract Unix sockets")
def abstract_sockets() -> str:
    with open("/proc/net/unix", errors="replace") as file:
        names = {line.split()[-1] for line in file if " @" in line}
    return some(sorted(names))


@attempt("reach Unix sockets in the file system")
def path_sockets() -> str:
    patterns = (
        "/run/*",
        "/run/*/*",
        "/run/user/*/*",
        "/var/run/*/*",
        "/tmp/*",
        "/tmp/*/*",
        "/private/tmp/*/*",
        "/dev/log",
    )
    return some(sorted({path for pattern in patterns for path in glob.glob(pattern) if is_open_socket(path)}))


@attempt("open a raw socket")
def raw_sockets() -> str:
    if hasattr(socket, "AF_PACKET"):
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "opened"


@attempt("open a socket to the hypervisor")
def vsock() -> str:
    """AF_VSOCK knows no network namespaces: with it a virtual machine's script speaks to the host of the machine."""
    if not hasattr(socket, "AF_VSOCK"):
        return ""
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return "opened; the default seccomp profile of Docker Engine 23 and newer refuses it"


@attempt("open a socket to the kernel's ciphers")
def cipher_socket() -> str:
    """AF_ALG: by CVE-2026-31431 whoever may open one writes to files of the image that other containers read."""
    if not hasattr(socket, "AF_ALG"):
        return ""
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()
    return "opened; Docker Engine 29.4.3 and newer refuses it by its default profile"


def export() -> list[str]:
    """Files of the commit: this script and what lies beside and below it."""
    folder = os.path.dirname(os.path.abspath(__file__))
    found = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.endswith((".py", ".txt")) and not os.path.islink(path))[:50]


def scratch() -> str:
    """A new folder where the script may write."""
    MADE.append(tempfile.mkdtemp(prefix="canary-"))
    return MADE[-1]


def rewrite(path: str) -> None:
    """Writes the first byte of a file over itself."""
    with open(path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(first)


def on_each_file(change: Callable[[str], None]) -> str:
    """The files of the commit for which `change` went through; the last refusal when there is none."""
    managed, refusal = [], OSError(errno.ENOENT, "nothing there")
    for path in export():
        try:
            change(path)
            managed.append(os.path.basename(path))
        except OSError as error:
            refusal = error
    if not managed:
        raise refusal
    return some(managed)


@attempt("write to a file of the commit")
def write_plainly() -> str:
    return on_each_file(rewrite)


@attempt("change a file's rights and write to it")
def write_after_chmod() -> str:
    def change(path: str) -> None:
        mode = os.stat(path).st_mode
        os.chmod(path, mode | 0o222)
        try:
            rewrite(path)
        finally:
            os.chmod(path, mode)

    return on_each_file(change)


@attempt("rename a file of the commit")
def rename() -> str:
    def change(path: str) -> None:
        os.rename(path, path + ".canary")
        os.rename(path + ".canary", path)

    return on_each_file(change)


def copied(path: str, target: str) -> str:
    with open(path, "rb") as file, open(target, "wb") as copy:
        copy.write(file.read())
    os.chmod(target, stat.S_IMODE(os.stat(path).st_mode) | 0o200)
    return target


@attempt("replace a file of the commit")
def replace() -> str:
    return on_each_file(lambda path: os.replace(copied(path, path + ".canary"), path))


@attempt("put a link in a file's place")
def replace_by_link() -> str:
    def change(path: str) -> None:
        copy, link = copied(path, path + ".canary"), path + ".link"
        try:
            os.symlink(copy, link)
            os.replace(link, path)
            os.replace(copy, path)
        finally:
            for left in (copy, link):
                with contextlib.suppress(OSError):
                    os.unlink(left)

    return on_each_file(change)


@attempt("write through a hard link")
def write_through_hard_link() -> str:
    def change(path: str) -> None:
        link = os.path.join(scratch(), "link")
        try:
            os.link(path, link)
        except OSError:
            link = path + ".link"
            os.link(path, link)
        try:
            rewrite(link)
        finally:
            os.unlink(link)

    return on_each_file(change)


@attempt("write through a symbolic link")
def write_through_symbolic_link() -> str:
    def change(path: str) -> None:
        link = os.path.join(scratch(), "link")
        os.symlink(path, link)
        rewrite(link)

    return on_each_file(change)


@attempt("write through /proc/self/fd")
def write_through_descriptor() -> str:
    def change(path: str) -> None:
        with open(path, "rb") as file:
            rewrite(f"/proc/self/fd/{file.fileno()}")

    return on_each_file(change)


@attempt("write through /proc/self/root")
def write_through_root() -> str:
    def change(path: str) -> None:
        for root in ("/proc/1/root", "/proc/self/root"):
            rewrite(root + path)

    return on_each_file(change)


def refused() -> OSError:
    """What the last call of the C library ended with."""
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str | None, target: str, flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if (
        library.mount(os.fsencode(source) if source else None, os.fsencode(target), None, ctypes.c_ulong(flags), None)
        != 0
    ):
        raise refused()


def unmount(target: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if library.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise refused()


@attempt("mount a file again, writable")
def remount() -> str:
    def change(path: str) -> None:
        mount(None, path, MS_REMOUNT | MS_BIND)
        try:
            rewrite(path)
        finally:
            mount(None, path, MS_REMOUNT | MS_BIND | MS_RDONLY)

    return on_each_file(change)


@attempt("mount something over a file")
def bind() -> str:
    def change(path: str) -> None:
        mount(copied(path, os.path.join(scratch(), "copy")), path, MS_BIND)
        unmount(path)

    return on_each_file(change)


@attempt("write to the data cache")
def write_to_cache() -> str:
    folder = os.environ.get("AUTORESEARCH_CACHE", "")
    if not folder:
        return ""
    for path in glob.glob(folder + "/*")[:50]:
        with contextlib.suppress(OSError):
            rewrite(path)
            return some([path])
    return touch(folder)


def touch(folder: str) -> str:
    path = os.path.join(folder, ".canary-was-here")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
    os.unlink(path)
    return folder


def touched(folders: list[str]) -> str:
    """Those of the folders in which a file can be made; the last refusal when there is none."""
    managed, refusal = [], OSError(errno.ENOENT, "nothing there")
    for folder in sorted(set(folders)):
        try:
            managed.append(touch(folder))
        except OSError as error:
            refusal = error
    if not managed:
        raise refusal
    return some(managed)


@attempt("write outside the scratch folders")
def write_outside() -> str:
    own = [
        os.path.realpath(os.environ[name])
        for name in ("HOME", "TMPDIR", "AUTORESEARCH_OUTPUT_DIR")
        if name in os.environ
    ]
    folders = [
        "/", "/etc", "/usr", "/usr/local/bin", "/usr/local/lib", "/var", "/var/tmp", "/var/lib", "/opt", "/srv", "/mnt", "/media",
        "/home", "/root", "/run", "/dev", "/boot", "/sys", "/Library", "/Applications", "/Users/Shared", *homes(),
    ]  # fmt: skip
    above = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    while above != os.path.dirname(above):
        folders.append(above)
        above = os.path.dirname(above)
    folders = [os.path.realpath(folder) for folder in folders if os.path.isdir(folder)]
    return touched([folder for folder in folders if folder not in own and folder not in ("/tmp", "/private/tmp")])


@attempt("plant code that the next Python starts")
def plant_startup() -> str:
    """Where sitecustomize.py and .pth files are read, and where the standard library and its caches lie."""
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("purelib", "platlib", "stdlib", "scripts")] + sys.path[1:]
    return touched([folder for folder in folders if os.path.isdir(folder)])


@attempt("plant a git hook")
def plant_hook() -> str:
    return touched([os.path.join(folder, "hooks") for folder in repositories()])


def own_status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        pairs = [line.partition(":") for line in file]
    return {name: value.strip() for name, _, value in pairs}


@attempt("use a capability")
def capabilities() -> str:
    status = own_status()
    names = ["CapEff", "CapPrm", "CapInh", "CapAmb"] + (["CapBnd"] if status.get("NoNewPrivs") == "0" else [])
    return some(["{}={}".format(name, status[name].lstrip("0")) for name in names if int(status[name], 16)])


@attempt("gain privileges by a setuid program")
def new_privileges() -> str:
    if sys.platform != "linux":
        return "nothing forbids it"
    return "" if ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 else "nothing forbids it"


@attempt("become root")
def become_root() -> str:
    os.setuid(0)
    return f"uid {os.getuid()}"


@attempt("make a user namespace")
def user_namespace() -> str:
    return unshared(CLONE_NEWUSER)


@attempt("make a mount namespace")
def mount_namespace() -> str:
    return unshared(CLONE_NEWNS)


def unshared(flag: int) -> str:
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "unshare"):
        return ""
    if library.unshare(flag) != 0:
        raise refused()
    return "made"


@attempt("make a device")
def make_device() -> str:
    path = os.path.join(scratch(), "device")
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))
    os.unlink(path)
    return "made"


@attempt("raise its limits")
def raise_limits() -> str:
    raised = []
    for name in ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_MEMLOCK"):
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        if hard != resource.RLIM_INFINITY:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (hard, hard + 1))
                raised.append(name)
    return some(raised)


@attempt("raise its control group's limits")
def raise_group_limits() -> str:
    names = (
        "memory.max",
        "pids.max",
        "cpu.max",
        "memory/memory.limit_in_bytes",
        "pids/pids.max",
        "cpu/cpu.cfs_quota_us",
    )
    managed, refusal = [], OSError(errno.ENOENT, "nothing there")
    for path in ("/sys/fs/cgroup/" + name for name in names):
        try:
            with open(path) as file:
                value = file.read()
            with open(path, "w") as file:
                file.write(value)
            managed.append(path)
        except OSError as error:
            refusal = refusal if error.errno == errno.ENOENT else error
    if not managed:
        raise refusal
    return some(managed)


@attempt("read the machine's memory")
def machine_memory() -> str:
    return readable(["/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port"])


@attempt("read the machine's disks")
def disks() -> str:
    patterns = ("/dev/sd*", "/dev/vd*", "/dev/xvd*", "/dev/nvme*n*", "/dev/dm-*", "/dev/mapper/*", "/dev/disk*")
    return readable([path for pattern in patterns for path in glob.glob(pattern)])


def readable(paths: list[str]) -> str:
    found = []
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            if file.read(16):
                found.append(path)
    return some(found)


@attempt("change the machine's kernel settings")
def kernel_settings() -> str:
    """By core_pattern and its like a script has the kernel start a program as root, outside of every sandbox."""
    managed = []
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/sys/kernel/uevent_helper"):
        with contextlib.suppress(OSError):
            with open(path) as file:
                value = file.read()
            with open(path, "w") as file:
                file.write(value)
            managed.append(path)
    for path in ("/proc/sysrq-trigger", *glob.glob("/sys/fs/cgroup/*/release_agent")):
        if os.path.exists(path):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY))
                managed.append(path)
    return some(managed)


@attempt("use the kernel's key rings, perf events or bpf")
def kernel_interfaces() -> str:
    numbers = SYSTEM_CALLS.get(os.uname().machine)
    if sys.platform != "linux" or numbers is None:
        return ""
    library = ctypes.CDLL(None, use_errno=True)
    bpf, perf_event_open, keyctl = numbers
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0), 112)  # a software event of this process
    calls: dict[str, Callable[[], int]] = {
        "bpf": lambda: library.syscall(bpf, 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1), 128), 128),
        "perf events": lambda: library.syscall(perf_event_open, attributes, 0, -1, -1, 0),
        "key rings": lambda: library.syscall(keyctl, 0, -3, 0, 0, 0),
    }
    return some([name for name, call in calls.items() if call() >= 0])


if __name__ == "__main__":
    main()
