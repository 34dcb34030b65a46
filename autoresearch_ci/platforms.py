"""What the machine is, and what follows for the training: the skill's platform table as concrete variables.

Facts come from `probe.py`, which runs in the environment that trains; here they are read and turned into adjustments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeAlias, assert_never, get_args, get_type_hints

from autoresearch_ci.errors import MachineError

PROBE: Final = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
MAX_ANSWER_CHARACTERS: Final = 65_536

# "Reduce 2–4×" on MPS and "4–8×" on CPU (the skill's matrix): the smaller cut where there is this much memory or more.
MPS_ROOMY_MB: Final = 32 * 1000  # MPS shares the machine's memory with everything else
CPU_ROOMY_MB: Final = 16 * 1000  # "16 GB" machines report a little less than 16 GiB
_REBUILD: Final = "install a build of torch for CUDA that fits the driver"

Value: TypeAlias = str | bool | int | list[str] | list[int] | None


class Platform(StrEnum):
    """What a session trains on."""

    CUDA = "cuda"
    CPU = "cpu"
    MPS = "mps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What the environment that trains can see, as `probe.py` says it.

    `source`: who said it: `torch`, or without torch `nvml`, `nvidia-smi` or `os`. `device_memory_mb`: of the smallest
    device. `cuda`: the CUDA version that torch was built for. `can_compile`: Triton and a C compiler are there, which
    torch.compile needs on CUDA. `mig`: the device is a slice of a card, or a card that is sliced. `unused_devices`:
    NVIDIA devices of the machine that this torch cannot use. `chip`: the CPU's name, of Apple's the whole chip's.
    `cores`, `memory_mb`: what a process may use. `cpus`: the numbers of these cores, siblings side by side; empty where the system
    keeps no process to some of them. `device_ids`: what the driver calls each GPU that can be used, MIG instances one by one, and
    `device_names` their names in the same order; empty where it does not tell.
    """

    source: str
    platform: Platform
    devices: tuple[str, ...]
    device_memory_mb: int | None
    torch: str | None
    cuda: str | None
    bf16: bool
    flash_attention: bool
    can_compile: bool
    mig: bool
    unused_devices: tuple[str, ...]
    python: str
    system: str
    chip: str
    cores: int
    memory_mb: int | None
    cpus: tuple[int, ...] = ()
    device_ids: tuple[str, ...] = ()
    device_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a person calls the device: `NVIDIA H100`, `2 × NVIDIA L4`, `Apple M2 Pro`, `AMD EPYC 7763, 8 cores`."""
        if not self.devices:
            return f"{self.chip or 'CPU'}, {self.cores} core{'' if self.cores == 1 else 's'}"
        return self.devices[0] if len(self.devices) == 1 else f"{len(self.devices)} × {self.devices[0]}"

    def as_dict(self) -> dict[str, Value]:
        """The fields by name, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def parse_probe(text: str) -> Detection:
    """The detection in the last line that the probe printed; MachineError when there is none."""
    lines = text[-MAX_ANSWER_CHARACTERS:].strip().splitlines()
    try:
        facts = json.loads(lines[-1] if lines else "")
        return _detection(facts)
    except (ValueError, RecursionError) as error:
        raise MachineError(
            "the environment that trains gave no usable answer about itself",
            hint="run `autoresearch-ci doctor`; does its `python` start, and is it Python 3.8 or newer?",
        ) from error


def _detection(facts: Any) -> Detection:
    """The facts as a Detection; ValueError when one is missing or of another type than it must be."""
    types = get_type_hints(Detection)
    if not isinstance(facts, dict) or facts.keys() != types.keys():
        raise ValueError("these are not the fields of a probe")
    values: dict[str, Any] = {}
    for name, kind in types.items():
        value = facts[name]
        if kind is Platform:
            values[name] = Platform(value)
        elif kind in (tuple[str, ...], tuple[int, ...]):
            of = get_args(kind)[0]
            if not isinstance(value, list) or not all(type(item) is of for item in value):
                raise ValueError(f"`{name}` is not a list of {of}")
            values[name] = tuple(value)
        elif type(value) not in (get_args(kind) or (kind,)):  # not isinstance: a bool is an int to it
            raise ValueError(f"`{name}` is not of type {kind}")
        else:
            values[name] = value
    if len(values["device_ids"]) != len(values["device_names"]):
        raise ValueError("there are not as many names as devices")
    return Detection(**values)


def resolve(setting: str, detection: Detection) -> Platform:
    """The platform to train on: what was found for `auto`; MachineError when the one asked for is not there."""
    if setting == "auto":
        return detection.platform
    wanted = Platform(setting)
    if wanted is Platform.CPU or wanted is detection.platform:
        return wanted
    if wanted is Platform.CUDA and detection.unused_devices:
        hint = f"its torch {detection.torch} cannot use {detection.unused_devices[0]}: {_REBUILD}"
    elif wanted is Platform.MPS:
        hint = "MPS needs macOS on Apple Silicon, a native run and torch; or set `platform` to `auto`"
    else:
        hint = "check the driver with `nvidia-smi`, or set `platform` to `auto`"
    seen = f"{detection.platform} ({detection.name})"
    raise MachineError(f"`platform` is `{wanted}`, but the environment that trains sees only {seen}", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustments:
    """What the skill's table 1.2 and its compatibility matrix come to on this machine. `reasons`: one sentence each."""

    platform: Platform
    compile: bool
    flash_attention: bool
    bf16: bool
    cast_optimizer_state: bool
    batch_scale: float
    torch_variables: Mapping[str, str]
    reasons: tuple[str, ...]

    def variables(self) -> dict[str, str]:
        """What the script gets: the contract's AUTORESEARCH_ variables, and the variables that torch itself reads."""
        return {
            "AUTORESEARCH_PLATFORM": self.platform.value,
            "AUTORESEARCH_DEVICE": self.platform.value,  # torch's names for the devices are the same three
            "AUTORESEARCH_COMPILE": "1" if self.compile else "0",
            "AUTORESEARCH_ATTENTION": "flash" if self.flash_attention else "sdpa",
            "AUTORESEARCH_PRECISION": "bf16" if self.bf16 else "fp32",
            "AUTORESEARCH_OPTIMIZER_STATE": "float32" if self.cast_optimizer_state else "native",
            "AUTORESEARCH_BATCH_SCALE": f"{self.batch_scale:g}",
            **self.torch_variables,
        }

    def lines(self) -> list[str]:
        """The same for a person, one sentence each, with the reason."""
        return list(self.reasons)


def adjustments(platform: Platform, detection: Detection) -> Adjustments:
    """The adjustments for training on `platform` (which may be less than what was detected: a forced `cpu`)."""
    match platform:
        case Platform.CUDA:
            return _for_cuda(detection)
        case Platform.MPS:
            return _for_mps(detection)
        case Platform.CPU:
            return _for_cpu(detection)
        case _:
            assert_never(platform)


def _for_cuda(detection: Detection) -> Adjustments:
    version = detection.torch or ""
    modern = version.split(".")[0].isdecimal() and int(version.split(".")[0]) >= 2
    compiles = modern and detection.can_compile
    variables = {} if compiles else {"TORCH_COMPILE_DISABLE": "1"}
    if not detection.system.startswith("Windows"):  # the allocator has no expandable segments there and warns
        variables["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if compiles:
        compiling = f"torch.compile is on: PyTorch {version}, Triton and a C compiler are there"
    elif modern:
        compiling = "torch.compile is off: it needs Triton and a C compiler, and one is missing"
    else:
        compiling = f"torch.compile is off: it needs PyTorch 2.0, and here is {version or 'none'}"
    reasons = [
        compiling,
        "attention is FlashAttention: it is installed"
        if detection.flash_attention
        else "attention is PyTorch's SDPA: FlashAttention is not installed",
        "precision is bf16: every device has it in hardware"
        if detection.bf16
        else "precision is fp32: not every device is known to have bf16 in hardware (Ampere is the first that has)",
        "batch sizes are the script's own",
    ]
    if detection.mig:
        reasons.append("the device is a MIG slice: its memory and speed are a part of the card's")
    return Adjustments(
        platform=Platform.CUDA,
        compile=compiles,
        flash_attention=detection.flash_attention,
        bf16=detection.bf16,
        cast_optimizer_state=False,
        batch_scale=1.0,
        torch_variables=variables,
        reasons=tuple(reasons),
    )


def _for_mps(detection: Detection) -> Adjustments:
    roomy = (detection.memory_mb or 0) >= MPS_ROOMY_MB
    return Adjustments(
        platform=Platform.MPS,
        compile=False,
        flash_attention=False,
        bf16=detection.bf16,
        # The skill casts "if Metal errors appear". Nobody watches at night, and the cast costs little: always.
        cast_optimizer_state=True,
        batch_scale=0.5 if roomy else 0.25,
        torch_variables={"TORCH_COMPILE_DISABLE": "1", "PYTORCH_ENABLE_MPS_FALLBACK": "1"},
        reasons=(
            "torch.compile is off: MPS does not support all of its paths",
            "attention is PyTorch's SDPA, with a manual mask for sliding windows: there is no FlashAttention for MPS",
            f"precision is bf16: {detection.chip} has it"
            if detection.bf16
            else f"precision is fp32: bf16 needs an M2 or newer, and here is {detection.chip or 'an unknown chip'}",
            "optimizer states are cast to float32: Metal has no kernels for some mixed types",
            f"device batches are {'halved' if roomy else 'quartered'}: {_memory(detection)} shared with the system",
            "what MPS cannot do falls back to the CPU",
        ),
    )


def _for_cpu(detection: Detection) -> Adjustments:
    roomy = (detection.memory_mb or 0) >= CPU_ROOMY_MB
    reasons = [
        # The skill's prose says "Disable torch.compile", its matrix "Optional". The prose: compiling takes up to
        # a minute of a few cores, which is much of the short budgets that a CPU session has.
        "torch.compile is off: compiling would eat much of a short time budget",
        "attention is PyTorch's SDPA: FlashAttention needs CUDA",
        "precision is fp32: bf16 is slow on most CPUs",
        f"device batches are divided by {4 if roomy else 8}, for {_memory(detection)}: accumulate gradients instead",
        "expect runs 5–10× slower than on a GPU: choose a short time budget",
    ]
    variables = {"TORCH_COMPILE_DISABLE": "1"}
    if detection.platform is Platform.CUDA:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # a script that looks for itself must not take the GPU all the same
        reasons.append(f"{detection.name} is hidden: the platform is set to cpu")
    if detection.unused_devices:
        reasons.append(f"{detection.unused_devices[0]} is there, but this torch cannot use it: {_REBUILD}")
    return Adjustments(
        platform=Platform.CPU,
        compile=False,
        flash_attention=False,
        bf16=False,
        cast_optimizer_state=False,
        batch_scale=0.25 if roomy else 0.125,
        torch_variables=variables,
        reasons=tuple(reasons),
    )


def _memory(detection: Detection) -> str:
    if detection.memory_mb is None:
        return "memory of unknown size"
    return f"{detection.memory_mb / 1024:.0f} GB of memory"
