"""What a device is and what it does well."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from intarsia_server.engine.device_info import DeviceInfo, resident_memory
from intarsia_server.engine.request import Precision

MOST_OF_MEMORY = 0.8
"""Of a device's memory, for one worker; the system, and what an estimate is off, need the rest."""


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """FP32 or BF16; AUTO takes BF16 only where the hardware multiplies it: elsewhere it is slower than FP32."""
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
    return Precision.BF16 if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else Precision.FP32


def torch_dtype(precision: Precision) -> torch.dtype:
    """The dtype of a resolved precision."""
    return {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}[precision]


def describe_device(device: torch.device) -> DeviceInfo:
    """Name, model, memory and threads of a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return DeviceInfo(str(device), properties.name, properties.total_memory, 0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return DeviceInfo(str(device), _cpu_model(), memory, torch.get_num_threads())


def memory_allowed(device: torch.device) -> int | None:
    """Bytes that a worker may hold there: most of what the device has, the same at every start; None: not known."""
    return round(MOST_OF_MEMORY * describe_device(device).memory_bytes) or None


def memory_held(device: torch.device) -> int:
    """Bytes that this process holds on a GPU, or in the computer's memory (0: not known)."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return resident_memory("self")


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpu_line("flags").split())


def _cpu_model() -> str:
    return _cpu_line("model name") or "CPU"


def _cpu_line(key: str) -> str:
    """A line of the first processor in /proc/cpuinfo; empty where there is none (torch has no public call for it)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")
