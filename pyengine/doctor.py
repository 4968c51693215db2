"""`pyengine doctor`: what this installation runs on, and what is wrong with it."""

import importlib
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "Pillow", "typer",
            "rich", "triton", "diffusers", "transformers")  # fmt: skip


def run(as_json: bool = False) -> int:
    """Prints the findings; returns 1 if something is wrong, else 0."""
    facts = examine()
    if as_json:
        print(json.dumps(facts))
    else:
        print("\n".join(lines(facts)))
    return 1 if facts["problems"] else 0


def examine() -> dict[str, Any]:
    """All findings as plain values; `problems` is a list of sentences."""
    problems: list[str] = []
    facts: dict[str, Any] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "versions": versions(),
    }
    facts["cpu_kernels"] = cpu_kernels(problems)
    facts["openmp"] = openmp(problems)
    facts["threads"] = threads(started(facts["cpu_kernels"]))
    facts["cuda"] = cuda(problems)
    facts["models"] = shipped(problems)
    facts["families"] = families()
    facts["problems"] = problems
    return facts


def versions() -> dict[str, str]:
    from . import __version__

    found = {"pyengine": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_kernels(problems: list[str]) -> dict[str, Any]:
    """The compiled module: where it is, the instruction set in use and why the others are not."""
    from .errors import PyengineError
    from .ops import _core

    try:
        module = _core.core()
        reasons = {name: why or "runs here" for name, why in _core.isas().items()}
        forced = os.environ.get("PYENGINE_ISA")
        return {
            "file": module.__file__,
            "isa": _core.isa(),
            "why": f"PYENGINE_ISA={forced}" if forced else "the best one that runs here",
            "isas": reasons,
        }
    except PyengineError as e:
        problems.append(str(e))
        return {"file": None}


def openmp(problems: list[str]) -> list[str]:
    import torch  # noqa: F401 - so that its runtime is loaded

    from .ops._core import openmp_runtimes

    found = openmp_runtimes()
    if len(found) > 1:
        problems.append(
            f"{len(found)} OpenMP runtimes are loaded and compete for the cores: {', '.join(found)}"
        )
    return found


def started(kernels: dict[str, Any]) -> int:
    """Threads of the kernels' pool that exist: they are started when a kernel first wants them."""
    from .ops._core import core

    return 0 if kernels["file"] is None else core().pool_threads()


def threads(pool: int) -> dict[str, Any]:
    """How many torch's loops and our kernels use, and how many of the latter's pool exist."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if k in os.environ}
    return {"torch": torch.get_num_threads(), "cores": cores, "pool": pool, **wanted}


def cuda(problems: list[str]) -> dict[str, Any]:
    """torch's CUDA, our CUDA module and Triton, each with what keeps it from running."""
    import torch

    found: dict[str, Any] = {"torch": torch.version.cuda or "this torch is built without CUDA"}
    if torch.cuda.is_available():
        found["devices"] = [
            f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory >> 30} GB"
            for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ]
    else:
        found["devices"] = []
    try:
        module = importlib.import_module("pyengine._cuda")
        found["module"] = module.__file__
    except ImportError as e:
        found["module"] = f"not built or not loadable ({e})"
    if found["devices"] and versions()["triton"] == "not installed":
        problems.append("there is a CUDA device but no Triton: pip install triton")
    return found


def shipped(problems: list[str]) -> list[str]:
    from .errors import PyengineError
    from .pipelines.loading import NAMED, shipped_folder
    from .weights import resolve

    found = []
    for name in NAMED:
        try:
            checkpoint = resolve(shipped_folder(name))  # not a folder of that name that lies here
            found.append(f"{checkpoint.source}, hash {checkpoint.model_hash[:10]}")
        except PyengineError as e:
            problems.append(str(e))
    return found


def families() -> list[str]:
    """The families of models that can be loaded, those of other packages too."""
    from .pipelines.registry import families as known

    return [family.name for family in known()]


def lines(facts: dict[str, Any]) -> list[str]:
    """The findings to read, a few words a line."""
    kernels, cuda_facts = facts["cpu_kernels"], facts["cuda"]
    out = [
        f"python    {facts['python']} on {facts['platform']}",
        f"cpu       {facts['cpu']}; {facts['threads']['torch']} threads on"
        f" {facts['threads']['cores']} cores",
        "versions  " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
    ]
    if kernels["file"] is None:
        out.append("kernels   the compiled CPU kernels are missing")
    else:
        out.append(f"kernels   {kernels['isa']} ({kernels['why']}), {kernels['file']}")
        out += [f"          {name}: {why}" for name, why in kernels["isas"].items()]
    out.append(
        f"threads   torch: OpenMP; kernels: a pool of {facts['threads']['pool']} of their own;"
        " as many as torch.set_num_threads or OMP_NUM_THREADS says"
    )
    out.append("openmp    " + (", ".join(facts["openmp"]) or "none found"))
    out.append(f"cuda      torch: {cuda_facts['torch']}; module: {cuda_facts['module']}")
    out += [f"          {name}" for name in cuda_facts["devices"] or ["no CUDA device"]]
    out.append("models    " + ("; ".join(facts["models"]) or "none"))
    out.append("families  " + ", ".join(facts["families"]))
    out += [f"problem   {p}" for p in facts["problems"]] or ["all is well"]
    return out
