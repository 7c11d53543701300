"""The machine and the versions that a figure was taken with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = (
    "convatlas",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "lightning-fabric",
    "pillow",
    "safetensors",
    "scikit-learn",
)


def machine() -> dict[str, Any]:
    """Processor with its instructions, cores, threads, memory in bytes, accelerator (or None) and system.

    Examples:
        >>> sorted(machine())
        ['accelerator', 'cores', 'memory_bytes', 'processor', 'system', 'threads']
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Python and the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            from convatlas import __version__

            found[package] = __version__ if package == "convatlas" else "not installed"
    found["torch"] = torch.__version__  # with the build, e.g. 2.14.1+cu130
    return found


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 numbers itself (AVX512-BF16 or AMX); others convert each of them."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpuinfo("flags").split())


def _processor() -> str:
    """Its name, and the instructions that PyTorch takes: virtual machines call very different processors alike."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}{' with bf16' if has_bf16() else ''})"


def _cpuinfo(field: str) -> str:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return ""
