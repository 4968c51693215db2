"""from_single_file: one .safetensors file, here or on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, RequestError
from ...weights.hub import download_file
from ...weights.text import show

#: Addresses of files on the Hub, as diffusers takes them: with or without host and blob/main.
_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/(?:(?:blob|resolve)/([\w.-]+)/)?([^?:]+\.\w+)")
MAX_YAML = 1 << 20
#: What the original configs of Stable Diffusion say of the noise schedule, and what is read here.
_BETAS = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000}


def load_single(path: Any, keywords: dict[str, Any], wanted: Any) -> Any:
    """See PartNames.from_single_file."""
    from ..loading import load
    from .base import named_model

    path = named_model(path, keywords, "pretrained_model_link_or_path")
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise RequestError(f"path: expected a .safetensors file, given {show(path)}")
    if os.path.isdir(path):
        raise RequestError(
            f"path: expected a file, given a folder, {show(str(path))}; use from_pretrained"
        )
    original = [keywords.pop(n, None) for n in ("original_config", "original_config_file")]
    found = next((value for value in original if value is not None), None)
    if found is not None and keywords.get("prediction_type") is None:
        keywords["prediction_type"] = read_original(found)
    if not os.path.exists(os.path.expanduser(path)):
        path = _fetch(str(path), keywords)
    return load(path, keywords, wanted)


def _fetch(address: str, keywords: dict[str, Any]) -> Path:
    found = _HUB_FILE.fullmatch(_HOST.sub("", address, count=1))
    if found is None:
        raise CheckpointError(
            f"{show(address)}: no such file, and no file on the Hub (organisation/name/file"
            ".safetensors, or its https://huggingface.co address)"
        )
    repo, revision, name = found.groups()
    names = ("cache_dir", "token", "local_files_only", "force_download")
    options: dict[str, Any] = {name: keywords.get(name) for name in names}
    return download_file(repo, name, revision=keywords.get("revision") or revision, **options)


def read_original(config: Any) -> str:
    """The prediction type in an original YAML config (v2-inference-v.yaml and its like); all else
    that it says of Stable Diffusion is in the shapes of the file's tensors.

    Raises RequestError for another noise schedule than Stable Diffusion's, and for no such file.
    """
    text = _read(config)
    for key, usual in _BETAS.items():
        for value in re.findall(rf"^\s*{key}:\s*([\d.e-]+)\s*(?:#.*)?$", text, re.MULTILINE):
            if float(value) != usual:
                raise RequestError(
                    f"original_config: expected Stable Diffusion's {key}, {usual:g}, found"
                    f" {show(value)}; convert the file with diffusers (save_pretrained)"
                )
    said = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    kinds = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}
    scaled = re.search(r"VScalingWithEDMcNoise|VScaling\b", text) is not None
    kind = said[1] if said else "v" if scaled else "eps"
    if kind not in kinds:
        raise RequestError(f"original_config: parameterization is {show(kind)}, expected v or eps")
    return kinds[kind]


def _read(config: Any) -> str:
    if isinstance(config, str | os.PathLike) and os.path.isfile(config):
        if os.path.getsize(config) > MAX_YAML:
            raise RequestError(f"original_config: expected at most {MAX_YAML} bytes")
        return Path(config).read_text(encoding="utf-8", errors="replace")
    raise RequestError(
        f"original_config: expected the path of a YAML file, given {show(config)}; an address is"
        ' not fetched: prediction_type="v_prediction" says what it would'
    )
