"""What the Python that runs this text can train on, as one line of JSON.

Executors run this file's text inside the environment that trains (`python -c`, or from stdin), so it stands alone:
standard library only, nothing of this package, torch only if it is there. The fields are `platforms.Detection`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MB = 2**20
NVIDIA_SMI_TIMEOUT_S = 20  # a driver that lost its card answers late or never
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def main() -> None:
    print(json.dumps(detect()))


def detect() -> dict[str, Any]:
    """Everything that is known: what torch says, else the NVIDIA driver, else the operating system."""
    apple_silicon = sys.platform == "darwin" and platform.machine() == "arm64"
    chip = processor()
    facts: dict[str, Any] = {
        "source": "os",
        "platform": "mps" if apple_silicon else "cpu",
        "devices": [chip] if apple_silicon else [],
        "device_memory_mb": None,
        "torch": None,
        "cuda": None,
        "bf16": apple_silicon and chip_has_bf16(chip),
        "flash_attention": False,
        "can_compile": False,
        "mig": False,
        "unused_devices": [],
        "device_ids": [],
        "device_names": [],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "chip": chip,
        "cores": cores(),
        "cpus": cpus(),
        "memory_mb": memory_mb(),
    }
    driver = by_nvml() or by_nvidia_smi()
    by_torch_facts = by_torch(chip)
    if by_torch_facts is None:
        return facts | driver
    if driver and by_torch_facts["platform"] != "cuda":
        by_torch_facts["unused_devices"] = driver["devices"]
    return facts | by_torch_facts | told_apart(by_torch_facts, driver)


def told_apart(by_torch_facts: dict[str, Any], driver: dict[str, Any]) -> dict[str, Any]:
    """The identifiers of the GPUs that torch can use: its own word, else the driver's where that knows the same number.

    Of a sliced card CUDA shows a process one instance only: there the driver knows more.
    """
    if by_torch_facts["platform"] != "cuda" or (by_torch_facts.get("device_ids") and not by_torch_facts["mig"]):
        return {}
    identifiers = driver.get("device_ids", [])
    known = by_torch_facts["mig"] or len(identifiers) == len(by_torch_facts["devices"])
    names = driver.get("device_names", []) if known else []
    return {"device_ids": identifiers if known else [], "device_names": names}


def by_torch(chip: str) -> dict[str, Any] | None:
    """What torch can really use; None when it is not installed, or installed and broken."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs is missing
        if importlib.util.find_spec("torch") is not None:
            print(f"torch is installed and cannot be imported: {error}", file=sys.stderr)
        return None
    facts: dict[str, Any] = {
        "source": "torch",
        "platform": "cpu",
        "devices": [],
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "bf16": False,
        "flash_attention": any(installed(name) for name in ("flash_attn", "flash_attn_interface", "flash_attn_3")),
        "can_compile": has_compiler(),
    }
    if torch.cuda.is_available():
        every = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        facts |= {
            "platform": "cuda",
            "devices": [device.name for device in every],
            "device_memory_mb": min(device.total_memory for device in every) // MB,
            # Ampere (8.0) is the first with bf16 in hardware; `is_bf16_supported` is also true where it is emulated.
            "bf16": all(device.major >= 8 for device in every),
            "mig": any("MIG" in device.name.split() for device in every),
        }
        if all(getattr(device, "uuid", None) for device in every):  # since torch 2.5
            facts["device_ids"] = [f"GPU-{device.uuid}" for device in every]
            facts["device_names"] = [device.name for device in every]
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        facts |= {"platform": "mps", "devices": [chip or "Apple GPU"], "bf16": chip_has_bf16(chip)}
    return facts


def by_nvml() -> dict[str, Any]:
    """What the NVIDIA driver's own library says; empty without the library or without a card."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0:
            return {}
    except (OSError, AttributeError):
        return {}
    try:
        return nvml_facts(nvml)
    except AttributeError:  # a driver from before 2013
        return {}
    finally:
        nvml.nvmlShutdown()


def nvml_facts(nvml: ctypes.CDLL) -> dict[str, Any]:
    class Memory(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    names, sizes, capable, sliced = [], [], [], False
    usable: list[tuple[str, str]] = []
    for index in range(min(count.value, 64)):
        device, memory, name = ctypes.c_void_p(), Memory(), ctypes.create_string_buffer(96)
        major, minor, mode, pending = ctypes.c_int(), ctypes.c_int(), ctypes.c_uint(), ctypes.c_uint()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            continue
        nvml.nvmlDeviceGetName(device, name, 96)
        nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
        with contextlib.suppress(AttributeError):  # since driver 450
            if nvml.nvmlDeviceGetMigMode(device, ctypes.byref(mode), ctypes.byref(pending)) != 0:
                mode.value = 0
        sliced = sliced or mode.value == 1
        with contextlib.suppress(AttributeError):
            usable += [nvml_identity(nvml, each) for each in (instances(nvml, device) if mode.value == 1 else [device])]
        names.append(name.value.decode(errors="replace"))
        sizes.append(memory.total // MB)
        capable.append(major.value >= 8)
    return driver_facts("nvml", names, sizes, bf16=all(capable), mig=sliced, usable=usable)


def nvml_identity(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> tuple[str, str]:
    """The UUID and the name of a GPU or of an instance of one; the UUID is empty where the driver does not tell."""
    uuid, name = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetUUID(device, uuid, 96)
    nvml.nvmlDeviceGetName(device, name, 96)
    return uuid.value.decode(errors="replace"), name.value.decode(errors="replace")


def instances(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> list[ctypes.c_void_p]:
    """The MIG instances of a sliced card."""
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetMaxMigDeviceCount(device, ctypes.byref(count))
    handles = [(index, ctypes.c_void_p()) for index in range(min(count.value, 64))]
    return [h for index, h in handles if nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index, ctypes.byref(h)) == 0]


def by_nvidia_smi() -> dict[str, Any]:
    """What the NVIDIA driver's command says (its library may lie outside the loader's path); empty without one."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    table = said(command, "--query-gpu=name,memory.total,mig.mode.current", "--format=csv,noheader,nounits")
    return smi_facts(table, said(command, "-L") if table else "")


def said(command: str, *arguments: str) -> str:
    """What the driver's command prints; empty when it fails."""
    try:
        return subprocess.run(
            [command, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""


def smi_facts(table: str, listed: str = "") -> dict[str, Any]:
    """The facts in nvidia-smi's lines `name, MiB, MIG mode`, and in those of its list."""
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    rows = [row for row in rows if len(row) == 3 and row[1].isdecimal()]
    return driver_facts(
        "nvidia-smi",
        [row[0] for row in rows],
        [int(row[1]) for row in rows],
        bf16=False,  # not told here; torch says it as soon as it is installed
        mig=any(row[2] == "Enabled" for row in rows),
        usable=smi_usable(listed),
    )


def smi_usable(listed: str) -> list[tuple[str, str]]:
    """The identifiers and names in `nvidia-smi -L`: a card, or its MIG instances below it instead."""
    usable: list[tuple[str, str]] = []
    card = ""
    for line in listed.splitlines():
        if gpu := re.fullmatch(r"GPU \d+: (.+) \(UUID: (GPU-[\w-]+)\)\s*", line):
            card = gpu[1]
            usable.append((gpu[2], card))
        elif mig := re.fullmatch(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[\w/-]+)\)\s*", line):
            if usable and usable[-1][0].startswith("GPU-"):
                usable.pop()
            usable.append((mig[2], f"{card} MIG {mig[1]}"))
    return usable


def driver_facts(
    source: str, names: list[str], sizes_mb: list[int], *, bf16: bool, mig: bool, usable: list[tuple[str, str]]
) -> dict[str, Any]:
    if not names:
        return {}
    if not all(identifier for identifier, _ in usable):
        usable = []
    return {
        "source": source,
        "platform": "cuda",
        "devices": names,
        "device_memory_mb": min(sizes_mb),
        "bf16": bf16,
        "mig": mig,
        "device_ids": [identifier for identifier, _ in usable],
        "device_names": [name for _, name in usable],
    }


def has_compiler() -> bool:
    """Whether torch.compile finds what it generates code with on a GPU: Triton, and a C compiler for its launchers."""
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return installed("triton") and any(name and shutil.which(name) for name in compilers)


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def chip_has_bf16(chip: str) -> bool:
    """Whether the generation of an Apple chip has bf16: from the M2 on."""
    generation = re.match(r"Apple M(\d+)", chip)
    return generation is not None and int(generation[1]) >= 2


def processor() -> str:
    """The name of the CPU, on Apple's machines of the whole chip; empty where the system does not tell."""
    if sys.platform == "darwin":
        return sysctl("machdep.cpu.brand_string")
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return ""


def sysctl(name: str) -> str:
    """A text that the macOS kernel knows by `name`; empty where there is none."""
    try:
        library = ctypes.CDLL(None)
        size, buffer = ctypes.c_size_t(256), ctypes.create_string_buffer(256)
        failed = library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        return ""
    return "" if failed else buffer.value.decode(errors="replace")


def cores() -> int:
    """How many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpus() -> list[int]:
    """The numbers of these cores, those of one physical core side by side; empty where no process can be kept to some."""
    if sys.platform != "linux":
        return []
    return sorted(
        os.sched_getaffinity(0),
        key=lambda cpu: (physical(cpu, "physical_package_id", 0), physical(cpu, "core_id", cpu), cpu),
    )


def physical(cpu: int, name: str, unknown: int) -> int:
    """What Linux tells of where a core sits."""
    try:
        return int(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/{name}").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return unknown


def memory_mb() -> int | None:
    """How much memory this process may use: the machine's, or less where a container's limit says so."""
    sizes = [size for size in (machine_memory(), *cgroup_limits()) if size]
    return min(sizes) // MB if sizes else None


def machine_memory() -> int | None:
    if sys.platform == "win32":
        return windows_memory()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def windows_memory() -> int | None:
    sizes = ("total", "free", "total_page", "free_page", "total_virtual", "free_virtual", "extended")

    class Status(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_ulong) for name in ("length", "load")),
            *((name, ctypes.c_ulonglong) for name in sizes),
        ]

    status = Status(length=ctypes.sizeof(Status))
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 - typeshed knows it on Windows only
    return int(status.total) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def cgroup_limits() -> Iterator[int]:
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit, and no number
            yield int(Path(path).read_text(encoding="ascii"))


if __name__ == "__main__":
    main()
