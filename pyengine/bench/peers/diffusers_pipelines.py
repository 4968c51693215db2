"""diffusers' pipelines on torch, eager, of the folders that ours are read from."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..calls import Call
from ..pictures import timed
from ..worker import Notes, Run


def eager(notes: Notes, *, threads: int, folder: Path, call: Call) -> Run:
    """A call of the pipeline that model_index.json names, in float32; channels_last, what suits
    torch's convolutions best.
    """
    import torch

    torch.set_num_threads(threads)
    _import(folder)
    begin = time.perf_counter()
    pipe = _load(folder)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            cast(Any, part).to(memory_format=torch.channels_last)
    notes["load_seconds"] = time.perf_counter() - begin
    if call.phases:
        return timed(partial(call, pipe), pipe.unet, notes, begin)
    return partial(call, pipe)


def _import(folder: Path) -> None:
    """Everything that loading needs, so that imports are not timed."""
    import diffusers
    import transformers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for log in (diffusers_logging, transformers_logging):
        log.set_verbosity_error()
        log.disable_progress_bar()
    libraries = {"diffusers": diffusers, "transformers": transformers}
    index = _index(folder)
    getattr(diffusers, index["_class_name"])
    for part in index.values():
        if isinstance(part, list) and part[0] in libraries:
            getattr(libraries[part[0]], part[1], None)  # lazily imported


def _load(folder: Path) -> Any:
    import torch
    from diffusers import DiffusionPipeline

    if "text_proj" in _index(folder):
        return _of_parts(folder)
    kind: Any = DiffusionPipeline
    # The call brings the depth that this network would estimate, and a folder may lack it.
    unread = ("depth_estimator", "feature_extractor")
    parts = dict.fromkeys(unread) if unread[0] in _index(folder) else {}
    return kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, **parts)


def _of_parts(folder: Path) -> Any:
    """unCLIP's, one of whose parts diffusers does not find by the library that it saves for it."""
    import diffusers
    import transformers

    module = getattr(diffusers.pipelines, "deprecated", diffusers.pipelines).unclip.text_proj
    index, parts = _index(folder), {}
    for name, part in index.items():
        if isinstance(part, list):
            library = module if name == "text_proj" else {"transformers": transformers}.get(part[0])
            cls = getattr(library or diffusers, part[1])
            parts[name] = cls.from_pretrained(folder / name, local_files_only=True)
    return getattr(diffusers, index["_class_name"])(**parts)


def _index(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return index
