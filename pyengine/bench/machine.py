"""What numbers were measured on: the processor, its instruction set, threads, versions."""

import getpass
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__, ops
from ..doctor import cpu_name

PACKAGES = ("torch", "triton", "diffusers", "transformers", "openvino", "ncnn", "flash-kmeans")
#: Settings that change what is measured, shown where they are set.
ENVIRONMENT = (
    "PYENGINE_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS",
    "OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD",
)  # fmt: skip


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def facts(device: str, threads: int) -> dict[str, Any]:
    """Processor, versions and settings by name, for JSON."""
    found: dict[str, Any] = {"cpu": cpu_name(), "cores": cores(), "threads": threads}
    if device.startswith("cuda"):
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    found |= {
        "instruction set": ops.isa(),
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "pyengine": __version__,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found |= {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    return found


def set_up(device: str) -> None:
    """Sets up torch in this process. On a GPU: cuDNN chooses algorithms by timing, and float32 is
    never TF32; our own convolutions ignore both settings.

    torch.compile (2.13) would take from its cache what it made for another ATEN_CPU_CAPABILITY, and
    compute wrong numbers: each value gets a cache of its own.
    """
    if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
        cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{capability}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def peak_memory() -> int:
    """Peak resident bytes of this process, mapped files included; 0 if unknown."""
    try:  # not getrusage, which counts what the parent held before exec
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
