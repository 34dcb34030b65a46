"""The probe, run as the executors run it: a text for another Python."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_ci import probe
from autoresearch_ci.platforms import PROBE, Detection, Platform, parse_probe

# What a CUDA machine's torch answers, as a stand-in for the device: no test machine has one.
CUDA_TORCH = """
from types import SimpleNamespace as N
__version__ = "2.13.0+cu128"
version = N(cuda="12.8")
GPU = N(name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", total_memory=5 * 2**30, major=8)
cuda = N(is_available=lambda: True, device_count=lambda: 2, get_device_properties=lambda index: GPU)
"""
MPS_TORCH = """
from types import SimpleNamespace as N
__version__ = "2.13.0"
version = N(cuda=None)
cuda = N(is_available=lambda: False)
backends = N(mps=N(is_available=lambda: True))
"""
NVML = """
#include <string.h>
int nvmlInit_v2(void) { return FAIL; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(long)(i + 1); return i == 2; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) { strncpy(s, "NVIDIA A100", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) { m[0] = 40ULL << 30; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) { *major = 8; *minor = 0; return 0; }
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *next) { *now = d == (void *)2; return 0; }
#ifndef OLD
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) {
    strncpy(s, d == (void *)1 ? "GPU-1" : d == (void *)7 ? "MIG-7" : "MIG-8", n);
    return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *d, unsigned *n) { *n = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *d, unsigned i, void **m) { *m = (void *)(long)(7 + i); return i > 1; }
#endif
"""


def detect(folder: Path, **variables: str) -> tuple[Detection, str]:
    """What the probe says in a process that finds modules, commands and libraries in `folder` first; and its stderr."""
    environ = {
        "PATH": str(folder),
        "PYTHONPATH": str(folder),
        "LD_LIBRARY_PATH": str(folder),
        **{name: value for name, value in os.environ.items() if name.startswith("COV")},
        **variables,
    }
    command = [sys.executable, str(Path(probe.__file__))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    return parse_probe(done.stdout), done.stderr


def without_torch(folder: Path) -> Path:
    (folder / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    return folder


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_the_text_alone_is_enough() -> None:
    """`python -c <text>` prints one line of JSON that names the installed torch and this machine."""
    torch = pytest.importorskip("torch")
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert len(done.stdout.splitlines()) == 1
    detection = parse_probe(done.stdout)
    assert detection.source == "torch"
    assert detection.torch == str(torch.__version__)
    assert (detection.platform is Platform.CUDA) == torch.cuda.is_available()
    assert detection.memory_mb is not None
    assert detection.memory_mb > 100
    assert detection.cores >= 1


def test_a_broken_torch_is_no_torch(tmp_path: Path) -> None:
    """Where torch cannot be imported the operating system answers, and stderr says what is broken."""
    detection, errors = detect(without_torch(tmp_path))
    assert (detection.source, detection.torch) == ("os", None)
    assert "libtorch_cpu.so" in errors


def test_torch_on_cuda(tmp_path: Path) -> None:
    """With a CUDA torch the devices, their memory, bf16, FlashAttention, the compiler and the slice are seen."""
    (tmp_path / "torch.py").write_text(CUDA_TORCH)
    (tmp_path / "flash_attn.py").touch()
    (tmp_path / "triton.py").touch()
    executable(tmp_path / "gcc", "#!/bin/sh\n")
    detection, _ = detect(tmp_path)
    assert detection.platform is Platform.CUDA
    assert detection.devices == ("NVIDIA A100-SXM4-40GB MIG 1g.5gb",) * 2
    assert detection.device_memory_mb == 5120
    assert detection.cuda == "12.8"
    assert detection.bf16
    assert detection.flash_attention
    assert detection.can_compile
    assert detection.mig


def test_torch_on_mps(tmp_path: Path) -> None:
    """With MPS in torch the platform is mps; a chip of unknown generation has no bf16."""
    (tmp_path / "torch.py").write_text(MPS_TORCH)
    detection, _ = detect(tmp_path)
    assert detection.platform is Platform.MPS
    assert detection.devices
    assert not detection.can_compile


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="builds a library with gcc")
def test_the_drivers_library_answers_without_torch(tmp_path: Path) -> None:
    """NVML by ctypes: names, memory, capability and MIG mode; a device that cannot be opened is passed over."""
    build_nvml(without_torch(tmp_path), fail=0)
    detection, _ = detect(tmp_path)
    assert detection.source == "nvml"
    assert detection.devices == ("NVIDIA A100", "NVIDIA A100")
    assert detection.device_memory_mb == 40 * 1024
    assert detection.bf16
    assert detection.mig
    # Of the sliced card its two instances, and not itself.
    assert detection.device_ids == ("GPU-1", "MIG-7", "MIG-8")
    assert detection.device_names == ("NVIDIA A100",) * 3


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="builds a library with gcc")
def test_a_driver_that_names_no_device_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its devices are known, and cannot be told apart."""
    build_nvml(without_torch(tmp_path), "-DOLD", fail=0)
    detection, _ = detect(tmp_path)
    assert detection.devices == ("NVIDIA A100", "NVIDIA A100")
    assert (detection.device_ids, detection.device_names) == ((), ())


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="builds a library with gcc")
def test_torch_says_which_devices_it_uses(tmp_path: Path) -> None:
    """By its own UUIDs where it has them; of a sliced card the driver knows all instances, and torch one."""
    plain = CUDA_TORCH.replace(" MIG 1g.5gb", "")
    (tmp_path / "torch.py").write_text(plain.replace("major=8", "major=8, uuid='5d5b'"))
    build_nvml(tmp_path, fail=0)
    assert detect(tmp_path)[0].device_ids == ("GPU-5d5b", "GPU-5d5b")
    (tmp_path / "torch.py").write_text(plain)  # an older one: the driver tells of another number of devices
    assert detect(tmp_path)[0].device_ids == ()
    (tmp_path / "torch.py").write_text(CUDA_TORCH.replace("major=8", "major=8, uuid='5d5b'"))
    assert detect(tmp_path)[0].device_ids == ("GPU-1", "MIG-7", "MIG-8")


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="builds a library with gcc")
def test_a_driver_without_a_card_is_no_cuda(tmp_path: Path) -> None:
    """A library that cannot initialise says nothing."""
    build_nvml(without_torch(tmp_path), fail=9)
    assert detect(tmp_path)[0].source == "os"


def build_nvml(folder: Path, *options: str, fail: int) -> None:
    source = folder / "nvml.c"
    source.write_text(NVML)
    library = str(folder / "libnvidia-ml.so.1")
    command = ["gcc", "-shared", "-fPIC", f"-DFAIL={fail}", *options, "-o", library, str(source)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_nvidia_smi_answers_without_the_library(tmp_path: Path) -> None:
    """Where only the command is found, its table is read."""
    executable(without_torch(tmp_path) / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 23034, [N/A]'\necho garbage\n")
    detection, _ = detect(tmp_path)
    assert (detection.source, detection.platform) == ("nvidia-smi", "cuda")
    assert (detection.devices, detection.device_memory_mb, detection.mig) == (("NVIDIA L4",), 23034, False)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_nvidia_smi_lists_the_devices(tmp_path: Path) -> None:
    """Its list names each card by its UUID, and the instances of a sliced one instead of it."""
    executable(
        without_torch(tmp_path) / "nvidia-smi",
        """#!/bin/sh
if [ "$1" = -L ]; then
    echo 'GPU 0: NVIDIA L4 (UUID: GPU-5d5ba0d6-1)'
    echo 'GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9a9b-2)'
    echo '  MIG 1g.5gb     Device  0: (UUID: MIG-c6d4f1ef-1)'
    echo '  MIG 1g.5gb     Device  1: (UUID: MIG-cba663e8-2)'
else
    echo 'NVIDIA L4, 23034, [N/A]'
    echo 'NVIDIA A100-SXM4-40GB, 40960, Enabled'
fi
""",
    )
    detection, _ = detect(tmp_path)
    assert detection.device_ids == ("GPU-5d5ba0d6-1", "MIG-c6d4f1ef-1", "MIG-cba663e8-2")
    assert detection.device_names == ("NVIDIA L4", *("NVIDIA A100-SXM4-40GB MIG 1g.5gb",) * 2)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_an_nvidia_smi_that_fails_says_nothing(tmp_path: Path) -> None:
    """A driver that does not answer is no CUDA."""
    executable(without_torch(tmp_path) / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert detect(tmp_path)[0].source == "os"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_card_that_torch_cannot_use_is_noticed(tmp_path: Path) -> None:
    """A torch without CUDA on a machine with a card: the platform is cpu, and the card is named as unused."""
    (tmp_path / "torch.py").write_text(MPS_TORCH.replace("mps=N(is_available=lambda: True)", ""))
    executable(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 23034, [N/A]'\n")
    detection, _ = detect(tmp_path)
    assert detection.platform is Platform.CPU
    assert detection.unused_devices == ("NVIDIA L4",)


@pytest.mark.parametrize(
    ("chip", "has"), [("Apple M1 Max", False), ("Apple M2", True), ("Apple M10 Ultra", True), ("", False)]
)
def test_bf16_begins_with_the_m2(chip: str, has: bool) -> None:
    """The generation in the chip's name decides about bf16."""
    assert probe.chip_has_bf16(chip) is has


def test_what_the_kernel_does_not_know_is_empty() -> None:
    """A name that is unknown, or a system without sysctl, gives an empty text."""
    assert probe.sysctl("no.such.name") == ""


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="reads what Linux tells of x86")
def test_the_processor_has_its_name() -> None:
    """Two machines with as many cores are told apart."""
    name = probe.processor()
    assert name
    assert f": {name}\n" in Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a core sits")
def test_every_core_is_named_once() -> None:
    """The numbers are those that this process may use, in whatever order the cores sit."""
    if sys.platform != "linux":
        return
    assert sorted(probe.cpus()) == sorted(os.sched_getaffinity(0))
    assert len(probe.cpus()) == probe.cores()
    assert probe.physical(0, "no_such_file", 7) == 7
