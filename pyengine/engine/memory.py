"""Sizes of memory: as they are written, and of what a pipeline's running pictures hold."""

import re
from typing import Any

import torch

from ..jobs import checks

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}

#: Of the free memory, what evaluations may take: decoding and requests need some, too.
SHARE = 0.8


def read_size(field: str, value: Any) -> int:
    """Bytes of "8GB", "512 MiB" or a number. Raises RequestError."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*", value)
        if found and found[2].upper() in UNITS:
            size = int(float(found[1]) * UNITS[found[2].upper()])
            if size > 0:
                return size
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise checks.refuse(field, 'bytes above 0, such as "8GB"', value)


def free_memory(parts: int = 1) -> int | None:
    """Bytes that evaluations of one of so many engines may take on this machine's CPU; None where
    it does not tell.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            kilobytes = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return int(SHARE * kilobytes * 1024 / parts)


def activation_bytes(pipe: Any) -> int:
    """Of the pipeline's activations since they were last given back to the system (on a GPU: of all
    that was allocated at once since `watch`).
    """
    if pipe.device.type == "cuda":
        return torch.cuda.max_memory_allocated(pipe.device)
    parts = list(pipe.components.values())
    parts += [part.recordings for part in parts if hasattr(part, "recordings")]
    arenas = {id(part.arena): part.arena for part in parts if hasattr(part, "arena")}
    return sum(arena.statistics()["touched"] for arena in arenas.values())


def watch(pipe: Any) -> int:
    """Begins to watch; what activation_bytes has counted before."""
    if pipe.device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(pipe.device)
    return torch.cuda.memory_allocated(pipe.device)


def cache_bytes(pipe: Any) -> int:
    """Of keys and values that jobs hold or may come to hold."""
    decoder = vars(pipe).get("decoder")
    held = getattr(decoder, "held_bytes", 0)
    return held if isinstance(held, int) else 0
