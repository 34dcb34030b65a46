"""Detection and adjustments."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import MachineError
from autoresearch_ci.platforms import Detection, Platform, adjustments, parse_probe, resolve

CPU = Detection(
    source="torch",
    platform=Platform.CPU,
    devices=(),
    device_memory_mb=None,
    torch="2.13.0+cpu",
    cuda=None,
    bf16=False,
    flash_attention=False,
    can_compile=True,
    mig=False,
    unused_devices=(),
    python="3.11.7",
    system="Linux 6.1 x86_64",
    chip="",
    cores=8,
    memory_mb=64_000,
)
CUDA = replace(
    CPU,
    platform=Platform.CUDA,
    devices=("NVIDIA H100",),
    device_memory_mb=80_000,
    torch="2.13.0",
    cuda="12.8",
    bf16=True,
)
MPS = replace(
    CPU, platform=Platform.MPS, devices=("Apple M2 Pro",), chip="Apple M2 Pro", bf16=True, system="Darwin 24 arm64"
)


def answer(**changes: Any) -> str:
    return json.dumps({**CPU.as_dict(), **changes})


def test_what_was_printed_is_what_is_parsed() -> None:
    """A detection survives JSON, also after other output and with a line end."""
    for detection in (CPU, CUDA, MPS):
        assert parse_probe("a warning\n" + json.dumps(detection.as_dict()) + "\n") == detection


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "[]",
        "{}",
        '"text"',
        "[" * 50_000,
        answer(platform="tpu"),
        answer(platform=[]),
        answer(cores="8"),
        answer(cores=True),
        answer(bf16=1),
        answer(devices="NVIDIA"),
        answer(devices=[1]),
        answer(more=1),
        answer(cpus=["0"]),
        answer(cpus=[True]),
        answer(device_ids=["GPU-1"]),
    ],
)
def test_a_bad_answer_is_a_machine_error(text: str) -> None:
    """What is not exactly a probe's answer is refused with a hint, never half read."""
    with pytest.raises(MachineError) as caught:
        parse_probe(text)
    assert caught.value.hint


@given(st.text() | st.dictionaries(st.sampled_from(sorted(CPU.as_dict())), st.none() | st.text()).map(json.dumps))
def test_no_answer_at_all_breaks_the_parser(text: str) -> None:
    """Any text is either a detection or a MachineError."""
    with pytest.raises(MachineError):
        parse_probe(text)


def test_cuda_gets_everything_that_is_there() -> None:
    """On CUDA with all its parts: compile, FlashAttention, bf16 and full batches."""
    adjusted = adjustments(Platform.CUDA, replace(CUDA, flash_attention=True))
    assert adjusted.variables() == {
        "AUTORESEARCH_PLATFORM": "cuda",
        "AUTORESEARCH_DEVICE": "cuda",
        "AUTORESEARCH_COMPILE": "1",
        "AUTORESEARCH_ATTENTION": "flash",
        "AUTORESEARCH_PRECISION": "bf16",
        "AUTORESEARCH_OPTIMIZER_STATE": "native",
        "AUTORESEARCH_BATCH_SCALE": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    assert any("FlashAttention: it is installed" in line for line in adjusted.lines())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"torch": "1.13.1"}, "PyTorch 2.0"),
        ({"torch": None}, "here is none"),
        ({"can_compile": False}, "Triton and a C compiler"),
    ],
)
def test_cuda_compiles_only_where_it_can(changes: dict[str, Any], reason: str) -> None:
    """Without PyTorch 2, Triton or a C compiler torch.compile is off for every caller, and a line says why."""
    adjusted = adjustments(Platform.CUDA, replace(CUDA, **changes))
    assert adjusted.variables()["AUTORESEARCH_COMPILE"] == "0"
    assert adjusted.variables()["TORCH_COMPILE_DISABLE"] == "1"
    assert reason in adjusted.lines()[0]


def test_an_old_card_and_windows_get_less() -> None:
    """Without bf16 in hardware precision is fp32; on Windows the allocator is left alone; a slice is told."""
    adjusted = adjustments(Platform.CUDA, replace(CUDA, bf16=False, mig=True, system="Windows 11 AMD64"))
    assert adjusted.variables()["AUTORESEARCH_PRECISION"] == "fp32"
    assert "PYTORCH_CUDA_ALLOC_CONF" not in adjusted.variables()
    assert "MIG" in adjusted.lines()[-1]


@pytest.mark.parametrize(("memory_mb", "scale"), [(64_000, "0.5"), (16_000, "0.25"), (None, "0.25")])
def test_mps_follows_the_matrix(memory_mb: int | None, scale: str) -> None:
    """On MPS: no compile, SDPA, cast optimizer states, and batches reduced 2–4 times by memory."""
    variables = adjustments(Platform.MPS, replace(MPS, memory_mb=memory_mb)).variables()
    assert variables == {
        "AUTORESEARCH_PLATFORM": "mps",
        "AUTORESEARCH_DEVICE": "mps",
        "AUTORESEARCH_COMPILE": "0",
        "AUTORESEARCH_ATTENTION": "sdpa",
        "AUTORESEARCH_PRECISION": "bf16",
        "AUTORESEARCH_OPTIMIZER_STATE": "float32",
        "AUTORESEARCH_BATCH_SCALE": scale,
        "TORCH_COMPILE_DISABLE": "1",
        "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    }


def test_an_m1_trains_in_fp32() -> None:
    """bf16 is for the M2 and newer; the line names the chip that is here."""
    adjusted = adjustments(Platform.MPS, replace(MPS, chip="Apple M1", bf16=False))
    assert adjusted.variables()["AUTORESEARCH_PRECISION"] == "fp32"
    assert any("here is Apple M1" in line for line in adjusted.lines())


@pytest.mark.parametrize(("memory_mb", "scale"), [(64_000, "0.25"), (8_000, "0.125"), (None, "0.125")])
def test_cpu_follows_the_prose(memory_mb: int | None, scale: str) -> None:
    """On a CPU: no compile (the skill's prose), fp32, batches reduced 4–8 times by memory, and a word about budgets."""
    adjusted = adjustments(Platform.CPU, replace(CPU, memory_mb=memory_mb))
    assert adjusted.variables() == {
        "AUTORESEARCH_PLATFORM": "cpu",
        "AUTORESEARCH_DEVICE": "cpu",
        "AUTORESEARCH_COMPILE": "0",
        "AUTORESEARCH_ATTENTION": "sdpa",
        "AUTORESEARCH_PRECISION": "fp32",
        "AUTORESEARCH_OPTIMIZER_STATE": "native",
        "AUTORESEARCH_BATCH_SCALE": scale,
        "TORCH_COMPILE_DISABLE": "1",
    }
    assert any("short time budget" in line for line in adjusted.lines())


def test_a_forced_cpu_hides_the_gpu() -> None:
    """With `platform = "cpu"` on a GPU machine no script finds the GPU by itself."""
    adjusted = adjustments(resolve("cpu", CUDA), CUDA)
    assert adjusted.variables()["CUDA_VISIBLE_DEVICES"] == ""
    assert adjusted.variables()["AUTORESEARCH_DEVICE"] == "cpu"
    assert "NVIDIA H100 is hidden" in adjusted.lines()[-1]


def test_a_gpu_that_torch_cannot_use_is_told() -> None:
    """A CPU build of torch on a GPU machine trains on the CPU and says what is wasted."""
    assert "NVIDIA L4" in adjustments(Platform.CPU, replace(CPU, unused_devices=("NVIDIA L4",))).lines()[-1]


def test_auto_takes_what_is_there() -> None:
    """`auto` is the detected platform, and a forced one that is there is accepted."""
    assert [resolve("auto", detection) for detection in (CPU, CUDA, MPS)] == ["cpu", "cuda", "mps"]
    assert resolve("cuda", CUDA) is Platform.CUDA


@pytest.mark.parametrize(
    ("setting", "detection", "hint"),
    [
        ("cuda", CPU, "nvidia-smi"),
        ("cuda", replace(CPU, unused_devices=("NVIDIA L4",)), "cannot use NVIDIA L4"),
        ("mps", CPU, "Apple Silicon"),
    ],
)
def test_a_forced_platform_that_is_not_there_is_a_machine_error(setting: str, detection: Detection, hint: str) -> None:
    """What is asked for and missing ends with exit code 4 and a remedy that fits."""
    with pytest.raises(MachineError, match="sees only cpu") as caught:
        resolve(setting, detection)
    assert hint in caught.value.hint


def test_devices_are_named_for_people() -> None:
    """One device by its name, several with their number, a CPU with its cores."""
    assert CUDA.name == "NVIDIA H100"
    assert replace(CUDA, devices=("NVIDIA L4",) * 2).name == "2 × NVIDIA L4"
    assert CPU.name == "CPU, 8 cores"
    assert replace(CPU, chip="AMD EPYC 7763").name == "AMD EPYC 7763, 8 cores"
    assert replace(CPU, cores=1).name == "CPU, 1 core"
